#!/usr/bin/env bash
# USR1 to mpirun: the step is finished, a checkpoint committed, code 75, and the same command goes on. USR2: a checkpoint,
# and training goes on. TERM and HUP to a plain lorad are like USR1; a second INT ends it at once. In every phase, whichever
# rank hears it. LORAD_STOPS (default 6): stops at random times.
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

# ---- in every phase, whichever rank hears it ----

rank() { # NUMBER: its process
    local p
    for p in $(pgrep -f "^$program --config .*output_dir=$tmp/"); do
        tr '\0' '\n' <"/proc/$p/environ" | grep -qx "OMPI_COMM_WORLD_RANK=$1" && echo "$p"
    done
}
committed() { compgen -G "$tmp/$1/ckpt/*/MANIFEST.json" | wc -l; }
# soon SECONDS CODE WHAT: the end comes within that time
soon() {
    local begin=${EPOCHREALTIME/[.,]/}
    ends_with "$2" "$3"
    [ $((${EPOCHREALTIME/[.,]/} - begin)) -le $(($1 * 1000000)) ] || fail "$3: took $((${EPOCHREALTIME/[.,]/} - begin)) us"
}

# While rows are prepared, which takes long: nothing is trained, and what is prepared is kept.
for i in $(seq 40); do cat tests/data/finance-zh/fin_stage1_general.jsonl; done >"$tmp/more.jsonl"
for i in $(seq 6); do cat "$tmp/more.jsonl"; done >"$tmp/many.jsonl"
for who in "rank 1" "rank 0"; do
    rm -rf "$tmp/prepare"
    start mpirun -q --oversubscribe -np 2 "$program" "${common[@]}" --set "output_dir=$tmp/prepare" --set "dataset=$tmp/many.jsonl" \
        --set num_train_epochs=1
    wait_for "all rows are prepared before the first step"
    sleep 0.3
    kill -USR1 "$($who)"
    soon 5 75 "USR1 to $who while rows are prepared"
    grep -q "before the first step: nothing is lost" "$tmp/log" || fail "$who: not said that nothing is lost"
    ! grep -q "step 1/" "$tmp/log" || fail "$who: a step was trained all the same"
done

# While it evaluates: the evaluation is owed, and comes first when the run goes on.
head -n 200 tests/data/finance-zh/fin_heldout.jsonl >"$tmp/eval.jsonl" # seconds, of which the first holds the signal
eval=("${common[@]}" --set "eval_file=$tmp/eval.jsonl" --set eval_strategy=steps --set eval_steps=2 --set max_steps=3
    --set lora_dropout=0.1 --set per_device_eval_batch_size=1)
mpirun -q --oversubscribe -np 2 "$program" "${eval[@]}" --set "output_dir=$tmp/eval" >"$tmp/log" 2>&1 </dev/null || fail "eval"
start mpirun -q --oversubscribe -np 2 "$program" "${eval[@]}" --set "output_dir=$tmp/owed"
wait_for "step 2/"
sleep 0.1
kill -USR1 "$(rank 1)"
soon 3 75 "USR1 to rank 1 in an evaluation"
grep -q "stopped on request after step 2" "$tmp/log" || fail "not stopped after step 2"
grep -q '"evaluation_owed": *true' "$tmp"/owed/ckpt/*/MANIFEST.json || fail "the evaluation is not owed"
# Continued in another folder and stopped in it at once, that folder holds a checkpoint.
start mpirun -q --oversubscribe -np 2 "$program" "${eval[@]}" --set "output_dir=$tmp/elsewhere" \
    --set "resume_from_checkpoint=$tmp/owed/checkpoint-2"
for _ in $(seq 500); do "$program" status "$tmp/elsewhere" --json 2>/dev/null | grep -q '"phase": *"evaluating"' && break; done
kill -USR1 "$(rank 1)"
soon 3 75 "USR1 in an evaluation that was owed"
grep -q "stopped on request after step 2" "$tmp/log" || fail "not stopped after step 2, in another folder"
[ "$(committed elsewhere)" = 1 ] || fail "nothing was saved in the other folder"
grep -q '"event":"resumed"' "$tmp/elsewhere/logs/events.jsonl" || fail "not told that the run was resumed"
for folder in owed elsewhere; do
    mpirun -q --oversubscribe -np 2 "$program" "${eval[@]}" --set "output_dir=$tmp/$folder" >"$tmp/log" 2>&1 </dev/null || fail "$folder"
    cmp "$tmp/eval/adapter_model.safetensors" "$tmp/$folder/adapter_model.safetensors" || fail "$folder: another adapter"
done
for run in eval owed; do
    grep -oE '"(step|loss|eval_loss|grad_norm)": ?[^,}]*' "$tmp/$run/logs/metrics.jsonl" >"$tmp/$run.txt"
done
[ "$(grep -c eval_loss "$tmp/eval.txt")" -ge 1 ] || fail "nothing was evaluated"
cmp "$tmp/eval.txt" "$tmp/owed.txt" || fail "another result after a stop in an evaluation"

# At any time after the start, with a checkpoint each step: 75, or the default action before lorad could hear (138).
for i in $(seq "${LORAD_STOPS:-6}"); do
    start mpirun -q --oversubscribe -np 2 "$program" "${common[@]}" --set "output_dir=$tmp/any" --set max_steps=100000 \
        --set save_strategy=steps --set save_steps=1 --set save_total_limit=2
    sleep "$(awk -v r=$RANDOM 'BEGIN { print r / 32768 }')"
    # one that comes before mpirun has started its ranks reaches nobody
    for _ in $(seq 20); do kill -USR1 "$pid" 2>/dev/null || break; for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null && sleep 0.01; done; done
    kill -9 "$pid" 2>/dev/null
    wait "$pid"
    code=$?
    pid=
    [ $code = 75 ] || [ $code = 138 ] || fail "USR1 at any time: code $code"
done

# HUP is like TERM, unless nohup has it ignored.
start "$program" "${common[@]}" --set max_steps=100000
wait_for "step [0-9]+/"
kill -HUP "$pid"
ends_with 75 "HUP to lorad"
start nohup "$program" "${common[@]}" --set max_steps=100000
wait_for "step [0-9]+/"
steps=$(grep -c "step [0-9]*/" "$tmp/log")
kill -HUP "$pid"
for _ in $(seq 100); do [ "$(grep -c "step [0-9]*/" "$tmp/log")" -gt $((steps + 3)) ] && break; sleep 0.05; done
kill -TERM "$pid"
ends_with 75 "TERM after HUP under nohup"
[ "$(grep -c "step [0-9]*/" "$tmp/log")" -gt $((steps + 3)) ] || fail "HUP ended a run under nohup"

# The announced time is compared with what a step and a checkpoint take, once; who has nothing to save just ends.
LORAD_GRACE_SECONDS=0.000001 "$program" "${common[@]}" --set "output_dir=$tmp/grace" --set max_steps=12 --set save_strategy=steps \
    --set save_steps=1 >"$tmp/log" 2>&1 </dev/null || fail "the run with a short grace failed"
[ "$(grep -c "LORAD_GRACE_SECONDS leaves" "$tmp/log")" = 1 ] || fail "a grace that is too short is not told once"
start "$program" eval "${common[@]}" --no-adapter --set "eval_file=$tmp/many.jsonl"
wait_for "avx|cpu"
kill -TERM "$pid"
soon 2 143 "TERM to eval"
exit $status
