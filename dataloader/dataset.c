/*
 * dataset.c: the rows of a prepared folder by their raw numbers, complete or growing.
 *
 * Invariants:
 * (1) shards 0 .. n_shards - 1 are mapped, read-only, until dataset_close; shard[i] never moves. n_shards
 *     only grows, and is raised after the shard's places are known.
 * (2) while the folder grows, places belongs to whoever holds `growth`; a row's place is read by others only
 *     after a dataset_wait for it. A complete folder's places are places.bin.
 * (3) what the files say is checked before it is followed: dataset_row gives tokens only when the row lies
 *     inside its shard, and dataset_row_check fails for any other.
 */
#include "dataloader/dataloader.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "dataloader/dataset_file.h"
#include "dataloader/prepare_lock.h"
#include "dataloader/shard_file.h"

struct open_shard {
    struct shard_map file;
    atomic_bool rows_checked;
};

struct dataset {
    char *folder;
    struct dataset_about about;
    struct place_table places;
    struct open_shard **shard; /* [DATASET_MOST_SHARDS] */
    atomic_int n_shards;
    atomic_bool complete, stop;
    pthread_mutex_t growth;
};

void dataset_close(struct dataset *dataset)
{
    if (!dataset) return;
    for (int i = 0; dataset->shard && i < atomic_load(&dataset->n_shards); i++) {
        shard_map_close(&dataset->shard[i]->file);
        free(dataset->shard[i]);
    }
    free(dataset->shard);
    place_table_close(&dataset->places);
    dataset_about_free(&dataset->about);
    free(dataset->folder);
    pthread_mutex_destroy(&dataset->growth);
    free(dataset);
}

/* ---- opening ---- */

/* Maps the next shard without telling anybody. */
static enum status map_next(struct dataset *dataset, struct open_shard **out)
{
    int number = atomic_load(&dataset->n_shards);
    if (number >= DATASET_MOST_SHARDS)
        return FAIL(LORAD_DATA, "%s holds more than %d shards", dataset->folder, DATASET_MOST_SHARDS);
    struct open_shard *shard = memory_new(1, sizeof *shard);
    if (!shard) return LORAD_NOMEM;
    enum status status = shard_map_open(&shard->file, dataset->folder, number);
    if (status == LORAD_OK && shard->file.view.header->vocab_size != (uint32_t)dataset->about.vocab_size) {
        status = FAIL(LORAD_DATA, "%s was made for a vocabulary of %u tokens, its folder for %d",
                      shard->file.path, shard->file.view.header->vocab_size, dataset->about.vocab_size);
        shard_map_close(&shard->file);
    }
    if (status == LORAD_OK)
        *out = shard;
    else
        free(shard);
    return status;
}

static void publish(struct dataset *dataset, struct open_shard *shard)
{
    int number = atomic_load(&dataset->n_shards);
    dataset->shard[number] = shard;
    atomic_store(&dataset->n_shards, number + 1);
}

static enum status open_complete(struct dataset *dataset)
{
    TRY(place_table_open(&dataset->places, &dataset->about, dataset->folder));
    for (int32_t i = 0; i < dataset->about.n_shards; i++) {
        struct open_shard *shard;
        enum status status = map_next(dataset, &shard);
        if (status == LORAD_NOT_FOUND) return FAIL(LORAD_DATA, "%s", status_message());
        TRY(status);
        publish(dataset, shard);
    }
    atomic_store(&dataset->complete, true);
    return LORAD_OK;
}

/* A growing folder becomes complete at any time, and loses rows.json then. */
static enum status read_about(struct dataset *dataset, bool *complete)
{
    *complete = true;
    enum status status = dataset_about_read(&dataset->about, dataset->folder, DATASET_COMPLETE);
    if (status != LORAD_NOT_FOUND) return status;
    *complete = false;
    if (dataset_about_read(&dataset->about, dataset->folder, DATASET_GROWING) == LORAD_OK) return LORAD_OK;
    *complete = true;
    return dataset_about_read(&dataset->about, dataset->folder, DATASET_COMPLETE);
}

enum status dataset_open(struct dataset **out, const char *shard_dir)
{
    struct dataset *dataset = memory_new(1, sizeof *dataset);
    if (!dataset) return LORAD_NOMEM;
    pthread_mutex_init(&dataset->growth, NULL);
    bool complete = false;
    enum status status = LORAD_OK;
    dataset->folder = memory_string(shard_dir);
    dataset->shard = memory_new(DATASET_MOST_SHARDS, sizeof *dataset->shard);
    if (!dataset->folder || !dataset->shard) status = LORAD_NOMEM;
    if (status == LORAD_OK) status = read_about(dataset, &complete);
    if (status == LORAD_OK)
        status = complete ? open_complete(dataset)
                          : place_table_create(&dataset->places, dataset->about.raw_rows, shard_dir);
    if (status == LORAD_OK)
        *out = dataset;
    else
        dataset_close(dataset);
    return status;
}

/* ---- growing ---- */

static enum status take_places(struct dataset *dataset, struct open_shard *shard)
{
    const struct shard_view *view = &shard->file.view;
    uint32_t number = (uint32_t)atomic_load(&dataset->n_shards) + 1;
    TRY(shard_check_rows(view, shard->file.path));
    atomic_store(&shard->rows_checked, true);
    for (int64_t i = 0; i < view->n_rows; i++) {
        const struct shard_row *row = &view->rows[i];
        if (row->raw_row >= dataset->about.raw_rows || row->source >= dataset->about.n_sources)
            return FAIL(LORAD_DATA, "%s: row %lld is not of this folder", shard->file.path, (long long)i);
        dataset->places.entry[row->raw_row] =
            (struct row_place_entry){number, (uint32_t)i, row->n_tokens, row->n_supervised};
    }
    return LORAD_OK;
}

/* Takes the next shard when it is there. */
static enum status grow(struct dataset *dataset, bool *grown)
{
    struct open_shard *shard;
    *grown = false;
    enum status status = map_next(dataset, &shard);
    if (status == LORAD_NOT_FOUND) {
        status_clear();
        return LORAD_OK;
    }
    TRY(status);
    status = take_places(dataset, shard);
    if (status != LORAD_OK) {
        shard_map_close(&shard->file);
        free(shard);
        return status;
    }
    publish(dataset, shard);
    *grown = true;
    return LORAD_OK;
}

/* Once dataset.json is there, all shards are. */
static enum status find_completion(struct dataset *dataset)
{
    struct dataset_about about;
    enum status status = dataset_about_read(&about, dataset->folder, DATASET_COMPLETE);
    if (status == LORAD_NOT_FOUND) {
        status_clear();
        return LORAD_OK;
    }
    TRY(status);
    bool grown = true;
    while (status == LORAD_OK && grown && atomic_load(&dataset->n_shards) < about.n_shards)
        status = grow(dataset, &grown);
    if (status == LORAD_OK && atomic_load(&dataset->n_shards) != about.n_shards)
        status = FAIL(LORAD_DATA, "%s: %d shards of %d are there", dataset->folder,
                      atomic_load(&dataset->n_shards), about.n_shards);
    if (status == LORAD_OK) {
        dataset->about.n_shards = about.n_shards;
        dataset->about.kept_rows = about.kept_rows;
        dataset->about.tokens = about.tokens;
        dataset->about.fingerprint = about.fingerprint;
        dataset->about.content = about.content;
        atomic_store(&dataset->complete, true);
    }
    dataset_about_free(&about);
    return status;
}

bool dataset_complete(const struct dataset *dataset)
{
    struct dataset *self = (struct dataset *)(uintptr_t)dataset; /* taking note of the disk changes no row */
    if (atomic_load(&dataset->complete)) return true;
    if (pthread_mutex_trylock(&self->growth) != 0) return false;
    if (!atomic_load(&dataset->complete) && find_completion(self) != LORAD_OK) status_clear();
    pthread_mutex_unlock(&self->growth);
    return atomic_load(&dataset->complete);
}

/* Nobody holds the lock and the folder is not complete: whoever prepared it has ended. Another process may
 * take over, so a first look proves nothing. */
enum { QUIET_LOOKS = 10, LOOK_NS = 100000000 };

static enum status look_for_preparer(struct dataset *dataset, int *quiet)
{
    bool busy;
    enum status failure = LORAD_OK;
    TRY(prepare_lock_look(dataset->folder, &busy, &failure));
    if (busy) {
        *quiet = 0;
        return LORAD_OK;
    }
    TRY(find_completion(dataset));
    if (atomic_load(&dataset->complete)) return LORAD_OK;
    if (failure != LORAD_OK) return prepare_lock_failure(dataset->folder, failure);
    if (++*quiet < QUIET_LOOKS) return LORAD_OK;
    return FAIL(LORAD_IO, "preparing %s has ended before it was done: start again, and it continues",
                dataset->folder);
}

static enum status wait_for_row(struct dataset *dataset, int64_t row)
{
    int quiet = 0;
    long pause_ns = 500000, since_look = 0;
    while (dataset->places.entry[row].shard == 0) {
        bool grown;
        if (atomic_load(&dataset->stop)) return FAIL(LORAD_REQUEUE, "asked to stop waiting for data");
        TRY(grow(dataset, &grown));
        if (grown) continue;
        if (since_look >= LOOK_NS) {
            since_look = 0;
            TRY(look_for_preparer(dataset, &quiet));
        }
        nanosleep(&(struct timespec){0, pause_ns}, NULL);
        since_look += pause_ns;
        if (pause_ns < 20000000) pause_ns *= 2;
    }
    return LORAD_OK;
}

enum status dataset_wait(struct dataset *dataset, const int64_t *rows, int32_t n)
{
    if (atomic_load(&dataset->complete)) return LORAD_OK;
    enum status status = LORAD_OK;
    pthread_mutex_lock(&dataset->growth);
    for (int32_t i = 0; status == LORAD_OK && i < n; i++) {
        ASSERT(rows[i] >= 0 && rows[i] < dataset->about.raw_rows);
        status = wait_for_row(dataset, rows[i]);
    }
    pthread_mutex_unlock(&dataset->growth);
    return status;
}

void dataset_stop_waiting(struct dataset *dataset, bool stop)
{
    atomic_store(&dataset->stop, stop);
}

/* ---- rows ---- */

/* The shard and entry of a row; NULL: not known, or not where its place says. */
static const struct shard_row *entry_of(const struct dataset *dataset, int64_t row,
                                        const struct open_shard **shard)
{
    const struct row_place_entry *place = &dataset->places.entry[row];
    if (place->shard < 1 || place->shard > (uint32_t)atomic_load(&dataset->n_shards)) return NULL;
    *shard = dataset->shard[place->shard - 1];
    const struct shard_view *view = &(*shard)->file.view;
    if (place->row >= view->n_rows) return NULL;
    const struct shard_row *entry = &view->rows[place->row];
    bool inside = entry->n_tokens >= 0 && entry->first_token <= view->header->n_tokens &&
                  (uint64_t)entry->n_tokens <= view->header->n_tokens - entry->first_token;
    bool same = entry->raw_row == row && entry->n_tokens == place->n_tokens &&
                entry->n_supervised == place->n_supervised && entry->source >= 0 &&
                entry->source < dataset->about.n_sources;
    return inside && same ? entry : NULL;
}

int32_t dataset_length(const struct dataset *dataset, int64_t row)
{
    ASSERT(row >= 0 && row < dataset->about.raw_rows);
    return dataset->places.entry[row].n_tokens;
}

struct dataset_row dataset_row(const struct dataset *dataset, int64_t row)
{
    const struct open_shard *shard;
    ASSERT(row >= 0 && row < dataset->about.raw_rows);
    const struct row_place_entry *place = &dataset->places.entry[row];
    const struct shard_row *entry = entry_of(dataset, row, &shard);
    if (!entry) return (struct dataset_row){.n_tokens = place->n_tokens, .n_supervised = place->n_supervised};
    const struct shard_view *view = &shard->file.view;
    return (struct dataset_row){.tokens = view->tokens + entry->first_token,
                                .codes = view->codes + entry->first_token,
                                .weight_of = view->weight_of,
                                .n_tokens = entry->n_tokens,
                                .n_supervised = entry->n_supervised,
                                .weight = entry->weight,
                                .source = entry->source,
                                .line = entry->line};
}

enum status dataset_row_check(const struct dataset *dataset, int64_t row)
{
    const struct open_shard *shard;
    const struct shard_row *entry = entry_of(dataset, row, &shard);
    if (!entry)
        return FAIL(LORAD_DATA,
                    "%s: row %lld is not where " DATASET_PLACES " says: delete the folder, and the next run "
                    "prepares the data again",
                    dataset->folder, (long long)row);
    if (!atomic_load_explicit(&shard->rows_checked, memory_order_acquire)) {
        TRY(shard_check_rows(&shard->file.view, shard->file.path));
        /* Two threads may find the same at the same time. */
        atomic_store_explicit(&((struct open_shard *)(uintptr_t)shard)->rows_checked, true,
                              memory_order_release);
    }
    return shard_row_check(&shard->file.view, entry - shard->file.view.rows, shard->file.path);
}

/* ---- about the whole ---- */

int64_t dataset_raw_rows(const struct dataset *dataset)
{
    return dataset->about.raw_rows;
}

int64_t dataset_kept_rows(const struct dataset *dataset)
{
    ASSERT(dataset_complete(dataset));
    return dataset->about.kept_rows;
}

int32_t dataset_vocab_size(const struct dataset *dataset)
{
    return dataset->about.vocab_size;
}

struct hash128 dataset_key(const struct dataset *dataset)
{
    struct hash128 key;
    const char *slash = strrchr(dataset->folder, '/'), *name = slash ? slash + 1 : dataset->folder;
    if (hash128_parse(&key, name) == LORAD_OK) return key;
    status_clear(); /* no folder of a cache */
    return hash128(name, strlen(name));
}

struct hash128 dataset_fingerprint(const struct dataset *dataset)
{
    return dataset_complete(dataset) ? dataset->about.fingerprint : dataset_key(dataset);
}

struct hash128 dataset_rows_fingerprint(const struct dataset *dataset, int64_t first, int64_t n)
{
    enum { AT_ONCE = 512 };
    struct {
        struct hash128 before; /* of the rows of the blocks before */
        uint64_t row[AT_ONCE][2];
    } block = {0};
    for (int64_t at = 0; at < n; at += AT_ONCE) {
        size_t some = n - at < AT_ONCE ? (size_t)(n - at) : AT_ONCE;
        for (size_t i = 0; i < some; i++) {
            const struct open_shard *shard;
            const struct shard_row *entry = entry_of(dataset, first + at + (int64_t)i, &shard);
            block.row[i][0] = entry ? entry->hash : UINT64_MAX;
            block.row[i][1] = entry ? (uint64_t)entry->n_tokens : 0;
        }
        block.before = hash128(&block, sizeof block.before + some * sizeof block.row[0]);
    }
    return block.before;
}

int32_t dataset_groups(const struct dataset *dataset)
{
    return dataset->about.n_groups;
}

struct row_range dataset_group(const struct dataset *dataset, int32_t group)
{
    ASSERT(group >= 0 && group < dataset->about.n_groups);
    return dataset->about.group[group];
}

int32_t dataset_sources(const struct dataset *dataset)
{
    return dataset->about.n_sources;
}

const char *dataset_source_name(const struct dataset *dataset, int32_t source)
{
    ASSERT(source >= 0 && source < dataset->about.n_sources);
    return dataset->about.source[source];
}
