/* op_cases_loss.c: cases of the loss, the optimizer, the sums of squares and those in fixed point. */
#include <math.h>

#include "base/hash.h"
#include "support/op_run.h"
#include "support/reference.h"

/* One rank's columns of the logits and what is known of them. `padding` columns at the end of the last ranks
 * are outside the vocabulary and hold NaN: nobody may look at them. */
struct part {
    struct matrix logits, stats;
    int64_t first, valid;
};

struct loss_setup {
    int64_t rows, vocab, per_part; /* columns of one rank, padding included */
    double *z;                     /* [rows, vocab], as the ranks hold it */
    int32_t *host_labels;
    const int32_t *labels;
    struct part part[4];
};

static struct loss_setup loss_setup(struct op_run *run, const struct op_shape *shape, enum op_use use)
{
    struct loss_setup s = {.rows = shape->tokens, .vocab = shape->dim};
    int64_t parts = shape->parts ? shape->parts : 1;
    s.per_part = (s.vocab + shape->padding) / parts;
    s.z = op_doubles(run, s.rows * s.vocab);
    s.host_labels = (int32_t *)(void *)op_doubles(run, s.rows);
    for (int64_t i = 0; i < s.rows * s.vocab; i++) s.z[i] = (double)(float)(12 * op_random(run));
    for (int64_t i = 0; i < s.rows; i++) {
        s.host_labels[i] = (int32_t)((i * 131 + 5) % s.vocab);
        if (i % 3 == 0) s.z[i * s.vocab + s.host_labels[i]] = 14; /* some are right */
    }
    if (s.rows > 2)
        s.z[2 * s.vocab] = s.z[2 * s.vocab + s.vocab - 1] = 15; /* two best columns: the lower counts */
    if (shape->variant == 4) s.z[s.vocab + 3] = NAN;
    s.labels = op_ints(run, s.rows, s.host_labels);
    for (int64_t p = 0; p < parts; p++) {
        struct part *part = &s.part[p];
        part->first = p * s.per_part;
        part->valid = s.vocab - part->first < s.per_part ? s.vocab - part->first : s.per_part;
        if (part->valid < 0) part->valid = 0;
        double *own = op_doubles(run, s.rows * s.per_part);
        for (int64_t i = 0; i < s.rows; i++)
            for (int64_t c = 0; c < s.per_part; c++)
                own[i * s.per_part + c] = c < part->valid ? s.z[i * s.vocab + part->first + c] : NAN;
        part->logits = op_matrix_of(run, use, DTYPE_F32, s.rows, s.per_part, shape->spare, own);
    }
    return s;
}

static void host_stat(const struct loss_setup *s, const struct part *part, int64_t row,
                      struct loss_stat *stat)
{
    const double *z = s->z + row * s->vocab + part->first;
    double most = -INFINITY, sum = 0;
    *stat = (struct loss_stat){.best = -1};
    for (int64_t c = 0; c < part->valid; c++) {
        if (z[c] > most) {
            most = z[c];
            stat->best = (int32_t)(part->first + c);
        }
    }
    for (int64_t c = 0; c < part->valid; c++) sum += exp(z[c] - most);
    int64_t label = s->host_labels[row] - part->first;
    stat->max = (float)most;
    stat->sum = (float)sum;
    if (label >= 0 && label < part->valid) stat->label_logit = (float)z[label];
}

/* A loss_stat is four columns, of which the last is an integer. variant 4: a row with NaN */
static void loss_stats_body(struct op_run *run, const struct op_shape *shape)
{
    struct loss_setup s = loss_setup(run, shape, OP_IN);
    int64_t parts = shape->parts ? shape->parts : 1;
    for (int64_t p = 0; p < parts; p++) {
        struct part *part = &s.part[p];
        part->stats = op_matrix(run, OP_OUT, DTYPE_F32, s.rows, 4, 0, 0);
        struct op_loss_stats args = {.logits = part->logits,
                                     .first_col = part->first,
                                     .valid_cols = part->valid,
                                     .labels = s.labels,
                                     .stats = part->stats.data};
        if (!OP_RUN(run, loss_stats, &args, 0, 4.0 * (double)(s.rows * part->valid))) return;
        double *want = op_doubles(run, 3 * s.rows), *best = op_doubles(run, s.rows);
        for (int64_t i = 0; i < s.rows; i++) {
            struct loss_stat stat;
            host_stat(&s, part, i, &stat);
            want[3 * i] = stat.max;
            want[3 * i + 1] = stat.sum;
            want[3 * i + 2] = stat.label_logit;
            best[i] = stat.best;
        }
        struct matrix numbers = matrix_part(part->stats, 0, s.rows, 0, 3),
                      column = matrix_part(part->stats, 0, s.rows, 3, 1);
        column.dtype = DTYPE_I32;
        OP_EXPECT(run, numbers, want);
        op_expect(run, "best", column, best, (struct approx){0, 0, 0});
    }
}

/* Row on row in the memory of an f32 matrix. */
static struct matrix in_their_place(struct matrix logits, enum dtype dtype)
{
    int64_t narrower = (int64_t)(sizeof(float) / dtype_bytes(dtype));
    return matrix_of(logits.data, dtype, logits.rows, logits.cols, logits.stride * narrower);
}

/* variant 0: with a scale; 1: in place of the logits; 2: no gradient; 3: without weights; 4: a row with NaN,
 * whose loss is counted as broken and not added */
static void loss_grad_body(struct op_run *run, const struct op_shape *shape)
{
    bool in_place = shape->variant == 1;
    struct loss_setup s = loss_setup(run, shape, in_place ? OP_INOUT : OP_IN);
    int64_t parts = shape->parts ? shape->parts : 1, rows = s.rows;
    double *weight = op_doubles(run, rows);
    struct loss_stat *stats = (struct loss_stat *)(void *)op_doubles(run, 2 * rows * parts);
    for (int64_t i = 0; i < rows; i++)
        weight[i] = shape->variant == 3 ? 1 : i == 1 ? 0 : 0.25 * (double)(1 + i % 5);
    struct matrix all = op_matrix(run, OP_INOUT, DTYPE_F32, rows * parts, 4, 0, 0);
    for (int64_t i = 0; i < rows * parts; i++) host_stat(&s, &s.part[i / rows], i % rows, &stats[i]);
    assert_ok(
        device_copy_to(run->device, STREAM_COMPUTE, all.data, stats, (size_t)(rows * parts) * sizeof *stats));
    struct matrix weights = op_matrix_of(run, OP_IN, DTYPE_F32, 1, rows, 0, weight);
    double *dz = op_doubles(run, rows * s.vocab), *losses = op_doubles(run, rows), correct = 0;
    double total = 0;
    if (!run->bench) (void)ref_cross_entropy(dz, losses, s.z, s.host_labels, weight, rows, s.vocab);
    for (int64_t i = 0; i < rows; i++)
        if (!isnan(losses[i])) total += weight[i] * losses[i];
    for (int64_t i = 0; i < rows; i++) {
        int64_t best = 0;
        for (int64_t c = 1; c < s.vocab; c++)
            if (s.z[i * s.vocab + c] > s.z[i * s.vocab + best]) best = c;
        correct += best == s.host_labels[i];
    }
    const double before[] = {1000, 0, 0}, scale = shape->variant == 0 ? 64 : 1;
    for (int64_t p = 0; p < parts; p++) {
        struct part *part = &s.part[p];
        struct matrix sum = op_matrix_of(run, OP_INOUT, DTYPE_I64, 1, 3, 0, before);
        struct matrix hits = op_matrix_of(run, OP_INOUT, DTYPE_I64, 1, 1, 0, before);
        struct matrix row_loss = op_matrix(run, OP_OUT, DTYPE_F32, 1, rows, 0, 0), dlogits = {0};
        if (shape->variant != 2)
            dlogits = in_place ? in_their_place(part->logits, run->dtype)
                               : op_matrix(run, OP_OUT, run->dtype, rows, s.per_part, shape->spare, 0);
        struct op_loss_grad args = {.logits = part->logits,
                                    .first_col = part->first,
                                    .valid_cols = part->valid,
                                    .labels = s.labels,
                                    .weights = shape->variant == 3 ? NULL : weights.data,
                                    .scale = (float)scale,
                                    .all = all.data,
                                    .parts = (int32_t)parts,
                                    .dlogits = dlogits,
                                    .loss_sum = sum.data,
                                    .correct_sum = hits.data,
                                    .row_loss = row_loss.data};
        double moved = (4.0 + (double)dtype_bytes(run->dtype)) * (double)(rows * part->valid);
        if (!OP_RUN(run, loss_grad, &args, 0, moved)) return;
        double want_sum = 1000 + total, want_hits = 1000 + correct,
               *want = op_doubles(run, rows * s.per_part);
        double *limbs = op_now(run, sum);
        double got_sum = loss_sum_value(&(struct loss_sum){(int64_t)limbs[0], (int64_t)limbs[1], 0});
        assert_true(limbs[2] == (shape->variant == 4) && limbs[1] >= 0 && limbs[1] < 0x1p40);
        approx_check("loss_sum", (struct approx){1e-13, 3e-7, 0}, &got_sum, &want_sum, 1);
        run->bits = hash64(limbs, 3 * sizeof *limbs) ^ (run->bits * 31);
        op_expect(run, "correct_sum", hits, &want_hits, (struct approx){0, 0, 0});
        op_expect(run, "row_loss", row_loss, losses, approx_for("loss_grad", DTYPE_F32));
        for (int64_t i = 0; i < rows; i++)
            for (int64_t c = 0; c < part->valid; c++)
                want[i * s.per_part + c] = scale * dz[i * s.vocab + part->first + c];
        if (dlogits.data) OP_EXPECT(run, dlogits, want);
    }
}

/* Where segments of very different lengths begin, at any alignment: starts[0..n], n of them over `total`
 * elements. */
static int64_t *uneven_starts(struct op_run *run, int64_t n, int64_t total)
{
    static const int64_t lengths[] = {1, 0, 5, 4096, 1, 4097, 3, 64};
    int64_t *starts = (int64_t *)(void *)op_doubles(run, n + 1), at = 0;
    for (int64_t i = 0; i < n; i++) {
        starts[i] = at;
        int64_t length = lengths[i % 8];
        at = at + length < total ? at + length : total;
    }
    starts[n] = total;
    return starts;
}

/* dim elements in `parts` uneven segments, or in two with a gap. variant: the step */
static void adamw_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->dim, cut = n / 3, gap = n > 20 ? 2 : 0;
    struct matrix p = op_matrix(run, OP_INOUT, DTYPE_F32, 1, n, 0, 1),
                  g = op_matrix(run, OP_IN, DTYPE_F32, 1, n, 0, 3);
    struct matrix m = op_matrix(run, OP_INOUT, DTYPE_F32, 1, n, 0, 0.1);
    double *second = op_doubles(run, n);
    for (int64_t i = 0; i < n; i++) second[i] = 0.01 * (1 + op_random(run));
    struct matrix v = op_matrix_of(run, OP_INOUT, DTYPE_F32, 1, n, 0, second);
    struct adamw_segment two[] = {{0, cut, 1e-2, 0.1}, {cut + gap, n - cut - gap, 3e-2, 0}}, *segments = two;
    int32_t n_segments = 2;
    if (shape->parts) {
        n_segments = (int32_t)shape->parts;
        const int64_t *starts = uneven_starts(run, n_segments, n);
        segments = (struct adamw_segment *)(void *)op_doubles(run, 4 * n_segments);
        for (int32_t i = 0; i < n_segments; i++)
            segments[i] = (struct adamw_segment){starts[i], starts[i + 1] - starts[i], 1e-3 * (1 + i % 37),
                                                 0.1 * (i % 3)};
    }
    struct op_adamw args = {.param = p.data,
                            .grad = g.data,
                            .m = m.data,
                            .v = v.data,
                            .segments = segments,
                            .n_segments = n_segments,
                            .step = shape->variant,
                            .beta1 = 0.9,
                            .beta2 = 0.999,
                            .eps = 1e-8,
                            .grad_scale = 0.125};
    if (!OP_RUN(run, adamw, &args, 0, 28.0 * (double)n)) return;
    double *want_p = op_before(run, p), *want_m = op_before(run, m), *want_v = op_before(run, v),
           *grad = op_before(run, g);
    for (int64_t i = 0; i < n; i++) grad[i] *= 0.125;
    for (int32_t i = 0; i < n_segments; i++) {
        int64_t at = segments[i].start;
        ref_adamw(want_p + at, want_m + at, want_v + at, grad + at, segments[i].count,
                  segments[i].learning_rate, segments[i].weight_decay, 0.9, 0.999, 1e-8, shape->variant);
    }
    OP_EXPECT(run, p, want_p);
    OP_EXPECT(run, m, want_m);
    OP_EXPECT(run, v, want_v);
}

/* dim elements in `parts` uneven segments, or in four */
static void sum_squares_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->dim;
    struct matrix x = op_matrix(run, OP_IN, DTYPE_F32, 1, n, 0, 1);
    int64_t four[] = {0, 1, 1, n / 2, n}, *starts = four;
    int32_t n_segments = 4;
    if (shape->parts) {
        n_segments = (int32_t)shape->parts;
        starts = uneven_starts(run, n_segments, n);
    }
    double *out = op_doubles(run, n_segments), *want = op_doubles(run, n_segments), again;
    for (int32_t k = 0; k < n_segments; k++) out[k] = -1;
    struct op_sum_squares args = {.x = x.data, .starts = starts, .n_segments = n_segments, .out = out};
    if (!OP_RUN(run, sum_squares, &args, 0, 4.0 * (double)n)) return;
    double *values = op_before(run, x);
    for (int32_t k = 0; k < n_segments; k++)
        for (int64_t i = starts[k]; i < starts[k + 1]; i++) want[k] += values[i] * values[i];
    approx_check("sum_squares", approx_for("sum_squares", DTYPE_F32), out, want, n_segments);
    run->bits = run->bits * 31 + hash64(out, (size_t)n_segments * sizeof *out);
    /* the same elements give the same bits when they are the only segment, and when they lie elsewhere */
    int64_t *last = &starts[n_segments - 1], count = last[1] - last[0];
    assert_ok(op_sum_squares(
        run->device, &(struct op_sum_squares){.x = x.data, .starts = last, .n_segments = 1, .out = &again}));
    assert_true(again == out[n_segments - 1]);
    struct matrix elsewhere = op_matrix_of(run, OP_IN, DTYPE_F32, 1, count, 3, values + last[0]);
    assert_ok(op_sum_squares(run->device, &(struct op_sum_squares){.x = elsewhere.data,
                                                                   .starts = (int64_t[]){0, count},
                                                                   .n_segments = 1,
                                                                   .out = &again}));
    assert_true(again == out[n_segments - 1]);
}

/* Values whose rounding and refusal are the point, among random ones: ties to even, the last that counts, the
 * first that does not, what is no number. */
static double fixed_value(struct op_run *run, int64_t i, const struct fixed_segment *segment, int32_t bits)
{
    const double unit = ldexp(1, -segment->shift), limit = ldexp(unit, bits);
    const double special[] = {0.5 * unit, 1.5 * unit,    2.5 * unit, -0.5 * unit, -1.5 * unit, limit,
                              -limit,     1.001 * limit, INFINITY,   -INFINITY,   NAN,         0};
    const int n = sizeof special / sizeof *special;
    bool plain =
        run->bench || segment->shift != 30; /* that segment alone, so that the others' greatest is random */
    return !plain && i % 3 == 0 ? special[i / 3 % n]
                                : (double)(float)(unit * ldexp(op_random(run), bits - 2));
}

/* Uneven segments with shifts that differ. */
static struct fixed_segment *many_fixed(struct op_run *run, int64_t n_segments, int64_t n)
{
    static const int32_t shifts[] = {30, -9, 150, -77};
    const int64_t *starts = uneven_starts(run, n_segments, n);
    struct fixed_segment *segments = (struct fixed_segment *)(void *)op_doubles(run, 3 * n_segments);
    for (int64_t i = 0; i < n_segments; i++)
        segments[i] = (struct fixed_segment){starts[i], starts[i + 1] - starts[i], shifts[i % 4]};
    return segments;
}

/* dim elements in `parts` uneven segments, or in three with gaps */
static void fixed_add_body(struct op_run *run, const struct op_shape *shape)
{
    enum { BITS = 46 };
    int64_t n = shape->dim, cut = n / 3, gap = 2;
    struct fixed_segment three[] = {{0, cut, 30}, {cut + gap, cut - gap, -9}, {2 * cut, n - 2 * cut, 150}},
                         *segments = shape->parts ? many_fixed(run, shape->parts, n) : three;
    const int32_t n_segments = shape->parts ? (int32_t)shape->parts : 3;
    double *x = op_doubles(run, n), *sum = op_doubles(run, n), *most = op_doubles(run, n_segments), *zero;
    for (int64_t i = 0; i < n; i++) sum[i] = (double)(int64_t)(0x1p50 * op_random(run));
    for (int s = 0; s < n_segments; s++)
        for (int64_t i = segments[s].start; i < segments[s].start + segments[s].count; i++)
            x[i] = fixed_value(run, i, &segments[s], BITS);
    struct matrix mx = op_matrix_of(run, OP_INOUT, DTYPE_F32, 1, n, 0, x),
                  msum = op_matrix_of(run, OP_INOUT, DTYPE_I64, 1, n, 0, sum),
                  mmost = op_matrix_of(run, OP_INOUT, DTYPE_I32, 1, n_segments, 0, most);
    struct op_fixed_add args = {.x = mx.data,
                                .sum = msum.data,
                                .most = mmost.data,
                                .segments = segments,
                                .n_segments = n_segments,
                                .bits = BITS};
    if (!OP_RUN(run, fixed_add, &args, 0, 24.0 * (double)n)) return;
    zero = op_doubles(run, n);
    for (int s = 0; s < n_segments; s++)
        for (int64_t i = segments[s].start; i < segments[s].start + segments[s].count; i++) {
            float value = (float)x[i];
            int32_t bits;
            memcpy(&bits, &value, sizeof bits);
            most[s] = fmax(most[s], (double)(bits & INT32_MAX));
            double units = (double)value * ldexp(1, segments[s].shift);
            if (fabs(units) <= ldexp(1, BITS)) sum[i] += nearbyint(units);
        }
    OP_EXPECT(run, msum, sum);
    OP_EXPECT(run, mx, zero);
    OP_EXPECT(run, mmost, most);
}

/* dim elements in `parts` uneven segments, or in two with a gap */
static void fixed_read_body(struct op_run *run, const struct op_shape *shape)
{
    int64_t n = shape->dim, cut = n / 2;
    struct fixed_segment two[] = {{0, cut, 30}, {cut + 1, n - cut - 1, -9}},
                         *segments = shape->parts ? many_fixed(run, shape->parts, n) : two;
    const int32_t n_segments = shape->parts ? (int32_t)shape->parts : 2;
    double *sum = op_doubles(run, n);
    for (int64_t i = 0; i < n; i++) sum[i] = (double)(int64_t)(0x1p53 * op_random(run));
    struct matrix msum = op_matrix_of(run, OP_IN, DTYPE_I64, 1, n, 0, sum),
                  mx = op_matrix(run, OP_INOUT, DTYPE_F32, 1, n, 0, 1);
    struct op_fixed_read args = {
        .sum = msum.data, .x = mx.data, .segments = segments, .n_segments = n_segments};
    if (!OP_RUN(run, fixed_read, &args, 0, 12.0 * (double)n)) return;
    double *want = op_before(run, mx);
    for (int s = 0; s < n_segments; s++)
        for (int64_t i = segments[s].start; i < segments[s].start + segments[s].count; i++)
            want[i] = (double)(float)(sum[i] * ldexp(1, -segments[s].shift));
    OP_EXPECT(run, mx, want);
}

#define CASE(op_, name_, body_, ...)                                                                         \
    {                                                                                                        \
        .op = OP_ID_##op_, .name = name_, .body = body_, .shape = { __VA_ARGS__ }                            \
    }
#define F32(op_, name_, body_, ...)                                                                          \
    {                                                                                                        \
        .op = OP_ID_##op_, .name = name_, .body = body_, .shape = {__VA_ARGS__}, .f32_only = true            \
    }

const struct op_case op_cases_loss[] = {
    F32(loss_stats, "one rank", loss_stats_body, .tokens = 5, .dim = 777),
    F32(loss_stats, "long rows", loss_stats_body, .tokens = 3, .dim = 5003, .padding = 5, .spare = 3),
    F32(loss_stats, "three ranks, padded", loss_stats_body, .tokens = 9, .dim = 100, .padding = 2,
        .parts = 3),
    F32(loss_stats, "a rank of padding", loss_stats_body, .tokens = 4, .dim = 30, .padding = 30, .parts = 4),
    F32(loss_stats, "a whole vocabulary", loss_stats_body, .tokens = 2, .dim = 151669, .padding = 11),
    F32(loss_stats, "a row with NaN", loss_stats_body, .tokens = 5, .dim = 777, .variant = 4),
    CASE(loss_grad, "one rank", loss_grad_body, .tokens = 5, .dim = 777, .variant = 3),
    CASE(loss_grad, "long rows", loss_grad_body, .tokens = 3, .dim = 5003, .padding = 5, .spare = 3),
    CASE(loss_grad, "in place", loss_grad_body, .tokens = 33, .dim = 130, .padding = 6, .spare = 8,
         .variant = 1),
    CASE(loss_grad, "a whole vocabulary in place", loss_grad_body, .tokens = 2, .dim = 151669, .padding = 11,
         .variant = 1),
    CASE(loss_grad, "odd rows in place", loss_grad_body, .tokens = 3, .dim = 20011, .padding = 5, .spare = 1,
         .variant = 1),
    CASE(loss_grad, "loss alone", loss_grad_body, .tokens = 33, .dim = 130, .padding = 6, .variant = 2),
    CASE(loss_grad, "three ranks, padded", loss_grad_body, .tokens = 9, .dim = 100, .padding = 2, .parts = 3),
    CASE(loss_grad, "a rank of padding", loss_grad_body, .tokens = 4, .dim = 30, .padding = 30, .parts = 4),
    CASE(loss_grad, "many rows", loss_grad_body, .tokens = 2600, .dim = 19),
    CASE(loss_grad, "a row with NaN", loss_grad_body, .tokens = 5, .dim = 777, .variant = 4),
    F32(adamw, "first step", adamw_body, .dim = 37, .variant = 1),
    F32(adamw, "later step", adamw_body, .dim = 30011, .variant = 1234),
    F32(adamw, "many segments", adamw_body, .dim = 300007, .parts = 280, .variant = 7),
    F32(sum_squares, "short", sum_squares_body, .dim = 9),
    F32(sum_squares, "several blocks", sum_squares_body, .dim = 100003),
    F32(sum_squares, "many segments", sum_squares_body, .dim = 300007, .parts = 280),
    F32(fixed_add, "short", fixed_add_body, .dim = 37),
    F32(fixed_add, "several parts", fixed_add_body, .dim = 200003),
    F32(fixed_add, "many segments", fixed_add_body, .dim = 300007, .parts = 280),
    F32(fixed_read, "short", fixed_read_body, .dim = 37),
    F32(fixed_read, "several parts", fixed_read_body, .dim = 200003),
    F32(fixed_read, "many segments", fixed_read_body, .dim = 300007, .parts = 280),
};
const int n_op_cases_loss = sizeof op_cases_loss / sizeof op_cases_loss[0];
