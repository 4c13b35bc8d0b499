#!/usr/bin/env bash
# What may not be continued: another model, tokenizer, data or adapter shape; a folder with a run in it; a folder in use.
set -u
program=$1
cd "$2" || exit 1
tmp=$(mktemp -d)
first=
trap '[ -z "$first" ] || kill -9 "$first" 2>/dev/null; rm -rf "$tmp"' EXIT
export OMP_NUM_THREADS=1
status=0
small=(--config configs/quickstart.yaml --set "output_dir=$tmp/run" --set overwrite_output_dir=false
    --set eval_file= --set eval_strategy=no --set load_best_model_at_end=false --set global_batch_size=1 --set cutoff_len=128)

# expect CODE WORDS arguments...
expect() {
    local expected=$1 words=$2
    shift 2
    timeout 120 "$program" "${small[@]}" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    local code=$?
    if [ $code != "$expected" ] || ! grep -qF -- "$words" "$tmp/err"; then
        echo "lorad ... $*: expected code $expected and \"$words\"; got code $code and:"
        sed 's/^/    /' "$tmp/err" | tail -n 8
        status=1
    fi
}
resume=(--set resume_from_checkpoint=auto)

expect 0 "adapter written" --set max_steps=1
expect 73 "already holds a run" --set max_steps=2
expect 78 "lora_rank (was 16, is 4)" "${resume[@]}" --set max_steps=2 --set lora_rank=4
expect 78 "belongs to another run: lora" "${resume[@]}" --set max_steps=2 --set lora_target=q_proj
expect 78 "dataset (its contents changed)" "${resume[@]}" --set max_steps=2 \
    --set dataset=tests/data/finance-zh/fin_stage2_company.jsonl

cp -r tests/data/models/fin-zh-tiny "$tmp/model"
chmod -R u+w "$tmp/model"
printf '\1\1' | dd of="$tmp/model/model.safetensors" conv=notrunc status=none bs=1 seek=8795000
expect 78 "model (its contents changed)" "${resume[@]}" --set max_steps=2 --set "model_name_or_path=$tmp/model"

cp tests/data/models/fin-zh-tiny/model.safetensors "$tmp/model/"
sed -i 's/"rope_theta": 1000000.0/"rope_theta": 10000.0/' "$tmp/model/config.json"
expect 78 "model (its contents changed)" "${resume[@]}" --set max_steps=2 --set "model_name_or_path=$tmp/model"

# a second run on a folder whose owner lives
"$program" "${small[@]}" "${resume[@]}" --set max_steps=100000 --set save_strategy=no --set logging_steps=1 \
    >"$tmp/log" 2>&1 </dev/null &
first=$!
for _ in $(seq 100); do
    grep -q "step 2/" "$tmp/log" && break
    sleep 0.1
done
expect 73 "$tmp/run" "${resume[@]}" --set max_steps=2
kill -0 $first || { echo "the first run ended:"; tail -n 5 "$tmp/log"; status=1; }

# ... and once its owner was killed, the next run goes on
kill -9 $first
wait $first 2>/dev/null
first=
expect 0 "adapter written" "${resume[@]}" --set max_steps=2
exit $status
