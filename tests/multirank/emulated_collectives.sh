#!/bin/bash
# Collectives over memory of emulated GPUs (docs/testing.md): by mpi they give the bits that host memory gives, by the
# emulated NCCL what NCCL's rounding gives; ranks that share a GPU; a rank that hangs, a connection that breaks.
set -u
. "$2/tests/support/mpirun.sh"
need_mpirun
export LORAD_CUDA_LIBRARY=$LORAD_TEST_BUILD/emulator/lorad_cuda.so LORAD_TEST_DEVICE=cuda LORAD_EMULATOR_GPUS=4
[ -f "$LORAD_CUDA_LIBRARY" ] || {
    echo "skipped: the emulated GPU was not built (no C++ compiler)"
    exit 77
}
program=$LORAD_TEST_BUILD/bin/collectives hang=$LORAD_TEST_BUILD/bin/hang
log=$(mktemp "${TMPDIR:-/tmp}/lorad-test-XXXXXX")
trap 'rm -f "$log"' EXIT
on() { # KIND RANKS ARGUMENTS
    LORAD_TEST_COMM=$1 ranks "$2" "${@:3}"
}
# refused WORDS KIND RANKS ARGUMENTS: code 78 and these words.
refused() {
    on "${@:2}" >"$log" 2>&1
    code=$?
    [ $code = 78 ] && grep -q "$1" "$log" || { cat "$log"; fail "code $code, wanted 78 and \"$1\""; }
}

# Versions are known without a GPU.
LORAD_EMULATOR_DRIVER=0 "$1" --version >"$log" || fail "--version"
grep -q "^  with cuda   emulated products, cuDNN 9" "$log" && grep -q "^  collectives self, .*MPI.*, NCCL 2.28.9$" "$log" ||
    { cat "$log"; fail "--version does not name the libraries of GPUs"; }

host=$(LORAD_TEST_DEVICE=cpu ranks 3 "$program" values) || fail "host memory"
staged=$(on mpi 3 "$program" values) || fail "mpi"
[ -n "$host" ] && [ "$host" = "$staged" ] || fail "$host of host memory, $staged of the GPU's through it"
on nccl 3 "$program" values >"$log" 2>&1 || { cat "$log"; fail "nccl"; }
grep -q "comm: NCCL 2.28.9, deterministic: NCCL_ALGO=Ring, NCCL_NVLS_ENABLE=0, 16 channels" "$log" ||
    { cat "$log"; fail "NCCL does not say how it is set up"; }
echo "values: right"
LORAD_COMM_CHECK=1 on nccl 2 "$program" values >/dev/null 2>&1 || fail "the contract check disturbs the values"
[ "$(on auto 2 "$program" kind 2>"$log")" = "nccl: NCCL 2.28.9" ] || { cat "$log"; fail "auto does not take nccl"; }
[ "$(on nccl 1 "$program" kind 2>"$log")" = "self: self" ] || { cat "$log"; fail "one rank needs no nccl"; }

# Waiting on the device is told from computing: not the late rank waits, and no longer than it was late.
for late in 0 1; do
    on nccl 2 "$program" waits $late >"$log" 2>&1 || { cat "$log"; fail "waits"; }
    awk -v late=$late '$2 == "waited" { waited[$1] = $3 } END { exit !(waited[1 - late] - waited[late] > 0.2) }' "$log" ||
        { cat "$log"; fail "rank $late is late, and that cannot be seen"; }
done

# Two ranks on one GPU.
export LORAD_EMULATOR_GPUS=1 LORAD_SHARE_GPU=1
[ "$(on auto 2 "$program" kind 2>"$log")" = "mpi: mpi" ] || { cat "$log"; fail "auto does not fall back to mpi"; }
grep -q "comm: mpi, through host memory: ranks 0 and 1 both use GPU 0 (0000:.*) of host" "$log" ||
    { cat "$log"; fail "auto does not say why it takes mpi"; }
refused "ranks 0 and 1 both use GPU 0 .* NCCL needs one GPU a rank; set comm: mpi" nccl 2 "$program" kind
unset LORAD_SHARE_GPU
refused "rank 1: device: ranks 0 and 1 of host .* would both use GPU-.*: rank 1 sees 1 GPU, and other ranks have it" \
    auto 2 "$program" kind
export LORAD_EMULATOR_GPUS=4
# A launcher shows each rank a GPU of its own, as number 0; here in the order of a list.
shown() { # GPUS ARGUMENTS: as CUDA_VISIBLE_DEVICES of ranks 0, 1, ...
    LORAD_TEST_COMM=auto SHOWN=$1 ranks 2 bash -c \
        'gpus=($SHOWN); LORAD_EMULATOR_VISIBLE=${gpus[OMPI_COMM_WORLD_LOCAL_RANK]} exec "$@"' - "${@:2}" >"$log" 2>&1
}
shown "3 1" "$program" values || { cat "$log"; fail "ranks that see one GPU each, not the same"; }
grep -q "comm: NCCL" "$log" || { cat "$log"; fail "ranks that see one GPU each do not take NCCL"; }
shown "2 2" "$program" kind
[ $? = 78 ] && grep -q "ranks 0 and 1 of host .* would both use GPU-.*02: rank 1 sees 1 GPU" "$log" ||
    { cat "$log"; fail "two ranks that are shown one GPU are not refused"; }
shown "2,3 2,3" "$program" kind && grep -q "^nccl" "$log" || { cat "$log"; fail "two ranks that see two GPUs"; }
LORAD_TEST_DEVICE=cpu refused "nccl is for GPUs, and this rank computes on cpu" nccl 2 "$program" kind

# A rank that hangs while the other one's device waits for it; a collective that one leaves out; a broken connection.
on nccl 2 "$hang" sleep 1 2 >"$log" 2>&1
[ $? = 71 ] && grep -q "error: rank 1 on host .* hangs: no sign of life .*outside any collective" "$log" &&
    grep -q "warning: rank 0 on host .* in all_reduce on the device (collective" "$log" ||
    { cat "$log"; fail "a rank that hangs is not named"; }
on nccl 2 "$hang" skip 1 2 >"$log" 2>&1
[ $? = 71 ] && grep -q "error: the ranks wait for each other .* in all_reduce" "$log" ||
    { cat "$log"; fail "a collective left out is not told"; }
LORAD_EMULATED_NCCL_BREAK=30 on nccl 2 "$hang" sleep 1 60 >"$log" 2>&1
[ $? = 71 ] && grep -q "error: rank [01] on host .*: NCCL: a connection between ranks failed: remote process" "$log" ||
    { cat "$log"; fail "a broken connection does not end the run"; }
echo "hangs and breaks: told"
