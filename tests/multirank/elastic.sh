#!/usr/bin/env bash
# deterministic: elastic on the demo: losses, norms, evaluations and the adapter have the same bits with 1, 2 and 4
# data-parallel ranks, through a NaN, an infinity, a spike and a collapse of the gradient, and when a run goes on from a
# checkpoint with another number of ranks; at TP 1 and TP 2.
# LORAD_ELASTIC_STEPS (default 16), LORAD_ELASTIC_PRECISIONS (default fp32; "fp32 bf16").
. "$(dirname "$0")/../support/lib.sh"
. tests/support/kill.sh
need_mpirun
steps=${LORAD_ELASTIC_STEPS:-16}
program=$LORAD_TEST_BUILD/bin/poisoned
export LORAD_TEST_POISON="3:nan 7:spike 9:inf 13:collapse"

train() { # NAME RANKS TP
    ranks "$2" "$program" --config configs/fin_stage1.yaml --set tensor_parallel_size="$3" --set output_dir="$work/$1" \
        --set deterministic=elastic --set bf16="$([ "$precision" = bf16 ] && echo true || echo false)" \
        --set fp32="$([ "$precision" = fp32 ] && echo true || echo false)" --set cutoff_len=64 --set max_steps="$steps" \
        --set logging_steps=1 --set per_device_train_batch_size=1 --set global_batch_size=5 --set eval_strategy=steps \
        --set eval_steps=10 --set save_strategy=steps --set save_steps=5 --set save_total_limit=100 --set lora_dropout=0.1 \
        --set load_best_model_at_end=false --set resume_from_checkpoint=auto --set cache_dir="$work/cache" \
        --set report_to=none --set eval_file="$work/eval.jsonl" >"$work/log" 2>&1 || { cat "$work/log"; fail "$1 did not train"; }
    result "$1" >"$work/$1.txt"
    [ "$(field "$work/$1/logs/metrics.jsonl" step | wc -l)" = "$steps" ] || fail "$1 logged other than $steps steps"
}

same() { # NAME FIRST
    cmp -s "$work/$2.txt" "$work/$1.txt" || { diff "$work/$2.txt" "$work/$1.txt" | head; fail "$precision: $1 differs from $2"; }
}

# go_on NAME FROM STEP RANKS TP: what FROM was at STEP goes on.
go_on() {
    local one
    rm -rf "${work:?}/$1"
    cp -a "$work/$2" "$work/$1"
    for one in "$work/$1"/ckpt/s*; do
        [ "$(echo "${one##*/s}" | sed 's/\..*//; s/^0*//')" -le "$3" ] || rm -rf "$one"
    done
    train "$1" "$4" "$5"
    grep -q "step $3\$" "$work/log" || { cat "$work/log"; fail "$1 did not go on from step $3"; }
    grep -q "and the same bits" "$work/log" || { cat "$work/log"; fail "$1 did not say that the bits stay"; }
    same "$1" "$2"
}

head -n 12 tests/data/finance-zh/fin_heldout.jsonl >"$work/eval.jsonl"
for precision in ${LORAD_ELASTIC_PRECISIONS:-fp32}; do
    rm -rf "$work"/tp*
    for tp in 1 2; do
        train "tp$tp-dp1" "$tp" "$tp"
        again=$(grep -c "computed again" "$work/log")
        skipped=$(grep -o "step [0-9]* skipped" "$work/log" | sort -u | wc -l)
        [ "$again" -ge 2 ] || fail "the spike and the collapse fitted"
        [ "$skipped" = 2 ] || fail "$skipped steps were skipped, not 2"
        train "tp$tp-dp2" $((2 * tp)) "$tp"
        same "tp$tp-dp2" "tp$tp-dp1"
        echo "$precision, TP $tp: DP 1 and 2 the same bits in $steps steps, $again of them computed again, $skipped skipped"
    done
    train tp1-dp4 4 1
    same tp1-dp4 tp1-dp1
    go_on tp1-more tp1-dp1 10 4 1
    go_on tp1-fewer tp1-dp4 5 1 1
    go_on tp2-more tp2-dp1 15 4 2
    echo "$precision: DP 4, and 1 to 4, 4 to 1, TP 2 x DP 1 to TP 2 x DP 2 at a resume: the same bits"
done
