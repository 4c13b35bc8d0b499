/*
 * data_report.h: everything that is said about a data set once its rows have been read.
 *
 * Invariants:
 * (1) the report is a sum over rows: it does not depend on the order in which rows are added. Lists of places
 * keep the smallest raw row numbers. (2) written and read back it is the same report, so that interrupted
 * preparing goes on where it stopped.
 */
#ifndef LORAD_DATALOADER_DATA_REPORT_H
#define LORAD_DATALOADER_DATA_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"
#include "dataloader/dataloader.h"
#include "dataloader/length_histogram.h"
#include "dataloader/near_duplicates.h"
#include "dataloader/row_inspect.h"

enum { REPORT_PLACES = 20, REPORT_WORD_PLACES = 5, DATA_REPORT_VERSION = 1 };

struct report_place {
    int64_t row;  /* raw row number */
    int64_t line; /* 1-based */
    int32_t file; /* number in data_report.file */
};

struct report_places {
    int64_t rows; /* in all */
    int32_t n;
    struct report_place first[REPORT_PLACES]; /* by row */
};

struct report_group { /* an entry of `dataset:` */
    char *name;
    int64_t rows_read, rows_kept, tokens, supervised_tokens;
};

struct report_file {
    char *name;
    int32_t group;
};

struct report_word { /* a listed word that was found */
    char *text;
    int32_t word; /* its number in the list */
    int64_t rows, count;
    int32_t n;
    struct report_place first[REPORT_WORD_PLACES];
};

struct report_pair { /* duplicates with names */
    struct report_place place, of;
    double similarity;
};

struct data_report {
    struct report_group *group;
    int32_t n_groups;
    struct report_file *file;
    int32_t n_files;

    int64_t rows_read, rows_kept, rows_dropped, rows_masked;
    int64_t tokens, supervised_tokens;
    struct report_places problem[ROW_PROBLEMS];
    struct report_places finding[FINDINGS]; /* FINDING_WORD: rows with any listed word */
    int64_t finding_count[FINDINGS];        /* pieces, where .rows counts rows */
    struct report_word *word;               /* by number */
    size_t n_words, word_capacity;
    struct length_histogram row_tokens, answer_tokens; /* of kept rows; answer: its supervised tokens */

    bool duplicates_known, overlap_known;
    struct duplicates duplicates;
    struct report_pair exact_pair[DUPLICATE_PAIRS], near_pair[DUPLICATE_PAIRS];
    struct overlap overlap; /* in the report of evaluation rows: what the training rows hold too */
    struct report_pair overlap_pair[DUPLICATE_PAIRS]; /* .of: a place of the training rows' report */

    double seconds;
};

/* Names are copied; group_of[i] is the group of file i. Owns: *out. */
enum status data_report_create(struct data_report **out, const char *const *groups, int32_t n_groups,
                               const char *const *files, const int32_t *group_of,
                               int32_t n_files) LORAD_WARN_UNUSED;
void data_report_destroy(struct data_report *report); /* NULL ok */

struct report_row {
    struct report_place place;
    enum row_problem problem; /* ROW_PROBLEMS: none */
    int32_t n_tokens;         /* 0: dropped */
    int32_t n_supervised;
    bool masked;
    const struct finding *findings; /* of this row */
    size_t n_findings;
};
/* words: the list that the findings' words are numbers of; NULL when there is none. LORAD_NOMEM only. */
enum status data_report_add(struct data_report *report, const struct report_row *row,
                            const struct word_list *words) LORAD_WARN_UNUSED;

/* Sets duplicates (overlap) and gives the pairs their places. */
typedef struct report_place report_place_of(void *context, int64_t row);
void data_report_set_duplicates(struct data_report *report, const struct duplicates *duplicates,
                                report_place_of *place, void *context);
void data_report_set_overlap(struct data_report *eval, const struct overlap *overlap, report_place_of *place,
                             void *context, report_place_of *train_place, void *train_context);

/* One JSON object and a line end, appended. */
void data_report_write(const struct data_report *report, struct strbuf *out);
/* LORAD_DATA, naming `name`, when it is no report of this version. Owns: *out. */
enum status data_report_read(struct data_report **out, const char *text, size_t length,
                             const char *name) LORAD_WARN_UNUSED;

/* For a terminal: counts, problems with their first places, findings, duplicates, tokens by source and the
 * histogram of lengths; `columns` wide, ASCII drawings when !utf8. `train` names the files of overlap pairs;
 * NULL: there are none. */
void data_report_text(const struct data_report *report, const struct data_report *train, int32_t columns,
                      bool utf8, struct strbuf *out);

/* The listed words that were found, most frequent first. Owns: the array (free), not the words. NULL: no
 * memory. */
const struct report_word **data_report_words(const struct data_report *report);

#endif
