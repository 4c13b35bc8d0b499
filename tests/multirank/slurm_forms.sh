#!/usr/bin/env bash
# launch/slurm/lorad.sbatch in its other forms, on a real Slurm: srun with PMIx, two nodes, an array of which one task alone
# goes back to the queue. srun without PMIx starts ranks that do not know each other: refused. GPUs, in all ways of asking for them.
. "$(dirname "$0")/../support/slurm.sh"
need_mpirun
run_whole
gpus=2
slurm_start n1 n2

# srun instead of mpirun: every rank hears Slurm's signals itself
export LORAD_LAUNCHER=srun
j=$(job direct)
wait_log direct "step 1[0-9]/"
scancel -b -s USR1 "$j"
wait_log direct "stopped on request after step"
j2=$(job cancelled)
wait_log cancelled "step 1[0-9]/"
scancel "$j2"
wait_state "$j2" CANCELLED
wait_log cancelled "stopped on request after step"
more=resume_from_checkpoint=auto
j2=$(job cancelled)
more=
wait_state "$j" COMPLETED
same_bits direct
grep -q "continuing from" "$work/direct.log" || fail "srun: the run began again"
wait_state "$j2" COMPLETED
same_bits cancelled
unset LORAD_LAUNCHER

# two nodes
j=$(job nodes --nodes=2 --ntasks-per-node=1)
wait_state "$j" COMPLETED
same_bits nodes

# srun without PMIx: two processes that are each rank 0 of 1
# shellcheck disable=SC2046
timeout 60 srun --mpi=none -n 2 "$lorad" $(options alone) >"$work/alone.log" 2>&1
code=$?
[ $code = 78 ] || { cat "$work/alone.log"; fail "srun --mpi=none: exit $code"; }
[ "$(grep -c "finds itself alone" "$work/alone.log")" -ge 1 ] || fail "srun --mpi=none: not explained"
[ ! -e "$work/alone/ckpt" ] || fail "srun --mpi=none: it trained"

# an array: a line of options for each task
printf 'seed=42\nseed=42 learning_rate=2e-3\n' >"$work/sweep.txt"
export SWEEP=$work/sweep.txt SWEEP_DIR=$work/sweep
j=$(job unused --array=1-2 --output="$work/sweep%a.log")
unset SWEEP SWEEP_DIR
wait_log sweep1 "step [0-9]+/"
wait_log sweep2 "step [0-9]+/"
one=$(squeue -h -r -j "$j" -o "%A %K" | awk -v j="$j" '$1 == j { print $2 }') # its number is that of the whole array
other=$((3 - one))
scancel -b -s USR1 "${j}_$one"
wait_log "sweep$one" "continuing from"
wait_state "${j}_$one" COMPLETED
wait_log "sweep$other" "adapter written"
! grep -qE "continuing from|REQUEUE" "$work/sweep$other.log" || fail "the other task went back to the queue, too"
result "$work/sweep/1" >"$work/1.txt"
cmp "$work/whole.txt" "$work/1.txt" || fail "the first task is not the run with its options"
[ "$(field "$work/sweep/2/logs/metrics.jsonl" step | wc -l)" = "$steps" ] || fail "the second task is not whole"
! cmp -s "$work/sweep/1/adapter_model.safetensors" "$work/sweep/2/adapter_model.safetensors" ||
    fail "the second task had no options of its own"

# GPUs, emulated: a rank sees those that Slurm shows it
emulated=$LORAD_TEST_BUILD/emulator/lorad_cuda.so
[ -f "$emulated" ] || exit 0 # without a C++ compiler
cat >"$work/gpu-lorad" <<PROGRAM
#!/bin/bash
[ -z "\$CUDA_VISIBLE_DEVICES" ] || export LORAD_EMULATOR_VISIBLE=\$CUDA_VISIBLE_DEVICES
LORAD_CUDA_LIBRARY=$emulated LORAD_EMULATOR_GPUS=2 exec "$lorad" "\$@"
PROGRAM
chmod +x "$work/gpu-lorad"
short="--set max_steps=1 --set eval_strategy=no --set device=cuda --set per_device_train_batch_size=1"
gpu_job() { # NAME LAUNCHER COMM SBATCH-OPTIONS...: a step on every GPU that was asked for
    # shellcheck disable=SC2046,SC2086
    LORAD=$work/gpu-lorad LORAD_LAUNCHER=$2 submit --output="$work/$1.log" --ntasks-per-node=2 --cpus-per-task=1 --time=30 "${@:4}" \
        launch/slurm/lorad.sbatch $(options "$1") $short --set comm="$3"
}
jobs=$(
    gpu_job by-node srun auto --nodes=1 --gpus-per-node=2
    gpu_job by-gres mpirun auto --nodes=1 --gres=gpu:2
)
for j in $jobs; do wait_state "$j" COMPLETED; done
j=$(gpu_job by-task mpirun mpi --nodes=2 --gpus-per-task=1)
wait_state "$j" COMPLETED
j=$(gpu_job of-all mpirun mpi --nodes=2 --gpus=4)
wait_state "$j" COMPLETED
for name in by-node by-gres by-task of-all; do wait_log $name "adapter written"; done
wait_log by-node "comm: NCCL"
# shellcheck disable=SC2046,SC2086
timeout 60 srun --mpi=pmix -n 2 --gpus-per-task=1 "$work/gpu-lorad" $(options bound) $short >"$work/bound.log" 2>&1 ||
    { cat "$work/bound.log"; fail "ranks that are bound to a GPU each"; }
wait_log bound "comm: NCCL"
exit 0
