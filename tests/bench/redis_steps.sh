#!/usr/bin/env bash
# redis_steps.sh [ROUNDS [STEPS]]: what Redis costs a step: runs without it, with it, and with one that is frozen, killed, flushed
# twice a second, or speaks nonsense, in turn, and the step times of each kind over all rounds. Prints one line a kind: steps,
# median and 99th percentile in ms, the latter against that without Redis. Needs a machine that does nothing else.
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-5} steps=${2:-400}
lorad=$PWD/build/lorad fake=$PWD/build/tests/fake_redis
work=$(mktemp -d)
socket=$work/redis.sock server=
trap '[ -z "$server" ] || kill -9 $server; rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1

serve() { # KIND
    rm -f "$socket"
    case $1 in
    none) return ;;
    garbage) "$fake" "$socket" garbage & ;;
    *) redis-server --port 0 --unixsocket "$socket" --save '' --appendonly yes --dir "$work" >/dev/null & ;;
    esac
    server=$!
    until [ -S "$socket" ]; do sleep 0.02; done
}
end() {
    [ -z "$server" ] || { kill -9 "$server" && wait "$server" 2>/dev/null || true; }
    server=
}
# Once training goes on.
disturb() { # KIND JOB
    until [ -s "$work/out/logs/metrics.jsonl" ]; do sleep 0.02; done
    case $1 in
    frozen) kill -STOP "$server" ;;
    killed) end ;;
    flushed) while kill -0 "$2" 2>/dev/null; do redis-cli -s "$socket" FLUSHALL >/dev/null; sleep 0.5; done ;;
    esac
}
measure() { # KIND
    local with=()
    serve "$1"
    [ "$1" = none ] || with=(--set redis_url="unix://$socket")
    rm -rf "$work/out"
    "$lorad" --config configs/fin_stage1.yaml --set tensor_parallel_size=1 --set output_dir="$work/out" --set fp32=true \
        --set bf16=false --set cutoff_len=128 --set per_device_train_batch_size=1 --set global_batch_size=1 \
        --set max_steps="$steps" --set logging_steps=1 --set eval_strategy=no --set load_best_model_at_end=false \
        --set save_steps=100 --set cache_dir="$work/cache" --set report_to=none "${with[@]}" >"$work/log" 2>&1 &
    local job=$!
    disturb "$1" $job
    wait $job || { tail "$work/log"; exit 1; }
    end
    # the first steps stand beside the preparing of rows
    sed -n 's/.*"step_seconds": *\([0-9.e-]*\).*/\1/p' "$work/out/logs/metrics.jsonl" | tail -n +50 >>"$work/$1.times"
}

kinds=(none up frozen killed flushed garbage)
measure none && rm "$work/none.times" # rows are prepared
for round in $(seq "$rounds"); do
    for kind in "${kinds[@]}"; do measure "$kind"; done
done
for kind in "${kinds[@]}"; do
    sort -g "$work/$kind.times" | awk -v kind="$kind" -v base="$(cat "$work/p99" 2>/dev/null)" -v file="$work/p99" '
        { t[NR] = $1 }
        END { p = t[int(NR * 0.99)]; if (base == "") { base = p; print p >file }
              printf "%-8s %6d steps  median %.3f ms  p99 %.3f ms  %+.2f %%\n", kind, NR, 1000 * t[int(NR / 2)], 1000 * p, 100 * (p / base - 1) }'
done
