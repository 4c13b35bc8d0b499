# slurm.sh: a real Slurm on this machine for one test, its nodes hosts as in hosts.sh, which it reads itself. Sourced by bash.
#
# slurm_start NODE...     munged, slurmctld and a slurmd for each node; returns when all are idle. gpus=N: each has N GPUs,
#                         which are files
# submit ARGUMENTS        sbatch; prints the job's number
# job NAME ARGUMENTS      launch/slurm/lorad.sbatch with the options of a run into $work/NAME (hosts.sh), on two ranks
# state JOB               its state as Slurm tells it: RUNNING, PENDING, COMPLETED, ...
# wait_state JOB REGEX    until the state is one of these

need_tools="slurmctld slurmd munged sbatch srun"
. "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"
slurm=$work/slurm
export SLURM_CONF=$slurm/slurm.conf

slurm_configure() { # NODE...
    local node i
    cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=head
SlurmUser=root
SlurmdUser=root
MessageTimeout=5
AuthType=auth/munge
AuthInfo=socket=$slurm/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPort=16817
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/slurmd-%n.pid
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool-%n
SlurmctldLogFile=$slurm/slurmctld.log
SlurmdLogFile=$slurm/slurmd-%n.log
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1,batch_sched_delay=0,requeue_delay=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdTimeout=5
KillWait=${kill_wait:-5}
JobRequeue=1
PartitionName=test Nodes=ALL Default=YES MaxTime=UNLIMITED State=UP
CONF
    if [ -n "${gpus:-}" ]; then
        echo "GresTypes=gpu" >>"$SLURM_CONF"
        for i in $(seq 0 $((gpus - 1))); do mknod "$slurm/gpu$i" c 1 3; done # as /dev/null
        for node in "$@"; do echo "NodeName=$node Name=gpu File=$slurm/gpu[0-$((gpus - 1))]"; done >"$slurm/gres.conf"
    fi
    for node in "$@"; do
        echo "NodeName=$node ${gpus:+Gres=gpu:$gpus} CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=1000" >>"$SLURM_CONF"
    done
}

slurmd_start() { # NODE
    on_host "$1" slurmd -D -N "$1" >"$slurm/$1.out" 2>&1 &
}

slurm_start() {
    local node i
    host_start "$@"
    mkdir -p "$slurm/state"
    head -c 64 /dev/urandom >"$slurm/munge.key"
    chmod 600 "$slurm/munge.key"
    slurm_configure "$@"
    munged --force --foreground --key-file="$slurm/munge.key" --socket="$slurm/munge.sock" --pid-file="$slurm/munge.pid" \
        --log-file="$slurm/munge.log" --seed-file="$slurm/munge.seed" >"$slurm/munge.out" 2>&1 &
    for i in $(seq 100); do [ -S "$slurm/munge.sock" ] && break; sleep 0.05; done
    slurmctld -D -c >"$slurm/slurmctld.out" 2>&1 &
    for node in "$@"; do slurmd_start "$node"; done
    for i in $(seq 50); do
        [ "$(timeout 5 sinfo -h -N -o %t 2>/dev/null | grep -c idle)" = $# ] && return
        sleep 0.1
    done
    tail -n 20 "$slurm"/*.log "$slurm"/*.out
    fail "Slurm did not start"
}

submit() { timeout 20 sbatch --parsable "$@"; }
state() { timeout 10 squeue -h -t all -j "$1" -o %T 2>/dev/null; }
# A requeued job waits some seconds until its old credentials are void. A test waits for the next full second, of which their
# times are whole numbers: a start in the same one is refused by the node, and the job has failed.
start_now() { # JOB
    sleep 1.2
    timeout 10 scontrol update JobId="$1" StartTime=now
}
wait_state() { # JOB REGEX
    local i
    for i in $(seq ${LORAD_SLURM_PATIENCE:-900}); do
        [[ $(state "$1") =~ ^($2)$ ]] && return
        sleep 0.1
    done
    scontrol show job "$1" | grep -E "JobState|Restarts"
    tail -n 60 "$(scontrol show job "$1" | sed -n "s/ *StdOut=//p")"
    tail -n 20 "$slurm"/*.out
    fail "job $1 is $(state "$1"), not $2"
}

job() { # NAME SBATCH-OPTION...: launch/slurm/lorad.sbatch on two ranks; prints the job's number
    local name=$1
    shift
    # shellcheck disable=SC2046
    LORAD=$lorad submit --output="$work/$name.log" --nodes=1 --ntasks-per-node=2 --cpus-per-task=1 --time=30 "$@" \
        launch/slurm/lorad.sbatch $(options "$name") ${more:+--set $more}
}
