#!/bin/bash
# How a job of several ranks ends when one of them is wrong, and which starts are refused.
set -u
. "$2/tests/support/mpirun.sh"
need_mpirun
program=$LORAD_TEST_BUILD/bin/collectives
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# expect CODE SECONDS WORDS COMMAND...: exit code, an upper limit of time, words in the output.
expect() {
    local code=$1 limit=$2 words=$3 start=$SECONDS
    shift 3
    "$@" >"$out" 2>&1
    local got=$?
    [ $got = "$code" ] || fail "$*: exit code $got instead of $code: $(cat "$out")"
    grep -q -- "$words" "$out" || fail "$*: no \"$words\" in: $(cat "$out")"
    [ $((SECONDS - start)) -le "$limit" ] || fail "$*: took $((SECONDS - start)) s"
}

for shm in 1 0; do
    export LORAD_COMM_SHM=$shm
    LORAD_COMM_CHECK=1 expect 70 10 "rank 2 of 3 makes all_reduce(3 f32, sum) as its call 2" ranks 3 "$program" mismatch
    expect 42 10 "rank 1 ends the run" ranks 3 "$program" abort 1
    # The others give the one that failed time to speak, and mpirun ends them meanwhile.
    ! grep -q "peer lost" "$out" || fail "a peer spoke before the rank that failed: $(cat "$out")"
    expect 9 10 "" ranks 3 "$program" die 0
done
unset LORAD_COMM_SHM

expect 78 5 "finds itself alone" env SLURM_NTASKS=4 "$program" values
expect 78 5 "finds itself alone" env OMPI_COMM_WORLD_SIZE=4 "$program" values
expect 78 5 "finds itself alone" env PMI_RANK=0 PMI_SIZE=2 "$program" values
expect 0 20 "" env SLURM_NTASKS=4 OMPI_COMM_WORLD_SIZE=1 "$program" values
