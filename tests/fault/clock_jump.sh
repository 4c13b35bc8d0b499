#!/usr/bin/env bash
# The wall clock of a run jumps between an hour ahead and an hour behind all the time, and its host has another name at the second
# start: who owns the folder, what is collected, resumed and learnt depends on neither.
. "$(dirname "$0")/../support/lib.sh"
clock=$LORAD_TEST_BUILD/preload/libclock.so
[ -e "$clock" ] || { echo "skipped: $clock is not built (sanitizers want to be loaded first)"; exit 77; }

arguments() { # NAME STEPS
    echo --config configs/quickstart.yaml --set output_dir="$work/$1" --set cache_dir="$work/cache" \
        --set overwrite_output_dir=false --set resume_from_checkpoint=auto --set max_steps="$2" --set cutoff_len=64 \
        --set global_batch_size=1 --set lora_rank=2 --set save_strategy=steps --set save_steps=2 --set save_total_limit=2 \
        --set logging_steps=1 --set eval_strategy=no --set eval_file= --set load_best_model_at_end=false \
        --set lr_scheduler_type=constant --set warmup_ratio=0
}
result() {
    field "$work/$1/logs/metrics.jsonl" loss
    sha256sum <"$work/$1/adapter_model.safetensors"
    ls "$work/$1/ckpt"
}
"$lorad" $(arguments whole 8) >"$work/log" 2>&1 && "$lorad" $(arguments whole 12) >"$work/log" 2>&1 ||
    { cat "$work/log"; fail "the run with a good clock failed"; }
result whole >"$work/whole.txt"

LD_PRELOAD=$clock "$lorad" $(arguments run 8) >"$work/log" 2>&1 || { cat "$work/log"; fail "the run with a bad clock failed"; }
for manifest in "$work"/run/ckpt/*/MANIFEST.json; do
    written=$(date -ud "$(sed -n 's/^"created_utc":"\(.*\)",$/\1/p' "$manifest")" +%s)
    off=$((written - $(stat -c %Y "$manifest")))
    [ ${off#-} -gt 3000 ] || fail "the clock did not jump: $manifest says what its file says"
done
elsewhere=()
unshare -ru true 2>/dev/null && elsewhere=(unshare -ru sh -c 'hostname elsewhere; exec "$@"' sh)
LD_PRELOAD=$clock "${elsewhere[@]}" "$lorad" $(arguments run 12) >"$work/log" 2>&1 ||
    { cat "$work/log"; fail "the second start with a bad clock failed"; }
grep -q "continuing from .*step 8" "$work/log" || { cat "$work/log"; fail "the second start does not go on from step 8"; }
result run >"$work/run.txt"
cmp -s "$work/whole.txt" "$work/run.txt" || { diff "$work/whole.txt" "$work/run.txt"; fail "the clock changes the run"; }

# While a run with a bad clock goes on, nobody else gets in, whichever way their clocks differ.
LD_PRELOAD=$clock "$lorad" $(arguments run 1000000) >"$work/log" 2>&1 &
job=$!
for _ in $(seq 100); do grep -q "step 14/" "$work/log" && break; sleep 0.1; done
for other in 1 2 3 4; do
    LD_PRELOAD=$([ $((other % 2)) = 0 ] && echo "$clock") "$lorad" $(arguments run 14) >"$work/other" 2>&1
    code=$?
    [ $code = 73 ] && grep -q "is in use by" "$work/other" || { cat "$work/other"; fail "a second run got in: $code"; }
done
kill -9 $job
wait $job 2>/dev/null
exit 0
