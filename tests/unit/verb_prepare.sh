# lorad prepare: what it prints, leaves and ends with; and lorad check --verify, which finds a byte that changed.
. "$(dirname "$0")/../support/lib.sh"

cat >"$work/config.yaml" <<CONFIG
model_name_or_path: tests/data/models/fin-zh-tiny
dataset: tests/data/finance-zh/fin_stage1_general.jsonl
eval_file: tests/data/finance-zh/fin_heldout.jsonl
output_dir: $work/out
cache_dir: $work/cache
cutoff_len: 600
lora_target: all
CONFIG
run() { # CODE WORDS... -- arguments
    local code=$1 words=() got
    shift
    while [ "$1" != -- ]; do words+=("$1"); shift; done
    shift
    "$lorad" "$@" >"$work/out.txt" 2>"$work/err.txt"
    got=$?
    [ $got = "$code" ] || { cat "$work/out.txt" "$work/err.txt"; fail "lorad $*: ends with $got, not $code"; }
    for w in "${words[@]}"; do
        cat "$work/out.txt" "$work/err.txt" | grep -qF -- "$w" || { cat "$work/out.txt" "$work/err.txt"; fail "lorad $*: does not say $w"; }
    done
}

run 0 "Training rows" "Held-out rows" "truncated" "report.html" "problems.jsonl" -- prepare --config "$work/config.yaml"
folder=$(sed -n 's|^As a page: \(.*\)/report.html$|\1|p' "$work/out.txt")
for file in dataset.json places.bin report.json report.html problems.jsonl signatures.bin tokens-00000.bin; do
    [ -s "$folder/$file" ] || fail "$folder has no $file"
done
[ "$(ls "$folder" | wc -l)" = 7 ] || { ls "$folder"; fail "$folder holds more"; }
run 0 '{"training": {"folder": "'"$folder"'", "report": {' '"held_out": ' -- prepare --config "$work/config.yaml" --json
run 0 "is as it was written" -- check --config "$work/config.yaml" --verify

# One bit in the middle of the tokens.
at=$(($(stat -c %s "$folder/tokens-00000.bin") / 3))
byte=$(od -An -tu1 -j $at -N1 "$folder/tokens-00000.bin")
printf "$(printf '\\%03o' $((byte ^ 1)))" | dd of="$folder/tokens-00000.bin" bs=1 seek=$at conv=notrunc status=none
run 0 -- check --config "$work/config.yaml"
run 65 "tokens-00000.bin" "damaged" "overwrite_cache=true" -- check --config "$work/config.yaml" --verify
grep -q "is as it was written" "$work/out.txt" && fail "damaged, and as it was written"
run 65 "tokens-00000.bin" "damaged" -- prepare --config "$work/config.yaml" --verify
run 0 -- prepare --config "$work/config.yaml" --set overwrite_cache=true --verify

# Ends.
run 78 "cutoff_lem" -- prepare --config "$work/config.yaml" --set cutoff_lem=5
run 66 "nowhere.jsonl" -- prepare --config "$work/config.yaml" --set dataset="$work/nowhere.jsonl"
printf '{"messages": 1}\n{"messages": 2}\n' >"$work/bad.jsonl"
run 65 "2 no messages" "bad.jsonl:1" -- prepare --config "$work/config.yaml" --set dataset="$work/bad.jsonl"
run 64 "does not go with" -- prepare --config "$work/config.yaml" --ranks 4

run 65 "2 no messages" -- check --config "$work/config.yaml" --set dataset="$work/bad.jsonl"
[ "$(grep -c "bad.jsonl: read as" "$work/err.txt")" = 1 ] || { cat "$work/err.txt"; fail "bad rows are read more than once"; }

# A cache that cannot be written to is as good as another one.
rm "$folder/report.html" && mkdir -p "$folder/report.html/x"
run 0 "not written as a page" "Training rows" -- prepare --config "$work/config.yaml"
run 0 "No problems found" -- check --config "$work/config.yaml"
rm -r "$folder/report.html"

# Personal data: found, masked, dropped.
cat >"$work/private.jsonl" <<ROWS
{"messages": [{"role": "user", "content": "my mail is someone@example.com"}, {"role": "assistant", "content": "thank you"}]}
{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello to you"}]}
{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello to you"}]}
ROWS
private() { run 0 "$2" -- prepare --config "$work/config.yaml" --set dataset="$work/private.jsonl" --set pii="$1"; }
private warn "e-mail"
grep -q "repeat\|exact" "$work/out.txt" || { cat "$work/out.txt"; fail "the duplicate is not reported"; }
private mask "placeholders for personal data"
private drop "personal data"
exit 0
