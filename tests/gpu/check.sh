#!/usr/bin/env bash
# Everything that must hold on a GPU, in one command and a few minutes:
#
#     tests/gpu/check.sh build/lorad .          with LORAD_TEST_BUILD (default: tests beside the program)
#
# operations, panels and models against the references, in the deterministic and in the fast mode; whole runs against the
# processor at TP 1 and 2 (two ranks share the GPU through MPI), with and without NCCL, in bf16, f32 and fp16; the same bits
# twice, and after kill -9. Parts run beside each other, as many as half the cores, and each says when it is done, whatever
# became of the others; the last lines say which failed. The build folder and the sources may have been made elsewhere; without
# mpirun nothing runs with two ranks.
#
#   LORAD_GPU_CHECKS     parts ("ops models"); those that take longer (memcheck, racecheck: compute-sanitizer) run only when
#                        named
#   LORAD_GPU_JOBS       how many at a time
#   LORAD_GPU_LIMIT      seconds after which a part has failed (default 240)
#   LORAD_GPU_STEPS, LORAD_GPU_SETTINGS   make the runs smaller, for an emulated GPU:
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
steps=${LORAD_GPU_STEPS:-20}
model=${LORAD_GPU_MODEL:-tests/data/models/fin-zh-tiny}
settings=${LORAD_GPU_SETTINGS:-}
cores=$(nproc)
jobs=${LORAD_GPU_JOBS:-$(((cores + 1) / 2))}
limit=${LORAD_GPU_LIMIT:-240}
[ -z "${LORAD_CUDA_LIBRARY:-}" ] || LORAD_CUDA_LIBRARY=$(realpath "$LORAD_CUDA_LIBRARY")
set -m # every part is a process group, which ends with all that it started

say() { printf '%s  %4d s  %s\n' "$(date +%T)" "$SECONDS" "$*"; }

declare -A running started
failed=()

# Politely first: mpirun passes it on.
end_group() {
    kill -TERM -- "-$1" 2>/dev/null
    sleep 1
    kill -9 -- "-$1" 2>/dev/null
}

# Also when this is ended from outside.
finish() {
    for pid in "${running[@]}"; do end_group "$pid"; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' TERM INT

# Says what became of the parts that are done, and ends those that take too long.
settle() {
    local name pid code
    for name in "${!running[@]}"; do
        pid=${running[$name]}
        if kill -0 "$pid" 2>/dev/null; then
            [ $((SECONDS - started[$name])) -lt "$limit" ] && continue
            echo "took longer than $limit s" >>"$work/$name.out"
            end_group "$pid"
        fi
        wait "$pid"
        code=$?
        unset "running[$name]"
        if [ $code = 0 ]; then
            say "ok      $name ($((SECONDS - started[$name])) s)"
            grep -h -E '^[a-z0-9]+ against .*within|^[0-9]+ kills|^no mpirun' "$work/$name.out" | sed 's/^/    /'
        else
            say "FAILED  $name (exit code $code, $((SECONDS - started[$name])) s)"
            tail -n 25 "$work/$name.out" | sed 's/^/    /'
            failed+=("$name")
        fi
    done
}

# part NAME COMMAND...: as soon as there is room.
part() {
    local name=$1
    shift
    while [ ${#running[@]} -ge "$jobs" ]; do
        settle
        sleep 0.1
    done
    "$@" >"$work/$name.out" 2>&1 &
    running[$name]=$!
    started[$name]=$SECONDS
}

# start RANKS PROGRAM...: what is wrong with mpirun on this machine shows in the runs of two ranks alone
start() { if [ "$1" = 1 ]; then timeout --foreground "$limit" "${@:2}"; else ranks "$@"; fi; }

# sanitize TOOL: operations (LORAD_GPU_OPERATIONS: these alone) and panels under compute-sanitizer
sanitize() {
    # shellcheck disable=SC2086
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
        --set output_dir="$work/$name" --set cache_dir="$work/cache-$name" --set max_steps="$steps" --set logging_steps=1 \
        --set per_device_train_batch_size=2 --set global_batch_size=8 --set eval_strategy=no --set save_strategy=no \
        --set load_best_model_at_end=false --set report_to=none --set deterministic=true --set device=cuda "${more[@]}" \
        >"$work/$name.log" 2>&1 || { tail -n 20 "$work/$name.log"; return 1; }
    field "$work/$name/logs/metrics.jsonl" loss >"$work/$name.part"
    [ "$(wc -l <"$work/$name.part")" = "$steps" ] || { echo "$name logged too few steps"; return 1; }
    mv "$work/$name.part" "$work/$name.loss"
}

# like NAME OTHER BOUND: the losses of two runs
like() {
    local by
    by=$(worst "$work/$1.loss" "$work/$2.loss")
    echo "$1 against $2: within $by (bound $3)"
    at_most "$by" "$3"
}

same_bits() { cmp "$work/$1.loss" "$work/$2.loss" && cmp "$work/$1/adapter_model.safetensors" "$work/$2/adapter_model.safetensors"; }

# The processor's own losses, a part for each precision, begun first; dropout on, for its masks must agree too.
compute_on_processor() {
    OMP_NUM_THREADS=$(((cores + 1) / 2)) train "cpu-$1" 1 device=cpu "$1=true" \
        "bf16=$([ "$1" = bf16 ] && echo true || echo false)" && return
    touch "$work/cpu-$1.failed"
    return 1
}

on_processor() {
    until [ -e "$work/cpu-$1.loss" ]; do
        [ ! -e "$work/cpu-$1.failed" ] || { echo "there are no losses of the processor in $1"; return 1; }
        sleep 0.1
    done
}

# the losses with replays; in a few small steps no shape need be met again
graphs_replay() {
    [ -n "${LORAD_GPU_STEPS:-}" ] || grep "cuda_graphs: on" "$work/graphs.log" && return
    echo "graphs: nothing was replayed"
    return 1
}

runs_agree() {
    train f32 1 fp32=true bf16=false && train bf16 1 bf16=true cuda_graphs=false &&
        train again 1 bf16=true && same_bits bf16 again && train graphs 1 bf16=true cuda_graphs=true &&
        same_bits bf16 graphs && graphs_replay &&
        train fast 1 bf16=true deterministic=false &&
        on_processor fp32 && like f32 cpu-fp32 1e-5 && on_processor bf16 && like bf16 cpu-bf16 2e-3 && like fast cpu-bf16 2e-3
}

layouts_agree() {
    train nccl1 1 bf16=true comm=nccl && on_processor bf16 && like nccl1 cpu-bf16 2e-3 || return 1
    command -v mpirun >/dev/null || { echo "no mpirun: not run with two ranks" && return; }
    train tp2 2 bf16=true tensor_parallel_size=2 comm=mpi && like tp2 cpu-bf16 2e-3 &&
        train rows 2 bf16=true tensor_parallel_size=2 sequence_parallel=true comm=mpi && like rows cpu-bf16 2e-3 &&
        train dp2 2 bf16=true comm=mpi && like dp2 cpu-bf16 2e-3
}

# kill -9 of the ranks that have this among their arguments; neither pkill nor pgrep is everywhere
kill_runs() {
    local entry killed=1
    for entry in $(grep -lzxF "$1" /proc/[0-9]*/cmdline 2>/dev/null); do
        entry=${entry%/cmdline}
        [ "$entry/exe" -ef "$lorad" ] && kill -9 "${entry#/proc/}" && killed=0
    done
    return $killed
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
        kill_runs "output_dir=$work/killed" && kills=$((kills + 1))
        wait $pid
    done
    train killed 1 bf16=true save_strategy=steps save_steps=2 resume_from_checkpoint=auto || return 1
    echo "$kills kills"
    [ $kills -ge 2 ] && same_bits whole killed
}

fp16_follows() { train fp16 1 fp16=true bf16=false && on_processor fp32 && like fp16 cpu-fp32 2e-3; }

say "$("$lorad" --version | grep -E 'device|cuda' | head -n 3 | tr -s ' ' | paste -sd ';')"
case " $parts " in
*\ runs\ * | *\ layouts\ * | *\ fp16\ *) for key in bf16 fp32; do part "processor_$key" compute_on_processor $key; done ;;
esac
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
done
while [ ${#running[@]} -gt 0 ]; do
    settle
    sleep 0.1
done
[ ${#failed[@]} = 0 ] && say "all parts hold" && exit 0
say "failed: ${failed[*]}"
exit 1
