#!/usr/bin/env bash
# Verbs on a running job, at TP 2 and at DP 2: status, pause, checkpoint, set, resume, stop, stop --now. A live change of the
# learning rate is part of the run: killed behind it and resumed, every loss and the adapter have the bits of an
# uninterrupted run with the same change at the same step; so has one that a change in a pause ends early. LORAD_CHANGES (1): so
# many of these at each layout.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
rounds=${LORAD_CHANGES:-1}
RANDOM=${LORAD_KILL_SEED:-$$}
export OMP_NUM_THREADS=1
job=
trap '[ -z "$job" ] || kill -9 "$job" 2>/dev/null; rm -rf "$work"' EXIT

# start NAME KEY=VALUE...: two ranks, in the background
start() {
    local name=$1 sets=()
    shift
    for key in "$@"; do sets+=(--set "$key"); done
    mpirun -q --oversubscribe --bind-to none -np 2 "$lorad" --config configs/quickstart.yaml --set "output_dir=$work/$name" \
        --set "cache_dir=$work/cache" --set overwrite_output_dir=false --set resume_from_checkpoint=auto --set eval_file= \
        --set eval_strategy=no --set load_best_model_at_end=false --set save_strategy=no --set global_batch_size=2 \
        --set cutoff_len=128 --set logging_steps=1 --set lora_dropout=0.1 --set progress=lines --set report_to=none \
        --set run_name="$name" "${sets[@]}" >>"$work/$name.log" 2>&1 </dev/null &
    job=$!
}
until_socket() { # NAME
    local i
    for i in $(seq 400); do
        [ -S "$work/$1/control.sock" ] && return
        kill -0 $job 2>/dev/null || break
        sleep 0.02
    done
    tail "$work/$1.log"
    fail "$1 never listened"
}
ends_with() { # CODE WORDS
    wait $job
    local code=$?
    job=
    [ $code = "$1" ] || fail "$2: expected exit code $1, got $code"
}
asked() { # WORDS VERB...: the verb is done and says so
    local words=$1
    shift
    "$lorad" "$@" >"$work/said" 2>&1 || fail "$*: code $?: $(cat "$work/said")"
    grep -qF -- "$words" "$work/said" || fail "$*: \"$(cat "$work/said")\" lacks \"$words\""
}
refused() { # CODE WORDS VERB...
    local code=$1 words=$2 got
    shift 2
    "$lorad" "$@" >"$work/said" 2>&1
    got=$?
    [ $got = "$code" ] || fail "$*: expected code $code, got $got: $(cat "$work/said")"
    grep -qF -- "$words" "$work/said" || fail "$*: \"$(cat "$work/said")\" lacks \"$words\""
}
now_at() { "$lorad" status "$work/$1" --json | grep -o '"step":[0-9]*' | head -n 1 | cut -d: -f2; }
result() { # NAME
    for key in loss grad_norm learning_rate; do field "$work/$1/logs/metrics.jsonl" $key; done
    sha256sum <"$work/$1/adapter_model.safetensors"
}

verbs() { # NAME TP
    local dir=$work/$1 step
    start "$1" max_steps=100000 tensor_parallel_size="$2"
    until_socket "$1"
    asked "$1: " status "$dir"
    asked "checkpoint of step" checkpoint "$dir"
    asked "paused after step" pause "$dir"
    asked "$1: paused, step" status "$dir"
    step=$(now_at "$1")
    asked "checkpoint of step $step committed" checkpoint "$dir"
    asked "learning_rate 0.0005 from step $((step + 1)) on" set "$dir" lr=5e-4
    asked "logging_steps 2" set logging_steps=2 weight_decay=0.1 "$dir"
    grep -q "weight_decay 0.1" "$work/said" || fail "two keys at once: $(cat "$work/said")"
    sleep 0.3
    [ "$(now_at "$1")" = "$step" ] || fail "$1 went on while paused"
    [ "$(ls -d "$dir"/ckpt/s*"$step".e*.a* | wc -l)" -ge 2 ] || fail "what was set in a pause is in no checkpoint"
    refused 78 "lora_rank cannot be set" set "$dir" lora_rank=4
    refused 78 "learning_rate: 11 is not in" set "$dir" learning_rate=11
    refused 78 "save_strategy is no" set "$dir" save_steps=5
    refused 64 "is over" set "$dir" learning_rate=1e-4 --at-step 1
    refused 64 "did you mean learning_rate" set "$dir" learning_rat=1e-4
    asked "goes on after step $step" resume "$dir"
    asked "was not paused" resume "$dir"
    asked '"learning_rate"' status "$dir" --json
    asked "stopped after step" stop "$dir"
    ends_with 80 "stop"
    asked "ended at step" status "$dir"
    grep -q "exit code 80" "$work/said" || fail "status of a stopped run: $(cat "$work/said")"
    refused 66 "is not running" pause "$dir"
    [ ! -e "$dir/control.sock" ] || fail "control.sock was left behind"

    # continued: the settings are in force again
    start "$1" max_steps=100000 tensor_parallel_size="$2"
    until_socket "$1"
    asked "paused after" pause "$dir"
    asked "learning_rate 0.0005 since step $step" status "$dir"
    kill -USR1 $job # also in a pause: the run commits and wants to be started again
    ends_with 75 "USR1 in a pause"
    start "$1" max_steps=100000 tensor_parallel_size="$2" learning_rate=1e-3
    until_socket "$1"
    asked "checkpoint of step" checkpoint "$dir"
    grep -q "no longer holds: the configuration now says 0.001" "$work/$1.log" || fail "a newer configuration did not win"
    asked "exit code 80" stop "$dir" --now
    ends_with 80 "stop --now"
    asked "exit code 80" status "$dir"
    for event in started checkpoint set paused resumed_training stopping resumed stopped; do
        grep -q "\"event\":\"$event\"" "$dir/logs/events.jsonl" || fail "no event: $event"
    done
}

# A change at some step of 30, in one run and in one that is also paused, saved and then killed.
replay() { # NAME TP
    local whole=$1-whole killed=$1-killed name at=$((5 + RANDOM % 15))
    rm -rf "$work/$whole" "$work/$killed" "$work/$killed.log"
    for name in "$whole" "$killed"; do
        start "$name" max_steps=30 tensor_parallel_size="$2"
        until_socket "$name"
        asked "learning_rate 0.0003 from step $((at + 1)) on" set "$work/$name" learning_rate=3e-4 --at-step $at
        [ "$name" = "$killed" ] || { ends_with 0 "an uninterrupted run"; continue; }
        asked "paused after" pause "$work/$name"
        asked "committed" checkpoint "$work/$name"
        asked "goes on" resume "$work/$name"
        sleep "$(awk -v r=$RANDOM 'BEGIN { print r / 32768 * 0.2 }')"
        kill -9 "$(pgrep -f "^$lorad --config .*output_dir=$work/$killed( |$)" | shuf -n 1)" || fail "it ended too early"
        wait $job
    done
    start "$killed" max_steps=30 tensor_parallel_size="$2"
    ends_with 0 "the resumed run"
    grep -q "in force again: learning_rate 0.0003" "$work/$killed.log" || fail "the change was not replayed"
    result "$whole" >"$work/whole.txt"
    result "$killed" >"$work/killed.txt"
    [ "$(wc -l <"$work/whole.txt")" = 91 ] || fail "not 30 steps"
    [ "$(field "$work/$whole/logs/metrics.jsonl" learning_rate | sort -u | wc -l)" -gt 20 ] || fail "no schedule"
    cmp "$work/whole.txt" "$work/killed.txt" || fail "$1: a killed run with a live change is another run"
}

mkdir "$work/empty"
refused 66 "is the output_dir of no run" status "$work/empty"
refused 66 "is no folder" status "$work/nowhere"
refused 64 "at most" logs -n 2000000000 "$work/empty"
# early_stopping_patience set in a pause is looked at when the pause ends, as a run that was killed in it does when it starts.
patience() {
    local name at=5
    head -n 4 tests/data/finance-zh/fin_heldout.jsonl >"$work/held.jsonl"
    for name in early early-killed; do
        start $name max_steps=12 tensor_parallel_size=2 eval_file="$work/held.jsonl" eval_strategy=steps eval_steps=1 \
            learning_rate=1 warmup_ratio=0.5
        until_socket $name
        asked "paused after step $at" pause "$work/$name" --at-step $at
        asked "early_stopping_patience 1 from step $((at + 1)) on" set "$work/$name" early_stopping_patience=1
        if [ $name = early ]; then
            asked "goes on after step $at" resume "$work/$name"
        else
            kill -9 "$(pgrep -f "^$lorad --config .*output_dir=$work/$name( |$)" | shuf -n 1)" || fail "it ended in a pause"
            wait $job
            start $name max_steps=12 tensor_parallel_size=2 eval_file="$work/held.jsonl" eval_strategy=steps eval_steps=1 \
                learning_rate=1 warmup_ratio=0.5
        fi
        ends_with 0 "$name"
        grep -q "stopping early: .* evaluations without a better metric" "$work/$name.log" || fail "$name: did not stop early"
        result $name >"$work/$name.txt"
    done
    [ "$(field "$work/early/logs/metrics.jsonl" grad_norm | wc -l)" = $at ] || fail "early: not stopped after step $at"
    cmp "$work/early.txt" "$work/early-killed.txt" || fail "killed in a pause, another run"
}

verbs tp 2
verbs dp 1
for round in $(seq "$rounds"); do
    replay tp 2
    replay dp 1
done
patience
echo "verbs at TP 2 and DP 2; $((2 * rounds)) live changes, pauses and saves, killed and replayed bit for bit"
