/*
 * panel.c: panel.h against a plain double-precision reference of its formulas, on the CPU with every kernel
 * that this processor can run, or on the GPU (LORAD_TEST_DEVICE=cuda): odd sizes, parts with and without an
 * adapter, bias, dropout.
 *
 * What a panel reads and writes is made and looked at on the host; each block has a mirror on the device.
 */
#include "support/test.h"
#include "support/test_device.h"
#include "support/tiles_emulated.h"

#include <math.h>

#include "base/random.h"
#include "kernels/cpu/gemm.h"
#include "kernels/panel.h"

enum { GUARD = 8, MOST_MIRRORS = 32 };
static const float SENTINEL = 12345;

struct shape {
    int64_t rows, in, out[PANEL_PARTS];
    int32_t rank[PANEL_PARTS], parts;
    enum dtype dtype, y_dtype, w_dtype; /* w: of the rows that are loaded */
    bool bias, needs_dx, adapter;
    float p;
    int threads;
};

static float uniform(uint64_t key, int64_t i)
{
    struct random_block block = random_philox(key, 7, (uint64_t)i);
    return 2 * random_unit_f32(block.word[0]) - 1;
}

static float rounded(float value, enum dtype dtype)
{
    if (dtype == DTYPE_F16) return f16_to_f32(f32_to_f16(value));
    return dtype == DTYPE_BF16 ? bf16_to_f32(f32_to_bf16(value)) : value;
}

static void put(struct matrix m, int64_t i, int64_t j, float value)
{
    int64_t at = i * m.stride + j;
    if (m.dtype == DTYPE_F32)
        ((float *)m.data)[at] = value;
    else
        ((uint16_t *)m.data)[at] = m.dtype == DTYPE_BF16 ? f32_to_bf16(value) : f32_to_f16(value);
}

static double get(struct matrix m, int64_t i, int64_t j)
{
    int64_t at = i * m.stride + j;
    if (m.dtype == DTYPE_F32) return (double)((float *)m.data)[at];
    uint16_t half = ((uint16_t *)m.data)[at];
    return (double)(m.dtype == DTYPE_BF16 ? bf16_to_f32(half) : f16_to_f32(half));
}

static struct matrix matrix_new(int64_t rows, int64_t cols, int64_t stride, enum dtype dtype)
{
    struct matrix m = matrix_of(NULL, dtype, rows, cols, stride);
    m.data = calloc((size_t)((rows + 1) * stride), dtype_bytes(dtype));
    assert_non_null(m.data);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < stride; j++) put(m, i, j, SENTINEL);
    return m;
}

static void matrix_fill(struct matrix m, uint64_t key, float size)
{
    for (int64_t i = 0; i < m.rows; i++)
        for (int64_t j = 0; j < m.cols; j++) put(m, i, j, size * uniform(key, i * m.cols + j));
}

/* A block of host memory and its copy on the device. */
struct mirror {
    void *host, *device;
    size_t bytes;
};

/* Everything of one case: inputs, what the panel wrote, and the reference. */
struct run {
    struct mirror mirror[MOST_MIRRORS];
    int mirrors;
    struct shape s;
    int64_t out, spare;
    struct device *device;
    struct panel *panel;
    void *scratch;
    struct matrix w, x, y, dy, dx;
    float *bias, *a[PANEL_PARTS], *b[PANEL_PARTS], *da[PANEL_PARTS], *db[PANEL_PARTS];
    int64_t *token;
    struct panel_dropout dropout;
    uint64_t key[PANEL_PARTS]; /* of the masks */
};

static const float scale = 1.75f;

static float *floats(int64_t n, uint64_t key, float size)
{
    float *values = malloc((size_t)n * sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < n; i++) values[i] = size * uniform(key, i);
    return values;
}

static void mirror_add(struct run *r, void *host, size_t bytes)
{
    assert_true(r->mirrors < MOST_MIRRORS);
    struct mirror *m = &r->mirror[r->mirrors++];
    *m = (struct mirror){.host = host, .bytes = bytes};
    assert_ok(device_alloc(&m->device, r->device, bytes));
}

static void mirror_matrix(struct run *r, struct matrix m)
{
    mirror_add(r, m.data, (size_t)((m.rows + 1) * m.stride) * dtype_bytes(m.dtype));
}

static void *on_device(const struct run *r, const void *host)
{
    for (int i = 0; i < r->mirrors; i++)
        if (r->mirror[i].host == host) return r->mirror[i].device;
    fail_msg("a block without a mirror");
    return NULL;
}

static struct matrix matrix_on_device(const struct run *r, struct matrix m)
{
    m.data = on_device(r, m.data);
    return m;
}

static void upload(struct run *r)
{
    for (int i = 0; i < r->mirrors; i++) {
        const struct mirror *m = &r->mirror[i];
        assert_ok(device_copy_to(r->device, STREAM_COMPUTE, m->device, m->host, m->bytes));
    }
}

static void download(struct run *r)
{
    for (int i = 0; i < r->mirrors; i++) {
        const struct mirror *m = &r->mirror[i];
        assert_ok(device_copy_from(r->device, STREAM_COMPUTE, m->host, m->device, m->bytes));
    }
    assert_ok(device_sync(r->device));
}

/* All parts that have an adapter, in one call. */
static void set_adapters(struct run *r, float factor)
{
    struct panel_adapter list[PANEL_PARTS];
    int32_t n = 0;
    upload(r);
    for (int i = 0; i < PANEL_PARTS; i++)
        if (r->a[i])
            list[n++] =
                (struct panel_adapter){r->panel, i, on_device(r, r->a[i]), on_device(r, r->b[i]), factor};
    assert_ok(panel_set_adapters(list, n));
}

/* NaN everywhere: nothing may rely on what scratch holds. */
static void spoil_scratch(struct run *r, size_t bytes)
{
    void *nan = malloc(bytes);
    assert_non_null(nan);
    memset(nan, 0xff, bytes);
    assert_ok(device_copy_to(r->device, STREAM_COMPUTE, r->scratch, nan, bytes));
    assert_ok(device_sync(r->device));
    free(nan);
}

/* The CPU anew for every run, with its threads; a GPU once, since opening it takes longer than a run. */
static struct device *device_for(const struct shape *s)
{
    static struct device *gpu;
    if (test_device_is_cpu()) return test_device_open(s->threads);
    if (!gpu) gpu = test_device_open(0);
    return gpu;
}

static void run_open(struct run *r, struct shape s)
{
    *r = (struct run){.s = s};
    struct panel_spec spec = {.in = s.in,
                              .n_parts = s.parts,
                              .dtype = s.dtype,
                              .y_dtype = s.y_dtype,
                              .bias = s.bias,
                              .needs_dx = s.needs_dx,
                              .max_tokens = s.rows + 3};
    for (int i = 0; i < s.parts; i++) {
        spec.part[i] = (struct panel_part){.out = s.out[i], .rank = s.rank[i]};
        r->out += s.out[i];
    }
    r->spare = panel_spare(&spec);
    r->device = device_for(&s);
    size_t weights_bytes, scratch_bytes;
    panel_bytes(device_backend(r->device), &spec, &weights_bytes, &scratch_bytes);
    assert_true(weights_bytes > 0 && scratch_bytes > 0);
    assert_ok(device_alloc(&r->scratch, r->device, scratch_bytes));
    spoil_scratch(r, scratch_bytes);
    assert_ok(panel_create(&r->panel, r->device, &spec, r->scratch));

    r->w = matrix_new(r->out, s.in, s.in + 5, s.w_dtype);
    matrix_fill(r->w, 1, 1 / sqrtf((float)s.in));
    int64_t first = 0;
    for (int i = 0; i < s.parts; i++) {
        int64_t half = s.out[i] / 2;
        assert_ok(
            panel_load_rows(r->panel, i, half, matrix_part(r->w, first + half, s.out[i] - half, 0, s.in)));
        assert_ok(panel_load_rows(r->panel, i, 0, matrix_part(r->w, first, half, 0, s.in)));
        first += s.out[i];
    }
    r->bias = floats(r->out, 2, 1);
    first = 0;
    for (int i = 0; i < s.parts; i++) {
        if (s.bias) assert_ok(panel_load_bias(r->panel, i, 0, s.out[i], r->bias + first));
        first += s.out[i];
    }
    assert_ok(panel_seal(r->panel));
    for (int i = 0; i < s.parts; i++) {
        if (!s.rank[i]) continue;
        int64_t n_a = s.rank[i] * s.in, n_b = s.rank[i] * s.out[i];
        r->a[i] = floats(n_a, 10 + (uint64_t)i, 1);
        r->b[i] = floats(n_b, 20 + (uint64_t)i, 0.3f);
        r->da[i] = floats(n_a, 30 + (uint64_t)i, 0.1f);
        r->db[i] = floats(n_b, 40 + (uint64_t)i, 0.1f);
        float *const factors[] = {r->a[i], r->da[i], r->b[i], r->db[i]};
        for (int f = 0; f < 4; f++) mirror_add(r, factors[f], (size_t)(f < 2 ? n_a : n_b) * sizeof(float));
    }
    set_adapters(r, 3); /* the second call replaces the first */
    set_adapters(r, scale);
    for (int i = 0; i < PANEL_PARTS; i++) r->key[i] = 5 + (uint64_t)i;
    mirror_add(r, r->key, sizeof r->key);
    r->token = malloc((size_t)s.rows * sizeof *r->token);
    mirror_add(r, r->token, (size_t)s.rows * sizeof *r->token);
    for (int64_t t = 0; t < s.rows; t++) r->token[t] = 1000 - 3 * t;
    r->dropout = (struct panel_dropout){.p = s.p,
                                        .key = on_device(r, r->key),
                                        .token_index = on_device(r, r->token),
                                        .col_first = s.in >= 24 ? 8 : 0};
    r->x = matrix_new(s.rows, s.in, s.in + r->spare + GUARD, s.dtype);
    r->dy = matrix_new(s.rows, r->out, r->out + r->spare + GUARD, s.dtype);
    r->y = matrix_new(s.rows, r->out, r->out + GUARD, s.y_dtype);
    r->dx = matrix_new(s.rows, s.in, s.in + GUARD, s.dtype);
    matrix_fill(r->x, 50, 1);
    matrix_fill(r->dy, 60, 1);
    const struct matrix all[] = {r->x, r->dy, r->y, r->dx};
    for (int i = 0; i < 4; i++) mirror_matrix(r, all[i]);
}

static void run_go(struct run *r)
{
    struct matrix x = matrix_on_device(r, r->x), dy = matrix_on_device(r, r->dy);
    upload(r);
    const struct panel_dropout *dropout = r->s.p > 0 ? &r->dropout : NULL;
    assert_ok(panel_forward(
        r->panel, &(struct panel_forward){
                      .x = x, .y = matrix_on_device(r, r->y), .adapter = r->s.adapter, .dropout = dropout}));
    struct panel_backward back = {
        .x = x, .u = matrix_part(x, 0, r->s.rows, r->s.in, r->spare), .dy = dy, .dropout = dropout};
    if (r->s.needs_dx) back.dx = matrix_on_device(r, r->dx);
    for (int i = 0; i < PANEL_PARTS; i++) {
        if (!r->s.rank[i]) continue;
        back.da[i] = on_device(r, r->da[i]);
        back.db[i] = on_device(r, r->db[i]);
    }
    if (r->s.adapter) assert_ok(panel_backward(r->panel, &back));
    download(r);
}

static void run_close(struct run *r)
{
    panel_destroy(r->panel);
    device_free(r->device, r->scratch);
    for (int i = 0; i < r->mirrors; i++) device_free(r->device, r->mirror[i].device);
    if (test_device_is_cpu()) device_close(r->device);
    free(r->w.data);
    free(r->x.data);
    free(r->y.data);
    free(r->dy.data);
    free(r->dx.data);
    free(r->bias);
    free(r->token);
    for (int i = 0; i < PANEL_PARTS; i++) {
        free(r->a[i]);
        free(r->b[i]);
        free(r->da[i]);
        free(r->db[i]);
    }
}

/* Relative error in the Frobenius norm, collected over a tensor. */
struct error {
    double difference, size;
};

static void error_add(struct error *e, double value, double expected)
{
    e->difference += (value - expected) * (value - expected);
    e->size += expected * expected;
}

/* f32: sums of a few thousand products. bf16: an output is rounded once (2^-9 at most, 1.7e-3 in the mean), u
 * and g once more, under dropout the adapter's part of dx too on a GPU; f32 outputs of bf16 inputs see only
 * the rounding of u, g, A and sB. f16 has three bits more. */
static void error_check(const struct error *e, const struct shape *s, const char *what)
{
    double limit = s->dtype == DTYPE_F32 ? 2e-6 : s->dtype == DTYPE_BF16 ? 4e-3 : 5e-4;
    double error = sqrt(e->difference / (e->size + 1e-30));
    if (!(error < limit))
        fail_msg("%s is off by %g (limit %g): %s %s, %lld x %lld", what, error, limit, dtype_name(s->dtype),
                 test_device_is_cpu() ? gemm_kernel(s->dtype)->name : test_device_kind(), (long long)s->rows,
                 (long long)s->in);
}

static double keep(const struct run *r, int part, int64_t t, int64_t c)
{
    if (r->s.p == 0) return 1;
    return panel_dropout_keep(r->key[part], r->token[t], r->dropout.col_first + c, r->s.p) ? 1 / (1 - r->s.p)
                                                                                           : 0;
}

/* u and g as the formulas give them, in double from the panel's inputs; `first` their column. */
static double *reference_u(const struct run *r, int part)
{
    int64_t rank = r->s.rank[part];
    double *u = calloc((size_t)(r->s.rows * rank), sizeof *u);
    for (int64_t t = 0; t < r->s.rows; t++)
        for (int64_t c = 0; c < r->s.in; c++) {
            double x = get(r->x, t, c) * keep(r, part, t, c);
            for (int64_t i = 0; i < rank; i++)
                u[t * rank + i] += x * (double)rounded(r->a[part][i * r->s.in + c], r->s.dtype);
        }
    return u;
}

static double *reference_g(const struct run *r, int part, int64_t out_first)
{
    int64_t rank = r->s.rank[part];
    double *g = calloc((size_t)(r->s.rows * rank), sizeof *g);
    for (int64_t t = 0; t < r->s.rows; t++)
        for (int64_t o = 0; o < r->s.out[part]; o++)
            for (int64_t i = 0; i < rank; i++)
                g[t * rank + i] += get(r->dy, t, out_first + o) *
                                   (double)rounded(scale * r->b[part][o * rank + i], r->s.dtype);
    return g;
}

static void check_spare(const struct run *r, struct matrix m, const char *name)
{
    int32_t used = 0;
    for (int i = 0; i < r->s.parts; i++) used += r->s.adapter ? r->s.rank[i] : 0;
    for (int64_t t = 0; t < m.rows; t++) {
        for (int64_t c = used; c < r->spare; c++)
            if (get(m, t, m.cols + c) != 0) fail_msg("padding of %s is not zero", name);
        for (int64_t c = r->spare; c < r->spare + GUARD; c++)
            if (get(m, t, m.cols + c) != (double)rounded(SENTINEL, m.dtype))
                fail_msg("%s: written behind", name);
    }
}

static void check_part(const struct run *r, int part, int64_t out_first, int64_t rank_first, double *y,
                       double *dx)
{
    const struct shape *s = &r->s;
    int64_t rank = s->rank[part];
    double *u = reference_u(r, part), *g = reference_g(r, part, out_first);
    struct error u_error = {0, 0}, g_error = {0, 0}, da_error = {0, 0}, db_error = {0, 0};
    for (int64_t t = 0; t < s->rows; t++)
        for (int64_t i = 0; i < rank; i++) {
            error_add(&u_error, get(r->x, t, s->in + rank_first + i), u[t * rank + i]);
            error_add(&g_error, get(r->dy, t, r->out + rank_first + i), g[t * rank + i]);
        }
    error_check(&u_error, s, "u");
    error_check(&g_error, s, "g");
    float *da_before = floats(rank * s->in, 30 + (uint64_t)part, 0.1f);
    float *db_before = floats(rank * s->out[part], 40 + (uint64_t)part, 0.1f);
    for (int64_t i = 0; i < rank; i++)
        for (int64_t c = 0; c < s->in; c++) {
            double sum = (double)da_before[i * s->in + c];
            for (int64_t t = 0; t < s->rows; t++) {
                double both = g[t * rank + i] * keep(r, part, t, c);
                sum += both * get(r->x, t, c);
                dx[t * s->in + c] += both * (double)rounded(r->a[part][i * s->in + c], s->dtype);
            }
            error_add(&da_error, (double)r->da[part][i * s->in + c], sum);
        }
    for (int64_t o = 0; o < s->out[part]; o++)
        for (int64_t i = 0; i < rank; i++) {
            double sum = (double)db_before[o * rank + i];
            double sb = (double)rounded(scale * r->b[part][o * rank + i], s->dtype);
            for (int64_t t = 0; t < s->rows; t++) {
                sum += (double)scale * get(r->dy, t, out_first + o) * u[t * rank + i];
                y[t * r->out + out_first + o] += u[t * rank + i] * sb;
            }
            error_add(&db_error, (double)r->db[part][o * rank + i], sum);
        }
    error_check(&da_error, s, "dA");
    error_check(&db_error, s, "dB");
    free(u);
    free(g);
    free(da_before);
    free(db_before);
}

static void run_check(const struct run *r)
{
    const struct shape *s = &r->s;
    double *y = calloc((size_t)(s->rows * r->out), sizeof *y),
           *dx = calloc((size_t)(s->rows * s->in), sizeof *dx);
    for (int64_t t = 0; t < s->rows; t++)
        for (int64_t o = 0; o < r->out; o++) {
            double sum = s->bias ? (double)r->bias[o] : 0, back = get(r->dy, t, o);
            for (int64_t c = 0; c < s->in; c++) {
                double w = (double)rounded((float)get(r->w, o, c), s->dtype);
                sum += get(r->x, t, c) * w;
                dx[t * s->in + c] += back * w;
            }
            y[t * r->out + o] = sum;
        }
    int64_t out_first = 0, rank_first = 0;
    for (int i = 0; i < s->parts; i++) {
        if (s->rank[i] && s->adapter) check_part(r, i, out_first, rank_first, y, dx);
        out_first += s->out[i];
        rank_first += s->rank[i];
    }
    struct error y_error = {0, 0}, dx_error = {0, 0};
    for (int64_t t = 0; t < s->rows; t++) {
        for (int64_t o = 0; o < r->out; o++) error_add(&y_error, get(r->y, t, o), y[t * r->out + o]);
        for (int64_t c = 0; c < s->in; c++) error_add(&dx_error, get(r->dx, t, c), dx[t * s->in + c]);
        for (int64_t j = 0; j < GUARD; j++) {
            if (get(r->y, t, r->out + j) != (double)rounded(SENTINEL, s->y_dtype))
                fail_msg("written behind y");
            if (get(r->dx, t, s->in + j) != (double)rounded(SENTINEL, s->dtype))
                fail_msg("written behind dx");
        }
    }
    error_check(&y_error, s, "y");
    check_spare(r, r->x, "u");
    if (s->adapter) {
        if (s->needs_dx) error_check(&dx_error, s, "dx");
        check_spare(r, r->dy, "g");
    }
    free(y);
    free(dx);
}

static const struct shape shapes[] = {
    {.rows = 1, .in = 8, .out = {8}, .rank = {1}, .parts = 1, .adapter = true, .needs_dx = true},
    {.rows = 1,
     .in = 96,
     .out = {160},
     .rank = {8},
     .parts = 1,
     .adapter = true,
     .needs_dx = true,
     .bias = true},
    {.rows = 37, .in = 88, .out = {56}, .rank = {16}, .parts = 1, .adapter = true, .needs_dx = true},
    {.rows = 61,
     .in = 72,
     .out = {40, 24, 8},
     .rank = {8, 0, 3},
     .parts = 3,
     .adapter = true,
     .needs_dx = true,
     .bias = true},
    {.rows = 61,
     .in = 72,
     .out = {40, 24, 8},
     .rank = {8, 0, 3},
     .parts = 3,
     .adapter = false,
     .needs_dx = true},
    {.rows = 45,
     .in = 72,
     .out = {33, 31, 64},
     .rank = {16, 16, 16},
     .parts = 3,
     .adapter = true,
     .needs_dx = true,
     .p = 0.25f},
    {.rows = 29, .in = 40, .out = {48}, .rank = {5}, .parts = 1, .adapter = true, .needs_dx = false},
    {.rows = 29,
     .in = 40,
     .out = {48, 48},
     .rank = {4, 4},
     .parts = 2,
     .adapter = true,
     .needs_dx = false,
     .p = 0.1f},
    {.rows = 33, .in = 104, .out = {120}, .rank = {0}, .parts = 1, .adapter = true, .needs_dx = true},
    {.rows = 300, .in = 2120, .out = {72}, .rank = {20}, .parts = 1, .adapter = true, .needs_dx = true},
    {.rows = 530,
     .in = 64,
     .out = {296},
     .rank = {9},
     .parts = 1,
     .adapter = true,
     .needs_dx = true,
     .p = 0.5f},
};

/* More columns of R than a block of a GPU sums at once, and than its own kernels take; sums in ranges. */
static const struct shape gpu_shapes[] = {
    {.rows = 131, .in = 264, .out = {136, 60, 4}, .rank = {40, 61, 3}, .parts = 3, .bias = true},
    {.rows = 70, .in = 136, .out = {72, 80, 8}, .rank = {64, 64, 8}, .parts = 3},
    {.rows = 70, .in = 136, .out = {24, 8}, .rank = {7, 130}, .parts = 2, .p = 0.3f},
    {.rows = 270, .in = 584, .out = {264, 8}, .rank = {12, 1}, .parts = 2, .p = 0.3f},
};

static const struct {
    enum dtype dtype;
    const char *name;
} kernels[] = {
    {DTYPE_F32, "openblas"}, {DTYPE_F32, "avx512"},        {DTYPE_F32, "avx2"},    {DTYPE_F32, "generic"},
    {DTYPE_BF16, "amx"},     {DTYPE_BF16, "avx512_bf16"},  {DTYPE_BF16, "avx512"}, {DTYPE_BF16, "avx2"},
    {DTYPE_BF16, "generic"}, {DTYPE_BF16, "amx emulated"},
};

/* Runs body with every kernel of this processor in force; on a GPU, once for every dtype. */
static void for_each_kernel(void (*body)(enum dtype dtype))
{
    if (!test_device_is_cpu()) {
        body(DTYPE_F32);
        body(DTYPE_BF16);
        body(DTYPE_F16);
        return;
    }
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++) {
        enum dtype dtype = kernels[i].dtype;
        const struct gemm_kernel *kernel = strcmp(kernels[i].name, "amx emulated") == 0
                                               ? tiles_emulated()
                                               : gemm_kernel_named(dtype, kernels[i].name);
        if (!kernel) {
            print_message("%s is not for this processor\n", kernels[i].name);
            continue;
        }
        gemm_kernel_force(dtype, kernel);
        body(dtype);
        gemm_kernel_force(dtype, NULL);
    }
}

static void run_shape(struct shape s)
{
    struct run r;
    run_open(&r, s);
    run_go(&r);
    run_check(&r);
    run_close(&r);
}

static void every_shape(enum dtype dtype)
{
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int wide = 0; wide < (dtype == DTYPE_F32 ? 1 : 2); wide++) {
            struct shape s = shapes[i];
            s.dtype = dtype;
            s.y_dtype = wide ? DTYPE_F32 : dtype;
            s.w_dtype = (enum dtype[]){dtype, DTYPE_F32, DTYPE_F16, DTYPE_BF16}[i % 4];
            s.threads = 1 + (int)(i % 2);
            run_shape(s);
        }
    for (size_t i = 0; i < sizeof gpu_shapes / sizeof gpu_shapes[0] && !test_device_is_cpu(); i++) {
        struct shape s = gpu_shapes[i];
        s.dtype = s.y_dtype = s.w_dtype = dtype;
        s.adapter = s.needs_dx = true;
        run_shape(s);
    }
}

static void panels_follow_the_formulas(void **state)
{
    (void)state;
    for_each_kernel(every_shape);
}

static void same(struct matrix a, struct matrix b)
{
    assert_memory_equal(a.data, b.data, (size_t)(a.rows * a.stride) * dtype_bytes(a.dtype));
}

static void same_for_threads(enum dtype dtype)
{
    for (int i = 0; i < 2; i++) { /* without and with dropout */
        struct shape s = {.rows = 70, .in = 136, .out = {264, 40, 336}, .rank = {8, 0, 16}, .parts = 3};
        s.dtype = s.y_dtype = s.w_dtype = dtype;
        s.adapter = s.needs_dx = true;
        s.p = i ? 0.2f : 0;
        struct run one;
        s.threads = 1;
        test_device_turn(0);
        run_open(&one, s);
        run_go(&one);
        for (s.threads = 2; s.threads <= 3; s.threads++) {
            struct run r;
            test_device_turn(s.threads - 1);
            run_open(&r, s);
            run_go(&r);
            same(r.x, one.x);
            same(r.y, one.y);
            same(r.dy, one.dy);
            same(r.dx, one.dx);
            for (int part = 0; part < 3; part += 2) {
                size_t rank = (size_t)s.rank[part];
                assert_memory_equal(r.da[part], one.da[part], rank * (size_t)s.in * sizeof(float));
                assert_memory_equal(r.db[part], one.db[part], rank * (size_t)s.out[part] * sizeof(float));
            }
            run_close(&r);
        }
        run_close(&one);
    }
}

/* On a GPU they are the same every time. */
static void bits_do_not_depend_on_threads(void **state)
{
    (void)state;
    for_each_kernel(same_for_threads);
}

/* sum of y * dy, which the backward differentiates. */
static double objective(struct run *r)
{
    upload(r);
    assert_ok(panel_forward(r->panel, &(struct panel_forward){.x = matrix_on_device(r, r->x),
                                                              .y = matrix_on_device(r, r->y),
                                                              .adapter = true,
                                                              .dropout = &r->dropout}));
    download(r);
    double sum = 0;
    for (int64_t t = 0; t < r->s.rows; t++)
        for (int64_t o = 0; o < r->out; o++) sum += get(r->y, t, o) * get(r->dy, t, o);
    return sum;
}

/* The objective is linear in each value, so central differences are exact but for rounding. */
static double slope(struct run *r, float *value, bool adapter)
{
    const float step = 0.25f;
    float before = *value;
    double ends[2];
    for (int i = 0; i < 2; i++) {
        *value = before + (i ? -step : step);
        if (adapter) set_adapters(r, scale);
        ends[i] = objective(r);
    }
    *value = before;
    if (adapter) set_adapters(r, scale);
    return (ends[0] - ends[1]) / (2 * (double)step);
}

static void check_slope(double measured, double written)
{
    if (!(fabs(measured - written) < 1e-4)) fail_msg("slope %g, gradient %g", measured, written);
}

static void backward_is_the_slope_of_forward(void **state)
{
    (void)state;
    enum { ROWS = 9, IN = 16, OUT = 24, RANK = 4 };
    struct shape s = {.rows = ROWS, .in = IN, .out = {OUT}, .rank = {RANK}, .parts = 1};
    s.dtype = s.y_dtype = s.w_dtype = DTYPE_F32;
    s.adapter = s.needs_dx = true;
    s.p = 0.3f;
    s.threads = 1;
    struct run r;
    run_open(&r, s);
    memset(r.da[0], 0, RANK * IN * sizeof(float));
    memset(r.db[0], 0, OUT * RANK * sizeof(float));
    run_go(&r);
    for (int i = 0; i < RANK * IN; i += 5) {
        check_slope(slope(&r, &r.a[0][i], true), (double)r.da[0][i]);
        check_slope(slope(&r, &r.b[0][i], true), (double)r.db[0][i]);
    }
    for (int t = 0; t < ROWS; t += 2)
        for (int c = 0; c < IN; c += 3)
            check_slope(slope(&r, (float *)r.x.data + t * r.x.stride + c, false), get(r.dx, t, c));
    run_close(&r);
}

static void broken_contracts_are_named(void **state)
{
    (void)state;
    struct shape s = {.rows = 4, .in = 16, .out = {8}, .rank = {4}, .parts = 1, .adapter = true};
    s.dtype = s.y_dtype = s.w_dtype = DTYPE_F32;
    s.threads = 1;
    struct run r;
    run_open(&r, s);
    struct panel_forward forward = {.x = r.x, .y = r.y, .adapter = true};
    forward.x.stride = s.in;
    assert_fails(panel_forward(r.panel, &forward), LORAD_BUG, "x is f32 [4, 16] with stride 16");
    forward.x = r.x;
    forward.x.rows = forward.y.rows = 99;
    assert_fails(panel_forward(r.panel, &forward), LORAD_BUG, "99 rows");
    struct panel_backward backward = {.x = r.x,
                                      .u = matrix_part(r.x, 0, s.rows, s.in, r.spare),
                                      .dy = r.dy,
                                      .dx = r.dx,
                                      .da = {r.da[0]},
                                      .db = {r.db[0]}};
    assert_fails(panel_backward(r.panel, &backward), LORAD_BUG, "needs_dx");
    backward.dx.data = NULL;
    backward.db[0] = NULL;
    assert_fails(panel_backward(r.panel, &backward), LORAD_BUG, "one of dA and dB");
    assert_fails(panel_load_rows(r.panel, 0, 0, r.w), LORAD_BUG, "sealed");
    struct panel_adapter absent = {r.panel, 1, r.a[0], r.b[0], 1};
    assert_fails(panel_set_adapters(&absent, 1), LORAD_BUG, "no adapter");
    run_close(&r);
    struct panel *panel = NULL;
    struct panel_spec spec = {.in = 12, .n_parts = 1, .part = {{.out = 8}}, .max_tokens = 1};
    assert_fails(panel_create(&panel, NULL, &spec, NULL), LORAD_BUG, "multiple of 8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(panels_follow_the_formulas),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(backward_is_the_slope_of_forward),
        cmocka_unit_test(broken_contracts_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
