#!/usr/bin/env bash
# A file has fewer than 800 lines, a function at most 100.
set -u
cd "$2" || exit 1
status=0
files=0
while read -r file; do
    files=$((files + 1))
    lines=$(wc -l <"$file")
    if [ "$lines" -ge 800 ]; then
        echo "$file: $lines lines, the limit is 800"
        status=1
    fi
    # a function body is what stands between { and } in column 1
    awk -v file="$file" '
        /^{/ { start = NR }
        /^}/ { if (start && NR - start - 1 > 100) {
                   printf "%s:%d: a function of %d lines, the limit is 100\n", file, start, NR - start - 1; bad = 1 }
               start = 0 }
        END { exit bad }' "$file" || status=1
done < <(find base kernels comm dataloader checkpoint trainer launch tests -name '*.c' -o -name '*.h' -o -name '*.cu')
[ $files -gt 50 ] || { echo "only $files files found"; exit 1; }
exit $status
