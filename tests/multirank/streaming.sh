# Training that starts while its rows are being prepared is bit for bit the training on rows that were prepared first:
# losses and adapter, on two ranks. So is a run that was killed while it prepared and trained.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun

awk 'BEGIN { for (i = 0; i < 40000; i++) {
    if (i % 11 == 5) { print "{\"messages\": 1}"; continue }
    n = i * 7919 % 23; text = ""
    for (k = 0; k < n; k++) text = text " word" (i * k) % 1000
    printf "{\"messages\": [{\"role\": \"user\", \"content\": \"question %d%s\"}, {\"role\": \"assistant\", \"content\": \"answer %d\"}]}\n", i, text, i * 31 % 997
} }' >"$work/rows.jsonl"

cat >"$work/config.yaml" <<CONFIG
model_name_or_path: tests/data/models/fin-zh-tiny
dataset: $work/rows.jsonl
output_dir: $work/prepared
cutoff_len: 128
near_duplicates: false
lora_rank: 8
lora_alpha: 16
lora_target: all
per_device_train_batch_size: 1
global_batch_size: 8
max_steps: 12
logging_steps: 1
save_strategy: steps
save_steps: 4
seed: 5
learning_rate: 1.0e-3
resume_from_checkpoint: auto
report_to: none
CONFIG

train() { # NAME CACHE [options]
    local name=$1 cache=$2
    shift 2
    mpirun -np 2 "$lorad" --config "$work/config.yaml" --set output_dir="$work/$name" --set cache_dir="$work/$cache" \
        "$@" >"$work/$name.log" 2>&1
}
same() { # NAME NAME
    field "$work/$1/logs/metrics.jsonl" loss >"$work/$1.loss"
    field "$work/$2/logs/metrics.jsonl" loss >"$work/$2.loss"
    [ "$(wc -l <"$work/$1.loss")" = 12 ] || fail "$1 logged $(wc -l <"$work/$1.loss") steps"
    cmp "$work/$1.loss" "$work/$2.loss" || fail "the losses of $1 and $2 differ"
    cmp "$work/$1/adapter_model.safetensors" "$work/$2/adapter_model.safetensors" ||
        fail "the adapters of $1 and $2 differ"
}

train streaming cache-a || { cat "$work/streaming.log"; fail "training while preparing failed"; }
grep -q "training starts while" "$work/streaming.log" || { cat "$work/streaming.log"; fail "it prepared first"; }
"$lorad" prepare --config "$work/config.yaml" --set cache_dir="$work/cache-b" >"$work/prepare.log" 2>&1 ||
    { cat "$work/prepare.log"; fail "lorad prepare failed"; }
train prepared cache-b || { cat "$work/prepared.log"; fail "training on prepared rows failed"; }
grep -q "training starts while" "$work/prepared.log" && fail "the rows of lorad prepare were not found"
same streaming prepared

# Rows that are left out are told even by a run of which preparing has the last word.
{ head -n 1 "$work/rows.jsonl"; for i in $(seq 20000); do echo '{"messages": 1}'; done; } >"$work/poor.jsonl"
train poor cache-d --set dataset="$work/poor.jsonl" --set max_steps=2 --set global_batch_size=2 || { cat "$work/poor.log"; fail "a poor file"; }
grep -q "20000 rows left out" "$work/poor.log" || { cat "$work/poor.log"; fail "the rows that were left out are not told"; }
: >"$work/empty.jsonl"
train empty cache-d --set eval_file="$work/empty.jsonl" && fail "no row to evaluate on"
grep -q "held-out rows: .*no row is left: $work/empty.jsonl" "$work/empty.log" || { cat "$work/empty.log"; fail "which rows are none"; }

# Killed in the middle of both, and continued: preparing goes on behind its last shard, training behind its checkpoint.
train killed cache-c &
pid=$!
for _ in $(seq 200); do
    [ -e "$work/killed/checkpoint-4" ] && break
    sleep 0.05
done
[ -e "$work/killed/checkpoint-4" ] || { cat "$work/killed.log"; fail "no checkpoint of step 4"; }
for child in $(pgrep -P $pid); do kill -9 "$child" $(pgrep -P "$child") 2>/dev/null; done
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
train killed cache-c || { cat "$work/killed.log"; fail "the killed run did not go on"; }
same killed prepared

# Without max_steps all rows are prepared first, and it is said why.
train whole cache-d --set max_steps=-1 --set num_train_epochs=0.005 || { cat "$work/whole.log"; fail "by epochs failed"; }
grep -q "all rows are prepared before the first step" "$work/whole.log" || { cat "$work/whole.log"; fail "no reason given"; }

# A row that ends the run ends it with its own message, on every rank.
train refused cache-e --set cutoff_len=24 --set excess_length_strategy=raise && fail "a row that is too long did not end the run"
grep -q "excess_length_strategy is raise" "$work/refused.log" || { cat "$work/refused.log"; fail "the row is not named"; }
