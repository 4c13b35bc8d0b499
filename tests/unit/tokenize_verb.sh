#!/usr/bin/env bash
# lorad tokenize: text to numbers, numbers to text, chat rows to numbers and labels; bad lines are named.
set -u
program=$1
data=$2/tests/data
model=$data/models/fin-zh-tiny
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() {
    echo "$1"
    cat "$tmp"/* 2>/dev/null
    exit 1
}

# There and back.
printf '%s\n' '"公司会分红吗？"' '' '"<|im_start|>user\nA bond\u0301 😀 \ufffd"' '"x"' >"$tmp/text"
"$program" tokenize --model "$model" <"$tmp/text" >"$tmp/ids" 2>"$tmp/err" || fail "tokenize failed"
[ "$(wc -l <"$tmp/ids")" = 3 ] || fail "three lines in, $(wc -l <"$tmp/ids") out"
grep -q '^\[1,' <(sed -n 2p "$tmp/ids") || fail "the special token is not number 1"
"$program" tokenize --model "$model" --decode <"$tmp/ids" >"$tmp/back" 2>"$tmp/err" || fail "--decode failed"
[ "$(sed -n 1p "$tmp/back")" = '"公司会分红吗？"' ] || fail "the first line did not come back"
[ "$(sed -n 3p "$tmp/back")" = '"x"' ] || fail "the third line did not come back"

row='{"messages":[{"role":"user","content":"什么是可转债？"},{"role":"assistant","content":"一种债券。"}]}'
"$program" tokenize --model "$model" --template <<<"$row" >"$tmp/row" 2>"$tmp/err" || fail "--template failed"
grep -q '^{"ids":\[1,.*,"labels":\[-100,.*,2' "$tmp/row" || fail "ids and labels are not as they should be"
[ "$(sed 's/.*"labels"://' "$tmp/row" | tr ',' '\n' | wc -l)" = \
    "$(sed 's/,"labels".*//' "$tmp/row" | tr ',' '\n' | wc -l)" ] || fail "as many labels as ids are wanted"

refused() { # status words input options...
    local code=$1 words=$2 text=$3
    shift 3
    "$program" tokenize "$@" <<<"$text" >"$tmp/out" 2>"$tmp/err"
    [ $? = "$code" ] || fail "status $code is wanted for $text"
    grep -q -- "$words" "$tmp/err" || fail "\"$words\" is wanted for $text"
}
refused 65 'standard input:1: a JSON string is wanted' '7' --model "$model"
refused 65 'add --template' "$row" --model "$model"
refused 65 'element 2 of the list' '[1,6400]' --model "$model" --decode
refused 65 'message 1 needs' '{"messages":[{"role":"dog","content":""}]}' --model "$model" --template
refused 64 'exclude' '""' --model "$model" --template --decode
refused 64 '--model DIR is missing' '""'
refused 66 'no such file' '""' --model "$tmp"
