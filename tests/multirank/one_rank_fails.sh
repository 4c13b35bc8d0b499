#!/usr/bin/env bash
# One rank alone cannot read what the others can: the job ends within seconds, with that file's code and one message that
# names the rank. Ranks and tensor_parallel_size that do not fit are refused with the numbers.
. "$(dirname "$0")/../support/lib.sh"
need_mpirun
model=tests/data/models/fin-zh-tiny
common=(--config configs/quickstart.yaml --set output_dir="$work/run" --set model_name_or_path=model --set max_steps=2
    --set dataset="$source/tests/data/finance-zh/fin_stage1_general.jsonl" --set eval_file= --set eval_strategy=no
    --set load_best_model_at_end=false --set cutoff_len=128 --set global_batch_size=2)

# Each rank runs in the folder of its number, so that the same relative path is another file.
cat >"$work/there" <<'SCRIPT'
#!/bin/bash
cd "$1/$OMPI_COMM_WORLD_RANK" && shift && exec "$@"
SCRIPT
chmod +x "$work/there"
config=$PWD/configs/quickstart.yaml
common[1]=$config
for rank in 0 1 2; do
    mkdir -p "$work/$rank"
    cp -r "$model" "$work/$rank/model"
    chmod -R u+w "$work/$rank/model"
done

# fails CODE RANK WORDS NP arguments...
fails() {
    local code=$1 rank=$2 words=$3 n=$4 begin=$SECONDS got
    shift 4
    timeout 60 mpirun -q -np "$n" "$work/there" "$work" "$lorad" "${common[@]}" "$@" >"$work/out" 2>&1 </dev/null
    got=$?
    [ $got = "$code" ] || { cat "$work/out"; fail "$words: expected code $code, got $got"; }
    grep "error: " "$work/out" | grep -v "^\[" >"$work/errors"
    [ "$(wc -l <"$work/errors")" = 1 ] || { cat "$work/out"; fail "$words: not one message"; }
    grep -qE "$words" "$work/errors" || { cat "$work/errors"; fail "no \"$words\""; }
    grep -qE "lorad\[$rank\]|rank $rank[: ]" "$work/errors" || { cat "$work/errors"; fail "$words: rank $rank is not named"; }
    [ $((SECONDS - begin)) -le 20 ] || fail "$words: took $((SECONDS - begin)) s"
}

truncate -s -1000 "$work/1/model/model.safetensors"
fails 65 1 "model.safetensors is truncated" 2
rm "$work/1/model/tokenizer.json"
cp "$model/model.safetensors" "$work/1/model"
fails 66 1 "tokenizer.json" 2
cp "$model/tokenizer.json" "$work/1/model"
# the last rows of a projection are read by the last rank of a tensor parallel group
for rank in 0 1; do
    printf '\377\177' | dd of="$work/$rank/model/model.safetensors" conv=notrunc status=none bs=1 seek=8728552
done
fails 65 1 "not finite" 2 --set tensor_parallel_size=2
cp "$model/model.safetensors" "$work/0/model"
cp "$model/model.safetensors" "$work/1/model"

# everything can be read, but it is not the same on all hosts
printf '\1\1' | dd of="$work/1/model/model.safetensors" conv=notrunc status=none bs=1 seek=8795000
fails 65 1 "another model than rank 0" 2 --set tensor_parallel_size=2
cp "$model/model.safetensors" "$work/1/model"
sed -i '0,/"merges": \[/s//"merges":  [/' "$work/1/model/tokenizer.json"
fails 65 1 "another tokenizer than rank 0" 2
cp "$model/tokenizer.json" "$work/1/model"

fails 78 0 "3 ranks cannot form groups of tensor_parallel_size 2" 3 --set tensor_parallel_size=2
fails 78 0 "tensor_parallel_size 3 does not divide the model's num_attention_heads \(8\)" 3 --set tensor_parallel_size=3
exit 0
