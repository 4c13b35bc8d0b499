# kill -9 of a random rank at random instants, resumed each time, until the run ends: every logged loss and the adapter
# have the same bits as an uninterrupted run's.
# LORAD_KILLS (default 3): so many kills uniform over training time after the first commit, and as many aimed into saves.
# LORAD_KILL_RANKS (default 2), LORAD_KILL_TP (default 2), LORAD_KILL_SEED.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
kills=${LORAD_KILLS:-3} n=${LORAD_KILL_RANKS:-2} tp=${LORAD_KILL_TP:-2} steps=${LORAD_KILL_STEPS:-40}
RANDOM=${LORAD_KILL_SEED:-20260801}

start() { # NAME
    mpirun -np "$n" "$lorad" --config configs/fin_stage1.yaml --set tensor_parallel_size="$tp" --set output_dir="$work/$1" \
        --set bf16=false --set fp32=true --set cutoff_len=256 --set max_steps="$steps" --set logging_steps=1 \
        --set per_device_train_batch_size=2 --set global_batch_size=4 --set eval_strategy=steps --set eval_steps=8 \
        --set save_strategy=steps --set save_steps=3 --set save_total_limit=3 --set load_best_model_at_end=false \
        --set lora_dropout=0.1 --set resume_from_checkpoint=auto --set cache_dir="$work/cache" --set report_to=none \
        --set eval_file="$work/eval.jsonl"
}

result() { # NAME: losses, norms, evaluations and the adapter's bytes
    field "$work/$1/logs/metrics.jsonl" loss
    field "$work/$1/logs/metrics.jsonl" grad_norm
    grep -o '"eval_loss": *[^,}]*' "$work/$1/logs/metrics.jsonl"
    sha256sum <"$work/$1/adapter_model.safetensors"
}

head -n 20 tests/data/finance-zh/fin_heldout.jsonl >"$work/eval.jsonl"
start whole >"$work/whole.log" 2>&1 || { cat "$work/whole.log"; fail "the uninterrupted run failed"; }
begin=$(date +%s%N)
rm -rf "$work/whole"
start whole >"$work/whole.log" 2>&1 || fail "the uninterrupted run failed the second time"
whole_ms=$((($(date +%s%N) - begin) / 1000000))
result whole >"$work/whole.txt"
[ "$(wc -l <"$work/whole.txt")" -gt "$steps" ] || fail "the uninterrupted run logged too little"

committed() { compgen -G "$work/run/ckpt/*/MANIFEST.json" >/dev/null; }
unfinished() { # a checkpoint folder without a manifest: a save is going on
    local d
    for d in "$work"/run/ckpt/*/; do [ -e "$d/MANIFEST.json" ] || { [ -d "$d" ] && return 0; }; done
    return 1
}
victims() { pgrep -f "^$lorad --config .*output_dir=$work/run( |$)" | shuf -n 1 --random-source=<(yes "$RANDOM"); }

# strike MODE: waits for the instant, kills, waits for the end. Exit 1: the run ended before.
strike() {
    local mode=$1 job=$2 i
    until committed; do kill -0 "$job" 2>/dev/null || return 1; sleep 0.01; done
    if [ "$mode" = save ]; then
        sleep "$(awk -v r=$RANDOM 'BEGIN { print r / 32768 * 0.3 }')"
        until unfinished; do kill -0 "$job" 2>/dev/null || return 1; sleep 0.001; done
        sleep "$(awk -v r=$RANDOM 'BEGIN { print r / 32768 * 0.03 }')"
    else
        sleep "$(awk -v r=$RANDOM -v ms=$whole_ms 'BEGIN { print r / 32768 * ms / 1000 * 0.8 }')"
    fi
    local pid phase=step
    pid=$(victims)
    [ -n "$pid" ] || return 1
    if unfinished; then phase=save; fi
    kill -9 "$pid" 2>/dev/null || return 1
    echo "$phase" >>"$work/phases"
    # A rank that dies while it shakes hands with mpirun can leave Open MPI 4.1 waiting for ever.
    for i in $(seq 200); do kill -0 "$job" 2>/dev/null || break; sleep 0.1; done
    pkill -9 -P "$job" && echo "mpirun did not end by itself"
    wait "$job"
    return 0
}

left=$((kills * 2)) rounds=0
: >"$work/phases"
while [ "$left" -gt 0 ]; do
    rm -rf "$work/run"
    rounds=$((rounds + 1))
    finished=no
    while [ "$finished" = no ]; do
        start run >>"$work/run.log" 2>&1 &
        job=$!
        if [ "$left" -gt 0 ] && strike "$([ $((left % 2)) = 0 ] && echo save || echo any)" $job 2>/dev/null; then
            left=$((left - 1))
        else
            wait $job
            code=$?
            [ $code = 0 ] || { tail -n 30 "$work/run.log"; fail "a resumed run exited $code"; }
            finished=yes
        fi
    done
    result run >"$work/run.txt"
    cmp -s "$work/whole.txt" "$work/run.txt" || { diff "$work/whole.txt" "$work/run.txt" | head; fail "round $rounds differs"; }
done
echo "$(wc -l <"$work/phases") kills in $rounds runs, all bit-identical; phase hit: $(sort "$work/phases" | uniq -c | tr -s ' \n' ' ')"
