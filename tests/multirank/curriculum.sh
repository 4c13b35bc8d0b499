#!/usr/bin/env bash
# launch/curriculum: files one after another, each from the adapter before; killed and started again at any point with the
# same bits at the end; stops at the first failure with its code; passes 75 on; knows what is finished.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
export LORAD=$lorad
curriculum=launch/curriculum
data=tests/data/finance-zh
head -n 60 $data/fin_stage1_general.jsonl >"$work/a.jsonl"
head -n 40 $data/fin_stage2_company.jsonl >"$work/b.jsonl"
head -n 5 $data/fin_heldout.jsonl >"$work/eval.jsonl"

files() { # DIR: three configurations
    mkdir -p "$work/$1"
    local i rows=(a b a)
    for i in 0 1 2; do
        cat >"$work/$1/$i.yaml" <<YAML
model_name_or_path: tests/data/models/fin-zh-tiny
dataset: $work/${rows[$i]}.jsonl
eval_file: $work/eval.jsonl
output_dir: $work/$1/out $i
cutoff_len: 128
packing: true
fp32: true
lora_rank: 8
per_device_train_batch_size: 2
global_batch_size: 4
learning_rate: 1.0e-3
max_steps: 6
save_steps: 1
save_total_limit: 2
eval_strategy: steps
eval_steps: 3
logging_steps: 1
report_to: none
cache_dir: $work/cache
YAML
    done
}
sums() { sha256sum "$work/$1"/out*/adapter_model.safetensors | cut -d' ' -f1; }

files whole
$curriculum -np 2 "$work"/whole/*.yaml >"$work/whole.log" 2>&1 || { cat "$work/whole.log"; fail "the whole curriculum"; }
[ "$(sums whole | sort -u | wc -l)" = 3 ] || fail "three adapters are wanted"
[ "$(grep -cE 'yaml +[0-9.]+ +[0-9.]+ +[0-9.]+ ' "$work/whole.log")" = 3 ] || { tail "$work/whole.log"; fail "no summary"; }
# the second file by hand, from the first one's adapter
"$lorad" --config "$work/whole/1.yaml" --set output_dir="$work/hand" --set tensor_parallel_size=1 \
    --set adapter_name_or_path="$work/whole/out 0" >"$work/hand.log" 2>&1 || { cat "$work/hand.log"; fail "by hand"; }
field "$work/hand/logs/metrics.jsonl" loss >"$work/hand.loss"
field "$work/whole/out 1/logs/metrics.jsonl" loss >"$work/whole.loss"
at_most "$(worst "$work/hand.loss" "$work/whole.loss")" 1e-5 || fail "the second file does not start from the first one's adapter"

$curriculum -np 2 "$work"/whole/*.yaml >"$work/again.log" 2>&1 || fail "a finished curriculum"
[ "$(grep -c "finished before" "$work/again.log")" = 3 ] || { cat "$work/again.log"; fail "finished files were trained again"; }
sed -i 's/1.0e-3/2.0e-3/' "$work/whole/1.yaml"
$curriculum -np 2 "$work"/whole/*.yaml >"$work/again.log" 2>&1
[ $? = 73 ] && grep -q "1.yaml, or the adapter before it, has changed" "$work/again.log" || { cat "$work/again.log"; fail "a changed file"; }

# killed in the first and in the second file, stopped by USR1 in the third
files killed
strike() { # SIGNAL FOLDER: once it has checkpointed
    local i pid
    for i in $(seq 400); do
        compgen -G "$work/killed/$2/ckpt/*/MANIFEST.json" >/dev/null && break
        sleep 0.05
    done
    pid=$(pgrep -f "^$lorad --config $work/killed/.*adapter|^$lorad --config $work/killed/" | head -n 1)
    [ -n "$pid" ] && kill "-$1" "$pid"
}
for blow in "9 out 0" "9 out 1" "USR1 out 2"; do
    $curriculum -np 2 "$work"/killed/*.yaml >"$work/killed.log" 2>&1 &
    job=$!
    strike "${blow%% *}" "${blow#* }"
    wait $job
    code=$?
    [ $code != 0 ] || { echo "${blow#* } ended before the blow"; continue; }
    [ "${blow%% *}" = 9 ] || [ $code = 75 ] || { tail "$work/killed.log"; fail "asked to stop: code $code"; }
done
$curriculum -np 2 "$work"/killed/*.yaml >"$work/killed.log" 2>&1 || { cat "$work/killed.log"; fail "the last start"; }
cmp <(sums whole) <(sums killed) || fail "a curriculum that was killed ends with other adapters"

# a failure stops it
files bad
echo "lora_rnak: 3" >>"$work/bad/1.yaml"
$curriculum "$work"/bad/*.yaml >"$work/bad.log" 2>&1
[ $? = 78 ] && grep -q "lora_rnak" "$work/bad.log" && [ ! -e "$work/bad/out 0" ] || { cat "$work/bad.log"; fail "a bad key is told first"; }
files bad
: >"$work/empty.jsonl"
sed -i "s|^dataset: .*|dataset: $work/empty.jsonl|" "$work/bad/1.yaml"
$curriculum "$work"/bad/*.yaml -- --set max_steps=1 >"$work/bad.log" 2>&1
[ $? = 65 ] && grep -q "1.yaml: its rows cannot be used" "$work/bad.log" && [ ! -e "$work/bad/out 0/adapter_model.safetensors" ] ||
    { cat "$work/bad.log"; fail "rows that cannot be used are told first"; }
files bad
sed -i "s|^lora_rank: .*|lora_rank: 4|" "$work/bad/1.yaml" # not that of the adapter before
$curriculum "$work"/bad/*.yaml -- --set max_steps=1 >"$work/bad.log" 2>&1
[ $? = 78 ] && [ -e "$work/bad/out 0/adapter_model.safetensors" ] && [ ! -e "$work/bad/out 2/curriculum" ] ||
    { cat "$work/bad.log"; fail "the first failure ends it with its code"; }
rm -rf "$work/bad/out 0/curriculum"
$curriculum "$work"/bad/*.yaml >"$work/bad.log" 2>&1
[ $? = 73 ] || fail "a folder with another run was taken"
$curriculum >"$work/bad.log" 2>&1
[ $? = 64 ] || fail "no files"
echo "killed twice, stopped once: the same three adapters"
