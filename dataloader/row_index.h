/*
 * row_index.h: where the raw rows of a part are in their files: rows.idx, made by one pass over the sources.
 *
 * Raw rows are numbered through all files, source after source; a source gives at most its max_samples first
 * ones. val_size keeps some of these rows back (a keyed permutation of the numbers decides which), and the
 * kept-back rows and the rest are two parts, each numbered from 0. The file is mapped, so the machine can
 * take its memory back: 24 bytes a row.
 */
#ifndef LORAD_DATALOADER_ROW_INDEX_H
#define LORAD_DATALOADER_ROW_INDEX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "dataloader/dataloader.h"
#include "dataloader/sources.h"
#include "dataloader/table_file.h"

#define ROW_INDEX_NAME "rows.idx"

struct index_entry {
    uint64_t offset; /* in source_reader_text of the file */
    int64_t line;
    uint32_t length; /* UINT32_MAX for more; too long to be a row anyway */
    uint32_t file;
};

struct row_index {
    const struct index_entry *entry; /* [n] */
    int64_t n;
    struct table_file file;
};

struct row_scan {
    const struct source_list *list;
    struct source_reader **reader; /* [list->n] */
    const struct dataset_source *sources;
    int32_t n_sources;
    double val_size; /* as in prepare_options */
    uint64_t split_seed;
    bool want_kept_back;
    const atomic_bool *stop;     /* NULL: cannot be stopped */
    _Atomic int64_t *bytes_done; /* for progress; NULL: not wanted */
};

/* Writes rows.idx into the folder, complete from the moment it has its name, and sets groups[n_sources].
 * LORAD_CONFIG, LORAD_DATA for a val_size that makes no sense; LORAD_REQUEUE: stopped; LORAD_IO. Blocks. */
enum status row_index_build(const char *folder, const struct row_scan *scan,
                            struct row_range *groups) LORAD_WARN_UNUSED;
/* LORAD_NOT_FOUND, LORAD_DATA. Owns: *out. */
enum status row_index_open(struct row_index *out, const char *folder) LORAD_WARN_UNUSED;
void row_index_close(struct row_index *index);
/* The row as the scan found it. LORAD_DATA when the file does not reach so far. */
enum status row_index_row(const struct row_index *index, int64_t raw_row,
                          struct source_reader *const *readers, int32_t n_readers,
                          struct raw_row *out) LORAD_WARN_UNUSED;

#endif
