/*
 * prepare_folder.c: filling one folder: <cache_dir>/<key>/.
 *
 * Invariants:
 * (1) files appear under their names complete: rows.idx, rows.json, then shard after shard (what belongs to a
 *     shard before it), places.bin, problems.jsonl, report.json, and at the end dataset.json, which says that
 *     the folder is complete. After a kill at any instant what has its name is whole, and is used again.
 * (2) a complete folder is never changed, only replaced as a whole.
 */
#include "dataloader/prepare_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

static const int64_t default_shard_bytes = (int64_t)64 << 20;

/* ---- folders ---- */

/* Removes a folder of plain files; what cannot be removed stays. */
static void remove_folder(const char *path)
{
    DIR *folder = opendir(path);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
    rmdir(path);
}

/* It loses its name first, so that nobody opens half of it; who has it open keeps it. */
enum status prepare_folder_discard(const char *folder)
{
    char host[64] = "", name[4300];
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "%s.old-%s-%ld", folder, host, (long)getpid());
    if (rename(folder, name) == 0)
        remove_folder(name);
    else if (errno != ENOENT)
        return FAIL(LORAD_IO, "cannot replace %s: %s", folder, strerror(errno));
    return LORAD_OK;
}

/* What killed processes left of discarding this folder. */
static void remove_discarded(const char *folder)
{
    char prefix[300], cache[4200];
    const char *name = strrchr(folder, '/');
    snprintf(prefix, sizeof prefix, "%s.old-", name ? name + 1 : folder);
    snprintf(cache, sizeof cache, "%.*s", name ? (int)(name - folder) : 1, name ? folder : ".");
    DIR *stream = opendir(*cache ? cache : "/");
    if (!stream) return;
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0) continue;
        char *path = file_join(cache, entry->d_name);
        if (path) remove_folder(path);
        free(path);
    }
    closedir(stream);
}

static void remove_files(const char *folder, bool (*unwanted)(const char *name))
{
    DIR *stream = opendir(folder);
    if (!stream) return;
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;)
        if (unwanted(entry->d_name)) unlinkat(dirfd(stream), entry->d_name, 0);
    closedir(stream);
}

/* What only preparing needs. */
static bool is_scaffold(const char *name)
{
    return shard_is_leftover(name) || strcmp(name, ROW_INDEX_NAME) == 0 ||
           strcmp(name, DATASET_GROWING) == 0 || prepare_is_of_shard(name);
}

enum status prepare_folder_look(enum folder_state *state, const char *folder, struct prepare_report *report)
{
    char *path = file_join(folder, DATASET_COMPLETE);
    if (!path) return LORAD_NOMEM;
    bool sealed = file_exists(path), readable = access(path, R_OK) == 0;
    free(path);
    *state = FOLDER_GROWING;
    if (!sealed) return LORAD_OK;
    struct dataset *dataset = NULL;
    enum status status = dataset_open(&dataset, folder);
    dataset_close(dataset);
    if (status == LORAD_OK) status = prepare_report_read(report, folder);
    if (status == LORAD_OK) {
        prepare_report_find_problems(report, folder);
        remove_files(folder, is_scaffold); /* whoever sealed it may have been killed before it could */
        *state = FOLDER_COMPLETE;
        return LORAD_OK;
    }
    if (status != LORAD_DATA && !(status == LORAD_NOT_FOUND && readable)) return status;
    *state = FOLDER_DAMAGED;
    return LORAD_OK;
}

/* ---- the raw rows ---- */

static enum status scan_rows(struct prepare_job *job)
{
    const struct prepare_options *o = job->options;
    struct row_scan scan = {.list = job->list,
                            .reader = job->reader,
                            .sources = o->sources,
                            .n_sources = o->n_sources,
                            .val_size = o->val_size,
                            .split_seed = o->split_seed,
                            .want_kept_back = o->want_eval_part,
                            .stop = job->stop,
                            .bytes_done = &job->counters->scanned_bytes};
    struct dataset_about *about = &job->about;
    about->vocab_size = tokenizer_size(o->tokenizer);
    about->cutoff_len = o->cutoff_len;
    about->n_groups = o->n_sources;
    if (!(about->group = memory_new((size_t)o->n_sources, sizeof *about->group))) return LORAD_NOMEM;
    if (!(about->source = memory_new((size_t)job->list->n, sizeof *about->source))) return LORAD_NOMEM;
    for (; about->n_sources < job->list->n; about->n_sources++)
        if (!(about->source[about->n_sources] = memory_string(job->list->file[about->n_sources].name)))
            return LORAD_NOMEM;
    TRY(row_index_build(job->folder, &scan, about->group));
    TRY(row_index_open(&job->index, job->folder));
    about->raw_rows = job->index.n;
    if (about->raw_rows == 0) return LORAD_OK;
    TRY(dataset_about_write(about, job->folder, DATASET_GROWING));
    return shard_sync_folder(job->folder);
}

/* What an earlier process found; false: nothing that can be used. */
static bool find_rows(struct prepare_job *job)
{
    enum status status = dataset_about_read(&job->about, job->folder, DATASET_GROWING);
    if (status == LORAD_OK) status = row_index_open(&job->index, job->folder);
    if (status == LORAD_OK && job->index.n == job->about.raw_rows && job->about.n_sources == job->list->n &&
        job->about.n_groups == job->options->n_sources)
        return true;
    status_clear();
    row_index_close(&job->index);
    dataset_about_free(&job->about);
    return false;
}

/* ---- the shards that are there ---- */

static enum status take_shard(struct prepare_job *job, int32_t number, int64_t *rows)
{
    struct shard_map shard;
    TRY(shard_map_open(&shard, job->folder, number));
    enum status status = shard_check_rows(&shard.view, shard.path);
    if (status == LORAD_OK && (shard.view.header->vocab_size != (uint32_t)job->about.vocab_size ||
                               shard.view.header->rows_before != (uint64_t)*rows))
        status = FAIL(LORAD_DATA, "%s does not belong to the shards before it", shard.path);
    for (int64_t i = 0; status == LORAD_OK && i < shard.view.n_rows; i++) {
        const struct shard_row *row = &shard.view.rows[i];
        if (row->source >= job->list->n || !prepare_order_done(job->order, row->raw_row))
            status = FAIL(LORAD_DATA, "%s: row %lld is not of this data", shard.path, (long long)i);
        atomic_fetch_add(&job->counters->tokens, row->n_tokens);
    }
    *rows += shard.view.n_rows;
    shard_map_close(&shard);
    return status;
}

/* Continues behind the shards that are there. */
static enum status continue_shards(struct prepare_job *job)
{
    const struct prepare_options *o = job->options;
    struct shard_writer_options writer = {.folder = job->folder,
                                          .vocab_size = job->about.vocab_size,
                                          .shard_bytes =
                                              o->shard_bytes > 0 ? o->shard_bytes : default_shard_bytes};
    TRY(prepare_order_create(&job->order, job->about.group, o->sources, o->n_sources, &o->order));
    atomic_store(&job->counters->tokens, 0);
    enum status status;
    while ((status = take_shard(job, writer.first_shard, &writer.rows_before)) == LORAD_OK)
        writer.first_shard++;
    if (status != LORAD_NOT_FOUND) return status;
    status_clear();
    TRY(prepare_read_so_far(job, writer.first_shard));
    atomic_store(&job->counters->rows_done, writer.rows_before);
    atomic_store(&job->counters->raw_rows, job->about.raw_rows);
    if (writer.rows_before > 0)
        log_info("preparing goes on: %lld of %lld rows are there", (long long)writer.rows_before,
                 (long long)job->about.raw_rows);
    return shard_writer_create(&job->writer, &writer);
}

/* ---- the end ---- */

static enum status check_unchanged(const struct source_list *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        int64_t size_bytes, mtime_ns;
        TRY(file_stat(&size_bytes, &mtime_ns, list->file[i].path));
        if (size_bytes != list->file[i].size_bytes || mtime_ns != list->file[i].mtime_ns)
            return FAIL(LORAD_DATA, "%s changed while it was read: start again when it is complete",
                        list->file[i].path);
    }
    return LORAD_OK;
}

static enum status check_some_kept(const struct prepare_job *job, const struct prepare_report *report)
{
    if (report->rows_kept > 0) return LORAD_OK;
    const struct source_list *list = job->list;
    struct strbuf text = STRBUF_EMPTY;
    for (int32_t i = 0; i < list->n && i < 5; i++)
        strbuf_printf(&text, "%s%s (%lld bytes, read as %s)", i > 0 ? ", " : "", list->file[i].path,
                      (long long)list->file[i].size_bytes, source_reader_format(job->reader[i]));
    if (list->n > 5) strbuf_printf(&text, " and %d more files", list->n - 5);
    strbuf_puts(&text, ": ");
    if (report->rows_read > 0)
        prepare_report_text(report, &text);
    else
        strbuf_puts(&text, "no rows in it");
    enum status status = FAIL(LORAD_DATA, "no row is left: %s", strbuf_text(&text));
    strbuf_free(&text);
    return status;
}

static enum status finish(struct prepare_job *job, struct prepare_report *report, int64_t start_ns)
{
    TRY(check_unchanged(job->list));
    job->about.n_shards = job->writer ? shard_writer_number(job->writer) : 0;
    if (job->report) prepare_report_from(report, job->report);
    TRY(check_some_kept(job, report));
    TRY(prepare_merge_details(job));
    if (job->options->signatures) TRY(prepare_merge_signatures(job));
    report->seconds = job->report->seconds = clock_seconds_since(start_ns);
    TRY(prepare_report_write(job->report, job->folder));
    TRY(dataset_seal(&job->about, job->folder));
    remove_files(job->folder, is_scaffold);
    prepare_report_find_problems(report, job->folder);
    return LORAD_OK;
}

/* ---- from beginning to end ---- */

static enum status open_readers(struct prepare_job *job)
{
    const struct source_list *list = job->list;
    for (int32_t i = 0; i < list->n; i++) {
        TRY(source_reader_open(&job->reader[i], &list->file[i]));
        atomic_fetch_add(&job->counters->source_bytes, list->file[i].size_bytes);
        if (!list->file[i].format)
            log_info("%s: read as %s, by its contents", list->file[i].name,
                     source_reader_format(job->reader[i]));
    }
    return LORAD_OK;
}

static enum status begin_folder(const char *folder)
{
    remove_discarded(folder);
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        return FAIL(LORAD_CANNOT_CREATE, "cannot create folder %s: %s", folder, strerror(errno));
    remove_files(folder, shard_is_leftover);
    return LORAD_OK;
}

static enum status start_over(struct prepare_job *job)
{
    row_index_close(&job->index);
    dataset_about_free(&job->about);
    prepare_order_destroy(job->order);
    data_report_destroy(job->report);
    job->order = NULL;
    job->report = NULL;
    TRY(prepare_folder_discard(job->folder));
    TRY(begin_folder(job->folder));
    return scan_rows(job);
}

static enum status fill(struct prepare_job *job, struct prepare_report *report, prepare_known *known,
                        void *context)
{
    int64_t start = clock_monotonic_ns();
    TRY(begin_folder(job->folder));
    TRY(open_readers(job));
    if (!find_rows(job)) TRY(start_over(job));
    if (job->about.raw_rows > 0) {
        enum status status = continue_shards(job);
        if (status == LORAD_DATA) {
            log_warn("half-prepared data cannot be used and is made again: %s", status_message());
            TRY(start_over(job));
            status = continue_shards(job);
        }
        TRY(status);
        known(context);
        for (int32_t i = 0; i < job->list->n; i++) source_reader_random(job->reader[i]);
        TRY(prepare_rows(job));
    }
    return finish(job, report, start);
}

enum status prepare_folder_fill(struct prepare_job *job, struct prepare_report *report, prepare_known *known,
                                void *context)
{
    memset(report, 0, sizeof *report);
    if (!(job->reader = memory_new((size_t)job->list->n, sizeof *job->reader))) return LORAD_NOMEM;
    enum status status = fill(job, report, known, context);
    shard_writer_destroy(job->writer);
    prepare_order_destroy(job->order);
    row_index_close(&job->index);
    dataset_about_free(&job->about);
    data_report_destroy(job->report);
    strbuf_free(&job->details);
    strbuf_free(&job->signatures);
    for (int32_t i = 0; i < job->list->n; i++) source_reader_close(job->reader[i]);
    free(job->reader);
    return status;
}
