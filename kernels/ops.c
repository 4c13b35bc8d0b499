/*
 * ops.c: every operation's contract, checked once for all backends, and then the backend's function.
 *
 * 1. A check names the operation, the argument and the two numbers that disagree; a broken contract is
 * LORAD_BUG.
 * 2. Checks read argument structs only, never device memory: what lies behind a pointer is the backend's to
 * guard.
 * 3. A call without rows returns before the backend sees it.
 */
#include "kernels/device_impl.h"

#include <math.h>
#include <stdlib.h>

size_t attention_scratch_bytes(const struct device_backend *backend, const struct attention_shape *shape)
{
    return device_backend_ops(backend)->attention_scratch(shape);
}

/* ---- what the checks are made of ---- */

enum { MOST_HEAD_DIM = 256 };

static enum status check_matrix(const char *op, const char *name, const struct matrix *m)
{
    if (m->rows < 0 || m->cols <= 0)
        return FAIL(LORAD_BUG, "%s: %s has shape [%lld, %lld]", op, name, (long long)m->rows,
                    (long long)m->cols);
    if (m->stride < m->cols) {
        return FAIL(LORAD_BUG, "%s: %s has %lld columns but a stride of %lld", op, name, (long long)m->cols,
                    (long long)m->stride);
    }
    if (!m->data && m->rows > 0) return FAIL(LORAD_BUG, "%s: %s is NULL", op, name);
    if ((uintptr_t)m->data % dtype_bytes(m->dtype))
        return FAIL(LORAD_BUG, "%s: %s is not aligned to its elements", op, name);
    return LORAD_OK;
}

static enum status check_shape(const char *op, const char *name, const struct matrix *m, int64_t rows,
                               int64_t cols)
{
    TRY(check_matrix(op, name, m));
    if (m->rows != rows || m->cols != cols) {
        return FAIL(LORAD_BUG, "%s: %s is [%lld, %lld], expected [%lld, %lld]", op, name, (long long)m->rows,
                    (long long)m->cols, (long long)rows, (long long)cols);
    }
    return LORAD_OK;
}

static enum status check_dtype(const char *op, const char *name, const struct matrix *m, enum dtype dtype)
{
    if (m->dtype == dtype) return LORAD_OK;
    return FAIL(LORAD_BUG, "%s: %s is %s, expected %s", op, name, dtype_name(m->dtype), dtype_name(dtype));
}

/* Activations: f32 and bf16 everywhere, f16 where the arithmetic is an accelerator's. */
static enum status check_act(const struct device *device, const char *op, const char *name,
                             const struct matrix *m)
{
    if (m->dtype == DTYPE_F32 || m->dtype == DTYPE_BF16) return LORAD_OK;
    if (m->dtype == DTYPE_F16 && !device->ops->is_host) return LORAD_OK;
    return FAIL(LORAD_BUG, "%s: %s is %s, which %s does not compute with", op, name, dtype_name(m->dtype),
                device->ops->kind);
}

static enum status check_pointer(const char *op, const char *name, const void *pointer)
{
    return pointer ? LORAD_OK : FAIL(LORAD_BUG, "%s: %s is NULL", op, name);
}

/* Whether two matrices share an element. Two column ranges of one wider matrix do not. */
static bool matrices_overlap(const struct matrix *a, const struct matrix *b)
{
    if (!a->data || !b->data || a->rows == 0 || b->rows == 0) return false;
    size_t a_step = (size_t)a->stride * dtype_bytes(a->dtype),
           b_step = (size_t)b->stride * dtype_bytes(b->dtype);
    size_t a_row = (size_t)a->cols * dtype_bytes(a->dtype), b_row = (size_t)b->cols * dtype_bytes(b->dtype);
    uintptr_t a_at = (uintptr_t)a->data, b_at = (uintptr_t)b->data;
    if (a_at + (size_t)(a->rows - 1) * a_step + a_row <= b_at) return false;
    if (b_at + (size_t)(b->rows - 1) * b_step + b_row <= a_at) return false;
    if (a_step != b_step) return true;
    size_t shift = b_at >= a_at ? (b_at - a_at) % a_step : (a_step - (a_at - b_at) % a_step) % a_step;
    return shift < a_row || shift + b_row > a_step;
}

static enum status check_apart(const char *op, const char *a_name, const struct matrix *a, const char *b_name,
                               const struct matrix *b)
{
    if (!matrices_overlap(a, b)) return LORAD_OK;
    return FAIL(LORAD_BUG, "%s: %s and %s overlap", op, a_name, b_name);
}

/* Apart, or exactly the same elements. */
static enum status check_apart_or_same(const char *op, const char *a_name, const struct matrix *a,
                                       const char *b_name, const struct matrix *b)
{
    if (a->data == b->data && a->stride == b->stride && a->cols == b->cols && a->dtype == b->dtype)
        return LORAD_OK;
    return check_apart(op, a_name, a, b_name, b);
}

/* An activation matrix of known shape and dtype. */
#define ACT(field, n_rows, n_cols, type)                                                                     \
    do {                                                                                                     \
        TRY(check_shape(op, #field, &args->field, (n_rows), (n_cols)));                                      \
        TRY(check_dtype(op, #field, &args->field, (type)));                                                  \
    } while (0)
/* The matrix whose shape and dtype the others follow. */
#define LEAD(field)                                                                                          \
    do {                                                                                                     \
        TRY(check_matrix(op, #field, &args->field));                                                         \
        TRY(check_act(device, op, #field, &args->field));                                                    \
    } while (0)
#define POINTER(field)      TRY(check_pointer(op, #field, args->field))
#define APART(a, b)         TRY(check_apart(op, #a, &args->a, #b, &args->b))
#define APART_OR_SAME(a, b) TRY(check_apart_or_same(op, #a, &args->a, #b, &args->b))
#define REQUIRE(truth, ...)                                                                                  \
    do {                                                                                                     \
        if (!(truth)) return FAIL(LORAD_BUG, __VA_ARGS__);                                                   \
    } while (0)

/* ---- one check for every operation ---- */

static enum status check_embed(const struct device *device, const char *op, const struct op_embed *args)
{
    LEAD(out);
    ACT(table, args->table.rows, args->out.cols, args->out.dtype);
    POINTER(ids);
    APART(out, table);
    return LORAD_OK;
}

static enum status check_norm_common(const char *op, float eps, const void *weight, const float *rstd)
{
    REQUIRE(eps >= 0.0f && isfinite(eps), "%s: eps is %g", op, (double)eps);
    REQUIRE(weight, "%s: weight is NULL", op);
    REQUIRE(rstd, "%s: rstd is NULL", op);
    return LORAD_OK;
}

static enum status check_rmsnorm(const struct device *device, const char *op, const struct op_rmsnorm *args)
{
    LEAD(x);
    int64_t rows = args->x.rows, cols = args->x.cols;
    ACT(h, rows, cols, args->x.dtype);
    if (args->delta.data) {
        ACT(delta, rows, cols, args->x.dtype);
        APART(h, delta);
    }
    if (args->sum.data) {
        ACT(sum, rows, cols, args->x.dtype);
        APART_OR_SAME(sum, x);
        APART(sum, delta);
        APART(h, sum);
    }
    APART(h, x);
    return check_norm_common(op, args->eps, args->weight, args->rstd);
}

static enum status check_rmsnorm_backward(const struct device *device, const char *op,
                                          const struct op_rmsnorm_backward *args)
{
    LEAD(x);
    ACT(dh, args->x.rows, args->x.cols, args->x.dtype);
    ACT(dx, args->x.rows, args->x.cols, args->x.dtype);
    APART(dx, x);
    APART(dx, dh);
    return check_norm_common(op, 0.0f, args->weight, args->rstd);
}

static enum status check_rmsnorm_apply(const struct device *device, const char *op,
                                       const struct op_rmsnorm_apply *args)
{
    LEAD(x);
    ACT(h, args->x.rows, args->x.cols, args->x.dtype);
    APART(h, x);
    return check_norm_common(op, 0.0f, args->weight, args->rstd);
}

static enum status check_heads(const char *op, const char *name, const struct matrix *m, int32_t head_dim)
{
    REQUIRE(head_dim > 0 && head_dim <= MOST_HEAD_DIM && head_dim % 8 == 0,
            "%s: head_dim is %d, which is not a multiple of 8 up to %d", op, head_dim, MOST_HEAD_DIM);
    REQUIRE(m->cols % head_dim == 0, "%s: %s has %lld columns, which are no whole heads of %d", op, name,
            (long long)m->cols, head_dim);
    return LORAD_OK;
}

static enum status check_rope(const struct device *device, const char *op, const struct op_rope *args)
{
    LEAD(q);
    ACT(k, args->q.rows, args->k.cols, args->q.dtype);
    ACT(q_out, args->q.rows, args->q.cols, args->q.dtype);
    ACT(k_out, args->q.rows, args->k.cols, args->q.dtype);
    TRY(check_heads(op, "q", &args->q, args->head_dim));
    TRY(check_heads(op, "k", &args->k, args->head_dim));
    POINTER(positions);
    POINTER(cos_sin);
    REQUIRE(!args->q_weight == !args->k_weight, "%s: only one of q_weight and k_weight is set", op);
    APART(q_out, k_out);
    APART(q_out, k);
    APART(k_out, q);
    if (args->q_weight) {
        REQUIRE(!args->inverse, "%s: inverse with norm weights; that is rope_norm_backward", op);
        REQUIRE(args->eps >= 0.0f, "%s: eps is %g", op, (double)args->eps);
        APART(q_out, q);
        APART(k_out, k);
    } else {
        APART_OR_SAME(q_out, q);
        APART_OR_SAME(k_out, k);
    }
    return LORAD_OK;
}

static enum status check_rope_norm_backward(const struct device *device, const char *op,
                                            const struct op_rope_norm_backward *args)
{
    LEAD(q);
    ACT(k, args->q.rows, args->k.cols, args->q.dtype);
    ACT(dq, args->q.rows, args->q.cols, args->q.dtype);
    ACT(dk, args->q.rows, args->k.cols, args->q.dtype);
    TRY(check_heads(op, "q", &args->q, args->head_dim));
    TRY(check_heads(op, "k", &args->k, args->head_dim));
    POINTER(positions);
    POINTER(cos_sin);
    POINTER(q_weight);
    POINTER(k_weight);
    APART(dq, dk);
    APART(dq, q);
    APART(dq, k);
    APART(dk, q);
    APART(dk, k);
    return LORAD_OK;
}

static enum status check_grouping(const char *op, const struct matrix *q, const struct matrix *k,
                                  const struct matrix *v, int32_t head_dim, float scale, int32_t window)
{
    TRY(check_heads(op, "q", q, head_dim));
    TRY(check_heads(op, "k", k, head_dim));
    REQUIRE(k->cols == v->cols, "%s: k has %lld columns, v has %lld", op, (long long)k->cols,
            (long long)v->cols);
    REQUIRE(q->cols % k->cols == 0, "%s: %lld query heads do not divide into %lld key/value heads", op,
            (long long)(q->cols / head_dim), (long long)(k->cols / head_dim));
    REQUIRE(isfinite(scale), "%s: scale is %g", op, (double)scale);
    REQUIRE(window >= 0, "%s: window is %d", op, window);
    return LORAD_OK;
}

static enum status check_sequences(const char *op, const struct sequences *sequences, int64_t tokens)
{
    REQUIRE(sequences->start, "%s: sequences.start is NULL", op);
    REQUIRE(sequences->count > 0, "%s: %d sequences", op, sequences->count);
    REQUIRE(sequences->longest > 0 && sequences->longest <= tokens,
            "%s: the longest sequence has %d tokens of %lld", op, sequences->longest, (long long)tokens);
    return LORAD_OK;
}

static enum status check_attention(const struct device *device, const char *op,
                                   const struct op_attention *args)
{
    LEAD(q);
    int64_t rows = args->q.rows;
    ACT(k, rows, args->k.cols, args->q.dtype);
    ACT(v, rows, args->k.cols, args->q.dtype);
    ACT(out, rows, args->q.cols, args->q.dtype);
    TRY(check_grouping(op, &args->q, &args->k, &args->v, args->head_dim, args->scale, args->window));
    TRY(check_sequences(op, &args->sequences, rows));
    POINTER(lse);
    APART(out, q);
    APART(out, k);
    APART(out, v);
    return LORAD_OK;
}

static enum status check_attention_backward(const struct device *device, const char *op,
                                            const struct op_attention_backward *args)
{
    LEAD(q);
    int64_t rows = args->q.rows;
    ACT(k, rows, args->k.cols, args->q.dtype);
    ACT(v, rows, args->k.cols, args->q.dtype);
    ACT(out, rows, args->q.cols, args->q.dtype);
    ACT(dout, rows, args->q.cols, args->q.dtype);
    ACT(dq, rows, args->q.cols, args->q.dtype);
    ACT(dk, rows, args->k.cols, args->q.dtype);
    ACT(dv, rows, args->k.cols, args->q.dtype);
    TRY(check_grouping(op, &args->q, &args->k, &args->v, args->head_dim, args->scale, args->window));
    TRY(check_sequences(op, &args->sequences, rows));
    POINTER(lse);
    const struct matrix *in[] = {&args->q, &args->k, &args->v, &args->out, &args->dout};
    const struct matrix *out[] = {&args->dq, &args->dk, &args->dv};
    static const char *const in_name[] = {"q", "k", "v", "out", "dout"}, *const out_name[] = {"dq", "dk",
                                                                                              "dv"};
    for (int o = 0; o < 3; o++) {
        for (int i = 0; i < 5; i++) TRY(check_apart(op, out_name[o], out[o], in_name[i], in[i]));
        for (int i = 0; i < o; i++) TRY(check_apart(op, out_name[o], out[o], out_name[i], out[i]));
    }
    return LORAD_OK;
}

static enum status check_attention_decode(const struct device *device, const char *op,
                                          const struct op_attention_decode *args)
{
    LEAD(q);
    ACT(q, 1, args->q.cols, args->q.dtype);
    ACT(k_cache, args->k_cache.rows, args->k_cache.cols, args->q.dtype);
    ACT(v_cache, args->k_cache.rows, args->k_cache.cols, args->q.dtype);
    ACT(out, 1, args->q.cols, args->q.dtype);
    TRY(check_grouping(op, &args->q, &args->k_cache, &args->v_cache, args->head_dim, args->scale,
                       args->window));
    REQUIRE(args->length > 0 && args->length <= args->k_cache.rows, "%s: length %d, the cache holds %lld", op,
            args->length, (long long)args->k_cache.rows);
    APART(out, q);
    APART(out, k_cache);
    APART(out, v_cache);
    return LORAD_OK;
}

static enum status check_swiglu(const struct device *device, const char *op, const struct op_swiglu *args)
{
    LEAD(a);
    ACT(gate_up, args->a.rows, 2 * args->a.cols, args->a.dtype);
    APART(a, gate_up);
    return LORAD_OK;
}

static enum status check_swiglu_backward(const struct device *device, const char *op,
                                         const struct op_swiglu_backward *args)
{
    LEAD(da);
    ACT(gate_up, args->da.rows, 2 * args->da.cols, args->da.dtype);
    ACT(d_gate_up, args->da.rows, 2 * args->da.cols, args->da.dtype);
    APART_OR_SAME(d_gate_up, gate_up);
    APART(d_gate_up, da);
    return LORAD_OK;
}

static enum status check_add(const struct device *device, const char *op, const struct op_add *args)
{
    LEAD(y);
    LEAD(x);
    TRY(check_shape(op, "x", &args->x, args->y.rows, args->y.cols));
    APART_OR_SAME(y, x);
    return LORAD_OK;
}

static enum status check_copy(const struct device *device, const char *op, const struct op_copy *args)
{
    LEAD(out);
    LEAD(in);
    TRY(check_shape(op, "in", &args->in, args->out.rows, args->out.cols));
    APART(out, in);
    return LORAD_OK;
}

static enum status check_gather_rows(const struct device *device, const char *op,
                                     const struct op_gather_rows *args)
{
    LEAD(out);
    ACT(in, args->in.rows, args->out.cols, args->out.dtype);
    POINTER(index);
    APART(out, in);
    return LORAD_OK;
}

static enum status check_scatter_rows(const struct device *device, const char *op,
                                      const struct op_scatter_rows *args)
{
    LEAD(out);
    ACT(in, args->in.rows, args->out.cols, args->out.dtype);
    if (args->in.rows > 0) POINTER(index);
    APART(out, in);
    return LORAD_OK;
}

static enum status check_columns(const char *op, const struct matrix *logits, int64_t first_col,
                                 int64_t valid_cols)
{
    TRY(check_matrix(op, "logits", logits));
    TRY(check_dtype(op, "logits", logits, DTYPE_F32));
    REQUIRE(valid_cols >= 0 && valid_cols <= logits->cols, "%s: %lld of %lld columns are valid", op,
            (long long)valid_cols, (long long)logits->cols);
    REQUIRE(first_col >= 0 && first_col + valid_cols <= INT32_MAX, "%s: first_col is %lld", op,
            (long long)first_col);
    return LORAD_OK;
}

static enum status check_loss_stats(const struct device *device, const char *op,
                                    const struct op_loss_stats *args)
{
    (void)device;
    TRY(check_columns(op, &args->logits, args->first_col, args->valid_cols));
    POINTER(labels);
    POINTER(stats);
    return LORAD_OK;
}

static enum status check_loss_grad(const struct device *device, const char *op,
                                   const struct op_loss_grad *args)
{
    TRY(check_columns(op, &args->logits, args->first_col, args->valid_cols));
    POINTER(labels);
    POINTER(all);
    POINTER(loss_sum);
    POINTER(correct_sum);
    REQUIRE(args->parts > 0, "%s: %d parts", op, args->parts);
    if (args->dlogits.data) {
        REQUIRE(isfinite(args->scale) && args->scale > 0, "%s: scale is %g", op, (double)args->scale);
        LEAD(dlogits);
        TRY(check_shape(op, "dlogits", &args->dlogits, args->logits.rows, args->logits.cols));
        /* In place, narrower or not, every row must start where it did. */
        bool in_place = args->dlogits.data == args->logits.data;
        if (!in_place) APART(dlogits, logits);
        REQUIRE(!in_place || args->dlogits.stride * (int64_t)dtype_bytes(args->dlogits.dtype) ==
                                 args->logits.stride * (int64_t)sizeof(float),
                "%s: dlogits in place of the logits has stride %lld", op, (long long)args->dlogits.stride);
    }
    return LORAD_OK;
}

static enum status check_adamw(const struct device *device, const char *op, const struct op_adamw *args)
{
    (void)device;
    if (args->n_segments == 0) return LORAD_OK;
    POINTER(param);
    POINTER(grad);
    POINTER(m);
    POINTER(v);
    POINTER(segments);
    REQUIRE(args->n_segments > 0, "%s: %d segments", op, args->n_segments);
    REQUIRE(args->step >= 1, "%s: step %lld; the first step is 1", op, (long long)args->step);
    REQUIRE(args->beta1 >= 0 && args->beta1 < 1 && args->beta2 >= 0 && args->beta2 < 1,
            "%s: betas are %g, %g", op, args->beta1, args->beta2);
    for (int32_t i = 0; i < args->n_segments; i++) {
        const struct adamw_segment *segment = &args->segments[i];
        REQUIRE(segment->start >= 0 && segment->count >= 0, "%s: segment %d is %lld + %lld", op, i,
                (long long)segment->start, (long long)segment->count);
    }
    return LORAD_OK;
}

static enum status check_sum_squares(const struct device *device, const char *op,
                                     const struct op_sum_squares *args)
{
    (void)device;
    if (args->n_segments == 0) return LORAD_OK;
    REQUIRE(args->n_segments > 0, "%s: %d segments", op, args->n_segments);
    POINTER(starts);
    POINTER(out);
    for (int32_t i = 0; i < args->n_segments; i++)
        REQUIRE(args->starts[i] >= 0 && args->starts[i] <= args->starts[i + 1],
                "%s: segment %d starts at %lld, ends at %lld", op, i, (long long)args->starts[i],
                (long long)args->starts[i + 1]);
    if (args->starts[args->n_segments] > args->starts[0]) POINTER(x);
    return LORAD_OK;
}

static enum status check_fixed(const char *op, const struct fixed_segment *segments, int32_t n)
{
    REQUIRE(n > 0, "%s: %d segments", op, n);
    for (int32_t i = 0; i < n; i++) {
        REQUIRE(segments[i].start >= 0 && segments[i].count >= 0, "%s: segment %d is %lld + %lld", op, i,
                (long long)segments[i].start, (long long)segments[i].count);
        REQUIRE(abs(segments[i].shift) <= FIXED_MOST_SHIFT, "%s: segment %d is shifted by %d", op, i,
                segments[i].shift);
    }
    return LORAD_OK;
}

static enum status check_fixed_add(const struct device *device, const char *op,
                                   const struct op_fixed_add *args)
{
    (void)device;
    POINTER(x);
    POINTER(sum);
    POINTER(most);
    POINTER(segments);
    REQUIRE(args->bits > 0 && args->bits <= FIXED_MOST_BITS, "%s: %d bits", op, args->bits);
    return check_fixed(op, args->segments, args->n_segments);
}

static enum status check_fixed_read(const struct device *device, const char *op,
                                    const struct op_fixed_read *args)
{
    (void)device;
    POINTER(sum);
    POINTER(x);
    POINTER(segments);
    return check_fixed(op, args->segments, args->n_segments);
}

/* ---- how much work a call holds: none needs no backend ---- */

#define rows_embed              args->out.rows
#define rows_rmsnorm            args->x.rows
#define rows_rmsnorm_backward   args->x.rows
#define rows_rmsnorm_apply      args->x.rows
#define rows_rope               args->q.rows
#define rows_rope_norm_backward args->q.rows
#define rows_attention          args->q.rows
#define rows_attention_backward args->q.rows
#define rows_attention_decode   args->q.rows
#define rows_swiglu             args->a.rows
#define rows_swiglu_backward    args->da.rows
#define rows_add                args->y.rows
#define rows_copy               args->out.rows
#define rows_gather_rows        args->out.rows
#define rows_scatter_rows       args->out.rows
#define rows_loss_stats         args->logits.rows
#define rows_loss_grad          args->logits.rows
#define rows_adamw              args->n_segments
#define rows_sum_squares        args->n_segments
#define rows_fixed_add          args->n_segments
#define rows_fixed_read         args->n_segments

#define OP(name)                                                                                             \
    enum status op_##name(struct device *device, const struct op_##name *args)                               \
    {                                                                                                        \
        if (rows_##name == 0) return LORAD_OK;                                                               \
        TRY(check_##name(device, #name, args));                                                              \
        return device->ops->name(device, args);                                                              \
    }
#include "kernels/ops.def"
#undef OP
