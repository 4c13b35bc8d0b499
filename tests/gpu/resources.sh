#!/usr/bin/env bash
# What every kernel takes of a GPU, without one: registers, shared memory, and the local memory that it spills to. Needs nvcc; some
# minutes for each GPU.
#
#     tests/gpu/resources.sh [80 90a 100a ...] [-- FILE.cu ...]
#
# Prints those that spill or have most registers, and fails where one cannot start (65,536 registers a block: without
# __launch_bounds__ at most 256 threads, with 255 each) or spills more than 128 bytes a thread.
set -eu
cd "$(dirname "$0")/../.."
gpus=() files=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do gpus+=("$1") && shift; done
[ $# = 0 ] || { shift && files=("$@"); }
[ ${#gpus[@]} -gt 0 ] || gpus=(80 90a 100a)
[ ${#files[@]} -gt 0 ] || files=(kernels/cuda/*.cu)
work=$(mktemp -d "${TMPDIR:-/tmp}/lorad-resources-XXXXXX")
trap 'rm -rf "$work"' EXIT
for gpu in "${gpus[@]}"; do
    for file in "${files[@]}"; do
        nvcc -std=c++17 -O3 -DNDEBUG -gencode "arch=compute_$gpu,code=sm_$gpu" -cubin -Xptxas -v -I. -Ikernels/cuda/native \
            -o "$work/cubin" "$file" 2>"$work/text" || { cat "$work/text" && exit 1; }
        awk -v where="sm_$gpu $(basename "$file")" '
            /Compiling entry function/ { kernel = $7; gsub("\x27", "", kernel) }
            /bytes stack frame/ { spilled = $5 }
            /Used [0-9]+ registers/ { print where, $5, spilled, kernel }' "$work/text"
    done
done | c++filt | awk '
    { kernels++ }
    $3 >= 240 || $4 > 0 { sub(/\(.*/, ""); print }
    $3 > 255 || $4 > 128 { bad++ }
    END { printf "%d kernels; columns: GPU, file, registers, bytes spilled\n", kernels; exit bad > 0 || kernels == 0 }'
