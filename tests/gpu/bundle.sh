#!/usr/bin/env bash
# What check.sh and speed.sh need of a build, as one file (by its name: .tar, .tar.gz, .tar.xz), for a machine with a GPU that has neither lorad's libraries nor MPI:
#
#     tests/gpu/bundle.sh build/lorad lorad.tar.gz                   here, for GPUs like that one (LORAD_CUDA_ARCHITECTURES)
#     tar -xzf lorad.tar.gz && . lorad-bundle/environment.sh         there, then in the sources:
#     tests/gpu/check.sh "$LORAD_BUNDLE/lorad" .
#
# The C library, C++'s and NVIDIA's are that machine's own (libraries.sh finds those of Python's packages). The one here must not
# be newer than the one there.
set -eu
build=$(dirname "$(realpath "$1")")
to=$(realpath -m "$2")
work=$(mktemp -d "${TMPDIR:-/tmp}/lorad-bundle-XXXXXX")
trap 'rm -rf "$work"' EXIT
bundle=$work/lorad-bundle
mkdir -p "$bundle/tests" "$bundle/lib" "$bundle/mpi/bin"

cp "$build/lorad" "$bundle"
[ ! -e "$build/lorad_cuda.so" ] || cp "$build/lorad_cuda.so" "$bundle"
for name in "$build"/tests/{test_parity_*,make_model,bench_{step,panel,ops}}; do [ ! -x "$name" ] || cp "$name" "$bundle/tests"; done

# Open MPI by its own variables; ranks of one host are started by mpirun itself.
if command -v mpirun >/dev/null; then
    cp -L "$(command -v mpirun)" "$bundle/mpi/bin/mpirun"
    for what in pkglib pkgdata sysconf; do
        from=$(ompi_info --path ${what}dir --parsable 2>/dev/null | sed 's/.*://')
        [ ! -d "$from" ] || cp -rL "$from" "$bundle/mpi/$what"
    done
fi

find "$bundle" -type f -exec ldd {} \; 2>/dev/null | awk '$3 ~ "^/" { print $1, $3 }' | sort -u |
    grep -vE '^lib(c|m|dl|rt|pthread|util|resolv|z|stdc\+\+|gcc_s|cudart|cublas|cublasLt|cudnn|nccl|nvrtc)\.so' |
    while read -r name path; do cp -L "$path" "$bundle/lib/$name"; done

cat >"$bundle/environment.sh" <<'END'
LORAD_BUNDLE=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
export LD_LIBRARY_PATH=$LORAD_BUNDLE/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
if [ -x "$LORAD_BUNDLE/mpi/bin/mpirun" ]; then
    export PATH=$LORAD_BUNDLE/mpi/bin:$PATH OPAL_PREFIX=$LORAD_BUNDLE/mpi OPAL_PKGLIBDIR=$LORAD_BUNDLE/mpi/pkglib \
        OPAL_PKGDATADIR=$LORAD_BUNDLE/mpi/pkgdata OPAL_SYSCONFDIR=$LORAD_BUNDLE/mpi/sysconf \
        OMPI_MCA_plm_rsh_agent=/bin/false # it wants a way to other hosts even if there is one
fi
END
tar -C "$work" -caf "$to" lorad-bundle
du -h "$to"
