/*
 * panel.c: what a panel's products cost on the GPU, piece by piece. Program bench_panel; not a test.
 *
 *     bench_panel [--rank R] [--tokens T,T,...] [--shape IN:OUT[,OUT[,OUT]]] [--square N] [--seconds S]
 *
 * For the projections of Llama-2-7B and Llama-3-8B (or one shape) and every T it times, each for S seconds
 * (0.1): the base product alone, with the adapter concatenated in K, and with the adapter added by a second
 * product (beta = 1); u, g, dA, dB by our kernels and by the library; and those under dropout. First and last
 * it says what a large square product sustains for LORAD_BENCH_SECONDS (10). All bf16, of random numbers,
 * which cost a GPU more power, hence speed, than zeros. Operands rotate over more memory than caches hold.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/cuda/products.h"
#include "support/test_device.h"

enum { MOST_SHAPES = 16, RANDOM_BYTES = 8 << 20, BATCHES = 3, PITCH = 64 };
static const int64_t FOOTPRINT_BYTES = (int64_t)256 << 20; /* that a sequence of calls should touch */

struct shape {
    const char *name;
    int64_t in, out[PANEL_PARTS];
};

static const struct shape llama[] = {
    {"7B qkv", 4096, {4096, 4096, 4096}}, {"8B qkv", 4096, {4096, 1024, 1024}}, {"o", 4096, {4096}},
    {"7B gate up", 4096, {11008, 11008}}, {"8B gate up", 4096, {14336, 14336}}, {"7B down", 11008, {4096}},
    {"8B down", 14336, {4096}},
};

struct options {
    struct shape shape[MOST_SHAPES];
    int64_t tokens[MOST_SHAPES], square;
    int shapes, token_counts;
    int32_t rank;
    double seconds;
};

/* One shape at one T: everything on the device. */
struct work {
    struct device *device;
    const struct cuda_products *products;
    struct panel *panel;
    struct panel_spec spec;
    int64_t tokens, out, spare, copies;
    struct matrix all;          /* [out + R, in + R] */
    struct matrix x, y, dy, dx; /* [copies * T, ...]; x and dy with R columns behind */
    float *da[PANEL_PARTS], *db[PANEL_PARTS];
    int64_t *token_index;
    uint32_t *bits;
    struct panel_dropout dropout;
    void *block[24]; /* what is freed in the end */
    int blocks;
};

static void check(enum status status)
{
    if (status == LORAD_OK) return;
    fprintf(stderr, "bench_panel: %s\n", status_message());
    exit(status_exit_code(status));
}

static void *room(struct work *w, int64_t bytes)
{
    void **block = &w->block[w->blocks++];
    check(device_alloc(block, w->device, (size_t)bytes));
    return *block;
}

/* Random bf16 numbers in [-1, 1), a block of them again and again. */
static void *random_room(struct work *w, int64_t bytes)
{
    static uint16_t *values;
    if (!values) {
        values = memory_new(RANDOM_BYTES, 1);
        if (!values) check(LORAD_NOMEM);
        for (uint64_t i = 0; i < RANDOM_BYTES / 2; i++)
            values[i] = f32_to_bf16(2 * random_unit_f32(random_philox(1, 2, i).word[0]) - 1);
    }
    char *to = room(w, bytes);
    for (int64_t done = 0; done < bytes; done += RANDOM_BYTES) {
        int64_t n = bytes - done < RANDOM_BYTES ? bytes - done : RANDOM_BYTES;
        check(device_copy_to(w->device, STREAM_COMPUTE, to + done, values, (size_t)n));
    }
    check(device_sync(w->device));
    return to;
}

static struct matrix random_matrix(struct work *w, int64_t rows, int64_t cols, int64_t stride)
{
    return matrix_of(random_room(w, rows * stride * 2), DTYPE_BF16, rows, cols, stride);
}

static void work_close(struct work *w)
{
    panel_destroy(w->panel);
    for (int i = 0; i < w->blocks; i++) device_free(w->device, w->block[i]);
}

static void panel_open(struct work *w, const struct options *o, const struct shape *shape)
{
    w->spec = (struct panel_spec){.in = shape->in,
                                  .dtype = DTYPE_BF16,
                                  .y_dtype = DTYPE_BF16,
                                  .needs_dx = true,
                                  .max_tokens = w->tokens};
    for (int i = 0; i < PANEL_PARTS && shape->out[i]; i++) {
        w->spec.part[w->spec.n_parts++] = (struct panel_part){.out = shape->out[i], .rank = o->rank};
        w->out += shape->out[i];
    }
    w->spare = panel_spare(&w->spec);
    size_t weights_bytes, scratch_bytes;
    panel_bytes(device_backend(w->device), &w->spec, &weights_bytes, &scratch_bytes);
    check(panel_create(&w->panel, w->device, &w->spec, room(w, (int64_t)scratch_bytes)));
}

static void work_open(struct work *w, const struct options *o, const struct shape *shape, int64_t tokens)
{
    w->tokens = tokens;
    panel_open(w, o, shape);
    int64_t in = shape->in, narrow = in < w->out ? in : w->out,
            pitch = (in + w->spare + PITCH - 1) / PITCH * PITCH;
    w->copies = (FOOTPRINT_BYTES + tokens * narrow * 2 - 1) / (tokens * narrow * 2);
    if (o->seconds == 0) w->copies = 1;
    int64_t rows = tokens * w->copies;
    w->all = random_matrix(w, w->out + w->spare, in + w->spare, pitch);
    w->x = random_matrix(w, rows, in, in + w->spare);
    w->dy = random_matrix(w, rows, w->out, w->out + w->spare);
    w->y = random_matrix(w, rows, w->out, w->out);
    w->dx = random_matrix(w, rows, in, in);
    for (int i = 0; i < w->spec.n_parts; i++) {
        w->da[i] = room(w, o->rank * in * 4);
        w->db[i] = room(w, o->rank * w->spec.part[i].out * 4);
    }
    w->token_index = room(w, tokens * 8); /* zeros: one token's mask for all costs the same */
    w->bits = room(w, (int64_t)w->products->mask_bytes(w->spec.n_parts, tokens, in));
    w->dropout = (struct panel_dropout){.p = 0.05f,
                                        .key = room(w, PANEL_PARTS * 8), /* zeros too */
                                        .token_index = w->token_index};
}

/* The rows that call `n` works on. */
static struct matrix rows_of(const struct work *w, struct matrix m, int64_t n)
{
    return matrix_part(m, n % w->copies * w->tokens, w->tokens, 0, m.cols);
}

static struct matrix spare_of(const struct work *w, struct matrix m)
{
    return matrix_part(m, 0, m.rows, m.cols, w->spare);
}

static struct matrix with_spare(const struct work *w, struct matrix m)
{
    return matrix_part(m, 0, m.rows, 0, m.cols + w->spare);
}

static struct matrix part_of_all(const struct work *w, int64_t row, int64_t rows, int64_t col, int64_t cols)
{
    return matrix_part(w->all, row, rows, col, cols);
}

static void multiply(struct work *w, struct matrix a, struct matrix b, bool turn_b, struct matrix d,
                     float beta)
{
    check(w->products->product(
        w->device,
        &(struct cuda_product){.a = a, .b = b, .d = d, .turn_b = turn_b, .alpha = 1, .beta = beta}));
}

/* The measured calls. `n` counts them. */

static void forward_base(struct work *w, int64_t n)
{
    multiply(w, rows_of(w, w->x, n), part_of_all(w, 0, w->out, 0, w->spec.in), true, rows_of(w, w->y, n), 0);
}

static void forward_joined(struct work *w, int64_t n)
{
    multiply(w, with_spare(w, rows_of(w, w->x, n)), part_of_all(w, 0, w->out, 0, w->spec.in + w->spare), true,
             rows_of(w, w->y, n), 0);
}

static void forward_added(struct work *w, int64_t n)
{
    forward_base(w, n);
    multiply(w, spare_of(w, rows_of(w, w->x, n)), part_of_all(w, 0, w->out, w->spec.in, w->spare), true,
             rows_of(w, w->y, n), 1);
}

static void backward_base(struct work *w, int64_t n)
{
    multiply(w, rows_of(w, w->dy, n), part_of_all(w, 0, w->out, 0, w->spec.in), false, rows_of(w, w->dx, n),
             0);
}

static void backward_joined(struct work *w, int64_t n)
{
    multiply(w, with_spare(w, rows_of(w, w->dy, n)), part_of_all(w, 0, w->out + w->spare, 0, w->spec.in),
             false, rows_of(w, w->dx, n), 0);
}

static void backward_added(struct work *w, int64_t n)
{
    backward_base(w, n);
    multiply(w, spare_of(w, rows_of(w, w->dy, n)), part_of_all(w, w->out, w->spare, 0, w->spec.in), false,
             rows_of(w, w->dx, n), 1);
}

static void backward_onto(struct work *w, int64_t n)
{
    struct cuda_product product = {.a = rows_of(w, w->dy, n),
                                   .b = part_of_all(w, 0, w->out, 0, w->spec.in),
                                   .d = rows_of(w, w->dx, n),
                                   .alpha = 1,
                                   .beta = 1};
    check(w->products->choose(w->device, &product));
    check(w->products->product(w->device, &product));
}

static struct matrix a_of(const struct work *w)
{
    return part_of_all(w, w->out, w->spare, 0, w->spec.in);
}

static struct matrix sb_of(const struct work *w)
{
    return part_of_all(w, 0, w->out, w->spec.in, w->spare);
}

static void u_own(struct work *w, int64_t n)
{
    struct matrix x = rows_of(w, w->x, n);
    check(w->products->u(w->panel, x, a_of(w), NULL, 1, spare_of(w, x)));
}

static void u_library(struct work *w, int64_t n)
{
    struct matrix x = rows_of(w, w->x, n);
    multiply(w, x, a_of(w), true, spare_of(w, x), 0);
}

static void g_own(struct work *w, int64_t n)
{
    struct matrix dy = rows_of(w, w->dy, n);
    check(w->products->g(w->panel, dy, sb_of(w), spare_of(w, dy)));
}

static void g_library(struct work *w, int64_t n)
{
    struct matrix dy = rows_of(w, w->dy, n);
    multiply(w, dy, sb_of(w), false, spare_of(w, dy), 0);
}

static struct matrix any_g(const struct work *w, int64_t n)
{
    return spare_of(w, rows_of(w, w->dy, n));
}

static void da_own(struct work *w, int64_t n)
{
    check(w->products->da(w->panel, any_g(w, n), rows_of(w, w->x, n), NULL, 1, w->da));
}

static void db_own(struct work *w, int64_t n)
{
    static const float scale[PANEL_PARTS] = {2, 2, 2};
    check(w->products->db(w->panel, spare_of(w, rows_of(w, w->x, n)), rows_of(w, w->dy, n), scale, w->db));
}

/* A product with the left matrix turned, added to a gradient. */
static void gather_library(struct work *w, struct matrix a, struct matrix b, float *d)
{
    check(w->products->product(w->device,
                               &(struct cuda_product){.a = a,
                                                      .b = b,
                                                      .d = matrix_of(d, DTYPE_F32, a.cols, b.cols, b.cols),
                                                      .turn_a = true,
                                                      .alpha = 1,
                                                      .beta = 1}));
}

static void da_library(struct work *w, int64_t n)
{
    int32_t rank = w->spec.part[0].rank;
    for (int i = 0; i < w->spec.n_parts; i++)
        gather_library(w, matrix_part(any_g(w, n), 0, w->tokens, i * rank, rank), rows_of(w, w->x, n),
                       w->da[i]);
}

static void db_library(struct work *w, int64_t n)
{
    int32_t rank = w->spec.part[0].rank;
    struct matrix dy = rows_of(w, w->dy, n), u = spare_of(w, rows_of(w, w->x, n));
    int64_t first = 0;
    for (int i = 0; i < w->spec.n_parts; i++) {
        gather_library(w, matrix_part(dy, 0, w->tokens, first, w->spec.part[i].out),
                       matrix_part(u, 0, w->tokens, i * rank, rank), w->db[i]);
        first += w->spec.part[i].out;
    }
}

static void mask(struct work *w, int64_t n)
{
    (void)n;
    check(w->products->mask(w->panel, &w->dropout, w->tokens, w->bits));
}

static void u_masked(struct work *w, int64_t n)
{
    struct matrix x = rows_of(w, w->x, n);
    check(w->products->u(w->panel, x, a_of(w), w->bits, 1, spare_of(w, x)));
}

static void da_masked(struct work *w, int64_t n)
{
    check(w->products->da(w->panel, any_g(w, n), rows_of(w, w->x, n), w->bits, 1, w->da));
}

static void dx_masked(struct work *w, int64_t n)
{
    check(w->products->dx(w->panel, any_g(w, n), a_of(w), w->bits, 1, rows_of(w, w->dx, n)));
}

/* Seconds of one call: the best of a few batches. */
static double seconds_of(struct work *w, void (*call)(struct work *w, int64_t n), double seconds)
{
    double best = INFINITY, one = 1;
    int64_t n = 0;
    for (int i = 0; i < 2; i++) { /* the first call may choose an algorithm */
        int64_t start = clock_monotonic_ns();
        call(w, n++);
        check(device_sync(w->device));
        one = clock_seconds_since(start);
    }
    int64_t calls = 1 + (int64_t)(seconds / BATCHES / one);
    for (int batch = 0; batch < BATCHES; batch++) {
        int64_t start = clock_monotonic_ns();
        for (int64_t i = 0; i < calls; i++) call(w, n++);
        check(device_sync(w->device));
        best = fmin(best, clock_seconds_since(start) / (double)calls);
    }
    return best;
}

enum kind { COMPUTES, READS_X, READS_DY, WRITES_DX, MAKES_BITS };

enum cell {
    Y_BASE,
    Y_JOINED,
    Y_ADDED,
    DX_BASE,
    DX_JOINED,
    DX_ADDED,
    U_OWN,
    U_LIBRARY,
    G_OWN,
    G_LIBRARY,
    DA_OWN,
    DA_LIBRARY,
    DB_OWN,
    DB_LIBRARY,
    MASKS,
    U_MASKED,
    DA_MASKED,
    DX_MASKED,
    DX_ONTO,
    CELLS
};

static const struct {
    const char *name;
    void (*call)(struct work *w, int64_t n);
    enum kind kind;
    enum cell beside; /* what it is compared with; itself: nothing */
} cells[CELLS] = {
    [Y_BASE] = {"y, base alone", forward_base, COMPUTES, Y_BASE},
    [Y_JOINED] = {"y, K + R", forward_joined, COMPUTES, Y_BASE},
    [Y_ADDED] = {"y, base and beta = 1", forward_added, COMPUTES, Y_BASE},
    [DX_BASE] = {"dx, base alone", backward_base, COMPUTES, DX_BASE},
    [DX_JOINED] = {"dx, K + R", backward_joined, COMPUTES, DX_BASE},
    [DX_ADDED] = {"dx, base and beta = 1", backward_added, COMPUTES, DX_BASE},
    [U_OWN] = {"u, own", u_own, READS_X, U_OWN},
    [U_LIBRARY] = {"u, library", u_library, READS_X, U_OWN},
    [G_OWN] = {"g, own", g_own, READS_DY, G_OWN},
    [G_LIBRARY] = {"g, library", g_library, READS_DY, G_OWN},
    [DA_OWN] = {"dA, own", da_own, READS_X, DA_OWN},
    [DA_LIBRARY] = {"dA, library", da_library, READS_X, DA_OWN},
    [DB_OWN] = {"dB, own", db_own, READS_DY, DB_OWN},
    [DB_LIBRARY] = {"dB, library", db_library, READS_DY, DB_OWN},
    [MASKS] = {"masks", mask, MAKES_BITS, MASKS},
    [U_MASKED] = {"u, masked", u_masked, READS_X, U_OWN},
    [DA_MASKED] = {"dA, masked", da_masked, READS_X, DA_OWN},
    [DX_MASKED] = {"dx's masked part", dx_masked, WRITES_DX, DX_MASKED},
    [DX_ONTO] = {"dx, base onto that", backward_onto, COMPUTES, DX_BASE},
};

static void print_cell(const struct work *w, const struct shape *shape, int i, const double *seconds)
{
    double tokens = (double)w->tokens, in = (double)w->spec.in, out = (double)w->out;
    double moved = cells[i].kind == READS_DY ? tokens * out * 2 : tokens * in * 2; /* of the long operand */
    printf("%-10s %6lld %6lld %6lld  %-22s %9.3f ms", shape->name, (long long)w->tokens,
           (long long)w->spec.in, (long long)w->out, cells[i].name, seconds[i] * 1e3);
    if (cells[i].kind == COMPUTES)
        printf("  %7.1f TFLOP/s", 2e-12 * tokens * in * out / seconds[i]);
    else if (cells[i].kind == MAKES_BITS)
        printf("  %7.1f Gelements/s", 1e-9 * tokens * in * w->spec.n_parts / seconds[i]);
    else
        printf("  %7.0f GB/s", 1e-9 * moved / seconds[i]);
    if ((int)cells[i].beside != i) printf("  %+6.1f %%", 100 * (seconds[i] / seconds[cells[i].beside] - 1));
    printf("\n");
}

/* What a step pays for the adapter of this panel, beside its base products. */
static void print_sum(const struct shape *shape, int64_t tokens, const double *s)
{
    double base = s[Y_BASE] + s[DX_BASE];
    double plain = s[Y_JOINED] + s[DX_JOINED] + s[U_OWN] + s[G_OWN] + s[DA_OWN] + s[DB_OWN];
    double masked = s[Y_JOINED] + s[U_MASKED] + 2 * s[MASKS] + s[G_OWN] + s[DA_MASKED] + s[DB_OWN] +
                    s[DX_MASKED] + s[DX_ONTO];
    printf("%-10s %6lld  adapter over forward and dx: %+.1f %%; with dropout %+.1f %%\n", shape->name,
           (long long)tokens, 100 * (plain / base - 1), 100 * (masked / base - 1));
}

static void measure(const struct work *base, const struct options *o, const struct shape *shape,
                    int64_t tokens)
{
    struct work w = *base;
    double seconds[CELLS];
    work_open(&w, o, shape, tokens);
    for (int i = 0; i < CELLS; i++) {
        seconds[i] = seconds_of(&w, cells[i].call, o->seconds);
        print_cell(&w, shape, i, seconds);
        fflush(stdout);
    }
    print_sum(shape, tokens, seconds);
    work_close(&w);
}

static void square(const struct work *base, int64_t n)
{
    struct work w = *base;
    const char *text = getenv("LORAD_BENCH_SECONDS");
    double seconds = text ? atof(text) : 10;
    struct matrix a = random_matrix(&w, n, n, n), b = random_matrix(&w, n, n, n),
                  d = random_matrix(&w, n, n, n);
    int64_t calls = 0, step = 8;
    multiply(&w, a, b, true, d, 0);
    check(device_sync(w.device));
    int64_t start = clock_monotonic_ns();
    do {
        for (int64_t i = 0; i < step; i++) multiply(&w, a, b, true, d, 0);
        check(device_sync(w.device));
        calls += step;
    } while (clock_seconds_since(start) < seconds);
    double took = clock_seconds_since(start);
    printf("square %lld: %.1f TFLOP/s over %.1f s\n", (long long)n,
           2e-12 * (double)n * (double)n * (double)n * (double)calls / took, took);
    fflush(stdout);
    work_close(&w);
}

/* Numbers with something between them. */
static int numbers(const char *text, int64_t *to, int most)
{
    int n = 0;
    for (char *end; *text && n < most; text = *end ? end + 1 : end) to[n++] = strtoll(text, &end, 10);
    return n;
}

static struct options options_of(int argc, char **argv)
{
    struct options o = {.tokens = {2048, 4096, 8192, 16384},
                        .token_counts = 4,
                        .shapes = sizeof llama / sizeof llama[0],
                        .square = 8192,
                        .rank = 16,
                        .seconds = 0.1};
    memcpy(o.shape, llama, sizeof llama);
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        if (strcmp(argv[i], "--rank") == 0) o.rank = atoi(value);
        if (strcmp(argv[i], "--square") == 0) o.square = atoll(value);
        if (strcmp(argv[i], "--seconds") == 0) o.seconds = atof(value);
        if (strcmp(argv[i], "--tokens") == 0) o.token_counts = numbers(value, o.tokens, MOST_SHAPES);
        if (strcmp(argv[i], "--shape") == 0) {
            int64_t size[1 + PANEL_PARTS] = {0};
            numbers(value, size, 1 + PANEL_PARTS);
            o.shape[0] = (struct shape){.name = "shape", .in = size[0], .out = {size[1], size[2], size[3]}};
            o.shapes = 1;
        }
    }
    return o;
}

int main(int argc, char **argv)
{
    struct options o = options_of(argc, argv);
    struct work base = {.device = NULL};
    check(
        test_device_opened(device_open(&base.device, &(struct device_options){.kind = test_device_kind()})));
    base.products = device_extension(base.device, "lorad_products");
    if (!base.products) {
        printf("skipped: only the CUDA backend has these pieces (LORAD_TEST_DEVICE=cuda)\n");
        return 77;
    }
    printf("%s\nbf16, rank %d a part; TFLOP/s count the base product alone, GB/s its long operand once\n",
           device_describe(base.device), o.rank);
    square(&base, o.square);
    for (int i = 0; i < o.shapes; i++)
        for (int t = 0; t < o.token_counts; t++) measure(&base, &o, &o.shape[i], o.tokens[t]);
    square(&base, o.square);
    device_close(base.device);
    return 0;
}
