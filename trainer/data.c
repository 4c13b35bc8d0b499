#include "trainer/data.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

bool data_has_eval(const struct stage_options *stage)
{
    return stage->n_eval_sources > 0 || stage->val_size > 0;
}

struct prepare_options data_prepare_options(const struct session *session, const struct stage_options *stage,
                                            enum data_part part)
{
    const struct run_options *o = session->options;
    bool own_files = part == DATA_EVAL && stage->n_eval_sources > 0;
    return (struct prepare_options){
        .sources = own_files ? stage->eval_sources : stage->train_sources,
        .n_sources = own_files ? stage->n_eval_sources : stage->n_train_sources,
        .tokenizer = session->tokenizer,
        .chat = session->chat,
        .chat_options = o->chat,
        .cutoff_len = o->cutoff_len,
        .excess = o->excess,
        .cache_dir = session->cache_dir,
        .overwrite_cache = o->overwrite_cache,
        .val_size = stage->n_eval_sources > 0 ? 0 : stage->val_size,
        .split_seed = o->data_seed,
        .want_eval_part = part == DATA_EVAL && !own_files,
        .order = {.strategy = stage->mix_strategy,
                  .seed = o->data_seed,
                  .stage = (uint64_t)stage->number,
                  .shuffle = part == DATA_TRAIN},
        .inspect = &session->inspect,
        .signatures = o->inspect.near_duplicates,
    };
}

void data_print_report(enum data_part part, const struct prepare_report *report)
{
    const char *what = part == DATA_TRAIN ? "training" : "evaluation";
    log_info("%s data: %lld rows, %lld tokens, %lld supervised (%.1f %%), longest row %d%s", what,
             (long long)report->rows_kept, (long long)report->tokens, (long long)report->supervised_tokens,
             report->tokens ? 100.0 * (double)report->supervised_tokens / (double)report->tokens : 0.0,
             report->longest_row, report->from_cache ? " (prepared before)" : "");
    for (int p = 0; p < ROW_PROBLEMS; p++) {
        if (!report->problem_count[p]) continue;
        const struct row_place *first = &report->place[p][0];
        log_warn("%s data: %lld rows %s: %s; the first is %s line %lld%s%s", what,
                 (long long)report->problem_count[p], p == ROW_TRUNCATED ? "changed" : "left out",
                 row_problem_name((enum row_problem)p), first->file, (long long)first->line,
                 report->problems_path[0] ? "; all are listed in " : "", report->problems_path);
    }
}

/* An index past the embedding would be read as memory: rows of a larger tokenizer are refused here at the
 * latest. */
static enum status open_rows(struct dataset **out, const struct session *session, const char *dir)
{
    struct dataset *dataset = NULL;
    TRY(dataset_open(&dataset, dir));
    int32_t rows = dataset_vocab_size(dataset), model = session->arch.vocab;
    if (rows > model) {
        dataset_close(dataset);
        return FAIL(LORAD_DATA,
                    "%s was prepared with %d tokens, but the model has only %d; set overwrite_cache: true to "
                    "prepare it anew",
                    dir, rows, model);
    }
    *out = dataset;
    return LORAD_OK;
}

/* The folder may be gone when preparing has failed since: then that is what there is to say. */
static enum status open_growing(struct dataset **out, struct preparation **preparation,
                                const struct session *session, const char *dir, enum data_part part)
{
    enum status status = open_rows(out, session, dir);
    if (status == LORAD_OK || !*preparation) return status;
    status_clear();
    TRY(preparing_finish(preparation, session, part));
    return open_rows(out, session, dir);
}

static enum status open_alone(struct dataset **out, struct session *session,
                              const struct prepare_options *options)
{
    char *dir = NULL;
    struct prepare_report *report = memory_new(1, sizeof *report);
    if (!report) return LORAD_NOMEM;
    enum status status = dataset_prepare(&dir, options, report);
    free(report);
    if (status == LORAD_OK) status = open_rows(out, session, dir);
    free(dir);
    return status;
}

enum status data_open(struct dataset **out, struct preparation **preparing, struct session *session,
                      const struct stage_options *stage, enum data_part part)
{
    struct prepare_options options = data_prepare_options(session, stage, part);
    struct preparation *preparation = NULL;
    struct dataset *dataset = NULL;
    char *dir = NULL;
    if (!session->world) return open_alone(out, session, &options);
    enum status status = preparing_start(&preparation, &dir, session, &options, part, preparing != NULL);
    if (status != LORAD_OK) return status_context(status, "%s", preparing_name(part));
    bool growing = preparation != NULL; /* on every rank or on none */
    status = comm_agree(session->world, open_growing(&dataset, &preparation, session, dir, part));
    free(dir);
    /* Rows that are still being prepared are compared by what decides them. */
    struct hash128 hash = {0};
    if (status == LORAD_OK) hash = growing ? dataset_key(dataset) : dataset_fingerprint(dataset);
    if (status == LORAD_OK) status = session_compare(session, hash, "set of rows", "dataset and eval_file");
    if (status == LORAD_OK) {
        *out = dataset;
        if (preparing) *preparing = preparation;
        return LORAD_OK;
    }
    preparing_stop(&preparation);
    dataset_close(dataset);
    return status;
}

struct loader_options data_train_loader(const struct session *session, int64_t global_batch_size)
{
    const struct run_options *o = session->options;
    return (struct loader_options){
        .data_seed = o->data_seed,
        .packing = o->packing,
        .shuffle = true,
        .cutoff_len = o->cutoff_len,
        .micro_batch_size = session->micro_batch_size,
        .global_batch_size = global_batch_size,
        .dp_rank = session->part.dp_rank,
        .dp_size = session->part.dp > 0 ? session->part.dp : 1,
    };
}

struct loader_options data_eval_loader(const struct session *session)
{
    const struct run_options *o = session->options;
    int dp = session->part.dp > 0 ? session->part.dp : 1;
    int32_t rows =
        o->per_device_eval_batch_size > 0 ? o->per_device_eval_batch_size : session->micro_batch_size;
    return (struct loader_options){
        .packing = true, /* rows never see each other, so packing changes nothing but speed */
        .shuffle = false,
        .cutoff_len = o->cutoff_len,
        .micro_batch_size = rows,
        .global_batch_size = (int64_t)rows * dp,
        .dp_rank = session->part.dp_rank,
        .dp_size = dp,
    };
}

struct loader_capacity data_larger(struct loader_capacity a, struct loader_capacity b)
{
    return (struct loader_capacity){.tokens = a.tokens > b.tokens ? a.tokens : b.tokens,
                                    .sequences = a.sequences > b.sequences ? a.sequences : b.sequences};
}
