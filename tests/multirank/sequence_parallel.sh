# sequence_parallel changes where the sums between the blocks end, not what they are: the golden runs under the bounds of
# one rank in every gradient_checkpointing, 2 key/value heads on 4 ranks included; and fin_stage1 at TP 2, TP 4 and
# TP 2 x DP 2, f32 and bf16, with the very bits of the losses, gradient norms and held-out losses that it has without, for
# micro-batches whose tokens do not divide by the ranks. Then the plan counts less memory, and an answer is the same.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
golden=$(dirname "$lorad")/tests/golden_layout

mpirun -np 2 "$golden" --sequence-parallel 2 qwen3_norm qwen2_bias || fail "golden runs on 2 ranks"
mpirun -np 4 "$golden" --sequence-parallel 4 qwen3_norm qwen2_kv2 || fail "golden runs on 4 ranks"
mpirun -np 4 "$golden" --sequence-parallel 2 llama3_rope || fail "golden runs on 2 x 2 ranks"

common=(--config configs/fin_stage1.yaml --set model_name_or_path=tests/data/models/fin-zh-tiny --set cache_dir="$work/cache"
    --set report_to=none)
head -n 11 tests/data/finance-zh/fin_heldout.jsonl >"$work/eval.jsonl"
train() { # NAME RANKS TP PRECISION ARGUMENTS
    mpirun -np "$2" "$lorad" "${common[@]}" --set tensor_parallel_size="$3" --set bf16=false --set "$4=true" \
        --set output_dir="$work/$1" --set max_steps=3 --set logging_steps=1 --set per_device_train_batch_size=1 \
        --set global_batch_size="$(($2 / $3))" --set cutoff_len=150 --set eval_file="$work/eval.jsonl" \
        --set eval_strategy=steps --set eval_steps=3 \
        --set save_strategy=no --set load_best_model_at_end=false --set lora_dropout=0.05 "${@:5}" \
        >"$work/$1.log" 2>&1 || { cat "$work/$1.log"; fail "$1 did not train"; }
    for key in loss grad_norm eval_loss; do
        grep -oE "\"$key\": ?[^,}]*" "$work/$1/logs/metrics.jsonl"
    done >"$work/$1.values"
}
logged() { # NAME
    [ "$(wc -l <"$work/$1.values")" -ge 7 ] || fail "$1 logged only $(cat "$work/$1.values")"
}

for layout in 2:2:fp32:"none mlp layer" 4:4:fp32:none 4:4:bf16:"none mlp layer" 4:2:bf16:none; do
    IFS=: read -r n tp precision modes <<<"$layout"
    name=tp$tp-of-$n-$precision
    train "$name" "$n" "$tp" "$precision"
    logged "$name"
    field "$work/$name/logs/metrics.jsonl" tokens | awk -v tp="$tp" '$1 % tp { uneven = 1 } END { exit !uneven }' ||
        fail "all micro-batches divide by $tp"
    for mode in $modes; do
        train "$name-rows-$mode" "$n" "$tp" "$precision" --set sequence_parallel=true --set gradient_checkpointing="$mode"
        cmp "$work/$name.values" "$work/$name-rows-$mode.values" || {
            paste "$work/$name.values" "$work/$name-rows-$mode.values"
            fail "$name: sequence_parallel with gradient_checkpointing $mode gives other values"
        }
    done
    echo "$name: the same bits"
done

# A resume may turn it on, and says so.
train off 2 2 bf16 --set save_strategy=steps --set save_steps=2
logged off
train on 2 2 bf16 --set sequence_parallel=true --set resume_from_checkpoint="$work/off/checkpoint-2"
grep -q "sequence_parallel was off before and is on now: the same bits" "$work/on.log" &&
    [ "$(wc -l <"$work/on.values")" = 3 ] && ! grep -vxFf "$work/off.values" "$work/on.values" ||
    { cat "$work/on.log"; fail "a resume with sequence_parallel gives $(cat "$work/on.values")"; }

# In layer mode the residuals are all that is saved.
saved() {
    "$lorad" check "${common[@]}" --ranks 4 --set tensor_parallel_size=4 --set output_dir="$work/planned" \
        --set gradient_checkpointing=layer --set sequence_parallel="$1" | awk '/saved activations/ { print $3 }'
}
whole=$(saved false) share=$(saved true)
awk -v whole="$whole" -v share="$share" 'BEGIN { exit !(share > 0 && share <= 0.26 * whole) }' ||
    fail "saved activations of $whole MiB become $share MiB on 4 ranks"
echo "saved activations: $whole MiB, by rows $share MiB"

for rows in false true; do
    mpirun -np 2 "$lorad" generate "${common[@]}" --set tensor_parallel_size=2 --set output_dir="$work/none" --no-adapter \
        --set sequence_parallel=$rows --prompt 公司会分红吗？ --max-new-tokens 8 >"$work/answer-$rows" 2>"$work/err" ||
        { cat "$work/err"; fail "generate with sequence_parallel $rows"; }
done
[ -s "$work/answer-true" ] && cmp "$work/answer-false" "$work/answer-true" || fail "another answer"
