/*
 * step.c: how fast a whole optimizer step runs beside its matrix products alone. Program bench_step; not a
 * test.
 *
 *     bench_step MODEL ADAPTER [--dtype f32|bf16] [--tokens T] [--row N] [--supervised PERCENT]
 *                [--steps N] [--threads N] [--micros N] [--elastic 1] [--graphs 1] [--phases 1]
 *                [--fast 1] [--keep 0|1] [--without 1] [--products 0|1] [--square SECONDS] [--square-size N]
 * [--square-rate GFLOPS]
 *
 * MODEL and ADAPTER are folders (make_model makes some). A step is one micro-batch of T random tokens packed
 * from rows of N, forward, loss, backward, norm, clip and AdamW. Then the products of each shape of the model
 * run alone, frozen, without an adapter (--products 0: not); their time, summed over what a step executes (no
 * dx below the lowest adapted module, the head on supervised tokens only), is the floor. Useful operations
 * are those products, nothing else: 2 per weight and token and direction.
 *
 * --micros: micro-batches of a step, the same one each time. --keep 1: what the panels read is kept for the
 * backward, as a run does on a GPU with room (there the default). --phases 1: also steps whose operations are
 * timed one by one. --without 1, on a GPU: also steps without the adapter's part of every linear
 * (frozen_panels.h). --square: also the rate of a large square product kept up so long, the best of several
 * sizes on a GPU, and the step's share of it; --square-rate: that rate, measured before. --fast 1: a GPU need
 * not be deterministic. LORAD_TEST_DEVICE chooses the device. --elastic 1: instead, steps whose gradients are
 * summed as floats and in fixed point in turn. --graphs 1: instead, on a GPU, steps whose operations are
 * enqueued one by one and replayed as a CUDA graph in turn; they are not else.
 *
 * The last line is a row of a table: model, tokens, row, mode, step, tokens/s, TFLOP/s of products and
 * attention, their share of the square product, what the adapter costs.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/panel.h"
#include "support/frozen_panels.h"
#include "support/op_timer.h"
#include "support/rig.h"
#include "support/test_device.h"
#include "trainer/step.h"

enum { MOST_STEPS = 200 };

struct bench {
    const char *model_dir, *adapter_dir;
    enum dtype dtype;
    int32_t tokens, row, supervised_percent, steps, threads, micros;
    bool elastic, graphs, phases, fast, keep, without, products;
    struct arch arch;
    struct device *device;
    double product_seconds, product_work; /* of a step */
    double attention_work;                /* likewise */
    double square;                        /* seconds to measure the device's own rate for; 0: do not */
    double square_rate;                   /* GFLOP/s; 0: not known */
    int64_t square_size;                  /* 0: choose */
    double step, step_without;            /* seconds; the second 0: not measured */
    int64_t start;                        /* TIME's */
};

static void put_float(char *to, enum dtype dtype, float value)
{
    uint16_t half = dtype == DTYPE_BF16 ? f32_to_bf16(value) : f32_to_f16(value);
    if (dtype == DTYPE_F32)
        memcpy(to, &value, sizeof value);
    else
        memcpy(to, &half, sizeof half);
}

static void check(enum status status)
{
    if (status == LORAD_OK) return;
    fprintf(stderr, "bench_step: %s\n", status_message());
    exit(status_exit_code(status));
}

static void *device_new(struct bench *b, size_t bytes)
{
    void *block;
    check(device_alloc(&block, b->device, bytes));
    return block;
}

/* [rows, cols] in [-1, 1) on the device, the same MANY numbers again and again; zeros would run faster than
 * what a step sees. */
static void *random_new(struct bench *b, int64_t rows, int64_t cols)
{
    enum { MANY = 1 << 20 };
    static char *numbers;
    static enum dtype dtype;
    size_t all = (size_t)(rows * cols), item = dtype_bytes(b->dtype);
    if (!numbers || dtype != b->dtype) {
        free(numbers);
        numbers = memory_new(MANY, item);
        check(numbers ? LORAD_OK : LORAD_NOMEM);
        dtype = b->dtype;
        for (size_t i = 0; i < MANY; i++)
            put_float(numbers + i * item, dtype,
                      2 * random_unit_f32(random_philox(7, RANDOM_TEST, i).word[0]) - 1);
    }
    char *block = device_new(b, all * item);
    for (size_t done = 0; done < all; done += MANY) {
        size_t some = all - done < MANY ? all - done : MANY;
        check(device_copy_to(b->device, STREAM_COMPUTE, block + done * item, numbers, some * item));
    }
    check(device_sync(b->device));
    return block;
}

/* A frozen panel with random weights. */
static struct panel *panel_new(struct bench *b, void **scratch, int64_t n, int64_t in, int64_t out)
{
    struct panel_spec spec = {.in = in,
                              .part = {{.out = out}},
                              .n_parts = 1,
                              .dtype = b->dtype,
                              .y_dtype = b->dtype,
                              .needs_dx = true,
                              .max_tokens = n};
    size_t weights, scratch_bytes;
    panel_bytes(device_backend(b->device), &spec, &weights, &scratch_bytes);
    *scratch = device_new(b, scratch_bytes + 1);
    struct panel *panel;
    check(panel_create(&panel, b->device, &spec, *scratch));
    enum { ROWS = 64 };
    float *rows = memory_new((size_t)(ROWS * in), sizeof *rows);
    check(rows ? LORAD_OK : LORAD_NOMEM);
    for (int64_t i = 0; i < ROWS * in; i++)
        rows[i] = random_unit_f32(random_philox(8, RANDOM_TEST, (uint64_t)i).word[0]) - 0.5f;
    for (int64_t i = 0; i < out; i += ROWS) {
        int64_t some = out - i < ROWS ? out - i : ROWS;
        check(panel_load_rows(panel, 0, i, matrix_of(rows, DTYPE_F32, some, in, in)));
    }
    check(panel_seal(panel));
    free(rows);
    return panel;
}

/* Seconds of one call, waited for. */
#define TIME(b, call)                                                                                        \
    (check(device_sync((b)->device)), (b)->start = clock_monotonic_ns(), check(call),                        \
     check(device_sync((b)->device)), clock_seconds_since((b)->start))

/* A frozen panel's best seconds of a forward and of a dx over n tokens. */
static void time_product(struct bench *b, int64_t n, int64_t in, int64_t out, double best[2])
{
    void *scratch;
    struct panel *panel = panel_new(b, &scratch, n, in, out);
    void *x = random_new(b, n, in), *y = device_new(b, (size_t)(n * out) * dtype_bytes(b->dtype));
    void *dy = random_new(b, n, out), *dx = device_new(b, (size_t)(n * in) * dtype_bytes(b->dtype));
    struct panel_forward forward = {.x = matrix_of(x, b->dtype, n, in, in),
                                    .y = matrix_of(y, b->dtype, n, out, out)};
    struct panel_backward backward = {
        .x = forward.x, .dy = matrix_of(dy, b->dtype, n, out, out), .dx = matrix_of(dx, b->dtype, n, in, in)};
    best[0] = best[1] = INFINITY;
    for (int i = 0; i < 7; i++) {
        best[0] = fmin(best[0], TIME(b, panel_forward(panel, &forward)));
        best[1] = fmin(best[1], TIME(b, panel_backward(panel, &backward)));
    }
    panel_destroy(panel);
    void *const blocks[] = {scratch, x, y, dy, dx};
    for (int i = 0; i < 5; i++) device_free(b->device, blocks[i]);
}

/* GFLOP/s of a square product, kept up for so many seconds. */
static double rate_of_square(struct bench *b, int64_t n, double wanted)
{
    void *scratch;
    struct panel *panel = panel_new(b, &scratch, n, n, n);
    void *x = random_new(b, n, n), *y = device_new(b, (size_t)(n * n) * dtype_bytes(b->dtype));
    struct panel_forward forward = {.x = matrix_of(x, b->dtype, n, n, n),
                                    .y = matrix_of(y, b->dtype, n, n, n)};
    check(panel_forward(panel, &forward));
    check(device_sync(b->device));
    enum { AT_ONCE = 20 };
    double seconds = 0;
    int64_t calls = 0, start = clock_monotonic_ns();
    for (; seconds < wanted; seconds = clock_seconds_since(start), calls += AT_ONCE) {
        for (int i = 0; i < AT_ONCE; i++) check(panel_forward(panel, &forward));
        check(device_sync(b->device));
    }
    panel_destroy(panel);
    void *const blocks[] = {scratch, x, y};
    for (int i = 0; i < 3; i++) device_free(b->device, blocks[i]);
    return 2e-9 * (double)n * (double)n * (double)n * (double)calls / seconds;
}

static void open_device(struct bench *b)
{
    struct device_options options = {
        .kind = test_device_kind(), .threads = b->threads, .deterministic = !b->fast};
    check(device_open(&b->device, &options));
}

/* What the device can do: of the sizes, the one that is best for a moment is kept up. */
static void measure_square(struct bench *b)
{
    static const int64_t sizes[] = {4096, 8192, 16384};
    static const double A_MOMENT = 0.3;
    double best = 0;
    if (b->square <= 0) return;
    open_device(b);
    for (int i = 0; b->square_size == 0 && i < 3; i++) {
        double rate = rate_of_square(b, sizes[i], A_MOMENT);
        printf("square product of %lld for %g s: %.1f GFLOP/s\n", (long long)sizes[i], A_MOMENT, rate);
        if (rate <= best) continue;
        best = rate;
        b->square_size = -sizes[i];
    }
    if (b->square_size < 0) b->square_size = -b->square_size;
    b->square_rate = rate_of_square(b, b->square_size, b->square);
    device_close(b->device);
    printf("square product of %lld for %g s: %.1f GFLOP/s\n", (long long)b->square_size, b->square,
           b->square_rate);
    fflush(stdout);
}

/* times[0] forwards and times[1] dx of this shape in a step. */
static void add_product(struct bench *b, const char *name, int64_t n, int64_t in, int64_t out,
                        const int32_t times[2])
{
    if (n == 0) return;
    double best[2], work = 2e-9 * (double)n * (double)in * (double)out;
    b->product_work += (times[0] + times[1]) * work;
    if (!b->products) return;
    time_product(b, n, in, out, best);
    b->product_seconds += times[0] * best[0] + times[1] * best[1];
    printf("%-8s %6lld x %5lld x %6lld   forward %7.1f  dx %7.1f GFLOP/s\n", name, (long long)n,
           (long long)in, (long long)out, work / best[0], work / best[1]);
}

/* The work of a step's products, and their time alone. */
static void time_products(struct bench *b, int32_t supervised, int32_t first_layer)
{
    const struct arch *a = &b->arch;
    int64_t q = (int64_t)a->heads * a->head_dim, kv = (int64_t)a->kv_heads * a->head_dim;
    open_device(b);
    int32_t above = a->layers - first_layer;
    const int32_t first[2] = {a->layers, above - 1}, rest[2] = {a->layers, above}, head[2] = {1, 1};
    add_product(b, "q,k,v", b->tokens, a->hidden, q + 2 * kv, first);
    add_product(b, "o", b->tokens, q, a->hidden, rest);
    add_product(b, "gate,up", b->tokens, a->hidden, 2 * (int64_t)a->intermediate, rest);
    add_product(b, "down", b->tokens, a->intermediate, a->hidden, rest);
    add_product(b, "head", supervised, a->hidden, (a->vocab + 7) / 8 * 8, head);
    device_close(b->device);
}

static struct micro_batch make_batch(const struct bench *b)
{
    size_t n = (size_t)b->tokens;
    int32_t rows = (b->tokens + b->row - 1) / b->row;
    struct micro_batch batch = {.tokens = memory_new(n, sizeof(int32_t)),
                                .positions = memory_new(n, sizeof(int32_t)),
                                .labels = memory_new(n, sizeof(int32_t)),
                                .token_index = memory_new(n, sizeof(int64_t)),
                                .seq_start = memory_new((size_t)rows + 1, sizeof(int32_t)),
                                .row_ids = memory_new((size_t)rows, sizeof(int64_t)),
                                .n_tokens = b->tokens,
                                .n_sequences = rows,
                                .longest = b->row < b->tokens ? b->row : b->tokens};
    bool all = batch.tokens && batch.positions && batch.labels && batch.token_index && batch.seq_start &&
               batch.row_ids;
    check(all ? LORAD_OK : LORAD_NOMEM);
    for (int32_t i = 0; i < b->tokens; i++) {
        batch.tokens[i] = (int32_t)((uint32_t)i * 2654435761u % (uint32_t)b->arch.vocab);
        batch.positions[i] = i % b->row;
        batch.token_index[i] = i;
        batch.labels[i] = -1;
    }
    for (int32_t i = 0; i + 1 < b->tokens; i++) { /* the end of each row is the answer */
        bool target = batch.positions[i + 1] >= b->row - (int64_t)b->row * b->supervised_percent / 100;
        if (target && batch.positions[i + 1] > 0) batch.labels[i] = batch.tokens[i + 1];
        batch.n_supervised += batch.labels[i] >= 0;
    }
    for (int32_t s = 0; s <= rows; s++) batch.seq_start[s] = s < rows ? s * b->row : b->tokens;
    return batch;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of one step. */
static double run_step(struct bench *b, struct step_context *context, const struct micro_batch *batch,
                       int32_t step, struct step_result *result)
{
    struct step_targets all = {batch->n_supervised * b->micros, (double)batch->n_supervised * b->micros};
    int64_t start = clock_monotonic_ns();
    do {
        check(step_begin(context, all));
        for (int32_t i = 0; i < b->micros; i++) check(step_accumulate(context, batch, step));
        check(step_finish(context, all, 1.0, &(struct boundary_report){0}, result));
    } while (result->again);
    check(device_sync(context->adapter->device));
    return clock_seconds_since(start);
}

/* Two ways of computing a step in turn, so that both see the same machine; use() chooses. */
static void compare(struct bench *b, struct step_context *context, const struct micro_batch *batch,
                    const char *const name[2], void (*use)(struct step_context *context, void *way),
                    void *const way[2])
{
    double seconds[2][MOST_STEPS];
    struct step_result result;
    for (int32_t step = -2; step < b->steps; step++)
        for (int i = 0; i < 2; i++) {
            use(context, way[i]);
            double taken = run_step(b, context, batch, step, &result);
            if (step >= 0) seconds[i][step] = taken;
        }
    use(context, NULL);
    for (int i = 0; i < 2; i++) qsort(seconds[i], (size_t)b->steps, sizeof(double), ascending);
    double plain = seconds[0][b->steps / 2], other = seconds[1][b->steps / 2];
    printf("%s, %d micro-batches of %d tokens, %.2f M parameters trained, %d threads, medians of %d steps "
           "each, in turn: %s %.3f ms, %s %.3f ms (%+.2f %%); fastest %.3f and %.3f ms (%+.2f %%)\n",
           dtype_name(b->dtype), b->micros, b->tokens, (double)context->adapter->lora->parameters * 1e-6,
           b->threads, b->steps, name[0], 1e3 * plain, name[1], 1e3 * other, 100 * (other / plain - 1),
           1e3 * seconds[0][0], 1e3 * seconds[1][0], 100 * (seconds[1][0] / seconds[0][0] - 1));
}

static void use_sums(struct step_context *context, void *sums)
{
    context->adapter->sums = sums;
}

static void compare_sums(struct bench *b, struct step_context *context, const struct micro_batch *batch)
{
    struct fixed_sums *sums;
    check(fixed_sums_create(&sums, context->adapter->lora, context->adapter->device));
    fixed_sums_set_addends(sums, b->micros);
    compare(b, context, batch, (const char *[]){"floats", "fixed point"}, use_sums, (void *[]){NULL, sums});
    fixed_sums_destroy(sums);
}

static void use_replay(struct step_context *context, void *replay)
{
    context->replay = replay;
}

static void compare_replays(struct bench *b, struct step_context *context, const struct micro_batch *batch)
{
    struct replay replay;
    replay_init(&replay, model_can_replay(context->model), CUDA_GRAPHS_ON);
    compare(b, context, batch, (const char *[]){"one by one", "replayed"}, use_replay,
            (void *[]){NULL, &replay});
    printf("%lld of %lld passes were replayed\n", (long long)model_replays(context->model),
           (long long)b->micros * (b->steps + 2));
}

/* The median of the steps after two to warm up. */
static double median_step(struct bench *b, struct step_context *context, const struct micro_batch *batch,
                          struct step_result *result)
{
    double seconds[MOST_STEPS];
    for (int32_t step = -2; step < b->steps; step++) {
        double taken = run_step(b, context, batch, step, result);
        if (step >= 0) seconds[step] = taken;
    }
    qsort(seconds, (size_t)b->steps, sizeof *seconds, ascending);
    return seconds[b->steps / 2];
}

static void time_parts(struct bench *b, struct step_context *context, const struct micro_batch *batch,
                       const char *title, double milliseconds[OP_PARTS])
{
    enum { PASSES = 3 };
    struct step_result result;
    printf("\n%s\n", title);
    op_timer_begin(context->adapter->device);
    for (int32_t step = 0; step < PASSES; step++) run_step(b, context, batch, step, &result);
    op_timer_end(context->adapter->device, PASSES, milliseconds);
    op_timer_print(PASSES);
}

static void time_steps(struct bench *b, struct step_context *context, const struct micro_batch *batch)
{
    struct device *device = context->adapter->device;
    struct step_result result;
    double parts[OP_PARTS], without[OP_PARTS];
    b->step = median_step(b, context, batch, &result);
    printf("last loss %.4f, gradient norm %.4f\n", result.loss, result.grad_norm);
    if (b->phases) time_parts(b, context, batch, "a step", parts);
    if (b->without) {
        frozen_panels_begin(device);
        b->step_without = median_step(b, context, batch, &result);
        if (b->phases) time_parts(b, context, batch, "a step without the adapter's part of linears", without);
        frozen_panels_end(device);
        printf(
            "\nwithout the adapter's part of linears a step takes %.2f ms, with it %.2f: it costs %.2f %%\n",
            1e3 * b->step_without, 1e3 * b->step, 100 * (b->step / b->step_without - 1));
    }
    if (!b->phases) return;
    printf("ms of a step, every operation waited for: linears %.1f", parts[OP_PART_LINEAR]);
    if (b->without)
        printf(" (base %.1f, adapter %.1f)", without[OP_PART_LINEAR],
               parts[OP_PART_LINEAR] - without[OP_PART_LINEAR]);
    printf(", attention %.1f, norms RoPE SwiGLU copies %.1f, head and loss %.1f, optimizer %.1f\n",
           parts[OP_PART_ATTENTION], parts[OP_PART_ROWS], parts[OP_PART_HEAD], parts[OP_PART_OPTIMIZER]);
}

static void run_steps(struct bench *b, struct rig *rig, const struct micro_batch *batch)
{
    struct optimizer_options options = {.learning_rate = 1e-4,
                                        .schedule = SCHEDULE_CONSTANT,
                                        .beta1 = 0.9,
                                        .beta2 = 0.999,
                                        .epsilon = 1e-8,
                                        .max_grad_norm = 1.0};
    struct optimizer *optimizer;
    check(optimizer_create(&optimizer, rig->lora, &options));
    struct step_context context = {.model = rig->model,
                                   .adapter = rig->adapter,
                                   .optimizer = optimizer,
                                   .world = rig->world,
                                   .part = &rig->partition};
    check(step_prepare(&context));
    if (b->elastic)
        compare_sums(b, &context, batch);
    else if (b->graphs)
        compare_replays(b, &context, batch);
    else
        time_steps(b, &context, batch);
    fflush(stdout);
    step_release(&context);
    optimizer_destroy(optimizer);
}

/* Causal attention: two products forward, four backward; its own recomputation is not counted. */
static void count_attention(struct bench *b, const struct micro_batch *batch, int32_t first_layer)
{
    double scores = 0, columns = (double)b->arch.heads * b->arch.head_dim;
    for (int32_t s = 0; s < batch->n_sequences; s++) {
        double length = batch->seq_start[s + 1] - batch->seq_start[s];
        scores += length * (length + 1) / 2;
    }
    b->attention_work = 2e-9 * scores * columns * (2 * b->arch.layers + 4 * (b->arch.layers - first_layer));
}

static void tell_row(const struct bench *b)
{
    double rate = (b->product_work + b->attention_work) * b->micros / b->step;
    char name[128];
    const char *end = strstr(b->model_dir, "/model"), *first = b->model_dir;
    for (const char *next = end; next; next = strstr(next + 1, "/model")) end = next; /* the last */
    if (!end) end = first + strlen(first);
    for (const char *c = first; c < end; c++)
        if (*c == '/') first = c + 1;
    snprintf(name, sizeof name, "%.*s", (int)(end - first), first);
    printf("| %s | %d | %d | %s | %.1f ms | %.0f tokens/s | %.1f TFLOP/s |", name, b->tokens, b->row,
           b->fast ? "fast" : "deterministic", 1e3 * b->step, b->tokens * b->micros / b->step, 1e-3 * rate);
    if (b->square_rate > 0)
        printf(" %.1f %% |", 100 * rate / b->square_rate);
    else
        printf(" |");
    if (b->step_without > 0)
        printf(" %.2f %% |\n", 100 * (b->step / b->step_without - 1));
    else
        printf(" |\n");
}

static void tell(struct bench *b, const struct micro_batch *batch, int32_t first_layer)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    time_products(b, batch->n_supervised, first_layer);
    count_attention(b, batch, first_layer);
    printf("%s, %d tokens in rows of %d, %d supervised, %d threads: step %.3f s, %.1f tokens/s, %.1f "
           "GFLOP/s, host's peak %ld MiB\n",
           dtype_name(b->dtype), b->tokens, b->row, batch->n_supervised, b->threads, b->step,
           b->tokens * b->micros / b->step, b->product_work * b->micros / b->step, usage.ru_maxrss / 1024);
    if (b->products)
        printf("products alone %.3f s at %.1f GFLOP/s: the step runs at %.1f %% of them\n",
               b->product_seconds, b->product_work / b->product_seconds,
               100 * b->product_seconds * b->micros / b->step);
    if (b->square_rate > 0)
        printf("products and attention: %.1f GFLOP/s, %.1f %% of a square product at %.1f\n",
               (b->product_work + b->attention_work) * b->micros / b->step,
               100 * (b->product_work + b->attention_work) * b->micros / b->step / b->square_rate,
               b->square_rate);
    tell_row(b);
}

static void run(struct bench *b)
{
    check(arch_read(&b->arch, b->model_dir));
    struct micro_batch batch = make_batch(b);
    struct rig_options options = {.model_dir = b->model_dir,
                                  .adapter_dir = b->adapter_dir,
                                  .model = {.dtype = b->dtype,
                                            .checkpointing = CHECKPOINTING_NONE,
                                            .keep_inputs = b->keep,
                                            .max_tokens = b->tokens,
                                            .max_sequences = batch.n_sequences,
                                            .max_positions = b->row,
                                            .training = true,
                                            .deterministic = !b->fast},
                                  .fast = b->fast,
                                  .tp = 1};
    struct comm_world_info alone = {.world = 1, .local_world = 1, .threads = b->threads};
    struct rig *rig;
    int64_t start = clock_monotonic_ns();
    check(rig_open(&rig, &options, &alone));
    printf("%s: ready after %.2f s\n", device_describe(rig->device), clock_seconds_since(start));
    fflush(stdout);
    if (b->without && device_is_host(rig->device)) check(FAIL(LORAD_USAGE, "--without: the CPU cannot"));
    run_steps(b, rig, &batch);
    int32_t first_layer = rig->lora->first_layer;
    rig_close(rig);
    measure_square(b);
    if (!b->elastic && !b->graphs) tell(b, &batch, first_layer);
    void *const blocks[] = {batch.tokens,      batch.positions, batch.labels,
                            batch.token_index, batch.seq_start, batch.row_ids};
    for (int i = 0; i < 6; i++) free(blocks[i]);
}

static void read_arguments(struct bench *b, int argc, char **argv)
{
    const struct {
        const char *name;
        int32_t *number;
        bool *choice;
    } options[] = {
        {"--tokens", &b->tokens, NULL},
        {"--row", &b->row, NULL},
        {"--supervised", &b->supervised_percent, NULL},
        {"--steps", &b->steps, NULL},
        {"--threads", &b->threads, NULL},
        {"--micros", &b->micros, NULL},
        {"--elastic", NULL, &b->elastic},
        {"--graphs", NULL, &b->graphs},
        {"--phases", NULL, &b->phases},
        {"--fast", NULL, &b->fast},
        {"--keep", NULL, &b->keep},
        {"--without", NULL, &b->without},
        {"--products", NULL, &b->products},
    };
    for (int i = 3; i + 1 < argc; i += 2) {
        const char *text = argv[i + 1];
        bool known = true;
        if (strcmp(argv[i], "--dtype") == 0)
            b->dtype = strcmp(text, "bf16") == 0  ? DTYPE_BF16
                       : strcmp(text, "f16") == 0 ? DTYPE_F16
                                                  : DTYPE_F32;
        else if (strcmp(argv[i], "--square") == 0)
            b->square = atof(text);
        else if (strcmp(argv[i], "--square-rate") == 0)
            b->square_rate = atof(text);
        else if (strcmp(argv[i], "--square-size") == 0)
            b->square_size = atoi(text);
        else
            known = false;
        for (size_t j = 0; j < sizeof options / sizeof *options; j++) {
            if (strcmp(argv[i], options[j].name) != 0) continue;
            if (options[j].number) *options[j].number = atoi(text);
            if (options[j].choice) *options[j].choice = atoi(text) != 0;
            known = true;
        }
        if (!known) check(FAIL(LORAD_USAGE, "there is no option %s", argv[i]));
    }
    if (b->steps > MOST_STEPS) b->steps = MOST_STEPS;
}

int main(int argc, char **argv)
{
    struct bench b = {.dtype = DTYPE_F32,
                      .tokens = 512,
                      .row = 256,
                      .supervised_percent = 100,
                      .steps = 5,
                      .threads = 2,
                      .micros = 1,
                      .keep = !test_device_is_cpu(),
                      .products = true,
                      .square_size = test_device_is_cpu() ? 8192 : 0};
    if (argc < 3) {
        fprintf(
            stderr,
            "usage: bench_step MODEL ADAPTER [OPTION VALUE]...; the options stand in tests/bench/step.c\n");
        return 64;
    }
    b.model_dir = argv[1];
    b.adapter_dir = argv[2];
    read_arguments(&b, argc, argv);
    run(&b);
    return 0;
}
