#include "trainer/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "comm/activity.h"
#include "trainer/model_parts.h"
#include "trainer/request.h"

enum { NAME_BYTES = 128, STAGING_BYTES = 8 << 20, STAGING_BYTES_A_THREAD = 4 << 20 };

/* ---- which tensors a model has ---- */

/* Calls visit for every tensor that the architecture needs. */
typedef enum status visit_fn(void *context, const char *name, int64_t rows, int64_t cols);

static enum status visit_layer(const struct arch *arch, int32_t layer, visit_fn *visit, void *context)
{
    char name[NAME_BYTES], prefix[64];
    snprintf(prefix, sizeof prefix, "model.layers.%d.", layer);
    for (int m = 0; m < MODULES; m++) {
        int64_t out = module_out(arch, (enum module)m);
        snprintf(name, sizeof name, "%s%s.weight", prefix, module_path((enum module)m));
        TRY(visit(context, name, out, module_in(arch, (enum module)m)));
        bool bias = m <= MODULE_V ? arch->qkv_bias : m == MODULE_O && arch->o_bias;
        snprintf(name, sizeof name, "%s%s.bias", prefix, module_path((enum module)m));
        if (bias) TRY(visit(context, name, 1, out));
    }
    static const char *const norms[] = {"input_layernorm", "post_attention_layernorm", "self_attn.q_norm",
                                        "self_attn.k_norm"};
    for (int i = 0; i < (arch->qk_norm ? 4 : 2); i++) {
        snprintf(name, sizeof name, "%s%s.weight", prefix, norms[i]);
        TRY(visit(context, name, 1, i < 2 ? arch->hidden : arch->head_dim));
    }
    return LORAD_OK;
}

static enum status visit_all(const struct arch *arch, visit_fn *visit, void *context)
{
    TRY(visit(context, "model.embed_tokens.weight", arch->vocab, arch->hidden));
    TRY(visit(context, "model.norm.weight", 1, arch->hidden));
    if (!arch->tied) TRY(visit(context, "lm_head.weight", arch->vocab, arch->hidden));
    for (int32_t i = 0; i < arch->layers; i++) TRY(visit_layer(arch, i, visit, context));
    return LORAD_OK;
}

struct check {
    const struct st_set *set;
    size_t found;
};

static bool is_float(enum st_dtype dtype)
{
    return dtype == ST_F32 || dtype == ST_F16 || dtype == ST_BF16;
}

static enum status find(const struct st_tensor **out, const struct st_set *set, const char *name,
                        int64_t rows, int64_t cols)
{
    const struct st_tensor *tensor = st_find(set, name);
    if (!tensor) return FAIL(LORAD_DATA, "%s: tensor %s is missing", st_file_path(set, 0), name);
    bool vector = rows == 1 && tensor->n_dims == 1;
    bool fits = vector ? tensor->shape[0] == cols
                       : tensor->n_dims == 2 && tensor->shape[0] == rows && tensor->shape[1] == cols;
    if (!fits) {
        char shape[64] = "";
        for (int32_t i = 0, n = 0; i < tensor->n_dims && n < 48; i++)
            n += snprintf(shape + n, sizeof shape - (size_t)n, i ? ", %lld" : "%lld",
                          (long long)tensor->shape[i]);
        return FAIL(LORAD_DATA, "%s: tensor %s has shape [%s], but config.json makes it [%lld, %lld]",
                    st_file_path(set, tensor->file), name, shape, (long long)rows, (long long)cols);
    }
    if (!is_float(tensor->dtype))
        return FAIL(LORAD_DATA, "%s: tensor %s is %s; weights must be F32, F16 or BF16",
                    st_file_path(set, tensor->file), name, st_dtype_name(tensor->dtype));
    *out = tensor;
    return LORAD_OK;
}

static enum status check_one(void *context, const char *name, int64_t rows, int64_t cols)
{
    struct check *check = context;
    const struct st_tensor *tensor;
    TRY(find(&tensor, check->set, name, rows, cols));
    check->found++;
    return LORAD_OK;
}

static enum status is_needed(void *context, const char *name, int64_t rows, int64_t cols)
{
    (void)rows, (void)cols;
    return strcmp(context, name) == 0 ? LORAD_REQUEUE : LORAD_OK; /* any code that stops the walk */
}

/* A tensor that is there but not needed: harmless leftovers are named once, a bias would change the result.
 */
static enum status check_extra(const struct st_set *set, const struct arch *arch,
                               const struct st_tensor *tensor)
{
    if (visit_all(arch, is_needed, (void *)tensor->name) != LORAD_OK) return LORAD_OK;
    bool leftover = strstr(tensor->name, "rotary_emb.inv_freq") ||
                    (arch->tied && !strcmp(tensor->name, "lm_head.weight"));
    if (leftover) return LORAD_OK;
    size_t n = strlen(tensor->name);
    if (strncmp(tensor->name, "model.layers.", 13) == 0 &&
        (n < 5 || strcmp(tensor->name + n - 5, ".bias") == 0))
        return FAIL(LORAD_DATA, "%s: tensor %s does not belong to the model that config.json describes",
                    st_file_path(set, tensor->file), tensor->name);
    log_warn("%s: tensor %s is not part of the model and is ignored", st_file_path(set, tensor->file),
             tensor->name);
    return LORAD_OK;
}

enum status weights_check(const struct st_set *set, const struct arch *arch)
{
    struct check check = {.set = set};
    TRY(visit_all(arch, check_one, &check));
    if (check.found == st_count(set)) return LORAD_OK;
    for (size_t i = 0; i < st_count(set); i++) TRY(check_extra(set, arch, st_at(set, i)));
    return LORAD_OK;
}

/* ---- loading ---- */

struct loading {
    struct model *model;
    const struct st_set *set;
    int threads;   /* that read */
    char *staging; /* a block of rows: one row at least */
    size_t staging_bytes;
    float *vector; /* the longest vector in f32 */
};

static enum dtype host_dtype(enum st_dtype dtype)
{
    return dtype == ST_F32 ? DTYPE_F32 : dtype == ST_BF16 ? DTYPE_BF16 : DTYPE_F16;
}

static float to_f32(const void *data, enum dtype dtype, int64_t i)
{
    if (dtype == DTYPE_F32) return ((const float *)data)[i];
    uint16_t half = ((const uint16_t *)data)[i];
    return dtype == DTYPE_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
}

/* All exponent bits set means infinity or NaN. */
static bool all_finite(const void *data, enum dtype dtype, int64_t n)
{
    uint32_t bad = 0;
    if (dtype == DTYPE_F32) {
        const uint32_t *bits = data;
        for (int64_t i = 0; i < n; i++) bad |= (bits[i] & 0x7f800000u) == 0x7f800000u;
    } else {
        const uint16_t *bits = data;
        uint16_t mask = dtype == DTYPE_BF16 ? 0x7f80 : 0x7c00;
        for (int64_t i = 0; i < n; i++) bad |= (bits[i] & mask) == mask;
    }
    return !bad;
}

/* bf16 reaches 2^128, fp16 only 65504, and what rounds above it is infinite. */
static enum status check_range(const struct loading *load, const struct st_tensor *tensor, const void *data,
                               int64_t n)
{
    enum dtype dtype = host_dtype(tensor->dtype);
    float most = 0;
    if (load->model->options.dtype != DTYPE_F16 || dtype == DTYPE_F16) return LORAD_OK;
    for (int64_t i = 0; i < n; i++) most = fmaxf(most, fabsf(to_f32(data, dtype, i)));
    if (most < 65520) return LORAD_OK;
    return FAIL(LORAD_CONFIG, "%s: tensor %s has a value of %g, which fp16 cannot hold: use bf16 or fp32",
                st_file_path(load->set, tensor->file), tensor->name, (double)most);
}

/* A part of a tensor, dense. Thread: any. */
static enum status read_piece(const struct loading *load, const struct st_tensor *tensor, int64_t row,
                              int64_t rows, int64_t col, int64_t cols, char *to)
{
    TRY(st_read_part(load->set, tensor, row, rows, col, cols, to));
    if (!all_finite(to, host_dtype(tensor->dtype), rows * cols))
        return FAIL(LORAD_DATA,
                    "%s: tensor %s has a value that is not finite (rows %lld to %lld); the file is damaged",
                    st_file_path(load->set, tensor->file), tensor->name, (long long)row,
                    (long long)(row + rows - 1));
    return check_range(load, tensor, to, rows * cols);
}

/* Into load->staging, by several threads: one alone reads from memory slower than a GPU takes. What one of
 * them could not read is read again here, for the message is the thread's own. */
static enum status read_block(struct loading *load, const struct st_tensor *tensor, int64_t row, int64_t rows,
                              int64_t col, int64_t cols)
{
    int64_t step = (rows + load->threads - 1) / load->threads;
    size_t row_bytes = (size_t)cols * st_dtype_bytes(tensor->dtype);
    bool failed = false;
#pragma omp parallel for schedule(static) num_threads(load->threads) reduction(|| : failed)
    for (int64_t first = 0; first < rows; first += step) {
        int64_t n = rows - first < step ? rows - first : step;
        char *to = load->staging + (size_t)first * row_bytes;
        if (read_piece(load, tensor, row + first, n, col, cols, to) != LORAD_OK) failed = true;
    }
    return failed ? read_piece(load, tensor, row, rows, col, cols, load->staging) : LORAD_OK;
}

static int64_t rows_per_block(const struct loading *load, const struct st_tensor *tensor, int64_t cols)
{
    int64_t rows = (int64_t)(load->staging_bytes / ((size_t)cols * st_dtype_bytes(tensor->dtype)));
    return rows > 0 ? rows : 1;
}

/* Rows [row, row + rows) x columns [col, col + cols) of a tensor into part `part` of a panel from its row 0
 * on. */
static enum status load_panel(struct loading *load, struct panel *panel, int32_t part,
                              const struct st_tensor *tensor, int64_t row, int64_t rows, int64_t col,
                              int64_t cols)
{
    int64_t step = rows_per_block(load, tensor, cols);
    for (int64_t done = 0; done < rows; done += step) {
        int64_t n = rows - done < step ? rows - done : step;
        TRY(read_block(load, tensor, row + done, n, col, cols));
        TRY(panel_load_rows(panel, part, done,
                            matrix_of(load->staging, host_dtype(tensor->dtype), n, cols, cols)));
    }
    return LORAD_OK;
}

/* A whole vector in f32 in load->vector. */
static enum status read_vector(struct loading *load, const char *name, int64_t count)
{
    const struct st_tensor *tensor;
    TRY(find(&tensor, load->set, name, 1, count));
    TRY(st_read(load->set, tensor, load->staging));
    if (!all_finite(load->staging, host_dtype(tensor->dtype), count))
        return FAIL(LORAD_DATA, "%s: tensor %s has a value that is not finite; the file is damaged",
                    st_file_path(load->set, tensor->file), name);
    TRY(check_range(load, tensor, load->staging, count));
    for (int64_t i = 0; i < count; i++) load->vector[i] = to_f32(load->staging, host_dtype(tensor->dtype), i);
    return LORAD_OK;
}

/* Converts n f32 values in place to the activation dtype and copies them to the device. */
static enum status put_act(struct loading *load, void *to, float *values, int64_t n)
{
    enum dtype act = load->model->options.dtype;
    uint16_t *halves = (uint16_t *)values; /* each value is read before its place is overwritten */
    if (act != DTYPE_F32)
        for (int64_t i = 0; i < n; i++) {
            uint16_t half = act == DTYPE_BF16 ? f32_to_bf16(values[i]) : f32_to_f16(values[i]);
            memcpy(&halves[i], &half, sizeof half);
        }
    TRY(device_copy_to(load->model->device, STREAM_COMPUTE, to, values, (size_t)n * dtype_bytes(act)));
    return device_sync(load->model->device);
}

static enum status load_norm(struct loading *load, void *to, int64_t count, const char *name)
{
    TRY(read_vector(load, name, count));
    return put_act(load, to, load->vector, count);
}

static enum status load_module(struct loading *load, int32_t number, enum module module)
{
    const struct model *model = load->model;
    char name[NAME_BYTES];
    const struct st_tensor *tensor;
    int64_t in = module_in(model->arch, module), out = module_out(model->arch, module), first, count;
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", number, module_path(module));
    TRY(find(&tensor, load->set, name, out, in));
    module_slice(model->arch, model->part, module, &first, &count);
    struct panel *panel = model->layers[number].panel[module_panel(module)];
    int32_t part = module_part_number(module);
    bool by_cols = module_is_row_split(module);
    TRY(by_cols ? load_panel(load, panel, part, tensor, 0, out, first, count)
                : load_panel(load, panel, part, tensor, first, count, 0, in));
    if (!model->layers[number].spec[module_panel(module)].bias) return LORAD_OK;
    snprintf(name, sizeof name, "model.layers.%d.%s.bias", number, module_path(module));
    TRY(read_vector(load, name, out));
    return panel_load_bias(panel, part, 0, by_cols ? out : count, load->vector + (by_cols ? 0 : first));
}

static enum status load_layer(struct loading *load, int32_t number)
{
    activity_sign();
    struct layer *layer = &load->model->layers[number];
    const struct arch *arch = load->model->arch;
    char name[NAME_BYTES];
    for (int m = 0; m < MODULES; m++) TRY(load_module(load, number, (enum module)m));
    for (int slot = 0; slot < PANEL_SLOTS; slot++) TRY(panel_seal(layer->panel[slot]));
    snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", number);
    TRY(load_norm(load, layer->input_norm, arch->hidden, name));
    snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", number);
    TRY(load_norm(load, layer->post_norm, arch->hidden, name));
    if (!arch->qk_norm) return LORAD_OK;
    snprintf(name, sizeof name, "model.layers.%d.self_attn.q_norm.weight", number);
    TRY(load_norm(load, layer->q_norm, arch->head_dim, name));
    snprintf(name, sizeof name, "model.layers.%d.self_attn.k_norm.weight", number);
    return load_norm(load, layer->k_norm, arch->head_dim, name);
}

/* Rows of load->staging, by way of f32 unless they are what the device wants. */
static enum status put_rows(struct loading *load, const struct st_tensor *tensor, struct matrix to,
                            float *block)
{
    int64_t n = to.rows * to.cols;
    enum dtype dtype = host_dtype(tensor->dtype);
    if (dtype == to.dtype) {
        TRY(device_copy_to(load->model->device, STREAM_COMPUTE, to.data, load->staging,
                           (size_t)n * dtype_bytes(dtype)));
        return device_sync(load->model->device);
    }
#pragma omp parallel for schedule(static) num_threads(load->threads)
    for (int64_t i = 0; i < n; i++) block[i] = to_f32(load->staging, dtype, i);
    return put_act(load, to.data, block, n);
}

static enum status load_embedding(struct loading *load)
{
    struct model *model = load->model;
    const struct st_tensor *tensor;
    int64_t d = model->arch->hidden, rows = model->part->vocab_valid, first = model->part->first_vocab;
    TRY(find(&tensor, load->set, "model.embed_tokens.weight", model->arch->vocab, d));
    int64_t step = rows_per_block(load, tensor, d);
    float *block = memory_new((size_t)(step * d), sizeof(float));
    enum status status = block ? LORAD_OK : LORAD_NOMEM;
    for (int64_t done = 0; status == LORAD_OK && done < rows; done += step) {
        int64_t n = rows - done < step ? rows - done : step;
        status = read_block(load, tensor, first + done, n, 0, d);
        if (status == LORAD_OK)
            status = put_rows(load, tensor, matrix_part(model->embedding, done, n, 0, d), block);
    }
    free(block);
    return status;
}

static enum status load_head(struct loading *load)
{
    struct model *model = load->model;
    const struct st_tensor *tensor;
    int64_t d = model->arch->hidden;
    const char *name = model->arch->tied ? "model.embed_tokens.weight" : "lm_head.weight";
    TRY(find(&tensor, load->set, name, model->arch->vocab, d));
    TRY(load_panel(load, model->head, 0, tensor, model->part->first_vocab, model->part->vocab_valid, 0, d));
    TRY(panel_seal(model->head));
    return load_norm(load, model->final_norm, d, "model.norm.weight");
}

static int64_t longest_row(const struct arch *arch)
{
    int64_t q = module_out(arch, MODULE_Q), most = arch->hidden > q ? arch->hidden : q;
    return arch->intermediate > most ? arch->intermediate : most;
}

enum status weights_load(struct model *model, const struct st_set *set, int threads)
{
    TRY(weights_check(set, model->arch));
    size_t row = (size_t)longest_row(model->arch) * sizeof(float);
    size_t block = (size_t)threads * STAGING_BYTES_A_THREAD;
    if (block < STAGING_BYTES) block = STAGING_BYTES;
    struct loading load = {
        .model = model, .set = set, .threads = threads, .staging_bytes = row > block ? row : block};
    load.staging = memory_new(load.staging_bytes, 1);
    load.vector = memory_new(row, 1);
    enum status status = load.staging && load.vector ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) status = load_embedding(&load);
    if (status == LORAD_OK) status = load_head(&load);
    for (int32_t i = 0; status == LORAD_OK && i < model->arch->layers; i++)
        status = request_wants_stop() ? FAIL(LORAD_REQUEUE, "stopped on request") : load_layer(&load, i);
    free(load.staging);
    free(load.vector);
    return status;
}
