# lib.sh: what the test scripts share. Sourced by bash with: lorad program, source folder.
# A script is called with both as arguments and exits 77, saying why, when it cannot run here.

lorad=$(realpath "$1") # as the ranks under `lorad run` are called
source=$2
work=$(mktemp -d "${TMPDIR:-/tmp}/lorad-test-XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$source" || exit 1

. tests/support/mpirun.sh
# One thread a rank: test machines are small and run other tests beside this one.
export OMP_NUM_THREADS=1
# So many processes however few the cores.
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none

# field FILE KEY: the values of a key of the training lines of metrics.jsonl, one a line, as written.
field() {
    grep '"loss"' "$1" | sed -E "s/.*\"$2\": ?([^,}]*).*/\1/"
}

# worst A B: the largest relative difference between two columns of numbers.
worst() {
    paste "$1" "$2" | awk '{ d = $1 - $2; if (d < 0) d = -d; a = $1 < 0 ? -$1 : $1; r = a > 0 ? d / a : d
                             if (NF != 2) { print 9; exit } if (r > m) m = r } END { print m + 0 }'
}

at_most() {
    awk -v a="$1" -v b="$2" 'BEGIN { exit !(a <= b) }'
}
