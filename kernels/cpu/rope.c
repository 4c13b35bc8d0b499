/*
 * rope.c: rotary position embedding (Su et al. 2021) in the rotate-half convention, with Qwen3's norm of each
 * head before it, forward and backward. Arithmetic in f32; one rounding at the end (and norm.c's rounding
 * inside the norm).
 */
#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/vec.h"

#include <math.h>

enum { MOST_HEAD_DIM = 256 };

static char *head_of(const struct matrix *m, int64_t row, int64_t head, int64_t head_dim)
{
    return (char *)m->data + (size_t)(row * m->stride + head * head_dim) * dtype_bytes(m->dtype);
}

/* sign -1 rotates back. `in` may be `out`. */
INLINE void rotate(const void *in, enum dtype in_dtype, void *out, enum dtype out_dtype, const float *cos_sin,
                   int64_t half, float sign)
{
    for (int64_t j = 0; j < half; j += VEC) {
        int64_t n = half - j;
        vf a = act_load_n(in, j, n, in_dtype), b = act_load_n(in, j + half, n, in_dtype);
        vf c = act_load_n(cos_sin, j, n, DTYPE_F32), s = act_load_n(cos_sin, j + half, n, DTYPE_F32) * sign;
        act_store_n(out, j, n, out_dtype, a * c - b * s);
        act_store_n(out, j + half, n, out_dtype, b * c + a * s);
    }
}

INLINE float head_rstd(const void *head, int64_t head_dim, float eps, enum dtype dtype)
{
    vf squares = {0};
    for (int64_t j = 0; j < head_dim; j += VEC) {
        vf v = act_load_n(head, j, head_dim - j, dtype);
        squares += v * v;
    }
    return 1.0f / sqrtf(vec_sum(squares) / (float)head_dim + eps);
}

INLINE void norm_and_rotate(const void *in, void *out, const void *weight, const float *cos_sin,
                            int64_t head_dim, float eps, enum dtype dtype)
{
    float normed[MOST_HEAD_DIM];
    vf rstd = vec_set(head_rstd(in, head_dim, eps, dtype));
    for (int64_t j = 0; j < head_dim; j += VEC) {
        int64_t n = head_dim - j;
        vf v = act_round(act_load_n(in, j, n, dtype) * rstd, dtype);
        act_store_n(normed, j, n, DTYPE_F32, act_round(v * act_load_n(weight, j, n, dtype), dtype));
    }
    rotate(normed, DTYPE_F32, out, dtype, cos_sin, head_dim / 2, 1.0f);
}

INLINE void rope_token(const struct op_rope *args, int64_t t, enum dtype dtype)
{
    const int64_t head_dim = args->head_dim;
    const float *cos_sin = args->cos_sin + args->positions[t] * head_dim;
    const struct matrix *in[] = {&args->q, &args->k}, *out[] = {&args->q_out, &args->k_out};
    const void *weight[] = {args->q_weight, args->k_weight};
    for (int part = 0; part < 2; part++) {
        int64_t heads = in[part]->cols / head_dim;
        for (int64_t head = 0; head < heads; head++) {
            const char *from = head_of(in[part], t, head, head_dim);
            char *to = head_of(out[part], t, head, head_dim);
            if (weight[part])
                norm_and_rotate(from, to, weight[part], cos_sin, head_dim, args->eps, dtype);
            else
                rotate(from, dtype, to, dtype, cos_sin, head_dim / 2, args->inverse ? -1.0f : 1.0f);
        }
    }
}

enum status CPU_OP(rope)(struct cpu_device *device, const struct op_rope *args)
{
    int64_t elements = args->q.rows * (args->q.cols + args->k.cols);
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, elements))
    for (int64_t t = 0; t < args->q.rows; t++) {
        if (args->q.dtype == DTYPE_F32)
            rope_token(args, t, DTYPE_F32);
        else
            rope_token(args, t, DTYPE_BF16);
    }
    return LORAD_OK;
}

/* With t = w * (gradient rotated back) and xhat = x * rstd: dx = rstd (t - xhat mean(t * xhat)). */
INLINE void norm_backward(const void *x, void *dx, const void *weight, const float *cos_sin, int64_t head_dim,
                          float eps, enum dtype dtype)
{
    float back[MOST_HEAD_DIM];
    rotate(dx, dtype, back, DTYPE_F32, cos_sin, head_dim / 2, -1.0f);
    vf rstd = vec_set(head_rstd(x, head_dim, eps, dtype)), dots = {0};
    for (int64_t j = 0; j < head_dim; j += VEC) {
        int64_t n = head_dim - j;
        vf t_w = act_load_n(back, j, n, DTYPE_F32) * act_load_n(weight, j, n, dtype);
        act_store_n(back, j, n, DTYPE_F32, t_w);
        dots = vec_fma(t_w, act_load_n(x, j, n, dtype) * rstd, dots);
    }
    vf mean = vec_set(vec_sum(dots) / (float)head_dim);
    for (int64_t j = 0; j < head_dim; j += VEC) {
        int64_t n = head_dim - j;
        vf xhat = act_load_n(x, j, n, dtype) * rstd;
        act_store_n(dx, j, n, dtype, rstd * (act_load_n(back, j, n, DTYPE_F32) - xhat * mean));
    }
}

INLINE void norm_backward_token(const struct op_rope_norm_backward *args, int64_t t, enum dtype dtype)
{
    const int64_t head_dim = args->head_dim;
    const float *cos_sin = args->cos_sin + args->positions[t] * head_dim;
    const struct matrix *x[] = {&args->q, &args->k}, *dx[] = {&args->dq, &args->dk};
    const void *weight[] = {args->q_weight, args->k_weight};
    for (int part = 0; part < 2; part++) {
        int64_t heads = x[part]->cols / head_dim;
        for (int64_t head = 0; head < heads; head++) {
            norm_backward(head_of(x[part], t, head, head_dim), head_of(dx[part], t, head, head_dim),
                          weight[part], cos_sin, head_dim, args->eps, dtype);
        }
    }
}

enum status CPU_OP(rope_norm_backward)(struct cpu_device *device, const struct op_rope_norm_backward *args)
{
    int64_t elements = args->q.rows * (args->q.cols + args->k.cols);
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, elements))
    for (int64_t t = 0; t < args->q.rows; t++) {
        if (args->q.dtype == DTYPE_F32)
            norm_backward_token(args, t, DTYPE_F32);
        else
            norm_backward_token(args, t, DTYPE_BF16);
    }
    return LORAD_OK;
}
