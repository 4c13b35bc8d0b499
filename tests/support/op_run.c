#include "support/op_run.h"

#include <math.h>
#include <time.h>

#include "base/hash.h"
#include "base/random.h"
#include "support/test_device.h"

enum { REDZONE = 256, NAN_BYTE = 0xff }; /* all ones is NaN in f32, bf16, f16 and f64 */

const char *const op_names[OP_COUNT] = {
#define OP(name) [OP_ID_##name] = #name,
#include "kernels/ops.def"
#undef OP
};

#define OP(name)                                                                                             \
    enum status op_call_##name(struct device *device, const void *args)                                      \
    {                                                                                                        \
        return op_##name(device, args);                                                                      \
    }
#include "kernels/ops.def"
#undef OP

static void *scrap(struct op_run *run, size_t bytes)
{
    assert_true(run->n_scrap < (int)(sizeof run->scrap / sizeof run->scrap[0]));
    void *block = calloc(1, bytes ? bytes : 1);
    assert_non_null(block);
    run->scrap[run->n_scrap++] = block;
    return block;
}

double op_random(struct op_run *run)
{
    struct random_block block = random_philox(7, RANDOM_TEST, run->random++);
    return 2 * random_unit_f64(block.word[0], block.word[1]) - 1;
}

static double value_at(const char *rows, const struct matrix *m, int64_t i, int64_t j)
{
    const char *at = rows + (size_t)(i * m->stride + j) * dtype_bytes(m->dtype);
    switch (m->dtype) {
    case DTYPE_F32:
        return (double)*(const float *)(const void *)at;
    case DTYPE_BF16:
        return (double)bf16_to_f32(*(const uint16_t *)(const void *)at);
    case DTYPE_F16:
        return (double)f16_to_f32(*(const uint16_t *)(const void *)at);
    case DTYPE_I32:
        return (double)*(const int32_t *)(const void *)at;
    case DTYPE_I64:
        return (double)*(const int64_t *)(const void *)at;
    case DTYPE_F64:
        return *(const double *)(const void *)at;
    }
    fail_msg("no dtype has the number %d", (int)m->dtype);
    return 0;
}

static void set_value(char *rows, const struct matrix *m, int64_t i, int64_t j, double value)
{
    char *at = rows + (size_t)(i * m->stride + j) * dtype_bytes(m->dtype);
    switch (m->dtype) {
    case DTYPE_F32:
        *(float *)(void *)at = (float)value;
        break;
    case DTYPE_BF16:
        *(uint16_t *)(void *)at = f32_to_bf16((float)value);
        break;
    case DTYPE_F16:
        *(uint16_t *)(void *)at = f32_to_f16((float)value);
        break;
    case DTYPE_I32:
        *(int32_t *)(void *)at = (int32_t)value;
        break;
    case DTYPE_I64:
        *(int64_t *)(void *)at = (int64_t)value;
        break;
    case DTYPE_F64:
        *(double *)(void *)at = value;
        break;
    }
}

/* values NULL: random ones within scale. */
static struct matrix buffer_new(struct op_run *run, enum op_use use, enum dtype dtype, int64_t rows,
                                int64_t cols, int64_t spare, double scale, const double *values)
{
    assert_true(run->n_buffers < OP_BUFFERS);
    struct op_buffer *b = &run->buffer[run->n_buffers++];
    int64_t stride = cols + spare;
    b->use = use;
    b->bytes = (size_t)(rows * stride) * dtype_bytes(dtype) + 2 * REDZONE;
    b->original = malloc(b->bytes);
    assert_non_null(b->original);
    assert_ok(device_alloc((void **)&b->block, run->device, b->bytes));
    memset(b->original, NAN_BYTE, b->bytes);
    b->device = matrix_of(b->block + REDZONE, dtype, rows, cols, stride);
    size_t row_bytes = (size_t)cols * dtype_bytes(dtype), step_bytes = (size_t)stride * dtype_bytes(dtype);
    for (int64_t i = 0; use != OP_OUT && i < rows; i++) {
        if (run->bench && !values && i > 0) { /* rows may be alike there: drawing them would take longest */
            memcpy(b->original + REDZONE + (size_t)i * step_bytes, b->original + REDZONE, row_bytes);
            continue;
        }
        for (int64_t j = 0; j < cols; j++)
            set_value(b->original + REDZONE, &b->device, i, j,
                      values ? values[i * cols + j] : scale * op_random(run));
    }
    assert_ok(device_copy_to(run->device, STREAM_COMPUTE, b->block, b->original, b->bytes));
    return b->device;
}

struct matrix op_matrix(struct op_run *run, enum op_use use, enum dtype dtype, int64_t rows, int64_t cols,
                        int64_t spare, double scale)
{
    return buffer_new(run, use, dtype, rows, cols, spare, scale, NULL);
}

struct matrix op_matrix_of(struct op_run *run, enum op_use use, enum dtype dtype, int64_t rows, int64_t cols,
                           int64_t spare, const double *values)
{
    return buffer_new(run, use, dtype, rows, cols, spare, 0, values);
}

const int32_t *op_ints(struct op_run *run, int64_t n, const int32_t *values)
{
    double *wide = op_doubles(run, n);
    for (int64_t i = 0; i < n; i++) wide[i] = values[i];
    return op_matrix_of(run, OP_IN, DTYPE_I32, 1, n, 0, wide).data;
}

double *op_doubles(struct op_run *run, int64_t n)
{
    return scrap(run, (size_t)n * sizeof(double));
}

/* The buffer that `m` (or the matrix that m is a part of) came from. */
static struct op_buffer *find(struct op_run *run, const struct matrix *m)
{
    for (int i = 0; i < run->n_buffers; i++) {
        struct op_buffer *b = &run->buffer[i];
        const char *at = m->data;
        if (at >= b->block && at < b->block + b->bytes) return b;
    }
    fail_msg("a matrix that the harness did not make");
    return NULL;
}

static double *dense(struct op_run *run, const char *host_block, const struct op_buffer *b,
                     const struct matrix *m)
{
    double *values = op_doubles(run, m->rows * m->cols);
    const char *rows = host_block + ((const char *)m->data - b->block);
    for (int64_t i = 0; i < m->rows; i++)
        for (int64_t j = 0; j < m->cols; j++) values[i * m->cols + j] = value_at(rows, m, i, j);
    return values;
}

double *op_before(struct op_run *run, struct matrix m)
{
    struct op_buffer *b = find(run, &m);
    return dense(run, b->original, b, &m);
}

static char *download(struct op_run *run, const struct op_buffer *b)
{
    char *host = malloc(b->bytes);
    assert_non_null(host);
    assert_ok(device_copy_from(run->device, STREAM_COMPUTE, host, b->block, b->bytes));
    assert_ok(device_sync(run->device));
    return host;
}

double *op_now(struct op_run *run, struct matrix m)
{
    struct op_buffer *b = find(run, &m);
    char *host = download(run, b);
    double *values = dense(run, host, b, &m);
    free(host);
    return values;
}

void op_expect(struct op_run *run, const char *what, struct matrix m, const double *want, struct approx limit)
{
    char title[256];
    double *got = op_now(run, m);
    snprintf(title, sizeof title, "%s (%s, %s): %s", op_names[run->test->op], run->test->name,
             dtype_name(run->dtype), what);
    approx_check(title, limit, got, want, m.rows * m.cols);
    run->bits = hash64(got, (size_t)(m.rows * m.cols) * sizeof *got) ^ (run->bits * 31);
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

bool op_call(struct op_run *run, enum status (*call)(struct device *, const void *), const void *args,
             double work, double moved)
{
    assert_ok(call(run->device, args));
    run->work = work;
    run->bytes = moved;
    if (!run->bench) return true;
    double begin = seconds_now();
    /* on a GPU several at a time: the launch and the wait are not the operation's time */
    int calls = device_is_host(run->device) ? 1 : 20;
    run->seconds = INFINITY;
    for (int i = 0; i < 200 && (i < 5 || seconds_now() - begin < 0.4); i++) {
        double start = seconds_now();
        for (int c = 0; c < calls; c++) assert_ok(call(run->device, args));
        assert_ok(device_sync(run->device));
        run->seconds = fmin(run->seconds, (seconds_now() - start) / calls);
    }
    return false;
}

struct op_packing op_packing(struct op_run *run, const struct op_shape *shape)
{
    struct op_packing packing = {.host_positions = scrap(run, (size_t)shape->tokens * sizeof(int32_t))};
    int32_t count = 0, longest = 0;
    for (int64_t token = 0; token < shape->tokens;) {
        int32_t length = (int32_t)(shape->lengths[count] ? shape->lengths[count] : shape->tokens);
        for (int32_t i = 0; i < length; i++) packing.host_positions[token + i] = i;
        token += length;
        longest = length > longest ? length : longest;
        packing.start[++count] = (int32_t)token;
    }
    assert_int_equal(packing.start[count], shape->tokens);
    packing.sequences = (struct sequences){op_ints(run, count + 1, packing.start), count, longest};
    packing.positions = op_ints(run, shape->tokens, packing.host_positions);
    return packing;
}

/* Every byte outside the elements that the operation may write is what it was before the call. */
static void check_untouched(struct op_run *run, const struct op_buffer *b)
{
    char *now = download(run, b);
    size_t row = (size_t)b->device.cols * dtype_bytes(b->device.dtype);
    size_t step = (size_t)b->device.stride * dtype_bytes(b->device.dtype);
    for (size_t i = 0; i < b->bytes; i++) {
        size_t inside = i - REDZONE;
        bool writable = b->use != OP_IN && i >= REDZONE && i < b->bytes - REDZONE && inside % step < row;
        if (writable || now[i] == b->original[i]) continue;
        fail_msg("%s (%s): byte %lld of a buffer of [%lld, %lld] %s was written, which is %s",
                 op_names[run->test->op], run->test->name, (long long)inside, (long long)b->device.rows,
                 (long long)b->device.cols, dtype_name(b->device.dtype),
                 b->use == OP_IN ? "an input" : "outside the matrix");
    }
    free(now);
}

void op_case_run(struct op_run *run, struct device *device, const struct op_case *test, enum dtype dtype,
                 bool bench)
{
    memset(run, 0, sizeof *run);
    run->device = device;
    run->test = test;
    run->dtype = dtype;
    run->bench = bench;
    run->deterministic = !test_device_is_fast();
    test->body(run, &test->shape);
    for (int i = 0; i < run->n_buffers; i++) {
        if (!bench) check_untouched(run, &run->buffer[i]);
        device_free(device, run->buffer[i].block);
        free(run->buffer[i].original);
    }
    for (int i = 0; i < run->n_scrap; i++) free(run->scrap[i]);
}
