/*
 * row_index.c: see row_index.h.
 *
 * Invariants:
 * (1) entries ascend by file, and within a file by offset.
 * (2) the file gets its name when all of it is on the disk.
 */
#include "dataloader/row_index.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/random.h"
#include "dataloader/sampler.h"
#include "dataloader/shard_file.h"

enum { INDEX_VERSION = 1, RELEASE_BYTES = 64 << 20, BUFFER_ENTRIES = 1 << 16 };

struct index_header {
    char magic[8]; /* "LORADIDX" */
    uint32_t version, entry_bytes;
    uint64_t n_rows;
    uint64_t entries_high, entries_low; /* XXH3-128 of the entries */
    uint64_t zero;
    uint64_t hash_high, hash_low; /* of the 48 bytes before */
};
_Static_assert(sizeof(struct index_header) == 64, "the header has no holes");
_Static_assert(sizeof(struct index_entry) == 24, "an entry has no holes");
static const char index_magic[8] = {'L', 'O', 'R', 'A', 'D', 'I', 'D', 'X'};

/* ---- writing ---- */

struct scan {
    const struct row_scan *asked;
    FILE *file;
    const char *path;
    struct hash_stream *hash;
    struct index_entry *buffer; /* [BUFFER_ENTRIES] */
    size_t buffered;
    int64_t rows; /* written and buffered */
};

static enum status flush(struct scan *scan)
{
    hash_stream_add(scan->hash, scan->buffer, scan->buffered * sizeof *scan->buffer);
    if (fwrite(scan->buffer, sizeof *scan->buffer, scan->buffered, scan->file) != scan->buffered)
        return FAIL(LORAD_IO, "cannot write %s: %s", scan->path, strerror(errno));
    scan->buffered = 0;
    return LORAD_OK;
}

static enum status put(struct scan *scan, const struct index_entry *entry)
{
    scan->buffer[scan->buffered++] = *entry;
    scan->rows++;
    return scan->buffered < BUFFER_ENTRIES ? LORAD_OK : flush(scan);
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
    struct index_header header = {.version = INDEX_VERSION, .entry_bytes = sizeof(struct index_entry)};
    struct split split = {0};
    int64_t number = 0;
    if (fwrite(&header, sizeof header, 1, scan->file) != 1)
        return FAIL(LORAD_IO, "cannot write %s: %s", scan->path, strerror(errno));
    if (scan->asked->val_size != 0) {
        TRY(scan_all(scan, NULL, NULL, &number));
        if (scan->asked->bytes_done) atomic_store(scan->asked->bytes_done, 0);
    }
    TRY(find_split(&split, scan->asked, number));
    TRY(scan_all(scan, &split, groups, &number));
    TRY(flush(scan));
    struct hash128 hash = hash_stream_value(scan->hash);
    memcpy(header.magic, index_magic, sizeof index_magic);
    header.n_rows = (uint64_t)scan->rows;
    header.entries_high = hash.high;
    header.entries_low = hash.low;
    hash = hash128(&header, sizeof header - 16);
    header.hash_high = hash.high;
    header.hash_low = hash.low;
    if (fseek(scan->file, 0, SEEK_SET) != 0 || fwrite(&header, sizeof header, 1, scan->file) != 1 ||
        fflush(scan->file) != 0 || fsync(fileno(scan->file)) != 0)
        return FAIL(LORAD_IO, "cannot write %s: %s", scan->path, strerror(errno));
    return LORAD_OK;
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
    TRY(check_val_size(asked));
    char *path = file_join(folder, ROW_INDEX_NAME), *part = file_join(folder, ROW_INDEX_NAME ".part-scan");
    struct scan scan = {.asked = asked, .path = part};
    enum status status = path && part ? hash_stream_create(&scan.hash) : LORAD_NOMEM;
    if (status == LORAD_OK && !(scan.buffer = memory_new(BUFFER_ENTRIES, sizeof *scan.buffer)))
        status = LORAD_NOMEM;
    if (status == LORAD_OK && !(scan.file = fopen(part, "we")))
        status = FAIL(LORAD_CANNOT_CREATE, "cannot create %s: %s", part, strerror(errno));
    if (status == LORAD_OK) status = write_rows(&scan, groups);
    if (scan.file && fclose(scan.file) != 0 && status == LORAD_OK)
        status = FAIL(LORAD_IO, "cannot write %s: %s", part, strerror(errno));
    if (status == LORAD_OK && rename(part, path) != 0)
        status = FAIL(LORAD_IO, "cannot rename %s to %s: %s", part, path, strerror(errno));
    if (status != LORAD_OK && scan.file) unlink(part);
    hash_stream_destroy(scan.hash);
    free(scan.buffer);
    free(path);
    free(part);
    return status;
}

/* ---- reading ---- */

static enum status check_index(const struct row_index *index, const char *path)
{
    const struct index_header *header = index->map;
    struct hash128 hash = hash128(header, sizeof *header - 16);
    if (memcmp(header->magic, index_magic, sizeof index_magic) != 0 || header->version != INDEX_VERSION ||
        header->entry_bytes != sizeof(struct index_entry) || hash.high != header->hash_high ||
        hash.low != header->hash_low || header->n_rows != (uint64_t)index->n)
        return FAIL(LORAD_DATA, "%s is no index of rows of version %d, or is damaged", path, INDEX_VERSION);
    hash = hash128(index->entry, (size_t)index->n * sizeof *index->entry);
    if (hash.high != header->entries_high || hash.low != header->entries_low)
        return FAIL(LORAD_DATA, "%s is damaged (wrong hash)", path);
    return LORAD_OK;
}

static enum status map_index(struct row_index *out, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return FAIL(LORAD_NOT_FOUND, "cannot open %s: %s", path, strerror(errno));
    enum status status = LORAD_OK;
    struct stat info;
    size_t header = sizeof(struct index_header), entry = sizeof(struct index_entry);
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || (size_t)info.st_size < header ||
        ((size_t)info.st_size - header) % entry != 0) {
        status = FAIL(LORAD_DATA, "%s is no index of rows", path);
        goto close_file;
    }
    void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        status = FAIL(LORAD_IO, "cannot map %s: %s", path, strerror(errno));
        goto close_file;
    }
    *out = (struct row_index){.entry = (const struct index_entry *)(const void *)((char *)map + header),
                              .n = (int64_t)(((size_t)info.st_size - header) / entry),
                              .map = map,
                              .map_bytes = (size_t)info.st_size};
close_file:
    close(fd);
    return status;
}

enum status row_index_open(struct row_index *out, const char *folder)
{
    struct row_index index = {0};
    char *path = file_join(folder, ROW_INDEX_NAME);
    if (!path) return LORAD_NOMEM;
    enum status status = map_index(&index, path);
    if (status == LORAD_OK) status = check_index(&index, path);
    free(path);
    if (status == LORAD_OK)
        *out = index;
    else
        row_index_close(&index);
    return status;
}

void row_index_close(struct row_index *index)
{
    if (index->map) munmap(index->map, index->map_bytes);
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
