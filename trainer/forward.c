/*
 * forward.c: embedding and layers of one micro-batch, top to bottom. Row-split panels (o, down) give partial
 * sums; one sum after each carries the base's and the adapter's part together. What lies between the blocks
 * is done on this rank's share of the rows (residual.c): all of them unless sequence_parallel.
 */
#include "trainer/model_parts.h"

/* x, delta and sum: shares. Leaves h whole. */
static enum status norm(struct model *model, struct matrix x, struct matrix delta, struct matrix sum,
                        const void *weight, float *rstd, struct matrix h)
{
    TRY(op_rmsnorm(model->device, &(struct op_rmsnorm){.x = x,
                                                       .delta = delta,
                                                       .sum = sum,
                                                       .weight = weight,
                                                       .eps = model->arch->norm_eps,
                                                       .h = model_share(model, h),
                                                       .rstd = rstd}));
    return model_collect(model, h);
}

/* y = panel(its input), and a copy of u for the backward unless it may stay where it is. */
static enum status apply_panel(struct model *model, const struct pass *pass, int32_t number,
                               enum panel_slot slot, struct matrix y)
{
    struct layer *layer = &model->layers[number];
    struct matrix x = rows_of(layer->input[slot], model->n_tokens);
    struct panel_dropout dropout;
    model_dropout(model, pass, number, slot, &dropout);
    TRY(panel_forward(
        layer->panel[slot],
        &(struct panel_forward){
            .x = x, .y = y, .adapter = pass->use_adapter, .dropout = pass->dropout > 0 ? &dropout : NULL}));
    int64_t spare = layer->spare[slot];
    if (!spare || layer->kept[slot] || !model->options.training) return LORAD_OK;
    struct matrix u = x;
    u.data = (char *)x.data + (size_t)x.cols * dtype_bytes(x.dtype);
    u.cols = spare;
    struct matrix kept = rows_of(layer->u[slot], x.rows);
    kept.cols = spare;
    return op_copy(model->device, &(struct op_copy){.in = u, .out = kept});
}

/* Heads of layer->qkv are rotated (and for Qwen3 normed); *q and *k are what attention reads. */
static enum status rotate(struct model *model, struct layer *layer, struct matrix *q, struct matrix *k)
{
    int64_t q_cols = model_q_cols(model), kv_cols = model_kv_cols(model);
    struct matrix qkv = rows_of(layer->qkv, model->n_tokens);
    struct matrix q_in = cols_of(qkv, 0, q_cols), k_in = cols_of(qkv, q_cols, kv_cols);
    *q = q_in;
    *k = k_in;
    if (model->arch->qk_norm) {
        struct matrix rotated = rows_of(layer->rotated, model->n_tokens);
        *q = cols_of(rotated, 0, q_cols);
        *k = cols_of(rotated, q_cols, kv_cols);
    }
    return op_rope(model->device, &(struct op_rope){.q = q_in,
                                                    .k = k_in,
                                                    .q_out = *q,
                                                    .k_out = *k,
                                                    .head_dim = model->arch->head_dim,
                                                    .positions = model->positions,
                                                    .cos_sin = model->cos_sin,
                                                    .q_weight = layer->q_norm,
                                                    .k_weight = layer->k_norm,
                                                    .eps = model->arch->norm_eps});
}

static enum status attend_sequences(struct model *model, int32_t number, struct matrix q, struct matrix k,
                                    struct matrix v)
{
    struct layer *layer = &model->layers[number];
    return op_attention(model->device, &(struct op_attention){.q = q,
                                                              .k = k,
                                                              .v = v,
                                                              .head_dim = model->arch->head_dim,
                                                              .scale = model_attention_scale(model),
                                                              .window = arch_window(model->arch, number),
                                                              .sequences = model->sequences,
                                                              .out = rows_of(layer->attn, model->n_tokens),
                                                              .lse = layer->lse,
                                                              .scratch = model->panel_scratch});
}

/* Keys and values go behind those of the tokens before; a first pass attends inside itself, a later one is
 * one token. */
static enum status attend_cached(struct model *model, const struct kv_cache *cache, int32_t number,
                                 struct matrix q, struct matrix k, struct matrix v)
{
    struct layer *layer = &model->layers[number];
    int64_t kv_cols = model_kv_cols(model);
    TRY(op_copy(
        model->device,
        &(struct op_copy){.in = k, .out = matrix_part(cache->k[number], cache->length, k.rows, 0, kv_cols)}));
    TRY(op_copy(
        model->device,
        &(struct op_copy){.in = v, .out = matrix_part(cache->v[number], cache->length, v.rows, 0, kv_cols)}));
    if (cache->length == 0) return attend_sequences(model, number, q, k, v);
    ASSERT(model->n_tokens == 1);
    return op_attention_decode(model->device,
                               &(struct op_attention_decode){.q = q,
                                                             .k_cache = cache->k[number],
                                                             .v_cache = cache->v[number],
                                                             .length = cache->length + 1,
                                                             .head_dim = model->arch->head_dim,
                                                             .scale = model_attention_scale(model),
                                                             .window = arch_window(model->arch, number),
                                                             .out = rows_of(layer->attn, 1)});
}

static enum status attend(struct model *model, const struct pass *pass, int32_t number)
{
    struct layer *layer = &model->layers[number];
    int32_t tokens = model->n_tokens;
    struct matrix q, k, qkv = rows_of(layer->qkv, tokens);
    TRY(apply_panel(model, pass, number, PANEL_QKV, qkv));
    TRY(rotate(model, layer, &q, &k));
    struct matrix v = cols_of(qkv, model_q_cols(model) + model_kv_cols(model), model_kv_cols(model));
    TRY(pass->cache ? attend_cached(model, pass->cache, number, q, k, v)
                    : attend_sequences(model, number, q, k, v));
    return apply_panel(model, pass, number, PANEL_O, rows_of(model->delta, tokens));
}

static enum status mlp_up(struct model *model, const struct pass *pass, int32_t number)
{
    struct matrix gate_up = rows_of(model->layers[number].gate_up, model->n_tokens);
    return apply_panel(model, pass, number, PANEL_GATE_UP, gate_up);
}

static enum status mlp_down(struct model *model, const struct pass *pass, int32_t number)
{
    int32_t tokens = model->n_tokens;
    struct layer *layer = &model->layers[number];
    TRY(op_swiglu(model->device, &(struct op_swiglu){.gate_up = rows_of(layer->gate_up, tokens),
                                                     .a = rows_of(layer->input[PANEL_DOWN], tokens)}));
    return apply_panel(model, pass, number, PANEL_DOWN, rows_of(model->delta, tokens));
}

static enum status forward_layer(struct model *model, const struct pass *pass, int32_t number)
{
    struct layer *layer = &model->layers[number];
    int32_t rows = model->share_rows;
    struct matrix none = {0}, delta = model_share(model, model->delta);
    struct matrix x1 = rows_of(layer->x1, rows), x2 = rows_of(layer->x2, rows);
    struct matrix h1 = layer->input[PANEL_QKV];
    if (number == 0)
        TRY(norm(model, x1, none, none, layer->input_norm, layer->rstd1, h1));
    else
        TRY(norm(model, rows_of(model->layers[number - 1].x2, rows), delta, x1, layer->input_norm,
                 layer->rstd1, h1));
    TRY(attend(model, pass, number));
    TRY(model_combine(model, model->delta, delta));
    TRY(norm(model, x1, delta, x2, layer->post_norm, layer->rstd2, layer->input[PANEL_GATE_UP]));
    TRY(mlp_up(model, pass, number));
    TRY(mlp_down(model, pass, number));
    return model_combine(model, model->delta, delta);
}

enum status model_forward(struct model *model, const struct pass *pass)
{
    struct matrix x = rows_of(model->layers[0].x1, model->share_rows);
    struct matrix sums = model->shares > 1 ? model->delta : x;
    TRY(op_embed(model->device, &(struct op_embed){.table = model->embedding,
                                                   .ids = model->tokens,
                                                   .first_row = model->part->first_vocab,
                                                   .out = rows_of(sums, model->n_tokens)}));
    TRY(model_combine(model, sums, x));
    for (int32_t i = 0; i < model->arch->layers; i++) TRY(forward_layer(model, pass, i));
    struct matrix last = rows_of(model->layers[model->arch->layers - 1].x2, model->share_rows);
    TRY(op_add(model->device, &(struct op_add){.x = last, .y = model_share(model, model->delta)}));
    return model_collect(model, model->delta);
}

enum status model_norm_again(struct model *model, struct matrix x, const float *rstd, const void *weight)
{
    struct matrix share = rows_of(x, model->share_rows);
    TRY(op_rmsnorm_apply(model->device,
                         &(struct op_rmsnorm_apply){
                             .x = share, .rstd = rstd, .weight = weight, .h = model_share(model, model->h)}));
    return model_collect(model, model->h);
}

/* The residuals x1 and x2 were kept, so nothing is summed over ranks: partial sums in delta are thrown away.
 */
enum status model_recompute(struct model *model, const struct pass *pass, int32_t number)
{
    struct layer *layer = &model->layers[number];
    if (model->options.checkpointing == CHECKPOINTING_LAYER) {
        TRY(model_norm_again(model, layer->x1, layer->rstd1, layer->input_norm));
        TRY(attend(model, pass, number));
    }
    if (model->options.checkpointing == CHECKPOINTING_NONE) return LORAD_OK;
    TRY(model_norm_again(model, layer->x2, layer->rstd2, layer->post_norm));
    TRY(mlp_up(model, pass, number));
    return model->options.checkpointing == CHECKPOINTING_LAYER ? mlp_down(model, pass, number) : LORAD_OK;
}
