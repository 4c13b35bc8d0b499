/*
 * residual.c: the residual stream over the tensor-parallel group. By default every rank has all of it. With
 * sequence_parallel each has a share of its rows (Korthikanti et al. 2022, "Reducing Activation Recomputation
 * in Large Transformer Models", https://arxiv.org/abs/2205.05198).
 *
 * 1. Shares are model->share_rows rows each, in rank order. The last ones may reach behind the batch: such
 * rows are zero, stay zero in every pass, and no token reads them.
 * 2. A whole buffer (h, delta, dh, dres) has room for all shares. A rank writes its own at its place, so that
 * collectives work in place.
 * 3. A sum that all-reduce gives to every rank comes as a reduce-scatter and, after what is done row by row,
 * an all-gather: the same additions, in the same order where all-reduce promises one.
 */
#include "trainer/model_parts.h"

struct matrix model_share(const struct model *model, struct matrix whole)
{
    int64_t first = model->shares > 1 ? (int64_t)model->part->tp_rank * model->share_rows : 0;
    return matrix_part(whole, first, model->share_rows, 0, whole.cols);
}

enum status model_combine(struct model *model, struct matrix whole, struct matrix share)
{
    ASSERT(whole.stride == whole.cols && share.stride == share.cols && share.rows == model->share_rows);
    if (model->shares > 1)
        return comm_reduce_scatter(model->tp, whole.data, share.data, share.rows * share.cols, share.dtype,
                                   COMM_SUM);
    ASSERT(share.data == whole.data);
    return model_all_reduce(model, share);
}

/* The spare columns travel with the others: what is in them is written before it is read. */
enum status model_collect(struct model *model, struct matrix whole)
{
    if (model->shares == 1) return LORAD_OK;
    return comm_all_gather(model->tp, model_share(model, whole).data, whole.data,
                           model->share_rows * whole.stride, whole.dtype);
}

static enum status zero_behind_batch(struct model *model, struct matrix whole)
{
    int64_t padding = (int64_t)model->shares * model->share_rows - model->n_tokens;
    if (!whole.data || padding == 0) return LORAD_OK;
    size_t row_bytes = (size_t)whole.stride * dtype_bytes(whole.dtype);
    return device_zero(model->device, STREAM_COMPUTE,
                       (char *)whole.data + (size_t)model->n_tokens * row_bytes, (size_t)padding * row_bytes);
}

enum status model_cut_batch(struct model *model)
{
    model->share_rows = model_share_rows(model, model->n_tokens);
    TRY(zero_behind_batch(model, model->delta));
    TRY(zero_behind_batch(model, model->dh));
    return zero_behind_batch(model, model->dres);
}

int32_t model_share_rows(const struct model *model, int32_t tokens)
{
    return (tokens + model->shares - 1) / model->shares;
}
