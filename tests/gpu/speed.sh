#!/usr/bin/env bash
# How fast lorad is on this GPU, in one command, most important part first; each part prints as it goes and has a time limit, so
# that a run that is cut off has said something. The last lines are a table, to be pasted.
#
#     PYTHON=python3 tests/gpu/speed.sh build/lorad [FOLDER]
#
# PYTHON has torch, transformers and peft, and is needed by `peer` alone. FOLDER (default: a temporary one) takes random-weight
# models of 16 GB, one at a time, and should lie in memory or on a fast disk; a folder that is given keeps them.
#
#   LORAD_GPU_SHAPES     models of make_model, one after the other (default llama-3-8b)
#   LORAD_GPU_SPEED      parts, each with the length of its rows behind a colon (default 2048). Seconds are expected ones for
#                        Llama-3-8B on an H200:
#     step         a whole step, fast (40) and deterministic (12): time of every operation, what the adapter costs, its share of
#                  a square product that runs for 10 s in the same process (those three in the fast mode), products alone
#     peer         the same work by PEFT + PyTorch, in turn (130): tokens/s, memory, losses, gradient norms; start to the first
#                  step, how busy the GPU is over 50 steps, memory beside the plan
#     panels       the products of linear layers with and without an adapter: bench_panel (60)
#     operations   every operation alone: bench_ops (20)
#     graphs       steps of four micro-batches enqueued operation by operation and replayed as CUDA graphs (20): for small
#                  models, LORAD_GPU_SHAPES=qwen2-0.5b
#     kernels      time of every kernel in a step, by Nsight Compute's ncu (60)
#   LORAD_GPU_SECONDS    for everything; what does not fit any more is left out (default: no limit)
#   LORAD_GPU_TOKENS     of a micro-batch (default 8192)
#   LORAD_GPU_STEP, LORAD_GPU_PEER   more options of bench_step and of run_peer.py
#
# A model is made in about 10 s, by all cores. What the seconds of `step` are: opening 2, weights 2, algorithms tried 2, ten steps of
# 0.42, six timed one by one 3, ten without the adapter 4, square products 13, products alone 6. Of `peer`: four starts of 5,
# 64 steps of 0.42; imports 15, the model 8, 14 steps of 0.8, a compilation of 45 and 7 steps.
set -u
program=$(realpath "$1")
folder=${2:-}
[ -n "$folder" ] || { folder=$(mktemp -d "${TMPDIR:-/tmp}/lorad-speed-XXXXXX") && trap 'rm -rf "$folder"' EXIT; }
mkdir -p "$folder"
here=$(dirname "$(realpath "$0")")
tests=$(realpath "${LORAD_TEST_BUILD:-$(dirname "$program")/tests}")
python=${PYTHON:-python3}
lorad=$program
. "$here/libraries.sh"
tokens=${LORAD_GPU_TOKENS:-8192}
all=${LORAD_GPU_SECONDS:-1000000}
cores=$(nproc)
failed=()
rows=''
square=''
export LORAD_TEST_DEVICE=cuda PYTHONUNBUFFERED=1
LORAD_TEST_DATA=$(realpath "$here/../data")
export LORAD_TEST_DATA
unset OMP_NUM_THREADS

# part NAME SECONDS COMMAND...: its output also in $folder/out
part() {
    local name=$1 limit=$2 start=$SECONDS left=$((all - SECONDS)) code
    shift 2
    [ $left -ge 10 ] || { echo "=== $name left out: $left s are left"; failed+=("$name"); return 1; }
    [ "$limit" -le $left ] || limit=$left
    echo "=== $name (at $SECONDS s)"
    timeout -k 5 "$limit" "$@" 2>&1 | tee "$folder/out"
    code=${PIPESTATUS[0]}
    if [ "$code" != 0 ]; then
        echo "=== $name FAILED: exit code $code$([ "$code" = 124 ] && echo ", its time was over")"
        failed+=("$name")
    fi
    rows+=$(grep -h '^| [a-z0-9.-]* | [0-9bf]' "$folder/out" | sed "s/^/$name: /")
    rows+=$'\n'
    echo "=== $name took $((SECONDS - start)) s"
    return "$code"
}

# step MODE NAME MORE...
step() {
    local mode=$1 name=$2
    shift 2
    [ -z "$square" ] || set -- --square-rate "$square" "$@"
    # shellcheck disable=SC2086
    part "$name" 150 "$tests/bench_step" "$folder/$shape/model" "$folder/$shape/adapter" --dtype bf16 --tokens "$tokens" \
        --row "$length" --steps 8 --threads "$cores" --phases 1 --fast "$mode" "$@" ${LORAD_GPU_STEP:-}
    [ -n "$square" ] || square=$(sed -n 's/^square product of .* for .* s: \([0-9.]*\) GFLOP.*/\1/p' "$folder/out" | tail -n 1)
}

# Cores by their numbers, as the process may use them.
core_list() { "$python" -c 'import os; print(*sorted(os.sched_getaffinity(0)), sep=",")'; }

peer() {
    # shellcheck disable=SC2086
    part "peer $shape $length" 330 "$python" "$here/../bench/run_peer.py" --lorad "$program" --tests "$tests" --device cuda \
        --work "$folder" --shapes "$shape" --dtypes bf16 --cutoffs "$length" --masks all --rows $((tokens / length)) \
        --packs $((tokens / length)) --steps 7 --cores "$(core_list)" --json "$folder/$shape-$length.json" --peer-limit 200 \
        ${LORAD_GPU_PEER:-}
}

# Of one micro-batch, the third; the others warm up. By name: calls, milliseconds, share.
kernels() {
    command -v ncu >/dev/null || { echo "there is no ncu"; return 1; }
    ncu --csv --print-units base --metrics gpu__time_duration.sum --clock-control none --cache-control none \
        "$tests/bench_step" "$folder/$shape/model" "$folder/$shape/adapter" --dtype bf16 --tokens "$tokens" --row "$length" \
        --steps 1 --threads "$cores" --products 0 --fast 1 >"$folder/kernels.csv" || { tail -n 5 "$folder/kernels.csv"; return 1; }
    sum_kernels <"$folder/kernels.csv"
}

# Names are cut before their arguments; the loading of weights is among them, each step three times.
sum_kernels() {
    awk -F '","' '/^"[0-9]+"/ { name = $5; gsub(/\((int|bool|unsigned int)\)/, "", name); sub(/\(.*/, "", name); value = $NF; gsub(/[",]/, "", value)
                                n[name]++; ns[name] += value; all += value }
        END { for (k in n) printf "%10.3f ms %5.1f %% %6d  %s\n", ns[k] / 1e6, 100 * ns[k] / all, n[k], substr(k, 1, 100)
              printf "%10.3f ms in all\n", all / 1e6 }' | sort -rn | head -n 40
}

for shape in ${LORAD_GPU_SHAPES:-llama-3-8b}; do
    part "make $shape" 120 "$tests/make_model" "$shape" "$folder/$shape" --threads "$cores" || continue
    for each in ${LORAD_GPU_SPEED:-step peer}; do
        length=2048
        [ "${each#*:}" = "$each" ] || length=${each#*:}
        case ${each%%:*} in
        step)
            first=(--square 10)
            [ -z "$square" ] || first=(--products 0)
            step 1 "step $shape $length fast" --without 1 "${first[@]}"
            step 0 "step $shape $length deterministic" --products 0 ;;
        peer) peer ;;
        panels) part panels 150 env LORAD_BENCH_SECONDS=3 "$tests/bench_panel" --tokens "$tokens" --seconds 0.05 ;;
        operations) part operations 60 "$tests/bench_ops" ;;
        graphs) step 1 "graphs $shape $length" --graphs 1 --micros 4 --products 0 --steps 40 ;;
        kernels) export -f kernels sum_kernels && export tests folder shape tokens length cores &&
            part "kernels $shape" 150 bash -c kernels ;;
        *) echo "there is no part \"$each\"" >&2 && exit 64 ;;
        esac
    done
    [ -n "${2:-}" ] || rm -rf "${folder:?}/$shape"
done

echo
echo "=== in all $SECONDS s${failed[0]:+; not done: ${failed[*]}}"
echo "| model | tokens | rows of | mode | step | tokens/s | products and attention | of the square product | adapter costs |"
echo "|---|---|---|---|---|---|---|---|---|"
grep '^step' <<<"$rows" | sed 's/^[^|]*//'
if grep -q '^peer' <<<"$rows"; then
    echo
    echo "| shape | type | packed | supervised | lorad tokens/s | peer tokens/s | speed | memory | loss, norm differ by |"
    echo "|---|---|---|---|---|---|---|---|---|"
    grep '^peer' <<<"$rows" | sed 's/^[^|]*//'
fi
[ ${#failed[@]} = 0 ]
