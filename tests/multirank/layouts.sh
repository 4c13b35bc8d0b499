# The same global batch gives the same losses at every layout: fin_stage1 at TP x DP of 1x1, 2x1, 4x1, 1x2, 2x2.
# LORAD_LAYOUT_STEPS (default 3) steps of packs of LORAD_LAYOUT_CUTOFF (default 256) tokens,
# LORAD_LAYOUT_PRECISIONS (default "fp32 bf16"). Bounds: first 20 steps 1e-5 and
# later ones 1e-4 in f32 (sums in another order), 2e-3 in bf16 (partial sums are rounded before they are added).
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
steps=${LORAD_LAYOUT_STEPS:-3} cutoff=${LORAD_LAYOUT_CUTOFF:-256}

losses() { # NAME RANKS TP PRECISION MODEL
    mpirun -np "$2" "$lorad" --config configs/fin_stage1.yaml --set tensor_parallel_size="$3" --set "$4=true" --set bf16="$([ "$4" = bf16 ] && echo true || echo false)" \
        --set model_name_or_path="$5" --set output_dir="$work/$1" --set max_steps="$steps" --set logging_steps=1 \
        --set per_device_train_batch_size=2 --set global_batch_size=8 --set cutoff_len="$cutoff" --set eval_strategy=no --set save_strategy=no \
        --set load_best_model_at_end=false --set cache_dir="$work/cache" --set lora_dropout=0.05 --set report_to=none \
        >"$work/$1.log" 2>&1 || { cat "$work/$1.log"; fail "$1 did not train"; }
    field "$work/$1/logs/metrics.jsonl" loss >"$work/$1.loss"
    [ "$(wc -l <"$work/$1.loss")" = "$steps" ] || fail "$1 logged $(wc -l <"$work/$1.loss") steps, not $steps"
}

compare() { # PRECISION MODEL LABEL
    local model=$2 label=$3 early=1e-5 late=1e-4
    [ "$1" = bf16 ] && early=2e-3 late=2e-3
    losses "$label-1x1" 1 1 "$1" "$model"
    local layout
    for layout in 2:2:TP2 4:4:TP4 2:1:DP2 4:2:TP2xDP2; do
        IFS=: read -r n tp name <<<"$layout"
        losses "$label-$name" "$n" "$tp" "$1" "$model"
        head -n 20 "$work/$label-1x1.loss" >"$work/a"
        head -n 20 "$work/$label-$name.loss" >"$work/b"
        local first whole
        first=$(worst "$work/a" "$work/b")
        whole=$(worst "$work/$label-1x1.loss" "$work/$label-$name.loss")
        echo "$label $1 $name against 1x1: first 20 steps $first, all $steps steps $whole"
        at_most "$first" $early || fail "$label $1 $name differs by $first in the first 20 steps"
        at_most "$whole" $late || fail "$label $1 $name differs by $whole over the run"
    done
}

for precision in ${LORAD_LAYOUT_PRECISIONS:-fp32 bf16}; do
    compare "$precision" tests/data/models/fin-zh-tiny "fin-zh-tiny-$precision"
done
