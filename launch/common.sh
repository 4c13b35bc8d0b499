# common.sh: what the set-up commands share: installing what is missing, building, starting ranks. Sourced by bash.

# One package a line: what proves that it is there, and its name on Debian and Ubuntu.
lorad_packages() {
    cat <<'LIST'
command:gcc gcc
command:cmake cmake
command:ninja ninja-build
command:pkg-config pkg-config
command:mpirun openmpi-bin
command:mpicc libopenmpi-dev
command:pgrep procps
header:stdio.h libc6-dev
header:zstd.h libzstd-dev
header:zlib.h zlib1g-dev
header:yaml.h libyaml-dev
header:cmocka.h libcmocka-dev
header:jansson.h libjansson-dev
header:pcre2.h libpcre2-dev
header:utf8proc.h libutf8proc-dev
header:xxhash.h libxxhash-dev
header:hiredis/hiredis.h libhiredis-dev
header:protobuf-c/protobuf-c.h libprotobuf-c-dev
command:protoc-c protobuf-c-compiler
openblas:cblas.h libopenblas-openmp-dev
LIST
}

# What only tests use; those that miss it say "skipped".
lorad_test_packages() {
    cat <<'LIST'
command:g++ g++
command:redis-server redis-server
command:ip iproute2
command:munged munge
command:slurmctld slurmctld
command:slurmd slurmd
command:sbatch slurm-client
slurm:mpi_pmix.so slurm-wlm-basic-plugins
LIST
}

# Whether "kind:thing" is on this machine.
lorad_has() {
    local name=${1#*:}
    case $1 in
    command:*) command -v "$name" >/dev/null ;;
    header:*) compgen -G "/usr/include/$name" >/dev/null || compgen -G "/usr/include/*/$name" >/dev/null ||
        compgen -G "/usr/local/include/$name" >/dev/null ;;
    slurm:*) compgen -G "/usr/lib/*/slurm*/$name" >/dev/null ;;
    openblas:*) compgen -G "/usr/lib/*/openblas-openmp/libopenblas.so" >/dev/null ;;
    esac
}

# lorad_install [list]: installs what is missing of lorad_packages, and of another list, when that is possible, else prints
# the line that does it and stops.
lorad_install() {
    local missing=() probe package
    while read -r probe package; do
        lorad_has "$probe" || missing+=("$package")
    done < <(lorad_packages; [ $# = 0 ] || "$1")
    [ ${#missing[@]} -gt 0 ] || return 0
    local line="apt-get install -y --no-install-recommends ${missing[*]}" as_root=
    if [ "$(id -u)" != 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo"; else
            echo "Missing: ${missing[*]}. Install them and start again:" >&2
            echo "    sudo apt-get update && sudo $line" >&2
            exit 69
        fi
    fi
    if ! command -v apt-get >/dev/null; then
        echo "Missing (names of the Debian packages): ${missing[*]}. Install them and start again." >&2
        exit 69
    fi
    echo "==> installing: ${missing[*]}"
    # sudo drops the environment, so the setting goes behind it
    local log
    log=$(mktemp)
    if ! { $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
        $as_root env DEBIAN_FRONTEND=noninteractive $line -q; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "Installing failed (whole log: $log). By hand: sudo apt-get update && sudo $line" >&2
        exit 69
    fi
    rm -f "$log"
}

# What to build of the CUDA backend for a first look: for the GPU of this machine alone, or nothing where there is none.
lorad_gpu_here() {
    if nvidia-smi -L >/dev/null 2>&1; then
        echo "-DLORAD_CUDA_ARCHITECTURES=native"
    else
        echo "-DLORAD_CUDA=off"
    fi
}

# lorad_build [cmake options]: the program at build/lorad. Quiet unless something is wrong.
lorad_build() {
    echo "==> building build/lorad"
    set -- -DLORAD_CUDA=auto "-DLORAD_CUDA_ARCHITECTURES=80-real;90a-real;100a-real;80-virtual" "$@"
    local log=build/build.log
    mkdir -p build
    if ! { cmake --preset release "$@" && cmake --build build; } >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        echo "The build failed; whole log: $log" >&2
        exit 70
    fi
}

# lorad_ranks N arguments...: build/lorad (or $lorad) on N ranks of this machine.
lorad_ranks() {
    local n=$1 program=${lorad:-build/lorad}
    shift
    if [ "$n" = 1 ]; then
        "$program" "$@"
        return
    fi
    local more=()
    [ "$(nproc)" -ge "$n" ] || more+=(--oversubscribe)
    if [ "$(id -u)" = 0 ]; then # Open MPI refuses root unless it is told twice
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    mpirun -q -np "$n" "${more[@]}" "$program" "$@"
}
