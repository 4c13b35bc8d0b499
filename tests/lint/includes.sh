#!/usr/bin/env bash
# Includes follow the arrows of docs/ARCHITECTURE.md; *_impl.h stays in its folder; a third-party header has one owner.
set -u
cd "$2" || exit 1
status=0
complain() {
    echo "$1"
    status=1
}

# Which folders (or headers) each folder may include.
declare -A may=(
    [base]='base/'
    [kernels]='kernels/ base/'
    [comm]='comm/ kernels/device.h kernels/tensor.h base/'
    [dataloader]='dataloader/ base/'
    [checkpoint]='checkpoint/ base/'
    [trainer]='trainer/ comm/ kernels/ dataloader/ checkpoint/ base/'
    # trainer.h speaks of the world and of data, so launch sees those headers too; device.h is for --version
    [launch]='launch/ trainer/trainer.h trainer/checkpoints.h comm/comm.h comm/control.h comm/redis_url.h dataloader/dataloader.h dataloader/tokenizer.h dataloader/chat_template.h kernels/device.h base/'
)
includes=0
for folder in "${!may[@]}"; do
    while IFS=: read -r file line text; do
        header=${text#*\"}
        header=${header%%\"*}
        includes=$((includes + 1))
        ok=no
        for allowed in ${may[$folder]}; do
            case $header in "$allowed" | "$allowed"*) ok=yes ;; esac
        done
        [ $ok = yes ] || complain "$file:$line: $folder may not include $header"
        case $header in
        "$folder"/*) ;;
        *_impl.h) complain "$file:$line: $header is for its own folder only" ;;
        esac
    done < <(grep -rn --include='*.c' --include='*.h' --include='*.cu' '^ *# *include *"' "$folder")
done
[ $includes -gt 50 ] || complain "only $includes includes found: is this the source folder?"

# header: the files that may include it
while read -r header owners; do
    while IFS=: read -r file line _; do
        [[ " $owners " == *" $file "* ]] || complain "$file:$line: $header belongs to $owners"
    done < <(grep -rnE --include='*.c' --include='*.h' --include='*.cu' "^ *# *include *<$header>" \
        base kernels comm dataloader checkpoint trainer launch tests)
done <<'OWNERS'
zstd.h checkpoint/shard.c base/unpack.c tests/bench/shard.c
zlib.h base/unpack.c
mpi.h comm/comm_mpi.c
nccl.h comm/nccl/comm_nccl.c tests/emulator/nccl.c
yaml.h launch/config_yaml.c
pcre2.h base/pattern.c
utf8proc.h dataloader/normalize.c
jansson.h base/json.c
xxhash.h base/hash.c
sentencepiece.pb-c.h dataloader/sentencepiece.c
protobuf-c/protobuf-c.h dataloader/sentencepiece.c
cblas.h kernels/cpu/gemm_blas.c
cudnn.h kernels/cuda/sdpa_graph_cudnn.c
hiredis.h comm/redis_link.c
hiredis_ssl.h comm/redis_link.c
cmocka.h tests/support/test.h
cublasLt.h kernels/cuda/gemm_cublaslt.c tests/unit/kernels_gemm_cublaslt.c
OWNERS
exit $status
