/*
 * prepare_shard.c: the files that a growing folder has beside each shard.
 *
 * Invariant: they are on the disk before the shard has its name, so a shard that is there has them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "dataloader/prepare.h"

static const size_t most_report_bytes = (size_t)64 << 20;

void prepare_details_name(char name[SHARD_NAME_BYTES], int32_t shard)
{
    snprintf(name, SHARD_NAME_BYTES, "details-%05d.txt", shard);
}

void prepare_signatures_name(char name[SHARD_NAME_BYTES], int32_t shard)
{
    snprintf(name, SHARD_NAME_BYTES, "signatures-%05d.bin", shard);
}

void prepare_so_far_name(char name[SHARD_NAME_BYTES], int32_t shard)
{
    snprintf(name, SHARD_NAME_BYTES, "report-%05d.json", shard);
}

bool prepare_is_of_shard(const char *name)
{
    return strncmp(name, "details-", 8) == 0 || strncmp(name, "signatures-", 11) == 0 ||
           strncmp(name, "report-", 7) == 0;
}

static enum status write_strbuf(const char *folder, const char *name, struct strbuf *text)
{
    TRY(strbuf_status(text));
    if (text->length > 0) TRY(shard_write_file(folder, name, text->data, text->length));
    strbuf_clear(text);
    return LORAD_OK;
}

enum status prepare_close_shard(struct prepare_job *job)
{
    char name[SHARD_NAME_BYTES];
    int32_t number = shard_writer_number(job->writer);
    struct strbuf report = STRBUF_EMPTY;
    prepare_details_name(name, number);
    TRY(write_strbuf(job->folder, name, &job->details));
    prepare_signatures_name(name, number);
    TRY(write_strbuf(job->folder, name, &job->signatures));
    data_report_write(job->report, &report);
    prepare_so_far_name(name, number);
    enum status status = write_strbuf(job->folder, name, &report);
    strbuf_free(&report);
    TRY(status);
    TRY(shard_writer_close(job->writer));
    if (number == 0) return LORAD_OK;
    prepare_so_far_name(name, number - 1); /* the new one says it all */
    char *path = file_join(job->folder, name);
    if (path) remove(path);
    free(path);
    return LORAD_OK;
}

static enum status new_report(struct prepare_job *job)
{
    const struct prepare_options *o = job->options;
    const struct source_list *list = job->list;
    const char **group = memory_new((size_t)o->n_sources, sizeof *group);
    const char **file = memory_new((size_t)list->n, sizeof *file);
    int32_t *group_of = memory_new((size_t)list->n, sizeof *group_of);
    enum status status = group && file && group_of ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) {
        for (int32_t i = 0; i < o->n_sources; i++)
            group[i] = o->sources[i].name ? o->sources[i].name : o->sources[i].path;
        for (int32_t i = 0; i < list->n; i++) {
            file[i] = list->file[i].name;
            group_of[i] = list->file[i].source;
        }
        status = data_report_create(&job->report, group, o->n_sources, file, group_of, list->n);
    }
    free(group);
    free(file);
    free(group_of);
    return status;
}

enum status prepare_read_so_far(struct prepare_job *job, int32_t shards)
{
    if (shards == 0) return new_report(job);
    char name[SHARD_NAME_BYTES], *text = NULL;
    size_t length;
    prepare_so_far_name(name, shards - 1);
    char *path = file_join(job->folder, name);
    enum status status = path ? file_read(&text, &length, path, most_report_bytes) : LORAD_NOMEM;
    if (status == LORAD_NOT_FOUND) status = FAIL(LORAD_DATA, "%s", status_message());
    if (status == LORAD_OK) status = data_report_read(&job->report, text, length, path);
    if (status == LORAD_OK &&
        (job->report->n_files != job->list->n || job->report->n_groups != job->options->n_sources))
        status = FAIL(LORAD_DATA, "%s is the report of other sources", path);
    free(text);
    free(path);
    return status;
}
