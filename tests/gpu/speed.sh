#!/usr/bin/env bash
# How fast lorad is on this GPU, in one command, most important part first; each part prints as it goes, so that a run that is
# cut off has said something:
#
#     PYTHON=python3 tests/gpu/speed.sh build/lorad [FOLDER]
#
# PYTHON has torch, transformers and peft. FOLDER (default: a temporary one) keeps the random-weight models, 16 GB each. The parts, of which
# LORAD_GPU_SPEED chooses ("step peer panels operations"):
#   step        a whole step beside its products alone, the time of every operation, and the share of a square product that
#               runs for 10 s in the same process: Llama-3-8B, packed 2048, fast and deterministic
#   peer        the same work by PEFT + PyTorch, in turn: tokens/s, memory, losses, gradient norms
#   panels      the products of linear layers with and without an adapter (bench_panel)
#   operations  every operation alone (bench_ops)
#   more        step and peer for Llama-2-7B and Qwen2-7B, and packed 4096
set -eu
program=$(realpath "$1")
folder=${2:-$(mktemp -d "${TMPDIR:-/tmp}/lorad-speed-XXXXXX")}
here=$(dirname "$(realpath "$0")")
tests=${LORAD_TEST_BUILD:-$(dirname "$program")/tests}
python=${PYTHON:-python3}
export LORAD_TEST_DEVICE=cuda
lorad=$program
. "$here/libraries.sh"

make() { "$python" "$here/../bench/make_model.py" --shape "$1" --out "$folder/$1" --rows 8 --row-tokens "$2" --device cuda; }
step() { # SHAPE TOKENS ROW
    [ -e "$folder/$1/adapter" ] || make "$1" "$3"
    for fast in 1 0; do
        echo "--- $1, $2 tokens in rows of $3, $([ $fast = 1 ] && echo fast || echo deterministic)"
        "$tests/bench_step" "$folder/$1/model" "$folder/$1/adapter" --dtype bf16 --tokens "$2" --row "$3" --steps 8 \
            --phases 1 --fast $fast --square 10
    done
}
peer() { # SHAPE CUTOFF PACKS
    "$python" "$here/../bench/run_peer.py" --lorad "$program" --device cuda --work "$folder" --shapes "$1" --dtypes bf16 \
        --cutoffs "$2" --masks all --rows $((2 * $3)) --packs "$3" --steps 7 --cores "$(seq -s, 0 $(($(nproc) - 1)))" \
        --json "$folder/$1-$2.json"
}

for part in ${LORAD_GPU_SPEED:-step peer panels operations}; do
    echo "=== $part"
    case $part in
    step) step llama-3-8b 8192 2048 ;;
    peer) peer llama-3-8b 2048 4 ;;
    panels) "$tests/bench_panel" ;;
    operations) "$tests/bench_ops" ;;
    more)
        for shape in llama-2-7b qwen2-7b; do
            step $shape 8192 2048
            peer $shape 2048 4
        done
        step llama-3-8b 8192 4096
        peer llama-3-8b 4096 2
        ;;
    *)
        echo "there is no part \"$part\"" >&2
        exit 64
        ;;
    esac
done
