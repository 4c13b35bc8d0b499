#!/bin/bash
# The golden runs on TP 2, TP 4, DP 2, DP 3 and TP 2 x DP 2, under the bounds of one rank: tensor parallelism with split and
# replicated key/value heads, a vocabulary that does not divide, uneven shares of micro-batches, a rank without work.
set -u
tool=$(dirname "$1")/tests/golden_layout
command -v mpirun >/dev/null || { echo "skipped: no mpirun"; exit 77; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
run() {
    local ranks=$1; shift
    mpirun --oversubscribe -np "$ranks" "$tool" "$@" || { echo "failed: $ranks ranks: $*"; exit 1; }
}
run 2 2 llama_mha llama3_rope llama_linear mistral_window qwen2_bias qwen2_kv2 qwen3_norm
run 4 4 llama_mha llama3_rope llama_linear qwen2_kv2 qwen3_norm
run 8 8 qwen2_kv2
run 2 1 llama_mha qwen2_bias
run 3 1 mistral_window qwen3_norm
run 4 2 qwen2_kv2 llama3_rope
run 4 1 llama_linear
