/* prepare.h: the part of preparing between the two files that do it; public: dataloader.h. */
#ifndef LORAD_DATALOADER_PREPARE_H
#define LORAD_DATALOADER_PREPARE_H

#include <stdbool.h>
#include <stdio.h>

#include "dataloader/dataloader.h"
#include "dataloader/sampler.h"
#include "dataloader/shard_file.h"
#include "dataloader/sources.h"

/* Which raw rows, numbered through all files, belong to the part that is prepared. */
struct row_split {
    int64_t kept_back; /* 0: all rows are for training */
    struct permutation permutation;
    bool want_kept_back;
};

struct prepare_job {
    const struct prepare_options *options;
    const struct source_list *list;
    struct source_reader **reader; /* [list->n] */
    struct row_split split;
    struct shard_writer *writer;
    const char *problems_file; /* created with the first problem */
    struct prepare_report *report;
};

/* Reads, renders and tokenises all rows of the part with several threads; writes them in the order of the
 * files. */
enum status prepare_rows(struct prepare_job *job) LORAD_WARN_UNUSED;

#endif
