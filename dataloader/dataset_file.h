/*
 * dataset_file.h: the files beside the shards of a prepared folder: what it holds (rows.json while it grows,
 * dataset.json once it is complete) and where every raw row is (places.bin). Byte by byte:
 * docs/formats/tokens.md.
 */
#ifndef LORAD_DATALOADER_DATASET_FILE_H
#define LORAD_DATALOADER_DATASET_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"
#include "dataloader/dataloader.h"
#include "dataloader/table_file.h"

#define DATASET_GROWING  "rows.json"
#define DATASET_COMPLETE "dataset.json"
#define DATASET_PLACES   "places.bin"
enum { DATASET_MOST_SHARDS = 100000 };

struct dataset_about {
    int64_t raw_rows;
    int32_t vocab_size, cutoff_len;
    char **source; /* [n_sources]: names of the files */
    int32_t n_sources;
    struct row_range *group; /* [n_groups] */
    int32_t n_groups;
    /* Of a complete one; zero in rows.json. */
    int32_t n_shards;
    int64_t kept_rows, tokens;
    struct hash128 fingerprint, content;
};

void dataset_about_free(struct dataset_about *about);
/* name: DATASET_GROWING or DATASET_COMPLETE. */
enum status dataset_about_write(const struct dataset_about *about, const char *folder,
                                const char *name) LORAD_WARN_UNUSED;
/* LORAD_NOT_FOUND, LORAD_DATA. Owns: *out. */
enum status dataset_about_read(struct dataset_about *out, const char *folder,
                               const char *name) LORAD_WARN_UNUSED;

/* Where a raw row is. All zero: not known yet. */
struct row_place_entry {
    uint32_t shard; /* 1 + its number */
    uint32_t row;   /* of the shard */
    int32_t n_tokens, n_supervised;
};

/* One entry a raw row. Starts zeroed. */
struct place_table {
    struct row_place_entry *entry; /* read-only in one that was opened */
    int64_t n;
    struct table_file file; /* without a map: entry is ordinary memory */
};
/* An empty table for `n` rows, in a file without a name in `folder` when it is large, so that the machine can
 * take its memory back. Owns: *out. */
enum status place_table_create(struct place_table *out, int64_t n, const char *folder) LORAD_WARN_UNUSED;
/* places.bin of a complete folder: checked against its hash, and every entry in itself. Owns: *out. */
enum status place_table_open(struct place_table *out, const struct dataset_about *about,
                             const char *folder) LORAD_WARN_UNUSED;
void place_table_close(struct place_table *table);

/* Completes a folder whose shards 0 .. about->n_shards - 1 hold every raw row once: places.bin, and then
 * dataset.json with the sums over the rows, which are set in `about`. */
enum status dataset_seal(struct dataset_about *about, const char *folder) LORAD_WARN_UNUSED;

#endif
