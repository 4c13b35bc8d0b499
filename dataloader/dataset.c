/*
 * dataset.c: the shards of a prepared folder, mapped, as one list of rows.
 *
 * Invariants:
 * (1) the shards' rows follow each other: shard i holds rows first_row[i] .. first_row[i + 1] - 1.
 * (2) every row's source is below n_sources.
 * (3) the mappings are read-only and live until dataset_close.
 */
#include "dataloader/dataloader.h"
#include "dataloader/dataset_placeholder.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "dataloader/shard_file.h"

enum { MOST_SHARDS = 100000 };
static const size_t most_json_bytes = (size_t)64 << 20;

struct mapped_shard {
    struct shard_view view;
    void *map;
    size_t length;
    char *path;
};

struct dataset {
    struct mapped_shard *shard;
    int64_t *first_row; /* [n_shards + 1] */
    int32_t n_shards, n_sources, vocab_size;
    char **source;
    struct hash128 fingerprint;

    /* placeholder */
    struct row_range group[32];
    int32_t n_groups;
    float other_table[256];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint8_t *prepared; /* NULL: complete from the start */
    bool complete, stop;
    enum status failure;
};

void dataset_close(struct dataset *dataset)
{
    if (!dataset) return;
    for (int32_t i = 0; i < dataset->n_shards; i++) {
        if (dataset->shard[i].map) munmap(dataset->shard[i].map, dataset->shard[i].length);
        free(dataset->shard[i].path);
    }
    for (int32_t i = 0; i < dataset->n_sources; i++) free(dataset->source[i]);
    free(dataset->source);
    free(dataset->shard);
    free(dataset->first_row);
    free(dataset->prepared);
    free(dataset);
}

static enum status map_file(struct mapped_shard *shard)
{
    int fd = open(shard->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return FAIL(LORAD_DATA, "cannot open %s: %s", shard->path, strerror(errno));
    enum status status = LORAD_OK;
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        status = FAIL(LORAD_DATA, "%s is not a regular file", shard->path);
        goto close_file;
    }
    if (info.st_size < SHARD_HEADER_BYTES) {
        status = FAIL(LORAD_DATA, "%s: %lld bytes are too few for a token shard: it is cut off", shard->path,
                      (long long)info.st_size);
        goto close_file;
    }
    void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        status = FAIL(LORAD_IO, "cannot map %s: %s", shard->path, strerror(errno));
        goto close_file;
    }
    shard->map = map;
    shard->length = (size_t)info.st_size;
close_file:
    close(fd);
    return status;
}

static enum status open_shard(struct dataset *dataset, int32_t i, const char *folder)
{
    struct mapped_shard *shard = &dataset->shard[i];
    char name[32];
    snprintf(name, sizeof name, "tokens-%05d.bin", i);
    if (!(shard->path = file_join(folder, name))) return LORAD_NOMEM;
    TRY(map_file(shard));
    TRY(shard_view_bytes(&shard->view, shard->map, shard->length, shard->path));
    if (shard->view.header->vocab_size != (uint32_t)dataset->vocab_size)
        return FAIL(LORAD_DATA, "%s was made for a vocabulary of %u tokens, its dataset.json says %d",
                    shard->path, shard->view.header->vocab_size, dataset->vocab_size);
    for (int64_t row = 0; row < shard->view.n_rows; row++)
        if (shard->view.rows[row].source >= dataset->n_sources)
            return FAIL(LORAD_DATA, "%s: row %lld comes from source %d of %d", shard->path, (long long)row,
                        shard->view.rows[row].source, dataset->n_sources);
    dataset->first_row[i + 1] = dataset->first_row[i] + shard->view.n_rows;
    return LORAD_OK;
}

/* The hashes of all sections: of the contents, and not of where they lie. */
static enum status find_fingerprint(struct dataset *dataset)
{
    struct hash_stream *stream;
    TRY(hash_stream_create(&stream));
    for (int32_t i = 0; i < dataset->n_shards; i++)
        for (int k = 0; k < SHARD_SECTIONS; k++) {
            const struct shard_section_entry *section = &dataset->shard[i].view.header->section[k];
            uint64_t parts[3] = {section->bytes, section->hash_high, section->hash_low};
            hash_stream_add(stream, parts, sizeof parts);
        }
    dataset->fingerprint = hash_stream_value(stream);
    hash_stream_destroy(stream);
    return LORAD_OK;
}

static enum status read_description(struct dataset *dataset, const struct json *document, const char *path,
                                    int64_t *rows)
{
    int64_t version, shards, vocab_size;
    const struct json *sources;
    TRY(js_need_int(&version, document, "version", path));
    if (version != SHARD_VERSION)
        return FAIL(LORAD_DATA, "%s: version %lld; this program reads version %d: prepare the data again",
                    path, (long long)version, SHARD_VERSION);
    TRY(js_need_int(&shards, document, "shards", path));
    TRY(js_need_int(rows, document, "rows", path));
    TRY(js_need_int(&vocab_size, document, "vocab_size", path));
    TRY(js_need(&sources, document, "sources", JS_ARRAY, path));
    if (shards < 1 || shards > MOST_SHARDS || vocab_size < 1 || vocab_size > INT32_MAX ||
        js_length(sources) > INT32_MAX)
        return FAIL(LORAD_DATA, "%s: its numbers make no sense", path);
    dataset->vocab_size = (int32_t)vocab_size;
    size_t n = js_length(sources);
    if (!(dataset->source = memory_new(n + 1, sizeof *dataset->source))) return LORAD_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const char *name = js_string(js_at(sources, i), NULL);
        if (!name) return FAIL(LORAD_DATA, "%s: source %zu is no string", path, i);
        if (!(dataset->source[i] = memory_string(name))) return LORAD_NOMEM;
        dataset->n_sources++;
    }
    if (!(dataset->shard = memory_new((size_t)shards, sizeof *dataset->shard))) return LORAD_NOMEM;
    if (!(dataset->first_row = memory_new((size_t)shards + 1, sizeof *dataset->first_row)))
        return LORAD_NOMEM;
    dataset->n_shards = (int32_t)shards;
    return LORAD_OK;
}

enum status dataset_open(struct dataset **out, const char *shard_dir)
{
    enum status status = LORAD_NOMEM;
    struct json *document = NULL;
    struct dataset *dataset = NULL;
    int64_t rows = 0;
    char *path = file_join(shard_dir, "dataset.json");
    if (!path) goto done;
    if ((status = js_read_file(&document, path, most_json_bytes)) != LORAD_OK) goto done;
    if (!(dataset = memory_new(1, sizeof *dataset))) {
        status = LORAD_NOMEM;
        goto done;
    }
    pthread_mutex_init(&dataset->lock, NULL);
    pthread_cond_init(&dataset->changed, NULL);
    status = read_description(dataset, document, path, &rows);
    for (int32_t i = 0; status == LORAD_OK && i < dataset->n_shards; i++)
        status = open_shard(dataset, i, shard_dir);
    if (status == LORAD_OK && dataset_rows(dataset) != rows)
        status = FAIL(LORAD_DATA, "%s: the shards hold %lld rows, not %lld", path,
                      (long long)dataset_rows(dataset), (long long)rows);
    if (status == LORAD_OK) status = find_fingerprint(dataset);
    if (status == LORAD_OK) {
        *out = dataset;
        dataset = NULL;
    }
done:
    dataset_close(dataset);
    js_destroy(document);
    free(path);
    return status;
}

int64_t dataset_rows(const struct dataset *dataset)
{
    return dataset->first_row[dataset->n_shards];
}

int32_t dataset_vocab_size(const struct dataset *dataset)
{
    return dataset->vocab_size;
}

struct hash128 dataset_fingerprint(const struct dataset *dataset)
{
    return dataset->fingerprint;
}

int32_t dataset_sources(const struct dataset *dataset)
{
    return dataset->n_sources;
}

const char *dataset_source_name(const struct dataset *dataset, int32_t source)
{
    ASSERT(source >= 0 && source < dataset->n_sources);
    return dataset->source[source];
}

static const struct mapped_shard *shard_of(const struct dataset *dataset, int64_t *row)
{
    ASSERT(*row >= 0 && *row < dataset_rows(dataset));
    int32_t low = 0, high = dataset->n_shards; /* first_row[low] <= row < first_row[high] */
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        if (dataset->first_row[middle] <= *row)
            low = middle;
        else
            high = middle;
    }
    *row -= dataset->first_row[low];
    return &dataset->shard[low];
}

/* ---- placeholder: see dataset_placeholder.h ---- */

static const float table_of_ones[256] = {[1] = 1};

void dataset_placeholder_groups(struct dataset *dataset, const int64_t *sizes, int32_t n)
{
    int64_t first = 0;
    ASSERT(n <= (int32_t)(sizeof dataset->group / sizeof *dataset->group));
    for (int32_t g = 0; g < n; g++) {
        dataset->group[g] = (struct row_range){first, sizes[g]};
        first += sizes[g];
    }
    dataset->n_groups = n;
}

void dataset_placeholder_weight(struct dataset *dataset, float weight)
{
    dataset->other_table[1] = weight;
}

void dataset_placeholder_grow(struct dataset *dataset)
{
    dataset->prepared = memory_new((size_t)dataset_rows(dataset) + 1, 1);
    ASSERT(dataset->prepared);
}

void dataset_placeholder_prepare(struct dataset *dataset, const int64_t *rows, int32_t n)
{
    pthread_mutex_lock(&dataset->lock);
    for (int32_t i = 0; i < n; i++) dataset->prepared[rows[i]] = 1;
    pthread_cond_broadcast(&dataset->changed);
    pthread_mutex_unlock(&dataset->lock);
}

void dataset_placeholder_finish(struct dataset *dataset, enum status failure)
{
    pthread_mutex_lock(&dataset->lock);
    dataset->failure = failure;
    dataset->complete = failure == LORAD_OK;
    pthread_cond_broadcast(&dataset->changed);
    pthread_mutex_unlock(&dataset->lock);
}

int64_t dataset_raw_rows(const struct dataset *dataset)
{
    return dataset_rows(dataset);
}

int32_t dataset_groups(const struct dataset *dataset)
{
    return dataset->n_groups ? dataset->n_groups : 1;
}

struct row_range dataset_group(const struct dataset *dataset, int32_t group)
{
    return dataset->n_groups ? dataset->group[group] : (struct row_range){0, dataset_rows(dataset)};
}

bool dataset_complete(const struct dataset *dataset)
{
    if (!dataset->prepared) return true;
    struct dataset *shared = (struct dataset *)dataset;
    pthread_mutex_lock(&shared->lock);
    bool complete = dataset->complete;
    pthread_mutex_unlock(&shared->lock);
    return complete;
}

static bool all_prepared(const struct dataset *dataset, const int64_t *rows, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (!dataset->prepared[rows[i]]) return false;
    return true;
}

enum status dataset_wait(struct dataset *dataset, const int64_t *rows, int32_t n)
{
    if (!dataset->prepared) return LORAD_OK;
    enum status status = LORAD_OK;
    pthread_mutex_lock(&dataset->lock);
    while (!dataset->complete && !all_prepared(dataset, rows, n) && status == LORAD_OK) {
        if (dataset->failure != LORAD_OK)
            status = FAIL(dataset->failure, "preparing failed");
        else if (dataset->stop)
            status = FAIL(LORAD_REQUEUE, "asked to stop");
        else
            pthread_cond_wait(&dataset->changed, &dataset->lock);
    }
    pthread_mutex_unlock(&dataset->lock);
    return status;
}

void dataset_stop_waiting(struct dataset *dataset, bool stop)
{
    pthread_mutex_lock(&dataset->lock);
    dataset->stop = stop;
    pthread_cond_broadcast(&dataset->changed);
    pthread_mutex_unlock(&dataset->lock);
}

int32_t dataset_length(const struct dataset *dataset, int64_t row)
{
    const struct shard_view *view = &shard_of(dataset, &row)->view;
    return view->rows[row].n_supervised > 0 ? view->rows[row].n_tokens : 0;
}

struct dataset_row dataset_row(const struct dataset *dataset, int64_t row)
{
    bool other = row % 3 == 0;
    const struct shard_view *view = &shard_of(dataset, &row)->view;
    const struct shard_row *entry = &view->rows[row];
    const float *table = other && dataset->other_table[1] > 0 ? dataset->other_table : table_of_ones;
    return (struct dataset_row){.tokens = view->tokens + entry->first_token,
                                .codes = view->supervised + entry->first_token,
                                .weight_of = table,
                                .n_tokens = entry->n_supervised > 0 ? entry->n_tokens : 0,
                                .n_supervised = entry->n_supervised,
                                .weight = (double)table[1] * entry->n_supervised,
                                .source = entry->source,
                                .line = entry->line};
}

/* ---- end of the placeholder ---- */

enum status dataset_row_check(const struct dataset *dataset, int64_t row)
{
    const struct mapped_shard *shard = shard_of(dataset, &row);
    return shard_row_check(&shard->view, row, shard->path);
}
