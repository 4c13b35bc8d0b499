/* op_cases_rows.c: cases of the operations that treat rows one by one. */
#include <math.h>

#include "support/op_run.h"
#include "support/reference.h"

static void embed_body(struct op_run *run, const struct op_shape *shape)
{
    enum { FIRST = 40, ROWS = 33 };
    int64_t n = shape->tokens, d = shape->dim;
    struct matrix table = op_matrix(run, OP_IN, run->dtype, ROWS, d, shape->spare, 1);
    struct matrix out = op_matrix(run, OP_OUT, run->dtype, n, d, shape->spare, 0);
    int32_t *ids = calloc((size_t)n, sizeof *ids);
    for (int64_t t = 0; t < n; t++)
        ids[t] = FIRST - 2 + (int32_t)(t * 7 % (ROWS + 4)); /* some on other ranks */
    struct op_embed args = {.table = table, .ids = op_ints(run, n, ids), .first_row = FIRST, .out = out};
    if (OP_RUN(run, embed, &args, 0, 2.0 * (double)(n * d) * (double)dtype_bytes(run->dtype))) {
        double *rows = op_before(run, table), *want = op_doubles(run, n * d);
        for (int64_t t = 0; t < n; t++) {
            int64_t row = ids[t] - FIRST;
            if (row >= 0 && row < ROWS) memcpy(want + t * d, rows + row * d, (size_t)d * sizeof *want);
        }
        OP_EXPECT(run, out, want);
    }
    free(ids);
}

/* Every other row, from the last; in their middle one that is none. */
static int32_t *other_rows(int64_t n, int64_t few)
{
    int32_t *index = calloc((size_t)few, sizeof *index);
    for (int64_t i = 0; i < few; i++) index[i] = (int32_t)(n - 1 - 2 * i);
    if (few > 2) index[few / 2] = -1;
    return index;
}

static void gather_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, d = shape->dim, few = (n + 1) / 2;
    struct matrix in = op_matrix(run, OP_IN, run->dtype, n, d, 0, 1);
    struct matrix out = op_matrix(run, OP_OUT, run->dtype, few, d, shape->spare, 0);
    int32_t *index = other_rows(n, few);
    struct op_gather_rows args = {.in = in, .index = op_ints(run, few, index), .out = out};
    if (OP_RUN(run, gather_rows, &args, 0, 2.0 * (double)(few * d) * (double)dtype_bytes(run->dtype))) {
        double *rows = op_before(run, in), *want = op_doubles(run, few * d);
        for (int64_t i = 0; i < few; i++)
            if (index[i] >= 0) memcpy(want + i * d, rows + index[i] * d, (size_t)d * sizeof *want);
        OP_EXPECT(run, out, want);
    }
    free(index);
}

static void scatter_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, d = shape->dim, few = (n + 1) / 2;
    struct matrix in = op_matrix(run, OP_IN, run->dtype, few, d, 0, 1);
    struct matrix out = op_matrix(run, OP_OUT, run->dtype, n, d, shape->spare, 0);
    int32_t *index = other_rows(n, few);
    struct op_scatter_rows args = {.in = in, .index = op_ints(run, few, index), .out = out};
    if (OP_RUN(run, scatter_rows, &args, 0, 1.5 * (double)(n * d) * (double)dtype_bytes(run->dtype))) {
        double *rows = op_before(run, in), *want = op_doubles(run, n * d);
        for (int64_t i = 0; i < few; i++)
            if (index[i] >= 0) memcpy(want + index[i] * d, rows + i * d, (size_t)d * sizeof *want);
        OP_EXPECT(run, out, want);
    }
    free(index);
}

/* variant 1: x is f32 and y the activations' dtype; 2 and 3: the same as 0 and 1, where x has no spare
 * columns */
static void add_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, d = shape->dim;
    struct matrix x = op_matrix(run, OP_IN, shape->variant % 2 ? DTYPE_F32 : run->dtype, n, d,
                                shape->variant < 2 ? 3 : 0, 1);
    struct matrix y = op_matrix(run, OP_INOUT, run->dtype, n, d, shape->spare, 1);
    struct op_add args = {.x = x, .y = y};
    if (!OP_RUN(run, add, &args, 0, 3.0 * (double)(n * d) * (double)dtype_bytes(run->dtype))) return;
    double *a = op_before(run, x), *want = op_before(run, y);
    for (int64_t i = 0; i < n * d; i++) want[i] += a[i];
    OP_EXPECT(run, y, want);
}

/* variant 0: same dtype, 1: from f32, 2: to f32, 3: from the second column of a wider matrix */
static void copy_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, d = shape->dim;
    struct matrix in = op_matrix(run, OP_IN, shape->variant == 1 ? DTYPE_F32 : run->dtype, n,
                                 d + (shape->variant == 3 ? 8 : 0), shape->variant == 3 ? 0 : 5, 1);
    if (shape->variant == 3) in = matrix_part(in, 0, n, 1, d);
    struct matrix out =
        op_matrix(run, OP_OUT, shape->variant == 2 ? DTYPE_F32 : run->dtype, n, d, shape->spare, 0);
    struct op_copy args = {.in = in, .out = out};
    if (!OP_RUN(run, copy, &args, 0, 2.0 * (double)(n * d) * (double)dtype_bytes(run->dtype))) return;
    OP_EXPECT(run, out, op_before(run, in));
}

/* What a value becomes in the activations' dtype. */
static float act(const struct op_run *run, float x)
{
    if (run->dtype == DTYPE_BF16) return bf16_to_f32(f32_to_bf16(x));
    return run->dtype == DTYPE_F16 ? f16_to_f32(f32_to_f16(x)) : x;
}

/* The rounding of LlamaRMSNorm, bit for bit: weight * round(x * rstd). */
static void expect_rounded_norm(struct op_run *run, struct matrix h, const double *x, const double *w,
                                const double *rstd)
{
    double *want = op_doubles(run, h.rows * h.cols);
    for (int64_t t = 0; t < h.rows; t++) {
        for (int64_t i = 0; i < h.cols; i++) {
            float scaled = act(run, (float)x[t * h.cols + i] * (float)rstd[t]);
            want[t * h.cols + i] = act(run, scaled * (float)w[i]);
        }
    }
    op_expect(run, "h, rounded in order", h, want, (struct approx){0, 0, 0});
}

/* variant 0: x alone; 1: delta, sum elsewhere; 2: delta, sum is x; 3: delta, no sum */
static void rmsnorm_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, d = shape->dim;
    struct matrix x = op_matrix(run, shape->variant == 2 ? OP_INOUT : OP_IN, run->dtype, n, d, 0, 2),
                  delta = {0}, sum = {0};
    if (shape->variant) delta = op_matrix(run, OP_IN, run->dtype, n, d, 0, 2);
    if (shape->variant == 1) sum = op_matrix(run, OP_OUT, run->dtype, n, d, 0, 0);
    if (shape->variant == 2) sum = x;
    struct matrix weight = op_matrix(run, OP_IN, run->dtype, 1, d, 0, 1);
    struct matrix h = op_matrix(run, OP_OUT, run->dtype, n, d, shape->spare, 0);
    struct matrix rstd = op_matrix(run, OP_OUT, DTYPE_F32, 1, n, 0, 0);
    struct op_rmsnorm args = {
        .x = x, .delta = delta, .sum = sum, .weight = weight.data, .eps = 1e-6f, .h = h, .rstd = rstd.data};
    double passes = shape->variant ? 4 : 2;
    if (!OP_RUN(run, rmsnorm, &args, 0, passes * (double)(n * d) * (double)dtype_bytes(run->dtype))) return;

    double *w = op_before(run, weight), *total = op_before(run, x);
    double *want_h = op_doubles(run, n * d), *want_rstd = op_doubles(run, n);
    if (delta.data) {
        double *more = op_before(run, delta);
        for (int64_t i = 0; i < n * d; i++) total[i] = act(run, (float)total[i] + (float)more[i]);
    }
    if (sum.data) op_expect(run, "sum", sum, total, (struct approx){0, 0, 0});
    ref_rmsnorm(want_h, want_rstd, total, w, 1e-6, n, d);
    /* the CPU's narrowest path adds a row's squares up in 8 parts, an error that grows with the row */
    op_expect(run, "rstd", rstd, want_rstd,
              d > 8192 ? (struct approx){1e-11, 4e-6, 0} : (struct approx){1e-13, 1e-6, 0});
    OP_EXPECT(run, h, want_h);
    expect_rounded_norm(run, h, total, w, op_now(run, rstd));
}

static void rmsnorm_apply_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, d = shape->dim;
    struct matrix x = op_matrix(run, OP_IN, run->dtype, n, d, 0, 2);
    struct matrix weight = op_matrix(run, OP_IN, run->dtype, 1, d, 0, 1);
    struct matrix rstd = op_matrix(run, OP_IN, DTYPE_F32, 1, n, 0, 1);
    struct matrix h = op_matrix(run, OP_OUT, run->dtype, n, d, shape->spare, 0);
    struct op_rmsnorm_apply args = {.x = x, .rstd = rstd.data, .weight = weight.data, .h = h};
    if (!OP_RUN(run, rmsnorm_apply, &args, 0, 2.0 * (double)(n * d) * (double)dtype_bytes(run->dtype)))
        return;
    expect_rounded_norm(run, h, op_before(run, x), op_before(run, weight), op_before(run, rstd));
}

static void rmsnorm_backward_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, d = shape->dim;
    struct matrix x = op_matrix(run, OP_IN, run->dtype, n, d, 0, 2);
    struct matrix weight = op_matrix(run, OP_IN, run->dtype, 1, d, 0, 1);
    struct matrix dh = op_matrix(run, OP_IN, run->dtype, n, d, shape->spare, 1);
    struct matrix dx = op_matrix(run, OP_INOUT, run->dtype, n, d, 0, 1);
    double *w = op_before(run, weight), *rows = op_before(run, x), *want_rstd = op_doubles(run, n);
    double *want = op_doubles(run, n * d), *skipped = op_before(run, dx);
    ref_rmsnorm(want, want_rstd, rows, w, 1e-5, n, d);
    struct matrix rstd = op_matrix_of(run, OP_IN, DTYPE_F32, 1, n, 0, want_rstd);
    struct op_rmsnorm_backward args = {.x = x, .rstd = rstd.data, .weight = weight.data, .dh = dh, .dx = dx};
    if (!OP_RUN(run, rmsnorm_backward, &args, 0, 4.0 * (double)(n * d) * (double)dtype_bytes(run->dtype)))
        return;
    ref_rmsnorm_backward(want, rows, w, op_before(run, dh), 1e-5, n, d);
    for (int64_t i = 0; i < n * d; i++) want[i] += skipped[i];
    OP_EXPECT(run, dx, want);
}

static double *angles(struct op_run *run, int64_t positions, int64_t hd)
{
    double *cos_sin = op_doubles(run, positions * hd);
    for (int64_t p = 0; p < positions; p++) {
        for (int64_t j = 0; j < hd / 2; j++) {
            double angle = (double)p * pow(10000.0, -2.0 * (double)j / (double)hd);
            cos_sin[p * hd + j] = cos(angle);
            cos_sin[p * hd + hd / 2 + j] = sin(angle);
        }
    }
    return cos_sin;
}

/* variant 0: in place; 1: back; 2: with norm weights, into other matrices */
static void rope_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, hd = shape->head_dim, q_cols = shape->q_heads * hd,
            k_cols = shape->kv_heads * hd;
    bool norm = shape->variant == 2;
    struct op_packing packing = op_packing(run, shape);
    struct matrix cos_sin = op_matrix_of(run, OP_IN, DTYPE_F32, n, hd, 0, angles(run, n, hd));
    struct matrix qk =
        op_matrix(run, norm ? OP_IN : OP_INOUT, run->dtype, n, q_cols + k_cols, shape->spare, 2);
    struct matrix out = norm ? op_matrix(run, OP_OUT, run->dtype, n, q_cols + k_cols, 0, 0) : qk;
    struct matrix q_w = op_matrix(run, OP_IN, run->dtype, 1, hd, 0, 1);
    struct matrix k_w = op_matrix(run, OP_IN, run->dtype, 1, hd, 0, 1);
    struct matrix q = matrix_part(qk, 0, n, 0, q_cols), k = matrix_part(qk, 0, n, q_cols, k_cols);
    struct matrix q_out = matrix_part(out, 0, n, 0, q_cols), k_out = matrix_part(out, 0, n, q_cols, k_cols);
    struct op_rope args = {.q = q,
                           .k = k,
                           .q_out = q_out,
                           .k_out = k_out,
                           .head_dim = (int32_t)hd,
                           .positions = packing.positions,
                           .cos_sin = cos_sin.data,
                           .q_weight = norm ? q_w.data : NULL,
                           .k_weight = norm ? k_w.data : NULL,
                           .eps = 1e-6f,
                           .inverse = shape->variant == 1};
    if (!OP_RUN(run, rope, &args, 0, 2.0 * (double)(n * (q_cols + k_cols)) * (double)dtype_bytes(run->dtype)))
        return;
    double *want_q = op_doubles(run, n * q_cols), *want_k = op_doubles(run, n * k_cols);
    double *angle = op_before(run, cos_sin), sign = args.inverse ? -1 : 1;
    ref_rope(want_q, op_before(run, q), norm ? op_before(run, q_w) : NULL, 1e-6, packing.host_positions,
             angle, n, shape->q_heads, hd, sign);
    ref_rope(want_k, op_before(run, k), norm ? op_before(run, k_w) : NULL, 1e-6, packing.host_positions,
             angle, n, shape->kv_heads, hd, sign);
    OP_EXPECT(run, q_out, want_q);
    OP_EXPECT(run, k_out, want_k);
}

static void rope_norm_backward_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, hd = shape->head_dim, q_cols = shape->q_heads * hd,
            k_cols = shape->kv_heads * hd;
    struct op_packing packing = op_packing(run, shape);
    struct matrix cos_sin = op_matrix_of(run, OP_IN, DTYPE_F32, n, hd, 0, angles(run, n, hd));
    struct matrix q = op_matrix(run, OP_IN, run->dtype, n, q_cols, 0, 2);
    struct matrix k = op_matrix(run, OP_IN, run->dtype, n, k_cols, 0, 2);
    struct matrix dq = op_matrix(run, OP_INOUT, run->dtype, n, q_cols, shape->spare, 1);
    struct matrix dk = op_matrix(run, OP_INOUT, run->dtype, n, k_cols, shape->spare, 1);
    struct matrix q_w = op_matrix(run, OP_IN, run->dtype, 1, hd, 0, 1);
    struct matrix k_w = op_matrix(run, OP_IN, run->dtype, 1, hd, 0, 1);
    struct op_rope_norm_backward args = {.q = q,
                                         .k = k,
                                         .dq = dq,
                                         .dk = dk,
                                         .head_dim = (int32_t)hd,
                                         .positions = packing.positions,
                                         .cos_sin = cos_sin.data,
                                         .q_weight = q_w.data,
                                         .k_weight = k_w.data,
                                         .eps = 1e-6f};
    double moved = 3.0 * (double)(n * (q_cols + k_cols)) * (double)dtype_bytes(run->dtype);
    if (!OP_RUN(run, rope_norm_backward, &args, 0, moved)) return;
    double *want_q = op_doubles(run, n * q_cols), *want_k = op_doubles(run, n * k_cols);
    double *angle = op_before(run, cos_sin);
    ref_rope_norm_backward(want_q, op_before(run, q), op_before(run, q_w), op_before(run, dq), 1e-6,
                           packing.host_positions, angle, n, shape->q_heads, hd);
    ref_rope_norm_backward(want_k, op_before(run, k), op_before(run, k_w), op_before(run, dk), 1e-6,
                           packing.host_positions, angle, n, shape->kv_heads, hd);
    OP_EXPECT(run, dq, want_q);
    OP_EXPECT(run, dk, want_k);
}

static void swiglu_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, f = shape->dim;
    struct matrix gate_up = op_matrix(run, OP_IN, run->dtype, n, 2 * f, 0, 6);
    struct matrix a = op_matrix(run, OP_OUT, run->dtype, n, f, shape->spare, 0);
    struct op_swiglu args = {.gate_up = gate_up, .a = a};
    if (!OP_RUN(run, swiglu, &args, 0, 3.0 * (double)(n * f) * (double)dtype_bytes(run->dtype))) return;
    double *want = op_doubles(run, n * f);
    ref_swiglu(want, op_before(run, gate_up), n, f);
    OP_EXPECT(run, a, want);
}

/* variant 1: in place of gate_up */
static void swiglu_backward_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, f = shape->dim;
    struct matrix gate_up =
        op_matrix(run, shape->variant ? OP_INOUT : OP_IN, run->dtype, n, 2 * f, shape->spare, 6);
    struct matrix da = op_matrix(run, OP_IN, run->dtype, n, f, 0, 1);
    struct matrix d =
        shape->variant ? gate_up : op_matrix(run, OP_OUT, run->dtype, n, 2 * f, shape->spare, 0);
    struct op_swiglu_backward args = {.gate_up = gate_up, .da = da, .d_gate_up = d};
    if (!OP_RUN(run, swiglu_backward, &args, 0, 5.0 * (double)(n * f) * (double)dtype_bytes(run->dtype)))
        return;
    double *want = op_doubles(run, n * 2 * f);
    ref_swiglu_backward(want, op_before(run, gate_up), op_before(run, da), n, f);
    OP_EXPECT(run, d, want);
}

#define CASE(op_, name_, body_, ...)                                                                         \
    {                                                                                                        \
        .op = OP_ID_##op_, .name = name_, .body = body_, .shape = { __VA_ARGS__ }                            \
    }
#define SMALL     .tokens = 7, .dim = 40, .spare = 0
#define ODD       .tokens = 33, .dim = 51, .spare = 13
#define WIDE      .tokens = 65, .dim = 256, .spare = 32
#define HEADS     .tokens = 29, .q_heads = 6, .kv_heads = 2, .head_dim = 24, .spare = 8, .lengths = {11, 1, 17}
#define HEADS8    .tokens = 5, .q_heads = 2, .kv_heads = 2, .head_dim = 8
#define BROAD     .tokens = 19, .q_heads = 3, .kv_heads = 1, .head_dim = 128, .spare = 16
/* What a GPU's kernels tell apart: more rows, or more tiles, than one grid of a small GPU; a row shared by
 * several warps, the longest in registers, one longer than that; whole vectors in rows that start between
 * them; the widest heads, pairs that fill no power of two of lanes, heads that start between vectors. */
#define TILES     .tokens = 1100, .dim = 131
#define FULL      .tokens = 2, .dim = 16384, .spare = 32
#define SHARED    .tokens = 90, .dim = 1032, .spare = 8
#define LONG      .tokens = 2, .dim = 16392
#define UNALIGNED .tokens = 9, .dim = 64, .spare = 3
#define MOST      .tokens = 3, .q_heads = 9, .kv_heads = 2, .head_dim = 256
#define HEADS80   .tokens = 7, .q_heads = 4, .kv_heads = 4, .head_dim = 80, .spare = 16
#define BETWEEN   .tokens = 6, .q_heads = 2, .kv_heads = 1, .head_dim = 200, .spare = 3

const struct op_case op_cases_rows[] = {
    CASE(embed, "small", embed_body, SMALL),
    CASE(embed, "odd", embed_body, ODD),
    CASE(embed, "tiles", embed_body, TILES),
    CASE(embed, "shared", embed_body, SHARED),
    CASE(gather_rows, "small", gather_body, SMALL),
    CASE(gather_rows, "odd", gather_body, ODD),
    CASE(gather_rows, "tiles", gather_body, TILES),
    CASE(gather_rows, "unaligned", gather_body, UNALIGNED),
    CASE(scatter_rows, "small", scatter_body, SMALL),
    CASE(scatter_rows, "odd", scatter_body, ODD),
    CASE(scatter_rows, "tiles", scatter_body, TILES),
    CASE(scatter_rows, "unaligned", scatter_body, UNALIGNED),
    CASE(scatter_rows, "one row", scatter_body, .tokens = 1, .dim = 520),
    CASE(add, "small", add_body, SMALL),
    CASE(add, "from f32", add_body, ODD, .variant = 1),
    CASE(add, "whole vectors", add_body, WIDE, .variant = 2),
    CASE(add, "tiles, from f32", add_body, TILES, .variant = 3),
    CASE(copy, "same dtype", copy_body, ODD),
    CASE(copy, "from f32", copy_body, ODD, .variant = 1),
    CASE(copy, "to f32", copy_body, SMALL, .variant = 2),
    CASE(copy, "from between", copy_body, WIDE, .variant = 3),
    CASE(rmsnorm, "x alone", rmsnorm_body, SMALL),
    CASE(rmsnorm, "sum elsewhere", rmsnorm_body, ODD, .variant = 1),
    CASE(rmsnorm, "sum in place", rmsnorm_body, WIDE, .variant = 2),
    CASE(rmsnorm, "sum not kept", rmsnorm_body, ODD, .variant = 3),
    CASE(rmsnorm, "shared", rmsnorm_body, SHARED, .variant = 1),
    CASE(rmsnorm, "shared, sum in place", rmsnorm_body, SHARED, .variant = 2),
    CASE(rmsnorm, "unaligned", rmsnorm_body, UNALIGNED, .variant = 2),
    CASE(rmsnorm, "full", rmsnorm_body, FULL, .variant = 2),
    CASE(rmsnorm, "long", rmsnorm_body, LONG),
    CASE(rmsnorm, "long, sum elsewhere", rmsnorm_body, LONG, .variant = 1),
    CASE(rmsnorm, "long, sum in place", rmsnorm_body, LONG, .variant = 2),
    CASE(rmsnorm, "long, sum not kept", rmsnorm_body, LONG, .variant = 3),
    CASE(rmsnorm_apply, "odd", rmsnorm_apply_body, ODD),
    CASE(rmsnorm_apply, "wide", rmsnorm_apply_body, WIDE),
    CASE(rmsnorm_apply, "tiles", rmsnorm_apply_body, TILES),
    CASE(rmsnorm_apply, "unaligned", rmsnorm_apply_body, UNALIGNED),
    CASE(rmsnorm_backward, "small", rmsnorm_backward_body, SMALL),
    CASE(rmsnorm_backward, "odd", rmsnorm_backward_body, ODD),
    CASE(rmsnorm_backward, "wide", rmsnorm_backward_body, WIDE),
    CASE(rmsnorm_backward, "shared", rmsnorm_backward_body, SHARED),
    CASE(rmsnorm_backward, "unaligned", rmsnorm_backward_body, UNALIGNED),
    CASE(rmsnorm_backward, "full", rmsnorm_backward_body, FULL),
    CASE(rmsnorm_backward, "long", rmsnorm_backward_body, LONG),
    CASE(rope, "in place", rope_body, HEADS),
    CASE(rope, "back", rope_body, HEADS8, .variant = 1),
    CASE(rope, "broad heads", rope_body, BROAD),
    CASE(rope, "most, back", rope_body, MOST, .variant = 1),
    CASE(rope, "heads of 80", rope_body, HEADS80),
    CASE(rope, "between", rope_body, BETWEEN),
    CASE(rope, "normed", rope_body, HEADS, .variant = 2),
    CASE(rope, "normed, broad heads", rope_body, BROAD, .variant = 2),
    CASE(rope, "normed, most", rope_body, MOST, .variant = 2),
    CASE(rope, "normed, heads of 80", rope_body, HEADS80, .variant = 2),
    CASE(rope, "normed, between", rope_body, BETWEEN, .variant = 2),
    CASE(rope_norm_backward, "three sequences", rope_norm_backward_body, HEADS),
    CASE(rope_norm_backward, "broad heads", rope_norm_backward_body, BROAD),
    CASE(rope_norm_backward, "most", rope_norm_backward_body, MOST),
    CASE(rope_norm_backward, "heads of 80", rope_norm_backward_body, HEADS80),
    CASE(rope_norm_backward, "between", rope_norm_backward_body, BETWEEN),
    CASE(swiglu, "small", swiglu_body, SMALL),
    CASE(swiglu, "odd", swiglu_body, ODD),
    CASE(swiglu, "wide", swiglu_body, WIDE),
    CASE(swiglu, "tiles", swiglu_body, TILES),
    CASE(swiglu_backward, "odd", swiglu_backward_body, ODD),
    CASE(swiglu_backward, "in place", swiglu_backward_body, .tokens = 40, .dim = 96, .variant = 1),
    CASE(swiglu_backward, "tiles", swiglu_backward_body, TILES),
};
const int n_op_cases_rows = sizeof op_cases_rows / sizeof op_cases_rows[0];
