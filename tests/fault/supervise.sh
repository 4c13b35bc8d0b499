# `lorad run`: what it starts again and what not, what signals do, what a service manager hears, and that nothing is left
# behind. Kills, and that the bits stay: supervise_kill.sh.
. "$(dirname "$0")/../support/lib.sh"
. tests/support/supervise.sh
need_mpirun
listen=$LORAD_TEST_BUILD/notify_listen
common=(--config configs/quickstart.yaml --set output_dir="$work/run" --set cache_dir="$work/cache" --set eval_file=
    --set eval_strategy=no --set load_best_model_at_end=false --set cutoff_len=128 --set global_batch_size=2
    --set logging_steps=1 --set progress=lines --set report_to=none --set save_strategy=steps --set overwrite_output_dir=false)
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null; rm -rf "$work"' EXIT

# start arguments...: in the background, INT as a terminal would have it
start() {
    : >"$work/log"
    (trap - INT; exec env --default-signal=INT "$lorad" run "${common[@]}" "$@") >"$work/log" 2>&1 </dev/null &
    pid=$!
}
said() { grep -qE -- "$1" "$work/log"; }
wait_for() { until_true 60 said "$1" || { tail -n 20 "$work/log"; fail "the log never said: $1"; }; }
# ends CODE WORDS WHAT
ends() {
    local code
    wait "$pid"
    code=$?
    pid=
    [ $code = "$1" ] || { tail -n 20 "$work/log"; fail "$3: expected code $1, got $code"; }
    [ -z "$2" ] || said "$2" || { tail -n 20 "$work/log"; fail "$3: no \"$2\""; }
    nothing_left "$3"
}
again() { grep -c "Starting it again" "$work/log"; }

# To the end, with one and with several ranks.
start -np 2 --set max_steps=3
ends 0 "adapter written" "a short run"
rm -rf "$work/run"
start --set max_steps=2
ends 0 "adapter written" "one rank"
[ -z "$(again)" ] || [ "$(again)" = 0 ] || fail "a run that was done was started again"

# An end that a new start would not change is passed on.
start -np 2 --set max_steps=3
ends 73 "already holds a run" "a folder that is taken"
start -np 2 --set model_name_or_path="$work/nowhere"
ends 66 "nowhere" "a missing model"
start -np 2 --set learning_rate=-1
ends 78 "learning_rate" "a wrong value"
start -np 3 --set tensor_parallel_size=2 --set overwrite_output_dir=true
ends 78 "tensor_parallel_size" "ranks that do not fit"
[ "$(again)" = 0 ] || fail "a wrong configuration was started again"
rm -rf "$work/run"

# More than one process was started, but no process manager: each would train alone (the singleton trap).
SLURM_JOB_ID=7 SLURM_NTASKS=2 "$lorad" "${common[@]}" >"$work/log" 2>&1
code=$?
[ $code = 78 ] && said "finds itself alone" || fail "the singleton trap: code $code, $(cat "$work/log")"
[ ! -e "$work/run/epoch" ] || fail "a singleton claimed the folder"
export SLURM_NTASKS=2
start --set max_steps=2 -- --tag-output
ends 0 "2 ranks" "as many ranks as Slurm has tasks, and mpirun's own arguments"
unset SLURM_NTASKS
said "^\[[0-9]+,0\]<stderr>" || fail "mpirun did not get its arguments: $(cat "$work/log")"
rm -rf "$work/run"

# TERM: the step, a checkpoint, 75; the same command goes on. A second supervisor is refused meanwhile. All is told.
NOTIFY_SOCKET=@lorad-supervise-$$
"$listen" "$NOTIFY_SOCKET" 100 >"$work/heard" &
listener=$!
until_true 5 grep -q "lorad-supervise-$$" /proc/net/unix || fail "the listener does not listen"
export NOTIFY_SOCKET WATCHDOG_USEC=2000000
start -np 2 --set max_steps=100000 --set save_steps=100000
unset WATCHDOG_USEC
wait_for "step 3/"
"$lorad" run "${common[@]}" >"$work/second" 2>&1
code=$?
unset NOTIFY_SOCKET
[ $code = 73 ] && grep -q "supervised by another" "$work/second" || fail "a second supervisor: $code, $(cat "$work/second")"
until_true 12 grep -q "READY=1" "$work/heard" || fail "never ready: $(cat "$work/heard")"
until_true 12 eval '[ "$(grep -c "WATCHDOG=1" "$work/heard")" -ge 2 ]' || fail "no WATCHDOG: $(cat "$work/heard")"
kill -USR2 "$pid"
wait_for "checkpoint of step"
kill -TERM "$pid"
ends 75 "stopped on request after step" "TERM"
kill $listener
for words in "READY=1 STATUS=step" "WATCHDOG=1" "STOPPING=1" "EXTEND_TIMEOUT_USEC="; do
    grep -q "$words" "$work/heard" || fail "the service manager never heard $words: $(cat "$work/heard")"
done
awk '/READY=1/ { ready = 1 } /STOPPING=1/ { if (!ready) exit 1; }' "$work/heard" ||
    fail "in the wrong order: $(cat "$work/heard")"
step=$(sed -nE 's/.*stopped on request after step ([0-9]+).*/\1/p' "$work/log")
start -np 2 --set max_steps=$((step + 2)) --set resume_from_checkpoint=auto
ends 0 "continuing from .*step $step" "the run that goes on"
rm -rf "$work/run"

# INT, HUP, USR1 are like TERM; INT twice ends at once. 75 that nobody here asked for is passed on.
for signal in HUP USR1 INT; do
    start -np 2 --set max_steps=100000 --set overwrite_output_dir=true
    wait_for "step 2/"
    kill -$signal "$pid"
    ends 75 "stopped on request after step" "$signal"
done
start -np 2 --set max_steps=100000 --set overwrite_output_dir=true
wait_for "step 2/"
kill -STOP $(rank_pids) # they cannot end as they should
kill -INT "$pid"
wait_for "once more"
kill -INT "$pid"
ends 130 "" "INT twice"
start -np 2 --set max_steps=100000 --set overwrite_output_dir=true
wait_for "step 2/"
kill -USR1 $(rank_0)
ends 75 "stopped on request after step" "USR1 to a rank"

# The grace: ranks that do not end in time are ended, and the last checkpoint stands.
start -np 2 --set max_steps=100000 --set overwrite_output_dir=true --set stop_grace_seconds=1 --set save_steps=2
wait_for "checkpoint of step 2"
kill -STOP $(rank_pids)
kill -TERM "$pid"
ends 75 "did not end within 1 s" "a grace that is too short"
[ "$(committed)" -ge 1 ] || fail "the checkpoint is gone"

# Three starts without a new checkpoint are the end; so is the number of restarts.
start -np 2 --set max_steps=100000 --set save_steps=100000 --set overwrite_output_dir=true
for i in 1 2 3; do
    until_true 60 eval '[ "$(grep -c "step 2/" "$work/log")" = '$i' ]' || fail "start $i made no step: $(tail -n 20 "$work/log")"
    kill -9 $(rank_0)
done
ends 137 "3 starts in a row have committed no new checkpoint" "a run that never gets on"
start -np 2 --restarts 0 --set max_steps=100000 --set save_steps=100000 --set overwrite_output_dir=true
wait_for "step 2/"
kill -9 $(rank_0)
ends 137 "--restarts 0" "no restarts"

# Ranks on other hosts get the password of Redis: mpirun hears its name alone. Here they have it anyway.
mkdir -p "$work/bin"
printf '%s\n' '#!/bin/sh' 'echo "words: $*" >&2' 'exit 78' >"$work/bin/mpirun"
chmod +x "$work/bin/mpirun"
path=$PATH
export PATH=$work/bin:$PATH REDISCLI_AUTH=of-redis
echo localhost >"$work/hosts"
start -np 2 --hostfile "$work/hosts"
ends 78 "words: .*-x REDISCLI_AUTH " "the password for other hosts"
! said of-redis || fail "mpirun's words hold the password"
start -np 2
ends 78 "words: " "no other hosts"
! said REDISCLI_AUTH || fail "nothing was to be taken to other hosts"
PBS_NODEFILE=$work/hosts start -np 2
ends 78 "words: .*-x REDISCLI_AUTH " "hosts of a resource manager"
! said oversubscribe || fail "the resource manager's count of slots stands"
unset REDISCLI_AUTH
start -np 2 --hostfile "$work/hosts"
ends 78 "words: " "no password"
! said REDISCLI_AUTH || fail "mpirun warns of a variable that is not set"
PATH=$path
