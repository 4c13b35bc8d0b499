/*
 * linear.c: panel.h on CUDA.
 *
 * One matrix M [out + R, in + R] holds all: W at its upper left, sB at its upper right and A below.
 *
 *   u = x A^T          rows out.. of M, columns ..in
 *   y = [x | u] M^T    rows ..out, K = in + R
 *   g = dy (sB)        rows ..out, columns in..
 *   dx = [dy | g] M    columns ..in, K = out + R
 *
 * The adapter's own products are skinny.h's while its rank is small, and the library's above that. Under
 * dropout dx begins as the masked part, to which the base product (K = out) is added.
 *
 * Invariants: 1. Everything of M that padding touches is zero from panel_create on. 2. Rows of M start at
 * 128-byte borders. 3. Scratch holds nothing between calls.
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/skinny.h"

enum { PITCH_ELEMENTS = 64, OWN_RANKS_MOST = 128, ALIGN = 256, PAGE_BYTES = 2 << 20 };

struct cuda_panel {
    struct panel base;
    void *memory; /* M, then the bias */
    struct matrix all;
    void *bias; /* [out] y_dtype, or NULL */
    float scale[PANEL_PARTS];
    uint32_t *bits; /* scratch: masks */
};

static struct cuda_panel *panel_of(struct panel *panel)
{
    return (struct cuda_panel *)panel;
}

static size_t round_up(size_t value, size_t step)
{
    return (value + step - 1) / step * step;
}

static struct matrix matrix_shape(const struct panel *shape)
{
    int64_t cols = shape->spec.in + shape->spare;
    return matrix_of(NULL, shape->spec.dtype, shape->out + shape->spare, cols,
                     (int64_t)round_up((size_t)cols, PITCH_ELEMENTS));
}

static size_t matrix_bytes(struct matrix m)
{
    return round_up((size_t)(m.rows * m.stride) * dtype_bytes(m.dtype), ALIGN);
}

static size_t weights_size(const struct panel *shape)
{
    size_t bias = shape->spec.bias ? (size_t)shape->out * dtype_bytes(shape->spec.y_dtype) : 0;
    return matrix_bytes(matrix_shape(shape)) + round_up(bias, ALIGN);
}

static void cuda_panel_bytes(const struct panel_spec *spec, size_t *weights_bytes, size_t *scratch_bytes)
{
    struct panel shape;
    panel_shape_init(&shape, NULL, spec);
    *weights_bytes = weights_size(&shape);
    /* cudaMalloc gives whole pages to a block that is not small */
    if (*weights_bytes > PAGE_BYTES / 2) *weights_bytes = round_up(*weights_bytes, PAGE_BYTES);
    *scratch_bytes = shape.spare > 0 ? skinny_mask_bytes(spec->n_parts, spec->max_tokens, spec->in)
                                     : ALIGN; /* callers allocate it unseen */
}

static enum status cuda_panel_create(struct panel **out, const struct panel *shape, void *scratch)
{
    struct cuda_panel *p = memory_new(1, sizeof *p);
    if (!p) return LORAD_NOMEM;
    enum status status = device_alloc(&p->memory, shape->device, weights_size(shape));
    if (status != LORAD_OK) {
        free(p);
        return status;
    }
    p->base = *shape;
    p->all = matrix_shape(shape);
    p->all.data = p->memory;
    if (shape->spec.bias) p->bias = (char *)p->memory + matrix_bytes(p->all);
    p->bits = scratch;
    *out = &p->base;
    return LORAD_OK;
}

static void cuda_panel_destroy(struct panel *panel)
{
    device_free(panel->device, panel_of(panel)->memory);
    free(panel);
}

/* W, sB and A. */
static struct matrix weight_of(const struct cuda_panel *p)
{
    return matrix_part(p->all, 0, p->base.out, 0, p->base.spec.in);
}

static struct matrix sb_of(const struct cuda_panel *p)
{
    return matrix_part(p->all, 0, p->base.out, p->base.spec.in, p->base.spare);
}

static struct matrix a_of(const struct cuda_panel *p)
{
    return matrix_part(p->all, p->base.out, p->base.spare, 0, p->base.spec.in);
}

static enum status cuda_panel_load_rows(struct panel *panel, int32_t part, int64_t row, struct matrix host)
{
    struct matrix to =
        matrix_part(weight_of(panel_of(panel)), panel->out_first[part] + row, host.rows, 0, host.cols);
    return cuda_load_rows(cuda_of(panel->device), to, host);
}

static enum status cuda_panel_load_bias(struct panel *panel, int32_t part, int64_t row, int64_t n,
                                        const float *host)
{
    struct matrix bias = matrix_of(panel_of(panel)->bias, panel->spec.y_dtype, 1, panel->out, panel->out);
    /* matrix_of wants a pointer to write through; it is only read. */
    return cuda_load_rows(cuda_of(panel->device), matrix_part(bias, 0, 1, panel->out_first[part] + row, n),
                          matrix_of((void *)(uintptr_t)host, DTYPE_F32, 1, n, n));
}

static enum status cuda_panel_seal(struct panel *panel)
{
    return cuda_load_join(cuda_of(panel->device));
}

static struct cuda_adapter adapter_of(const struct panel_adapter *from)
{
    struct panel *panel = from->panel;
    struct cuda_panel *p = panel_of(panel);
    int64_t rank = panel->spec.part[from->part].rank, first = panel->rank_first[from->part];
    p->scale[from->part] = from->scale;
    return (struct cuda_adapter){.to_a = matrix_part(a_of(p), first, rank, 0, panel->spec.in),
                                 .to_b = matrix_part(sb_of(p), panel->out_first[from->part],
                                                     panel->spec.part[from->part].out, first, rank),
                                 .a = from->a,
                                 .b = from->b,
                                 .scale = from->scale};
}

static enum status cuda_panel_set_adapters(const struct panel_adapter *adapters, int32_t n)
{
    struct cuda_adapter some[CUDA_ADAPTERS];
    struct device *device = adapters[0].panel->device;
    for (int32_t done = 0; done < n;) {
        int32_t count = 0;
        enum dtype dtype = adapters[done].panel->spec.dtype;
        while (done < n && count < CUDA_ADAPTERS && adapters[done].panel->spec.dtype == dtype)
            some[count++] = adapter_of(&adapters[done++]);
        TRY(cuda_put_adapters(device, some, count));
    }
    return LORAD_OK;
}

/* Products */

static enum status multiply(const struct panel *panel, const struct cuda_product *product)
{
    return cuda_gemm_run(cuda_of(panel->device)->gemm, product);
}

static struct matrix spare_of(const struct panel *panel, struct matrix m)
{
    return matrix_part(m, 0, m.rows, m.cols, panel->spare);
}

/* Above some rank the library's kernels, which are made for arithmetic, are ahead of ours. */
static bool by_library(const struct panel *panel, bool masked)
{
    return panel->rank_sum > OWN_RANKS_MOST && !masked;
}

static enum status forward_u(struct cuda_panel *p, const struct panel_forward *args, struct matrix u)
{
    struct panel *s = &p->base;
    if (by_library(s, args->dropout))
        return multiply(
            s, &(struct cuda_product){.a = args->x, .b = a_of(p), .d = u, .turn_b = true, .alpha = 1});
    if (!args->dropout) return skinny_u(s, args->x, a_of(p), NULL, 1, u);
    TRY(skinny_mask(s, args->dropout, args->x.rows, p->bits));
    return skinny_u(s, args->x, a_of(p), p->bits, 1 / (1 - args->dropout->p), u);
}

static enum status cuda_panel_forward(struct panel *panel, const struct panel_forward *args)
{
    struct cuda_panel *p = panel_of(panel);
    bool adapter = args->adapter && panel->rank_sum > 0;
    struct matrix u = spare_of(panel, args->x);
    size_t size = dtype_bytes(u.dtype);
    if (adapter)
        TRY(forward_u(p, args, u));
    else if (panel->spare > 0)
        CUDA_TRY(cudaMemset2DAsync(u.data, (size_t)u.stride * size, 0, (size_t)u.cols * size, (size_t)u.rows,
                                   cuda_compute(panel->device)));
    int64_t k = panel->spec.in + (adapter ? panel->spare : 0);
    return multiply(panel, &(struct cuda_product){.a = matrix_part(args->x, 0, args->x.rows, 0, k),
                                                  .b = matrix_part(p->all, 0, panel->out, 0, k),
                                                  .d = args->y,
                                                  .turn_b = true,
                                                  .bias = p->bias,
                                                  .alpha = 1});
}

static enum status backward_g(struct cuda_panel *p, struct matrix dy, struct matrix g)
{
    if (!by_library(&p->base, false)) return skinny_g(&p->base, dy, sb_of(p), g);
    return multiply(&p->base, &(struct cuda_product){.a = dy, .b = sb_of(p), .d = g, .alpha = 1});
}

static enum status backward_da(struct cuda_panel *p, const struct panel_backward *args, struct matrix g)
{
    struct panel *s = &p->base;
    float scale = args->dropout ? 1 / (1 - args->dropout->p) : 1;
    if (!by_library(s, args->dropout))
        return skinny_da(s, g, args->x, args->dropout ? p->bits : NULL, scale, args->da);
    for (int32_t i = 0; i < s->spec.n_parts; i++) {
        int64_t rank = s->spec.part[i].rank;
        if (rank == 0 || !args->da[i]) continue;
        TRY(multiply(
            s, &(struct cuda_product){.a = matrix_part(g, 0, g.rows, s->rank_first[i], rank),
                                      .b = args->x,
                                      .d = matrix_of(args->da[i], DTYPE_F32, rank, s->spec.in, s->spec.in),
                                      .turn_a = true,
                                      .alpha = 1,
                                      .beta = 1}));
    }
    return LORAD_OK;
}

static enum status backward_db(struct cuda_panel *p, const struct panel_backward *args)
{
    struct panel *s = &p->base;
    if (!by_library(s, false)) return skinny_db(s, args->u, args->dy, p->scale, args->db);
    for (int32_t i = 0; i < s->spec.n_parts; i++) {
        int64_t rank = s->spec.part[i].rank, out = s->spec.part[i].out;
        if (rank == 0 || !args->db[i]) continue;
        TRY(multiply(
            s, &(struct cuda_product){.a = matrix_part(args->dy, 0, args->dy.rows, s->out_first[i], out),
                                      .b = matrix_part(args->u, 0, args->u.rows, s->rank_first[i], rank),
                                      .d = matrix_of(args->db[i], DTYPE_F32, out, rank, rank),
                                      .turn_a = true,
                                      .alpha = p->scale[i],
                                      .beta = 1}));
    }
    return LORAD_OK;
}

static enum status backward_dx(struct cuda_panel *p, const struct panel_backward *args, struct matrix g)
{
    struct panel *s = &p->base;
    int64_t k = s->out + (args->dropout ? 0 : s->spare);
    struct cuda_product product = {.a = matrix_part(args->dy, 0, args->dy.rows, 0, k),
                                   .b = matrix_part(p->all, 0, k, 0, s->spec.in),
                                   .d = args->dx,
                                   .alpha = 1};
    if (args->dropout) {
        product.beta = 1;
        TRY(cuda_gemm_choose(cuda_of(s->device)->gemm, &product));
        TRY(skinny_dx(s, g, a_of(p), p->bits, 1 / (1 - args->dropout->p), args->dx));
    }
    return multiply(s, &product);
}

static enum status cuda_panel_backward(struct panel *panel, const struct panel_backward *args)
{
    struct cuda_panel *p = panel_of(panel);
    struct matrix g = spare_of(panel, args->dy);
    if (panel->rank_sum > 0) {
        TRY(backward_g(p, args->dy, g));
        if (args->dropout) TRY(skinny_mask(panel, args->dropout, args->dy.rows, p->bits));
        TRY(backward_da(p, args, g));
        TRY(backward_db(p, args));
    }
    return args->dx.data ? backward_dx(p, args, g) : LORAD_OK;
}

const struct panel_ops cuda_panel_ops = {
    .bytes = cuda_panel_bytes,
    .create = cuda_panel_create,
    .destroy = cuda_panel_destroy,
    .load_rows = cuda_panel_load_rows,
    .load_bias = cuda_panel_load_bias,
    .seal = cuda_panel_seal,
    .set_adapters = cuda_panel_set_adapters,
    .forward = cuda_panel_forward,
    .backward = cuda_panel_backward,
};

static enum status choose(struct device *device, const struct cuda_product *args)
{
    return cuda_gemm_choose(cuda_of(device)->gemm, args);
}

static enum status product(struct device *device, const struct cuda_product *args)
{
    return cuda_gemm_run(cuda_of(device)->gemm, args);
}

const struct cuda_products lorad_cuda_products = {
    .choose = choose,
    .product = product,
    .mask_bytes = skinny_mask_bytes,
    .mask = skinny_mask,
    .u = skinny_u,
    .g = skinny_g,
    .da = skinny_da,
    .db = skinny_db,
    .dx = skinny_dx,
};
