#!/usr/bin/env bash
# Loss weights on 2 and 3 data-parallel ranks (one may be without work) and on TP 2 give the losses and gradient norms of
# one rank: divided once by the weights of all ranks, not by each rank's own.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
tool=$(dirname "$lorad")/tests/weighted_layout

"$tool" 1 llama_mha 1 >"$work/one" || fail "one rank"
"$tool" 1 llama_mha 0 >"$work/plain" || fail "one rank without weights"
[ "$(wc -l <"$work/one")" -ge 20 ] || fail "too few steps"
at_most 0.001 "$(worst "$work/one" "$work/plain")" || fail "the weights change nothing"
for layout in "2 1" "3 1" "2 2"; do
    set -- $layout
    mpirun -np "$1" "$tool" "$2" llama_mha 1 >"$work/more" || fail "$1 ranks, TP $2"
    gap=$(worst "$work/one" "$work/more")
    echo "$1 ranks, TP $2: worst relative difference of losses and norms $gap"
    at_most "$gap" 1e-5 || fail "$1 ranks, TP $2 differ from one rank"
done
