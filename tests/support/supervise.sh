# supervise.sh: finding and killing parts of a supervised run in $work/run. Sourced by bash after lib.sh.
# MPI's files go to a folder of the test's own, so that what is left behind is seen.
lorad=$(realpath "$lorad")
export TMPDIR=$work/tmp
mkdir -p "$TMPDIR"

rank_pids() { pgrep -f "^$lorad --config .*output_dir=$work/run( |$)"; }
rank_0() {
    local p
    for p in $(rank_pids); do
        tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -qx OMPI_COMM_WORLD_RANK=0 && echo "$p"
    done
}
mpirun_pid() { pgrep -f "^mpirun .*output_dir=$work/run( |$)"; }
committed() { compgen -G "$work/run/ckpt/*/MANIFEST.json" | wc -l; }
newest() { compgen -G "$work/run/ckpt/s*/MANIFEST.json" | sort | tail -n 1; }

# until_true SECONDS COMMAND...: 1: it never was.
until_true() {
    local tries=$(($1 * 50))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.02
    done
}
no_ranks() { [ -z "$(rank_pids)$(mpirun_pid)" ]; }
# nothing_left: no process, no file of MPI, no folder of the supervisor. FOLDERS: so many may be left.
nothing_left() {
    until_true 5 no_ranks || fail "$1: ranks live on: $(rank_pids) $(mpirun_pid)"
    local left
    left=$(ls "$TMPDIR" | wc -l)
    [ "$left" -le "${2:-0}" ] || fail "$1: left behind in TMPDIR: $(ls "$TMPDIR")"
}
