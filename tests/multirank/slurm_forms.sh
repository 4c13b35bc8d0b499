#!/usr/bin/env bash
# launch/slurm/lorad.sbatch in its other forms, on a real Slurm: srun with PMIx, two nodes, an array of which one task alone
# goes back to the queue. srun without PMIx starts ranks that do not know each other: refused.
. "$(dirname "$0")/../support/slurm.sh"
need_mpirun
run_whole
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
exit 0
