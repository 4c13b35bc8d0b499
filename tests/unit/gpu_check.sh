#!/usr/bin/env bash
# tests/gpu/check.sh as it finds things on a machine with a GPU that built nothing: program, tests and libraries from bundle.sh,
# sources elsewhere, no mpirun, lorad_cuda.so beside the program (here the emulated one).
. "$(dirname "$0")/../support/lib.sh"
emulated=$LORAD_TEST_BUILD/emulator/lorad_cuda.so
[ -e "$emulated" ] || { echo "skipped: there is no emulated GPU"; exit 77; }
unset LORAD_CUDA_LIBRARY

mkdir -p "$work/bin" "$work/source/tests"
ln -s /usr/bin/* "$work/bin" && rm -f "$work"/bin/mpirun*
export PATH=$work/bin TMPDIR=$work
cp -r configs "$work/source"
cp -r tests/gpu tests/support "$work/source/tests"
ln -s "$PWD/tests/data" "$work/source/tests/data"
tests/gpu/bundle.sh "$lorad" "$work/lorad.tar" >"$work/out" && tar -C "$work" -xf "$work/lorad.tar" || fail "$(cat "$work/out")"

cd "$work" || exit 1
. lorad-bundle/environment.sh
cp "$emulated" lorad-bundle
LORAD_GPU_STEPS=1 LORAD_GPU_CHECKS=layouts LORAD_GPU_SETTINGS="cutoff_len=64 global_batch_size=1 per_device_train_batch_size=1" \
    source/tests/gpu/check.sh lorad-bundle/lorad source >out 2>&1 || fail "$(cat out)"
grep -q 'nccl1 against cpu-bf16: within' out && grep -q 'no mpirun' out && grep -q 'all parts hold' out || fail "$(cat out)"

export LORAD_TEST_DEVICE=cuda LORAD_REQUIRE_GPU=1
lorad-bundle/tests/test_parity_ops swiglu >out 2>&1 || fail "$(tail -n 9 out)"
LORAD_TEST_DATA=$work/nowhere lorad-bundle/tests/test_parity_loss_weights >out 2>&1 && fail "a program reads where it was built"
grep -q "$work/nowhere/" out || fail "$(tail -n 9 out)"
