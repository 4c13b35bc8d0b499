#!/bin/bash
# progress: auto is a bar when a person looks at a terminal and lines when output goes to a file, with and without mpirun,
# which gives its ranks pipes and pseudo-terminals of its own.
set -u
. "$2/tests/support/mpirun.sh"
need_mpirun
program=$LORAD_TEST_BUILD/bin/progress_style
out=$(mktemp)
trap 'rm -f "$out"' EXIT
export TERM=xterm

[ "$("$program" 2>"$out")" = "style: lines" ] || fail "alone, into a file"
[ "$(ranks 2 "$program" 2>"$out")" = "style: lines" ] || fail "two ranks, into a file"

command -v script >/dev/null || {
    echo "skipped: no script(1) for the half with a terminal"
    exit 77
}
# script gives its command a terminal for all three streams.
on_terminal() { script -qec "$1" /dev/null </dev/null | grep -q "style: $2" || fail "on a terminal: $1"; }
on_terminal "$program" bar
on_terminal "mpirun -np 2 --oversubscribe $program" bar
on_terminal "mpirun -np 2 --oversubscribe $program 2>$out" lines
on_terminal "TERM=dumb $program" lines
