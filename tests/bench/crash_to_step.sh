#!/usr/bin/env bash
# How long a crash costs on the demo: from kill -9 of a random rank under `lorad run` to the end of the next step that is
# trained. usage: tests/bench/crash_to_step.sh build/lorad . [CRASHES (40) [RANKS (2)]]
. "$(dirname "$0")/../support/lib.sh"
. tests/support/supervise.sh
unset OMP_NUM_THREADS OMPI_MCA_hwloc_base_binding_policy
crashes=${3:-40} n=${4:-2}
"$lorad" check --config configs/quickstart.yaml --set output_dir="$work/run" --set cache_dir="$work/cache" >/dev/null 2>&1 ||
    fail "the demo's rows cannot be prepared"
mkfifo "$work/lines"
"$lorad" run -np "$n" --restarts 100000 --config configs/quickstart.yaml --set output_dir="$work/run" \
    --set cache_dir="$work/cache" --set overwrite_output_dir=false --set max_steps=1000000 --set logging_steps=1 \
    --set progress=lines --set save_strategy=steps --set save_steps=1 --set save_total_limit=3 --set eval_strategy=no \
    --set eval_file= --set load_best_model_at_end=false >"$work/lines" 2>&1 </dev/null &
job=$!
summary() {
    sort -n "$work/us" | awk '{ s[NR] = $1 / 1e6 } END {
        printf "crash to the end of the next step, %d crashes: p50 %.2f s, p95 %.2f s, most %.2f s\n", NR,
            s[int((NR + 1) / 2)], s[int(NR * 0.95 + 0.999)], s[NR] }'
}
: >"$work/us"
# Also when it is ended early.
trap 'kill -9 $job 2>/dev/null; wait $job 2>/dev/null; [ ! -s "$work/us" ] || summary; rm -rf "$work"' EXIT
trap 'exit 1' TERM INT

now_us() { echo "${EPOCHREALTIME/[.,]/}"; }
waiting=no since=0 goal=5 crashed=0
while read -r line; do
    case $line in
    *"are gone"*) echo "$line" ;;
    *"Starting it again"*) [ $waiting = no ] || waiting=started ;;
    *"step "[0-9]*/*)
        if [ $waiting = started ]; then
            echo $(($(now_us) - t0)) >>"$work/us"
            waiting=no since=0 goal=$((3 + RANDOM % 5))
            [ "$crashed" -lt "$crashes" ] || break
        fi
        since=$((since + 1))
        [ $waiting = no ] && [ $since -ge $goal ] || continue
        victim=$(rank_pids | shuf -n 1)
        [ -n "$victim" ] || continue
        t0=$(now_us)
        kill -9 "$victim"
        waiting=killed crashed=$((crashed + 1))
        ;;
    esac
done <"$work/lines"
[ -s "$work/us" ] || fail "no crash was measured"
kill -TERM $job
wait $job 2>/dev/null
