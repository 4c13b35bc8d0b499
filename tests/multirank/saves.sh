#!/bin/bash
# A checkpoint every step on several ranks, in several layouts: all are there with their values. When one rank's disk is
# full, all ranks give those saves up together and go on.
set -u
. "$2/tests/support/mpirun.sh"
need_mpirun
program=$LORAD_TEST_BUILD/bin/saves
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# try RANKS TP FAILING
try() {
    ranks "$1" "$program" "$2" "$3" "$tmp/$1-$2-$3" 2>"$tmp/log" || { cat "$tmp/log"; fail "$1 ranks, TP $2, failing: $3"; }
    [ "$3" = -1 ] || [ "$(grep -c 'FAILED: .*No space left' "$tmp/log")" = 2 ] ||
        { cat "$tmp/log"; fail "$1 ranks, TP $2, failing $3: not announced twice"; }
}
try 1 1 -1
try 2 2 -1
try 2 1 -1
try 4 2 -1
try 2 2 0
try 2 2 1
try 4 2 3
try 2 1 1
try 2 2 manifest
exit 0
