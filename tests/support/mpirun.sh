# Sourced by scripts that start ranks: `ranks N PROGRAM ...` under mpirun, on however few cores there are, as any user.
# fail WORDS ends the script; need_mpirun skips it where there is none.

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

need_mpirun() {
    command -v mpirun >/dev/null || {
        echo "skipped: no mpirun"
        exit 77
    }
}

if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# MPI keeps memory until the process ends, which is no leak of ours.
export ASAN_OPTIONS="detect_leaks=0:${ASAN_OPTIONS:-}"

ranks() {
    local n=$1
    shift
    timeout 120 mpirun -np "$n" --oversubscribe --bind-to none "$@"
}
