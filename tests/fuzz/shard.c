/* A shard file: anything is refused or decompresses to exactly what its index says. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "checkpoint/shard.h"
#include "support/test.h"

enum { MAX_RAW_BYTES = 1 << 20 }; /* a checkpoint bounds pieces by the tensors that its reader expects */

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct shard_codec *codec;
    struct shard *shard;
    char path[700];
    if (!codec && shard_codec_create(&codec) != LORAD_OK) abort();
    snprintf(path, sizeof path, "%s/shard", test_tmpdir());
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, length, file) != length || fclose(file) != 0) abort();
    if (shard_open(&shard, path, NULL) != LORAD_OK) return 0;
    for (size_t i = 0; i < shard_count(shard); i++) {
        const struct shard_piece *piece = shard_at(shard, i);
        if (piece->raw_bytes < 0 || piece->offset_bytes + piece->file_bytes > (int64_t)length) abort();
        if (piece->raw_bytes > MAX_RAW_BYTES) continue;
        void *to = malloc((size_t)piece->raw_bytes + 1);
        if (!to) abort();
        if (shard_read(shard, i, codec, to) == LORAD_OK &&
            !hash128_equal(hash128(to, (size_t)piece->raw_bytes), piece->raw_hash))
            abort();
        free(to);
    }
    shard_close(shard);
    return 0;
}
