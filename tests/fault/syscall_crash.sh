#!/usr/bin/env bash
# kill -9 of one rank of a real run right before its k-th call that changes something below output_dir, for every k: while it
# claims the folder, resumes, truncates its log, trains, saves, collects and writes the adapter. Each time a plain start must go on
# and end with the same bits. A run that resumes at step 1 and ends at step 3 with a save at each step and save_total_limit 1.
#   LORAD_CRASH_LONG=1   all calls of both ranks, and again with writes torn (default: some)
#   LORAD_CRASH_SHARE=N  about N calls of each rank (default 4)
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
crash=$LORAD_TEST_BUILD/preload/libcrash.so
[ -e "$crash" ] || { echo "skipped: $crash is not built (sanitizers want to be loaded first)"; exit 77; }

start() { # NAME STEPS KEY=VALUE...: mpirun of a run into $work/NAME
    local name=$1 steps=$2
    shift 2
    timeout 120 mpirun -np 2 --oversubscribe --bind-to none "$@" "$lorad" --config configs/quickstart.yaml \
        --set output_dir="$work/$name" --set cache_dir="$work/cache" --set overwrite_output_dir=false \
        --set resume_from_checkpoint=auto --set tensor_parallel_size=2 --set max_steps="$steps" --set cutoff_len=64 \
        --set global_batch_size=1 --set lora_rank=2 --set save_strategy=steps --set save_steps=1 --set save_total_limit=1 \
        --set logging_steps=1 --set eval_strategy=no --set eval_file= --set load_best_model_at_end=false \
        --set lr_scheduler_type=constant --set warmup_ratio=0 >"$work/$name.log" 2>&1 </dev/null
}
result() { # NAME
    field "$work/$1/logs/metrics.jsonl" loss
    field "$work/$1/logs/metrics.jsonl" grad_norm
    sha256sum <"$work/$1/adapter_model.safetensors"
}

# The first step, which every run goes on from; and what the end has to be.
start base 1 || { cat "$work/base.log"; fail "the first step failed"; }
cp -a "$work/base" "$work/whole"
start whole 3 || { cat "$work/whole.log"; fail "the undisturbed run failed"; }
result whole >"$work/whole.txt"
[ "$(wc -l <"$work/whole.txt")" = 7 ] || { cat "$work/whole.txt"; fail "three losses, three norms and an adapter are wanted"; }

crashes=0
# crash_at RANK K TORN: prints nothing; fails when the run after the crash does not end as the undisturbed one.
crash_at() {
    rm -rf "$work/run"
    cp -a "$work/base" "$work/run"
    start run 3 -x LD_PRELOAD="$crash" -x LORAD_CRASH_DIR="$work/run" -x LORAD_CRASH_RANK="$1" -x LORAD_CRASH_AT="$2" \
        -x LORAD_CRASH_TORN="$3" -x LORAD_CRASH_COUNT="$work/count"
    local code=$?
    [ "$2" = 0 ] && return $code
    [ $code = 0 ] || crashes=$((crashes + 1))
    start run 3 || { cat "$work/run.log"; fail "rank $1, call $2, torn $3: the next start failed"; }
    result run >"$work/run.txt"
    cmp -s "$work/whole.txt" "$work/run.txt" ||
        { diff "$work/whole.txt" "$work/run.txt"; fail "rank $1, call $2, torn $3: the run ends otherwise"; }
}

for rank in 0 1; do
    crash_at $rank 0 0 || { cat "$work/run.log"; fail "the counting run failed"; }
    n=$(head -n 1 "$work/count")
    echo "rank $rank: $n calls: $(tail -n +2 "$work/count" | sort | uniq -c | tr -s ' \n' ' ')"
    [ "$n" -gt 10 ] || fail "only $n calls of rank $rank were seen"
    step=$((n / ${LORAD_CRASH_SHARE:-4}))
    [ "$step" -ge 1 ] && [ -z "${LORAD_CRASH_LONG:-}" ] || step=1
    for ((k = 1 + (rank + 1) * step / 3; k <= n; k += step)); do crash_at $rank "$k" $((k % 2)); done
    if [ -n "${LORAD_CRASH_LONG:-}" ]; then
        for ((k = 1; k <= n; k++)); do crash_at $rank "$k" $(((k + 1) % 2)); done
    fi
done
echo "$crashes runs were killed before one of their calls; every next start ended with the same losses, norms and adapter"
[ $crashes -gt 5 ] || fail "hardly any run was killed"
exit 0
