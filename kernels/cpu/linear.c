/*
 * linear.c: panel.h on the CPU.
 *
 * Four right operands (gemm.h), W and its adapter in one piece where one product wants both:
 *
 *   forward: K in + R, N out;  [W | sB];  y = [x | u] forward
 *   down:    K in, N R;        A;         u = x down
 *   back:    K out + R, N in;  [W ; A];   dx = [dy | g] back, only with needs_dx
 *   up:      K out, N R;       sB;        g = dy up
 *
 * A packed kernel keeps each in its own layout (W twice with needs_dx). OpenBLAS reads all four as views of
 * one matrix [out + R, in + R] with W at its upper left, sB at its upper right and A below.
 *
 * Dropout needs x masked per part, so u and dA take one pass a part, and dx adds the parts as masked
 * segments.
 *
 * Invariants: 1. Everything that padding touches is zero from panel_create on: columns of u and g from
 * rank_sum, rows and columns of the operands behind their ends. 2. After create nothing is allocated; scratch
 * holds nothing between calls.
 */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "kernels/cpu/dropout_mask.h"
#include "kernels/cpu/gemm.h"
#include "kernels/panel_impl.h"

struct cpu_panel {
    struct panel base;
    const struct gemm_kernel *kernel;
    int threads;
    void *memory; /* of the weights */
    float *bias;  /* [out] or NULL */
    float scale[PANEL_PARTS];
    struct gemm_weights forward, down, back, up;

    /* scratch, T = max_tokens */
    void *left;          /* operand: x and u, or dy and g */
    void *masked_left;   /* operand: masked x; or g of each part alone */
    void *turned;        /* operand: g or u transposed, [R, T] */
    void *masked;        /* [T, in] masked x */
    uint32_t *mask;      /* [parts][T][words] */
    float *product;      /* [T, in], strided kernels with an adapter */
    void *part_g;        /* [T, R] g of one part among zeros */
    size_t part_g_bytes; /* of one part's operand in masked_left */
    float *row[];        /* [R] where rows of dA or dB go */
};

static size_t take(struct arena *arena, void **out, size_t bytes)
{
    /* The arena measures or was measured: it cannot be full. */
    ASSERT(arena_take(arena, out, bytes) == LORAD_OK);
    return bytes;
}

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void weights_lay_out(struct cpu_panel *p, struct arena *arena)
{
    const struct panel *s = &p->base;
    const struct gemm_kernel *kernel = p->kernel;
    int64_t in = s->spec.in, out = s->out, spare = s->spare;
    p->forward = (struct gemm_weights){.kernel = kernel, .k = in + spare, .n = out};
    p->down = (struct gemm_weights){.kernel = kernel, .k = in, .n = spare};
    p->back = (struct gemm_weights){.kernel = kernel, .k = out + spare, .n = in};
    p->up = (struct gemm_weights){.kernel = kernel, .k = out, .n = spare};
    if (s->spec.bias) take(arena, (void **)&p->bias, (size_t)out * sizeof(float));
    if (kernel->strided) {
        void *all = NULL;
        int64_t stride = in + spare;
        take(arena, &all, (size_t)((out + spare) * stride) * sizeof(float));
        float *first = all;
        p->forward.data = p->back.data = all;
        p->down.data = all ? (char *)(first + out * stride) : NULL;
        p->up.data = all ? (char *)(first + in) : NULL;
        p->forward.k_step = p->down.k_step = p->back.n_step = p->up.n_step = 1;
        p->forward.n_step = p->down.n_step = p->back.k_step = p->up.k_step = stride;
        return;
    }
    take(arena, (void **)&p->forward.data, gemm_weights_bytes(kernel, in + spare, out));
    if (s->spec.needs_dx) take(arena, (void **)&p->back.data, gemm_weights_bytes(kernel, out + spare, in));
    if (spare == 0) return;
    take(arena, (void **)&p->down.data, gemm_weights_bytes(kernel, in, spare));
    take(arena, (void **)&p->up.data, gemm_weights_bytes(kernel, out, spare));
}

static void scratch_lay_out(struct cpu_panel *p, struct arena *arena)
{
    const struct panel *s = &p->base;
    const struct gemm_kernel *kernel = p->kernel;
    int64_t in = s->spec.in, tokens = s->spec.max_tokens, spare = s->spare;
    size_t size = dtype_bytes(s->spec.dtype);
    if (!kernel->strided)
        take(arena, &p->left, gemm_operand_bytes(kernel, tokens, (in > s->out ? in : s->out) + spare));
    if (spare == 0) return;
    take(arena, &p->turned, gemm_operand_bytes(kernel, spare, tokens));
    take(arena, &p->masked, (size_t)(tokens * in) * size);
    take(arena, (void **)&p->mask,
         (size_t)(s->spec.n_parts * tokens * dropout_mask_words(in)) * sizeof(uint32_t));
    if (kernel->strided) {
        p->part_g_bytes = (size_t)(tokens * spare) * size;
        take(arena, (void **)&p->product, (size_t)(tokens * in) * sizeof(float));
        take(arena, &p->masked_left, PANEL_PARTS * p->part_g_bytes);
        return;
    }
    p->part_g_bytes = gemm_operand_bytes(kernel, tokens, spare);
    take(arena, &p->masked_left, most(gemm_operand_bytes(kernel, tokens, in), PANEL_PARTS * p->part_g_bytes));
    take(arena, &p->part_g, (size_t)(tokens * spare) * size);
}

static void lay_out(struct cpu_panel *p, const struct panel *shape)
{
    p->base = *shape;
    p->kernel = gemm_kernel(shape->spec.dtype);
}

static void cpu_panel_bytes(const struct panel_spec *spec, size_t *weights_bytes, size_t *scratch_bytes)
{
    struct panel shape;
    struct cpu_panel panel = {.memory = NULL};
    struct arena arena;
    panel_shape_init(&shape, NULL, spec);
    lay_out(&panel, &shape);
    arena_init(&arena, NULL, 0);
    weights_lay_out(&panel, &arena);
    *weights_bytes = arena.used_bytes;
    arena_init(&arena, NULL, 0);
    scratch_lay_out(&panel, &arena);
    *scratch_bytes = most(arena.used_bytes, ARENA_ALIGN); /* callers allocate it unseen */
}

static enum status cpu_panel_create(struct panel **out, const struct panel *shape, void *scratch)
{
    struct cpu_panel *p = memory_new(1, sizeof *p + (size_t)shape->spare * sizeof p->row[0]);
    if (!p) return LORAD_NOMEM;
    size_t weights_bytes, scratch_bytes;
    cpu_panel_bytes(&shape->spec, &weights_bytes, &scratch_bytes);
    enum status status = device_alloc(&p->memory, shape->device, weights_bytes);
    if (status != LORAD_OK) goto free_panel;
    struct arena arena;
    lay_out(p, shape);
    p->threads = cpu_device_threads(shape->device);
    arena_init(&arena, p->memory, weights_bytes);
    weights_lay_out(p, &arena);
    arena_init(&arena, scratch, scratch_bytes);
    scratch_lay_out(p, &arena);
    *out = &p->base;
    return LORAD_OK;
free_panel:
    free(p);
    return status;
}

static void cpu_panel_destroy(struct panel *panel)
{
    struct cpu_panel *p = (struct cpu_panel *)panel;
    device_free(panel->device, p->memory);
    free(p);
}

/* Loading */

/* What is converted at a time, on the stack: BLOCK rows of RUN elements. BLOCK is even, so that threads with
 * different blocks never share a pair of k. */
enum { RUN = 256, BLOCK = GEMM_NR };

/* to[rows][RUN] of the panel's dtype from columns [k, k + n) of host. */
static void block_convert(void *to, enum dtype to_dtype, struct matrix host, int64_t k, int64_t n,
                          float scale)
{
    size_t size = dtype_bytes(to_dtype);
    for (int64_t r = 0; r < host.rows; r++) {
        char *row = (char *)to + (size_t)(r * RUN) * size;
        const void *from = (const char *)host.data + (size_t)(r * host.stride + k) * dtype_bytes(host.dtype);
        if (to_dtype == host.dtype && scale == 1) {
            memcpy(row, from, (size_t)n * size);
            continue;
        }
        for (int64_t i = 0; i < n; i++) {
            float value = host.dtype == DTYPE_F32    ? ((const float *)from)[i]
                          : host.dtype == DTYPE_BF16 ? bf16_to_f32(((const uint16_t *)from)[i])
                                                     : f16_to_f32(((const uint16_t *)from)[i]);
            value *= scale;
            if (to_dtype == DTYPE_F32)
                ((float *)(void *)row)[i] = value;
            else
                ((uint16_t *)(void *)row)[i] = f32_to_bf16(value);
        }
    }
}

/* Puts a matrix times `scale` as columns [n, n + rows) and rows [k, ...) of one right operand, and turned as
 * rows [turned_k, ...) and columns [turned_n, ...) of another; NULL: none. */
struct destination {
    struct gemm_weights *columns, *rows;
    int64_t n, k, turned_k, turned_n;
};

static void matrix_put(struct cpu_panel *p, struct matrix host, float scale, const struct destination *to)
{
    enum dtype dtype = p->base.spec.dtype;
    int64_t lead = to->n % BLOCK; /* blocks begin where panels do */
    int64_t blocks = (lead + host.rows + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) num_threads(p->threads)
    for (int64_t block = 0; block < blocks; block++) {
        float run[BLOCK * RUN]; /* room for either dtype */
        int64_t first = block ? block * BLOCK - lead : 0;
        int64_t end = (block + 1) * BLOCK - lead < host.rows ? (block + 1) * BLOCK - lead : host.rows;
        struct matrix part = matrix_part(host, first, end - first, 0, host.cols);
        for (int64_t k = 0; k < host.cols; k += RUN) {
            int64_t count = host.cols - k < RUN ? host.cols - k : RUN;
            block_convert(run, dtype, part, k, count, scale);
            gemm_weights_put_columns(to->columns, to->n + first, part.rows, to->k + k, count, run, RUN);
            if (to->rows)
                gemm_weights_put_rows(to->rows, to->turned_k + first, part.rows, to->turned_n + k, count, run,
                                      RUN);
        }
    }
}

static enum status cpu_panel_load_rows(struct panel *panel, int32_t part, int64_t row, struct matrix host)
{
    struct cpu_panel *p = (struct cpu_panel *)panel;
    int64_t first = panel->out_first[part] + row;
    bool turned = panel->spec.needs_dx && !p->kernel->strided;
    matrix_put(p, host, 1,
               &(struct destination){
                   .columns = &p->forward, .n = first, .rows = turned ? &p->back : NULL, .turned_k = first});
    return LORAD_OK;
}

static enum status cpu_panel_load_bias(struct panel *panel, int32_t part, int64_t row, int64_t n,
                                       const float *host)
{
    struct cpu_panel *p = (struct cpu_panel *)panel;
    memcpy(p->bias + panel->out_first[part] + row, host, (size_t)n * sizeof *host);
    return LORAD_OK;
}

static enum status cpu_panel_seal(struct panel *panel)
{
    (void)panel; /* rows are packed as they arrive */
    return LORAD_OK;
}

static void set_adapter(const struct panel_adapter *adapter)
{
    const struct panel *panel = adapter->panel;
    struct cpu_panel *p = (struct cpu_panel *)adapter->panel;
    int32_t part = adapter->part;
    int64_t in = panel->spec.in, out = panel->spec.part[part].out, rank = panel->spec.part[part].rank;
    int64_t first = panel->rank_first[part], out_first = panel->out_first[part];
    bool packed = !p->kernel->strided;
    p->scale[part] = adapter->scale;
    /* matrix_of wants a pointer to write through; both are only read. */
    struct matrix host_a = matrix_of((void *)(uintptr_t)adapter->a, DTYPE_F32, rank, in, in);
    struct matrix host_b = matrix_of((void *)(uintptr_t)adapter->b, DTYPE_F32, out, rank, rank);
    matrix_put(p, host_a, 1,
               &(struct destination){.columns = &p->down,
                                     .n = first,
                                     .rows = packed && panel->spec.needs_dx ? &p->back : NULL,
                                     .turned_k = panel->out + first});
    matrix_put(p, host_b, adapter->scale,
               &(struct destination){.columns = &p->forward,
                                     .n = out_first,
                                     .k = in + first,
                                     .rows = packed ? &p->up : NULL,
                                     .turned_k = out_first,
                                     .turned_n = first});
}

static enum status cpu_panel_set_adapters(const struct panel_adapter *adapters, int32_t n)
{
    for (int32_t i = 0; i < n; i++) set_adapter(&adapters[i]);
    return LORAD_OK;
}

/* Products */

/* c = scale * a[:, 0, k) b[0, k) columns [n_first, n_first + c.cols). */
static void multiply(struct cpu_panel *p, const struct gemm_operand *a, int64_t k,
                     const struct gemm_weights *b, int64_t n_first, float scale, const float *bias,
                     struct matrix c)
{
    struct gemm_args args = {
        .b = b,
        .segment = {{.a = a, .k = k}},
        .n_segments = 1,
        .n_first = n_first,
        .scale = scale,
        .bias = bias,
        .c = c,
        .threads = p->threads,
    };
    gemm_run(&args);
}

/* The spare columns behind a matrix of `cols` columns. */
static struct matrix spare_of(const struct panel *panel, struct matrix m)
{
    struct matrix spare = matrix_part(m, 0, m.rows, m.cols, panel->spare);
    return spare;
}

static void columns_zero(struct matrix m, int64_t first, int64_t last)
{
    size_t size = dtype_bytes(m.dtype);
    for (int64_t i = 0; i < m.rows; i++)
        memset((char *)m.data + (size_t)(i * m.stride + first) * size, 0, (size_t)(last - first) * size);
}

static uint32_t *mask_of(struct cpu_panel *p, int32_t part)
{
    return p->mask + part * p->base.spec.max_tokens * dropout_mask_words(p->base.spec.in);
}

/* x of one part under its mask, not scaled. */
static struct matrix masked_x(struct cpu_panel *p, struct matrix x, int32_t part,
                              const struct panel_dropout *dropout)
{
    struct matrix masked = matrix_of(p->masked, x.dtype, x.rows, x.cols, x.cols);
    dropout_mask_fill(mask_of(p, part), x.rows, x.cols, part, dropout, p->kernel->vector, p->threads);
    dropout_mask_apply(masked, x, mask_of(p, part), p->threads);
    return masked;
}

static void forward_u(struct cpu_panel *p, const struct gemm_operand *left, const struct panel_forward *args)
{
    const struct panel *s = &p->base;
    struct matrix u = spare_of(s, args->x);
    columns_zero(u, s->rank_sum, s->spare);
    if (!args->dropout) {
        multiply(p, left, s->spec.in, &p->down, 0, 1, NULL, matrix_part(u, 0, u.rows, 0, s->rank_sum));
        return;
    }
    for (int32_t i = 0; i < s->spec.n_parts; i++) {
        if (s->spec.part[i].rank == 0) continue;
        struct matrix masked = masked_x(p, args->x, i, args->dropout);
        struct gemm_operand a = gemm_operand_of(p->kernel, p->masked_left, masked.rows, masked.cols);
        gemm_operand_pack(&a, 0, masked, p->threads);
        multiply(p, &a, s->spec.in, &p->down, s->rank_first[i], 1 / (1 - args->dropout->p), NULL,
                 matrix_part(u, 0, u.rows, s->rank_first[i], s->spec.part[i].rank));
    }
}

static enum status cpu_panel_forward(struct panel *panel, const struct panel_forward *args)
{
    struct cpu_panel *p = (struct cpu_panel *)panel;
    bool adapter = args->adapter && panel->rank_sum > 0;
    int64_t in = panel->spec.in;
    struct gemm_operand left = gemm_operand_of(p->kernel, p->left, args->x.rows, in + panel->spare);
    gemm_operand_pack(&left, 0, args->x, p->threads);
    if (adapter) {
        forward_u(p, &left, args);
        gemm_operand_pack(&left, in, spare_of(panel, args->x), p->threads);
    } else if (panel->spare > 0) {
        columns_zero(spare_of(panel, args->x), 0, panel->spare);
    }
    multiply(p, &left, adapter ? in + panel->rank_sum : in, &p->forward, 0, 1, p->bias, args->y);
    return LORAD_OK;
}

/* g of one part among zeros, as an operand of its own. */
static struct gemm_operand part_g(struct cpu_panel *p, struct matrix g, int32_t part)
{
    const struct panel *s = &p->base;
    size_t size = dtype_bytes(g.dtype), width = (size_t)s->spec.part[part].rank * size;
    char *memory = (char *)p->masked_left + (size_t)part * p->part_g_bytes;
    struct matrix alone = matrix_of(p->kernel->strided ? memory : p->part_g, g.dtype, g.rows, g.cols, g.cols);
    memset(alone.data, 0, (size_t)(alone.rows * alone.stride) * size);
    for (int64_t t = 0; t < g.rows; t++)
        memcpy((char *)alone.data + (size_t)(t * alone.stride + s->rank_first[part]) * size,
               (char *)g.data + (size_t)(t * g.stride + s->rank_first[part]) * size, width);
    struct gemm_operand a = gemm_operand_of(p->kernel, memory, g.rows, g.cols);
    gemm_operand_pack(&a, 0, alone, p->threads);
    return a;
}

/* dx = dy W + sum over parts of mask * (g_j A_j); the masks were filled for dA. */
static void backward_dx_masked(struct cpu_panel *p, const struct gemm_operand *left, struct matrix g,
                               const struct panel_backward *args)
{
    const struct panel *s = &p->base;
    struct gemm_operand alone[PANEL_PARTS];
    struct gemm_args call = {
        .b = &p->back,
        .segment = {{.a = left, .k = s->out}},
        .n_segments = 1,
        .scale = 1,
        .c = args->dx,
        .threads = p->threads,
        .product = p->product,
    };
    for (int32_t i = 0; i < s->spec.n_parts; i++) {
        if (s->spec.part[i].rank == 0) continue;
        alone[i] = part_g(p, g, i);
        call.segment[call.n_segments++] = (struct gemm_segment){.a = &alone[i],
                                                                .k = s->rank_sum,
                                                                .b_k = s->out,
                                                                .mask = mask_of(p, i),
                                                                .scale = 1 / (1 - args->dropout->p)};
    }
    gemm_run(&call);
}

/* row[i] += scale * sum over t of small[t][i] * wide[t][...], rows of D at p->row. */
static void sum_over_tokens(struct cpu_panel *p, struct matrix small, struct matrix wide, int64_t step,
                            float scale)
{
    struct gemm_operand turned = gemm_operand_of(p->kernel, p->turned, small.cols, small.rows);
    gemm_operand_pack_transposed(&turned, small, p->threads);
    struct gemm_outer_args args = {
        .p = &turned,
        .q = wide,
        .row = p->row,
        .step = step,
        .scale = scale,
        .threads = p->threads,
    };
    gemm_outer(&args);
}

static void backward_da(struct cpu_panel *p, struct matrix g, const struct panel_backward *args)
{
    const struct panel *s = &p->base;
    int64_t in = s->spec.in;
    for (int32_t i = 0; i < s->spec.n_parts; i++)
        for (int32_t r = 0; r < s->spec.part[i].rank; r++)
            p->row[s->rank_first[i] + r] = args->da[i] ? args->da[i] + r * in : NULL;
    if (!args->dropout) {
        sum_over_tokens(p, matrix_part(g, 0, g.rows, 0, s->rank_sum), args->x, 1, 1);
        return;
    }
    for (int32_t i = 0; i < s->spec.n_parts; i++) {
        int32_t rank = s->spec.part[i].rank;
        if (rank == 0) continue;
        struct matrix masked = masked_x(p, args->x, i, args->dropout);
        for (int32_t r = 0; r < rank; r++) p->row[r] = args->da[i] ? args->da[i] + r * in : NULL;
        sum_over_tokens(p, matrix_part(g, 0, g.rows, s->rank_first[i], rank), masked, 1,
                        1 / (1 - args->dropout->p));
    }
}

static void backward_db(struct cpu_panel *p, const struct panel_backward *args)
{
    const struct panel *s = &p->base;
    for (int32_t i = 0; i < s->spec.n_parts; i++) {
        int32_t rank = s->spec.part[i].rank;
        if (rank == 0 || !args->db[i]) continue;
        for (int32_t r = 0; r < rank; r++) p->row[r] = args->db[i] + r;
        sum_over_tokens(p, matrix_part(args->u, 0, args->u.rows, s->rank_first[i], rank),
                        matrix_part(args->dy, 0, args->dy.rows, s->out_first[i], s->spec.part[i].out), rank,
                        p->scale[i]);
    }
}

static enum status cpu_panel_backward(struct panel *panel, const struct panel_backward *args)
{
    struct cpu_panel *p = (struct cpu_panel *)panel;
    bool adapter = panel->rank_sum > 0;
    struct matrix dy = args->dy, g = spare_of(panel, dy);
    int64_t out = panel->out;
    struct gemm_operand left = gemm_operand_of(p->kernel, p->left, dy.rows, out + panel->spare);
    gemm_operand_pack(&left, 0, dy, p->threads);
    if (adapter) {
        columns_zero(g, panel->rank_sum, panel->spare);
        multiply(p, &left, out, &p->up, 0, 1, NULL, matrix_part(g, 0, g.rows, 0, panel->rank_sum));
        backward_da(p, g, args);
        backward_db(p, args);
    }
    if (!args->dx.data) return LORAD_OK;
    if (adapter && args->dropout) {
        backward_dx_masked(p, &left, g, args);
        return LORAD_OK;
    }
    if (adapter) gemm_operand_pack(&left, out, g, p->threads);
    multiply(p, &left, out + (adapter ? panel->rank_sum : 0), &p->back, 0, 1, NULL, args->dx);
    return LORAD_OK;
}

const struct panel_ops cpu_panel_ops = {
    .bytes = cpu_panel_bytes,
    .create = cpu_panel_create,
    .destroy = cpu_panel_destroy,
    .load_rows = cpu_panel_load_rows,
    .load_bias = cpu_panel_load_bias,
    .seal = cpu_panel_seal,
    .set_adapters = cpu_panel_set_adapters,
    .forward = cpu_panel_forward,
    .backward = cpu_panel_backward,
};
