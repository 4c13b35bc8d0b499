/*
 * prepare_merge.c: what the shards have beside them, put into the order of raw rows once all are there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "dataloader/data_review.h"
#include "dataloader/prepare.h"

static const char problems_name[] = "problems.jsonl";

/* ---- problems.jsonl ---- */

void prepare_detail_write(struct strbuf *out, int64_t raw_row, const char *file, int64_t line,
                          const char *problem, const char *detail)
{
    strbuf_printf(out, "%lld\t{\"file\": ", (long long)raw_row);
    js_write_string(out, file, strlen(file));
    strbuf_printf(out, ", \"line\": %lld, \"problem\": \"%s\", \"detail\": ", (long long)line, problem);
    js_write_string(out, detail, strlen(detail));
    strbuf_puts(out, "}\n");
}

struct detail {
    int64_t row;
    const char *text; /* behind the tab, with the line end */
    size_t length;
};

struct details {
    struct detail *at;
    size_t n, capacity;
    struct detail_map {
        void *map;
        size_t length;
    } * map; /* [n_maps] */
    int32_t n_maps;
};

static void details_free(struct details *details)
{
    for (int32_t i = 0; i < details->n_maps; i++) munmap(details->map[i].map, details->map[i].length);
    free(details->map);
    free(details->at);
}

static enum status index_details(struct details *details, const char *text, size_t length, const char *path)
{
    for (const char *at = text, *end = text + length; at < end;) {
        const char *tab = memchr(at, '\t', (size_t)(end - at));
        const char *line_end = tab ? memchr(tab, '\n', (size_t)(end - tab)) : NULL;
        if (!line_end) return FAIL(LORAD_DATA, "%s is damaged: delete the folder and start again", path);
        void *block = details->at;
        TRY(memory_grow(&block, &details->capacity, details->n + 1, sizeof *details->at));
        details->at = block;
        details->at[details->n++] = (struct detail){strtoll(at, NULL, 10), tab + 1, (size_t)(line_end - tab)};
        at = line_end + 1;
    }
    return LORAD_OK;
}

/* A shard without problems has no file. */
static enum status map_details(struct details *details, const char *folder, int32_t shard)
{
    char name[SHARD_NAME_BYTES];
    prepare_details_name(name, shard);
    char *path = file_join(folder, name);
    if (!path) return LORAD_NOMEM;
    enum status status = LORAD_OK;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT) status = FAIL(LORAD_IO, "cannot open %s: %s", path, strerror(errno));
    if (fd >= 0 && fstat(fd, &info) == 0 && info.st_size > 0) {
        void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            status = FAIL(LORAD_IO, "cannot map %s: %s", path, strerror(errno));
        } else {
            details->map[details->n_maps++] = (struct detail_map){map, (size_t)info.st_size};
            status = index_details(details, map, (size_t)info.st_size, path);
        }
    }
    if (fd >= 0) close(fd);
    free(path);
    return status;
}

static int by_row(const void *a, const void *b)
{
    const struct detail *x = a, *y = b;
    return (x->row > y->row) - (x->row < y->row);
}

static enum status write_details(const struct details *details, const char *folder)
{
    char *path = file_join(folder, problems_name), *part = file_join(folder, "problems.jsonl.part-merge");
    enum status status = path && part ? LORAD_OK : LORAD_NOMEM;
    FILE *file = NULL;
    if (status == LORAD_OK && !(file = fopen(part, "we")))
        status = FAIL(LORAD_CANNOT_CREATE, "cannot create %s: %s", part, strerror(errno));
    for (size_t i = 0; status == LORAD_OK && i < details->n; i++)
        if (fwrite(details->at[i].text, 1, details->at[i].length, file) != details->at[i].length)
            status = FAIL(LORAD_IO, "cannot write %s: %s", part, strerror(errno));
    if (status == LORAD_OK && (fflush(file) != 0 || fsync(fileno(file)) != 0))
        status = FAIL(LORAD_IO, "cannot write %s: %s", part, strerror(errno));
    if (file) fclose(file);
    if (status == LORAD_OK && rename(part, path) != 0)
        status = FAIL(LORAD_IO, "cannot rename %s to %s: %s", part, path, strerror(errno));
    if (status != LORAD_OK && file) unlink(part);
    free(path);
    free(part);
    return status;
}

enum status prepare_merge_details(const struct prepare_job *job)
{
    struct details details = {0};
    enum status status = LORAD_OK;
    int32_t n = job->about.n_shards;
    if (!(details.map = memory_new((size_t)n, sizeof *details.map))) return LORAD_NOMEM;
    for (int32_t i = 0; status == LORAD_OK && i < n; i++) status = map_details(&details, job->folder, i);
    if (status == LORAD_OK && details.n > 0) {
        qsort(details.at, details.n, sizeof *details.at, by_row);
        status = write_details(&details, job->folder);
    }
    details_free(&details);
    return status;
}

/* ---- signatures.bin ---- */

static enum status merge_shard(const struct prepare_job *job, int32_t number, struct row_signature *to)
{
    char name[SHARD_NAME_BYTES], *bytes = NULL;
    size_t length = 0;
    struct shard_map shard;
    TRY(shard_map_open(&shard, job->folder, number));
    size_t wanted = (size_t)shard.view.n_rows * sizeof *to;
    prepare_signatures_name(name, number);
    char *path = file_join(job->folder, name);
    enum status status = path ? shard_check_rows(&shard.view, shard.path) : LORAD_NOMEM;
    if (status == LORAD_OK) status = file_read(&bytes, &length, path, wanted);
    if (status == LORAD_OK && length != wanted)
        status = FAIL(LORAD_DATA, "%s: %zu bytes, not %zu: delete the folder and start again", path, length,
                      wanted);
    for (int64_t i = 0; status == LORAD_OK && i < shard.view.n_rows; i++) {
        int64_t row = shard.view.rows[i].raw_row;
        ASSERT(row < job->about.raw_rows);
        memcpy(&to[row], bytes + (size_t)i * sizeof *to, sizeof *to);
    }
    free(bytes);
    free(path);
    shard_map_close(&shard);
    return status;
}

enum status prepare_merge_signatures(const struct prepare_job *job)
{
    struct table_file table;
    TRY(table_file_create(&table, &data_signatures, job->folder, job->about.raw_rows));
    enum status status = LORAD_OK;
    for (int32_t i = 0; status == LORAD_OK && i < job->about.n_shards; i++)
        status = merge_shard(job, i, table.entry);
    if (status == LORAD_OK) status = table_file_seal(&table, &data_signatures);
    table_file_close(&table);
    return status;
}
