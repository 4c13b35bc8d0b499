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
expect 78 "dataset (its contents changed: tests/data/finance-zh/fin_stage2_company.jsonl has " "${resume[@]}" --set max_steps=2 \
    --set dataset=tests/data/finance-zh/fin_stage2_company.jsonl

expect 78 "lora_alpha (was 32, is 3)" "${resume[@]}" --set max_steps=2 --set lora_alpha=3
expect 78 "seed (was 7, is 9)" "${resume[@]}" --set max_steps=2 --set seed=9
expect 78 "precision (was bf16, is f32)" "${resume[@]}" --set max_steps=2 --set fp32=true
expect 78 "global_batch_size is 2, but the run to be continued has 1" "${resume[@]}" --set max_steps=2 --set global_batch_size=2
expect 66 "$tmp/none does not exist" --set max_steps=2 --set "resume_from_checkpoint=$tmp/none"

# a mistake in the data does not cost the old run, though it may be overwritten
: >"$tmp/empty.jsonl"
expect 65 "empty.jsonl" --set overwrite_output_dir=true --set "dataset=$tmp/empty.jsonl"
[ -e "$tmp/run/checkpoint-1/MANIFEST.json" ] || { echo "the old run was moved for nothing"; status=1; }

cp -r tests/data/models/fin-zh-tiny "$tmp/model"
chmod -R u+w "$tmp/model"
printf '\1\1' | dd of="$tmp/model/model.safetensors" conv=notrunc status=none bs=1 seek=8795000
expect 78 "model (its contents changed)" "${resume[@]}" --set max_steps=2 --set "model_name_or_path=$tmp/model"

cp tests/data/models/fin-zh-tiny/model.safetensors "$tmp/model/"
sed -i 's/"rope_theta": 1000000.0/"rope_theta": 10000.0/' "$tmp/model/config.json"
expect 78 "model (its contents changed)" "${resume[@]}" --set max_steps=2 --set "model_name_or_path=$tmp/model"
cp tests/data/models/fin-zh-tiny/config.json "$tmp/model/"

sed -i 's/"content": "<unk>"/"content": "<unk2>"/; s/"<unk>":/"<unk2>":/' "$tmp/model/tokenizer.json"
cmp -s "$tmp/model/tokenizer.json" tests/data/models/fin-zh-tiny/tokenizer.json &&
    sed -i '0,/"merges": \[/s//"merges":  [/' "$tmp/model/tokenizer.json"
expect 78 "tokenizer (its contents changed)" "${resume[@]}" --set max_steps=2 --set "model_name_or_path=$tmp/model"

# what may change is told
expect 0 "learning_rate (was 1.5e-3, is 1e-4)" "${resume[@]}" --set max_steps=2 --set learning_rate=1e-4

expect 0 "lora_dropout (was 0, is 0.1), lr_groups (was not set, is" "${resume[@]}" --set max_steps=2 --set lora_dropout=0.1 \
    --set 'lr_groups={"*.q_proj.*": 1e-4}'

# a damaged newest checkpoint goes to quarantine, and the one before it is continued
newest=$(readlink -f "$tmp/run/checkpoint-2")
printf 'xxxx' | dd of="$newest/shard-00000-of-00001.zst" conv=notrunc status=none bs=1 seek=1000
expect 0 "is damaged: its hash is not what the manifest says; it goes to quarantine" "${resume[@]}" --set max_steps=2
grep -q "step 1$" "$tmp/err" || { echo "step 1 was not continued"; status=1; }
[ -d "$tmp/run/quarantine/$(basename "$newest")" ] || { echo "nothing in quarantine"; status=1; }
# when none is left the run does not start again from the beginning unasked
for manifest in "$tmp"/run/ckpt/*/MANIFEST.json; do echo x >>"$manifest"; done
expect 65 "no checkpoint in $tmp/run can be read: all 2 are damaged" "${resume[@]}" --set max_steps=2
expect 0 "starting from the beginning" "${resume[@]}" --set max_steps=2

# the best checkpoint is found without its link, and a run that stopped early stays stopped
held=$tmp/held.jsonl
head -n 8 tests/data/finance-zh/fin_heldout.jsonl >"$held"
best=(--set "output_dir=$tmp/best" --set load_best_model_at_end=true --set "eval_file=$held" --set eval_strategy=steps --set eval_steps=1 --set save_strategy=steps
    --set save_steps=1 --set early_stopping_patience=1 --set learning_rate=1 --set warmup_ratio=0.5 --set max_steps=6)
expect 0 "the best adapter is that of step 1 " "${best[@]}"
cp "$tmp/best/adapter_model.safetensors" "$tmp/adapter"
rm "$tmp"/best/checkpoint-* "$tmp/best/adapter_model.safetensors"
expect 0 "the best adapter is that of step 1 " "${best[@]}" "${resume[@]}"
cmp "$tmp/adapter" "$tmp/best/adapter_model.safetensors" || status=1
# ... and where its checkpoint is gone, the last adapter is better than none
rm -r "$tmp"/best/ckpt/s000000001.*
expect 0 "was not saved: the one of step 2 is exported" "${best[@]}" "${resume[@]}"

# old runs keep apart in trash, also when they follow each other within a second
for _ in 1 2 3; do
    expect 0 "adapter written" --set "output_dir=$tmp/again" --set overwrite_output_dir=true --set max_steps=1 \
        --set "cache_dir=$tmp/run/cache"
done
[ "$(ls "$tmp/again/trash" | grep -c 'adapter_model')" = 2 ] || { ls "$tmp/again/trash"; status=1; }

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

# A job that is started again goes on with its own checkpoint, and not with the one that its first start was given.
expect 0 "adapter written" --set max_steps=1 --set "output_dir=$tmp/given" --set "cache_dir=$tmp/cache"
again=(--set "output_dir=$tmp/job" --set "cache_dir=$tmp/cache" --set "resume_from_checkpoint=$tmp/given/checkpoint-1")
export SLURM_JOB_ID=7 SLURM_RESTART_COUNT=1 # whose first start committed nothing
expect 0 "given/checkpoint-1: step 1" "${again[@]}" --set max_steps=2
SLURM_RESTART_COUNT=2
expect 0 "job/ckpt/s000000002.e0000001.a0: step 2" "${again[@]}" --set max_steps=3
unset SLURM_JOB_ID SLURM_RESTART_COUNT

exit $status
