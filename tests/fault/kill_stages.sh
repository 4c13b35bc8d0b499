# A run of four stages is killed with -9 around stage changes (by length, by a promotion on eval loss, by a plateau), around
# epoch changes and at random, resumed each time: stages, losses, learning rates, evaluations, the journal and the adapter
# have the same bits as an uninterrupted run's. And with SIGUSR1 at any step: a decision does not depend on the stop.
# LORAD_KILLS (default 3), LORAD_STOPS (1), LORAD_KILL_RANKS (2), LORAD_KILL_TP (2), LORAD_KILL_SEED.
. "$(dirname "$0")/../support/lib.sh"
. tests/support/kill.sh
need_mpirun
kills=${LORAD_KILLS:-3} most_stops=${LORAD_STOPS:-1} n=${LORAD_KILL_RANKS:-2} tp=${LORAD_KILL_TP:-2}
RANDOM=${LORAD_KILL_SEED:-20261126}

data=tests/data/finance-zh
head -n 30 $data/fin_stage1_general.jsonl >"$work/a.jsonl"
head -n 24 $data/fin_stage2_company.jsonl >"$work/b.jsonl"
head -n 4 $data/fin_heldout.jsonl >"$work/eval.jsonl"
cat >"$work/stages.yaml" <<YAML
model_name_or_path: tests/data/models/fin-zh-tiny
eval_file: $work/eval.jsonl
cutoff_len: 128
packing: true
fp32: true
lora_rank: 8
lora_dropout: 0.1
per_device_train_batch_size: 2
global_batch_size: 4
learning_rate: 1.0e-3
lr_scheduler_type: cosine
warmup_steps: 2
eval_strategy: steps
eval_steps: 3
save_steps: 3
save_total_limit: 3
logging_steps: 1
report_to: none
resume_from_checkpoint: auto
stages:
  - {name: length, dataset: $work/a.jsonl, num_train_epochs: 2}
  - {name: promoted, dataset: $work/b.jsonl, learning_rate: 5.0e-4, num_train_epochs: 9, promote_when: {eval_loss_below: 100}}
  - name: plateau
    dataset: [{path: $work/a.jsonl}, {path: $work/b.jsonl, weight: 2}]
    lr_scheduler_type: constant
    warmup_steps: 0
    max_steps: 100
    promote_when: {plateau_evaluations: 2, min_delta: 10}
  - {name: last, dataset: $work/b.jsonl, max_tokens: 3000}
YAML

start() { # NAME
    mpirun -np "$n" "$lorad" --config "$work/stages.yaml" --set cache_dir="$work/cache" \
        --set tensor_parallel_size="$tp" --set output_dir="$work/$1"
}
journal() { # NAME: the stages that were left, from the newest manifest
    grep -o '"done":\[[^]]*\]' "$(ls -d "$work/$1"/ckpt/*/MANIFEST.json | tail -n 1)"
}

run_whole
for why in "length ended at step .* steps are done" "promoted ended at step .* is below 100" \
    "plateau ended at step .* 2 evaluations without a gain"; do
    grep -q "$why" "$work/whole.log" || fail "no \"$why\" in the log"
done
journal whole >"$work/whole.journal"
[ "$(grep -o '"end":"[a-z_]*"' "$work/whole.journal" | tr -d '\n')" = \
    '"end":"length""end":"eval_loss_below""end":"plateau"' ] || fail "the journal is $(cat "$work/whole.journal")"

kill_and_compare "$kills" stage epoch any
journal run | cmp - "$work/whole.journal" || fail "the journal differs"

# asked to stop now and then: the resumed run goes the same way
rm -rf "$work/run"
stops=0 code=75
while [ $code = 75 ]; do
    start run >"$work/stop.log" 2>&1 &
    job=$!
    [ $stops -lt "$most_stops" ] || { wait $job; code=$?; break; }
    for _ in $(seq 100); do grep -q "step [0-9]*/" "$work/stop.log" && break; kill -0 $job 2>/dev/null || break; sleep 0.05; done
    snooze 1500
    pid=$(victims)
    [ -z "$pid" ] || { kill -USR1 "$pid" && stops=$((stops + 1)); }
    wait $job
    code=$?
done
[ $code = 0 ] || { tail "$work/stop.log"; fail "a run that was stopped and resumed exited $code"; }
result run | cmp - "$work/whole.txt" || fail "a run that was stopped $stops times differs"
echo "stopped by USR1 $stops times, bit-identical"
