/*
 * shard.h: the pieces of tensors that one rank wrote, in one file. Private to checkpoint/ and the tests.
 * The format is in docs/formats/checkpoint.md. The owner of zstd.h is shard.c.
 */
#ifndef LORAD_CHECKPOINT_SHARD_H
#define LORAD_CHECKPOINT_SHARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"

struct shard_piece {
    const char *name; /* borrowed from the shard */
    enum st_dtype dtype;
    int64_t shape[2];
    int64_t row, rows, col, cols;
    int64_t offset_bytes, file_bytes; /* its zstd frames in the file; 0 bytes when it has no items */
    int64_t raw_bytes;                /* rows x cols x item */
    struct hash128 raw_hash;
};

/* Buffers and zstd contexts, reused from piece to piece. Thread: one at a time. */
struct shard_codec;
enum status shard_codec_create(struct shard_codec **out) LORAD_WARN_UNUSED;
void shard_codec_destroy(struct shard_codec *codec); /* NULL ok */

/* zstd's level, and how many threads pack pieces at once; their number does not change a bit of the file. */
enum { SHARD_MOST_THREADS = 64 };
struct shard_packing {
    int32_t level, threads;
};
/* On planes of training state higher levels are slower and hardly smaller. */
#define SHARD_PACKING_DEFAULT ((struct shard_packing){.level = 1, .threads = 1})

/* Writes `path` durably and fills the receipt's sizes and hashes. Blocks. */
enum status shard_write(struct fs *fs, const char *path, const struct checkpoint_piece *pieces, size_t n,
                        struct shard_packing packing, struct checkpoint_receipt *receipt) LORAD_WARN_UNUSED;

struct shard;
/* Opens a shard and reads its index; the file must be as long as, and its index hash to, what `expected` says
 * (NULL: not compared). No other part of the file is read. LORAD_DATA: damaged; LORAD_IO. Owns: *out. */
enum status shard_open(struct shard **out, const char *path,
                       const struct checkpoint_receipt *expected) LORAD_WARN_UNUSED;
void shard_close(struct shard *shard); /* NULL ok */
size_t shard_count(const struct shard *shard);
const struct shard_piece *shard_at(const struct shard *shard, size_t index);

/* Decompresses one piece into `to` (raw_bytes) and checks its hash. LORAD_DATA, LORAD_IO. */
enum status shard_read(struct shard *shard, size_t index, struct shard_codec *codec,
                       void *to) LORAD_WARN_UNUSED;

#endif
