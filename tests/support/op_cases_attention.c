/* op_cases_attention.c: cases of attention, its backward, and decoding. */
#include <math.h>

#include "support/op_run.h"
#include "support/reference.h"

struct qkv {
    struct matrix q, k, v;
    struct ref_attention ref;
    struct op_packing packing;
};

/* op_shape.variant: what the scores are like, beside about normal. */
enum { SCORES_LOW = 1, SCORES_PEAKED, SCORES_EQUAL };

/* q and k whose scores are all near -100, or near 0 but for one key of each hundred tokens at 150, which no
 * exponential holds without the maximum taken off, or all the same far from 0, where v grows with the token:
 * a sum that weighs early keys otherwise than late ones shows. Elements are sixteenths, so that scores that
 * great are exact in f32. */
static struct matrix unusual_qkv(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, hd = shape->head_dim, q = shape->q_heads * hd, k = shape->kv_heads * hd;
    int64_t cols = q + 2 * k;
    double *values = op_doubles(run, n * cols), root = sqrt(sqrt((double)hd));
    for (int64_t i = 0; i < n * cols; i++) {
        int64_t token = i / cols, col = i % cols;
        double base = 0;
        if (shape->variant == SCORES_LOW && col < q + k) base = (col < q ? 10 : -10) / root;
        if (shape->variant == SCORES_PEAKED && (col < q || (col < q + k && token % 100 == 70)))
            base = col < q ? 1 / root : 150 / root;
        values[i] = rint(16 * (base + op_random(run))) / 16;
        if (shape->variant == SCORES_EQUAL) /* score times log2(e) rounds a long way */
            values[i] = col < q + k ? 12.5625 : rint(64 * (double)token / (double)n) / 16;
    }
    return op_matrix_of(run, OP_IN, run->dtype, n, cols, shape->spare, values);
}

/* q, k, v side by side in one matrix, as a fused projection leaves them. */
static struct qkv qkv_of(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, hd = shape->head_dim, q = shape->q_heads * hd, k = shape->kv_heads * hd;
    struct matrix all = shape->variant ? unusual_qkv(run, shape)
                                       : op_matrix(run, OP_IN, run->dtype, n, q + 2 * k, shape->spare, 2);
    struct qkv x = {
        .q = matrix_part(all, 0, n, 0, q),
        .k = matrix_part(all, 0, n, q, k),
        .v = matrix_part(all, 0, n, q + k, k),
        .packing = op_packing(run, shape),
    };
    x.ref = (struct ref_attention){.tokens = n,
                                   .q_heads = shape->q_heads,
                                   .kv_heads = shape->kv_heads,
                                   .head_dim = hd,
                                   .window = shape->window,
                                   .scale = 1 / sqrt((double)hd)};
    if (run->bench) return x;
    x.ref.q = op_before(run, x.q);
    x.ref.k = op_before(run, x.k);
    x.ref.v = op_before(run, x.v);
    return x;
}

/* Scores that are needed, times the operations of `products` matrix products. */
static double attention_work(const struct op_shape *shape, const struct op_packing *packing, double products)
{
    double scores = 0;
    for (int32_t s = 0; s < packing->sequences.count; s++) {
        for (int32_t i = 0; i < packing->start[s + 1] - packing->start[s]; i++)
            scores += shape->window && i >= shape->window ? (double)shape->window : i + 1;
    }
    return products * 2.0 * scores * (double)(shape->q_heads * shape->head_dim);
}

static double attention_bytes(const struct op_run *run, const struct op_shape *shape, double q_passes,
                              double kv_passes)
{
    double q = (double)(shape->tokens * shape->q_heads * shape->head_dim);
    double kv = 2 * (double)(shape->tokens * shape->kv_heads * shape->head_dim);
    return (q_passes * q + kv_passes * kv) * (double)dtype_bytes(run->dtype);
}

/* What both directions may use, for the largest call of the case. */
static void *attention_scratch(struct op_run *run, const struct op_shape *shape, const struct qkv *x,
                               int64_t dqkv_stride)
{
    struct attention_shape whole = {.dtype = run->dtype,
                                    .q_heads = (int32_t)shape->q_heads,
                                    .kv_heads = (int32_t)shape->kv_heads,
                                    .head_dim = (int32_t)shape->head_dim,
                                    .window = (int32_t)shape->window,
                                    .max_tokens = shape->tokens,
                                    .max_sequences = x->packing.sequences.count,
                                    .qkv_stride = x->q.stride,
                                    .dqkv_stride = dqkv_stride,
                                    .deterministic = run->deterministic};
    size_t bytes = attention_scratch_bytes(device_backend(run->device), &whole);
    return bytes ? op_matrix(run, OP_OUT, DTYPE_F32, 1, (int64_t)(bytes + 3) / 4, 0, 0).data : NULL;
}

static void attention_body(struct op_run *run, const struct op_shape *shape)
{
    struct qkv x = qkv_of(run, shape);
    int64_t n = shape->tokens, cols = x.q.cols;
    struct matrix out = op_matrix(run, OP_OUT, run->dtype, n, cols, shape->spare, 0);
    struct matrix lse = op_matrix(run, OP_OUT, DTYPE_F32, shape->q_heads, n, 0, 0);
    struct op_attention args = {.q = x.q,
                                .k = x.k,
                                .v = x.v,
                                .head_dim = (int32_t)shape->head_dim,
                                .scale = (float)x.ref.scale,
                                .window = (int32_t)shape->window,
                                .sequences = x.packing.sequences,
                                .out = out,
                                .lse = lse.data,
                                .scratch = attention_scratch(run, shape, &x, 0)};
    if (!OP_RUN(run, attention, &args, attention_work(shape, &x.packing, 2),
                attention_bytes(run, shape, 2, 1)))
        return;
    double *want = op_doubles(run, n * cols), *want_lse = op_doubles(run, n * shape->q_heads);
    x.ref.start = x.packing.start;
    x.ref.count = x.packing.sequences.count;
    ref_attention(want, want_lse, &x.ref);
    OP_EXPECT(run, out, want);
    if (run->deterministic) /* else in an order of the device's own */
        op_expect(run, "lse", lse, want_lse, approx_for("attention", DTYPE_F32));
}

static void attention_backward_body(struct op_run *run, const struct op_shape *shape)
{
    struct qkv x = qkv_of(run, shape);
    int64_t n = shape->tokens, cols = x.q.cols, kv_cols = x.k.cols;
    double *want_out = op_doubles(run, n * cols), *want_lse = op_doubles(run, n * shape->q_heads);
    x.ref.start = x.packing.start;
    x.ref.count = x.packing.sequences.count;
    if (!run->bench) ref_attention(want_out, want_lse, &x.ref);
    enum op_use given = run->deterministic ? OP_IN : OP_INOUT;
    struct matrix out = op_matrix_of(run, given, run->dtype, n, cols, shape->spare, want_out);
    struct matrix lse = op_matrix_of(run, given, DTYPE_F32, shape->q_heads, n, 0, want_lse);
    struct matrix dout = op_matrix(run, OP_IN, run->dtype, n, cols, 0, 1);
    struct matrix all = op_matrix(run, OP_OUT, run->dtype, n, cols + 2 * kv_cols, shape->spare, 0);
    struct matrix dq = matrix_part(all, 0, n, 0, cols), dk = matrix_part(all, 0, n, cols, kv_cols);
    struct matrix dv = matrix_part(all, 0, n, cols + kv_cols, kv_cols);
    struct op_attention_backward args = {.q = x.q,
                                         .k = x.k,
                                         .v = x.v,
                                         .out = out,
                                         .lse = lse.data,
                                         .dout = dout,
                                         .head_dim = (int32_t)shape->head_dim,
                                         .scale = (float)x.ref.scale,
                                         .window = (int32_t)shape->window,
                                         .sequences = x.packing.sequences,
                                         .dq = dq,
                                         .dk = dk,
                                         .dv = dv,
                                         .scratch = attention_scratch(run, shape, &x, all.stride)};
    if (!run->deterministic) /* log-sum-exps in the device's own order: from its forward */
        assert_ok(op_attention(run->device, &(struct op_attention){.q = x.q,
                                                                   .k = x.k,
                                                                   .v = x.v,
                                                                   .head_dim = args.head_dim,
                                                                   .scale = args.scale,
                                                                   .window = args.window,
                                                                   .sequences = args.sequences,
                                                                   .out = out,
                                                                   .lse = lse.data,
                                                                   .scratch = args.scratch}));
    double work = attention_work(shape, &x.packing, 5);
    if (!OP_RUN(run, attention_backward, &args, work, attention_bytes(run, shape, 4, 2))) return;
    double *want_dq = op_doubles(run, n * cols), *want_dk = op_doubles(run, n * kv_cols);
    double *want_dv = op_doubles(run, n * kv_cols);
    ref_attention_backward(want_dq, want_dk, want_dv, op_before(run, dout), &x.ref);
    OP_EXPECT(run, dq, want_dq);
    OP_EXPECT(run, dk, want_dk);
    OP_EXPECT(run, dv, want_dv);
}

/* n rows of values, and `more` of NaN, which may not be read. */
static struct matrix cache_of(struct op_run *run, int64_t n, int64_t more, int64_t cols, int64_t spare)
{
    double *values = op_doubles(run, (n + more) * cols);
    for (int64_t i = 0; i < (n + more) * cols; i++) values[i] = i < n * cols ? 2 * op_random(run) : NAN;
    return op_matrix_of(run, OP_IN, run->dtype, n + more, cols, spare, values);
}

/* The last token of a sequence of shape->tokens against a cache with room for more. */
static void decode_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->tokens, hd = shape->head_dim, q_cols = shape->q_heads * hd,
            kv_cols = shape->kv_heads * hd;
    struct matrix q = op_matrix(run, OP_IN, run->dtype, 1, q_cols, shape->spare, 2);
    struct matrix k_cache = cache_of(run, n, 9, kv_cols, shape->spare);
    struct matrix v_cache = cache_of(run, n, 9, kv_cols, shape->spare);
    struct matrix out = op_matrix(run, OP_OUT, run->dtype, 1, q_cols, shape->spare, 0);
    struct op_attention_decode args = {.q = q,
                                       .k_cache = k_cache,
                                       .v_cache = v_cache,
                                       .length = (int32_t)n,
                                       .head_dim = (int32_t)hd,
                                       .scale = (float)(1 / sqrt((double)hd)),
                                       .window = (int32_t)shape->window,
                                       .out = out};
    double moved = 2.0 * (double)(n * kv_cols) * (double)dtype_bytes(run->dtype);
    if (!OP_RUN(run, attention_decode, &args, 4.0 * (double)(n * q_cols), moved)) return;

    double *whole_q = op_doubles(run, n * q_cols), *whole = op_doubles(run, n * q_cols);
    double *lse = op_doubles(run, n * shape->q_heads);
    memcpy(whole_q + (n - 1) * q_cols, op_before(run, q), (size_t)q_cols * sizeof *whole_q);
    int32_t start[] = {0, (int32_t)n};
    struct ref_attention ref = {.tokens = n,
                                .q_heads = shape->q_heads,
                                .kv_heads = shape->kv_heads,
                                .head_dim = hd,
                                .window = shape->window,
                                .scale = 1 / sqrt((double)hd),
                                .start = start,
                                .count = 1,
                                .q = whole_q,
                                .k = op_before(run, k_cache),
                                .v = op_before(run, v_cache)};
    ref_attention(whole, lse, &ref);
    OP_EXPECT(run, out, whole + (n - 1) * q_cols);
}

#define CASE(op_, name_, body_, ...)                                                                         \
    {                                                                                                        \
        .op = OP_ID_##op_, .name = name_, .body = body_, .shape = { __VA_ARGS__ }                            \
    }
#define BOTH(name_, ...)                                                                                     \
    CASE(attention, name_, attention_body, __VA_ARGS__),                                                     \
        CASE(attention_backward, name_, attention_backward_body, __VA_ARGS__)

const struct op_case op_cases_attention[] = {
    BOTH("one token", .tokens = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 8),
    BOTH("as many kv heads", .tokens = 70, .q_heads = 3, .kv_heads = 3, .head_dim = 64, .spare = 32),
    BOTH("seven queries a kv head", .tokens = 150, .q_heads = 14, .kv_heads = 2, .head_dim = 64),
    BOTH("one kv head for many", .tokens = 45, .q_heads = 34, .kv_heads = 1, .head_dim = 16, .spare = 7),
    BOTH("five sequences", .tokens = 301, .q_heads = 4, .kv_heads = 2, .head_dim = 32, .spare = 3,
         .lengths = {1, 66, 128, 105, 1}),
    BOTH("long and short sequences", .tokens = 600, .q_heads = 4, .kv_heads = 2, .head_dim = 80, .spare = 16,
         .lengths = {1, 64, 530, 3, 2}),
    BOTH("borders of tiles", .tokens = 576, .q_heads = 2, .kv_heads = 1, .head_dim = 8, .spare = 8,
         .lengths = {63, 64, 65, 127, 128, 129}),
    BOTH("seven heads of 128", .tokens = 190, .q_heads = 7, .kv_heads = 1, .head_dim = 128,
         .lengths = {131, 17, 42}),
    BOTH("heads of 96", .tokens = 70, .q_heads = 2, .kv_heads = 1, .head_dim = 96, .spare = 32),
    BOTH("heads of 192", .tokens = 70, .q_heads = 2, .kv_heads = 1, .head_dim = 192),
    BOTH("odd head_dim", .tokens = 140, .q_heads = 4, .kv_heads = 1, .head_dim = 24, .lengths = {137, 3}),
    BOTH("widest head_dim", .tokens = 90, .q_heads = 2, .kv_heads = 1, .head_dim = 256),
    BOTH("window", .tokens = 260, .q_heads = 4, .kv_heads = 2, .head_dim = 16, .window = 37,
         .lengths = {230, 30}),
    BOTH("window of one", .tokens = 133, .q_heads = 2, .kv_heads = 2, .head_dim = 8, .window = 1),
    BOTH("window over tiles", .tokens = 400, .q_heads = 2, .kv_heads = 1, .head_dim = 40, .window = 129),
    CASE(attention, "scores near -100", attention_body, .tokens = 150, .q_heads = 2, .kv_heads = 1,
         .head_dim = 64, .variant = SCORES_LOW),
    CASE(attention, "one key above all", attention_body, .tokens = 150, .q_heads = 2, .kv_heads = 1,
         .head_dim = 64, .variant = SCORES_PEAKED),
    CASE(attention, "equal scores of many keys", attention_body, .tokens = 300, .q_heads = 1, .kv_heads = 1,
         .head_dim = 8, .variant = SCORES_EQUAL),
    {/* in 16 bits, the rounding of `out` alone is a large error of dq where k is large */
     .op = OP_ID_attention_backward,
     .name = "scores near -100",
     .body = attention_backward_body,
     .shape = {.tokens = 150, .q_heads = 2, .kv_heads = 1, .head_dim = 64, .variant = SCORES_LOW},
     .f32_only = true},
    CASE(attention_decode, "first token", decode_body, .tokens = 1, .q_heads = 4, .kv_heads = 2,
         .head_dim = 16),
    CASE(attention_decode, "late token", decode_body, .tokens = 203, .q_heads = 14, .kv_heads = 2,
         .head_dim = 64, .spare = 8),
    CASE(attention_decode, "heads of 256", decode_body, .tokens = 150, .q_heads = 2, .kv_heads = 1,
         .head_dim = 256),
    CASE(attention_decode, "many queries a kv head", decode_body, .tokens = 129, .q_heads = 38, .kv_heads = 2,
         .head_dim = 80, .spare = 16),
    CASE(attention_decode, "window", decode_body, .tokens = 203, .q_heads = 3, .kv_heads = 3, .head_dim = 24,
         .window = 70),
};
const int n_op_cases_attention = sizeof op_cases_attention / sizeof op_cases_attention[0];
