# Memory of preparing and the size of the source: makes sources of so many megabytes, prepares each, and prints the peak
# of anonymous memory (what the machine cannot take back) and of all of it, with the rate.
#
#     tests/bench/prepare_memory.sh build/lorad [MB...]        (default 200 1000)
set -eu
lorad=$1
shift
[ $# -gt 0 ] || set -- 200 1000
model=${LORAD_BENCH_MODEL:-tests/data/models/fin-zh-tiny}
work=$(mktemp -d "${TMPDIR:-/tmp}/lorad-bench-XXXXXX")
trap 'rm -rf "$work"' EXIT
for mb in "$@"; do
    awk -v bytes="$((mb * 1000000))" 'BEGIN { srand(1); for (i = 0; made < bytes; i++) {
        text = ""; for (k = 0; k < 150; k++) text = text " word" int(rand() * 5000)
        line = "{\"messages\": [{\"role\": \"user\", \"content\": \"question " i text "\"}, {\"role\": \"assistant\", \"content\": \"answer" text "\"}]}"
        print line; made += length(line) + 1 } }' >"$work/rows.jsonl"
    printf 'model_name_or_path: %s\ndataset: %s\noutput_dir: %s\ncutoff_len: 4096\nlora_target: all\n' \
        "$model" "$work/rows.jsonl" "$work/out" >"$work/config.yaml"
    start=$(date +%s.%N)
    "$lorad" prepare --config "$work/config.yaml" >"$work/report" 2>"$work/err" &
    pid=$!
    anonymous=0 all=0
    while kill -0 $pid 2>/dev/null; do
        read -r a t < <(awk '/^RssAnon/ { a = $2 } /^VmRSS/ { t = $2 } END { print a + 0, t + 0 }' /proc/$pid/status 2>/dev/null || echo 0 0)
        [ "${a:-0}" -gt $anonymous ] && anonymous=$a
        [ "${t:-0}" -gt $all ] && all=$t
        sleep 0.05
    done
    wait $pid || { cat "$work/err"; exit 1; }
    end=$(date +%s.%N)
    tokens=$(sed -n 's/^ *\([0-9,]*\)  tokens$/\1/p' "$work/report" | tr -d , | head -n 1)
    awk -v mb="$mb" -v a=$anonymous -v t=$all -v s="$start" -v e="$end" -v n="${tokens:-0}" 'BEGIN {
        printf "%d MB of source, %.1f M tokens: peak %.0f MB anonymous, %.0f MB in all; %.1f s, %.2f M tokens/s\n", mb, n * 1e-6, a / 1024, t / 1024, e - s, n * 1e-6 / (e - s) }'
    rm -rf "$work/out"
done
