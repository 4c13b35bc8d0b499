/*
 * backward.c: from the gradient of the final residual down to the lowest adapted module. No gradient of a
 * frozen weight is ever formed.
 *
 * Invariants:
 *  1. dres is the gradient of the residual stream at the point reached, whole on every rank; o and down read
 * it as their dy, whose spare columns g they write behind it.
 *  2. A column-split panel's dx is a partial sum: one sum over the ranks completes it before the norm's
 * backward adds it to dres, on this rank's share of the rows (residual.c).
 *  3. Below the lowest adapted module nothing is computed.
 */
#include "trainer/model_parts.h"

/* Whether anything below `slot` of this layer is adapted: then its input's gradient is wanted. */
static bool wants_dx(const struct model *model, int32_t layer, enum panel_slot slot)
{
    return model->layers[layer].spec[slot].needs_dx;
}

/* Whether the adapter's gradient needs the panel's input, which the forward did not keep. */
static bool made_again(const struct layer *layer, enum panel_slot slot)
{
    return layer->spare[slot] > 0 && !layer->kept[slot];
}

static enum status differentiate_panel(struct model *model, const struct pass *pass, struct adapter *adapter,
                                       int32_t number, enum panel_slot slot, struct matrix dy,
                                       struct matrix dx)
{
    struct layer *layer = &model->layers[number];
    struct matrix x = rows_of(layer->input[slot], model->n_tokens);
    struct panel_dropout dropout;
    model_dropout(model, pass, number, slot, &dropout);
    struct matrix u = rows_of(layer->u[slot], x.rows);
    if (layer->kept[slot]) {
        u = x;
        u.data = (char *)x.data + (size_t)x.cols * dtype_bytes(x.dtype);
    }
    u.cols = layer->spare[slot];
    struct panel_backward args = {.x = x, .u = u, .dy = dy, .dropout = pass->dropout > 0 ? &dropout : NULL};
    if (wants_dx(model, number, slot)) args.dx = dx;
    model_gradient(model, adapter, number, slot, &args);
    return panel_backward(layer->panel[slot], &args);
}

/* dres += d(norm), from the partial gradient in dh. */
static enum status differentiate_norm(struct model *model, struct matrix x, const float *rstd,
                                      const void *weight)
{
    struct matrix dh = model_share(model, model->dh);
    TRY(model_combine(model, model->dh, dh));
    TRY(op_rmsnorm_backward(model->device,
                            &(struct op_rmsnorm_backward){.x = rows_of(x, model->share_rows),
                                                          .rstd = rstd,
                                                          .weight = weight,
                                                          .dh = dh,
                                                          .dx = model_share(model, model->dres)}));
    return model_collect(model, model->dres);
}

static enum status backward_mlp(struct model *model, const struct pass *pass, struct adapter *adapter,
                                int32_t number)
{
    struct layer *layer = &model->layers[number];
    int32_t tokens = model->n_tokens;
    struct matrix gate_up = rows_of(layer->gate_up, tokens);
    struct matrix a = rows_of(layer->input[PANEL_DOWN], tokens), dres = rows_of(model->dres, tokens);
    struct matrix da = matrix_of(model->dwide.data, model->dwide.dtype, tokens, model->part->intermediate,
                                 model->part->intermediate);
    if (made_again(layer, PANEL_DOWN))
        TRY(op_swiglu(model->device, &(struct op_swiglu){.gate_up = gate_up, .a = a}));
    TRY(differentiate_panel(model, pass, adapter, number, PANEL_DOWN, dres, da));
    if (!wants_dx(model, number, PANEL_DOWN)) return LORAD_OK;
    TRY(op_swiglu_backward(model->device,
                           &(struct op_swiglu_backward){.gate_up = gate_up, .da = da, .d_gate_up = gate_up}));
    /* Where the MLP was computed again, its input is still there. */
    if (made_again(layer, PANEL_GATE_UP) && model->options.checkpointing == CHECKPOINTING_NONE)
        TRY(model_norm_again(model, layer->x2, layer->rstd2, layer->post_norm));
    TRY(differentiate_panel(model, pass, adapter, number, PANEL_GATE_UP, gate_up,
                            rows_of(model->dh, tokens)));
    if (!wants_dx(model, number, PANEL_GATE_UP)) return LORAD_OK;
    return differentiate_norm(model, layer->x2, layer->rstd2, layer->post_norm);
}

/* dqkv in: gradient of rotated q, k and of v; out: of q, k, v as the panel gave them. */
static enum status unrotate(struct model *model, struct layer *layer, struct matrix dq, struct matrix dk)
{
    int64_t q_cols = model_q_cols(model), kv_cols = model_kv_cols(model);
    if (!model->arch->qk_norm)
        return op_rope(model->device, &(struct op_rope){.q = dq,
                                                        .k = dk,
                                                        .q_out = dq,
                                                        .k_out = dk,
                                                        .head_dim = model->arch->head_dim,
                                                        .positions = model->positions,
                                                        .cos_sin = model->cos_sin,
                                                        .inverse = true});
    struct matrix qkv = rows_of(layer->qkv, model->n_tokens);
    return op_rope_norm_backward(model->device,
                                 &(struct op_rope_norm_backward){.q = cols_of(qkv, 0, q_cols),
                                                                 .k = cols_of(qkv, q_cols, kv_cols),
                                                                 .dq = dq,
                                                                 .dk = dk,
                                                                 .head_dim = model->arch->head_dim,
                                                                 .positions = model->positions,
                                                                 .cos_sin = model->cos_sin,
                                                                 .q_weight = layer->q_norm,
                                                                 .k_weight = layer->k_norm,
                                                                 .eps = model->arch->norm_eps});
}

static enum status backward_scores(struct model *model, struct layer *layer, int32_t number,
                                   struct matrix dattn)
{
    int32_t tokens = model->n_tokens;
    int64_t q_cols = model_q_cols(model), kv_cols = model_kv_cols(model);
    struct matrix qkv = rows_of(layer->qkv, tokens), dqkv = rows_of(model->dqkv, tokens);
    struct matrix rotated = model->arch->qk_norm ? rows_of(layer->rotated, tokens) : qkv;
    struct matrix dq = cols_of(dqkv, 0, q_cols), dk = cols_of(dqkv, q_cols, kv_cols);
    TRY(op_attention_backward(model->device,
                              &(struct op_attention_backward){.q = cols_of(rotated, 0, q_cols),
                                                              .k = cols_of(rotated, q_cols, kv_cols),
                                                              .v = cols_of(qkv, q_cols + kv_cols, kv_cols),
                                                              .out = rows_of(layer->attn, tokens),
                                                              .lse = layer->lse,
                                                              .dout = dattn,
                                                              .head_dim = model->arch->head_dim,
                                                              .scale = model_attention_scale(model),
                                                              .window = arch_window(model->arch, number),
                                                              .sequences = model->sequences,
                                                              .dq = dq,
                                                              .dk = dk,
                                                              .dv = cols_of(dqkv, q_cols + kv_cols, kv_cols),
                                                              .scratch = model->panel_scratch}));
    return unrotate(model, layer, dq, dk);
}

static enum status backward_attention(struct model *model, const struct pass *pass, struct adapter *adapter,
                                      int32_t number)
{
    struct layer *layer = &model->layers[number];
    int32_t tokens = model->n_tokens;
    int64_t q_cols = model_q_cols(model);
    struct matrix dattn = matrix_of(model->dwide.data, model->dwide.dtype, tokens, q_cols, q_cols);
    TRY(differentiate_panel(model, pass, adapter, number, PANEL_O, rows_of(model->dres, tokens), dattn));
    if (!wants_dx(model, number, PANEL_O)) return LORAD_OK;
    TRY(backward_scores(model, layer, number, dattn));
    if (made_again(layer, PANEL_QKV))
        TRY(model_norm_again(model, layer->x1, layer->rstd1, layer->input_norm));
    TRY(differentiate_panel(model, pass, adapter, number, PANEL_QKV, rows_of(model->dqkv, tokens),
                            rows_of(model->dh, tokens)));
    if (!wants_dx(model, number, PANEL_QKV)) return LORAD_OK;
    return differentiate_norm(model, layer->x1, layer->rstd1, layer->input_norm);
}

enum status model_backward(struct model *model, const struct pass *pass, struct adapter *adapter)
{
    for (int32_t i = model->arch->layers - 1; i >= model->lora->first_layer; i--) {
        TRY(model_recompute(model, pass, i));
        TRY(backward_mlp(model, pass, adapter, i));
        if (wants_dx(model, i, PANEL_GATE_UP)) TRY(backward_attention(model, pass, adapter, i));
    }
    return LORAD_OK;
}
