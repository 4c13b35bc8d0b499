#include "trainer/evaluate.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "comm/activity.h"
#include "trainer/request.h"
#include "trainer/step.h"

struct rows {
    double *sum;    /* [rows] weighted loss of the supervised tokens; zero on ranks that do not own the row */
    double *weight; /* [rows] of the supervised tokens */
    float *token;   /* [capacity] */
};

static enum status evaluate_batch(struct session *session, const struct micro_batch *batch, bool use_adapter,
                                  struct rows *rows)
{
    struct eval_pass pass = {.batch = batch, .use_adapter = use_adapter, .row_loss = rows->token};
    activity_sign();
    TRY(model_eval(session->model, &pass));
    if (!rows->token || session->part.tp_rank != 0) return LORAD_OK;
    for (int32_t s = 0, n = 0; s < batch->n_sequences; s++) {
        for (int32_t t = batch->seq_start[s]; t < batch->seq_start[s + 1]; t++)
            if (batch->labels[t] >= 0) {
                double weight = (double)batch->weights[t];
                rows->weight[batch->row_ids[s]] += weight;
                rows->sum[batch->row_ids[s]] += weight * (double)rows->token[n++];
            }
    }
    return LORAD_OK;
}

static enum status walk(struct session *session, struct dataset *dataset, bool use_adapter, struct rows *rows,
                        struct step_targets *targets, bool *stopped)
{
    struct loader_options options = data_eval_loader(session);
    struct loader *loader;
    struct micro_batch batch;
    struct step_info info = {0};
    struct request_poll poll = {0};
    TRY(loader_open(&loader, dataset, &options, (struct data_cursor){0}));
    enum status status = LORAD_OK;
    while (status == LORAD_OK && !info.last_of_epoch && !*stopped) {
        status = loader_next_step(loader, &info);
        if (status != LORAD_OK) break;
        targets->tokens += info.supervised_tokens;
        targets->weight += info.loss_weight;
        for (int32_t i = 0; status == LORAD_OK && i < info.my_micro_batches; i++) {
            status = loader_next(loader, &batch);
            if (status == LORAD_OK && batch.n_tokens > 0)
                status = evaluate_batch(session, &batch, use_adapter, rows);
        }
        if (status == LORAD_OK && !info.last_of_epoch) status = request_poll(&poll, session->world, stopped);
    }
    loader_close(loader);
    return status;
}

/* Sums of all data-parallel ranks; one tensor-parallel rank of each speaks. */
static enum status add_up(struct session *session, struct step_targets targets, struct evaluation *out)
{
    struct model_sums mine, *all = memory_new((size_t)comm_size(session->world), sizeof *all);
    if (!all) return LORAD_NOMEM;
    enum status status = model_read_sums(session->model, &mine);
    if (status == LORAD_OK) status = comm_host_all_gather(session->world, &mine, all, sizeof mine);
    struct loss_sum loss = {0};
    int64_t correct = 0;
    for (int rank = 0; status == LORAD_OK && rank < comm_size(session->world); rank += session->part.tp) {
        loss_sum_join(&loss, &all[rank].loss);
        correct += all[rank].correct;
    }
    free(all);
    out->tokens = targets.tokens;
    out->loss = loss_sum_value(&loss) / targets.weight;
    out->accuracy = (double)correct / (double)targets.tokens;
    return status;
}

/* Each row's sums of all ranks -> its mean, in rows->sum. */
static enum status row_means(struct session *session, struct rows *rows, int64_t n)
{
    TRY(comm_host_all_reduce(session->world, rows->sum, n, DTYPE_F64, COMM_SUM));
    TRY(comm_host_all_reduce(session->world, rows->weight, n, DTYPE_F64, COMM_SUM));
    for (int64_t i = 0; i < n; i++)
        if (rows->weight[i] > 0) rows->sum[i] /= rows->weight[i]; /* 0: the row was rejected */
    return LORAD_OK;
}

enum status evaluate(struct evaluation *out, struct session *session, struct dataset *dataset,
                     bool use_adapter, bool per_row)
{
    int64_t start = clock_monotonic_ns(), n_rows = dataset_raw_rows(dataset);
    struct evaluation result = {0};
    struct step_targets targets = {0};
    struct rows rows = {0};
    enum status status = LORAD_OK;
    if (per_row) {
        rows.sum = memory_new((size_t)n_rows, sizeof(double));
        rows.weight = memory_new((size_t)n_rows, sizeof(double));
        rows.token = memory_new((size_t)session->model_options.max_tokens, sizeof(float));
        if (!rows.sum || !rows.weight || !rows.token) status = LORAD_NOMEM;
    }
    if (status == LORAD_OK) status = model_zero_sums(session->model);
    if (status == LORAD_OK) status = walk(session, dataset, use_adapter, &rows, &targets, &result.stopped);
    if (status == LORAD_OK && !result.stopped) status = add_up(session, targets, &result);
    if (status == LORAD_OK && !result.stopped && per_row) status = row_means(session, &rows, n_rows);
    free(rows.token);
    free(rows.weight);
    if (status != LORAD_OK) {
        free(rows.sum);
        return status;
    }
    result.row_loss = rows.sum;
    result.seconds = clock_seconds_since(start);
    *out = result;
    return LORAD_OK;
}
