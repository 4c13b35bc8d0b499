/*
 * shard_file.h: one file of prepared rows, tokens-00000.bin and so on. Byte by byte: docs/formats/tokens.md.
 *
 * A shard is little-endian: a header of 256 bytes and four sections (tokens, codes, rows, weights), each with
 * its hash. Rows stand in the order in which they were prepared and carry their raw row number; a raw row
 * that was rejected is there too, with no tokens (a hole). A row carries the hash of its own bytes, so
 * opening reads only the header, and every row is still checked before it is used. Files are not trusted:
 * nothing in them can make the reader leave its mapping.
 */
#ifndef LORAD_DATALOADER_SHARD_FILE_H
#define LORAD_DATALOADER_SHARD_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"

enum {
    SHARD_VERSION = 2,
    SHARD_HEADER_BYTES = 256,
    SHARD_ALIGN = 64,
    SHARD_CODES_MOST = 256, /* entries of the table of weights; code 0 is no target, code 1 weight 1 */
    SHARD_ROW_WEIGHTS = SHARD_CODES_MOST - 2, /* different weights besides 0 and 1 that one row may have */
    SHARD_FIRST_ROWS = 4096,                  /* rows of shard 0; each next one may hold twice as many */
    SHARD_NAME_BYTES = 32,
};
enum shard_section { SHARD_TOKENS, SHARD_CODES, SHARD_ROWS, SHARD_WEIGHTS, SHARD_SECTIONS };

struct shard_section_entry {
    uint64_t offset, bytes; /* from the start of the file */
    uint64_t hash_high, hash_low;
};

struct shard_header {
    char magic[8]; /* "LORADTOK" */
    uint32_t version, header_bytes;
    uint64_t n_rows, n_tokens;
    uint64_t rows_before; /* in the shards before: these are rows_before .. of the order of preparing */
    uint32_t vocab_size, reserved;
    struct shard_section_entry section[SHARD_SECTIONS];
    uint8_t zero[64];
    uint64_t hash_high, hash_low; /* of the 240 bytes before */
};

struct shard_row {
    uint64_t first_token; /* in this shard */
    int64_t raw_row, line;
    uint64_t hash; /* shard_row_hash; 0 for a hole */
    double weight; /* of its targets together */
    int32_t n_tokens, n_supervised, source;
    uint32_t problem; /* 0: none; else 1 + enum row_problem */
};

/* A shard in memory; all pointers are borrowed from `bytes`. */
struct shard_view {
    const struct shard_header *header;
    const int32_t *tokens;
    const uint8_t *codes;
    const float *weight_of; /* [SHARD_CODES_MOST] */
    const struct shard_row *rows;
    int64_t n_rows;
};

/* "tokens-00012.bin" */
void shard_name(char name[SHARD_NAME_BYTES], int32_t number);

/* Checks the header, the places of the sections and the table of weights. `bytes` is aligned to 8; `name` is
 * for messages. */
enum status shard_view_bytes(struct shard_view *out, const void *bytes, size_t length,
                             const char *name) LORAD_WARN_UNUSED;
/* The section `rows` against its hash, and every entry in itself. */
enum status shard_check_rows(const struct shard_view *shard, const char *name) LORAD_WARN_UNUSED;
/* Row `row`, of a shard whose rows were checked, against its hash, its counts, and the vocabulary. A hole
 * passes. */
enum status shard_row_check(const struct shard_view *shard, int64_t row, const char *name) LORAD_WARN_UNUSED;
/* Every byte of the shard against the hashes. */
enum status shard_check_all(const struct shard_view *shard, const char *name) LORAD_WARN_UNUSED;
/* Depends on the tokens and their weights, and not on the codes that stand for the weights. */
uint64_t shard_row_hash(const int32_t *tokens, const uint8_t *codes, const float *weight_of, int32_t n);

/* A mapped shard. Starts zeroed. */
struct shard_map {
    struct shard_view view;
    void *map;
    size_t length;
    char *path;
};
/* Maps and views folder/tokens-<number>.bin. LORAD_NOT_FOUND when it is not there. On failure nothing is
 * held. */
enum status shard_map_open(struct shard_map *out, const char *folder, int32_t number) LORAD_WARN_UNUSED;
void shard_map_close(struct shard_map *shard);

/* ---- writing ---- */

struct shard_entry {
    const int32_t *tokens;
    const float *weights; /* [n]: of the tokens in the loss; 0: no target */
    int32_t n;            /* 0: a hole */
    int32_t source;
    int64_t raw_row, line;
    uint32_t problem; /* 0: none; else 1 + enum row_problem */
};

/* Writes the shards of a dataset into an existing folder, each complete from the moment it has its name. */
struct shard_writer;
struct shard_writer_options {
    const char *folder; /* borrowed while the writer lives */
    int32_t vocab_size;
    int64_t shard_bytes; /* a shard that has reached this size takes no more rows */
    int32_t first_shard; /* what is there already: shards, and rows in them */
    int64_t rows_before;
};
/* Owns: *out. */
enum status shard_writer_create(struct shard_writer **out,
                                const struct shard_writer_options *options) LORAD_WARN_UNUSED;
/* Rows of a shard that was not closed are lost. */
void shard_writer_destroy(struct shard_writer *writer);
/* Whether a row with these weights still goes into the shard: its table of weights has an end. One with more
 * than SHARD_ROW_WEIGHTS never does. */
bool shard_writer_takes(const struct shard_writer *writer, const float *weights, int32_t n);
/* The row must have been taken. */
enum status shard_writer_add(struct shard_writer *writer, const struct shard_entry *row) LORAD_WARN_UNUSED;
/* Whether the shard has reached its size: a function of the rows alone. */
bool shard_writer_full(const struct shard_writer *writer);
int64_t shard_writer_rows(const struct shard_writer *writer);   /* of the shard that is being written */
int32_t shard_writer_number(const struct shard_writer *writer); /* of that shard */
/* Gives the shard its name and begins the next one. It is on the disk when this returns. */
enum status shard_writer_close(struct shard_writer *writer) LORAD_WARN_UNUSED;

/* Writes a whole file under another name, waits until it is on the disk, and gives it its name, replacing
 * what had it. The folder itself is not synced. LORAD_CANNOT_CREATE, LORAD_IO. */
enum status shard_write_file(const char *folder, const char *name, const void *bytes,
                             size_t length) LORAD_WARN_UNUSED;
/* Waits until the folder's names are on the disk. */
enum status shard_sync_folder(const char *folder) LORAD_WARN_UNUSED;
/* Whether a name is one that an interrupted write left. */
bool shard_is_leftover(const char *name);

#endif
