#!/usr/bin/env bash
# Any layout goes on from any other's checkpoint, in f32: the rows stay in their order, and the losses are those of one rank
# within the bounds of layouts.sh; with `deterministic: elastic` the bits stay as long as the TP width does.
# LORAD_LAYOUT_SUMS=true instead of elastic: within the bounds alone. By default a few pairs; LORAD_ALL_PAIRS=1: every pair of 1x1, TP2, TP4, DP2, DP4, TP2xDP2.
. "$(dirname "$0")/../support/lib.sh"
. tests/support/kill.sh
need_mpirun
steps=${LORAD_LAYOUT_STEPS:-6} half=$((${LORAD_LAYOUT_STEPS:-6} / 2))
sums=${LORAD_LAYOUT_SUMS:-elastic}
layouts="1x1:1:1 TP2:2:2 TP4:4:4 DP2:2:1 DP4:4:1 TP2xDP2:4:2" # NAME:RANKS:TP
pairs="1x1>TP2xDP2 TP2>DP4 TP4>1x1 DP2>1x1 DP4>TP4 TP2xDP2>TP2"

train() { # NAME LAYOUT
    local name n tp
    IFS=: read -r name n tp <<<"$(tr ' ' '\n' <<<"$layouts" | grep "^$2:")"
    ranks "$n" "$lorad" --config configs/fin_stage1.yaml --set tensor_parallel_size="$tp" --set output_dir="$work/$1" \
        --set deterministic="$sums" --set bf16=false --set fp32=true --set cutoff_len=64 --set max_steps="$steps" \
        --set logging_steps=1 --set per_device_train_batch_size=1 --set global_batch_size=6 --set eval_strategy=no \
        --set save_strategy=steps --set save_steps="$half" --set save_total_limit=100 --set lora_dropout=0.1 \
        --set load_best_model_at_end=false --set resume_from_checkpoint=auto --set cache_dir="$work/cache" \
        --set report_to=none >"$work/log" 2>&1 || { cat "$work/log"; fail "$1 did not train"; }
    result "$1" >"$work/$1.bits"
    field "$work/$1/logs/metrics.jsonl" loss >"$work/$1.loss"
    # What says which rows a step had: how many tokens, how many of them supervised, and how far the epoch is.
    for key in tokens supervised_tokens epoch; do field "$work/$1/logs/metrics.jsonl" $key; done >"$work/$1.order"
    [ "$(wc -l <"$work/$1.loss")" = "$steps" ] || fail "$1 logged $(wc -l <"$work/$1.loss") steps, not $steps"
}

tp_of() { tr ' ' '\n' <<<"$layouts" | grep "^$1:" | cut -d: -f3; }

go_on() { # FROM TO
    local name="$1-$2" gap bits=""
    [ -e "$work/$1.bits" ] || train "$1" "$1"
    cp -a "$work/$1" "$work/$name"
    rm -rf "$work/$name"/ckpt/s*"$(printf %09d "$steps")".*
    train "$name" "$2"
    grep -q "layout changed from" "$work/log" || [ "$1" = "$2" ] || { cat "$work/log"; fail "$name did not go on from the checkpoint"; }
    cmp -s "$work/1x1.order" "$work/$name.order" || { diff "$work/1x1.order" "$work/$name.order" | head; fail "$name has other rows"; }
    gap=$(worst "$work/1x1.loss" "$work/$name.loss")
    at_most "$gap" 1e-5 || fail "$name differs from one rank by $gap"
    if [ "$sums" = elastic ] && [ "$(tp_of "$1")" = "$(tp_of "$2")" ]; then
        cmp -s "$work/$1.bits" "$work/$name.bits" || { diff "$work/$1.bits" "$work/$name.bits" | head; fail "$name has other bits"; }
        bits=", and the bits of $1"
    fi
    echo "$1 to $2 at step $half: the same rows, losses within $gap of one rank$bits"
    rm -rf "${work:?}/$name"
}

if [ -n "${LORAD_ALL_PAIRS:-}" ]; then
    pairs=""
    for from in $layouts; do for to in $layouts; do pairs="$pairs ${from%%:*}>${to%%:*}"; done; done
fi
train 1x1 1x1
for pair in $pairs; do go_on "${pair%>*}" "${pair#*>}"; done
