#!/usr/bin/env bash
# Writes tests/data/golden/checkpoint-v1: a checkpoint of this release, made by a real run at TP 2, and beside it the values of all its
# tensors as tests/golden/read_checkpoint.py reads them, which shares no code with lorad. Later releases have to read it.
#
#     tests/golden/gen_checkpoint.sh build/lorad     # at the top of the repository; needs mpirun, python3 and zstd
set -euo pipefail
lorad=$1
name=checkpoint-v1
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMP_NUM_THREADS=1
rm -rf output/golden
mpirun -np 2 --oversubscribe --bind-to none "$lorad" --config configs/quickstart.yaml --set output_dir=output/golden \
    --set tensor_parallel_size=2 --set lora_rank=2 --set lora_target=q_proj,o_proj --set cutoff_len=64 --set global_batch_size=2 \
    --set max_steps=3 --set save_strategy=steps --set save_steps=3 --set eval_strategy=steps --set eval_steps=3 --set run_name=golden
rm -rf "tests/data/golden/$name" "tests/data/golden/$name.values"
cp -r "$(readlink -f output/golden/checkpoint-3)" "tests/data/golden/$name"
python3 tests/golden/read_checkpoint.py "tests/data/golden/$name" "tests/data/golden/$name.values"
"$lorad" inspect "tests/data/golden/$name" --verify
rm -rf output/golden
