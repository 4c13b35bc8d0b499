/*
 * loss.c: cross entropy over a vocabulary that may be split over ranks.
 *
 * 1. A row belongs to one thread; sums over rows are made afterwards, in row order, in f64.
 * 2. A row is read in blocks that stay in the first-level cache: their maximum first, then the exponentials,
 * so that the logits come from memory once per pass.
 * 3. NaN never wins a maximum but always reaches the sum, so a row with NaN has a NaN loss and NaN gradients.
 */
#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/vec.h"

#include <math.h>

enum { LOSS_BLOCK = 2048 };

static float block_max(const float *z, int64_t n)
{
    vf most[4];
    for (int p = 0; p < 4; p++) most[p] = vec_set(-INFINITY);
    int64_t i = 0;
    for (; i + 4 * VEC <= n; i += 4 * VEC)
        for (int p = 0; p < 4; p++) most[p] = vec_max(most[p], vec_load(z + i + p * VEC));
    float max = vec_highest(vec_max(vec_max(most[0], most[1]), vec_max(most[2], most[3])));
    for (; i < n; i++)
        if (z[i] > max) max = z[i];
    return max;
}

static float block_exp_sum(const float *z, int64_t n, float max)
{
    vf m = vec_set(max), sum[2] = {{0}, {0}};
    int64_t i = 0;
    for (; i + 2 * VEC <= n; i += 2 * VEC)
        for (int p = 0; p < 2; p++) sum[p] += vec_exp(vec_load(z + i + p * VEC) - m);
    float total = vec_sum(sum[0] + sum[1]);
    for (; i < n; i += VEC) {
        int64_t left = n - i < VEC ? n - i : VEC;
        float lane[VEC];
        vec_store(lane, vec_exp(act_load_n(z, i, left, DTYPE_F32) - m));
        for (int64_t j = 0; j < left; j++) total += lane[j];
    }
    return total;
}

static struct loss_stat row_stat(const struct op_loss_stats *args, int64_t row)
{
    const float *z = (const float *)args->logits.data + row * args->logits.stride;
    struct loss_stat stat = {.max = -INFINITY, .best = -1};
    int64_t label = args->labels[row] - args->first_col;
    if (label >= 0 && label < args->valid_cols) stat.label_logit = z[label];
    for (int64_t at = 0; at < args->valid_cols; at += LOSS_BLOCK) {
        int64_t n = args->valid_cols - at < LOSS_BLOCK ? args->valid_cols - at : LOSS_BLOCK;
        float max = block_max(z + at, n);
        if (max > stat.max) {
            int64_t col = at;
            while (z[col] != max) col++;
            stat.best = (int32_t)(args->first_col + col);
            stat.sum *= expf(stat.max - max);
            stat.max = max;
        }
        /* without any finite maximum yet, only NaN matters: z - 0 is -inf or NaN */
        stat.sum += block_exp_sum(z + at, n, stat.max == -INFINITY ? 0.0f : stat.max);
    }
    return stat;
}

enum status CPU_OP(loss_stats)(struct cpu_device *device, const struct op_loss_stats *args)
{
#pragma omp parallel for schedule(static)                                                                    \
    num_threads(cpu_threads_for(device, args->logits.rows * args->valid_cols))
    for (int64_t row = 0; row < args->logits.rows; row++) args->stats[row] = row_stat(args, row);
    return LORAD_OK;
}

/* The parts of one row in rank order. Columns ascend with the rank, so the first of equal maxima is the
 * lowest. */
static struct loss_stat combine(const struct op_loss_grad *args, int64_t row)
{
    struct loss_stat whole = {.max = -INFINITY, .best = -1};
    int64_t rows = args->logits.rows;
    for (int32_t p = 0; p < args->parts; p++) {
        const struct loss_stat *part = &args->all[p * rows + row];
        if (part->max > whole.max) {
            whole.max = part->max;
            whole.best = part->best;
        }
        whole.label_logit += part->label_logit;
    }
    for (int32_t p = 0; p < args->parts; p++) {
        const struct loss_stat *part = &args->all[p * rows + row];
        if (part->max == -INFINITY)
            whole.sum += part->sum; /* 0, or NaN */
        else
            whole.sum += part->sum * expf(part->max - whole.max);
    }
    return whole;
}

INLINE void grad_span(const float *z, void *dz, int64_t n, float max, float factor, enum dtype dtype)
{
    vf m = vec_set(max), f = vec_set(factor);
    for (int64_t i = 0; i < n; i += VEC) {
        int64_t left = n - i;
        act_store_n(dz, i, left, dtype, f * vec_exp(act_load_n(z, i, left, DTYPE_F32) - m));
    }
}

INLINE void grad_row(const struct op_loss_grad *args, int64_t row, const struct loss_stat *whole,
                     float weight, enum dtype dtype)
{
    const float *z = (const float *)args->logits.data + row * args->logits.stride;
    char *dz = (char *)args->dlogits.data + (size_t)(row * args->dlogits.stride) * dtype_bytes(dtype);
    int64_t label = args->labels[row] - args->first_col, cols = args->logits.cols, valid = args->valid_cols;
    bool here = label >= 0 && label < valid;
    float z_label = here ? z[label] : 0.0f;
    grad_span(z, dz, valid, whole->max, weight / whole->sum, dtype);
    memset(dz + (size_t)valid * dtype_bytes(dtype), 0, (size_t)(cols - valid) * dtype_bytes(dtype));
    if (!here) return;
    float p = expf(z_label - whole->max) / whole->sum, d = weight * (p - 1.0f);
    if (dtype == DTYPE_F32)
        ((float *)(void *)dz)[label] = d;
    else
        ((uint16_t *)(void *)dz)[label] = f32_to_bf16(d);
}

enum status CPU_OP(loss_grad)(struct cpu_device *device, const struct op_loss_grad *args)
{
    double *loss = device->blocks;
    int64_t rows = args->logits.rows;
    for (int64_t first = 0; first < rows; first += CPU_BLOCKS / 2) {
        int64_t some = rows - first < CPU_BLOCKS / 2 ? rows - first : CPU_BLOCKS / 2;
        double *hit = loss + CPU_BLOCKS / 2;
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, some * args->logits.cols))
        for (int64_t i = 0; i < some; i++) {
            int64_t row = first + i;
            struct loss_stat whole = combine(args, row);
            loss[i] = (double)whole.max + log((double)whole.sum) - (double)whole.label_logit;
            hit[i] = whole.best == args->labels[row];
            float weight = (args->weights ? args->weights[row] : 1.0f) * args->scale;
            if (args->dlogits.data && args->dlogits.dtype == DTYPE_F32)
                grad_row(args, row, &whole, weight, DTYPE_F32);
            if (args->dlogits.data && args->dlogits.dtype == DTYPE_BF16)
                grad_row(args, row, &whole, weight, DTYPE_BF16);
        }
        for (int64_t i = 0; i < some; i++) {
            loss_sum_add(args->loss_sum, (args->weights ? (double)args->weights[first + i] : 1.0) * loss[i]);
            *args->correct_sum += hit[i] != 0;
            if (args->row_loss) args->row_loss[first + i] = (float)loss[i];
        }
    }
    return LORAD_OK;
}
