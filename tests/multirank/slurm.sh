#!/usr/bin/env bash
# launch/slurm/lorad.sbatch on a real Slurm: warned by USR1 it commits and goes back to the queue; so does a job that is
# requeued by Slurm; one that is cancelled keeps its last step and stays away; only 75 is a wish to start again. Each goes on
# with the bits of an uninterrupted run, although the configuration does not ask to resume.
# LORAD_SLURM_LONG=1: the warning comes from a real time limit, too (2 to 3 minutes).
. "$(dirname "$0")/../support/slurm.sh"
need_mpirun
run_whole
slurm_start n1

last_step() { field "$work/$1/logs/metrics.jsonl" step | tail -n 1; }
committed() { compgen -G "$work/$1/ckpt/$(printf 's%09d' "$2").*/MANIFEST.json" >/dev/null; }

# warned before the limit
j=$(job warned)
wait_log warned "step 1[0-9]/"
scancel -b -s USR1 "$j"
wait_log warned "stopped on request after step"
at=$(sed -n 's/.*stopped on request after step \([0-9]*\).*/\1/p' "$work/warned.log")
committed warned "$at" || fail "USR1: step $at was not committed"
wait_state "$j" PENDING
start_now "$j"
wait_state "$j" "COMPLETED"
[ "$(scontrol show job "$j" | grep -o 'Restarts=[0-9]*')" = Restarts=1 ] || fail "USR1: not requeued once"
grep -q "continuing from .*step $at\$" "$work/warned.log" || fail "USR1: step $at was not continued"
same_bits warned

# requeued by an administrator, or after a preemption
j=$(job requeued)
wait_log requeued "step 1[0-9]/"
scontrol requeue "$j"
wait_state "$j" PENDING
start_now "$j"
wait_state "$j" "COMPLETED"
grep -q "continuing from" "$work/requeued.log" || fail "requeue: the run began again"
same_bits requeued

# cancelled: what was done is kept, and it is over; on a machine that is busy with other tests two seconds may not do
j=$(OMPI_MCA_odls_base_sigkill_timeout=2 job cancelled)
wait_log cancelled "step 1[0-9]/"
scancel "$j"
wait_state "$j" "CANCELLED"
committed cancelled "$(last_step cancelled)" || fail "scancel: step $(last_step cancelled) was not committed"
! grep -q "goes back to the queue" "$work/cancelled.log" || fail "scancel: the job wanted to come back"
more=resume_from_checkpoint=auto
j=$(job cancelled)
more=
wait_state "$j" "COMPLETED"
same_bits cancelled

# only 75 comes back
printf '#!/bin/bash\nexit $1\n' >"$work/ends"
chmod +x "$work/ends"
for code in 0 76 80 71; do
    j=$(LORAD=$work/ends submit --output="$work/ends.log" --ntasks-per-node=1 --cpus-per-task=1 launch/slurm/lorad.sbatch $code)
    wait_state "$j" "COMPLETED|FAILED"
    scontrol show job "$j" | grep -q "Restarts=0 .*ExitCode=$code:0" || fail "exit $code: $(scontrol show job "$j")"
done

# a real limit; standing still, the run is not over before it
if [ -n "${LORAD_SLURM_LONG:-}" ]; then
    j=$(job limit --time=2 --signal=B:USR1@30)
    wait_log limit "step 1[0-9]/"
    mapfile -t ranks < <(rank_ids limit)
    kill -STOP "${ranks[@]}"
    for _ in 1 2 3; do grep -q "Forwarding signal 10" "$work/limit.log" || sleep 40; done
    kill -CONT "${ranks[@]}"
    wait_log limit "goes back to the queue"
    wait_state "$j" "COMPLETED"
    same_bits limit
fi
exit 0
