/* prepare.h: the part of preparing between the files that do it; public: dataloader.h. */
#ifndef LORAD_DATALOADER_PREPARE_H
#define LORAD_DATALOADER_PREPARE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "dataloader/data_report.h"
#include "dataloader/dataloader.h"
#include "dataloader/dataset_file.h"
#include "dataloader/near_duplicates.h"
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
    struct data_report *report;        /* of all rows so far */
    struct strbuf details, signatures; /* of the shard that is being written */
    const atomic_bool *stop;
    struct prepare_counters *counters;
};

/* Reads, renders and tokenises all rows that are left of the order with several threads and writes the
 * shards. LORAD_REQUEUE: stopped. */
enum status prepare_rows(struct prepare_job *job) LORAD_WARN_UNUSED;

/* ---- what belongs to a shard (prepare_shard.c) ---- */

/* Files of a growing folder, one a shard, written before the shard: lines of problems.jsonl behind their raw
 * row numbers; signatures of the rows of the shard, in their order; the report of this and all shards before.
 */
void prepare_details_name(char name[SHARD_NAME_BYTES], int32_t shard);
void prepare_signatures_name(char name[SHARD_NAME_BYTES], int32_t shard);
void prepare_so_far_name(char name[SHARD_NAME_BYTES], int32_t shard);
bool prepare_is_of_shard(const char *name);

enum status prepare_close_shard(struct prepare_job *job) LORAD_WARN_UNUSED;
/* The report behind `shards` shards, an empty one for 0. Sets job->report. */
enum status prepare_read_so_far(struct prepare_job *job, int32_t shards) LORAD_WARN_UNUSED;

/* ---- the end (prepare_report.c, prepare_merge.c) ---- */

void prepare_detail_write(struct strbuf *out, int64_t raw_row, const char *file, int64_t line,
                          const char *problem, const char *detail);
/* problems.jsonl from the details of all shards, in the order of raw rows. */
enum status prepare_merge_details(const struct prepare_job *job) LORAD_WARN_UNUSED;
/* signatures.bin from those of all shards, by raw row. */
enum status prepare_merge_signatures(const struct prepare_job *job) LORAD_WARN_UNUSED;

void prepare_report_from(struct prepare_report *report, const struct data_report *data);
enum status prepare_report_write(const struct data_report *data, const char *folder) LORAD_WARN_UNUSED;
/* LORAD_NOT_FOUND, LORAD_DATA. Owns: *out. */
enum status prepare_report_open(struct data_report **out, const char *folder) LORAD_WARN_UNUSED;
enum status prepare_report_read(struct prepare_report *report, const char *folder) LORAD_WARN_UNUSED;
/* Where problems.jsonl is; "" when there is none. */
void prepare_report_find_problems(struct prepare_report *report, const char *folder);

#endif
