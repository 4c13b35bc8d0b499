#!/bin/bash
# Collectives of 1 to 4 ranks give the bits that a plain loop in rank order gives, through shared memory and through
# messages, and the two ways agree.
set -u
. "$2/tests/support/mpirun.sh"
need_mpirun
program=$LORAD_TEST_BUILD/bin/collectives

[ -n "$("$program" values)" ] || fail "one rank without mpirun"
for n in 1 2 3 4; do
    shared=$(ranks $n "$program" values) || fail "$n ranks, shared memory"
    messages=$(LORAD_COMM_SHM=0 ranks $n "$program" values) || fail "$n ranks, messages"
    [ -n "$shared" ] && [ "$shared" = "$messages" ] || fail "$n ranks: $shared by shared memory, $messages by messages"
    echo "$n ranks: $shared"
done
for n in 1 3; do
    for shm in 1 0; do
        LORAD_COMM_SHM=$shm LORAD_COMM_CHECK=1 ranks $n "$program" agree $((n - 1)) || fail "agree of $n ranks"
    done
done
LORAD_COMM_CHECK=1 ranks 2 "$program" values >/dev/null || fail "the contract check disturbs the values"
