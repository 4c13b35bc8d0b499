/*
 * shard.c: how small and how fast checkpoints of a real run get: byte planes as a shard has them, against
 * plain zstd on the same bytes, both with hashes of raw and packed bytes and written to a file in memory. One
 * thread, processor time.
 *
 *     bench_shard CHECKPOINT [LEVEL...]
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zstd.h>

#include "base/file.h"
#include "base/memory.h"
#include "checkpoint/shard.h"
#include "support/processor_time.h"

enum { MOST_PIECES = 1 << 20, REPEATS = 3 };

/* The state of a checkpoint in memory: the pieces of shard after shard. */
struct state {
    struct checkpoint_piece *pieces;
    size_t n, raw_bytes;
};

static enum status load_shard(struct state *state, const char *path)
{
    struct shard *shard;
    struct shard_codec *codec;
    TRY(shard_open(&shard, path, NULL)); /* stays open: it owns the names */
    TRY(shard_codec_create(&codec));
    for (size_t i = 0; i < shard_count(shard) && state->n < MOST_PIECES; i++) {
        const struct shard_piece *piece = shard_at(shard, i);
        void *raw = memory_new((size_t)piece->raw_bytes + 1, 1);
        if (!raw) return LORAD_NOMEM;
        TRY(shard_read(shard, i, codec, raw));
        state->pieces[state->n++] = (struct checkpoint_piece){piece->name,
                                                              (int32_t)st_dtype_bytes(piece->dtype),
                                                              st_dtype_name(piece->dtype),
                                                              {piece->shape[0], piece->shape[1]},
                                                              piece->row,
                                                              piece->rows,
                                                              piece->col,
                                                              piece->cols,
                                                              raw};
        state->raw_bytes += (size_t)piece->raw_bytes;
    }
    shard_codec_destroy(codec);
    return LORAD_OK;
}

static size_t bytes_of(const struct checkpoint_piece *piece)
{
    return (size_t)(piece->rows * piece->cols) * (size_t)piece->item_bytes;
}

static void print(const char *what, int level, const struct state *state, size_t packed, double pack,
                  double unpack)
{
    double mb = (double)state->raw_bytes * 1e-6;
    printf("%-14s level %2d  %8.2f MB -> %8.2f MB  ratio %.3f  pack %6.0f MB/s  unpack %6.0f MB/s\n", what,
           level, mb, (double)packed * 1e-6, (double)state->raw_bytes / (double)packed, mb / pack,
           mb / unpack);
}

/* As a shard, on a file in memory: hashes, planes, frames, index. */
static enum status measure_shard(const struct state *state, int level)
{
    char path[64];
    double pack = 1e9, unpack = 1e9;
    struct checkpoint_receipt receipt;
    void *raw = NULL;
    size_t capacity = 0;
    snprintf(path, sizeof path, "/dev/shm/bench_shard.%d", (int)getpid());
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        double start = processor_seconds();
        struct shard *shard;
        struct shard_codec *codec;
        struct shard_packing packing = {.level = level, .threads = 1};
        TRY(shard_write(fs_posix(), path, state->pieces, state->n, packing, &receipt));
        double packed = processor_seconds();
        TRY(shard_open(&shard, path, NULL));
        TRY(shard_codec_create(&codec));
        for (size_t i = 0; i < shard_count(shard); i++) {
            TRY(memory_grow(&raw, &capacity, (size_t)shard_at(shard, i)->raw_bytes, 1));
            TRY(shard_read(shard, i, codec, raw));
        }
        double end = processor_seconds();
        if (packed - start < pack) pack = packed - start;
        if (end - packed < unpack) unpack = end - packed;
        shard_codec_destroy(codec);
        shard_close(shard);
        unlink(path);
    }
    free(raw);
    print("byte planes", level, state, (size_t)receipt.file_bytes, pack, unpack);
    return LORAD_OK;
}

/* One frame a piece, of its bytes as they are. */
struct plain {
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
    struct hash_stream *hash;
    char *packed, *raw;
    size_t bound, largest;
};

static enum status plain_pack(struct plain *plain, const struct state *state, const char *path, size_t *total)
{
    struct fs_file *file;
    TRY(fs_create(&file, fs_posix(), path));
    *total = 0;
    for (size_t i = 0; i < state->n; i++) {
        const struct checkpoint_piece *piece = &state->pieces[i];
        struct hash128 hash = hash128(piece->data, bytes_of(piece));
        size_t n = ZSTD_compress2(plain->compress, plain->packed, plain->bound, piece->data, bytes_of(piece));
        if (ZSTD_isError(n)) return FAIL(LORAD_BUG, "zstd failed");
        TRY(fs_write(file, plain->packed, n));
        hash_stream_add(plain->hash, plain->packed, n);
        hash_stream_add(plain->hash, &hash, sizeof hash);
        *total += n;
    }
    return fs_close(file);
}

static enum status plain_unpack(struct plain *plain, const struct state *state, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file) return FAIL(LORAD_IO, "cannot read %s", path);
    enum status status = LORAD_OK;
    for (size_t i = 0, have = 0; i < state->n && status == LORAD_OK; i++) {
        have += fread(plain->packed + have, 1, plain->bound - have, file);
        size_t n = ZSTD_findFrameCompressedSize(plain->packed, have);
        if (ZSTD_isError(n) || ZSTD_isError(ZSTD_decompressDCtx(plain->decompress, plain->raw, plain->largest,
                                                                plain->packed, n)))
            status = FAIL(LORAD_BUG, "zstd failed");
        else
            hash_stream_add(plain->hash, plain->raw, bytes_of(&state->pieces[i]));
        if (status == LORAD_OK) memmove(plain->packed, plain->packed + n, have -= n);
    }
    fclose(file);
    return status;
}

static enum status plain_repeat(struct plain *plain, const struct state *state, int level)
{
    char path[64];
    double pack = 1e9, unpack = 1e9;
    size_t total = 0;
    snprintf(path, sizeof path, "/dev/shm/bench_plain.%d", (int)getpid());
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        double start = processor_seconds();
        TRY(plain_pack(plain, state, path, &total));
        double packed = processor_seconds();
        TRY(plain_unpack(plain, state, path));
        double end = processor_seconds();
        if (packed - start < pack) pack = packed - start;
        if (end - packed < unpack) unpack = end - packed;
        unlink(path);
    }
    print("plain zstd", level, state, total, pack, unpack);
    return LORAD_OK;
}

static enum status measure_plain(const struct state *state, int level)
{
    struct plain plain = {.compress = ZSTD_createCCtx(), .decompress = ZSTD_createDCtx()};
    for (size_t i = 0; i < state->n; i++)
        if (bytes_of(&state->pieces[i]) > plain.largest) plain.largest = bytes_of(&state->pieces[i]);
    plain.bound = ZSTD_compressBound(plain.largest);
    plain.packed = memory_new(plain.bound, 1);
    plain.raw = memory_new(plain.largest + 1, 1);
    enum status status = hash_stream_create(&plain.hash);
    if (status == LORAD_OK && (!plain.packed || !plain.raw || !plain.compress || !plain.decompress))
        status = FAIL(LORAD_NOMEM, "out of memory");
    if (status == LORAD_OK) {
        ZSTD_CCtx_setParameter(plain.compress, ZSTD_c_compressionLevel, level);
        ZSTD_CCtx_setParameter(plain.compress, ZSTD_c_checksumFlag, 1);
        status = plain_repeat(&plain, state, level);
    }
    ZSTD_freeCCtx(plain.compress);
    ZSTD_freeDCtx(plain.decompress);
    hash_stream_destroy(plain.hash);
    free(plain.packed);
    free(plain.raw);
    return status;
}

static enum status load(struct state *state, const char *dir)
{
    if (!(state->pieces = memory_new(MOST_PIECES, sizeof *state->pieces))) return LORAD_NOMEM;
    for (int world = 1; world <= 64; world++)
        for (int rank = 0; rank < world; rank++) {
            char name[64];
            snprintf(name, sizeof name, "shard-%05d-of-%05d.zst", rank, world);
            char *path = file_join(dir, name);
            enum status status = path && file_exists(path) ? load_shard(state, path) : LORAD_OK;
            free(path);
            TRY(status);
        }
    return state->n ? LORAD_OK : FAIL(LORAD_NOT_FOUND, "%s holds no shards", dir);
}

int main(int argc, char **argv)
{
    struct state state = {0};
    static const int usual[] = {1, 3};
    if (argc < 2) {
        fprintf(stderr, "bench_shard CHECKPOINT [LEVEL...]\n");
        return 64;
    }
    enum status status = load(&state, argv[1]);
    int n = argc > 2 ? argc - 2 : 2;
    for (int i = 0; status == LORAD_OK && i < n; i++) {
        int level = argc > 2 ? atoi(argv[i + 2]) : usual[i];
        status = measure_shard(&state, level);
        if (status == LORAD_OK) status = measure_plain(&state, level);
    }
    if (status != LORAD_OK) fprintf(stderr, "%s\n", status_message());
    return status_exit_code(status);
}
