#!/usr/bin/env bash
# Everything that must hold on a GPU, in one command and a few minutes:
#
#     tests/gpu/check.sh build/lorad .          with LORAD_TEST_BUILD (default: tests beside the program)
#
# operations, panels and models against the references; whole runs against the processor at TP 1 and 2 (two ranks share the
# GPU through MPI), with and without NCCL, in bf16, f32 and fp16; the same bits twice, and after kill -9. Every part runs whatever
# became of those before it; the last lines say which failed. LORAD_GPU_CHECKS chooses parts ("ops models"). Parts that take
# longer (compute-sanitizer) run only when named. The build folder and the sources may have been made elsewhere; without mpirun
# nothing runs with two ranks. LORAD_GPU_SETTINGS makes the runs smaller, for an emulated GPU:
#
#     LORAD_CUDA_LIBRARY=build/tests/emulator/lorad_cuda.so LORAD_GPU_STEPS=6 \
#         LORAD_GPU_SETTINGS="cutoff_len=96 global_batch_size=2 per_device_train_batch_size=1" \
#         LORAD_GPU_CHECKS="runs layouts resume fp16" tests/gpu/check.sh build/lorad .
LORAD_TEST_BUILD=${LORAD_TEST_BUILD:-$(dirname "$(realpath "$1")")/tests}
. "$(dirname "$0")/../support/lib.sh"
LORAD_TEST_BUILD=$(realpath "$LORAD_TEST_BUILD")
export LORAD_TEST_DATA=$PWD/tests/data
. tests/gpu/libraries.sh
export LORAD_TEST_BUILD LORAD_TEST_DEVICE=cuda LORAD_REQUIRE_GPU=1 LORAD_SHARE_GPU=1
parts=${LORAD_GPU_CHECKS:-ops panel models attention runs layouts resume fp16}
failed=()
steps=${LORAD_GPU_STEPS:-20}
model=${LORAD_GPU_MODEL:-tests/data/models/fin-zh-tiny}
settings=${LORAD_GPU_SETTINGS:-}
[ -z "${LORAD_CUDA_LIBRARY:-}" ] || LORAD_CUDA_LIBRARY=$(realpath "$LORAD_CUDA_LIBRARY")

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }

# part NAME COMMAND...
part() {
    local name=$1 start=$SECONDS
    shift
    if "$@" >"$work/$name.out" 2>&1; then
        say "ok      $name ($((SECONDS - start)) s)"
    else
        say "FAILED  $name ($((SECONDS - start)) s)"
        tail -n 25 "$work/$name.out" | sed 's/^/    /'
        failed+=("$name")
    fi
}

# start RANKS PROGRAM...: what is wrong with mpirun on this machine shows in the runs of two ranks alone
start() { if [ "$1" = 1 ]; then timeout 120 "${@:2}"; else ranks "$@"; fi; }

# sanitize TOOL: operations (LORAD_GPU_OPERATIONS: these alone) and panels under compute-sanitizer
sanitize() {
    compute-sanitizer --tool "$1" --error-exitcode 1 "$LORAD_TEST_BUILD/test_parity_ops" ${LORAD_GPU_OPERATIONS:-} &&
        compute-sanitizer --tool "$1" --error-exitcode 1 "$LORAD_TEST_BUILD/test_parity_panel"
}

program() { "$LORAD_TEST_BUILD/test_parity_$1"; }

# train NAME RANKS SETTINGS...: losses in $work/NAME.loss
train() {
    local name=$1 n=$2 more=()
    shift 2
    for setting in "$@" $settings; do more+=(--set "$setting"); done
    start "$n" "$lorad" --config configs/fin_stage1.yaml --set model_name_or_path="$model" --set tensor_parallel_size=1 \
        --set output_dir="$work/$name" --set cache_dir="$work/cache" --set max_steps="$steps" --set logging_steps=1 \
        --set per_device_train_batch_size=2 --set global_batch_size=8 --set eval_strategy=no --set save_strategy=no \
        --set load_best_model_at_end=false --set report_to=none --set deterministic=true --set device=cuda "${more[@]}" \
        >"$work/$name.log" 2>&1 || { tail -n 20 "$work/$name.log"; return 1; }
    field "$work/$name/logs/metrics.jsonl" loss >"$work/$name.loss"
    [ "$(wc -l <"$work/$name.loss")" = "$steps" ] || { echo "$name logged too few steps"; return 1; }
}

# like NAME OTHER BOUND: the losses of two runs
like() {
    local by
    by=$(worst "$work/$1.loss" "$work/$2.loss")
    echo "$1 against $2: within $by (bound $3)"
    at_most "$by" "$3"
}

same_bits() { cmp "$work/$1.loss" "$work/$2.loss" && cmp "$work/$1/adapter_model.safetensors" "$work/$2/adapter_model.safetensors"; }

# The processor's own losses, once for each precision, by all cores: with one it would take most of the time that a GPU is there.
# Dropout is on, for its masks must agree too.
on_processor() {
    local key=$1
    [ -e "$work/cpu-$key.loss" ] || OMP_NUM_THREADS=$(nproc) train "cpu-$key" 1 device=cpu "$key=true" "bf16=$([ "$key" = bf16 ] && echo true || echo false)"
}

runs_agree() {
    on_processor fp32 && on_processor bf16 &&
        train f32 1 fp32=true bf16=false && like f32 cpu-fp32 1e-5 &&
        train bf16 1 bf16=true && like bf16 cpu-bf16 2e-3 &&
        train again 1 bf16=true && same_bits bf16 again &&
        train fast 1 bf16=true deterministic=false && like fast cpu-bf16 2e-3
}

layouts_agree() {
    on_processor bf16 && train nccl1 1 bf16=true comm=nccl && like nccl1 cpu-bf16 2e-3 || return 1
    command -v mpirun >/dev/null || { echo "no mpirun: not run with two ranks" && return; }
    train tp2 2 bf16=true tensor_parallel_size=2 comm=mpi && like tp2 cpu-bf16 2e-3 &&
        train rows 2 bf16=true tensor_parallel_size=2 sequence_parallel=true comm=mpi && like rows cpu-bf16 2e-3 &&
        train dp2 2 bf16=true comm=mpi && like dp2 cpu-bf16 2e-3
}

# Killed where it may hurt; the end must be the bits of a run that was left alone.
resume_is_exact() {
    local kills=0 pid
    train whole 1 bf16=true save_strategy=steps save_steps=2 resume_from_checkpoint=auto || return 1
    for i in 1 2 3 4; do
        train killed 1 bf16=true save_strategy=steps save_steps=2 resume_from_checkpoint=auto &
        pid=$!
        until [ "$(field "$work/killed/logs/metrics.jsonl" loss 2>/dev/null | wc -l)" -ge $((i * steps / 5)) ] ||
            ! kill -0 $pid 2>/dev/null; do
            sleep 0.02
        done
        pkill -9 -f "output_dir=$work/killed" && kills=$((kills + 1))
        wait $pid
    done
    train killed 1 bf16=true save_strategy=steps save_steps=2 resume_from_checkpoint=auto || return 1
    echo "$kills kills"
    [ $kills -ge 2 ] && same_bits whole killed
}

fp16_follows() { on_processor fp32 && train fp16 1 fp16=true bf16=false && like fp16 cpu-fp32 2e-3; }

say "$("$lorad" --version | grep -E 'device|cuda' | head -n 3 | tr -s ' ' | paste -sd ';')"
for each in $parts; do
    case $each in
    ops) part ops program ops ;;
    panel)
        part panel program panel
        part panel_fast env LORAD_TEST_FAST=1 "$LORAD_TEST_BUILD/test_parity_panel" ;; # algorithms of products by their time
    models) for name in golden_models fin_zh_tiny loss_weights loss_scale; do part "$name" program $name; done ;;
    attention)
        part attention_own env LORAD_CUDA_ATTENTION=own "$LORAD_TEST_BUILD/test_parity_ops" attention attention_backward
        part attention_cudnn program attention_cudnn ;;
    runs) part runs runs_agree ;;
    layouts) part layouts layouts_agree ;;
    resume) part resume resume_is_exact ;;
    fp16) part fp16 fp16_follows ;;
    memcheck | racecheck) part "$each" sanitize "$each" ;;
    *) say "there is no part \"$each\""; failed+=("$each") ;;
    esac
    grep -h -E 'within|kills|no mpirun' "$work/$each.out" 2>/dev/null | sed 's/^/    /'
done
[ ${#failed[@]} = 0 ] && say "all parts hold" && exit 0
say "failed: ${failed[*]}"
exit 1
