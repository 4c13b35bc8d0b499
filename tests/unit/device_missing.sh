#!/usr/bin/env bash
# A machine without a GPU: device: cuda ends with 78 and says what is missing, device: auto trains on the CPU. With the real
# lorad_cuda.so where it was built and there is no GPU, which auto does not even open, with the emulated one without a driver, and
# with none.
set -u
program=$1
cd "$2" || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
status=0

# train DEVICE: one step; its code, and its messages in $tmp/err
train() {
    rm -rf "$tmp/run"
    timeout 120 "$program" --config configs/quickstart.yaml --set "output_dir=$tmp/run" --set max_steps=1 \
        --set global_batch_size=1 --set cutoff_len=64 --set eval_strategy=no --set load_best_model_at_end=false \
        --set "device=$1" >"$tmp/out" 2>"$tmp/err" </dev/null
}

# without WORDS: both devices, with the library that the environment names
without() {
    train cuda
    local code=$?
    if [ $code != 78 ] || ! grep -qF -- "device: cuda was asked for, but $1" "$tmp/err"; then
        echo "device: cuda, $1: code $code and"
        tail -n 5 "$tmp/err"
        status=1
    fi
    if ! train auto || ! grep -q "^lorad: cpu" "$tmp/err"; then
        echo "device: auto, $1: not trained on the CPU"
        tail -n 5 "$tmp/err"
        status=1
    fi
}

LORAD_CUDA_LIBRARY=$tmp/none.so without "$tmp/none.so: cannot open"
emulated=$LORAD_TEST_BUILD/emulator/lorad_cuda.so
if [ -e "$emulated" ]; then
    LORAD_EMULATOR_DRIVER=0 LORAD_CUDA_LIBRARY=$emulated without "there is no NVIDIA driver"
fi
real=$(dirname "$program")/lorad_cuda.so
if [ -e "$real" ] && [ ! -e /dev/nvidiactl ]; then
    LORAD_CUDA_LIBRARY=$real without "there is no NVIDIA driver"
    export LD_DEBUG=files LD_DEBUG_OUTPUT=$tmp/loaded # the library beside the program
    without "there is no NVIDIA driver"
    unset LD_DEBUG LD_DEBUG_OUTPUT
    grep -q "device: not cuda: there is no NVIDIA driver" "$tmp/err" || { cat "$tmp/err"; status=1; }
    [ "$(grep -l "calling init: .*/lorad_cuda.so" "$tmp"/loaded.* | wc -l)" = 1 ] || { echo "not opened once, by device: cuda alone"; status=1; }
fi
exit $status
