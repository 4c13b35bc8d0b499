# hosts.sh: several hosts on this machine, for one test: each with a name, a network card, shared memory and a boot number of
# its own, all with the same files. Sourced by bash instead of lib.sh, which it reads itself.
#
# The script starts again inside namespaces (network, processes, mounts): nothing is seen from outside, whatever ports are
# taken there, and nothing outlives the script, however that ends.
#
# host_start NAME...       names and addresses are known everywhere; this script itself is on a host called "head"
# on_host NAME COMMAND...  there
# host_cut NAME            its network cable is pulled; host_plug NAME puts one in
# $work/rsh                what mpirun takes for ssh: like it, it brings no variables along

if [ -z "${LORAD_HOSTS_INSIDE:-}" ]; then
    for lorad_tool in ip unshare nsenter ${need_tools:-}; do
        command -v $lorad_tool >/dev/null || { echo "skipped: $lorad_tool is not installed"; exit 77; }
    done
    [ "$(id -u)" = 0 ] || { echo "skipped: only root may make hosts of namespaces"; exit 77; }
    lorad_spaces=(unshare --net --uts --mount --pid --fork --mount-proc --kill-child)
    "${lorad_spaces[@]}" ip link add name lorad0 type bridge 2>/dev/null || { echo "skipped: no namespaces here"; exit 77; }
    export LORAD_HOSTS_INSIDE=1
    exec "${lorad_spaces[@]}" bash "$0" "$@"
fi
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
chmod 755 "$work"
mkdir "$work/hosts"
hostname head
ip link set lo up
ip link add name lorad0 type bridge
ip address add 10.77.0.1/24 dev lorad0
ip link set lorad0 up
cat >"$work/rsh" <<'RSH'
#!/bin/bash
# HOST COMMAND...
pid=$(cat "${0%/rsh}/hosts/$1.pid") || exit 255
shift
# what chooses kernels of the matrix library has to be the same on all hosts
mapfile -t kernels < <(env | grep '^OPENBLAS_')
exec nsenter --target "$pid" --net --uts --mount --ipc --wd="$PWD" -- env -i PATH="$PATH" HOME="$HOME" "${kernels[@]}" bash -c "$*"
RSH
chmod +x "$work/rsh"

on_host() { nsenter --target "$(cat "$work/hosts/$1.pid")" --net --uts --mount --ipc --wd="$PWD" -- "${@:2}"; }
host_cut() { ip link delete "lorad-$1"; }
host_plug() {
    ip link add name "lorad-$1" type veth peer name eth0 netns "$(cat "$work/hosts/$1.pid")"
    ip link set "lorad-$1" master lorad0 up
    on_host "$1" ip address add "$(awk -v name="$1" '$2 == name { print $1 }' "$work/hosts/hosts")/24" dev eth0
    on_host "$1" ip link set eth0 up
}
host_start() {
    local name n=1
    printf '127.0.0.1 localhost\n10.77.0.1 head\n' >"$work/hosts/hosts"
    for name in "$@"; do echo "10.77.0.$((++n)) $name" >>"$work/hosts/hosts"; done
    mount --bind "$work/hosts/hosts" /etc/hosts
    for name in "$@"; do
        cat /proc/sys/kernel/random/uuid >"$work/hosts/$name.boot"
        # shellcheck disable=SC2016
        unshare --net --uts --mount --ipc bash -c 'hostname "$1" && mount -t tmpfs none /dev/shm &&
            mount --bind "$2/$1.boot" /proc/sys/kernel/random/boot_id && ip link set lo up &&
            echo $$ >"$2/$1.tmp" && mv "$2/$1.tmp" "$2/$1.pid" && exec sleep infinity' - "$name" "$work/hosts" &
        for _ in $(seq 200); do [ -e "$work/hosts/$name.pid" ] && break; sleep 0.02; done
        [ -e "$work/hosts/$name.pid" ] || fail "host $name did not start"
        host_plug "$name"
    done
}

# ---- runs of fin_stage1 that can be compared ----

steps=${LORAD_STEPS:-${steps:-40}}
head -n 12 tests/data/finance-zh/fin_heldout.jsonl >"$work/eval.jsonl"
# options NAME: a run into $work/NAME, on $tp ranks a copy of the model
options() {
    echo "--config configs/fin_stage1.yaml --set output_dir=$work/$1 --set cache_dir=$work/cache --set bf16=false \
--set fp32=true --set cutoff_len=64 --set max_steps=$steps --set logging_steps=1 --set per_device_train_batch_size=2 \
--set global_batch_size=4 --set lora_dropout=0.1 --set eval_file=$work/eval.jsonl --set eval_strategy=steps \
--set eval_steps=25 --set save_strategy=steps --set save_steps=7 --set save_total_limit=3 --set load_best_model_at_end=false \
--set overwrite_output_dir=false --set report_to=none --set progress=lines --set resume_from_checkpoint=${resume:-} \
--set tensor_parallel_size=${tp:-1}"
}
result() { # FOLDER: steps, losses, norms, evaluations and the adapter's bytes
    field "$1/logs/metrics.jsonl" step
    field "$1/logs/metrics.jsonl" loss
    field "$1/logs/metrics.jsonl" grad_norm
    grep -o '"eval_loss": *[^,}]*' "$1/logs/metrics.jsonl"
    sha256sum <"$1/adapter_model.safetensors"
}
run_whole() { # [RANKS]: the uninterrupted run, on this host
    # shellcheck disable=SC2046
    mpirun -q -np "${1:-2}" "$lorad" $(options whole) >"$work/whole.log" 2>&1 </dev/null ||
        { tail -n 20 "$work/whole.log"; fail "the uninterrupted run failed"; }
    result "$work/whole" >"$work/whole.txt"
    [ "$(field "$work/whole/logs/metrics.jsonl" loss | wc -l)" = "$steps" ] || fail "the uninterrupted run logged too little"
}
same_bits() { # NAME
    result "$work/$1" >"$work/$1.txt"
    cmp -s "$work/whole.txt" "$work/$1.txt" && return
    diff "$work/whole.txt" "$work/$1.txt" | head
    tail -n 20 "$work/$1.log"
    fail "$1: not the bits of the uninterrupted run"
}
wait_log() { # NAME REGEX
    for _ in $(seq 1200); do
        grep -qE -- "$2" "$work/$1.log" 2>/dev/null && return
        sleep 0.05
    done
    tail -n 20 "$work/$1.log"
    fail "$1: the log never said: $2"
}
rank_ids() { pgrep -f "^$lorad --config .*output_dir=$work/$1 "; } # NAME: processes of its ranks
# Checkpoints of the first epoch that have a link are not newer than what the second epoch began with.
unmixed() { # NAME
    local base link name
    base=$(sed -E 's/.*"base_step": *([0-9]+).*/\1/' "$work/$1/epoch/e0000000002.resume")
    for link in "$work/$1"/checkpoint-*; do
        name=$(basename "$(readlink "$link")")
        [[ $name != *.e0000001.* ]] || [ $((10#${name:1:9})) -le "$base" ] ||
            fail "$1: $name was committed after the take-over at step $base"
    done
}
