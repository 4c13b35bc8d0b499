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
train_refused 78 "device: cuda was asked for" device=cuda
train_refused 78 "use_dora: true is not supported" use_dora=true

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

# ---- the rows ----
: >"$tmp/empty.jsonl"
train_refused 65 "empty.jsonl" "dataset=$tmp/empty.jsonl"
train_refused 66 "none.jsonl" "dataset=$tmp/none.jsonl"
printf '{"messages": [{"role": "user", "content": "a"}]}\n{"text": 1}\nnot json\n' >"$tmp/bad.jsonl"
train_refused 65 "bad.jsonl" "dataset=$tmp/bad.jsonl"
train_refused 65 "fin_stage1_general.jsonl" cutoff_len=64 excess_length_strategy=raise

# ---- the output ----
: >"$tmp/file"
train_refused 73 "$tmp/file/run" "output_dir=$tmp/file/run"

# ---- check tells everything at once ----
model fin-zh-tiny && rm "$tmp/model/tokenizer.json"
sets=(--set "model_name_or_path=$tmp/model" --set "output_dir=$tmp/file/run" --set lora_rank=x --set "eval_file=$tmp/none.jsonl")
for words in "lora_rank: a whole number" "none.jsonl does not exist" "tokenizer" "$tmp/file/run"; do
    refused 78 "$words" check --config configs/quickstart.yaml "${sets[@]}"
done

echo "$cases cases"
exit $status
