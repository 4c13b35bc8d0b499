#!/usr/bin/env bash
# A run in stages on 1 rank, TP 2 and DP 2: the same stages, promotions and losses within 1e-5. The first stage is bit
# for bit the run that has only that stage; the second starts with the loss that a run on the first one's adapter starts with.
# What may change in the stages when a run is resumed, and what may not.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun

data=tests/data/finance-zh
head -n 40 $data/fin_stage1_general.jsonl >"$work/a.jsonl"
head -n 12 $data/fin_stage2_company.jsonl >"$work/b.jsonl"
head -n 5 $data/fin_heldout.jsonl >"$work/eval.jsonl"
cat >"$work/run.yaml" <<YAML
model_name_or_path: tests/data/models/fin-zh-tiny
cutoff_len: 128
packing: true
fp32: true
lora_rank: 8
per_device_train_batch_size: 2
global_batch_size: 12
learning_rate: 1.0e-3
lr_scheduler_type: cosine
eval_file: $work/eval.jsonl
eval_strategy: steps
eval_steps: 2
save_steps: 2
logging_steps: 1
report_to: none
cache_dir: $work/cache
YAML
stages() { # LINES OF THE STAGES: a configuration on standard output
    cat "$work/run.yaml"
    echo "stages:"
    cat
}
stages >"$work/stages.yaml" <<YAML
  - {name: first, dataset: $work/a.jsonl, num_train_epochs: 2}
  - {name: second, dataset: $work/b.jsonl, learning_rate: 5.0e-4, max_steps: 9, promote_when: {eval_loss_below: 100}}
  - name: third
    dataset: [{path: $work/a.jsonl, name: a}, {path: $work/b.jsonl, name: b, epochs: 2}]
    mix_strategy: interleave_over
    interleave_probs: 0.6,0.4
    max_steps: 5
YAML
# train N DIR arguments...
train() {
    local n=$1 dir=$2
    shift 2
    mpirun -np "$n" "$lorad" --config "$work/stages.yaml" --set output_dir="$work/$dir" "$@" >"$work/$dir.log" 2>&1
}
names() { grep -o '"stage": *"[^"]*"' "$work/$1/logs/metrics.jsonl"; }

train 1 one || { cat "$work/one.log"; fail "one rank"; }
[ "$(names one | sort | uniq -c | wc -l)" = 3 ] || fail "not three stages: $(names one | uniq -c)"
grep -q "second ended at step .* is below 100" "$work/one.log" || fail "no promotion"
field "$work/one/logs/metrics.jsonl" loss >"$work/one.loss"
for layout in "2 2" "2 1"; do
    set -- $layout
    train "$1" more --set tensor_parallel_size="$2" --set overwrite_output_dir=true ||
        { cat "$work/more.log"; fail "$1 ranks, TP $2"; }
    names more | cmp -s - <(names one) || fail "$1 ranks, TP $2: other stages"
    field "$work/more/logs/metrics.jsonl" loss >"$work/more.loss"
    gap=$(worst "$work/one.loss" "$work/more.loss")
    echo "$1 ranks, TP $2: worst relative difference of losses $gap"
    at_most "$gap" 1e-5 || fail "$1 ranks, TP $2 differ from one rank"
done

# the first stage alone
cp "$work/run.yaml" "$work/first.yaml"
echo "dataset: $work/a.jsonl" >>"$work/first.yaml"
"$lorad" --config "$work/first.yaml" --set output_dir="$work/first" --set num_train_epochs=2 >"$work/first.log" 2>&1 ||
    { cat "$work/first.log"; fail "the first stage alone"; }
steps=$(wc -l <<<"$(field "$work/first/logs/metrics.jsonl" loss)")
cmp <(field "$work/first/logs/metrics.jsonl" loss) <(head -n "$steps" "$work/one.loss") || fail "the first stage alone differs"
cmp "$work/first/adapter_model.safetensors" "$work/one/checkpoint-$steps/adapter_model.safetensors" ||
    fail "the first stage's adapter differs"

# the second stage's first step holds all of its rows, in whatever order: the same loss as a run from that adapter
sed "s|^dataset: .*|dataset: $work/b.jsonl|" "$work/first.yaml" >"$work/second.yaml"
"$lorad" --config "$work/second.yaml" --set output_dir="$work/second" --set adapter_name_or_path="$work/first" \
    --set max_steps=1 >"$work/second.log" 2>&1 || { cat "$work/second.log"; fail "the second stage alone"; }
field "$work/second/logs/metrics.jsonl" loss >"$work/second.loss"
gap=$(worst "$work/second.loss" <(sed -n "$((steps + 1))p" "$work/one.loss"))
echo "first loss of the second stage against a run from the first one's adapter: $gap"
at_most "$gap" 1e-5 || fail "the second stage does not start from the first one's adapter"

# rows that are used up before max_steps: the length, and with it the schedule, ends there
sed "s|^dataset: .*|dataset: [{path: $work/a.jsonl, epochs: 2}, {path: $work/b.jsonl, epochs: 1}]|" "$work/first.yaml" >"$work/short.yaml"
"$lorad" --config "$work/short.yaml" --set output_dir="$work/short" --set max_steps=500 --set eval_strategy=no --set save_strategy=no \
    --set lr_scheduler_type=linear >"$work/short.log" 2>&1 || { cat "$work/short.log"; fail "rows that are used up"; }
taken=$(field "$work/short/logs/metrics.jsonl" loss | wc -l)
grep -q "max_steps is 500, but the datasets are used up after $taken steps" "$work/short.log" || { cat "$work/short.log"; fail "not said"; }
field "$work/short/logs/metrics.jsonl" learning_rate |
    awk -v n="$taken" '{ expected = 1e-3 * (n - NR + 1) / n; if ($1 / expected - 1 > 1e-6 || expected / $1 - 1 > 1e-6) exit 1 }' ||
    fail "the schedule does not end with the rows"

# ---- what may change ----
# half: a finished run of two stages; again: it is resumed with other ones.
half() {
    "$lorad" --config "$work/half.yaml" --set output_dir="$work/half" >"$work/half.log" 2>&1 ||
        { cat "$work/half.log"; fail "half a run"; }
}
again() { # CODE WORDS
    "$lorad" --config "$work/half.yaml" --set output_dir="$work/half" --set resume_from_checkpoint=auto \
        >"$work/half.log" 2>&1
    local code=$?
    [ $code = "$1" ] && grep -qF -- "$2" "$work/half.log" ||
        { tail -n 5 "$work/half.log"; fail "expected code $1 and \"$2\", got code $code"; }
}
two() { # FIRST SECOND
    printf '%s\n' "  - {name: x, dataset: $1, max_steps: 2}" "  - {name: y, dataset: $2, max_steps: 2}" | stages >"$work/half.yaml"
}
two "$work/a.jsonl" "$work/b.jsonl"
half
cp -r "$work/half" "$work/more-stages"
printf '%s\n' "  - {name: x, dataset: $work/a.jsonl, max_steps: 2}" "  - {name: y, dataset: $work/b.jsonl, max_steps: 2}" \
    "  - {name: z, dataset: $work/a.jsonl, max_steps: 1}" | stages >"$work/half.yaml"
again 0 "stages that have not begun differ from the checkpoint's: stage 3, z (it is new)"
grep -q "stage 3 of 3, z: 1 steps" "$work/half.log" || fail "the new stage was not trained"
rm -r "$work/half"
mv "$work/more-stages" "$work/half"
two "$work/b.jsonl" "$work/b.jsonl"
again 78 "dataset of stage 1, x, (its contents changed"
two "$work/a.jsonl" "$work/a.jsonl"
again 78 "dataset of stage 2, y, (its contents changed"
printf '%s\n' "  - {name: x, dataset: $work/a.jsonl, max_steps: 2}" \
    "  - {name: y, dataset: [{path: $work/b.jsonl, weight: 2}], max_steps: 2}" | stages >"$work/half.yaml"
again 78 "weights or epochs of dataset of stage 2, y, (changed)"
printf '%s\n' "  - {name: x, dataset: $work/a.jsonl, max_steps: 2}" | stages >"$work/half.yaml"
again 78 "stage 2, y (it is missing)"

# ---- check tells the plan ----
"$lorad" check --config "$work/stages.yaml" --set output_dir="$work/one" >"$work/check" 2>&1 || { cat "$work/check"; fail "check"; }
for words in "stage 1 of 3, first: steps: " "stage 3 of 3, third: steps: 5 in all" "(interleave_over)" "steps of all stages: at most"; do
    grep -qF "$words" "$work/check" || { cat "$work/check"; fail "check does not say \"$words\""; }
done
# the share of b would be 40 %: its two epochs hold 24 rows
grep -qE "^  b +12 +0.4 +24 +37.5%" "$work/check" || { grep -A3 dataset "$work/check"; fail "the share of b"; }

