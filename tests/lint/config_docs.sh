#!/usr/bin/env bash
# docs/config.md is what the table says.
set -u
"$1" help --markdown | diff -u "$2/docs/config.md" - && exit 0
echo "docs/config.md is out of date: build/lorad help --markdown > docs/config.md"
exit 1
