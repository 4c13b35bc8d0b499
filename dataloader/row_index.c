/*
 * row_index.c: see row_index.h.
 *
 * Invariants:
 * (1) entries ascend by file, and within a file by offset.
 * (2) the file gets its name when all of it is on the disk.
 */
#include "dataloader/row_index.h"

#include <math.h>

#include "base/random.h"
#include "dataloader/sampler.h"

enum { RELEASE_BYTES = 64 << 20, FIRST_ROOM = 1 << 12 };

_Static_assert(sizeof(struct index_entry) == 24, "an entry has no holes");
static const struct table_kind index_kind = {
    .name = ROW_INDEX_NAME, .magic = "LORADIDX", .version = 1, .entry_bytes = sizeof(struct index_entry)};

/* ---- writing ---- */

struct scan {
    const struct row_scan *asked;
    struct table_file table;
    int64_t rows; /* written; the table has room for more */
};

static enum status put(struct scan *scan, const struct index_entry *entry)
{
    if (scan->rows == scan->table.n) TRY(table_file_resize(&scan->table, &index_kind, 2 * scan->table.n));
    ((struct index_entry *)scan->table.entry)[scan->rows++] = *entry;
    return LORAD_OK;
}

/* Which rows belong to the part: all, or by a permutation of the numbers. */
struct split {
    int64_t kept_back; /* 0: all rows are for training */
    struct permutation permutation;
};

static enum status find_split(struct split *split, const struct row_scan *asked, int64_t rows)
{
    double size = asked->val_size;
    split->kept_back = 0;
    if (size == 0) return LORAD_OK;
    double wanted = size < 1 ? ceil(size * (double)rows) : floor(size);
    if (wanted >= (double)rows)
        return FAIL(LORAD_DATA, "val_size %g would keep back all of the %lld rows for evaluation", size,
                    (long long)rows);
    split->kept_back = (int64_t)wanted;
    permutation_init(&split->permutation, (uint64_t)rows,
                     random_key(asked->split_seed, RANDOM_SPLIT, 0, 0, 0));
    return LORAD_OK;
}

static bool in_part(const struct split *split, const struct row_scan *asked, int64_t number)
{
    if (split->kept_back == 0) return true;
    bool back = permutation_at(&split->permutation, (uint64_t)number) < (uint64_t)split->kept_back;
    return back == asked->want_kept_back;
}

/* The rows of one file, `most` at the most; split NULL: all of them are only counted. */
static enum status scan_file(struct scan *scan, int32_t file, int64_t most, const struct split *split,
                             int64_t *number)
{
    const struct row_scan *asked = scan->asked;
    struct source_reader *reader = asked->reader[file];
    size_t length, released = 0;
    const char *text = source_reader_text(reader, &length);
    struct raw_row row;
    source_reader_rewind(reader);
    for (int64_t i = 0; i < most && source_reader_next(reader, &row); i++) {
        size_t offset = (size_t)(row.text - text);
        struct index_entry entry = {.offset = offset,
                                    .line = row.line,
                                    .length = row.length < UINT32_MAX ? (uint32_t)row.length : UINT32_MAX,
                                    .file = (uint32_t)file};
        if (split && in_part(split, asked, *number)) TRY(put(scan, &entry));
        ++*number;
        if (offset - released < RELEASE_BYTES) continue;
        if (asked->stop && atomic_load(asked->stop)) return FAIL(LORAD_REQUEUE, "asked to stop");
        if (asked->bytes_done) atomic_fetch_add(asked->bytes_done, (int64_t)(offset - released));
        source_reader_release(reader);
        released = offset;
    }
    if (asked->bytes_done) atomic_fetch_add(asked->bytes_done, (int64_t)(length - released));
    source_reader_release(reader);
    return LORAD_OK;
}

/* All files; sets the groups when rows are written. */
static enum status scan_all(struct scan *scan, const struct split *split, struct row_range *groups,
                            int64_t *number)
{
    const struct row_scan *asked = scan->asked;
    *number = 0;
    int32_t file = 0;
    for (int32_t source = 0; source < asked->n_sources; source++) {
        int64_t most = asked->sources[source].max_samples, begin = *number, first = scan->rows;
        for (; file < asked->list->n && asked->list->file[file].source == source; file++) {
            int64_t left = most > 0 ? most - (*number - begin) : INT64_MAX;
            TRY(scan_file(scan, file, left, split, number));
        }
        if (split) groups[source] = (struct row_range){first, scan->rows - first};
    }
    return LORAD_OK;
}

static enum status write_rows(struct scan *scan, struct row_range *groups)
{
    struct split split = {0};
    int64_t number = 0;
    if (scan->asked->val_size != 0) {
        TRY(scan_all(scan, NULL, NULL, &number));
        if (scan->asked->bytes_done) atomic_store(scan->asked->bytes_done, 0);
    }
    TRY(find_split(&split, scan->asked, number));
    TRY(scan_all(scan, &split, groups, &number));
    TRY(table_file_resize(&scan->table, &index_kind, scan->rows));
    return table_file_seal(&scan->table, &index_kind);
}

static enum status check_val_size(const struct row_scan *asked)
{
    if (!(asked->val_size >= 0))
        return FAIL(LORAD_CONFIG, "val_size is %g; it cannot be negative", asked->val_size);
    if (asked->val_size == 0 && asked->want_kept_back)
        return FAIL(LORAD_CONFIG, "val_size is 0: no rows are kept back for evaluation");
    return LORAD_OK;
}

enum status row_index_build(const char *folder, const struct row_scan *asked, struct row_range *groups)
{
    struct scan scan = {.asked = asked};
    TRY(check_val_size(asked));
    TRY(table_file_create(&scan.table, &index_kind, folder, FIRST_ROOM));
    enum status status = write_rows(&scan, groups);
    table_file_close(&scan.table);
    return status;
}

/* ---- reading ---- */

enum status row_index_open(struct row_index *out, const char *folder)
{
    struct row_index index = {0};
    TRY(table_file_open(&index.file, &index_kind, folder, -1));
    index.entry = index.file.entry;
    index.n = index.file.n;
    *out = index;
    return LORAD_OK;
}

void row_index_close(struct row_index *index)
{
    table_file_close(&index->file);
    *index = (struct row_index){0};
}

enum status row_index_row(const struct row_index *index, int64_t raw_row,
                          struct source_reader *const *readers, int32_t n_readers, struct raw_row *out)
{
    const struct index_entry *entry = &index->entry[raw_row];
    size_t length = 0;
    const char *text =
        entry->file < (uint32_t)n_readers ? source_reader_text(readers[entry->file], &length) : NULL;
    if (!text || entry->offset > length || entry->length > length - entry->offset || entry->line < 1)
        return FAIL(LORAD_DATA, ROW_INDEX_NAME " does not fit its sources: set overwrite_cache: true");
    *out = (struct raw_row){.text = text + entry->offset, .length = entry->length, .line = entry->line};
    return LORAD_OK;
}
