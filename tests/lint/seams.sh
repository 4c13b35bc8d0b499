#!/usr/bin/env bash
# Conditional compilation by what is built in (#if LORAD_...) stands only in the four seams' lists of backends.
set -u
cd "$2" || exit 1
bad=$(grep -rnE --include='*.c' --include='*.h' --include='*.cu' '^ *# *(if|ifdef|ifndef|elif).*\bLORAD_' \
    base kernels comm dataloader checkpoint trainer launch |
    grep -vE '#ifndef LORAD_[A-Z0-9_]+_H$' |
    grep -vE '^(kernels/device\.c|comm/comm\.c|comm/coord\.c|base/fs\.c):')
[ -z "$bad" ] || { echo "$bad"; exit 1; }
