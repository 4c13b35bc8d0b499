/*
 * shard.c: how small and how fast checkpoints of a real run get: byte planes as a shard has them, against
 * plain zstd on the same bytes. One thread, processor time.
 *
 *     bench_shard CHECKPOINT [LEVEL...]
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <zstd.h>

#include "base/file.h"
#include "base/memory.h"
#include "checkpoint/shard.h"

enum { MOST_PIECES = 1 << 20, REPEATS = 3 };

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

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
        double start = now();
        struct shard *shard;
        struct shard_codec *codec;
        struct shard_packing packing = {.level = level, .threads = 1};
        TRY(shard_write(fs_posix(), path, state->pieces, state->n, packing, &receipt));
        double packed = now();
        TRY(shard_open(&shard, path, NULL));
        TRY(shard_codec_create(&codec));
        for (size_t i = 0; i < shard_count(shard); i++) {
            TRY(memory_grow(&raw, &capacity, (size_t)shard_at(shard, i)->raw_bytes, 1));
            TRY(shard_read(shard, i, codec, raw));
        }
        double end = now();
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
static enum status measure_plain(const struct state *state, int level)
{
    size_t largest = 0, total = 0;
    for (size_t i = 0; i < state->n; i++)
        if (bytes_of(&state->pieces[i]) > largest) largest = bytes_of(&state->pieces[i]);
    size_t bound = ZSTD_compressBound(largest);
    void *packed = memory_new(bound, 1), *raw = memory_new(largest + 1, 1);
    ZSTD_CCtx *compress = ZSTD_createCCtx();
    ZSTD_DCtx *decompress = ZSTD_createDCtx();
    double pack = 1e9, unpack = 1e9;
    if (!packed || !raw || !compress || !decompress) return FAIL(LORAD_NOMEM, "out of memory");
    ZSTD_CCtx_setParameter(compress, ZSTD_c_compressionLevel, level);
    ZSTD_CCtx_setParameter(compress, ZSTD_c_checksumFlag, 1);
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        double packing = 0, unpacking = 0;
        total = 0;
        for (size_t i = 0; i < state->n; i++) {
            const struct checkpoint_piece *piece = &state->pieces[i];
            double start = now();
            size_t n = ZSTD_compress2(compress, packed, bound, piece->data, bytes_of(piece));
            double middle = now();
            if (ZSTD_isError(n) || ZSTD_isError(ZSTD_decompressDCtx(decompress, raw, largest, packed, n)))
                return FAIL(LORAD_BUG, "zstd failed");
            packing += middle - start;
            unpacking += now() - middle;
            total += n;
        }
        if (packing < pack) pack = packing;
        if (unpacking < unpack) unpack = unpacking;
    }
    ZSTD_freeCCtx(compress);
    ZSTD_freeDCtx(decompress);
    free(packed);
    free(raw);
    print("plain zstd", level, state, total, pack, unpack);
    return LORAD_OK;
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
