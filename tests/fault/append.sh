# data_policy: append: a run that is resumed with rows added behind its old ones trains them in an epoch of their own; any
# other change of the files is refused with what changed; killed and resumed again, the same bits.
. "$(dirname "$0")/../support/lib.sh"
data=tests/data/finance-zh
head -n 24 $data/fin_stage1_general.jsonl >"$work/a.old"
sed -n 101,108p $data/fin_stage1_general.jsonl >"$work/a.new"
head -n 6 $data/fin_stage2_company.jsonl >"$work/b.jsonl"
run=(--config configs/quickstart.yaml --set eval_file= --set eval_strategy=no --set load_best_model_at_end=false
    --set overwrite_output_dir=false --set resume_from_checkpoint=auto --set cutoff_len=1024 --set global_batch_size=2
    --set packing=false --set per_device_train_batch_size=2 --set num_train_epochs=1 --set save_strategy=steps --set save_steps=2
    --set logging_steps=1 --set report_to=none --set lr_scheduler_type=constant --set warmup_ratio=0 --set fp32=true)
train() { # CODE WORDS arguments...
    local expected=$1 words=$2
    shift 2
    "$lorad" "${run[@]}" "$@" >"$work/log" 2>&1 </dev/null
    local code=$?
    [ $code = "$expected" ] && grep -qF -- "$words" "$work/log" ||
        { tail -n 8 "$work/log"; fail "expected code $expected and \"$words\", got code $code"; }
}
one() { train "$1" "$2" --set "output_dir=$work/run" --set "dataset=$work/a.jsonl" "${@:3}"; }
tokens() { field "$1/logs/metrics.jsonl" supervised_tokens | awk '{ n += $1 } END { print n }'; }

cp "$work/a.old" "$work/a.jsonl"
one 0 "adapter written"
before=$(tokens "$work/run")
steps=$(field "$work/run/logs/metrics.jsonl" loss | wc -l)
cp -r "$work/run" "$work/finished"

# refused, with the difference
cat "$work/a.old" "$work/a.new" >"$work/a.jsonl"
one 78 "a.jsonl has 8 rows more behind the old 24; data_policy: append trains them"
head -n 20 "$work/a.old" >"$work/a.jsonl"
one 78 "a.jsonl has 4 rows less" --set data_policy=append
{ sed '1s/公司/公 司/' "$work/a.old"; cat "$work/a.new"; } >"$work/a.jsonl"
one 78 "a.jsonl has 8 rows more, and the old ones changed too" --set data_policy=append
{ sed -n 2p "$work/a.old"; sed -n 1p "$work/a.old"; tail -n +3 "$work/a.old"; } >"$work/a.jsonl"
one 78 "rows of $work/a.jsonl changed" --set data_policy=append
cp "$work/a.old" "$work/a.jsonl"
train 78 "b.jsonl is new; data_policy: append trains it" --set "output_dir=$work/run" --set "dataset=[$work/a.jsonl, $work/b.jsonl]"

# added: the old steps stay, and one more epoch holds the new rows alone
cat "$work/a.old" "$work/a.new" >"$work/a.jsonl"
one 0 "8 rows were added: epoch 2 holds them" --set data_policy=append
cmp <(field "$work/finished/logs/metrics.jsonl" loss) <(field "$work/run/logs/metrics.jsonl" loss | head -n "$steps") ||
    fail "the old steps changed"
train 0 "adapter written" --set "output_dir=$work/new" --set "dataset=$work/a.new"
[ $(($(tokens "$work/run") - before)) = "$(tokens "$work/new")" ] || fail "the new epoch does not hold the new rows, once each"
one 0 "adapter written" # resumed once more, without additions, whatever the policy
sha256sum <"$work/run/adapter_model.safetensors" >"$work/whole"
field "$work/run/logs/metrics.jsonl" loss >"$work/whole.loss"
grep -q '"appends":\[{"epoch":1,"old_rows":\[24\]}\]' "$(ls -d "$work"/run/ckpt/*/MANIFEST.json | tail -n 1)" ||
    fail "the journal does not say what was added"

# the same, killed behind the first new checkpoint
cp -r "$work/finished" "$work/killed"
begun=$(ls "$work/killed/ckpt" | wc -l)
"$lorad" "${run[@]}" --set "output_dir=$work/killed" --set "dataset=$work/a.jsonl" --set data_policy=append --set save_steps=1 \
    >"$work/log" 2>&1 </dev/null &
job=$!
for _ in $(seq 600); do
    [ "$(compgen -G "$work/killed/ckpt/*/MANIFEST.json" | wc -l)" -gt "$begun" ] && break
    kill -0 $job 2>/dev/null || break
    sleep 0.01
done
kill -9 $job 2>/dev/null
wait $job 2>/dev/null
train 0 "adapter written" --set "output_dir=$work/killed" --set "dataset=$work/a.jsonl" --set data_policy=append
cmp "$work/whole.loss" <(field "$work/killed/logs/metrics.jsonl" loss) || fail "losses differ after a kill"
sha256sum <"$work/killed/adapter_model.safetensors" | cmp - "$work/whole" || fail "the adapter differs after a kill"

# a file more at the end of the list
train 0 "6 rows were added: epoch 3 holds them" --set "output_dir=$work/run" --set "dataset=[$work/a.jsonl, $work/b.jsonl]" \
    --set data_policy=append
echo "8 rows added, then 6: trained once each; killed in between, bit-identical"
