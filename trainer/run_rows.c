/*
 * run_rows.c: the rows of a run without the run: prepared with a bar to look at, verified, reported. What it
 * leaves in the cache is what training finds there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "dataloader/data_review.h"
#include "dataloader/report_html.h"
#include "trainer/data.h"
#include "trainer/preparing.h"
#include "trainer/progress.h"

struct rows_part {
    char *folder; /* NULL: not prepared */
    struct data_report *report;
};

struct run_rows {
    struct session session;
    struct stage_options stage;
    struct rows_part part[2]; /* by enum data_part */
};

enum status run_rows_open(struct run_rows **out, const struct run_options *options, int32_t stage)
{
    struct run_rows *rows = memory_new(1, sizeof *rows);
    if (!rows) return LORAD_NOMEM;
    rows->stage = run_stage(options, stage);
    enum status status = session_read_text(&rows->session, options);
    if (status == LORAD_OK)
        *out = rows;
    else
        run_rows_close(rows);
    return status;
}

void run_rows_close(struct run_rows *rows)
{
    if (!rows) return;
    for (int i = 0; i < 2; i++) {
        free(rows->part[i].folder);
        data_report_destroy(rows->part[i].report);
    }
    session_close(&rows->session);
    free(rows);
}

/* ---- preparing ---- */

enum status run_rows_prepare(struct run_rows *rows, bool held_out, bool verify)
{
    enum data_part part = held_out ? DATA_EVAL : DATA_TRAIN;
    struct prepare_options options = data_prepare_options(&rows->session, &rows->stage, part);
    struct preparation *preparation;
    char *folder = NULL;
    TRY(preparation_begin(&preparation, &options));
    enum status status = preparing_watch(preparation, rows->session.options->progress, part, PREPARING_ALL);
    if (status == LORAD_OK) status = preparation_folder(preparation, &folder);
    enum status end = preparation_finish(preparation, NULL);
    if (status == LORAD_OK) status = end;
    if (status == LORAD_OK && verify) {
        status = dataset_verify(folder);
        if (status == LORAD_DATA)
            status = status_context(status, "they are prepared again with --set overwrite_cache=true");
    }
    if (status != LORAD_OK) {
        free(folder);
        return status_context(status, "%s", preparing_name(part));
    }
    free(rows->part[part].folder);
    rows->part[part].folder = folder;
    return LORAD_OK;
}

const char *run_rows_folder(const struct run_rows *rows, bool held_out)
{
    return rows->part[held_out ? DATA_EVAL : DATA_TRAIN].folder;
}

/* ---- what is said of them ---- */

enum status run_rows_review(struct run_rows *rows)
{
    struct rows_part *train = &rows->part[DATA_TRAIN], *eval = &rows->part[DATA_EVAL];
    for (int i = 0; i < 2; i++)
        if (rows->part[i].folder && !rows->part[i].report)
            TRY(data_review(&rows->part[i].report, rows->part[i].folder));
    if (train->folder && eval->folder) TRY(data_review_overlap(eval->report, eval->folder, train->folder));
    if (!train->folder) return LORAD_OK;
    const struct run_options *o = rows->session.options;
    const struct report_html_options page = {.model = o->model_dir,
                                             .template_name = chat_template_name(rows->session.chat),
                                             .cutoff_len = o->cutoff_len};
    enum status status = data_review_html(train->folder, train->report, eval->report, &page);
    if (status != LORAD_CANNOT_CREATE && status != LORAD_IO) return status;
    log_warn("the report is not written as a page: %s", status_message());
    status_clear();
    return LORAD_OK;
}

static bool speaks_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (int i = 0; i < 3; i++) {
        const char *value = getenv(names[i]);
        if (value && *value) return strstr(value, "UTF-8") || strstr(value, "utf8");
    }
    return false;
}

void run_rows_text(const struct run_rows *rows, struct strbuf *out)
{
    static const char *const titles[2] = {[DATA_TRAIN] = "Training rows", [DATA_EVAL] = "Held-out rows"};
    const struct data_report *train = rows->part[DATA_TRAIN].report;
    for (int i = 0; i < 2; i++) {
        const struct rows_part *part = &rows->part[i];
        if (!part->report) continue;
        char *problems = file_join(part->folder, "problems.jsonl");
        strbuf_printf(out, "%s\n", titles[i]);
        data_report_text(part->report, i == DATA_EVAL ? train : NULL, progress_width(), speaks_utf8(), out);
        if (problems && file_exists(problems)) strbuf_printf(out, "All of these rows: %s\n", problems);
        free(problems);
        strbuf_printf(out, "Prepared in %s\n\n", part->folder);
    }
    char *page = train ? file_join(rows->part[DATA_TRAIN].folder, "report.html") : NULL;
    if (page && file_exists(page)) strbuf_printf(out, "As a page: %s\n", page);
    free(page);
}

static void write_part(struct strbuf *out, const struct rows_part *part, const char *name)
{
    struct strbuf text = STRBUF_EMPTY;
    data_report_write(part->report, &text);
    strbuf_printf(out, "\"%s\": {\"folder\": ", name);
    js_write_string(out, part->folder, strlen(part->folder));
    strbuf_puts(out, ", \"report\": ");
    if (text.length > 0) strbuf_add(out, text.data, text.length - 1);
    strbuf_puts(out, "}");
    strbuf_free(&text);
}

void run_rows_json(const struct run_rows *rows, struct strbuf *out)
{
    static const char *const names[2] = {[DATA_TRAIN] = "training", [DATA_EVAL] = "held_out"};
    const char *comma = "";
    strbuf_puts(out, "{");
    for (int i = 0; i < 2; i++) {
        if (!rows->part[i].report) continue;
        strbuf_puts(out, comma);
        write_part(out, &rows->part[i], names[i]);
        comma = ",\n";
    }
    strbuf_puts(out, "}\n");
}
