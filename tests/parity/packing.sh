# Packed rows are trained on as if each were alone: with a learning rate that changes nothing, one epoch's mean loss over all
# supervised tokens is the same with packing and without, within 1e-5. LORAD_PACKING_ROWS (default 24): rows to take.
. "$(dirname "$0")/../support/lib.sh"
head -n "${LORAD_PACKING_ROWS:-24}" tests/data/finance-zh/fin_stage2_company.jsonl >"$work/rows.jsonl"
cat >"$work/config.yaml" <<YAML
model_name_or_path: tests/data/models/fin-zh-tiny
dataset: $work/rows.jsonl
cutoff_len: 512
fp32: true
lora_rank: 4
lora_dropout: 0
learning_rate: 1.0e-12
lr_scheduler_type: constant
num_train_epochs: 1
per_device_train_batch_size: 2
logging_steps: 1
report_to: none
save_strategy: "no"
cache_dir: $work/cache
YAML
mean() { # NAME packing: the mean loss of all supervised tokens, and their number
    "$lorad" --config "$work/config.yaml" --set output_dir="$work/$1" --set packing="$2" >"$work/$1.log" 2>&1 ||
        { cat "$work/$1.log"; fail "packing $2"; }
    paste <(field "$work/$1/logs/metrics.jsonl" loss) <(field "$work/$1/logs/metrics.jsonl" supervised_tokens) |
        awk '{ sum += $1 * $2; n += $2 } END { printf "%.12f\n%d\n", sum / n, n }' >"$work/$1.mean"
}
mean packed true
mean alone false
[ "$(sed -n 2p "$work/packed.mean")" = "$(sed -n 2p "$work/alone.mean")" ] || fail "other tokens"
steps() { field "$work/$1/logs/metrics.jsonl" loss | wc -l; }
[ "$(steps packed)" -lt "$(steps alone)" ] || fail "nothing was packed"
gap=$(worst <(sed -n 1p "$work/packed.mean") <(sed -n 1p "$work/alone.mean"))
echo "mean loss $(sed -n 1p "$work/packed.mean") packed, $(sed -n 1p "$work/alone.mean") alone, of $(sed -n 2p "$work/alone.mean") tokens: $gap"
at_most "$gap" 1e-5 || fail "packed rows see each other"
