# Two starts on one output_dir: one trains, the other is refused (73) or fenced (76), whichever comes first, with and without
# locks in the file system. And the dead that walk again: a run is frozen in training or in a save, the next start of its job
# (or, where there are no locks, any other once its heartbeat is old) takes over, the frozen one goes on: it ends with 76 and
# leaves no trace. Every time the steps, losses and adapter are those of a run alone, and no link leads to a void checkpoint.
# LORAD_RACES (default 6): so many, the six kinds in turn. LORAD_RACE_FREEZE (default 0): seconds a frozen run stays so after the
# other has committed. LORAD_RACE_SEED.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
races=${LORAD_RACES:-6} freeze=${LORAD_RACE_FREEZE:-0} steps=14
RANDOM=${LORAD_RACE_SEED:-20260801}
without_locks=$LORAD_TEST_BUILD/without_locks
"$without_locks" true || { echo "skipped: no seccomp filters here"; exit 77; }

# start NAME RANKS: in the place of this shell
start() {
    local launcher=()
    [ "$2" = 1 ] || launcher=(mpirun -q -np "$2")
    exec ${wrapper:-} "${launcher[@]}" "$lorad" --config configs/fin_stage1.yaml --set tensor_parallel_size=1 --set output_dir="$work/$1" \
        --set bf16=false --set fp32=true --set cutoff_len=64 --set max_steps=$steps --set logging_steps=1 \
        --set per_device_train_batch_size=2 --set global_batch_size=4 --set eval_strategy=no --set save_strategy=steps \
        --set save_steps=2 --set save_total_limit=3 --set load_best_model_at_end=false --set eval_file="$work/eval.jsonl" \
        --set lora_dropout=0.1 --set resume_from_checkpoint=auto --set cache_dir="$work/cache" --set report_to=none
}
result() { # NAME
    field "$work/$1/logs/metrics.jsonl" step
    field "$work/$1/logs/metrics.jsonl" loss
    field "$work/$1/logs/metrics.jsonl" grad_norm
    sha256sum <"$work/$1/adapter_model.safetensors"
}
snooze() { sleep "$(awk -v r=$RANDOM -v ms="$1" 'BEGIN { print r / 32768 * ms / 1000 }')"; }
processes() { pgrep -f "output_dir=$work/$1 "; } # NAME
unfinished() { # NAME: a save is going on
    local d
    for d in "$work/$1"/ckpt/*/; do [ ! -d "$d" ] || [ -e "$d/MANIFEST.json" ] || return 0; done
    return 1
}
committed() { compgen -G "$work/$1/ckpt/*.e$(printf %07d "$2").*/MANIFEST.json" >/dev/null; } # NAME EPOCH
# A checkpoint is void when a later epoch began with an earlier step.
no_link_is_void() { # NAME
    local link name step epoch record base
    for link in "$work/$1"/checkpoint-*; do
        name=$(basename "$(readlink "$link")")
        step=$((10#${name:1:9})) epoch=$((10#${name:12:7}))
        for record in "$work/$1"/epoch/*.resume; do
            base=$(sed -E 's/.*"base_step": *([0-9]+).*/\1/' "$record")
            [ $((10#$(basename "$record" .resume | tr -d e))) -le $epoch ] || [ "$base" -ge $step ] ||
                fail "$1: $link leads to $name, but $(basename "$record") began with step $base"
        done
    done
}
# one_of CODE CODE NAME: one trained, the other did not
one_of() {
    case "$1 $2" in
    "0 73" | "0 76" | "73 0" | "76 0") echo "$1 $2" | tr -d '0 ' >>"$work/codes" ;;
    *) tail -n 5 "$work/$3".[ab].log; fail "$3: the two ended with $1 and $2" ;;
    esac
}

together() { # NAME
    local a b code
    (start "$1" 1) >"$work/$1.a.log" 2>&1 </dev/null & a=$!
    snooze 300
    (start "$1" 1) >"$work/$1.b.log" 2>&1 </dev/null & b=$!
    wait $a
    code=$?
    wait $b
    one_of $code $? "$1"
}
same_job() { # NAME: the first and the second start of a job, in either order
    local a b code first=$((RANDOM % 2))
    (LORAD_JOB_ID=job LORAD_RESTART_COUNT=$first start "$1" 1) >"$work/$1.a.log" 2>&1 </dev/null & a=$!
    snooze 300
    (LORAD_JOB_ID=job LORAD_RESTART_COUNT=$((1 - first)) start "$1" 1) >"$work/$1.b.log" 2>&1 </dev/null & b=$!
    wait $a
    code=$?
    wait $b
    one_of $code $? "$1"
}
# zombie NAME RANKS train|save: LORAD_JOB_ID is set or empty
zombie() {
    local old new code pids
    (LORAD_RESTART_COUNT=0 start "$1" "$2") >"$work/$1.a.log" 2>&1 </dev/null & old=$!
    until committed "$1" 1; do kill -0 $old 2>/dev/null || fail "$1: over too soon"; sleep 0.005; done
    if [ "$3" = save ]; then until unfinished "$1" || ! kill -0 $old 2>/dev/null; do :; done; else snooze 200; fi
    mapfile -t pids < <(processes "$1")
    kill -STOP "${pids[@]}" 2>/dev/null
    if unfinished "$1"; then echo save >>"$work/phases"; else echo training >>"$work/phases"; fi
    [ -n "$LORAD_JOB_ID" ] || sleep 1.5 # until its heartbeat is old
    (LORAD_RESTART_COUNT=1 start "$1" "$2") >"$work/$1.b.log" 2>&1 </dev/null & new=$!
    until committed "$1" 2; do kill -0 $new 2>/dev/null || break; sleep 0.01; done
    sleep "$freeze"
    kill -CONT "${pids[@]}" 2>/dev/null
    wait $new || { tail -n 5 "$work/$1.b.log"; fail "$1: the take-over ended with $?"; }
    wait $old
    code=$?
    [ $code = 76 ] || { tail -n 5 "$work/$1.a.log"; fail "$1: the frozen run ended with $code"; }
    echo 76 >>"$work/codes"
}

head -n 4 tests/data/finance-zh/fin_heldout.jsonl >"$work/eval.jsonl"
for n in 1 2; do
    (start whole "$n") >"$work/whole.log" 2>&1 </dev/null || { tail "$work/whole.log"; fail "the run alone failed"; }
    result whole >"$work/whole$n.txt"
    [ "$(grep -c . "$work/whole$n.txt")" = $((3 * steps + 1)) ] || fail "the run alone logged $(grep -c . "$work/whole$n.txt") lines"
    rm -rf "$work/whole"
done
for i in $(seq "$races"); do
    n=1 wrapper='' kind=$((i % 6))
    unset LORAD_HEARTBEAT_MS
    export LORAD_JOB_ID=
    case $kind in
    1) together "race$i" ;;
    2) wrapper=$without_locks; together "race$i" ;;
    3) same_job "race$i" ;;
    4) export LORAD_JOB_ID=job; zombie "race$i" 1 save ;;
    5) n=2; export LORAD_JOB_ID=job; zombie "race$i" 2 "$([ $((RANDOM % 2)) = 0 ] && echo save || echo train)" ;;
    0) export LORAD_HEARTBEAT_MS=100; wrapper=$without_locks; zombie "race$i" 1 train ;;
    esac
    result "race$i" >"$work/result.txt"
    cmp -s "$work/whole$n.txt" "$work/result.txt" || { diff "$work/whole$n.txt" "$work/result.txt" | head; fail "race $i (kind $kind) differs"; }
    no_link_is_void "race$i"
    rm -rf "$work/race$i"
done
echo "$races races, all bit-identical; the loser's code: $(sort "$work/codes" | uniq -c | tr -s ' \n' ' '); frozen in: $(sort "$work/phases" |
    uniq -c | tr -s ' \n' ' ')"
