#!/usr/bin/env bash
# Forty steps whose gradients spike, break and collapse: sums in fixed point give the same losses, norms and masters, bit for
# bit, however the micro-batches are dealt to ranks, at TP 1 and at TP 2.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
prog=$LORAD_TEST_BUILD/bin/fixed_dealings

same() { # TP FIRST OTHERS...: each is RANKS:DEALING
    local tp=$1 first=$2 one
    shift 2
    ranks "${first%:*}" "$prog" "$tp" "${first#*:}" >"$work/first" 2>"$work/note" || { cat "$work/note"; fail "TP $tp $first"; }
    cat "$work/note"
    [ "$(wc -l <"$work/first")" = 40 ] || fail "not 40 steps"
    grep -qE '^20 [0-9.]+ (nan|-nan) ' "$work/first" || fail "the NaN of step 20 went unseen"
    grep -qE '^21 [0-9.]+ inf ' "$work/first" || fail "the infinity of step 21 went unseen"
    [ "$(sed -n 20p "$work/first" | cut -d' ' -f4)" = "$(sed -n 22p "$work/first" | cut -d' ' -f4)" ] ||
        fail "a skipped step changed the masters"
    for one in "$@"; do
        ranks "${one%:*}" "$prog" "$tp" "${one#*:}" >"$work/other" 2>"$work/note" || { cat "$work/note"; fail "TP $tp $one"; }
        cat "$work/note"
        cmp -s "$work/first" "$work/other" || { diff "$work/first" "$work/other" | head -4; fail "TP $tp: $one differs from $first"; }
    done
}

same 1 1:rounds 1:backwards 2:blocks 3:lopsided 4:idle 4:changing
same 2 2:rounds 2:backwards 4:blocks 4:changing
