#!/usr/bin/env bash
# Ranks that do not train by the same configuration are refused; a mistake in it is printed once, with its exit code.
set -u
program=$1
cd "$2" || exit 1
command -v mpirun >/dev/null || { echo "skipped: mpirun is not installed"; exit 77; }
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
status=0

# expect CODE WORDS TIMES: the last command's code, and how often its messages hold the words
expect() {
    local times
    times=$(grep -cF -- "$2" "$out/err")
    if [ "$code" != "$1" ] || [ "$times" != "$3" ]; then
        echo "expected code $1 and $3 x \"$2\"; got code $code and:"
        cat "$out/err"
        status=1
    fi
}
common=(--config configs/quickstart.yaml --set "output_dir=$out/run")

timeout 60 mpirun -q --oversubscribe -np 1 "$program" "${common[@]}" : -np 1 "$program" "${common[@]}" --set seed=3 \
    >"$out/log" 2>"$out/err"
code=$?
expect 78 "rank 1 read another configuration than rank 0" 1

timeout 60 mpirun -q --oversubscribe -np 3 "$program" "${common[@]}" --set lora_rnk=8 --set cutoff_len=x \
    >"$out/log" 2>"$out/err"
code=$?
expect 78 "--set lora_rnk=8: lora_rnk: unknown key; did you mean lora_rank?" 1
expect 78 "--set cutoff_len=x: cutoff_len: a whole number is wanted" 1

timeout 60 mpirun -q --oversubscribe -np 2 "$program" --config "$out/none.yaml" >"$out/log" 2>"$out/err"
code=$?
expect 66 "none.yaml" 1
[ ! -e "$out/run" ] || { echo "output_dir was created"; status=1; }
exit $status
