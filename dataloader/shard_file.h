/*
 * shard_file.h: the files of prepared rows: tokens-00000.bin ... and dataset.json. Byte by byte:
 * docs/formats/tokens.md.
 *
 * A shard is little-endian: a header of 256 bytes and three sections (tokens, supervised, rows), each with
 * its hash. A row carries the hash of its own bytes, so opening reads only the header and the rows section,
 * and every row is still checked before it is used. Files are not trusted: nothing in them can make the
 * reader leave its mapping.
 */
#ifndef LORAD_DATALOADER_SHARD_FILE_H
#define LORAD_DATALOADER_SHARD_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"

enum { SHARD_VERSION = 1, SHARD_HEADER_BYTES = 256, SHARD_ALIGN = 64 };
enum shard_section { SHARD_TOKENS, SHARD_SUPERVISED, SHARD_ROWS, SHARD_SECTIONS };

struct shard_section_entry {
    uint64_t offset, bytes; /* from the start of the file */
    uint64_t hash_high, hash_low;
};

struct shard_header {
    char magic[8]; /* "LORADTOK" */
    uint32_t version, header_bytes;
    uint64_t n_rows, n_tokens;
    uint32_t vocab_size, reserved;
    struct shard_section_entry section[SHARD_SECTIONS];
    uint8_t zero[104];
    uint64_t hash_high, hash_low; /* of the 240 bytes before */
};

struct shard_row {
    uint64_t first_token; /* in this shard */
    int64_t line;
    uint64_t hash; /* shard_row_hash */
    int32_t n_tokens, n_supervised, source;
    uint32_t reserved;
};

/* A shard in memory; all pointers are borrowed from `bytes`. */
struct shard_view {
    const struct shard_header *header;
    const int32_t *tokens;
    const uint8_t *supervised;
    const struct shard_row *rows;
    int64_t n_rows;
};

/* Checks everything but the hashes of tokens and supervised. `bytes` is aligned to 8; `name` is for messages.
 */
enum status shard_view_bytes(struct shard_view *out, const void *bytes, size_t length,
                             const char *name) LORAD_WARN_UNUSED;
/* Row `row` against its hash, its counts, and the vocabulary. */
enum status shard_row_check(const struct shard_view *shard, int64_t row, const char *name) LORAD_WARN_UNUSED;
uint64_t shard_row_hash(const int32_t *tokens, const uint8_t *supervised, int32_t n);

/* Writes the shards of a new dataset into an existing folder. */
struct shard_writer;
/* shard_bytes: a shard is closed when it has reached that size. Owns: *out. */
enum status shard_writer_create(struct shard_writer **out, const char *folder, int32_t vocab_size,
                                int64_t shard_bytes) LORAD_WARN_UNUSED;
/* Without shard_writer_finish the folder has no dataset.json and cannot be opened. */
void shard_writer_destroy(struct shard_writer *writer);
/* n >= 1; supervised: 0 or 1 a token. */
enum status shard_writer_add(struct shard_writer *writer, const int32_t *tokens, const uint8_t *supervised,
                             int32_t n, int32_t source, int64_t line) LORAD_WARN_UNUSED;
/* Closes the last shard and writes dataset.json; all of it is on the disk when it returns. */
enum status shard_writer_finish(struct shard_writer *writer, const char *const *sources,
                                int32_t n_sources) LORAD_WARN_UNUSED;

/* Writes a whole new file and waits until it is on the disk. LORAD_CANNOT_CREATE, LORAD_IO. */
enum status shard_write_file(const char *folder, const char *name, const void *bytes,
                             size_t length) LORAD_WARN_UNUSED;
/* Waits until the folder's names are on the disk. */
enum status shard_sync_folder(const char *folder) LORAD_WARN_UNUSED;

#endif
