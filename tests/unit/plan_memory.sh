#!/usr/bin/env bash
# What `lorad check` plans for a GPU that is not here, and auto_find_batch_size: as much as the memory holds, less where there is
# less, never more than a rank's share of the step; the run takes what the check says.
. "$(dirname "$0")/../support/lib.sh"
grep -v per_device_train_batch_size configs/quickstart.yaml >"$work/auto.yaml"
plan() { # RANKS OPTIONS...
    local ranks=$1
    shift
    "$lorad" check --config "$work/auto.yaml" --ranks "$ranks" --set output_dir="$work/out" --set overwrite_output_dir=true \
        --set cache_dir="$work/cache" --set auto_find_batch_size=true --set global_batch_size=24 "$@" >"$work/text" 2>&1
}
size() { sed -n 's/.*auto_find_batch_size: per_device_train_batch_size //p' "$work/text"; }

plan 1 || fail "$(tail -n 3 "$work/text")"
[ "$(size)" = 16 ] || fail "24 rows a step and memory enough: $(size) rows at once"
plan 4 || fail "$(tail -n 3 "$work/text")"
[ "$(size)" = 4 ] || fail "6 rows for each of 4 ranks: $(size) at once"
plan 1 --gpu h2o && fail "a GPU that nobody sells"
grep -q 'h2o.*h200' "$work/text" || fail "$(tail -n 3 "$work/text")"

short=(--set cutoff_len=128) # a step of 24 whole packs takes seconds
plan 1 "${short[@]}" || fail "$(tail -n 3 "$work/text")"
planned=$(size)
"$lorad" --config "$work/auto.yaml" --set output_dir="$work/run" --set cache_dir="$work/cache" --set max_steps=1 \
    --set auto_find_batch_size=true --set global_batch_size=24 --set eval_strategy=no --set load_best_model_at_end=false \
    "${short[@]}" --set device=cpu >"$work/text" 2>&1 || fail "$(tail -n 3 "$work/text")"
[ "$(size)" = 16 ] && [ "$planned" = 16 ] || fail "the run takes $(size), the check says $planned"

export LORAD_CUDA_LIBRARY=$LORAD_TEST_BUILD/emulator/lorad_cuda.so
[ -e "$LORAD_CUDA_LIBRARY" ] || exit 0 # without a C++ compiler
plan 1 --gpu h200 || fail "$(tail -n 3 "$work/text")"
grep -q 'h200 .* 140628.6 MiB' "$work/text" || fail "$(tail -n 9 "$work/text")"
[ "$(size)" = 16 ] || fail "an h200 holds $(size)"
plan 1 --gpu 1.143GiB || fail "$(tail -n 3 "$work/text")"
[ "$(size)" -lt 16 ] || fail "256 MiB hold $(size)"
plan 1 --gpu 0.899GiB && fail "10 MiB hold a model"
grep -q 'a rank needs' "$work/text" || fail "$(tail -n 3 "$work/text")"

# fp16 takes two bytes on a GPU, and is float32 on a processor.
as() { # PRECISION OPTIONS...: what is planned
    plan 1 --set bf16=false --set "$1=true" "${@:2}" || fail "$(tail -n 3 "$work/text")"
    grep ' MiB' "$work/text"
}
[ "$(as fp16 --gpu h200)" = "$(as bf16 --gpu h200)" ] || fail "fp16 on a GPU is not planned as two bytes"
[ "$(as fp16)" = "$(as fp32)" ] || fail "fp16 on a processor is not planned as four bytes"
[ "$(as fp32)" != "$(as bf16)" ] || fail "all precisions need the same memory"
