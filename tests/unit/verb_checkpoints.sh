#!/usr/bin/env bash
# lorad inspect, lorad checkpoints and lorad gc on the folder of a real run: what they say, refuse, remove and leave alone.
. "$(dirname "$0")/../support/lib.sh"
out=$work/run

# train STEPS KEY=VALUE...: a run of the demo that saves at every other step.
train() {
    local steps=$1
    shift
    "$lorad" --config configs/quickstart.yaml --set output_dir="$out" --set cache_dir="$work/cache" \
        --set overwrite_output_dir=false --set resume_from_checkpoint=auto --set max_steps="$steps" --set cutoff_len=64 \
        --set global_batch_size=1 --set lora_rank=2 --set save_strategy=steps --set save_steps=2 --set eval_strategy=no \
        --set eval_file= --set load_best_model_at_end=false --set run_name=verbs "${@/#/--set=}" >"$work/log" 2>&1 ||
        { cat "$work/log"; fail "the run failed"; }
}
# expect CODE WORDS COMMAND...: the exit code, and words that its output holds.
expect() {
    local code=$1 words=$2 got
    shift 2
    "$lorad" "$@" >"$work/said" 2>&1
    got=$?
    [ $got = "$code" ] || { cat "$work/said"; fail "lorad $*: exit $got, not $code"; }
    grep -qE -- "$words" "$work/said" || { cat "$work/said"; fail "lorad $*: does not say: $words"; }
}
left() { (cd "$out/ckpt" && ls -d s*) | sed 's/^s0*\([0-9]*\)\..*/\1/' | tr '\n' ' '; }
folder() { readlink -f "$out/checkpoint-$1"; }
is_left() { [ "$(left)" = "$1 " ] || fail "$(left)are left, not $1"; }

expect 64 "a folder is missing" inspect
expect 66 "no folder" inspect "$work/none"
expect 66 "is no output_dir" gc "$work"
train 8 save_total_limit=3
is_left "4 6 8"

expect 0 "step 8 of 8" inspect "$out" --verify
grep -q "verified *OK: 5 files" "$work/said" || fail "not verified"
grep -q "run *verbs, start 1, attempt 0" "$work/said" || fail "the run is not named"
expect 0 "adam.v" inspect "$out/checkpoint-6"
expect 0 '"step":6,.*"verified":true' inspect "$(folder 6)" --verify --json
expect 0 "F32 .*master.model.layers.0.self_attn.q_proj.lora_A.weight" inspect "$out" --tensors
expect 0 "max_steps \(was 8, is 9\)" inspect "$out" --config configs/quickstart.yaml --set max_steps=9

expect 0 "^ +8 .* verified$" checkpoints "$out" --verify
expect 0 "is pinned" checkpoints "$out" --pin 4
expect 0 "^ +4 .* committed, pinned$" checkpoints "$out"
expect 66 "no checkpoint of step 5" checkpoints "$out" --pin 5

# What a run leaves behind when it dies, and what is nobody's business.
mkdir -p "$out/ckpt/s000000009.e0000001.a0" "$out/quarantine/s000000001.e0000001.a0" "$out/trash/mine"
echo "bits turned" >"$out/quarantine/s000000001.e0000001.a0.why"
touch "$out/ckpt/s000000009.e0000001.a0/shard-00000-of-00001.zst.tmp-1-0" "$out/adapter_config.json.tmp-3-0" "$out/notes.txt"
expect 0 "not committed" checkpoints "$out"
grep -q "quarantine/s000000001.*: bits turned" "$work/said" || fail "the reason of quarantine is not told"
expect 0 "would remove ckpt/s000000009.e0000001.a0: its save did not end" gc "$out" --keep 1 --dry-run
is_left "4 6 8 9"

# The newest is damaged: it is no reason to let an older one go.
printf 'x' | dd of="$(folder 8)/shard-00000-of-00001.zst" bs=1 seek=100 conv=notrunc status=none
expect 65 "shard-00000-of-00001.zst is damaged" inspect "$out/checkpoint-8" --verify
expect 65 '"damaged":".*shard-00000' inspect "$out/checkpoint-8" --verify --json
expect 65 "^ +8 .*DAMAGED: .*shard-00000" checkpoints "$out" --verify
expect 0 "step 6 of 8" inspect "$out" --verify
grep -q "1 newer one cannot be used" "$work/said" || fail "the damaged newer one is passed over in silence"
expect 0 "removed ckpt/s000000009" gc "$out" --keep 1
grep -q "left alone quarantine/s000000001" "$work/said" || fail "quarantine is not left alone"
is_left "4 6 8"
[ -e "$out/adapter_config.json.tmp-3-0" ] && fail "a temporary file is left"
[ -e "$out/notes.txt" ] && [ -e "$out/trash/mine" ] || fail "somebody else's file was removed"

# A run goes on from 6 with 8 in quarantine; a pin that was taken away holds nothing.
train 10 save_total_limit=0
grep -q "goes to quarantine" "$work/log" || fail "the damaged checkpoint was not put away"
expect 0 "quarantine/s000000008.*shard-00000-of-00001.zst is damaged" checkpoints "$out"
is_left "4 6 8 10"
expect 0 "not pinned any more" checkpoints "$out" --unpin 4
expect 0 "nothing to remove|left alone" gc "$out" # save_total_limit: 0
is_left "4 6 8 10"
expect 0 "removed ckpt/s000000006" gc "$out" --keep 2
is_left "8 10"

# While a run goes on only a dry run is allowed.
train 1000000 >/dev/null 2>&1 &
job=$!
for _ in $(seq 200); do [ -e "$out/checkpoint-12" ] && break; sleep 0.1; done
expect 73 "in use by run \"verbs\"" gc "$out" --keep 1
expect 0 "would remove ckpt/s0000000" gc "$out" --keep 1 --dry-run
pkill -9 -P $job
wait $job 2>/dev/null
[ -e "$out/checkpoint-8" ] || fail "a refused gc removed something"
expect 0 "removed ckpt/s000000008" gc "$out" --keep 1
exit 0
