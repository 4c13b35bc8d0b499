#!/usr/bin/env bash
# A full disk under output_dir: failed saves are announced, training goes on, and saves work again once there is space.
# What unfinished checkpoints of earlier starts take goes when it is needed.
# A run that was asked to stop and cannot save does not claim that it was saved. The same where the inodes are used up.
. "$(dirname "$0")/../support/lib.sh"
if [ -z "${LORAD_MOUNTS:-}" ]; then # a mount of our own, without being root where the kernel allows it
    unshare -rm true 2>/dev/null || { echo "skipped: this machine allows no mount namespace"; exit 77; }
    rm -rf "$work"
    LORAD_MOUNTS=1 exec unshare -rm bash "$0" "$@"
fi
mkdir "$work/disk"
mount -t tmpfs -o size=24m tmpfs "$work/disk" || { echo "skipped: cannot mount a tmpfs"; exit 77; }
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null; wait; umount "$work/disk"; rm -rf "$work"' EXIT
log=$work/log

start() {
    : >"$log"
    "$lorad" --config configs/quickstart.yaml --set output_dir="$work/disk/run" --set overwrite_output_dir=false \
        --set resume_from_checkpoint=auto --set eval_file= --set eval_strategy=no --set load_best_model_at_end=false \
        --set cutoff_len=128 --set global_batch_size=1 --set cache_dir="$work/cache" --set max_steps=100000 \
        --set logging_steps=1 --set save_strategy=steps --set save_steps=4 --set save_total_limit=2 "$@" \
        >"$log" 2>&1 </dev/null &
    pid=$!
}
# lines WORDS: how many lines of the log hold them; wait_for WORDS N: until there are more than N.
lines() { grep -c -- "$1" "$log"; }
wait_for() {
    local i
    for i in $(seq 300); do
        [ "$(lines "$1")" -gt "$2" ] && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 8 "$log"
    fail "the log never said more than $2 times: $1"
}
fill() { head -c 64m /dev/zero >"$work/disk/fill" 2>/dev/null; }
ends_with() {
    wait "$pid"
    local code=$?
    pid=
    [ $code = "$1" ] || { tail -n 8 "$log"; fail "expected code $1, got $code"; }
}

start
wait_for "committed" 1
fill
wait_for "FAILED: no space for a checkpoint.*Training goes on; the last good checkpoint is that of step" 1
saved=$(lines "committed")
[ -e "$(readlink -f "$(compgen -G "$work/disk/run/checkpoint-*" | head -n 1)")/MANIFEST.json" ] ||
    fail "no good checkpoint is left on the full disk"
rm "$work/disk/fill"
wait_for "committed" "$saved"

fill
wait_for "FAILED" "$(lines FAILED)"
kill -TERM "$pid"
ends_with 74
grep -q "stopped on request, but step [0-9]* could not be saved" "$log" || fail "the stop does not say that it was not saved"

# What is full of unfinished checkpoints of starts that were killed has room for the next one.
rm "$work/disk/fill"
left=$work/disk/run/ckpt/s000900000.e0000001.a0
mkdir "$left"
head -c $(($(df --output=avail -B1 "$work/disk" | tail -n 1) - 1000000)) /dev/zero >"$left/shard-00000-of-00001.zst"
start
wait_for "continuing from" 0
wait_for "committed" 0
[ ! -e "$left" ] || fail "an unfinished checkpoint of an earlier start is still there"
kill -TERM "$pid"
ends_with 75
grep -q '^{"step"' "$work/disk/run/logs/metrics.jsonl" || fail "metrics.jsonl holds no steps"
grep -v '^{.*}$' "$work/disk/run/logs/metrics.jsonl" && fail "metrics.jsonl holds broken lines"

# The same with space left, but no inodes.
umount "$work/disk"
mount -t tmpfs -o size=64m,nr_inodes=400 tmpfs "$work/disk" || fail "cannot mount a tmpfs with few inodes"
fill_inodes() {
    local i
    for i in $(seq 400); do : >"$work/disk/full$i" || break; done 2>/dev/null
}
start
wait_for "committed" 1
fill_inodes
wait_for "FAILED: cannot create .*inodes.*Training goes on; the last good checkpoint is that of step" 1
"$lorad" inspect "$work/disk/run" --verify >"$work/said" 2>&1 && grep -q "verified *OK" "$work/said" ||
    { cat "$work/said"; fail "no good checkpoint is left on the disk without inodes"; }
rm "$work"/disk/full*
saved=$(lines "committed")
wait_for "committed" "$((saved + 1))"
kill -TERM "$pid"
ends_with 75
exit 0
