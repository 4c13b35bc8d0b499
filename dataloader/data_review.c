#include "dataloader/data_review.h"

#include <stdlib.h>

#include "base/memory.h"
#include "dataloader/near_duplicates.h"
#include "dataloader/prepare.h"
#include "dataloader/report_html.h"

const struct table_kind data_signatures = {.name = "signatures.bin",
                                           .magic = "LORADSIG",
                                           .version = SIGNATURE_VERSION,
                                           .entry_bytes = sizeof(struct row_signature)};

static struct report_place place_of(void *context, int64_t row)
{
    struct dataset_row at = dataset_row(context, row);
    return (struct report_place){.row = row, .line = at.line, .file = at.source};
}

/* A folder's rows with their signatures; *there false: it has none. */
struct signed_rows {
    struct dataset *dataset;
    struct table_file table;
};

static enum status open_signed(struct signed_rows *out, const char *folder, bool *there)
{
    *out = (struct signed_rows){0};
    TRY(dataset_open(&out->dataset, folder));
    enum status status =
        table_file_open(&out->table, &data_signatures, folder, dataset_raw_rows(out->dataset));
    *there = status == LORAD_OK;
    if (status == LORAD_NOT_FOUND) {
        status_clear();
        status = LORAD_OK;
    }
    if (*there) return LORAD_OK;
    dataset_close(out->dataset);
    out->dataset = NULL;
    return status;
}

static void close_signed(struct signed_rows *rows)
{
    table_file_close(&rows->table);
    dataset_close(rows->dataset);
}

static enum status find_duplicates(struct data_report *report, const char *folder)
{
    struct signed_rows rows;
    bool there;
    TRY(open_signed(&rows, folder, &there));
    if (!there) return LORAD_OK;
    struct duplicates *found = memory_new(1, sizeof *found);
    enum status status = found ? duplicates_find(found, rows.table.entry, rows.table.n) : LORAD_NOMEM;
    if (status == LORAD_OK) {
        data_report_set_duplicates(report, found, place_of, rows.dataset);
        status = prepare_report_write(report, folder);
    }
    free(found);
    close_signed(&rows);
    return status;
}

enum status data_review(struct data_report **out, const char *folder)
{
    struct data_report *report;
    TRY(prepare_report_open(&report, folder));
    enum status status = report->duplicates_known ? LORAD_OK : find_duplicates(report, folder);
    if (status == LORAD_OK)
        *out = report;
    else
        data_report_destroy(report);
    return status;
}

enum status data_review_overlap(struct data_report *eval, const char *eval_folder, const char *train_folder)
{
    struct signed_rows ours, theirs = {0};
    bool there, also;
    TRY(open_signed(&ours, eval_folder, &there));
    if (!there) return LORAD_OK;
    enum status status = open_signed(&theirs, train_folder, &also);
    struct overlap *found = NULL;
    if (status == LORAD_OK && also) {
        found = memory_new(1, sizeof *found);
        status = found
                     ? overlap_find(found, theirs.table.entry, theirs.table.n, ours.table.entry, ours.table.n)
                     : LORAD_NOMEM;
        if (status == LORAD_OK)
            data_report_set_overlap(eval, found, place_of, ours.dataset, place_of, theirs.dataset);
    }
    free(found);
    close_signed(&theirs);
    close_signed(&ours);
    return status;
}

enum status data_review_html(const char *folder, const struct data_report *train,
                             const struct data_report *eval, const struct report_html_options *options)
{
    struct strbuf page = STRBUF_EMPTY;
    report_html(&page, train, eval, options);
    enum status status = strbuf_status(&page);
    if (status == LORAD_OK) status = shard_write_file(folder, "report.html", page.data, page.length);
    strbuf_free(&page);
    return status;
}
