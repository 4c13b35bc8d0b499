# fp16 on an emulated GPU, with a first loss scale that overflows: the losses follow float32's on the CPU, overflows cost
# updates but are not skipped steps, and a run that is killed goes on with the same scale and gives the same bits.
#
# The bound of 5e-3 is for 11 bits of mantissa and for the updates that the overflows cost; parity/loss_scale has a tighter one.
. "$(dirname "$0")/../support/lib.sh"
emulated=$LORAD_TEST_BUILD/emulator/lorad_cuda.so
[ -f "$emulated" ] || {
    echo "skipped: the emulated GPU was not built (no C++ compiler)"
    exit 77
}
export LORAD_CUDA_LIBRARY=$emulated
steps=8

train() { # NAME ARGUMENTS, in a subshell
    exec "$lorad" --config configs/fin_stage1.yaml --set model_name_or_path=tests/data/models/fin-zh-tiny \
        --set output_dir="$work/$1" --set cache_dir="$work/cache" --set max_steps=$steps --set logging_steps=1 \
        --set per_device_train_batch_size=1 --set global_batch_size=2 --set cutoff_len=64 --set eval_strategy=no \
        --set load_best_model_at_end=false --set report_to=none --set save_steps=1 --set save_total_limit=100 \
        --set resume_from_checkpoint=auto --set learning_rate=1e-5 --set bf16=false --set tensor_parallel_size=1 \
        "${@:2}" >>"$work/$1.log" 2>&1
}
fp16=(--set device=cuda --set fp16=true --set initial_scale_power=24 --set loss_scale_window=2)

(train cpu --set device=cpu --set fp32=true) || { cat "$work/cpu.log"; fail "the CPU did not train"; }
(train whole "${fp16[@]}") || { cat "$work/whole.log"; fail "fp16 did not train"; }
metrics=$work/whole/logs/metrics.jsonl
field "$work/cpu/logs/metrics.jsonl" loss >"$work/cpu.loss"
field "$metrics" loss >"$work/whole.loss"
off=$(worst "$work/cpu.loss" "$work/whole.loss")
echo "fp16 is $off from float32; scales: $(field "$metrics" loss_scale | tr '\n' ' ')"
at_most "$off" 5e-3 || { paste "$work/cpu.loss" "$work/whole.loss"; fail "fp16 differs by $off"; }

overflows=$(grep -c '"overflow": true' "$metrics")
[ "$overflows" -ge 2 ] || fail "only $overflows overflows from a scale of 2^24"
[ "$(field "$metrics" skipped_steps | sort -u)" = 0 ] || fail "overflows were counted as skipped steps"
grep -q 'loss_scale' "$work/cpu/logs/metrics.jsonl" && fail "float32 has a loss scale"
# Two good steps in a row double it, an overflow halves it.
awk -v scale=16777216 '{ if ($1 != scale) exit 1
                         if ($2 == "true") { scale /= 2; good = 0 } else if (++good == 2) { scale *= 2; good = 0 } }' \
    <(paste -d" " <(field "$metrics" loss_scale) <(sed -E 's/.*"overflow": true.*/true/;t;s/.*/false/' "$metrics")) ||
    fail "the scale does not follow its rule"

# Killed after a step in the middle of a window, and again later.
for at in 2 5; do
    (train killed "${fp16[@]}") &
    pid=$!
    until [ -e "$work/killed/checkpoint-$at" ] || ! kill -0 $pid 2>/dev/null; do sleep 0.05; done
    kill -9 $pid
    wait $pid && fail "the run was not killed after step $at"
done
(train killed "${fp16[@]}") || { cat "$work/killed.log"; fail "the killed run did not go on"; }
grep -q 'continuing from' "$work/killed.log" || fail "the killed run began anew"
for key in loss grad_norm loss_scale; do
    diff <(field "$metrics" $key) <(field "$work/killed/logs/metrics.jsonl" $key) || fail "$key differs after the kills"
done
cmp "$work/whole/adapter_model.safetensors" "$work/killed/adapter_model.safetensors" || fail "the adapters differ"

# 65536 in bf16 is infinite in fp16.
cp -r tests/data/models/fin-zh-tiny "$work/large"
chmod -R u+w "$work/large"
weights=$work/large/model.safetensors
printf '\x80\x47' | dd of="$weights" bs=1 seek=$(($(stat -c %s "$weights") - 2)) conv=notrunc status=none
(train large "${fp16[@]}" --set model_name_or_path="$work/large") && fail "a weight that fp16 cannot hold was taken"
grep -q 'has a value of 65536, which fp16 cannot hold' "$work/large.log" || { cat "$work/large.log"; fail "another error"; }
