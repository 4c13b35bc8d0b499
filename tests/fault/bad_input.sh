#!/usr/bin/env bash
# Bad input, end to end: the program names what is wrong and where, and ends with the documented code.
set -u
program=$1
cd "$2" || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
models=tests/data/models
status=0 cases=0

# refused CODE WORDS arguments...: the program ends with CODE and its messages hold WORDS. A run that starts is a failure.
refused() {
    local expected=$1 words=$2
    shift 2
    rm -rf "$tmp/run"
    timeout 60 "$program" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    local code=$?
    cases=$((cases + 1))
    if [ $code != "$expected" ] || ! grep -qF -- "$words" "$tmp/err"; then
        echo "lorad $*"
        echo "  expected code $expected and \"$words\"; got code $code and:"
        sed 's/^/    /' "$tmp/err" | tail -n 12
        status=1
    fi
}
# The same for training with the quickstart's configuration and some keys set.
train_refused() {
    local code=$1 words=$2 sets=()
    shift 2
    for set in "$@"; do sets+=(--set "$set"); done
    refused "$code" "$words" --config configs/quickstart.yaml --set "output_dir=$tmp/run" --set max_steps=1 "${sets[@]}"
}
# A copy of a model folder to damage: model NAME
model() {
    rm -rf "$tmp/model"
    cp -r "$models/$1" "$tmp/model"
    chmod -R u+w "$tmp/model"
}

# ---- the command line and the configuration ----
refused 64 "did you mean --config?" --confg x
refused 64 "did you mean check?" chekc --config x
refused 64 "--config FILE is missing"
refused 66 "cannot open $tmp/none.yaml" --config "$tmp/none.yaml"
printf 'lora_rnak: 8\nlora_rank: 0\nbf16: true\nfp16: true\n' >"$tmp/bad.yaml"
refused 78 "bad.yaml:1: lora_rnak: unknown key; did you mean lora_rank?" --config "$tmp/bad.yaml"
refused 78 "bad.yaml:2: lora_rank: 0 is out of range" --config "$tmp/bad.yaml"
refused 78 "bad.yaml:4: fp16: only one of bf16, fp16 and fp32" --config "$tmp/bad.yaml"
refused 78 "output_dir is missing" check --config "$tmp/bad.yaml"
head -c 1100000 /dev/zero | tr '\0' '#' >"$tmp/big.yaml"
refused 78 "big.yaml" --config "$tmp/big.yaml"
for key in use_dora=true bias=all 'rank_pattern={q_proj: 4}' 'modules_to_save=[lm_head]' neftune_noise_alpha=5 \
    quantization_bit=4 kd_ratio=0.3; do
    train_refused 78 "${key%%=*}: " "$key"
    grep -q "is not supported: " "$tmp/err" || { echo "$key: why is it refused?"; status=1; }
done
train_refused 78 "cosine_with_min_lr needs min_lr" lr_scheduler_type=cosine_with_min_lr
train_refused 78 "use one of: linear, cosine," lr_scheduler_type=polynomial
train_refused 78 'lr_groups: pattern "nothing" matches no trained factor' 'lr_groups={"nothing": 1e-4}'
train_refused 78 "matches no module" 'lora_target=.*nothing.*'
train_refused 78 "cutoff_len 4096 exceeds the model's max_position_embeddings (1024)" cutoff_len=4096
train_refused 78 "1 ranks cannot form groups of tensor_parallel_size 2" tensor_parallel_size=2
printf 'lora_rank: 1\nlora_rank: 2\n' >"$tmp/bad.yaml"
refused 78 "bad.yaml:2: lora_rank: given twice (first in line 1)" --config "$tmp/bad.yaml"
printf 'lora_rank: 1\nlora_r: 2\n' >"$tmp/bad.yaml"
refused 78 "bad.yaml:2: lora_r: contradicts lora_rank in line 1" --config "$tmp/bad.yaml"
printf 'lora_rank: &x 1\nseed: *x\n' >"$tmp/bad.yaml"
refused 78 "bad.yaml:2: YAML aliases (*name) are not supported" --config "$tmp/bad.yaml"

# ---- the model ----
train_refused 66 "$tmp/nowhere does not exist" "model_name_or_path=$tmp/nowhere"
model fin-zh-tiny && rm "$tmp/model/model.safetensors"
train_refused 66 "model.safetensors" "model_name_or_path=$tmp/model"
model fin-zh-tiny && truncate -s -1000 "$tmp/model/model.safetensors"
train_refused 65 "model.safetensors" "model_name_or_path=$tmp/model"
model fin-zh-tiny && truncate -s 4 "$tmp/model/model.safetensors"
train_refused 65 "model.safetensors" "model_name_or_path=$tmp/model"
model fin-zh-tiny && printf '\377\377\377\377\0\0\0\0' | dd of="$tmp/model/model.safetensors" conv=notrunc status=none
train_refused 65 "model.safetensors" "model_name_or_path=$tmp/model"
model fin-zh-tiny && printf '\377\377' | dd of="$tmp/model/model.safetensors" conv=notrunc status=none bs=1 seek=8795000
train_refused 65 "not finite" "model_name_or_path=$tmp/model"
model fin-zh-tiny && rm "$tmp/model/model.safetensors" &&
    echo '{"weight_map": {"model.embed_tokens.weight": "../../secret.safetensors"}}' >"$tmp/model/model.safetensors.index.json"
train_refused 65 "../../secret.safetensors" "model_name_or_path=$tmp/model"
model fin-zh-tiny && sed -i 's/Qwen2ForCausalLM/BertModel/; s/"model_type": "qwen2"/"model_type": "bert"/' "$tmp/model/config.json"
train_refused 78 'model_type "bert" is not supported' "model_name_or_path=$tmp/model"
model fin-zh-tiny && sed -i 's/"intermediate_size": 640/"intermediate_size": 648/' "$tmp/model/config.json"
train_refused 65 "gate_proj" "model_name_or_path=$tmp/model"
model fin-zh-tiny && rm "$tmp/model/tokenizer.json"
train_refused 66 "tokenizer" "model_name_or_path=$tmp/model"
model tinystories-656k && cp "$models"/fin-zh-tiny/tokenizer*.json "$tmp/model"
train_refused 65 "the tokenizer has 6400 tokens, but the model only 2048" "model_name_or_path=$tmp/model"

# A model.safetensors of a header and zero bytes: tensors HEADER BYTES
tensors() {
    model fin-zh-tiny
    local n=${#1}
    { printf "$(printf '\\x%02x\\x%02x' $((n % 256)) $((n / 256)))\0\0\0\0\0\0"
      printf '%s' "$1"
      head -c "$2" /dev/zero; } >"$tmp/model/model.safetensors"
}
tensors '{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}' 8
train_refused 65 "tensor a starts at byte 4 of the data, which leaves a hole" "model_name_or_path=$tmp/model"
tensors '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}' 12
train_refused 65 "tensor b starts at byte 4 of the data, which leaves an overlap" "model_name_or_path=$tmp/model"
tensors '{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}' 8
train_refused 65 "tensor a needs 12 bytes by its shape" "model_name_or_path=$tmp/model"
tensors '{"a":{"dtype":"F32","shape":[4611686018427387904,8],"data_offsets":[0,8]}}' 8
train_refused 65 "the shape of tensor a is too large" "model_name_or_path=$tmp/model"
tensors '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' 6
train_refused 65 "has bytes behind its last tensor" "model_name_or_path=$tmp/model"
printf '\0\0\0\7\0\0\0\0' >"$tmp/model/model.safetensors"
truncate -s 130000000 "$tmp/model/model.safetensors" # long enough for the header that it claims
train_refused 65 "ask for a header of 117440512 bytes" "model_name_or_path=$tmp/model"
# An index: index JSON WORDS [CODE]
index() {
    model fin-zh-tiny && rm "$tmp/model/model.safetensors" && echo "$1" >"$tmp/model/model.safetensors.index.json"
    train_refused "${3:-65}" "$2" "model_name_or_path=$tmp/model"
}
index '{' "model.safetensors.index.json: line 2"
index '{"weight_map": {}}' "weight_map has 0 entries"
index '{"weight_map": {"a": 1}}' "weight_map sends tensor a to no string"
index '{"weight_map": {"a": "/etc/x.safetensors"}}' 'weight_map sends tensor a to "/etc/x.safetensors"'
index '{"weight_map": {"a": "b\\c.safetensors"}}' 'weight_map sends tensor a to'
index '{"weight_map": {"a": "b.safetensors"}}' "b.safetensors: the file is missing" 66
# An edited config.json: config SED WORDS [CODE]
config() {
    model fin-zh-tiny && sed -i "$1" "$tmp/model/config.json"
    train_refused "${3:-65}" "$2" "model_name_or_path=$tmp/model"
}
config '1s/{/{{/' "config.json: line 1"
config 's/"hidden_size": 256/"hidden_size": "x"/' '"hidden_size" should be a whole number'
config 's/"num_attention_heads": 8/"num_attention_heads": 7/' "7 query heads cannot share 4 key/value heads"
config 's/"num_hidden_layers": 4/"num_hidden_layers": 5/' "tensor model.layers.4.self_attn.q_proj.weight is missing"
config 's/"hidden_act": "silu"/"hidden_act": "gelu"/' 'hidden_act "gelu" is not supported' 78
config '1s/{/{"quantization_config": {"bits": 4},/' "the weights are quantised" 78
# Finite weights whose logits overflow: every step is skipped until there were too many.
model fin-zh-tiny && truncate -s -512 "$tmp/model/model.safetensors" &&
    head -c 512 /dev/zero | tr '\0' '\177' >>"$tmp/model/model.safetensors"
small=(eval_file= eval_strategy=no load_best_model_at_end=false cutoff_len=128 global_batch_size=1)
train_refused 79 "3 steps in a row had a loss or gradient that is not finite" "model_name_or_path=$tmp/model" \
    "${small[@]}" max_steps=9 max_skipped_steps=3

# ---- an adapter to start from ----
"$program" --config configs/quickstart.yaml --set "output_dir=$tmp/adapter" --set max_steps=1 \
    $(printf -- '--set %s ' "${small[@]}") >"$tmp/out" 2>"$tmp/err" </dev/null || { cat "$tmp/err"; status=1; }
from="adapter_name_or_path=$tmp/adapter"
train_refused 66 "$tmp/none does not exist" "adapter_name_or_path=$tmp/none"
train_refused 78 "lora_rank is 4, but the adapter in $tmp/adapter has 16" "$from" lora_rank=4
train_refused 78 "lora_alpha is 8, but the adapter in $tmp/adapter has 32" "$from" lora_alpha=8
train_refused 78 "use_rslora is true, but the adapter in $tmp/adapter has false" "$from" use_rslora=true
train_refused 78 "lora_target asks for other modules than the adapter in $tmp/adapter has" "$from" lora_target=q_proj
printf '\377\377\377\377' | dd of="$tmp/adapter/adapter_model.safetensors" conv=notrunc status=none bs=1 seek=100000
train_refused 65 "has a value that is not finite" "$from" "${small[@]}"
truncate -s -8 "$tmp/adapter/adapter_model.safetensors"
train_refused 65 "adapter_model.safetensors is truncated" "$from" "${small[@]}"
sed -i 's/"bias": "none"/"bias": "all"/' "$tmp/adapter/adapter_config.json"
train_refused 65 '"bias" is all' "$from"

# ---- the rows ----
: >"$tmp/empty.jsonl"
train_refused 65 "empty.jsonl" "dataset=$tmp/empty.jsonl"
train_refused 66 "none.jsonl" "dataset=$tmp/none.jsonl"
printf '{"messages": [{"role": "user", "content": "a"}]}\n{"text": 1}\nnot json\n' >"$tmp/bad.jsonl"
train_refused 65 "bad.jsonl" "dataset=$tmp/bad.jsonl"
train_refused 65 "fin_stage1_general.jsonl" cutoff_len=64 excess_length_strategy=raise

# One row of each kind: row NAME LINE; the only row, so nothing is left, and the reason and the line are told.
row() {
    printf '%b\n' "$2" >"$tmp/row.jsonl"
    train_refused 65 "$1" "dataset=[{path: $tmp/row.jsonl, format: messages}]"
    grep -q "row.jsonl" "$tmp/err" || { echo "$1: the file is not named"; status=1; }
}
answer='{"role": "assistant", "content": "b"}' question='{"role": "user", "content": "a"}'
row "is valid JSON" '{"messages": ['
row "no messages" '{"messages": []}'
row "no assistant" "{\"messages\": [$question]}"
row "empty answer" "{\"messages\": [$question, {\"role\": \"assistant\", \"content\": \"\"}]}"
row "empty answer" "{\"messages\": [$question, {\"role\": \"assistant\", \"content\": \" \\\\n\\\\t\"}]}"
row "roles out of order" "{\"messages\": [$answer, $question]}"
row "roles out of order" "{\"messages\": [$question, $question, $answer]}"
row "unknown role" "{\"messages\": [$question, {\"role\": \"robot\", \"content\": \"b\"}]}"
row "not UTF-8" "{\"messages\": [{\"role\": \"user\", \"content\": \"\\xff\"}, $answer]}"

# ---- the output ----
: >"$tmp/file"
train_refused 73 "$tmp/file" "output_dir=$tmp/file"
mkdir "$tmp/fixed"
if [ "$(id -u)" != 0 ]; then
    chmod 555 "$tmp/fixed"
    train_refused 73 "$tmp/fixed cannot be written" "output_dir=$tmp/fixed"
elif mount -t tmpfs -o ro tmpfs "$tmp/fixed" 2>/dev/null; then
    train_refused 73 "$tmp/fixed cannot be written" "output_dir=$tmp/fixed"
    train_refused 73 "cannot create folder $tmp/fixed/run" "output_dir=$tmp/fixed/run"
    umount "$tmp/fixed"
fi
train_refused 73 "$tmp/file/run" "output_dir=$tmp/file/run"

# ---- layouts, without starting ranks ----
for tp in 3 16; do
    refused 78 "tensor_parallel_size $tp does not divide the model's num_attention_heads (8)" check \
        --config configs/quickstart.yaml --set "output_dir=$tmp/run" --set tensor_parallel_size=$tp
done

# ---- what is chosen for the user is told ----
told() {
    local words=$1
    shift
    refused 0 "$words" "$@"
}
told "the model has no chat template" --config configs/quickstart.yaml --set "output_dir=$tmp/run" --set max_steps=1 \
    --set "model_name_or_path=$models/tinystories-656k" $(printf -- '--set %s ' "${small[@]}")
told "fp16: the CPU computes in f32" --config configs/quickstart.yaml --set "output_dir=$tmp/run" --set max_steps=1 \
    --set fp16=true $(printf -- '--set %s ' "${small[@]}")

# ---- check tells everything at once ----
model fin-zh-tiny && rm "$tmp/model/tokenizer.json"
sets=(--set "model_name_or_path=$tmp/model" --set "output_dir=$tmp/file/run" --set lora_rank=x --set "eval_file=$tmp/none.jsonl")
for words in "lora_rank: a whole number" "none.jsonl does not exist" "tokenizer" "$tmp/file/run"; do
    refused 78 "$words" check --config configs/quickstart.yaml "${sets[@]}"
done

echo "$cases cases"
exit $status
