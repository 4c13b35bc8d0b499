/*
 * dataloader.h: raw files -> tokenised shards -> a fixed order -> micro-batches, all host bytes.
 *
 * Two halves with files between them:
 * - preparing: reads the sources, renders, tokenises, writes shards to a cache folder keyed by everything
 *   that decides the rows; a second call finds them and reads nothing else. One process per host does it,
 *   others follow it as it goes on.
 * - loader: maps the shards and serves the micro-batches of one data-parallel rank.
 *
 * The order is a pure function of (data_seed, stage, epoch, position) over raw rows, rejected ones being
 * holes in it (mixture.h); best-fit packing inside fixed windows of that order, packs permuted again inside
 * the window. It depends on no rank, so every rank knows every rank's share, and on no prepared row but those
 * of the window, so training can follow preparing. A global batch is `global_batch_size` packs cut into
 * micro-batches of `micro_batch_size` packs whose content never depends on the layout; micro-batch i of a
 * step goes to data-parallel rank i % dp. The last batch of an epoch may be smaller; a batch never crosses an
 * epoch.
 *
 * With packing false a pack is a single row, and the rows of a micro-batch are of similar length.
 */
#ifndef LORAD_DATALOADER_DATALOADER_H
#define LORAD_DATALOADER_DATALOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "dataloader/chat_template.h"
#include "dataloader/mixture.h"
#include "dataloader/row_inspect.h"
#include "dataloader/tokenizer.h"

/* ---- sources and preparing ---- */

/* Names of the members (JSON) or columns (CSV) that hold the parts of a row; NULL: as the format has them.
 * With one of prompt to history given, only the given ones are read. */
struct source_columns {
    const char *prompt, *query, *response, *system, *history;
    const char *messages; /* the list of messages */
    const char *text;     /* the document, for continued pretraining */
};

/* Names inside a list of messages; NULL: the usual ones (role, from, content, value, user, human, ...). */
struct source_tags {
    const char *role_tag, *content_tag, *user_tag, *assistant_tag, *system_tag;
};

struct dataset_source {
    const char *path;   /* a file, a folder (its data files in name order) or a shell pattern */
    const char *format; /* NULL or "auto", or a name of the table in sources.c */
    const char *name;   /* for reports; NULL: the path */
    double weight;      /* in the mixture (mixture.h); 0: 1 */
    double max_epochs;  /* the run takes no more of it; 0: no limit */
    int64_t max_samples; /* only the first so many raw rows; 0: all */
    struct source_columns columns;
    struct source_tags tags;
    const char *system;        /* system message of the rows that have none; NULL: they stay without */
    const char *metadata_path; /* a CSV with one row for each row of the one file that `path` names; NULL: none */
};

enum excess_length { EXCESS_DROP, EXCESS_TRUNCATE, EXCESS_RAISE };

struct prepare_options {
    const struct dataset_source *sources;
    int32_t n_sources;
    const struct tokenizer *tokenizer;   /* borrowed */
    const struct chat_template *chat;    /* borrowed */
    struct chat_options chat_options;
    int32_t cutoff_len;                  /* longest row in tokens */
    enum excess_length excess;
    const char *cache_dir;               /* created */
    bool overwrite_cache;
    double val_size;                     /* part of the rows (or, >= 1, their number) kept back to evaluate on; 0: none */
    uint64_t split_seed;
    bool want_eval_part;                 /* prepare the kept-back rows instead of the rest */
    int32_t threads;                     /* 0: as many as the process may use; the shards do not depend on it */
    int64_t shard_bytes;                 /* size at which a shard file is closed; 0: 64 MiB */
    struct mixture_options order;        /* rows are prepared in the order of its first epoch; decides no contents */
    const struct inspect_options *inspect; /* what is looked for in the rows; NULL: nothing. Borrowed. */
    bool signatures;                     /* keep what near duplicates are found by (near_duplicates.h) */
    bool follow;                         /* another process of this host prepares; wait for it and never do it here */
};

/* Why a row is not trained as it stands. */
enum row_problem {
    ROW_BAD_JSON,
    ROW_BAD_UTF8,
    ROW_NO_MESSAGES,  /* no list of messages, or one of them is not {"role", "content"} */
    ROW_BAD_ROLE,     /* neither system, user nor assistant; tool and function calls too */
    ROW_ROLE_ORDER,   /* not [system] user assistant ... user assistant */
    ROW_NO_ASSISTANT,
    ROW_EMPTY_ANSWER, /* nothing but white space */
    ROW_TOO_LONG,     /* more than cutoff_len tokens, dropped */
    ROW_TRUNCATED,    /* more than cutoff_len tokens, cut: the one problem after which a row is kept */
    ROW_NO_LABEL,     /* no token to learn is left */
    ROW_HUGE_LINE,    /* more than 64 MiB of text */
    ROW_BAD_FIELD,    /* a member or column is missing, or holds what cannot be trained on */
    ROW_BAD_CSV,      /* a quote without an end, or not as many cells as the header line has */
    ROW_OUTSIDE,      /* text outside rows: a JSON list broken at this line; what follows is not read */
    ROW_SKIPPED,      /* the metadata file says skip */
    ROW_MANY_WEIGHTS, /* more than 254 different loss weights */
    ROW_PRIVATE,      /* personal data, and pii is drop */
    ROW_PROBLEMS
};
const char *row_problem_name(enum row_problem problem); /* "empty answer" */

struct row_place {
    enum row_problem problem;
    int32_t source; /* number in prepare_options.sources */
    int64_t line;   /* 1-based */
    char file[100]; /* name of the file (one of several when the source is a folder), shortened from the left */
};

enum { PREPARE_PLACES = 20 };

struct prepare_report {
    int64_t rows_read, rows_kept, rows_dropped; /* of the part asked for; read = kept + dropped */
    int64_t problem_count[ROW_PROBLEMS];
    struct row_place place[ROW_PROBLEMS][PREPARE_PLACES]; /* the first ones of each */
    int64_t tokens, supervised_tokens;
    int32_t longest_row;
    int32_t files;
    bool from_cache;
    double seconds; /* what the first preparing took */
    char problems_path[1024]; /* JSONL with every rejected or changed row; "" when none */
};

/* "382 rows kept of 390 (1 empty answer: a.jsonl:17; ...)" for people, appended to a strbuf. */
void prepare_report_text(const struct prepare_report *report, struct strbuf *out);

/* Reading a cached folder reads no source file, only their size and time; a change of these, of the
 * tokenizer, the template or an option makes another folder. Interrupted preparing continues where the last
 * whole shard ended, and ends with the same bytes when the order is the same. Several processes may prepare
 * the same thing: one does it, the others follow, and take over when it ends early. */

/* Preparing in the background. Signals are for other threads. */
struct preparation;

/* Starts, and reads nothing yet but names. Options, tokenizer and strings are borrowed until
 * preparation_finish. Owns: *out. LORAD_NOT_FOUND, LORAD_CONFIG, LORAD_CANNOT_CREATE. */
enum status preparation_begin(struct preparation **out, const struct prepare_options *options) LORAD_WARN_UNUSED;
/* Whether the raw rows are known: the folder can be opened (dataset_open) from then on. */
bool preparation_rows_known(struct preparation *preparation);
/* The folder once they are; waits for that. Owns: *dir (free). Blocks. Whatever preparing failed with. */
enum status preparation_folder(struct preparation *preparation, char **dir) LORAD_WARN_UNUSED;
/* preparation_begin and preparation_folder. Owns: *out, *dir. Blocks. LORAD_DATA, LORAD_IO too. */
enum status preparation_start(struct preparation **out, char **dir, const struct prepare_options *options)
    LORAD_WARN_UNUSED;
/* Whether it has ended, and its failure if it ended with one. Never blocks. */
enum status preparation_poll(struct preparation *preparation, bool *done) LORAD_WARN_UNUSED;
struct preparation_progress {
    int64_t scanned_bytes, source_bytes; /* of the search for rows */
    int64_t rows_done, raw_rows;         /* raw_rows 0: not known yet */
    int64_t tokens;
};
struct preparation_progress preparation_progress(const struct preparation *preparation); /* Thread: any */
/* Stops soon, with LORAD_REQUEUE; what is there is continued next time. Thread: any. */
void preparation_cancel(struct preparation *preparation);
/* Waits for the end and destroys. The report is set on success; NULL: not wanted. NULL preparation: nothing.
 * LORAD_DATA when nothing is left to train on, or when excess is RAISE and a row is too long; and as
 * above. */
enum status preparation_finish(struct preparation *preparation, struct prepare_report *report) LORAD_WARN_UNUSED;

/* preparation_start and preparation_finish. Owns: *shard_dir (free), the folder to open. Blocks. */
enum status dataset_prepare(char **shard_dir, const struct prepare_options *options, struct prepare_report *report)
    LORAD_WARN_UNUSED;

/* ---- prepared rows ---- */

/* A prepared folder, complete or growing. Rows are known by their raw numbers; what was rejected is a
 * hole. */
struct dataset;

/* Maps shards and checks headers. LORAD_NOT_FOUND, LORAD_DATA. Owns: *out. */
enum status dataset_open(struct dataset **out, const char *shard_dir) LORAD_WARN_UNUSED;
void dataset_close(struct dataset *dataset);
/* Every byte of a complete folder against the hashes that were stored at its end. LORAD_DATA. Blocks. */
enum status dataset_verify(const char *shard_dir) LORAD_WARN_UNUSED;
int64_t dataset_raw_rows(const struct dataset *dataset); /* holes included; known from the start */
struct row_range {
    int64_t first, n;
};
/* One a dataset_source, in their order. */
int32_t dataset_groups(const struct dataset *dataset);
struct row_range dataset_group(const struct dataset *dataset, int32_t group);
bool dataset_complete(const struct dataset *dataset); /* everything is prepared. Thread: any. */
/* Blocks until these raw rows are prepared. LORAD_DATA, ...: preparing failed. Thread: one at a time. */
enum status dataset_wait(struct dataset *dataset, const int64_t *rows, int32_t n) LORAD_WARN_UNUSED;
/* While stop is set, a dataset_wait that waits, or would, returns LORAD_REQUEUE. Thread: any. */
void dataset_stop_waiting(struct dataset *dataset, bool stop);
int64_t dataset_kept_rows(const struct dataset *dataset);  /* complete only */
int32_t dataset_vocab_size(const struct dataset *dataset); /* every token number is below; checked as rows are served */
/* Of the contents, whatever the order of preparing; while they are not all known, dataset_key. */
struct hash128 dataset_fingerprint(const struct dataset *dataset);
/* Of what decides the contents, as the folder is named: sources with their times, tokenizer, template,
 * options. Known from the start, and another one when a file was only touched. */
struct hash128 dataset_key(const struct dataset *dataset);

/* Of the contents of raw rows [first, first + n), numbered from 0: equal where the same rows stand, wherever
 * they begin. Reads the tables of rows, no token. Complete only. */
struct hash128 dataset_rows_fingerprint(const struct dataset *dataset, int64_t first, int64_t n);

struct dataset_row {
    const int32_t *tokens;  /* borrowed from the map */
    const uint8_t *codes;   /* 0: this token is no target; else its weight in the loss is weight_of[code] */
    const float *weight_of; /* borrowed; code 1 is weight 1 */
    int32_t n_tokens;       /* 0: a hole */
    int32_t n_supervised;   /* targets: tokens with a code at positions >= 1 */
    double weight;          /* of these together */
    int32_t source;
    int64_t line;
};
/* Of a row that was waited for, or of a complete folder. Of a damaged row, which dataset_row_check refuses,
 * only the numbers are known, and tokens is NULL. Thread: any. */
struct dataset_row dataset_row(const struct dataset *dataset, int64_t raw_row);
/* n_tokens of a row, 0 for a hole, without touching its shard. */
int32_t dataset_length(const struct dataset *dataset, int64_t raw_row);
/* The row's bytes against its hash, and its token numbers against the vocabulary. LORAD_DATA. The loader does
 * it for every row it serves. Thread: any. */
enum status dataset_row_check(const struct dataset *dataset, int64_t raw_row) LORAD_WARN_UNUSED;
int32_t dataset_sources(const struct dataset *dataset); /* one a file */
const char *dataset_source_name(const struct dataset *dataset, int32_t source);

/* ---- the order and the micro-batches ---- */

/* Memory that a device can copy from at its full speed. */
struct host_allocator {
    void *(*alloc)(void *context, size_t n_bytes); /* zeroed; NULL on failure */
    void (*free)(void *context, void *memory, size_t n_bytes);
    void *context;
};

struct loader_options {
    uint64_t data_seed;
    uint64_t stage;              /* below 2^32: the same data in another stage is in another order */
    bool packing;
    bool shuffle;                /* false: file order, every row once, for evaluation */
    enum mix_strategy mix_strategy;
    const double *group_weights;    /* [dataset_groups], NULL: all 1. Borrowed until loader_open returns, as all arrays */
    const double *group_max_epochs; /* [dataset_groups], 0: no limit; NULL: none has one */
    const struct mixture_append *appends; /* [n_appends]: when rows were added to the run, see mixture.h */
    int32_t n_appends;
    int32_t cutoff_len;          /* tokens a pack holds */
    int32_t micro_batch_size;    /* packs in a micro-batch */
    int64_t global_batch_size;   /* packs in an optimizer step */
    int dp_rank, dp_size;
    int32_t prefetch;            /* micro-batches made ahead; 0: 16 */
    int32_t threads;             /* that fill micro-batches; 0: 1. Changes nothing but speed */
    const struct host_allocator *host; /* for the arrays of micro-batches; NULL: ordinary memory. Lives as long */
};

/* Names the last consumed pack: everything before it has been trained on. {0,0,0} at the start of a run. */
struct data_cursor {
    int64_t epoch;
    int64_t window; /* of the epoch */
    int64_t pack;   /* of the window */
};

/* The `epoch` of a struct mixture_append for rows added when the run stood here: the first that had not
 * begun. */
int64_t data_cursor_append_epoch(struct data_cursor at);

/* One micro-batch in host memory. */
struct micro_batch {
    int32_t *tokens;       /* [T] */
    int32_t *positions;    /* [T], restart at 0 in every sequence */
    int32_t *labels;       /* [T]: the next token when it is a target, else -1 */
    float *weights;        /* [T]: of labels[t] in the loss, 1 as a rule; 0 without one. NULL: not wanted */
    int64_t *token_index;  /* [T]: number of the token in the global batch: pack * cutoff_len + offset, layout-free */
    int32_t *seq_start;    /* [n_sequences + 1] */
    int64_t *row_ids;      /* [n_sequences]: raw row numbers, for reports; a long text is several sequences */
    int32_t n_tokens;      /* T; 0: nothing for this rank (it adds zeros) */
    int32_t n_sequences;
    int32_t n_supervised;
    int32_t longest;       /* tokens of the longest sequence */
};
struct loader_capacity {
    int32_t tokens;    /* micro_batch_size * cutoff_len */
    int32_t sequences; /* most sequences a micro-batch can hold */
};

/* What every rank knows of a step without asking. */
struct step_info {
    int64_t packs;               /* in this global batch */
    int32_t micro_batches;       /* in all */
    int32_t my_micro_batches;    /* of this rank: as many loader_next calls follow */
    int64_t supervised_tokens;   /* of all ranks */
    double loss_weight;          /* of all ranks: sum of the targets' weights, the divisor of loss and gradient */
    int64_t tokens;              /* of all ranks */
    int64_t capacity_tokens;     /* packs * cutoff_len: tokens / capacity is the packing efficiency */
    double epoch;                /* after this step, fractional */
    struct data_cursor after;    /* the cursor once this step is done */
    bool last_of_epoch;
    bool last;                   /* no step can follow: every group has reached its max_epochs */
};

struct loader;

/* Starts the threads at `from`. Borrows dataset, which may still be growing. Owns: *out. Blocks until the
 * rows of the window at `from` are prepared. LORAD_DATA: no rows, or a cursor that these rows do not have.
 * LORAD_CONFIG: see mixture_create. */
enum status loader_open(struct loader **out, struct dataset *dataset, const struct loader_options *options,
                        struct data_cursor from) LORAD_WARN_UNUSED;
/* Does not wait for rows that are not prepared yet. */
void loader_close(struct loader *loader);
struct loader_capacity loader_capacity(struct dataset *dataset, const struct loader_options *options);

/* Moves to the next step (wrapping into the next epoch) and describes it. All of this rank's micro-batches of
 * the step before must have been taken (LORAD_BUG). Blocks. LORAD_DATA behind a step that was the last;
 * whatever dataset_wait says when preparing fails. */
enum status loader_next_step(struct loader *loader, struct step_info *out) LORAD_WARN_UNUSED;
/* The next of this rank's micro-batches of the step; n_tokens = 0 when it has no more. Its arrays are borrowed
 * from the loader's own memory (loader_options.host) until the next call of loader_next, loader_next_step or
 * loader_close; until then prefetch counts one less. Blocks until it has been made. LORAD_DATA when a row on the
 * disk is damaged. */
enum status loader_next(struct loader *loader, struct micro_batch *batch) LORAD_WARN_UNUSED;
/* Seconds loader_next and loader_next_step have waited so far. */
double loader_wait_seconds(const struct loader *loader);

/* ---- on paper ---- */

/* What a run is, found by packing the lengths of every window; touches no token. */
struct run_length {
    int64_t steps, packs, tokens;
    double epochs; /* less than asked for when every group reaches its max_epochs before */
};
/* Of epochs [0, epochs), a fraction being that part of the steps of the last one, rounded up. The dataset is
 * complete. Uses as many threads as the process may. Blocks. */
enum status loader_measure(struct run_length *out, struct dataset *dataset,
                           const struct loader_options *options, double epochs) LORAD_WARN_UNUSED;
/* Of the shortest run that trains on at least this many tokens. */
enum status loader_measure_tokens(struct run_length *out, struct dataset *dataset,
                                  const struct loader_options *options, int64_t tokens) LORAD_WARN_UNUSED;
/* loader_measure, steps alone. */
enum status loader_count_steps(int64_t *steps, struct dataset *dataset,
                               const struct loader_options *options, double epochs) LORAD_WARN_UNUSED;

#endif
