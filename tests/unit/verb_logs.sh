#!/usr/bin/env bash
# `lorad logs`: the order of metrics and events, the last lines, and following files that grow, are cut by a resume, or are
# replaced, until the run has ended.
. "$(dirname "$0")/../support/lib.sh"
dir=$work/run
mkdir -p "$dir/logs"
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT

metric() { echo "{\"step\": $1, \"epoch\": 0.5, \"loss\": $1.5, \"grad_norm\": 1, \"learning_rate\": 0.001, \"tokens_per_second\": 9}"; }
event() { echo "{\"time\":\"2026-01-01T00:00:0$((RANDOM % 10))Z\",\"event\":\"$1\",\"step\":$2,\"text\":\"$3\"}"; }
# a run on another host, whose heartbeat is all that is seen of it
beat() { echo "{\"host\": \"elsewhere\", \"boot\": \"other\", \"run\": \"far\", \"phase\": \"$1\", \"pid\": 1, \"epoch\": 1, \"step\": 3}" >"$dir/heartbeat.json"; }
shown() { sed -E 's/^step ([0-9]+) .*/m\1/; s/^2026[^ ]+ +step ([0-9]+)  ([a-z]+).*/\2\1/' "$1" | tr '\n' ' '; }
says() { # WORDS FILE
    [ "$(shown "$2")" = "$1 " ] || fail "expected: $1; got: $(shown "$2")"
}

beat ended
"$lorad" logs "$dir" >"$work/out" 2>&1 && fail "a folder without logs"
grep -q "holds no logs" "$work/out" || fail "$(cat "$work/out")"
for i in 1 2 3 4; do metric $i; done >"$dir/logs/metrics.jsonl"
{
    event started 0 "from the start"
    event checkpoint 2 "step 2 committed"
} >"$dir/logs/events.jsonl"
event ended 9 "of an older file" >"$dir/logs/events.1.jsonl"
"$lorad" logs "$dir" >"$work/out" || fail "logs"
says "m1 m2 m3 m4 ended9 started0 checkpoint2" "$work/out"
rm "$dir/logs/events.1.jsonl"
"$lorad" logs "$dir" >"$work/out" || fail "logs"
says "started0 m1 m2 checkpoint2 m3 m4" "$work/out"
"$lorad" logs "$dir" -n 2 >"$work/out" || fail "logs -n"
says "m3 m4" "$work/out"
[ "$("$lorad" logs "$dir" --json --lines=1)" = "$(metric 4)" ] || fail "--json is not the line itself"
"$lorad" logs -f "$dir" -n 1 >"$work/out" || fail "logs -f of a run that has ended"
says "m4" "$work/out"

beat training
"$lorad" logs -f "$dir" >"$work/out" 2>&1 &
until_shown() {
    for _ in $(seq 100); do
        [ "$(shown "$work/out")" = "$1 " ] && return
        sleep 0.1
    done
    fail "expected: $1; got: $(shown "$work/out")"
}
until_shown "started0 m1 m2 checkpoint2 m3 m4"
metric 5 >>"$dir/logs/metrics.jsonl"
printf '%s' "$(metric 6)" >>"$dir/logs/metrics.jsonl" # half a line, as far as one can see
until_shown "started0 m1 m2 checkpoint2 m3 m4 m5"
# killed and resumed from step 2: the file is cut, and grows again
for i in 1 2; do metric $i; done >"$work/cut"
truncate -s "$(stat -c %s "$work/cut")" "$dir/logs/metrics.jsonl"
event resumed 2 "step 2" >>"$dir/logs/events.jsonl"
for i in 3 4 5 6 7; do metric $i; done >>"$dir/logs/metrics.jsonl"
until_shown "started0 m1 m2 checkpoint2 m3 m4 m5 resumed2 m3 m4 m5 m6 m7"
# another run in the folder
mv "$dir/logs/metrics.jsonl" "$dir/logs/metrics.1.jsonl"
metric 1 >"$dir/logs/metrics.jsonl"
until_shown "started0 m1 m2 checkpoint2 m3 m4 m5 resumed2 m3 m4 m5 m6 m7 m1"
metric 2 >>"$dir/logs/metrics.jsonl"
beat ended
wait %% || fail "logs -f does not end well"
says "started0 m1 m2 checkpoint2 m3 m4 m5 resumed2 m3 m4 m5 m6 m7 m1 m2" "$work/out"
