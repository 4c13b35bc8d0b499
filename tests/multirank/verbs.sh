#!/usr/bin/env bash
# check, train, eval and generate from end to end on a few rows: what they print, and that ranks do not change it.
set -u
program=$1
cd "$2" || exit 1
command -v mpirun >/dev/null || { echo "skipped: mpirun is not installed"; exit 77; }
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export OMP_NUM_THREADS=1
status=0
head -n 24 tests/data/finance-zh/fin_heldout.jsonl >"$tmp/heldout.jsonl"
head -n 40 tests/data/finance-zh/fin_stage1_general.jsonl >"$tmp/train.jsonl"
common=(--config configs/quickstart.yaml --set "output_dir=$tmp/run" --set "eval_file=$tmp/heldout.jsonl"
    --set "dataset=$tmp/train.jsonl" --set num_train_epochs=1 --set fp32=true --set bf16=false)

fail() {
    echo "$1"
    tail -n 6 "$tmp/err"
    status=1
}
# says FILE WORDS...: the file holds all of them
says() {
    local file=$1
    shift
    for words in "$@"; do grep -qF -- "$words" "$file" || fail "$(basename "$file") does not say: $words"; done
}
loss() {
    sed -n 's/.*"eval_loss": *\([0-9.eE+-]*\).*/\1/p' "$1"
}
# near A B: equal within 1e-5 relative, the promise for f32
near() {
    awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a > 0 && d <= 1e-5 * a) }'
}

"$program" check "${common[@]}" >"$tmp/check" 2>"$tmp/err" || fail "check failed"
says "$tmp/check" "Training rows" "40  rows read" "Held-out rows" "24  rows read" "[[" "<|im_start|>assistant" "memory of a rank" \
    "steps:" "No problems found."

"$program" eval "${common[@]}" --no-adapter --json >"$tmp/one" 2>"$tmp/err" || fail "eval on one rank failed"
mpirun -q --oversubscribe -np 2 "$program" eval "${common[@]}" --set tensor_parallel_size=2 --no-adapter --json \
    >"$tmp/tp" 2>"$tmp/err" || fail "eval on two ranks (tensor parallel) failed"
mpirun -q --oversubscribe -np 2 "$program" eval "${common[@]}" --no-adapter --json >"$tmp/dp" 2>"$tmp/err" ||
    fail "eval on two ranks (data parallel) failed"
near "$(loss "$tmp/one")" "$(loss "$tmp/tp")" || fail "tensor parallel changes the loss: $(cat "$tmp/one" "$tmp/tp")"
near "$(loss "$tmp/one")" "$(loss "$tmp/dp")" || fail "data parallel changes the loss: $(cat "$tmp/one" "$tmp/dp")"

"$program" eval "${common[@]}" >"$tmp/out" 2>"$tmp/err" && fail "eval without an adapter must be refused"
says "$tmp/err" "holds no adapter_model.safetensors"

mpirun -q --oversubscribe -np 2 "$program" "${common[@]}" >"$tmp/out" 2>"$tmp/err" || fail "training failed"
"$program" eval "${common[@]}" --json >"$tmp/after" 2>"$tmp/err" || fail "eval with the adapter failed"
awk -v a="$(loss "$tmp/one")" -v b="$(loss "$tmp/after")" 'BEGIN { exit !(b > 0 && b < a) }' ||
    fail "training did not lower the held-out loss: $(cat "$tmp/one" "$tmp/after")"
[ "$("$program" eval "${common[@]}" --per-row 2>/dev/null | grep -c 'heldout.jsonl:')" = 24 ] || fail "--per-row: not 24 rows"

"$program" generate "${common[@]}" --prompt 公司会分红吗？ --max-new-tokens 12 >"$tmp/answer" 2>"$tmp/err" ||
    fail "generate failed"
[ -s "$tmp/answer" ] || fail "generate said nothing"
mpirun -q --oversubscribe -np 2 "$program" generate "${common[@]}" --set tensor_parallel_size=2 --prompt 公司会分红吗？ \
    --max-new-tokens 12 >"$tmp/answer2" 2>"$tmp/err" || fail "generate on two ranks failed"
cmp -s "$tmp/answer" "$tmp/answer2" || fail "two ranks answer something else: $(cat "$tmp/answer" "$tmp/answer2")"
exit $status
