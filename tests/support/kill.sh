# kill.sh: kill -9 of a random rank of a run, again and again, until the run ends by itself; then everything that can be
# compared has the same bits as an uninterrupted run's. Sourced by bash after lib.sh.
# The caller defines start NAME: mpirun of a run into $work/NAME that resumes from its checkpoints and logs every step.

result() { # NAME: stages, losses, norms, evaluations and the adapter's bytes
    grep -o '"stage": *"[^"]*"' "$work/$1/logs/metrics.jsonl"
    field "$work/$1/logs/metrics.jsonl" loss
    field "$work/$1/logs/metrics.jsonl" grad_norm
    field "$work/$1/logs/metrics.jsonl" learning_rate
    grep -o '"eval_loss": *[^,}]*' "$work/$1/logs/metrics.jsonl"
    sha256sum <"$work/$1/adapter_model.safetensors"
}

committed() { compgen -G "$work/run/ckpt/*/MANIFEST.json" >/dev/null; }
unfinished() { # a checkpoint folder without a manifest that is newer than this start: a save is going on
    local d
    for d in "$work"/run/ckpt/*/; do [ -e "$d/MANIFEST.json" ] || { [ "$d" -nt "$work/started" ] && return 0; }; done
    return 1
}
victims_all() { pgrep -f "^$lorad --config .*output_dir=$work/run( |$)"; }
victims() { victims_all | shuf -n 1 --random-source=<(yes "$RANDOM"); }
stage_changes() { grep -c "ended at step" "$work/run.log"; }
epoch_ends() { grep -cE '"epoch": [0-9]+(\.0)?,' "$work/run/logs/metrics.jsonl" 2>/dev/null; }

# snooze MS: up to so many milliseconds, evenly.
snooze() { sleep "$(awk -v r=$RANDOM -v ms="$1" 'BEGIN { print r / 32768 * ms / 1000 }')"; }
# wait_more COMMAND JOB: until COMMAND counts more than it did. 1: the job ended before.
wait_more() {
    local before
    before=$($1)
    until [ "$($1)" -gt "$before" ]; do kill -0 "$2" 2>/dev/null || return 1; sleep 0.002; done
}

# await MODE JOB: until the instant to strike. 1: the run ended before.
# MODE: any (evenly over the run), save, stage, epoch (just behind the change).
await() {
    local mode=$1 job=$2
    until committed; do kill -0 "$job" 2>/dev/null || return 1; sleep 0.01; done
    case $mode in
    save)
        snooze 300
        until unfinished; do kill -0 "$job" 2>/dev/null || return 1; sleep 0.001; done
        snooze 30
        ;;
    stage) wait_more stage_changes "$job" && snooze 120 || return 1 ;;
    epoch) wait_more epoch_ends "$job" && snooze 120 || return 1 ;;
    *) snooze $((whole_ms * 8 / 10)) ;;
    esac
}

# buried JOB: waits for the end of a run whose rank was hit; its code.
buried() {
    local job=$1 i
    # A rank that dies while it shakes hands with mpirun can leave Open MPI 4.1 waiting for ever.
    for i in $(seq 200); do kill -0 "$job" 2>/dev/null || break; sleep 0.1; done
    if kill -0 "$job" 2>/dev/null; then
        echo "mpirun did not end by itself" >&2
        pkill -9 -P "$job"
        kill -9 "$job"
    fi
    wait "$job"
}

# strike MODE JOB: waits for the instant, kills a rank, waits for the end. 1: the run ended before.
strike() {
    await "$1" "$2" || return 1
    local pid phase=$1
    pid=$(victims)
    [ -n "$pid" ] || return 1
    if unfinished; then phase=save; fi
    kill -9 "$pid" 2>/dev/null || return 1
    echo "$phase" >>"$work/phases"
    buried "$2"
    return 0
}

# Two uninterrupted runs, the second one timed: $work/whole.txt, whole_ms.
run_whole() {
    local begin
    start whole >"$work/whole.log" 2>&1 || { cat "$work/whole.log"; fail "the uninterrupted run failed"; }
    begin=$(date +%s%N)
    rm -rf "$work/whole"
    start whole >"$work/whole.log" 2>&1 || fail "the uninterrupted run failed the second time"
    whole_ms=$((($(date +%s%N) - begin) / 1000000))
    result whole >"$work/whole.txt"
}

# kill_and_compare N MODE...: N kills, the modes in turn, in as many runs as they need.
kill_and_compare() {
    local left=$1 rounds=0 finished job code
    shift
    : >"$work/phases"
    while [ "$left" -gt 0 ]; do
        rm -rf "$work/run"
        rounds=$((rounds + 1))
        finished=no
        while [ "$finished" = no ]; do
            touch "$work/started"
            start run >>"$work/run.log" 2>&1 &
            job=$!
            local modes=("$@")
            if [ "$left" -gt 0 ] && strike "${modes[$((left % $#))]}" $job 2>/dev/null; then
                left=$((left - 1))
            else
                wait $job
                code=$?
                [ $code = 0 ] || { tail -n 30 "$work/run.log"; fail "a resumed run exited $code"; }
                finished=yes
            fi
        done
        result run >"$work/run.txt"
        cmp -s "$work/whole.txt" "$work/run.txt" ||
            { diff "$work/whole.txt" "$work/run.txt" | head; fail "round $rounds differs"; }
    done
    echo "$(wc -l <"$work/phases") kills in $rounds runs, all bit-identical; aimed at or hit: $(sort "$work/phases" |
        uniq -c | tr -s ' \n' ' ')"
}
