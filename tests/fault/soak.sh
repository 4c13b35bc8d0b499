# A run under faults of many kinds, again and again, each time continued until it ends by itself: losses, norms, evaluations
# and adapter have the bits of an uninterrupted run's, no committed checkpoint is lost, no process is left behind.
# LORAD_SOAK: how many of what, "rank=4 mpirun=2 all=1 supervisor=1 stop=1 usr1=1 disk=1" by default:
#   rank kill -9 of one, mpirun kill -9 of it, all kill -9 of the ranks and mpirun, supervisor kill -9 of `lorad run`,
#   stop SIGSTOP of a rank until the watchdog ends the run, usr1 a stop on request, disk a full disk for half a second,
#   redis kill -9 of a redis-server and an empty new one, in which the run must show again (needs redis-server)
# LORAD_SOAK_LANES (1): so many runs at a time. LORAD_SOAK_RANKS (2), LORAD_SOAK_TP (1), LORAD_SOAK_STEPS (100),
# LORAD_SOAK_WINDOW_MS (1200): a fault comes at most so long after a start; half of them wait for a save.
# LORAD_KILL_SEED. LORAD_SOAK_TALK=1 prints each fault. Prints a line a lane and the counts by kind and phase.
. "$(dirname "$0")/../support/lib.sh"
if [ -z "${LORAD_MOUNTS:-}" ] && unshare -rm true 2>/dev/null; then # a disk of our own, to fill
    rm -rf "$work"
    LORAD_MOUNTS=1 exec unshare -rm bash "$0" "$@"
fi
. tests/support/kill.sh
need_mpirun
mix=${LORAD_SOAK:-rank=4 mpirun=2 all=1 supervisor=1 stop=1 usr1=1 disk=1}
lanes=${LORAD_SOAK_LANES:-1} n=${LORAD_SOAK_RANKS:-2} tp=${LORAD_SOAK_TP:-1} steps=${LORAD_SOAK_STEPS:-100}
window_ms=${LORAD_SOAK_WINDOW_MS:-1200}
RANDOM=${LORAD_KILL_SEED:-20260801}
base=$work keep=3 patience=2

# ---- a run ----

options() { # NAME
    printf '%s\n' --config configs/fin_stage1.yaml --set tensor_parallel_size="$tp" --set output_dir="$work/$1" \
        --set bf16=false --set fp32=true --set cutoff_len=64 --set max_steps="$steps" --set logging_steps=1 \
        --set per_device_train_batch_size=1 --set global_batch_size=2 --set eval_strategy=steps --set eval_steps=25 \
        --set save_strategy=steps --set save_steps=5 --set save_total_limit=$keep --set load_best_model_at_end=false \
        --set lora_dropout=0.1 --set resume_from_checkpoint=auto --set cache_dir="$base/cache" --set report_to=none \
        --set eval_file="$base/eval.jsonl" --set progress=lines --set hang_timeout=$patience "${extra[@]}"
}
start() { # NAME: by mpirun, or supervised when $supervised is yes
    local all
    mapfile -t all < <(options "$1")
    if [ "${supervised:-no}" = yes ]; then
        exec "$lorad" run "${all[@]}" -np "$n"
    fi
    exec mpirun -q -np "$n" "$lorad" "${all[@]}"
}
extra=()
whole() { (start whole); }

# ---- what is on the disk ----

committed_steps() { # the steps of all committed checkpoints, one a line
    local m
    for m in "$work"/run/ckpt/*/MANIFEST.json; do
        [ -e "$m" ] && m=${m%/MANIFEST.json} && m=${m##*/s} && echo $((10#${m%%.*}))
    done | sort -n
}
nobody_left() { # within 5 s of the end
    local i
    for i in $(seq 50); do [ -z "$(victims_all)" ] && return; sleep 0.1; done
    echo "processes of a dead run still live after 5 s" >>"$work/problems"
    victims_all | xargs -r kill -9
    sleep 0.2
}

# phase_now: where the attempt is, by its log and its folder
phase_now() {
    if unfinished; then echo save
    elif ! grep -q "steps of [0-9]* packs" "$work/attempt.log"; then echo start
    elif grep -q "adapter written\|step $steps/" "$work/attempt.log"; then echo end
    else echo train; fi
}

# ---- the faults: each leaves the run ended, or going on (disk, redis) ----

# hit KIND JOB: 1: there was nothing to hit any more
hit() {
    local pid
    pid=$(victims)
    [ -n "$pid" ] || return 1
    case $1 in
    rank) kill -9 "$pid" ;;
    mpirun | supervisor) kill -9 "$2" ;;
    all) pkill -9 -P "$2"; kill -9 "$2" ;;
    stop) kill -STOP "$pid" ;;
    usr1) kill -USR1 "$2" ;;
    disk)
        head -c 999m /dev/zero >"$work/fill" 2>/dev/null
        sleep 0.5
        rm -f "$work/fill"
        ;;
    redis)
        kill -9 "$(cat "$base/${work##*/}.pid")"
        sleep 0.3
        redis_up
        ;;
    esac 2>/dev/null
}

# ended KIND JOB: waits, checks the code
ended() {
    local code words
    buried "$2" >>"$work/problems"
    code=$?
    case $1 in
    stop) words="71" ;;
    usr1) words="75 0" ;; # 0: it came behind the last step
    mpirun | all | supervisor) words="137" ;;
    *) words="" ;;
    esac
    [ -z "$words" ] || [[ " $words " == *" $code "* ]] ||
        { echo "$1: code $code"; tail -n 5 "$work/attempt.log"; } >>"$work/problems"
    [ "$1" != stop ] || grep -q "error: rank [0-9]* on host .* hangs: " "$work/attempt.log" ||
        { echo "stop: not named"; cat "$work/attempt.log"; } >>"$work/problems"
    nobody_left
}

# unharmed: everything that was committed and not due to be collected is still there
unharmed() {
    local newest=$1
    [ -z "$newest" ] || [ "$(committed_steps | tail -n 1)" -ge "$newest" ] ||
        echo "the checkpoint of step $newest is lost" >>"$work/problems"
}

# continued: a start behind a fault goes on from the newest committed checkpoint
continued() {
    local wanted=$1 got
    got=$(sed -n 's/.*continuing from .*: step \([0-9]*\).*/\1/p' "$work/attempt.log" | head -n 1)
    [ -z "$wanted" ] || [ -z "$got" ] || [ "$got" = "$wanted" ] ||
        echo "continued from step $got instead of $wanted" >>"$work/problems"
}

# shown_again SECONDS: that long after its server was replaced the run has ended, and Redis knows; less than 10 s may be too short
shown_again() {
    [ "$1" -lt 10 ] || [ "$(redis-cli -s "$base/${work##*/}.sock" HGET "lorad:{${work##*/}}:info" state)" = ended ] ||
        echo "redis: the end of the run is not told there" >>"$work/problems"
}

# ---- a lane ----

# attempt KIND: one start with one fault; 1: the run ended before it came
attempt() {
    local kind=$1 job before newest mode=any phase since
    before=$(committed_steps | tail -n 1)
    supervised=no
    [ "$kind" != supervisor ] || supervised=yes
    : >"$work/attempt.log"
    touch "$work/started"
    (start run) >>"$work/attempt.log" 2>&1 &
    job=$!
    [ $((RANDOM % 2)) = 0 ] || mode=save
    whole_ms=$((window_ms * 10 / 8)) await $mode $job 2>/dev/null || kind=
    # the watchdog begins with the training
    while [ "$kind" = stop ] && [ "$(phase_now)" = start ] && kill -0 $job 2>/dev/null; do sleep 0.02; done
    phase=$(phase_now)
    newest=$(committed_steps | tail -n 1)
    if [ -n "$kind" ] && hit "$kind" $job; then
        since=$SECONDS
        case $kind in
        disk | redis) wait $job || [ $? = 74 ] || { tail -n 5 "$work/attempt.log" >>"$work/problems"; } ;;&
        redis) shown_again $((SECONDS - since)) ;;
        disk) ;;
        *) ended "$kind" $job ;;
        esac
        echo "$kind $phase" >>"$work/faults"
        [ -z "${LORAD_SOAK_TALK:-}" ] || echo "$SECONDS s: ${work##*/}: $kind at $phase"
    else
        kind=
        wait $job || { echo "an undisturbed attempt: code $?"; tail -n 9 "$work/attempt.log"; } >>"$work/problems"
    fi
    cat "$work/attempt.log" >>"$work/run.log"
    continued "$before"
    unharmed "$newest"
    [ -n "$kind" ]
}
finished() { grep -q "adapter written to" "$work/attempt.log"; }

# Lines of the metrics that came while the disk was full are missing; what is there must be right.
same() {
    if [ "$disk_was_full" = no ]; then cmp -s "$base/whole.txt" "$work/run.txt"; else
        ! diff "$base/whole.txt" "$work/run.txt" | grep -q '^>'; fi
}

# lane KINDS...
lane() {
    local kind rounds=0 disk_was_full
    : >"$work/problems"
    if [[ " $* " == *" redis "* ]]; then
        redis_up
        extra=(--set redis_url="unix://$base/${work##*/}.sock" --set run_name="${work##*/}")
    fi
    while [ $# -gt 0 ]; do
        rm -rf "$work/run"
        : >"$work/attempt.log"
        disk_was_full=no
        rounds=$((rounds + 1))
        until finished; do
            kind=${1:-}
            if [ -n "$kind" ]; then
                if attempt "$kind"; then shift; fi
                [ "$kind" != disk ] || disk_was_full=yes
            else
                attempt ""
            fi
            if [ -s "$work/problems" ]; then break 2; fi
        done
        result run >"$work/run.txt"
        same || { echo "round $rounds differs"; diff "$base/whole.txt" "$work/run.txt" | head -n 5; } >>"$work/problems"
    done
    echo "lane: $(wc -l <"$work/faults") faults in $rounds runs, $(grep -c "continuing from" "$work/run.log") continued"
}

redis_up() { # the lane's own
    redis-server --port 0 --unixsocket "$base/${work##*/}.sock" --pidfile "$base/${work##*/}.pid" --daemonize yes --dir "$base" \
        --save "" >/dev/null
}

# ---- all of it ----

kinds=()
for part in $mix; do
    kind=${part%%=*} count=${part##*=}
    case $kind in
    supervisor) "$lorad" --help | grep -q "^ *run  " || { echo "no supervisor faults: this lorad has no \`run\`"; continue; } ;;
    disk) [ -n "${LORAD_MOUNTS:-}" ] || { echo "no disk faults: this machine allows no mount namespace"; continue; } ;;
    redis) command -v redis-server >/dev/null || { echo "no redis faults: no redis-server"; continue; } ;;
    esac
    for ((i = 0; i < count; i++)); do kinds+=("$kind"); done
done
mapfile -t kinds < <(printf '%s\n' "${kinds[@]}" | shuf --random-source=<(yes "$RANDOM"))
head -n 12 tests/data/finance-zh/fin_heldout.jsonl >"$base/eval.jsonl"
whole >"$base/whole.log" 2>&1 || { cat "$base/whole.log"; fail "the uninterrupted run failed"; }
result whole >"$base/whole.txt"
[ "$(wc -l <"$base/whole.txt")" -gt "$steps" ] || fail "the uninterrupted run logged too little"
begin=$SECONDS
trap 'kill $(jobs -p) 2>/dev/null; pgrep -f "output_dir=$base/lane" | xargs -r kill -9
    umount -l "$base"/lane* 2>/dev/null; cat "$base"/lane*.pid 2>/dev/null | xargs -r kill -9; rm -rf "$base"' EXIT
for ((l = 0; l < lanes; l++)); do
    mkdir "$base/lane$l"
    mine=()
    for ((i = l; i < ${#kinds[@]}; i += lanes)); do mine+=("${kinds[$i]}"); done
    [ -z "${LORAD_MOUNTS:-}" ] || mount -t tmpfs -o size=24m tmpfs "$base/lane$l" || fail "cannot mount a tmpfs"
    (work=$base/lane$l RANDOM=$((RANDOM + l)); : >"$work/faults"; lane "${mine[@]}" 2>"$work/stderr") &
done
wait
echo "${#kinds[@]} faults asked for, $(cat "$base"/lane*/faults | wc -l) made in $((SECONDS - begin)) s; by kind and phase:"
cat "$base"/lane*/faults | sort | uniq -c
if [ -n "$(cat "$base"/lane*/problems)" ]; then
    cat "$base"/lane*/problems
    fail "see above"
fi
[ "$(cat "$base"/lane*/faults | wc -l)" = ${#kinds[@]} ] || fail "not all faults were made"
