/*
 * head.c: final norm, output head and loss, over supervised rows only, in chunks: no [T, vocabulary] tensor
 * exists, and rows without a label cost nothing. The vocabulary is split over the tensor-parallel group; each
 * chunk gathers one struct loss_stat a row.
 */
#include "trainer/model_parts.h"

#include <stdlib.h>

#include "base/memory.h"
#include "comm/activity.h"

/* Gathered rows -> norm -> logits, in model->chunk. */
static enum status chunk_logits(struct model *model, const int32_t *rows, int32_t n)
{
    struct head_chunk *chunk = &model->chunk;
    struct matrix none = {0}, x = rows_of(chunk->x, n), h = rows_of(chunk->h, n);
    TRY(op_gather_rows(
        model->device,
        &(struct op_gather_rows){.in = rows_of(model->delta, model->n_tokens), .index = rows, .out = x}));
    TRY(op_rmsnorm(model->device, &(struct op_rmsnorm){.x = x,
                                                       .delta = none,
                                                       .sum = none,
                                                       .weight = model->final_norm,
                                                       .eps = model->arch->norm_eps,
                                                       .h = h,
                                                       .rstd = chunk->rstd}));
    return panel_forward(model->head, &(struct panel_forward){.x = h, .y = rows_of(chunk->logits, n)});
}

static enum status chunk_loss(struct model *model, const int32_t *labels, const float *weights, int32_t n,
                              float gradient_scale, float *row_loss)
{
    struct head_chunk *chunk = &model->chunk;
    struct matrix logits = rows_of(chunk->logits, n), none = {0};
    const struct loss_stat *all = chunk->stats;
    TRY(op_loss_stats(model->device, &(struct op_loss_stats){.logits = logits,
                                                             .first_col = model->part->first_vocab,
                                                             .valid_cols = model->part->vocab_valid,
                                                             .labels = labels,
                                                             .stats = chunk->stats}));
    if (model->tp) {
        int64_t words = n * (int64_t)(sizeof(struct loss_stat) / sizeof(int32_t));
        TRY(comm_all_gather(model->tp, chunk->stats, chunk->all_stats, words, DTYPE_I32));
        all = chunk->all_stats;
    }
    return op_loss_grad(model->device, &(struct op_loss_grad){
                                           .logits = logits,
                                           .first_col = model->part->first_vocab,
                                           .valid_cols = model->part->vocab_valid,
                                           .labels = labels,
                                           .weights = weights,
                                           .scale = gradient_scale,
                                           .all = all,
                                           .parts = model->part->tp,
                                           .dlogits = gradient_scale > 0 ? rows_of(chunk->dlogits, n) : none,
                                           .loss_sum = &model->sums->loss,
                                           .correct_sum = &model->sums->correct,
                                           .row_loss = row_loss});
}

/* dlogits -> gradient of the gathered residual rows, into `out` [n, d]. */
static enum status chunk_backward(struct model *model, struct matrix out)
{
    struct head_chunk *chunk = &model->chunk;
    int32_t n = (int32_t)out.rows;
    struct matrix dh = rows_of(chunk->dh, n);
    TRY(panel_backward(
        model->head,
        &(struct panel_backward){.x = rows_of(chunk->h, n), .dy = rows_of(chunk->dlogits, n), .dx = dh}));
    TRY(model_all_reduce(model, dh));
    TRY(device_zero(model->device, STREAM_COMPUTE, out.data,
                    (size_t)(n * out.stride) * dtype_bytes(out.dtype)));
    return op_rmsnorm_backward(model->device, &(struct op_rmsnorm_backward){.x = rows_of(chunk->x, n),
                                                                            .rstd = chunk->rstd,
                                                                            .weight = model->final_norm,
                                                                            .dh = dh,
                                                                            .dx = out});
}

enum status model_head(struct model *model, float gradient_scale, float *row_loss)
{
    int32_t n = model->n_supervised;
    for (int32_t first = 0; first < n; first += model->chunk.rows) {
        int32_t rows = n - first < model->chunk.rows ? n - first : model->chunk.rows;
        TRY(chunk_logits(model, model->supervised + first, rows));
        TRY(chunk_loss(model, model->labels + first, model->label_weights + first, rows, gradient_scale,
                       row_loss ? row_loss + first : NULL));
        /* dh is free until the layers' backward: it holds the gradient of all supervised rows. */
        if (gradient_scale > 0)
            TRY(chunk_backward(model, matrix_part(model->dh, first, rows, 0, model->dh.cols)));
    }
    if (gradient_scale == 0) return LORAD_OK;
    return op_scatter_rows(model->device,
                           &(struct op_scatter_rows){.in = rows_of(model->dh, n),
                                                     .index = model->supervised,
                                                     .out = rows_of(model->dres, model->n_tokens)});
}

/* This rank's logits of the chunk -> its columns of `host` [n, vocab]. */
static enum status gather_logits(struct model *model, int32_t n, float *host)
{
    struct matrix logits = model->chunk.logits;
    int tp = model->part->tp;
    int64_t vocab = model->arch->vocab, cols = logits.cols, block = n * cols;
    float *mine = memory_new((size_t)block, sizeof(float)),
          *all = memory_new((size_t)(block * tp), sizeof(float));
    enum status status = mine && all ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK)
        status =
            device_copy_from(model->device, STREAM_COMPUTE, mine, logits.data, (size_t)block * sizeof(float));
    if (status == LORAD_OK) status = activity_device_sync(model->device);
    if (status == LORAD_OK && model->tp)
        status = comm_host_all_gather(model->tp, mine, all, (size_t)block * sizeof(float));
    const float *from = model->tp ? all : mine;
    for (int q = 0; status == LORAD_OK && q < tp; q++) {
        int64_t first = q * cols, count = vocab - first < cols ? vocab - first : cols;
        for (int32_t i = 0; i < n && count > 0; i++)
            memcpy(host + i * vocab + first, from + q * block + i * cols, (size_t)count * sizeof(float));
    }
    free(mine);
    free(all);
    return status;
}

enum status model_last_logits(struct model *model, int32_t first, int32_t n, float *host)
{
    int32_t *rows = model->host.supervised;
    for (int32_t done = 0; done < n;) {
        int32_t count = n - done < model->chunk.rows ? n - done : model->chunk.rows;
        for (int32_t i = 0; i < count; i++) rows[i] = first + done + i;
        TRY(device_copy_to(model->device, STREAM_COMPUTE, model->supervised, rows,
                           (size_t)count * sizeof(int32_t)));
        TRY(chunk_logits(model, model->supervised, count));
        TRY(gather_logits(model, count, host + done * (int64_t)model->arch->vocab));
        done += count;
    }
    return LORAD_OK;
}

enum status model_logits(struct model *model, const struct micro_batch *batch, bool use_adapter,
                         int32_t first, int32_t n, float *host)
{
    struct pass pass = {.use_adapter = use_adapter};
    TRY(model_load_batch(model, batch, &pass));
    TRY(model_forward(model, &pass));
    return model_last_logits(model, first, n, host);
}
