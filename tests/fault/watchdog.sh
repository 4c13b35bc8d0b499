# A rank that is stopped or hangs is found in time, and the first line names it, its host, step, phase and collective; all
# end with 71. A rank that starves and a machine that was suspended are let live.
# LORAD_HANGS (default 1): so many of each kind; LORAD_HANG_TIMEOUT (default 2): hang_timeout in seconds; LORAD_KILL_SEED.
. "$(dirname "$0")/../support/lib.sh"
. tests/support/kill.sh
need_mpirun
hangs=${LORAD_HANGS:-1} limit=${LORAD_HANG_TIMEOUT:-2}
RANDOM=${LORAD_KILL_SEED:-20260801}
hang=$LORAD_TEST_BUILD/bin/hang
: >"$work/tally"

# judged WHAT CODE RANK LOG: whether the end was right; tallies.
judged() {
    local first
    first=$(grep -m 1 "error: " "$4")
    if [ "$2" = 71 ] && [[ $first == *"rank $3 on host "*" hangs: "*"step "*"phase "*"collective"* ]]; then
        echo "$1: right" >>"$work/tally"
    else
        echo "$1: wrong" >>"$work/tally"
        echo "$1: code $2, wanted rank $3: $first"
    fi
}

# hung MODE RANKS RANK: the program's own ways to hang. lives MODE RANK: what is none.
hung() {
    local code log=$work/log.$1
    timeout 120 mpirun -q -np "$2" "$hang" "$1" "$3" "$limit" >"$log" 2>&1
    code=$?
    judged "$1" $code "$3" "$log"
    [ "$1" != sleep ] || grep -q "no sign of life for [0-3] s" "$log" || { cat "$log"; fail "found too late"; }
}
lives() {
    if timeout 120 mpirun -q -np 2 "$hang" "$1" "$2" "$limit" >"$work/log.$1" 2>&1; then
        echo "$1: right" >>"$work/tally"
    else
        echo "$1: wrong" >>"$work/tally"
        cat "$work/log.$1"
    fi
}

for i in $(seq "$hangs"); do
    hung stop 2 $((i % 2)) &
    hung inside 2 $(((i + 1) % 2)) &
    hung sleep 2 $((i % 2)) &
    hung tp 4 $((i % 4)) &
    wait
    hung spin 2 $(((i + 1) % 2)) &
    lives suspend $(((i + 1) % 2)) &
    wait
    lives starve $((i % 2))
done
LORAD_COMM_SHM=0 hung stop 2 1 # messages instead of shared memory

# A collective that one rank leaves out: nobody is wrong alone, so all are listed.
timeout 120 mpirun -q -np 2 "$hang" skip 1 "$limit" >"$work/log" 2>&1
[ $? = 71 ] || { cat "$work/log"; fail "a collective left out: not code 71"; }
grep -q "error: the ranks wait for each other .*rank 0 in host_all_reduce (collective" "$work/log" &&
    grep -q "warning: rank 1 on host .* in host_all_reduce (collective" "$work/log" ||
    { cat "$work/log"; fail "a collective left out: the ranks are not listed"; }

# A run: stopped evenly over it, in saves and in evaluations.
start() { # NAME
    mpirun -q -np 2 "$lorad" --config configs/fin_stage1.yaml --set tensor_parallel_size=1 --set output_dir="$work/$1" \
        --set bf16=false --set fp32=true --set cutoff_len=128 --set max_steps=2000 --set logging_steps=1 \
        --set per_device_train_batch_size=2 --set global_batch_size=4 --set eval_strategy=steps --set eval_steps=10 \
        --set save_strategy=steps --set save_steps=2 --set save_total_limit=3 --set load_best_model_at_end=false \
        --set resume_from_checkpoint=auto --set cache_dir="$work/cache" --set report_to=none --set progress=lines \
        --set hang_timeout="$limit"
}
# pid_of RANK
pid_of() {
    local pid
    for pid in $(victims_all); do
        tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$1" && echo "$pid"
    done
}
evaluates() { tail -n 1 "$work/run/logs/metrics.jsonl" | grep -q '"step": *[0-9]*0,.*"loss"'; }

# stopped WHERE RANK
stopped() {
    local job code
    rm -rf "$work/run"
    touch "$work/started"
    start run >"$work/log" 2>&1 &
    job=$!
    until committed; do kill -0 $job || { cat "$work/log"; fail "the run ended"; }; sleep 0.01; done
    pid=$(pid_of "$2")
    snooze 500
    case $1 in
    save) until unfinished; do :; done ;;
    evaluation) until evaluates; do :; done ;;
    esac
    kill -STOP "$pid"
    buried $job
    code=$?
    judged "run, at $1" $code "$2" "$work/log"
    grep -m 1 -o "phase [a-z]*" "$work/log" >>"$work/hung_in"
}
for i in $(seq "$hangs"); do
    stopped any $((i % 2))
    stopped save $(((i + 1) % 2))
    stopped evaluation $((i % 2))
done

sort "$work/tally" | uniq -c
echo "runs stopped in: $(sort "$work/hung_in" | uniq -c | tr -s ' \n' ' ')"
wrong=$(grep -c wrong "$work/tally") all=$(wc -l <"$work/tally")
[ $((wrong * 100)) -le "$all" ] || fail "$wrong of $all wrong"
