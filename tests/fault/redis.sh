# A run under a Redis that fails in one way after the other has the bits of a run without Redis and commits every checkpoint;
# after each failure everything stands in Redis again. No file and no line of the log holds the password.
# LORAD_REDIS_FAULTS (default "frozen flushed killed restored password"): also garbage, loading, oom, readonly, noauth, echo,
# hang, trickle, huge, flood, nested, close (what fake_redis does instead of the server).
# LORAD_REDIS_RANKS (default 1), LORAD_REDIS_FAULT_S (default 0.8): how long a fault lasts.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
command -v redis-server >/dev/null && command -v redis-cli >/dev/null || {
    echo "skipped: no redis-server"
    exit 77
}
read -ra faults <<<"${LORAD_REDIS_FAULTS:-frozen flushed killed restored password}"
n=${LORAD_REDIS_RANKS:-1} lasts=${LORAD_REDIS_FAULT_S:-0.8}
socket=$work/redis.sock secret=hunter2-secret
export REDISCLI_AUTH=$secret
fake=$LORAD_TEST_BUILD/fake_redis

redis_start() {
    rm -f "$socket"
    redis-server --port 0 --unixsocket "$socket" --unixsocketperm 700 --save '' --appendonly yes --appendfsync always \
        --requirepass "$secret" --loglevel warning --dir "$work/data" >>"$work/redis.log" 2>&1 &
    server=$!
    for _ in $(seq 200); do [ "$(cli ping 2>/dev/null)" = PONG ] && return; sleep 0.05; done
    fail "redis-server does not start"
}
redis_kill() {
    kill -9 "$server" && wait "$server" 2>/dev/null
}
cli() { redis-cli -s "$socket" "$@"; }
trap 'kill -9 $server $job 2>/dev/null; wait 2>/dev/null; rm -rf "$work"' EXIT

train() { # NAME STEPS ARGUMENTS: at a constant rate, so that the first steps do not depend on how many follow
    local name=$1 most=$2
    shift 2
    exec mpirun -np "$n" "$lorad" --config configs/fin_stage1.yaml --set tensor_parallel_size=1 --set output_dir="$work/$name" \
        --set bf16=false --set fp32=true --set cutoff_len=128 --set max_steps="$most" --set logging_steps=1 \
        --set lr_scheduler_type=constant --set warmup_ratio=0 --set per_device_train_batch_size=1 --set global_batch_size="$n" \
        --set eval_strategy=no --set load_best_model_at_end=false --set save_strategy=steps --set save_steps=5 \
        --set save_total_limit=3 --set cache_dir="$work/cache" --set report_to=none "$@"
}
result() { # NAME ADAPTER
    field "$work/$1/logs/metrics.jsonl" loss
    field "$work/$1/logs/metrics.jsonl" grad_norm
    sha256sum <"$2"
}

running() { kill -0 "$job" 2>/dev/null; }
# Whether all of the run stands in Redis.
shown() {
    [ "$(cli EXISTS lorad:{fin}:owner lorad:{fin}:status lorad:{fin}:hb lorad:{fin}:info lorad:{fin}:epoch lorad:{fin}:ckpts \
        lorad:{fin}:events lorad:{fin}:metrics lorad:runs 2>/dev/null)" = 9 ]
}
# The heartbeat is written again with the next step, and everything when it was lost.
until_shown() { # FAULT
    local i
    cli DEL lorad:{fin}:hb >/dev/null
    for i in $(seq 1200); do shown && return; running || break; sleep 0.05; done
    tail -n 20 "$work/run.log"
    fail "$1: it does not all stand in Redis again"
}

inflict() { # FAULT: for $lasts seconds
    case $1 in
    frozen) kill -STOP "$server"; sleep "$lasts"; kill -CONT "$server" ;;
    flushed) cli FLUSHALL >/dev/null ;;
    killed) redis_kill; sleep "$lasts"; redis_start ;;
    restored) redis_kill; rm -rf "$work/data"; cp -r "$work/old" "$work/data"; sleep "$lasts"; redis_start ;;
    password) # another one, and everybody has to log in again
        cli CONFIG SET requirepass other >/dev/null
        REDISCLI_AUTH=other cli CLIENT KILL TYPE normal SKIPME yes >/dev/null
        sleep "$lasts"
        REDISCLI_AUTH=other cli CONFIG SET requirepass "$secret" >/dev/null
        ;;
    *) redis_kill
        "$fake" "$socket" "$1" &
        local other=$!
        sleep "$lasts"
        kill -9 $other && wait $other 2>/dev/null
        redis_start
        ;;
    esac
}

mkdir "$work/data"
redis_start
(train run 100000 --set run_name=fin --set redis_url="unix://$socket?password=$secret") >"$work/run.log" 2>&1 &
job=$!
for _ in $(seq 200); do shown && break; running || break; sleep 0.05; done
shown || { cli --scan; cli EXISTS lorad:{fin}:owner; grep -v "step " "$work/run.log"; fail "the run does not show in Redis"; }
cp -r "$work/data" "$work/old"
for fault in "${faults[@]}"; do
    inflict "$fault"
    until_shown "$fault"
done
# From another shell, by its name: what it does, what all do, its lines; then it is stopped.
unset LORAD_REDIS_URL
ask=(--redis-url "unix://$socket") # the password is in the environment
for _ in $(seq 50); do # the status says so one exchange after everything else
    "$lorad" status fin "${ask[@]}" >"$work/status.txt" || fail "status by name"
    grep -q "training" "$work/status.txt" && grep -q "redis.*up" "$work/status.txt" && break
    sleep 0.1
done
grep -q "redis.*up" "$work/status.txt" || { cat "$work/status.txt"; fail "the status"; }
"$lorad" status "${ask[@]}" | grep -q "^fin .*training.*$work/run" || fail "the list of runs"
"$lorad" logs fin "${ask[@]}" -n 5 | grep -q "loss" || fail "the lines of the run"
"$lorad" logs -f fin "${ask[@]}" >"$work/follow.txt" 2>&1 &
follow=$!
"$lorad" stop fin "${ask[@]}" >"$work/stop.txt" || { cat "$work/stop.txt"; fail "stop by name"; }
wait "$job"
code=$?
for _ in $(seq 100); do kill -0 $follow 2>/dev/null || break; sleep 0.1; done
wait $follow || fail "logs -f does not end with the run"
grep -q "stop" "$work/follow.txt" || { tail "$work/follow.txt"; fail "the end of the lines"; }
[ $code = 80 ] || { tail -n 20 "$work/run.log"; fail "the run under faults exited $code"; }
steps=$(field "$work/run/logs/metrics.jsonl" loss | wc -l)
result run "$work/run/checkpoint-$steps/adapter_model.safetensors" >"$work/run.txt"
(train whole "$steps") >"$work/whole.log" 2>&1 || { tail -n 20 "$work/whole.log"; fail "the run without Redis failed"; }
result whole "$work/whole/adapter_model.safetensors" >"$work/whole.txt"
cmp -s "$work/whole.txt" "$work/run.txt" ||
    { diff "$work/whole.txt" "$work/run.txt" | head; fail "the run under faults has other bits"; }
commits=$(grep -c "checkpoint of step .* committed" "$work/run.log") due=$(((steps + 4) / 5))
[ "$commits" = $due ] || { cat "$work/run.log"; fail "$commits commits instead of $due"; }
! grep -q "FAILED" "$work/run.log" || fail "a checkpoint failed"
[ "$(cli HGET lorad:{fin}:info state)" = ended ] || fail "the end of the run is not told"
[ "$(cli EXISTS lorad:{fin}:owner)" = 0 ] || fail "the lease was not given back"
! grep -rqF "$secret" "$work/run" "$work/run.log" || fail "the password stands in a file: $(grep -rlF "$secret" "$work/run" "$work/run.log")"
went=$(grep -c "training goes on without it" "$work/run.log") came=$(grep -c "is back after" "$work/run.log")
[ "$went" -ge 1 ] && [ "$went" = "$came" ] || { cat "$work/run.log"; fail "gone $went times, back $came times"; }
echo "${faults[*]}: $steps steps and the adapter bit-identical, $commits commits, gone and back $went times"
