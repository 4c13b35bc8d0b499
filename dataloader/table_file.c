#include "dataloader/table_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"

struct table_header {
    char magic[8];
    uint32_t version, entry_bytes;
    uint64_t n_entries;
    uint64_t entries_high, entries_low; /* XXH3-128 of the entries */
    uint64_t zero;
    uint64_t hash_high, hash_low; /* of the 48 bytes before */
};
_Static_assert(sizeof(struct table_header) == TABLE_HEADER_BYTES, "the header has no holes");

static size_t table_bytes(const struct table_kind *kind, int64_t n)
{
    return TABLE_HEADER_BYTES + (size_t)n * kind->entry_bytes;
}

static enum status map_fd(struct table_file *table, int fd, size_t length, int protection, const char *path)
{
    void *map = mmap(NULL, length, protection, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return FAIL(LORAD_IO, "cannot map %s: %s", path, strerror(errno));
    table->map = map;
    table->length = length;
    table->entry = (char *)map + TABLE_HEADER_BYTES;
    return LORAD_OK;
}

/* ---- writing ---- */

static enum status make_room(struct table_file *table, int fd, const struct table_kind *kind, int64_t n,
                             const char *path)
{
    size_t length = table_bytes(kind, n);
    int error = posix_fallocate(fd, 0, (off_t)length);
    if (error) return FAIL(LORAD_IO, "cannot write %s: %s", path, strerror(error));
    table->n = n;
    return map_fd(table, fd, length, PROT_READ | PROT_WRITE, path);
}

enum status table_file_create(struct table_file *out, const struct table_kind *kind, const char *folder,
                              int64_t n)
{
    char name[64];
    struct table_file table = {0};
    snprintf(name, sizeof name, "%s.part-%ld", kind->name, (long)getpid());
    table.path = file_join(folder, kind->name);
    table.part = file_join(folder, name);
    enum status status = table.path && table.part ? LORAD_OK : LORAD_NOMEM;
    int fd = -1;
    if (status == LORAD_OK && (fd = open(table.part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) < 0)
        status = FAIL(LORAD_CANNOT_CREATE, "cannot create %s: %s", table.part, strerror(errno));
    if (status == LORAD_OK) status = make_room(&table, fd, kind, n, table.part);
    if (fd >= 0) close(fd);
    if (status == LORAD_OK)
        *out = table;
    else
        table_file_close(&table);
    return status;
}

enum status table_file_create_hidden(struct table_file *out, const struct table_kind *kind,
                                     const char *folder, int64_t n)
{
    struct table_file table = {0};
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return FAIL(LORAD_CANNOT_CREATE, "cannot create a file without a name in %s: %s", folder,
                    strerror(errno));
    enum status status = make_room(&table, fd, kind, n, folder);
    close(fd);
    if (status == LORAD_OK)
        *out = table;
    else
        table_file_close(&table);
    return status;
}

enum status table_file_resize(struct table_file *table, const struct table_kind *kind, int64_t n)
{
    size_t length = table_bytes(kind, n);
    int fd = open(table->part, O_RDWR | O_CLOEXEC);
    if (fd < 0) return FAIL(LORAD_IO, "cannot open %s: %s", table->part, strerror(errno));
    int error = length > table->length              ? posix_fallocate(fd, 0, (off_t)length)
                : ftruncate(fd, (off_t)length) == 0 ? 0
                                                    : errno;
    close(fd);
    if (error) return FAIL(LORAD_IO, "cannot write %s: %s", table->part, strerror(error));
    void *map = mremap(table->map, table->length, length, MREMAP_MAYMOVE);
    if (map == MAP_FAILED) return FAIL(LORAD_IO, "cannot map %s: %s", table->part, strerror(errno));
    table->map = map;
    table->length = length;
    table->entry = (char *)map + TABLE_HEADER_BYTES;
    table->n = n;
    return LORAD_OK;
}

static enum status sync_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    enum status status = LORAD_OK;
    if (fd < 0 || fsync(fd) != 0) status = FAIL(LORAD_IO, "cannot write %s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return status;
}

enum status table_file_seal(struct table_file *table, const struct table_kind *kind)
{
    struct hash128 entries = hash128(table->entry, table->length - TABLE_HEADER_BYTES);
    struct table_header header = {.version = kind->version,
                                  .entry_bytes = kind->entry_bytes,
                                  .n_entries = (uint64_t)table->n,
                                  .entries_high = entries.high,
                                  .entries_low = entries.low};
    memcpy(header.magic, kind->magic, sizeof header.magic);
    struct hash128 hash = hash128(&header, sizeof header - 16);
    header.hash_high = hash.high;
    header.hash_low = hash.low;
    memcpy(table->map, &header, sizeof header);
    if (msync(table->map, table->length, MS_SYNC) != 0)
        return FAIL(LORAD_IO, "cannot write %s: %s", table->part, strerror(errno));
    TRY(sync_file(table->part));
    if (rename(table->part, table->path) != 0)
        return FAIL(LORAD_IO, "cannot rename %s to %s: %s", table->part, table->path, strerror(errno));
    free(table->part);
    table->part = NULL;
    return LORAD_OK;
}

/* ---- reading ---- */

static enum status check(struct table_file *table, const struct table_kind *kind, int64_t n)
{
    const struct table_header *header = table->map;
    struct hash128 hash = hash128(header, sizeof *header - 16);
    if (memcmp(header->magic, kind->magic, sizeof header->magic) != 0 || header->version != kind->version ||
        header->entry_bytes != kind->entry_bytes || hash.high != header->hash_high ||
        hash.low != header->hash_low)
        return FAIL(LORAD_DATA, "%s is not a table of version %u, or is damaged", table->path, kind->version);
    if (header->n_entries > table->length || table_bytes(kind, (int64_t)header->n_entries) != table->length ||
        (n >= 0 && header->n_entries != (uint64_t)n))
        return FAIL(LORAD_DATA, "%s does not have the entries that it should have", table->path);
    table->n = (int64_t)header->n_entries;
    hash = hash128(table->entry, table->length - TABLE_HEADER_BYTES);
    if (hash.high != header->entries_high || hash.low != header->entries_low)
        return FAIL(LORAD_DATA, "%s is damaged (wrong hash)", table->path);
    return LORAD_OK;
}

static enum status map_file(struct table_file *table)
{
    int fd = open(table->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return FAIL(errno == ENOENT ? LORAD_NOT_FOUND : LORAD_IO, "cannot open %s: %s", table->path,
                    strerror(errno));
    struct stat info;
    enum status status;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size < TABLE_HEADER_BYTES)
        status = FAIL(LORAD_DATA, "%s is too short: it is cut off", table->path);
    else
        status = map_fd(table, fd, (size_t)info.st_size, PROT_READ, table->path);
    close(fd);
    return status;
}

enum status table_file_open(struct table_file *out, const struct table_kind *kind, const char *folder,
                            int64_t n)
{
    struct table_file table = {.path = file_join(folder, kind->name)};
    enum status status = table.path ? map_file(&table) : LORAD_NOMEM;
    if (status == LORAD_OK) status = check(&table, kind, n);
    if (status == LORAD_OK)
        *out = table;
    else
        table_file_close(&table);
    return status;
}

void table_file_close(struct table_file *table)
{
    if (table->map) munmap(table->map, table->length);
    if (table->part) unlink(table->part);
    free(table->part);
    free(table->path);
    *table = (struct table_file){0};
}
