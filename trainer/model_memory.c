#include "trainer/model_memory.h"

#include <math.h>

/* The host's chunks of logits stay near its caches. Elsewhere a chunk is as many rows as make an efficient
 * product: each chunk reads the whole head twice. */
enum { HEAD_ROWS_MIN = 256, HOST_ROWS_MAX = 1024, HOST_LOGIT_BYTES = 32 << 20 };
enum { HEAD_ROWS_MAX = 2048, HEAD_LOGIT_BYTES = 1 << 30 };
enum { PITCH_BYTES = 128 }; /* of rows with spare columns, where the device is not the host */

enum panel_slot module_panel(enum module module)
{
    static const enum panel_slot slot[MODULES] = {PANEL_QKV,     PANEL_QKV,     PANEL_QKV, PANEL_O,
                                                  PANEL_GATE_UP, PANEL_GATE_UP, PANEL_DOWN};
    return slot[module];
}

int32_t module_part_number(enum module module)
{
    static const int32_t number[MODULES] = {0, 1, 2, 0, 0, 1, 0};
    return number[module];
}

int64_t model_q_cols(const struct model *model)
{
    return (int64_t)model->part->heads * model->arch->head_dim;
}

int64_t model_kv_cols(const struct model *model)
{
    return (int64_t)model->part->kv_heads * model->arch->head_dim;
}

float model_attention_scale(const struct model *model)
{
    return (float)(1.0 / sqrt((double)model->arch->head_dim));
}

static bool adapted(const struct model *model, int32_t layer, enum module module)
{
    return model->lora && lora_find(model->lora, layer, module, false);
}

/* Whether the gradient must pass below the panel of `module`: some adapted module reads an earlier value. */
static bool needs_dx(const struct model *model, int32_t layer, enum panel_slot slot)
{
    if (!model->options.training || !model->lora || layer < model->lora->first_layer) return false;
    if (layer > model->lora->first_layer) return true;
    for (int module = 0; module < MODULES; module++)
        if (module_panel((enum module)module) < slot && adapted(model, layer, (enum module)module))
            return true;
    return false;
}

static void describe_layer(struct model *model, int32_t number)
{
    struct layer *layer = &model->layers[number];
    int64_t d = model->arch->hidden, q = model_q_cols(model), kv = model_kv_cols(model),
            f = model->part->intermediate;
    const struct {
        int64_t in, out[PANEL_PARTS];
        int32_t parts;
        bool bias;
    } shape[PANEL_SLOTS] = {
        [PANEL_QKV] = {d, {q, kv, kv}, 3, model->arch->qkv_bias},
        [PANEL_O] = {q, {d, 0, 0}, 1, model->arch->o_bias && model->part->tp_rank == 0},
        [PANEL_GATE_UP] = {d, {f, f, 0}, 2, false},
        [PANEL_DOWN] = {f, {d, 0, 0}, 1, false},
    };
    for (int slot = 0; slot < PANEL_SLOTS; slot++) {
        struct panel_spec *spec = &layer->spec[slot];
        *spec = (struct panel_spec){.in = shape[slot].in,
                                    .n_parts = shape[slot].parts,
                                    .dtype = model->options.dtype,
                                    .y_dtype = model->options.dtype,
                                    .bias = shape[slot].bias,
                                    .needs_dx = needs_dx(model, number, (enum panel_slot)slot),
                                    .max_tokens = model->options.max_tokens};
        for (int32_t i = 0; i < shape[slot].parts; i++) spec->part[i].out = shape[slot].out[i];
    }
    for (int m = 0; m < MODULES; m++) {
        if (!adapted(model, number, (enum module)m)) continue;
        layer->spec[module_panel((enum module)m)].part[module_part_number((enum module)m)].rank =
            model->lora->rank;
    }
    for (int slot = 0; slot < PANEL_SLOTS; slot++) layer->spare[slot] = panel_spare(&layer->spec[slot]);
}

static int32_t head_rows(const struct model *model)
{
    int64_t row_bytes = model->part->vocab_cols * (int64_t)sizeof(float), rows = HEAD_ROWS_MAX;
    if (device_backend_is_host(model->backend)) {
        rows = HOST_LOGIT_BYTES / row_bytes;
        rows = rows < HEAD_ROWS_MIN ? HEAD_ROWS_MIN : rows > HOST_ROWS_MAX ? HOST_ROWS_MAX : rows;
    } else {
        /* a power of two, which the tiles of a product divide */
        while (rows > HEAD_ROWS_MIN && rows * row_bytes > HEAD_LOGIT_BYTES) rows /= 2;
    }
    return (int32_t)(rows < model->options.max_tokens ? rows : model->options.max_tokens);
}

void model_describe_panels(struct model *model)
{
    for (int32_t i = 0; i < model->arch->layers; i++) describe_layer(model, i);
    model->chunk.rows = head_rows(model);
    model->head_spec = (struct panel_spec){.in = model->arch->hidden,
                                           .n_parts = 1,
                                           .part = {{.out = model->part->vocab_cols}},
                                           .dtype = model->options.dtype,
                                           .y_dtype = DTYPE_F32,
                                           .needs_dx = model->options.training && model->lora,
                                           .max_tokens = model->chunk.rows};
}

static int64_t widest_spare(const struct model *model, enum panel_slot a, enum panel_slot b)
{
    int64_t most = 0;
    for (int32_t i = 0; i < model->arch->layers; i++) {
        if (model->layers[i].spare[a] > most) most = model->layers[i].spare[a];
        if (model->layers[i].spare[b] > most) most = model->layers[i].spare[b];
    }
    return most;
}

static enum status take(struct arena *arena, struct matrix *out, int64_t rows, int64_t cols, int64_t spare,
                        enum dtype dtype)
{
    void *data;
    TRY(arena_take(arena, &data, (size_t)(rows * (cols + spare)) * dtype_bytes(dtype)));
    *out = matrix_of(data, dtype, rows, cols, cols + spare);
    return LORAD_OK;
}

/* Elements of a row with spare columns: not on the host it begins at a border of PITCH_BYTES, as copies into
 * shared memory like it. */
static int64_t pitch(const struct model *model, int64_t cols, int64_t spare)
{
    int64_t step = PITCH_BYTES / (int64_t)dtype_bytes(model->options.dtype);
    if (spare == 0 || device_backend_is_host(model->backend)) return cols + spare;
    return (cols + spare + step - 1) / step * step;
}

/* [rows, cols] act with spare columns */
static enum status take_spare(struct model *model, struct arena *arena, struct matrix *out, int64_t rows,
                              int64_t cols, int64_t spare)
{
    return take(arena, out, rows, cols, pitch(model, cols, spare) - cols, model->options.dtype);
}

/* W, of the largest micro-batch. */
static int64_t whole_rows(const struct model *model)
{
    return (int64_t)model->shares * model_share_rows(model, model->options.max_tokens);
}

static enum status take_vector(struct arena *arena, void *out, int64_t count, size_t item)
{
    void *data;
    TRY(arena_take(arena, &data, (size_t)count * item));
    memcpy(out, &data, sizeof data);
    return LORAD_OK;
}

static enum status take_weights(struct model *model, struct arena *arena)
{
    size_t act = dtype_bytes(model->options.dtype);
    int64_t d = model->arch->hidden, hd = model->arch->head_dim;
    TRY(take(arena, &model->embedding, model->part->vocab_cols, d, 0, model->options.dtype));
    TRY(take_vector(arena, &model->final_norm, d, act));
    TRY(take_vector(arena, &model->cos_sin, (int64_t)model->options.max_positions * hd, sizeof(float)));
    for (int32_t i = 0; i < model->arch->layers; i++) {
        struct layer *layer = &model->layers[i];
        TRY(take_vector(arena, &layer->input_norm, d, act));
        TRY(take_vector(arena, &layer->post_norm, d, act));
        if (!model->arch->qk_norm) continue;
        TRY(take_vector(arena, &layer->q_norm, hd, act));
        TRY(take_vector(arena, &layer->k_norm, hd, act));
    }
    return LORAD_OK;
}

/* What the ladder never drops: the two residuals. */
static enum status take_residuals(struct model *model, struct arena *arena, struct layer *layer)
{
    int64_t rows = model_share_rows(model, model->options.max_tokens), d = model->arch->hidden;
    enum dtype act = model->options.dtype;
    TRY(take(arena, &layer->x1, rows, d, 0, act));
    TRY(take(arena, &layer->x2, rows, d, 0, act));
    TRY(take_vector(arena, &layer->rstd1, rows, sizeof(float)));
    return take_vector(arena, &layer->rstd2, rows, sizeof(float));
}

static enum status take_attention(struct model *model, struct arena *arena, struct layer *layer)
{
    int64_t tokens = model->options.max_tokens, q = model_q_cols(model), kv = model_kv_cols(model);
    enum dtype act = model->options.dtype;
    TRY(take(arena, &layer->qkv, tokens, q + 2 * kv, 0, act));
    if (model->arch->qk_norm) TRY(take(arena, &layer->rotated, tokens, q + kv, 0, act));
    TRY(take_spare(model, arena, &layer->attn, tokens, q, layer->spare[PANEL_O]));
    TRY(take_vector(arena, &layer->lse, tokens * model->part->heads, sizeof(float)));
    for (int slot = 0; slot < PANEL_SLOTS; slot++)
        if (slot != PANEL_O && !model->options.keep_inputs)
            TRY(take(arena, &layer->u[slot], tokens, layer->spare[slot], 0, act));
    return LORAD_OK;
}

static enum status take_gate_up(struct model *model, struct arena *arena, struct layer *layer)
{
    return take_spare(model, arena, &layer->gate_up, model->options.max_tokens, 2 * model->part->intermediate,
                      layer->spare[PANEL_GATE_UP]);
}

static void share_attention(struct layer *layer, const struct layer *first)
{
    layer->qkv = first->qkv;
    layer->rotated = first->rotated;
    layer->attn = first->attn;
    layer->lse = first->lse;
    for (int slot = 0; slot < PANEL_SLOTS; slot++) layer->u[slot] = first->u[slot];
}

/* Layers that are never differentiated, and every layer of a model that only evaluates, need no memory of
 * their own. */
static bool keeps(const struct model *model, int32_t layer)
{
    return model->options.training && model->lora && layer >= model->lora->first_layer;
}

/* The layer with the widest spare columns lends its buffers to those that share. */
static int32_t lender(const struct model *model)
{
    int32_t best = 0;
    for (int32_t i = 1; i < model->arch->layers; i++) {
        int64_t a = 0, b = 0;
        for (int slot = 0; slot < PANEL_SLOTS; slot++) {
            a += model->layers[i].spare[slot];
            b += model->layers[best].spare[slot];
        }
        if (a > b) best = i;
    }
    return best;
}

static enum status take_saved(struct model *model, struct arena *saved, struct arena *scratch)
{
    enum checkpointing mode = model->options.checkpointing;
    int32_t from = lender(model);
    struct layer shared = model->layers[from];
    TRY(take_residuals(model, scratch, &shared));
    TRY(take_attention(model, scratch, &shared));
    TRY(take_gate_up(model, scratch, &shared));
    for (int32_t i = 0; i < model->arch->layers; i++) {
        struct layer *layer = &model->layers[i];
        bool keep = keeps(model, i);
        if (keep) {
            TRY(take_residuals(model, saved, layer));
        } else {
            layer->x1 = shared.x1;
            layer->x2 = shared.x2;
            layer->rstd1 = shared.rstd1;
            layer->rstd2 = shared.rstd2;
        }
        if (keep && mode != CHECKPOINTING_LAYER)
            TRY(take_attention(model, saved, layer));
        else
            share_attention(layer, &shared);
        if (keep && mode == CHECKPOINTING_NONE)
            TRY(take_gate_up(model, saved, layer));
        else
            layer->gate_up = shared.gate_up;
    }
    return LORAD_OK;
}

/* Behind take_saved. */
static enum status take_inputs(struct model *model, struct arena *saved, struct arena *scratch)
{
    int64_t d = model->arch->hidden, f = model->part->intermediate;
    int64_t tokens = model->options.max_tokens, whole = whole_rows(model);
    const int64_t cols[PANEL_SLOTS] = {[PANEL_QKV] = d, [PANEL_GATE_UP] = d, [PANEL_DOWN] = f};
    const int64_t rows[PANEL_SLOTS] = {[PANEL_QKV] = whole, [PANEL_GATE_UP] = whole, [PANEL_DOWN] = tokens};
    TRY(take_spare(model, scratch, &model->h, whole, d, widest_spare(model, PANEL_QKV, PANEL_GATE_UP)));
    TRY(take_spare(model, scratch, &model->a, tokens, f, widest_spare(model, PANEL_DOWN, PANEL_DOWN)));
    for (int32_t i = 0; i < model->arch->layers; i++) {
        struct layer *layer = &model->layers[i];
        layer->input[PANEL_QKV] = layer->input[PANEL_GATE_UP] = model->h;
        layer->input[PANEL_DOWN] = model->a;
        layer->input[PANEL_O] = layer->attn;
        layer->kept[PANEL_O] = true;
        for (int slot = 0; slot < PANEL_SLOTS; slot++) {
            if (slot == PANEL_O || layer->spare[slot] == 0) continue;
            layer->kept[slot] = model->options.keep_inputs && keeps(model, i);
            if (layer->kept[slot])
                TRY(take_spare(model, saved, &layer->input[slot], rows[slot], cols[slot],
                               layer->spare[slot]));
        }
    }
    return LORAD_OK;
}

static enum status take_head(struct model *model, struct arena *arena)
{
    struct head_chunk *chunk = &model->chunk;
    enum dtype act = model->options.dtype;
    int64_t d = model->arch->hidden, rows = chunk->rows, cols = model->part->vocab_cols;
    TRY(take(arena, &chunk->x, rows, d, 0, act));
    TRY(take(arena, &chunk->h, rows, d, 0, act));
    TRY(take(arena, &chunk->dh, rows, d, 0, act));
    TRY(take_vector(arena, &chunk->rstd, rows, sizeof(float)));
    TRY(take(arena, &chunk->logits, rows, cols, 0, DTYPE_F32));
    /* The gradient takes the logits' place, row on row. */
    int64_t stride = cols * (int64_t)(sizeof(float) / dtype_bytes(act));
    chunk->dlogits = matrix_of(chunk->logits.data, act, rows, cols, stride);
    TRY(take_vector(arena, &chunk->stats, rows, sizeof(struct loss_stat)));
    return take_vector(arena, &chunk->all_stats, rows * model->part->tp, sizeof(struct loss_stat));
}

static enum status take_batch(struct model *model, struct arena *arena)
{
    int64_t tokens = model->options.max_tokens;
    TRY(take_vector(arena, &model->tokens, tokens, sizeof(int32_t)));
    TRY(take_vector(arena, &model->positions, tokens, sizeof(int32_t)));
    TRY(take_vector(arena, &model->labels, tokens, sizeof(int32_t)));
    TRY(take_vector(arena, &model->label_weights, tokens, sizeof(float)));
    TRY(take_vector(arena, &model->supervised, tokens, sizeof(int32_t)));
    TRY(take_vector(arena, &model->token_index, tokens, sizeof(int64_t)));
    TRY(take_vector(arena, &model->seq_start, model->options.max_sequences + 1, sizeof(int32_t)));
    TRY(take_vector(arena, &model->row_loss, tokens, sizeof(float)));
    TRY(take_vector(arena, &model->dropout_keys, (int64_t)model_dropout_key_bytes(model), 1));
    return take_vector(arena, &model->sums, 1, sizeof *model->sums);
}

struct attention_shape model_attention_shape(const struct model *model, int32_t layer)
{
    int64_t cols = model_q_cols(model) + 2 * model_kv_cols(model);
    bool training = model->options.training;
    return (struct attention_shape){
        .dtype = model->options.dtype,
        .q_heads = model->part->heads,
        .kv_heads = model->part->kv_heads,
        .head_dim = model->arch->head_dim,
        .window = arch_window(model->arch, layer),
        .max_tokens = model->options.max_tokens,
        .max_sequences = model->options.max_sequences,
        .qkv_stride = cols,
        .dqkv_stride = training ? pitch(model, cols, widest_spare(model, PANEL_QKV, PANEL_QKV)) : 0,
        .deterministic = model->options.deterministic};
}

enum status model_take_memory(struct model *model, struct arena *weights, struct arena *saved,
                              struct arena *scratch)
{
    enum dtype act = model->options.dtype;
    int64_t tokens = model->options.max_tokens, d = model->arch->hidden, f = model->part->intermediate;
    int64_t q = model_q_cols(model), kv = model_kv_cols(model);
    int64_t whole = whole_rows(model);
    TRY(take_weights(model, weights));
    TRY(take_saved(model, saved, scratch));
    TRY(take_inputs(model, saved, scratch));
    TRY(take(scratch, &model->delta, whole, d, 0, act));
    TRY(take_batch(model, scratch));
    if (model->options.training) {
        TRY(take_spare(model, scratch, &model->dres, whole, d, widest_spare(model, PANEL_O, PANEL_DOWN)));
        TRY(take(scratch, &model->dh, whole, d, 0, act));
        TRY(take(scratch, &model->dwide, tokens, f > q ? f : q, 0, act));
        TRY(take_spare(model, scratch, &model->dqkv, tokens, q + 2 * kv,
                       widest_spare(model, PANEL_QKV, PANEL_QKV)));
    }
    return take_head(model, scratch);
}
