/*
 * gemm.c: packing, blocking and threads of gemm.h, around a kernel's micro function.
 *
 * A task is a block of rows x a block of panels and sums all of K into a tile of f32 that stays in the
 * second-level cache: for each KC of K, each panel, each block of mr rows. Per KC the left block (rows x KC)
 * is read from the second-level cache once a panel, and a panel (KC x 32) once a block of rows.
 *
 * Invariants: 1. Work is split over tiles of the result, never over K. 2. KC depends on the kernel alone, so
 * an element's chain of sums is the same whatever the tiling. 3. Padding of packed operands is zero.
 */
#include "kernels/cpu/gemm.h"

#include <string.h>

#include "base/status.h"

enum {
    ROW_BLOCK = 264, /* rows of a task's tile, rounded to the kernel's blocks */
    ROW_BLOCK_MOST = 288,
    PANEL_BLOCK = 8,                           /* panels of a task */
    OUTER_ROWS = ROW_BLOCK_MOST * PANEL_BLOCK, /* rows of D whose tiles fit in the same scratch */
    OUTER_KC = 512,                            /* rows of q that are packed at a time */
    STRIDED_ROWS = 512,                        /* of a block that goes to OpenBLAS */
    STRIDED_COLS = 256,                        /* at most */
    STRIDED_SHARES =
        4, /* a row of blocks is cut into a multiple of this, so that 2 or 4 threads get equal shares */
    TILE = GEMM_NR, /* f32 elements of a row of a tile */
    SCRATCH_FLOATS = ROW_BLOCK_MOST * PANEL_BLOCK * TILE + ROW_BLOCK_MOST * TILE + OUTER_KC * GEMM_NR,
};

/* Thread-local, since the caller's threads and their number are not ours to plan for. */
static _Thread_local float tiles[SCRATCH_FLOATS] __attribute__((aligned(64)));

static int64_t round_up(int64_t value, int64_t step)
{
    return (value + step - 1) / step * step;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Bytes of K that a left block keeps in cache: 24 KiB a block of 12 rows. */
static int64_t depth(const struct gemm_kernel *kernel)
{
    return 2048 / (int64_t)dtype_bytes(kernel->a_dtype);
}

/* Right operand */

size_t gemm_weights_bytes(const struct gemm_kernel *kernel, int64_t k, int64_t n)
{
    if (kernel->strided) return 0;
    return (size_t)(round_up(k, GEMM_K_ALIGN) * round_up(n, GEMM_NR)) * dtype_bytes(kernel->dtype);
}

/* Where panel `panel` begins; `k` even. */
static const char *panel_at(const struct gemm_weights *w, int64_t panel, int64_t k)
{
    return w->data +
           (size_t)((panel * round_up(w->k, GEMM_K_ALIGN) + k) * GEMM_NR) * dtype_bytes(w->kernel->dtype);
}

static void strided_put(struct gemm_weights *w, int64_t k, int64_t count, int64_t n, int64_t columns,
                        const float *source, int64_t k_stride, int64_t n_stride)
{
    for (int64_t c = 0; c < columns; c++)
        for (int64_t i = 0; i < count; i++)
            ((float *)(void *)w->data)[(k + i) * w->k_step + (n + c) * w->n_step] =
                source[i * k_stride + c * n_stride];
}

/* Elements (k + i, n + c) of one panel, from source[i * k_stride + c * n_stride]. */
static inline __attribute__((always_inline)) void panel_put(enum dtype dtype, void *panel, int64_t lane,
                                                            int64_t columns, int64_t k, int64_t count,
                                                            const void *source, int64_t k_stride,
                                                            int64_t n_stride)
{
    if (dtype == DTYPE_F32) {
        const float *from = source;
        for (int64_t i = 0; i < count; i++)
            for (int64_t c = 0; c < columns; c++)
                ((float *)panel)[(k + i) * GEMM_NR + lane + c] = from[i * k_stride + c * n_stride];
        return;
    }
    const uint16_t *from = source;
    uint16_t *half = panel;
    int64_t i = 0;
    if (k % 2 == 0) {
        for (; i + 2 <= count; i += 2) { /* a pair of k is one word */
            uint32_t *word = (uint32_t *)panel + (k + i) / 2 * GEMM_NR + lane;
            const uint16_t *low = from + i * k_stride, *high = low + k_stride;
            for (int64_t c = 0; c < columns; c++)
                word[c] = low[c * n_stride] | (uint32_t)high[c * n_stride] << 16;
        }
    }
    for (; i < count; i++)
        for (int64_t c = 0; c < columns; c++)
            half[(k + i) / 2 * (2 * GEMM_NR) + 2 * (lane + c) + (k + i) % 2] =
                from[i * k_stride + c * n_stride];
}

static void weights_put(struct gemm_weights *w, int64_t k, int64_t count, int64_t n, int64_t columns,
                        const void *source, int64_t k_stride, int64_t n_stride)
{
    if (w->kernel->strided) {
        strided_put(w, k, count, n, columns, source, k_stride, n_stride);
        return;
    }
    enum dtype dtype = w->kernel->dtype;
    size_t size = dtype_bytes(dtype);
    for (int64_t done = 0; done < columns;) {
        int64_t panel = (n + done) / GEMM_NR, lane = (n + done) % GEMM_NR;
        int64_t some = least(GEMM_NR - lane, columns - done);
        char *to = w->data + (size_t)(panel * round_up(w->k, GEMM_K_ALIGN) * GEMM_NR) * size;
        const char *from = (const char *)source + (size_t)(done * n_stride) * size;
        if (n_stride == 1) /* a constant stride lets the compiler copy vectors */
            panel_put(dtype, to, lane, some, k, count, from, k_stride, 1);
        else
            panel_put(dtype, to, lane, some, k, count, from, 1, n_stride);
        done += some;
    }
}

void gemm_weights_put_columns(struct gemm_weights *w, int64_t n, int64_t columns, int64_t k, int64_t count,
                              const void *source, int64_t stride)
{
    weights_put(w, k, count, n, columns, source, 1, stride);
}

void gemm_weights_put_rows(struct gemm_weights *w, int64_t k, int64_t rows, int64_t n, int64_t count,
                           const void *source, int64_t stride)
{
    weights_put(w, k, rows, n, count, source, stride, 1);
}

/* Left operand */

size_t gemm_operand_bytes(const struct gemm_kernel *kernel, int64_t rows, int64_t k)
{
    return (size_t)(round_up(rows, kernel->mr) * round_up(k, GEMM_K_ALIGN)) * dtype_bytes(kernel->a_dtype);
}

struct gemm_operand gemm_operand_of(const struct gemm_kernel *kernel, void *memory, int64_t rows, int64_t k)
{
    return (struct gemm_operand){.kernel = kernel, .data = memory, .rows = rows, .k = k};
}

/* Where row block `block` begins at column k, a multiple of 32. */
static char *block_at(const struct gemm_operand *a, int64_t block, int64_t k)
{
    return a->data + (size_t)((block * round_up(a->k, GEMM_K_ALIGN) + k) * a->kernel->mr) *
                         dtype_bytes(a->kernel->a_dtype);
}

/* Element (i, k) of a block from source element (i * row_step + k * k_step), i < rows, first <= k < last. */
static void block_fill(const struct gemm_kernel *kernel, char *block, int64_t rows, int64_t first,
                       int64_t last, const void *source, enum dtype dtype, int64_t row_step, int64_t k_step)
{
    int64_t mr = kernel->mr, kp = kernel->kp;
    const uint16_t *half = source;
    if (kernel->a_dtype == DTYPE_F32) {
        float *to = (float *)block;
        const float *full = source;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = first; k < last; k++) {
                int64_t from = i * row_step + (k - first) * k_step;
                to[k * mr + i] = dtype == DTYPE_F32 ? full[from] : bf16_to_f32(half[from]);
            }
        return;
    }
    uint16_t *to = (uint16_t *)block;
    if (kp == 2 && k_step == 1 && first % 2 == 0 && (last - first) % 2 == 0) { /* pairs as words */
        uint32_t *word = (uint32_t *)(void *)to;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = first; k < last; k += 2) {
                uint32_t pair;
                memcpy(&pair, half + i * row_step + (k - first), sizeof pair);
                word[k / 2 * mr + i] = pair;
            }
        return;
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = first; k < last; k++)
            to[k / kp * kp * mr + i * kp + k % kp] = half[i * row_step + (k - first) * k_step];
}

/* Zeroes column range [first, last) of all mr rows of a block, and of rows from `rows` on columns [from,
 * last). */
static void block_clear(const struct gemm_kernel *kernel, char *block, int64_t rows, int64_t from,
                        int64_t first, int64_t last)
{
    int64_t mr = kernel->mr, kp = kernel->kp;
    size_t size = dtype_bytes(kernel->a_dtype);
    for (int64_t i = 0; i < mr; i++)
        for (int64_t k = i < rows ? first : from; k < last; k++)
            memset(block + (size_t)(k / kp * kp * mr + i * kp + k % kp) * size, 0, size);
}

static void operand_pack(struct gemm_operand *a, int64_t k, const void *source, enum dtype dtype,
                         int64_t cols, int64_t row_step, int64_t k_step, int threads)
{
    int64_t mr = a->kernel->mr, blocks = (a->rows + mr - 1) / mr;
    int64_t end = k + cols, padded = round_up(end, GEMM_K_ALIGN);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t rows = least(mr, a->rows - block * mr);
        char *to = block_at(a, block, 0);
        const char *from = (const char *)source + (size_t)(block * mr * row_step) * dtype_bytes(dtype);
        block_fill(a->kernel, to, rows, k, end, from, dtype, row_step, k_step);
        block_clear(a->kernel, to, rows, k, end, padded);
    }
}

void gemm_operand_pack(struct gemm_operand *a, int64_t k, struct matrix source, int threads)
{
    if (a->kernel->strided) {
        if (k == 0) {
            a->data = source.data;
            a->stride = source.stride;
        }
        ASSERT((char *)source.data == a->data + (size_t)k * sizeof(float));
        return;
    }
    operand_pack(a, k, source.data, source.dtype, source.cols, source.stride, 1, threads);
}

void gemm_operand_pack_transposed(struct gemm_operand *a, struct matrix source, int threads)
{
    operand_pack(a, 0, source.data, source.dtype, source.rows, 1, source.stride, threads);
}

/* Product */

struct task_shape {
    int64_t rows, panels;           /* of a task */
    int64_t row_tasks, panel_tasks; /* tasks = row_tasks * panel_tasks */
    int64_t first_panel, last_panel;
};

static struct task_shape tasks_of(const struct gemm_args *args)
{
    int64_t mr = args->b->kernel->mr;
    struct task_shape t = {.first_panel = args->n_first / GEMM_NR,
                           .last_panel = (args->n_first + args->c.cols + GEMM_NR - 1) / GEMM_NR};
    int64_t panels = t.last_panel - t.first_panel;
    int64_t blocks = (args->c.rows + mr - 1) / mr, most = ROW_BLOCK / mr;
    int64_t wanted = 4 * (int64_t)args->threads;
    t.row_tasks = (blocks + most - 1) / most;
    t.panels = least(PANEL_BLOCK, panels);
    while (t.panels > 1 && t.row_tasks * ((panels + t.panels - 1) / t.panels) < wanted)
        t.panels = (t.panels + 1) / 2;
    t.panel_tasks = (panels + t.panels - 1) / t.panels;
    if (args->threads > 1 && t.row_tasks * t.panel_tasks < wanted)
        t.row_tasks = least(blocks, (wanted + t.panel_tasks - 1) / t.panel_tasks);
    t.rows = (blocks + t.row_tasks - 1) / t.row_tasks * mr;
    t.row_tasks = (blocks * mr + t.rows - 1) / t.rows;
    return t;
}

/* tile[rows][32] (+)= a's rows from first_row on times the first n columns of one panel, over [k, k + count).
 */
static void panel_product(const struct gemm_operand *a, int64_t first_row, int64_t rows, int64_t k,
                          int64_t count, const char *b, int64_t n, float *tile, bool accumulate)
{
    int64_t mr = a->kernel->mr;
    for (int64_t i = 0; i < rows; i += mr)
        a->kernel->micro((int)least(mr, rows - i), (int)n, count, block_at(a, (first_row + i) / mr, k), b,
                         tile + i * TILE, accumulate);
}

struct task {
    const struct gemm_args *args;
    int64_t first_row, rows;
    int64_t first_panel, last_panel; /* of b */
    float *tile;                     /* [panels][stride][32] */
    int64_t stride;                  /* rows from a panel of the tile to the next */
};

static float *task_tile(const struct task *t, int64_t panel)
{
    return t->tile + (panel - t->first_panel) * t->stride * TILE;
}

/* Columns of a panel from its first to the last that is wanted. */
static int64_t task_columns(const struct task *t, int64_t panel)
{
    return least(GEMM_NR, t->args->n_first + t->args->c.cols - panel * GEMM_NR);
}

static void segment_plain(const struct task *t, const struct gemm_segment *segment, bool started)
{
    const struct gemm_weights *b = t->args->b;
    int64_t kc = depth(b->kernel), k_end = round_up(segment->k, gemm_k_step(b->kernel));
    for (int64_t k = 0; k < k_end; k += kc)
        for (int64_t panel = t->first_panel; panel < t->last_panel; panel++)
            panel_product(segment->a, t->first_row, t->rows, k, least(kc, k_end - k),
                          panel_at(b, panel, segment->b_k + k), task_columns(t, panel), task_tile(t, panel),
                          started || k > 0);
}

static void segment_masked(const struct task *t, const struct gemm_segment *segment, float *product)
{
    const struct gemm_weights *b = t->args->b;
    int64_t kc = depth(b->kernel), k_end = round_up(segment->k, gemm_k_step(b->kernel));
    int64_t words = (t->args->c.cols + 31) / 32;
    for (int64_t panel = t->first_panel; panel < t->last_panel; panel++) {
        for (int64_t k = 0; k < k_end; k += kc)
            panel_product(segment->a, t->first_row, t->rows, k, least(kc, k_end - k),
                          panel_at(b, panel, segment->b_k + k), task_columns(t, panel), product, k > 0);
        b->kernel->vector->add_masked(t->rows, task_tile(t, panel), product, segment->scale,
                                      segment->mask + t->first_row * words + panel, words);
    }
}

static void task_store(const struct task *t)
{
    const struct gemm_args *args = t->args;
    size_t size = dtype_bytes(args->c.dtype);
    for (int64_t panel = t->first_panel; panel < t->last_panel; panel++) {
        int64_t first = panel * GEMM_NR < args->n_first ? args->n_first - panel * GEMM_NR : 0;
        int64_t column = panel * GEMM_NR + first - args->n_first;
        args->b->kernel->vector->store(
            t->rows, (int)first, (int)(task_columns(t, panel) - first), task_tile(t, panel), args->scale,
            args->bias ? args->bias + column : NULL,
            (char *)args->c.data + (size_t)(t->first_row * args->c.stride + column) * size, args->c.dtype,
            args->c.stride);
    }
}

static void task_run(const struct gemm_args *args, const struct task_shape *shape, int64_t number,
                     float *scratch)
{
    struct task t = {.args = args, .tile = scratch, .stride = shape->rows};
    t.first_row = number % shape->row_tasks * shape->rows;
    t.rows = least(shape->rows, args->c.rows - t.first_row);
    t.first_panel = shape->first_panel + number / shape->row_tasks * shape->panels;
    t.last_panel = least(t.first_panel + shape->panels, shape->last_panel);
    for (int s = 0; s < args->n_segments; s++) {
        if (args->segment[s].mask)
            segment_masked(&t, &args->segment[s], scratch + ROW_BLOCK_MOST * PANEL_BLOCK * TILE);
        else
            segment_plain(&t, &args->segment[s], s > 0);
    }
    task_store(&t);
}

/* c[rows][cols] += product where the mask is set. */
static void strided_add_masked(struct matrix c, const float *product, const uint32_t *mask, int64_t column,
                               int64_t words, int64_t stride)
{
    for (int64_t i = 0; i < c.rows; i++)
        for (int64_t j = 0; j < c.cols; j++)
            if (mask[i * words + (column + j) / 32] >> ((column + j) % 32) & 1)
                ((float *)c.data)[i * c.stride + j] += product[i * stride + j];
}

/* One block of the result by OpenBLAS on this thread. */
static void strided_task(const struct gemm_args *args, int64_t row, int64_t column, int64_t columns)
{
    const struct gemm_weights *b = args->b;
    struct matrix whole = args->c;
    int64_t words = (whole.cols + 31) / 32;
    struct matrix c = matrix_part(whole, row, least(STRIDED_ROWS, whole.rows - row), column,
                                  least(columns, whole.cols - column));
    for (int s = 0; s < args->n_segments; s++) {
        const struct gemm_segment *segment = &args->segment[s];
        const struct gemm_operand *a = segment->a;
        const float *left = (const float *)(const void *)a->data + row * a->stride;
        const float *right = (const float *)(const void *)b->data + segment->b_k * b->k_step +
                             (args->n_first + column) * b->n_step;
        if (!segment->mask) {
            gemm_blas(c.rows, c.cols, segment->k, args->scale, left, a->stride, right, b->k_step, b->n_step,
                      s > 0 ? 1 : 0, c.data, c.stride);
            continue;
        }
        float *product = args->product + row * whole.cols + column;
        gemm_blas(c.rows, c.cols, segment->k, segment->scale, left, a->stride, right, b->k_step, b->n_step, 0,
                  product, whole.cols);
        strided_add_masked(c, product, segment->mask + row * words, column, words, whole.cols);
    }
    if (!args->bias) return;
    for (int64_t i = 0; i < c.rows; i++)
        for (int64_t j = 0; j < c.cols; j++) ((float *)c.data)[i * c.stride + j] += args->bias[column + j];
}

/* OpenBLAS would cut the product as the number of threads suggests; blocks whose size depends on the shape
 * alone give the same bits for any. */
static void strided_run(const struct gemm_args *args)
{
    int64_t shares = STRIDED_SHARES *
                     ((args->c.cols + STRIDED_SHARES * STRIDED_COLS - 1) / (STRIDED_SHARES * STRIDED_COLS));
    int64_t columns = round_up((args->c.cols + shares - 1) / shares, 32);
    int64_t across = (args->c.cols + columns - 1) / columns;
    int64_t tasks = across * ((args->c.rows + STRIDED_ROWS - 1) / STRIDED_ROWS);
#pragma omp parallel for schedule(dynamic) num_threads(args->threads)
    for (int64_t i = 0; i < tasks; i++)
        strided_task(args, i / across * STRIDED_ROWS, i % across * columns, columns);
}

void gemm_run(const struct gemm_args *args)
{
    const struct gemm_kernel *kernel = args->b->kernel;
    if (kernel->strided) {
        strided_run(args);
        return;
    }
    struct task_shape shape = tasks_of(args);
#pragma omp parallel num_threads(args->threads)
    {
        float *scratch = tiles;
        if (kernel->thread_begin) kernel->thread_begin();
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < shape.row_tasks * shape.panel_tasks; task++)
            task_run(args, &shape, task, scratch);
        if (kernel->thread_end) kernel->thread_end();
    }
}

/* Sums over tokens */

/* Rows [first_row, first_row + rows) of D, one panel of 32 columns. */
static void outer_panel(const struct gemm_outer_args *args, int64_t panel, int64_t first_row, int64_t rows,
                        float *scratch)
{
    const struct gemm_operand *p = args->p;
    float *packed = scratch + ROW_BLOCK_MOST * PANEL_BLOCK * TILE + ROW_BLOCK_MOST * TILE;
    int64_t column = panel * GEMM_NR, n = least(GEMM_NR, args->q.cols - column);
    size_t size = dtype_bytes(args->q.dtype);
    for (int64_t t = 0; t < p->k; t += OUTER_KC) {
        int64_t count = least(OUTER_KC, p->k - t);
        p->kernel->vector->pack_panel(
            count, (int)n, (const char *)args->q.data + (size_t)(t * args->q.stride + column) * size,
            args->q.dtype, args->q.stride, packed);
        panel_product(p, first_row, rows, t, round_up(count, gemm_k_step(p->kernel)), (const char *)packed, n,
                      scratch, t > 0);
    }
    for (int64_t i = 0; i < rows; i++) {
        float *to = args->row[first_row + i];
        if (!to) continue;
        to += column * args->step;
        for (int64_t j = 0; j < n; j++) to[j * args->step] += args->scale * scratch[i * TILE + j];
    }
}

void gemm_outer(const struct gemm_outer_args *args)
{
    const struct gemm_kernel *kernel = args->p->kernel;
    int64_t panels = (args->q.cols + GEMM_NR - 1) / GEMM_NR;
    int64_t step = OUTER_ROWS / kernel->mr * kernel->mr;
#pragma omp parallel num_threads(args->threads)
    {
        float *scratch = tiles;
        if (kernel->thread_begin) kernel->thread_begin();
#pragma omp for schedule(dynamic, 4)
        for (int64_t panel = 0; panel < panels; panel++)
            for (int64_t row = 0; row < args->p->rows; row += step)
                outer_panel(args, panel, row, least(step, args->p->rows - row), scratch);
        if (kernel->thread_end) kernel->thread_end();
    }
}
