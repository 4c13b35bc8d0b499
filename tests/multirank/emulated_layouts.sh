# fin_stage1 on emulated GPUs gives the CPU's losses: one GPU, and two ranks as TP2, with and without sequence_parallel, and
# DP2, by mpi over a shared GPU and by the emulated NCCL; elastic sums give the same bits on one GPU and on two; a checkpoint made with NCCL goes on by mpi,
# and says so. LORAD_LAYOUT_STEPS (default 2) steps in f32; the bound 1e-5 is for sums in another order.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
steps=${LORAD_LAYOUT_STEPS:-2}
emulated=$LORAD_TEST_BUILD/emulator/lorad_cuda.so
[ -f "$emulated" ] || {
    echo "skipped: the emulated GPU was not built (no C++ compiler)"
    exit 77
}

begin() { # NAME RANKS TP ARGUMENTS
    mpirun -np "$2" "$lorad" --config configs/fin_stage1.yaml --set tensor_parallel_size="$3" --set bf16=false --set fp32=true \
        --set model_name_or_path=tests/data/models/fin-zh-tiny --set output_dir="$work/$1" --set max_steps="$steps" \
        --set logging_steps=1 --set per_device_train_batch_size=2 --set global_batch_size=4 --set cutoff_len=64 \
        --set eval_strategy=no --set load_best_model_at_end=false --set cache_dir="$work/cache" --set lora_dropout=0.05 \
        --set report_to=none "${@:4}" >"$work/$1.log" 2>&1
}
train() { # NAME RANKS TP ARGUMENTS
    begin "$@" || { cat "$work/$1.log"; fail "$1 did not train"; }
    field "$work/$1/logs/metrics.jsonl" loss >"$work/$1.loss"
    [ "$(wc -l <"$work/$1.loss")" = "$steps" ] || fail "$1 logged $(wc -l <"$work/$1.loss") steps, not $steps"
}
gpus() { # COUNT: fewer than ranks are shared
    export LORAD_EMULATOR_GPUS=$1 LORAD_SHARE_GPU=1
}

train cpu 1 1 --set device=cpu --set save_strategy=no
export LORAD_CUDA_LIBRARY=$emulated
for layout in 1:1:self 2:2:mpi 2:1:mpi 2:2:nccl 2:1:nccl 2:2:mpi:rows 2:2:nccl:rows; do
    IFS=: read -r n tp kind rows <<<"$layout"
    name=gpu-$n-tp$tp-$kind$rows
    [ "$kind" = nccl ] && gpus 2 || gpus 1
    train "$name" "$n" "$tp" --set device=cuda --set comm="$kind" --set save_strategy=no \
        ${rows:+--set sequence_parallel=true}
    off=$(worst "$work/cpu.loss" "$work/$name.loss")
    echo "$n ranks, TP $tp${rows:+ by rows}, $kind: $off from the CPU"
    at_most "$off" 1e-5 || { paste "$work/cpu.loss" "$work/$name.loss"; fail "$name differs by $off"; }
done

# A GPU that two ranks would take unasked.
gpus 1
unset LORAD_SHARE_GPU
begin refused 2 1 --set device=cuda
[ $? = 78 ] && grep -q "rank 1: device: ranks 0 and 1 of host .* would both use GPU-" "$work/refused.log" &&
    [ "$(grep -c "error" "$work/refused.log")" = 1 ] || { cat "$work/refused.log"; fail "two ranks on one GPU"; }

gpus 2
LORAD_EMULATOR_STREAMS=mixed train elastic-1 1 1 --set device=cuda --set deterministic=elastic --set save_strategy=steps \
    --set save_steps=1
train elastic-2 2 1 --set device=cuda --set deterministic=elastic --set save_strategy=steps --set save_steps=1
cmp "$work/elastic-1.loss" "$work/elastic-2.loss" || fail "elastic sums differ between one GPU and two"
grep -q "comm: NCCL 2.28.9" "$work/elastic-2.log" || fail "auto does not take NCCL"
echo "elastic: the same bits, whenever streams run"
"$lorad" inspect "$work/elastic-2" | grep -q "^written .* by 2 ranks (TP 1 x DP 2) on Emulated GPU.*, collectives by NCCL 2.28.9$" ||
    { "$lorad" inspect "$work/elastic-2"; fail "inspect does not say how collectives went"; }

steps=$((steps + 1))
train elastic-2 2 1 --set device=cuda --set comm=mpi --set deterministic=elastic --set save_strategy=no \
    --set resume_from_checkpoint=auto
grep -q "collectives were by NCCL 2.28.9 before and are by mpi now" "$work/elastic-2.log" ||
    { cat "$work/elastic-2.log"; fail "a resume does not say that collectives go another way"; }
