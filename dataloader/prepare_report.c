/* prepare_report.c: what preparing found, in short (struct prepare_report) and as report.json. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "dataloader/prepare.h"

static const size_t most_report_bytes = (size_t)64 << 20;
static const char report_name[] = "report.json", problems_name[] = "problems.jsonl";

void prepare_report_text(const struct prepare_report *report, struct strbuf *out)
{
    strbuf_printf(out, "%lld rows kept of %lld", (long long)report->rows_kept, (long long)report->rows_read);
    const char *before = " (";
    for (int problem = 0; problem < ROW_PROBLEMS; problem++) {
        int64_t count = report->problem_count[problem];
        if (count == 0) continue;
        strbuf_printf(out, "%s%lld %s: ", before, (long long)count,
                      row_problem_name((enum row_problem)problem));
        for (int i = 0; i < 3 && i < count; i++) {
            const struct row_place *place = &report->place[problem][i];
            strbuf_printf(out, "%s%s:%lld", i > 0 ? ", " : "", place->file, (long long)place->line);
        }
        if (count > 3) strbuf_puts(out, ", ...");
        before = "; ";
    }
    if (*before == ';') strbuf_putc(out, ')');
    strbuf_printf(out, "; %lld tokens, %lld supervised, longest row %d", (long long)report->tokens,
                  (long long)report->supervised_tokens, report->longest_row);
}

/* The name of a file, shortened from the left, and not in the middle of a character. */
static void short_name(char out[sizeof((struct row_place *)NULL)->file], const char *name)
{
    size_t bytes = sizeof((struct row_place *)NULL)->file, length = strlen(name);
    if (length < bytes) {
        memcpy(out, name, length + 1);
        return;
    }
    const char *tail = name + length - (bytes - 4);
    while ((*tail & 0xC0) == 0x80) tail++;
    snprintf(out, bytes, "...%s", tail);
}

void prepare_report_from(struct prepare_report *report, const struct data_report *data)
{
    *report = (struct prepare_report){.rows_read = data->rows_read,
                                      .rows_kept = data->rows_kept,
                                      .rows_dropped = data->rows_dropped,
                                      .tokens = data->tokens,
                                      .supervised_tokens = data->supervised_tokens,
                                      .longest_row = data->row_tokens.longest,
                                      .files = data->n_files,
                                      .seconds = data->seconds};
    for (int problem = 0; problem < ROW_PROBLEMS; problem++) {
        const struct report_places *places = &data->problem[problem];
        report->problem_count[problem] = places->rows;
        for (int32_t i = 0; i < places->n && i < PREPARE_PLACES; i++) {
            const struct report_file *file = &data->file[places->first[i].file];
            struct row_place *place = &report->place[problem][i];
            place->problem = (enum row_problem)problem;
            place->source = file->group;
            place->line = places->first[i].line;
            short_name(place->file, file->name);
        }
    }
}

enum status prepare_report_write(const struct data_report *data, const char *folder)
{
    struct strbuf text = STRBUF_EMPTY;
    data_report_write(data, &text);
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) status = shard_write_file(folder, report_name, text.data, text.length);
    strbuf_free(&text);
    return status;
}

enum status prepare_report_open(struct data_report **out, const char *folder)
{
    char *path = file_join(folder, report_name), *text = NULL;
    size_t length;
    enum status status = path ? file_read(&text, &length, path, most_report_bytes) : LORAD_NOMEM;
    if (status == LORAD_OK) status = data_report_read(out, text, length, path);
    free(text);
    free(path);
    return status;
}

enum status prepare_report_read(struct prepare_report *report, const char *folder)
{
    struct data_report *data;
    TRY(prepare_report_open(&data, folder));
    prepare_report_from(report, data);
    report->from_cache = true;
    data_report_destroy(data);
    return LORAD_OK;
}

void prepare_report_find_problems(struct prepare_report *report, const char *folder)
{
    char *path = file_join(folder, problems_name);
    report->problems_path[0] = '\0';
    if (path && file_exists(path)) snprintf(report->problems_path, sizeof report->problems_path, "%s", path);
    free(path);
}
