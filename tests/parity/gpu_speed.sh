#!/usr/bin/env bash
# What measures on a GPU works before there is one: tests/gpu/speed.sh on the emulated GPU, with the smallest model of make_model.
. "$(dirname "$0")/../support/lib.sh"
library=$LORAD_TEST_BUILD/emulator/lorad_cuda.so
[ -e "$library" ] || { echo "skipped: there is no $library"; exit 77; }

LORAD_CUDA_LIBRARY=$library LORAD_GPU_SHAPES=tiny LORAD_GPU_SPEED=step:16 LORAD_GPU_TOKENS=32 \
    LORAD_GPU_STEP="--steps 1 --square 0 --square-rate 1000" tests/gpu/speed.sh "$lorad" "$work/models" >"$work/out" 2>&1 ||
    { cat "$work/out"; fail "speed.sh"; }
rows=$(sed -n '/^| model/,$p' "$work/out" | grep -c '^| tiny | 32 | 16 | \(fast\|deterministic\) | .* ms | .* tokens/s | .* TFLOP/s | .* % |')
[ "$rows" = 2 ] || { cat "$work/out"; fail "$rows rows in the table"; }
grep -q '^ms of a step, .* linears .* (base .*, adapter .*), attention ' "$work/out" || fail "no times of parts"
losses=$(sed -n 's/^last loss \([0-9.]*\), .*/\1/p' "$work/out" | sort -u)
at_most 8.8 "$losses" && at_most "$losses" 9.2 || fail "losses of random weights over 8,000 tokens: $losses"

# rows of exactly so many tokens
"$LORAD_TEST_BUILD/make_model" tiny "$work/models/tiny" --rows 5 --row-tokens 300 >/dev/null || fail "make_model"
lengths=$("$LORAD_TEST_BUILD/chat_lines" "$work/models/tiny/model" <"$work/models/tiny/rows.jsonl" |
    sed 's/.*"ids":\[\([^]]*\)\].*/\1/' | awk -F, '{ print NF }' | sort | uniq -c | tr -s ' ')
[ "$lengths" = " 5 300" ] || fail "rows (number, tokens): $lengths"
