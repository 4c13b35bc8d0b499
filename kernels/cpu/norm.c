/*
 * norm.c: RMSNorm (Zhang & Sennrich 2019), its backward, and its output again from the saved input.
 *
 * 1. h = w * round(x * rstd): the product is rounded to the activations' dtype before the weight, as
 * LlamaRMSNorm does.
 * 2. rmsnorm and rmsnorm_apply share scale_row, so both give the same bits.
 */
#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/vec.h"

#include <math.h>

/* Sum of squares of x + delta (rounded), which is stored in sum when that is set. */
INLINE float add_and_square(const char *x, const char *delta, char *sum, int64_t cols, enum dtype dtype)
{
    vf squares[2] = {{0}, {0}};
    for (int64_t i = 0; i < cols; i += 2 * VEC) {
        for (int part = 0; part < 2; part++) {
            int64_t at = i + part * VEC, n = cols - at;
            if (n <= 0) break;
            vf v = act_load_n(x, at, n, dtype);
            if (delta) v = act_round(v + act_load_n(delta, at, n, dtype), dtype);
            if (sum) act_store_rounded_n(sum, at, n, dtype, v);
            squares[part] += v * v;
        }
    }
    return vec_sum(squares[0] + squares[1]);
}

INLINE void scale_row(const char *x, const char *delta, const char *weight, float rstd, char *h, int64_t cols,
                      enum dtype dtype)
{
    vf scale = vec_set(rstd);
    for (int64_t i = 0; i < cols; i += VEC) {
        int64_t n = cols - i;
        vf v = act_load_n(x, i, n, dtype);
        if (delta) v = act_round(v + act_load_n(delta, i, n, dtype), dtype);
        act_store_n(h, i, n, dtype, act_load_n(weight, i, n, dtype) * act_round(v * scale, dtype));
    }
}

INLINE void rmsnorm_row(const struct op_rmsnorm *args, int64_t t, enum dtype dtype)
{
    int64_t cols = args->x.cols;
    const char *x = matrix_row(&args->x, t), *delta = args->delta.data ? matrix_row(&args->delta, t) : NULL;
    char *sum = args->sum.data ? matrix_row(&args->sum, t) : NULL;
    float mean = add_and_square(x, delta, sum, cols, dtype) / (float)cols;
    args->rstd[t] = 1.0f / sqrtf(mean + args->eps);
    if (sum) {
        x = sum;
        delta = NULL;
    }
    scale_row(x, delta, args->weight, args->rstd[t], matrix_row(&args->h, t), cols, dtype);
}

enum status CPU_OP(rmsnorm)(struct cpu_device *device, const struct op_rmsnorm *args)
{
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, args->x.rows * args->x.cols))
    for (int64_t t = 0; t < args->x.rows; t++) {
        if (args->x.dtype == DTYPE_F32)
            rmsnorm_row(args, t, DTYPE_F32);
        else
            rmsnorm_row(args, t, DTYPE_BF16);
    }
    return LORAD_OK;
}

enum status CPU_OP(rmsnorm_apply)(struct cpu_device *device, const struct op_rmsnorm_apply *args)
{
    const struct matrix *x = &args->x;
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, x->rows * x->cols))
    for (int64_t t = 0; t < x->rows; t++) {
        if (x->dtype == DTYPE_F32)
            scale_row(matrix_row(x, t), NULL, args->weight, args->rstd[t], matrix_row(&args->h, t), x->cols,
                      DTYPE_F32);
        else
            scale_row(matrix_row(x, t), NULL, args->weight, args->rstd[t], matrix_row(&args->h, t), x->cols,
                      DTYPE_BF16);
    }
    return LORAD_OK;
}

INLINE void backward_row(const struct op_rmsnorm_backward *args, int64_t t, enum dtype dtype)
{
    int64_t cols = args->x.cols;
    const char *x = matrix_row(&args->x, t), *dh = matrix_row(&args->dh, t), *weight = args->weight;
    char *dx = matrix_row(&args->dx, t);
    vf rstd = vec_set(args->rstd[t]), dots[2] = {{0}, {0}};
    for (int64_t i = 0; i < cols; i += 2 * VEC) {
        for (int part = 0; part < 2; part++) {
            int64_t at = i + part * VEC, n = cols - at;
            if (n <= 0) break;
            vf t_w = act_load_n(weight, at, n, dtype) * act_load_n(dh, at, n, dtype);
            dots[part] = vec_fma(t_w, act_load_n(x, at, n, dtype) * rstd, dots[part]);
        }
    }
    vf mean = vec_set(vec_sum(dots[0] + dots[1]) / (float)cols);
    for (int64_t i = 0; i < cols; i += VEC) {
        int64_t n = cols - i;
        vf t_w = act_load_n(weight, i, n, dtype) * act_load_n(dh, i, n, dtype);
        vf xhat = act_load_n(x, i, n, dtype) * rstd;
        vf sum = vec_fma(rstd, t_w - xhat * mean, act_load_n(dx, i, n, dtype));
        act_store_n(dx, i, n, dtype, sum);
    }
}

enum status CPU_OP(rmsnorm_backward)(struct cpu_device *device, const struct op_rmsnorm_backward *args)
{
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, args->x.rows * args->x.cols))
    for (int64_t t = 0; t < args->x.rows; t++) {
        if (args->x.dtype == DTYPE_F32)
            backward_row(args, t, DTYPE_F32);
        else
            backward_row(args, t, DTYPE_BF16);
    }
    return LORAD_OK;
}
