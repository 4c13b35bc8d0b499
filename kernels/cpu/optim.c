/*
 * optim.c: AdamW (Loshchilov & Hutter 2019) over flat vectors, and sums of squares for the gradient norm.
 *
 * 1. Every scalar is computed in double and rounded to f32 once.
 * 2. A sum of squares adds blocks of SQUARE_BLOCK elements in f64 and then the blocks pairwise (neighbours
 * first), so its bits depend on the segment's contents only, not on the threads.
 */
#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/vec.h"

#include <math.h>

enum { SQUARE_BLOCK = 4096 };

struct adamw_scalars {
    float grad_scale, decay, beta1, one_less_beta1, beta2, one_less_beta2, step_size, inverse_root, eps;
};

INLINE vf root(vf x)
{
#if defined(VEC_AVX512)
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(VEC_AVX2)
    return (vf)_mm256_sqrt_ps((__m256)x);
#else
    for (int i = 0; i < VEC; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}

static void adamw_span(const struct op_adamw *args, const struct adamw_scalars *s, int64_t start,
                       int64_t count)
{
    for (int64_t i = start; i < start + count; i += VEC) {
        int64_t n = start + count - i;
        vf g = act_load_n(args->grad, i, n, DTYPE_F32) * s->grad_scale;
        vf p = act_load_n(args->param, i, n, DTYPE_F32) * s->decay;
        vf m = act_load_n(args->m, i, n, DTYPE_F32) * s->beta1 + g * s->one_less_beta1;
        vf v = act_load_n(args->v, i, n, DTYPE_F32) * s->beta2 + g * g * s->one_less_beta2;
        p -= s->step_size * m / (root(v) * s->inverse_root + s->eps);
        act_store_n(args->m, i, n, DTYPE_F32, m);
        act_store_n(args->v, i, n, DTYPE_F32, v);
        act_store_n(args->param, i, n, DTYPE_F32, p);
    }
}

enum status CPU_OP(adamw)(struct cpu_device *device, const struct op_adamw *args)
{
    double correction1 = 1.0 - pow(args->beta1, (double)args->step);
    double correction2 = 1.0 - pow(args->beta2, (double)args->step);
    for (int32_t k = 0; k < args->n_segments; k++) {
        const struct adamw_segment *segment = &args->segments[k];
        const struct adamw_scalars scalars = {
            .grad_scale = (float)args->grad_scale,
            .decay = (float)(1.0 - segment->learning_rate * segment->weight_decay),
            .beta1 = (float)args->beta1,
            .one_less_beta1 = (float)(1.0 - args->beta1),
            .beta2 = (float)args->beta2,
            .one_less_beta2 = (float)(1.0 - args->beta2),
            .step_size = (float)(segment->learning_rate / correction1),
            .inverse_root = (float)(1.0 / sqrt(correction2)),
            .eps = (float)args->eps,
        };
        int64_t blocks = (segment->count + SQUARE_BLOCK - 1) / SQUARE_BLOCK;
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, segment->count))
        for (int64_t b = 0; b < blocks; b++) {
            int64_t first = b * SQUARE_BLOCK, left = segment->count - first;
            adamw_span(args, &scalars, segment->start + first, left < SQUARE_BLOCK ? left : SQUARE_BLOCK);
        }
    }
    return LORAD_OK;
}

static double block_squares(const float *x, int64_t n)
{
    double lane[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) lane[j] += (double)x[i + j] * (double)x[i + j];
    for (int j = 0; i + j < n; j++) lane[j] += (double)x[i + j] * (double)x[i + j];
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/* Sums of 1, 2, 4, ... blocks waiting for their neighbour: a binary counter. */
struct pairwise {
    double waiting[64];
    uint64_t count;
};

static void pairwise_add(struct pairwise *sum, double value)
{
    int level = 0;
    for (; sum->count >> level & 1; level++) value = sum->waiting[level] + value;
    sum->waiting[level] = value;
    sum->count++;
}

static double pairwise_value(const struct pairwise *sum)
{
    double total = 0;
    for (int level = 0; level < 64; level++)
        if (sum->count >> level & 1) total = sum->waiting[level] + total;
    return total;
}

enum status CPU_OP(sum_squares)(struct cpu_device *device, const struct op_sum_squares *args)
{
    double *partial = device->blocks;
    for (int32_t k = 0; k < args->n_segments; k++) {
        const float *x = args->x + args->starts[k];
        int64_t count = args->starts[k + 1] - args->starts[k];
        int64_t blocks = (count + SQUARE_BLOCK - 1) / SQUARE_BLOCK;
        struct pairwise sum = {.count = 0};
        for (int64_t first = 0; first < blocks; first += CPU_BLOCKS) {
            int64_t some = blocks - first < CPU_BLOCKS ? blocks - first : CPU_BLOCKS;
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, some *SQUARE_BLOCK))
            for (int64_t b = 0; b < some; b++) {
                int64_t at = (first + b) * SQUARE_BLOCK, left = count - at;
                partial[b] = block_squares(x + at, left < SQUARE_BLOCK ? left : SQUARE_BLOCK);
            }
            for (int64_t b = 0; b < some; b++) pairwise_add(&sum, partial[b]);
        }
        args->out[k] = pairwise_value(&sum);
    }
    return LORAD_OK;
}
