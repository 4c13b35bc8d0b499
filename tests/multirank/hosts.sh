#!/usr/bin/env bash
# Two hosts, TP 2 inside each and DP 2 over both: the bits are those of four ranks on one host. The network is cut for good:
# the job ends within bounded time and says why, nothing goes on beyond the cut, and one host alone continues it. The daemon of
# a host is killed: `lorad run` goes on within seconds. Rank 0 and its host are frozen behind a cut: the folder is in use until the job
# is started again, which takes it over although only rank 0 is told so; thawed, the old rank 0 commits nothing.
steps=24
. "$(dirname "$0")/../support/hosts.sh"
need_mpirun
tp=2 resume=auto
host_start a b
run_whole 4

# over NAME HOSTS [COMMAND]: mpirun on host a over these hosts; COMMAND starts the first half of the ranks
over() {
    local first=${2%%,*} second=${2#*,} program
    # shellcheck disable=SC2046
    program=(-x OMP_NUM_THREADS -x OMP_WAIT_POLICY "$lorad" $(options "$1"))
    # shellcheck disable=SC2086
    on_host a mpirun --tune launch/mpirun/hosts.conf --mca plm_rsh_agent "$work/rsh" --bind-to none \
        --host "$first:2" -np 2 -x OMP_NUM_THREADS -x OMP_WAIT_POLICY ${3:-} "$lorad" $(options "$1") : \
        --host "$second:2" -np 2 "${program[@]}" >>"$work/$1.log" 2>&1 </dev/null
}
beyond() { on_host b true && pgrep --ns "$(cat "$work/hosts/b.pid")" --nslist uts -f "$lorad|orted"; } # processes of host b
ends_within() { # SECONDS JOB
    for _ in $(seq $(($1 * 10))); do kill -0 "$2" 2>/dev/null || break; sleep 0.1; done
    ! kill -0 "$2" 2>/dev/null || fail "mpirun did not end within $1 s"
    wait "$2" && fail "mpirun ended with 0"
    return 0
}
none_beyond() { # SECONDS
    for _ in $(seq $(($1 * 10))); do [ -n "$(beyond)" ] || return 0; sleep 0.1; done
    fail "host b still runs: $(beyond)"
}
alone() { # NAME: four ranks on host a
    # shellcheck disable=SC2046
    on_host a mpirun -q -np 4 "$lorad" $(options "$1") >>"$work/$1.log" 2>&1 </dev/null ||
        { tail -n 20 "$work/$1.log"; fail "$1: one host did not go on"; }
    grep -q "continuing from" "$work/$1.log" || fail "$1: it began again"
    same_bits "$1"
}

over cut a,b &
job=$!
wait_log cut "step (9|1[0-9])/"
host_cut b
begin=$SECONDS
ends_within 40 $job
grep -q "lost communication with a remote daemon" "$work/cut.log" || { tail -n 20 "$work/cut.log"; fail "the cut was not explained"; }
none_beyond 40
echo "cut: over after $((SECONDS - begin)) s"
alone cut
host_plug b

printf 'a slots=2\nb slots=2\n' >"$work/hostfile"
# shellcheck disable=SC2046
on_host a "$lorad" run $(options daemon) -np 4 --hostfile "$work/hostfile" -- --mca plm_rsh_agent "$work/rsh" \
    -x OMP_NUM_THREADS -x OMP_WAIT_POLICY >"$work/daemon.log" 2>&1 </dev/null &
job=$!
wait_log daemon "step (9|1[0-9])/"
begin=$SECONDS
kill -9 "$(pgrep --ns "$(cat "$work/hosts/b.pid")" --nslist uts orted)"
wait_log daemon "continuing from"
echo "daemon killed: a new start read its checkpoint after $((SECONDS - begin)) s"
wait $job || { tail -n 20 "$work/daemon.log"; fail "lorad run did not go on"; }
grep -q "lost communication with a remote daemon" "$work/daemon.log" || fail "the loss of the daemon was not explained"
same_bits daemon

export SLURM_JOB_ID=7
over zombie b,a "env SLURM_JOB_ID=7 SLURM_RESTART_COUNT=0" &
job=$!
unset SLURM_JOB_ID
wait_log zombie "step (9|1[0-9])/"
mapfile -t frozen < <(beyond)
kill -STOP "${frozen[@]}"
host_cut b
ends_within 40 $job
# shellcheck disable=SC2046
on_host a "$lorad" $(options zombie) --set tensor_parallel_size=1 >"$work/refused.log" 2>&1 </dev/null
code=$?
[ $code = 73 ] && grep -q "in use by run .* on host b" "$work/refused.log" || { cat "$work/refused.log"; fail "not refused: $code"; }
resume=
over zombie a,a "env SLURM_JOB_ID=7 SLURM_RESTART_COUNT=1" &
job=$!
wait_log zombie "continuing from"
wait_log zombie "starting at step"
kill -CONT "${frozen[@]}" 2>/dev/null # those that live
wait $job || { tail -n 20 "$work/zombie.log"; fail "the take-over failed"; }
none_beyond 60
same_bits zombie
unmixed zombie
exit 0
