# kill -9 of a random rank at random instants, resumed each time, until the run ends: every logged loss and the adapter
# have the same bits as an uninterrupted run's.
# LORAD_KILLS (default 2): so many kills uniform over training time after the first commit, and as many aimed into saves.
# LORAD_KILL_RANKS (default 2), LORAD_KILL_TP (default 2), LORAD_KILL_SEED.
# LORAD_KILL_WORLDS (such as "1 2 4"): the run goes on with each of these numbers of ranks in turn, under `deterministic:
# elastic`; the uninterrupted one has LORAD_KILL_RANKS.
. "$(dirname "$0")/../support/lib.sh"
. tests/support/kill.sh
need_mpirun
kills=${LORAD_KILLS:-2} n=${LORAD_KILL_RANKS:-2} tp=${LORAD_KILL_TP:-2} steps=${LORAD_KILL_STEPS:-24}
RANDOM=${LORAD_KILL_SEED:-20260801}
read -ra worlds <<<"${LORAD_KILL_WORLDS:-}"

start() { # NAME
    local n=$n
    if [ "$1" = run ] && [ ${#worlds[@]} -gt 0 ]; then
        echo >>"$work/starts"
        n=${worlds[$(wc -l <"$work/starts") % ${#worlds[@]}]}
    fi
    mpirun -np "$n" "$lorad" --config configs/fin_stage1.yaml --set tensor_parallel_size="$tp" --set output_dir="$work/$1" \
        --set bf16=false --set fp32=true --set cutoff_len=128 --set max_steps="$steps" --set logging_steps=1 \
        --set per_device_train_batch_size="$([ ${#worlds[@]} -gt 0 ] && echo 1 || echo 2)" --set global_batch_size=4 --set eval_strategy=steps --set eval_steps=8 \
        --set save_strategy=steps --set save_steps=3 --set save_total_limit=3 --set load_best_model_at_end=false \
        --set lora_dropout=0.1 --set resume_from_checkpoint=auto --set cache_dir="$work/cache" --set report_to=none \
        --set eval_file="$work/eval.jsonl" --set deterministic="$([ ${#worlds[@]} -gt 0 ] && echo elastic || echo true)"
}

head -n 20 tests/data/finance-zh/fin_heldout.jsonl >"$work/eval.jsonl"
run_whole
[ "$(wc -l <"$work/whole.txt")" -gt "$steps" ] || fail "the uninterrupted run logged too little"
kill_and_compare $((kills * 2)) save any
