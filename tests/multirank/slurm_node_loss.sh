#!/usr/bin/env bash
# A node is lost for Slurm, but its ranks live: the job starts again on another node, takes the folder over, and the old
# ranks, still training, commit nothing and end with 76. The result has the bits of an uninterrupted run.
# The old ranks stand still until the job starts again, or until the new run has committed: then they go on.
# LORAD_SLURM_LONG=1: Slurm finds out by itself that the node is lost.
. "$(dirname "$0")/../support/slurm.sh"
need_mpirun
run_whole
slurm_start n1 n2

# lose NAME start|commit
lose() {
    local j ranks pid victim
    j=$(job "$1")
    wait_log "$1" "step 1[0-9]/"
    victim=$(squeue -h -j "$j" -o %N)
    mapfile -t ranks < <(rank_ids "$1")
    [ ${#ranks[@]} = 2 ] || fail "$1: ${#ranks[@]} ranks"
    kill -STOP "${ranks[@]}"
    kill -9 "$(pgrep -f "^slurmd -D -N $victim\$")"
    [ -n "${LORAD_SLURM_LONG:-}" ] || scontrol update NodeName="$victim" State=DOWN Reason="lost"
    wait_state "$j" "PENDING"
    start_now "$j"
    wait_state "$j" "RUNNING"
    if [ "$2" = commit ]; then
        wait_log "$1" "starting at step [1-9]"
        for _ in $(seq 600); do compgen -G "$work/$1/ckpt/*.e0000002.*/MANIFEST.json" >/dev/null && break; sleep 0.05; done
    fi
    kill -CONT "${ranks[@]}"
    wait_log "$1" "taking .* over from"
    wait_state "$j" COMPLETED
    [ "$(scontrol show job "$j" | grep -o ' NodeList=.*')" != " NodeList=$victim" ] || fail "$1: it ran on the lost node"
    for pid in "${ranks[@]}"; do
        for _ in $(seq 200); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
        ! kill -0 "$pid" 2>/dev/null || fail "$1: rank $pid of the lost node lives on"
    done
    wait_log "$1" "took over .* this run commits nothing any more"
    same_bits "$1"
    unmixed "$1"
    slurmd_start "$victim"
    for _ in $(seq 200); do [ "$(timeout 5 sinfo -h -N -o %t | grep -c idle)" = 2 ] && return; sleep 0.1; done
    fail "$victim did not come back"
}
lose at-start start
lose at-commit commit
exit 0
