# kill -9 of parts of a supervised run: of a rank, rank 0, all ranks, mpirun, the supervisor. It goes on by itself (a killed
# supervisor is started again), no rank outlives its supervisor by 5 s, MPI's files are removed, and in the end every loss and
# the adapter have the bits of an uninterrupted run.
# LORAD_KILLS (default 5): in turn over LORAD_KILL_PARTS ("rank rank_0 mpirun all supervisor"). LORAD_KILL_SEED.
. "$(dirname "$0")/../support/lib.sh"
. tests/support/supervise.sh
. tests/support/kill.sh
need_mpirun
kills=${LORAD_KILLS:-5} n=${LORAD_KILL_RANKS:-2} tp=${LORAD_KILL_TP:-2} steps=${LORAD_KILL_STEPS:-24}
read -ra parts <<<"${LORAD_KILL_PARTS:-rank rank_0 mpirun all supervisor}"
RANDOM=${LORAD_KILL_SEED:-20261126}
committed() { compgen -G "$work/run/ckpt/*/MANIFEST.json" | wc -l; } # kill.sh asks something else

start() { # NAME
    exec "$lorad" run -np "$n" --config configs/fin_stage1.yaml --set tensor_parallel_size="$tp" --set output_dir="$work/$1" \
        --set bf16=false --set fp32=true --set cutoff_len=128 --set max_steps="$steps" --set logging_steps=1 \
        --set per_device_train_batch_size=2 --set global_batch_size=4 --set eval_strategy=steps --set eval_steps=8 \
        --set save_strategy=steps --set save_steps=3 --set save_total_limit=3 --set load_best_model_at_end=false \
        --set lora_dropout=0.1 --set resume_from_checkpoint=auto --set cache_dir="$work/cache" --set report_to=none \
        --set eval_file="$work/eval.jsonl"
}

head -n 20 tests/data/finance-zh/fin_heldout.jsonl >"$work/eval.jsonl"
(start whole) >"$work/whole.log" 2>&1 || { cat "$work/whole.log"; fail "the uninterrupted run failed"; }
result whole >"$work/whole.txt"
[ "$(wc -l <"$work/whole.txt")" -gt "$steps" ] || fail "the uninterrupted run logged too little"

# new_commit OLD: whether there is another checkpoint than OLD. The run may have ended meanwhile.
new_commit() { kill -0 "$job" 2>/dev/null || return 0; [ -n "$(newest)" ] && [ "$(newest)" != "$1" ]; }
# strike PART: kills it. 1: it is not there.
strike() {
    local victims
    case $1 in
    rank) victims=$(rank_pids | shuf -n 1 --random-source=<(yes "$RANDOM")) ;;
    rank_0) victims=$(rank_0) ;;
    all) victims=$(rank_pids) ;;
    mpirun) victims=$(mpirun_pid) ;;
    supervisor) victims=$job ;;
    esac
    [ -n "$victims" ] && kill -9 $victims 2>/dev/null
}

left=$kills rounds=0 killed=0
while [ "$left" -gt 0 ]; do
    rm -rf "$work/run"
    rounds=$((rounds + 1))
    (start run) >>"$work/run.log" 2>&1 &
    job=$!
    while [ "$left" -gt 0 ]; do
        last=$(newest)
        until_true 120 new_commit "$last" || { tail -n 30 "$work/run.log"; fail "no new checkpoint after a kill"; }
        snooze 400
        kill -0 "$job" 2>/dev/null || break
        part=${parts[$((left % ${#parts[@]}))]}
        strike "$part" || continue
        left=$((left - 1)) killed=$((killed + 1))
        echo "$part" >>"$work/phases"
        [ "$part" = supervisor ] || continue
        wait "$job" 2>/dev/null
        # One that starts at once takes the folder over; every other time it is seen that nothing lives on.
        if [ $((RANDOM % 2)) = 0 ]; then until_true 5 no_ranks || fail "ranks outlive their supervisor: $(rank_pids)"; fi
        (start run) >>"$work/run.log" 2>&1 &
        job=$!
    done
    wait "$job"
    code=$?
    [ $code = 0 ] || { tail -n 40 "$work/run.log"; fail "the supervised run ended with code $code"; }
    result run >"$work/run.txt"
    cmp -s "$work/whole.txt" "$work/run.txt" || { diff "$work/whole.txt" "$work/run.txt" | head; fail "round $rounds differs"; }
done
nothing_left "the end" 99
folders=$(ls "$TMPDIR" | wc -l)
dead=$(grep -c supervisor "$work/phases")
[ "$folders" -le "$dead" ] || fail "$folders folders are left by $dead killed supervisors"
echo "$killed kills in $rounds runs, all bit-identical: $(sort "$work/phases" | uniq -c | tr -s ' \n' ' ')"
