/* prepare.h: the part of preparing between the files that do it; public: dataloader.h. */
#ifndef LORAD_DATALOADER_PREPARE_H
#define LORAD_DATALOADER_PREPARE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "dataloader/dataloader.h"
#include "dataloader/dataset_file.h"
#include "dataloader/prepare_order.h"
#include "dataloader/row_index.h"
#include "dataloader/shard_file.h"
#include "dataloader/sources.h"

enum { PREPARE_VERSION = 2 }; /* changes when the same inputs give other bytes */

/* Counters that another thread may look at. */
struct prepare_counters {
    _Atomic int64_t scanned_bytes, source_bytes; /* of the boundary scan */
    _Atomic int64_t rows_done, raw_rows;         /* raw_rows 0: not known yet */
    _Atomic int64_t tokens;
};

struct prepare_job {
    const struct prepare_options *options;
    const struct source_list *list;
    struct source_reader **reader; /* [list->n] */
    const char *folder;
    struct row_index index;
    struct dataset_about about;
    struct prepare_order *order;
    struct shard_writer *writer;
    struct strbuf details; /* of the problems of the shard that is being written */
    const atomic_bool *stop;
    struct prepare_counters *counters;
};

/* Reads, renders and tokenises all rows that are left of the order with several threads and writes the
 * shards. LORAD_REQUEUE: stopped. */
enum status prepare_rows(struct prepare_job *job) LORAD_WARN_UNUSED;

/* ---- the report (prepare_report.c) ---- */

/* Appends what `details-<shard>.txt` says of a row: its number, and its line of problems.jsonl. */
void prepare_detail_write(struct strbuf *out, int64_t raw_row, const char *file, int64_t line,
                          enum row_problem problem, const char *detail);
void prepare_detail_name(char name[SHARD_NAME_BYTES], int32_t shard);
/* The report of all shards of a folder, and problems.jsonl, from the details, in the order of raw rows. */
enum status prepare_report_make(struct prepare_report *report,
                                const struct prepare_job *job) LORAD_WARN_UNUSED;
enum status prepare_report_write(const struct prepare_report *report, const char *folder) LORAD_WARN_UNUSED;
enum status prepare_report_read(struct prepare_report *report, const char *folder) LORAD_WARN_UNUSED;
/* Where problems.jsonl is; "" when there is none. */
void prepare_report_find_problems(struct prepare_report *report, const char *folder);

#endif
