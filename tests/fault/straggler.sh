# A rank that needs longer than the others for the same work is named within 50 steps, in the log and as an event, is told to
# be well again when it is, and the run goes on. It is made slower by stopping it for a part of every 20 ms, which slows it
# only where processors are free: on a busy machine this is skipped.
# LORAD_STRAGGLER_FACTOR (default 1.5; 1.2 is the border); LORAD_STRAGGLER_TIMES (default 1): so many runs;
# LORAD_STRAGGLER_OPTIONS="--set device=cuda": more options of the run;
# LORAD_STRAGGLER_BUSY=1: also beside other programs, for a session of a higher weight than theirs.
. "$(dirname "$0")/../support/lib.sh"
. tests/support/kill.sh
need_mpirun
factor=${LORAD_STRAGGLER_FACTOR:-1.5} times=${LORAD_STRAGGLER_TIMES:-1}
job= throttle=
trap '[ -z "$throttle" ] || kill "$throttle"; [ -z "$job" ] || kill -9 "$job" $(victims_all) 2>/dev/null; rm -rf "$work"' EXIT

# Whether other programs use more than a tenth of the processors' time, over two seconds.
ticks() { awk '/^cpu / { all = 0; for (i = 2; i <= 9; i++) all += $i; print all, $5 + $6 }' /proc/stat; }
busy() {
    local all idle all2 idle2
    read -r all idle < <(ticks)
    sleep 2
    read -r all2 idle2 < <(ticks)
    [ $(((all2 - all) * 9)) -gt $(((idle2 - idle) * 10)) ]
}
[ "$(getconf _NPROCESSORS_ONLN)" -ge 2 ] || { echo "skipped: needs two processors"; exit 77; }
[ -n "${LORAD_STRAGGLER_BUSY:-}" ] || ! busy || { echo "skipped: other programs keep the processors busy, which makes ranks slow at random"; exit 77; }

start() {
    exec mpirun -q -np 2 "$lorad" --config configs/fin_stage1.yaml --set tensor_parallel_size=1 \
        --set output_dir="$work/run" --set bf16=false --set fp32=true --set cutoff_len=128 --set max_steps=100000 \
        --set logging_steps=1 --set per_device_train_batch_size=1 --set global_batch_size=2 --set eval_strategy=no \
        --set save_strategy=no --set load_best_model_at_end=false --set num_train_epochs=1000 --set report_to=none \
        --set cache_dir="$work/cache" --set progress=lines --set overwrite_output_dir=true ${LORAD_STRAGGLER_OPTIONS:-}
}
step_now() { echo $(($(field "$work/run/logs/metrics.jsonl" step 2>/dev/null | tail -n 1) + 0)); }
# told WORDS SINCE: waits 150 steps for it
told() {
    until grep -q "$1" "$work/log"; do
        kill -0 "$job" 2>/dev/null || { tail -n 5 "$work/log"; fail "the run ended"; }
        [ "$(step_now)" -lt $(($2 + 150)) ] || { tail -n 5 "$work/log"; fail "not told within 150 steps: $1"; }
        sleep 0.1
    done
}
begin_throttle() { # RANK
    local pid
    until [ "$(step_now)" -ge 30 ]; do kill -0 "$job" || { cat "$work/log"; fail "the run ended"; }; sleep 0.05; done
    ! grep -q "is slow" "$work/log" || { grep "is slow" "$work/log"; fail "a rank is called slow before it is"; }
    for pid in $(victims_all); do
        tr '\0' '\n' <"/proc/$pid/environ" | grep -qx "OMPI_COMM_WORLD_RANK=$1" && break
    done
    "$LORAD_TEST_BUILD/bin/throttle" "$pid" "$factor" &
    throttle=$!
}

late=0
for i in $(seq "$times"); do
    rank=$((i % 2))
    rm -rf "$work/run"
    : >"$work/log"
    start >"$work/log" 2>&1 &
    job=$!
    begin_throttle $rank
    since=$(step_now)
    told "rank $rank on host .* is slow: over the steps up to" "$since"
    at=$(sed -n 's/.*is slow: over the steps up to \([0-9]*\).*/\1/p' "$work/log" | head -n 1)
    echo "rank $rank, slow from step $since on, is named at step $at: $(grep -o "worked [0-9.]* times" "$work/log" | head -n 1)"
    [ $((at - since)) -le 50 ] || late=$((late + 1))
    kill "$throttle"
    wait "$throttle"
    throttle=
    told "rank $rank on host .* is as fast as the others again" "$(step_now)"
    grep -q "\"straggler\".*\"rank\": *$rank" "$work/run/logs/events.jsonl" || fail "there is no event"
    kill -USR1 $job
    wait $job
    [ $? = 75 ] || { tail "$work/log"; fail "the run did not go on until it was asked to end"; }
    job=
done
[ "$late" = 0 ] || fail "$late of $times named after more than 50 steps"
