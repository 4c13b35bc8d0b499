#!/usr/bin/env bash
# USR1 to mpirun: the step is finished, a checkpoint committed, code 75, and the same command goes on. USR2: a checkpoint,
# and training goes on. TERM to a plain lorad is like USR1; a second INT ends it at once.
set -u
program=$1
cd "$2" || exit 1
command -v mpirun >/dev/null || { echo "skipped: mpirun is not installed"; exit 77; }
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
tmp=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null; rm -rf "$tmp"' EXIT
export OMP_NUM_THREADS=1
status=0
common=(--config configs/quickstart.yaml --set "output_dir=$tmp/run" --set overwrite_output_dir=false
    --set resume_from_checkpoint=auto --set eval_file= --set eval_strategy=no --set load_best_model_at_end=false
    --set save_strategy=no --set global_batch_size=2 --set cutoff_len=128 --set logging_steps=1 --set progress=lines)

fail() {
    echo "$1"
    tail -n 6 "$tmp/log"
    status=1
}
# wait_for WORDS: until the log holds them
wait_for() {
    for _ in $(seq 300); do
        grep -qE -- "$1" "$tmp/log" && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    fail "the log never said: $1"
}
# start COMMAND...: in the background, with SIGINT as an interactive shell would have it
start() {
    : >"$tmp/log"
    (trap - INT; exec env --default-signal=INT "$@") >"$tmp/log" 2>&1 </dev/null &
    pid=$!
}
ends_with() {
    wait "$pid"
    local code=$?
    pid=
    [ $code = "$1" ] || fail "$2: expected code $1, got $code"
}

start mpirun -q --oversubscribe -np 2 "$program" "${common[@]}" --set max_steps=100000
wait_for "step 2/"
kill -USR2 "$pid"
wait_for "checkpoint of step"
steps=$(grep -c "step [0-9]*/" "$tmp/log")
for _ in $(seq 100); do
    [ "$(grep -c "step [0-9]*/" "$tmp/log")" -gt $((steps + 1)) ] && break
    sleep 0.1
done
[ "$(grep -c "step [0-9]*/" "$tmp/log")" -gt $((steps + 1)) ] || fail "training did not go on after USR2"
kill -USR1 "$pid"
ends_with 75 "USR1 to mpirun"
[ "$(grep -c "checkpoint of step" "$tmp/log")" -ge 2 ] || fail "USR1 wrote no checkpoint"

start "$program" "${common[@]}" --set max_steps=100000
wait_for "continuing from"
wait_for "step [0-9]+/"
kill -TERM "$pid"
ends_with 75 "TERM to lorad"

start "$program" "${common[@]}" --set max_steps=100000
wait_for "step [0-9]+/"
kill -INT "$pid"
kill -INT "$pid"
wait "$pid"
code=$?
pid=
[ $code = 130 ] || [ $code = 75 ] || fail "INT twice: expected code 130 (or 75, if both arrived as one), got $code"
# A run that was stopped and continued has the bits of one that was not.
whole=("${common[@]}" --set "output_dir=$tmp/whole" --set max_steps=30 --set lora_dropout=0.1 --set tensor_parallel_size=2)
mpirun -q --oversubscribe -np 2 "$program" "${whole[@]}" >"$tmp/log" 2>&1 </dev/null || fail "the uninterrupted run failed"
parts=("${whole[@]}" --set "output_dir=$tmp/parts")
start mpirun -q --oversubscribe -np 2 "$program" "${parts[@]}"
wait_for "step [3-9]/"
kill -USR1 "$pid"
ends_with 75 "USR1 in the middle"
mpirun -q --oversubscribe -np 2 "$program" "${parts[@]}" >"$tmp/log" 2>&1 </dev/null || fail "the continued run failed"
grep -q "continuing from" "$tmp/log" || fail "the run was not continued"
for run in whole parts; do
    sed -E 's/.*("step": [0-9]+).*("loss": [^,]*).*("grad_norm": [^,]*).*("total_tokens": [^,]*).*/\1 \2 \3 \4/' \
        "$tmp/$run/logs/metrics.jsonl" >"$tmp/$run.txt"
done
[ "$(wc -l <"$tmp/whole.txt")" = 30 ] || fail "not 30 steps"
cmp "$tmp/whole.txt" "$tmp/parts.txt" || fail "losses differ after USR1 and a continued run"
cmp "$tmp/whole/adapter_model.safetensors" "$tmp/parts/adapter_model.safetensors" || fail "the adapters differ"
exit $status
