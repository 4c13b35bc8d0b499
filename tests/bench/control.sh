#!/usr/bin/env bash
# What it costs a run to be asked, and how soon it obeys:  tests/bench/control.sh build/lorad .
# Median and 99th percentile of the step time of one run, in turns with nobody asking and with `status` asked twenty times a
# second; the time that verbs take; the processor time of two ranks in a pause.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
export OMP_NUM_THREADS=1
turns=${LORAD_TURNS:-4} job=
dir=$work/run
trap '[ -z "$job" ] || kill -9 "$job" 2>/dev/null; kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT

mpirun -q --oversubscribe --bind-to none -np 2 "$lorad" --config configs/quickstart.yaml --set output_dir="$dir" \
    --set overwrite_output_dir=false --set resume_from_checkpoint=auto --set eval_file= --set eval_strategy=no \
    --set load_best_model_at_end=false --set save_strategy=no --set global_batch_size=2 --set cutoff_len=64 --set logging_steps=1 \
    --set max_steps=1000000 --set report_to=none --set progress=lines >"$work/log" 2>&1 </dev/null &
job=$!
until [ -e "$dir/logs/metrics.jsonl" ] && [ "$(wc -l <"$dir/logs/metrics.jsonl")" -gt 50 ]; do sleep 0.1; done

lines() { wc -l <"$dir/logs/metrics.jsonl"; }
steps() { tail -n +"$1" "$dir/logs/metrics.jsonl" | head -n $(($2 - $1)) | sed -E 's/.*"step_seconds": ([^,]*).*/\1/'; }
keep_asking() { # one client on one connection, so that its own start is not what is measured
    exec python3 - "$dir/control.sock" <<'PYTHON'
import socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
f = s.makefile()
while True:
    s.sendall(b'{"verb":"status","id":"1"}\n')
    f.readline()
    time.sleep(0.05)
PYTHON
}
for _ in $(seq "$turns"); do
    begin=$(lines)
    sleep 5
    steps "$begin" "$(lines)" >>"$work/alone"
    keep_asking &
    asker=$!
    sleep 0.3
    begin=$(lines)
    sleep 5
    steps "$begin" "$(lines)" >>"$work/asked"
    kill $asker
    wait $asker 2>/dev/null
done
for kind in alone asked; do
    sort -g "$work/$kind" | awk -v kind=$kind '{ v[NR] = $1 } END {
        printf "%s: %d steps, median %.3f ms, p99 %.3f ms\n", kind, NR, v[int(NR / 2) + 1] * 1e3, v[int(NR * 0.99)] * 1e3 }'
done

timed() { # NAME VERB...
    local name=$1 begin
    shift
    for _ in $(seq 20); do
        begin=$(date +%s%N)
        "$lorad" "$@" >/dev/null || fail "$*"
        echo $((($(date +%s%N) - begin) / 1000))
    done | sort -n | awk -v name="$name" '{ v[NR] = $1 } END { printf "%s: median %.1f ms, worst %.1f ms\n", name, v[10] / 1e3, v[NR] / 1e3 }'
}
timed "status" status "$dir"
timed "checkpoint" checkpoint "$dir"
timed "set" set "$dir" learning_rate=1e-4
"$lorad" pause "$dir" >/dev/null
ticks() { for p in $(pgrep -f "^$lorad --config .*output_dir=$dir( |$)"); do cut -d' ' -f14,15 "/proc/$p/stat"; done | awk '{ n += $1 + $2 } END { print n }'; }
before=$(ticks)
sleep 10
echo "paused: $((($(ticks) - before) * 10)) ms of processor time in 10 s on two ranks"
"$lorad" stop "$dir" >/dev/null
wait $job
job=
