/*
 * model_parts.h: the inside of a model, for model*.c, forward.c, backward.c, residual.c, head.c, decode.c and
 * weights.c only.
 *
 * Shapes: T tokens of the micro-batch (at most max_tokens), S rows of a rank's share of the residual stream
 * (residual.c; T unless sequence_parallel), W all shares together, at least T; d hidden, q and kv this rank's
 * query and key/value columns, f this rank's intermediate columns, R_x the spare columns of panel x, V this
 * rank's vocabulary columns. "act" is the dtype of options.dtype.
 */
#ifndef LORAD_TRAINER_MODEL_PARTS_H
#define LORAD_TRAINER_MODEL_PARTS_H

#include "base/arena.h"
#include "kernels/ops.h"
#include "kernels/panel.h"
#include "trainer/model.h"
#include "trainer/recordings.h"

enum panel_slot { PANEL_QKV, PANEL_O, PANEL_GATE_UP, PANEL_DOWN, PANEL_SLOTS };

struct layer {
    struct panel *panel[PANEL_SLOTS];
    struct panel_spec spec[PANEL_SLOTS];
    int64_t spare[PANEL_SLOTS];
    void *input_norm;      /* [d] act */
    void *post_norm;       /* [d] act */
    void *q_norm, *k_norm; /* [head_dim] act, Qwen3 */

    /* Saved by the forward for the backward. With checkpointing some of them are shared by all layers. */
    struct matrix x1;      /* [S, d] residual before attention */
    struct matrix x2;      /* [S, d] residual before the MLP */
    float *rstd1, *rstd2;  /* [S] */
    struct matrix qkv;     /* [T, q + 2 kv]: rotated q, k and v; pre-norm q, k for Qwen3 */
    struct matrix rotated; /* [T, q + kv], Qwen3 only: normed and rotated q, k */
    struct matrix attn;    /* [T, q], stride q + R_o: u of o lies behind */
    float *lse;            /* [heads, T] */
    struct matrix
        gate_up; /* [T, 2f], stride 2f + R_gate_up; the backward turns it into its gradient in place */
    /* [T, in] (qkv and gate_up: [W, d]) what each panel reads, with spare columns: o's is attn, the others
     * are the model's scratch (h, a) or, kept for the backward, the layer's own; then u stays behind it, else
     * in a copy. */
    struct matrix input[PANEL_SLOTS];
    bool kept[PANEL_SLOTS];
    struct matrix u[PANEL_SLOTS]; /* [T, R] copies of u */
};

struct head_chunk {
    int32_t rows;                /* supervised rows a chunk holds */
    struct matrix x;             /* [rows, d] gathered residual */
    struct matrix h;             /* [rows, d] normed */
    struct matrix dh;            /* [rows, d] */
    float *rstd;                 /* [rows] */
    struct matrix logits;        /* [rows, V] f32 */
    struct matrix dlogits;       /* [rows, V] act, in the logits' memory, row on row */
    struct loss_stat *stats;     /* [rows] */
    struct loss_stat *all_stats; /* [tp][rows] */
};

/* Host memory to build parts of a micro-batch in. */
struct host_batch {
    int32_t *behind;              /* [row_multiple] tokens of the rows behind it */
    int32_t *labels, *supervised; /* [T] */
    float *weights;               /* [T] */
    int32_t *seq_start;           /* [max_sequences + 1] */
    uint64_t *dropout_keys;
};

struct model {
    const struct arch *arch;
    const struct partition *part;
    const struct lora *lora; /* NULL: frozen base */
    struct model_options options;
    const struct device_backend *backend;
    struct device *device; /* NULL: only measured */
    struct comm *tp;
    struct recordings *recordings; /* of model_train; NULL: it can not be replayed */
    int32_t shares;                /* of the residual stream: tp with sequence_parallel, else 1 */

    void *block;         /* the arena's memory: everything below but the panels */
    void *panel_scratch; /* of panels and of attention, which never run at the same time */
    struct layer *layers;
    struct panel *head; /* no adapter */
    struct panel_spec head_spec;
    void *final_norm;        /* [d] act */
    struct matrix embedding; /* [V, d] act */
    float *cos_sin;          /* [max_positions, head_dim] */

    /* The micro-batch on the device, padded: model_batch.c. */
    int32_t *tokens, *positions, *labels; /* [T]; labels: of the supervised rows only, compact */
    float *label_weights;                 /* [n] of each label in the loss */
    int32_t *supervised;                  /* [n] rows of the batch that have a label; -1: padding */
    int64_t *token_index;                 /* [T] */
    int32_t *seq_start;
    uint64_t *dropout_keys; /* [layers][PANEL_SLOTS][PANEL_PARTS] of the pass, where there is dropout */
    float *row_loss;        /* [T] */
    struct panel_adapter *adapters; /* [layers * MODULES] room for the list */
    struct host_batch host;
    int32_t row_multiple;           /* of n_tokens and n_supervised, except in generation */
    int32_t n_tokens, n_supervised; /* padded */
    int32_t n_labels;               /* of the supervised rows, those that have one */
    int32_t share_rows;             /* S */
    struct sequences sequences;

    /* Scratch shared by the layers. */
    struct matrix h;     /* [W, d], stride d + max(R_qkv, R_gate_up) */
    struct matrix a;     /* [T, f], stride f + R_down */
    struct matrix delta; /* [W, d] a block's output; after the last layer the final residual */
    struct matrix dres;  /* [W, d], stride d + max(R_o, R_down): gradient of the residual stream */
    struct matrix dh;    /* [W, d] */
    struct matrix dwide; /* [T, max(f, q)]: gradient of a, or of the attention output */
    struct matrix dqkv;  /* [T, q + 2 kv], stride with R_qkv */
    struct head_chunk chunk;

    struct model_sums *sums; /* device */
};

/* Where a module lives in the panels. */
enum panel_slot module_panel(enum module module);
int32_t module_part_number(enum module module); /* of its panel */

/* The first T rows of a buffer sized for max_tokens. */
static inline struct matrix rows_of(struct matrix m, int32_t rows)
{
    m.rows = rows;
    return m;
}
static inline struct matrix cols_of(struct matrix m, int64_t first, int64_t cols)
{
    return matrix_part(m, 0, m.rows, first, cols);
}

int64_t model_q_cols(const struct model *model);        /* q */
int64_t model_kv_cols(const struct model *model);       /* kv */
float model_attention_scale(const struct model *model); /* 1 / sqrt(head_dim) */
struct attention_shape model_attention_shape(const struct model *model, int32_t layer);

/* Keys and values of one sequence while it is generated. */
struct kv_cache {
    struct matrix *k, *v; /* [layers] of [capacity, kv] act */
    int32_t length;       /* tokens held by every layer before this pass */
};

/* What a pass needs to know besides the batch. */
struct pass {
    bool use_adapter;
    const struct kv_cache *cache; /* NULL except when generating */
    float dropout;
    uint64_t seed;
    int64_t step;
};

/* model_batch.c. The largest micro-batch, padded: before anything is sized. */
void model_pad_options(struct model *model);
size_t model_dropout_key_bytes(const struct model *model);
enum status model_batch_create(struct model *model) LORAD_WARN_UNUSED;
void model_batch_destroy(struct model *model);
/* Finds the supervised rows and copies all to the device. */
enum status model_load_batch(struct model *model, const struct micro_batch *batch,
                             const struct pass *pass) LORAD_WARN_UNUSED;
void model_dropout(const struct model *model, const struct pass *pass, int32_t layer, enum panel_slot slot,
                   struct panel_dropout *out);

/* Embedding and all layers: leaves the final residual in model->delta. */
enum status model_forward(struct model *model, const struct pass *pass) LORAD_WARN_UNUSED;
/* The parts of a layer's forward that gradient checkpointing did not keep, again. */
enum status model_recompute(struct model *model, const struct pass *pass, int32_t layer) LORAD_WARN_UNUSED;
/* h whole, as in the forward, from a residual that was kept. */
enum status model_norm_again(struct model *model, struct matrix x, const float *rstd,
                             const void *weight) LORAD_WARN_UNUSED;
/* From model->dres (gradient of the final residual) down to the lowest adapted module. */
enum status model_backward(struct model *model, const struct pass *pass,
                           struct adapter *adapter) LORAD_WARN_UNUSED;
/* Final norm, head and loss over the supervised rows; leaves dres, the gradient times gradient_scale, unless
 * that is 0. row_loss: [n_supervised] or NULL. */
enum status model_head(struct model *model, float gradient_scale, float *row_loss) LORAD_WARN_UNUSED;
/* Logits of rows [first, first + n) of the final residual of the last forward, whole vocabulary, to host [n,
 * vocab]. */
enum status model_last_logits(struct model *model, int32_t first, int32_t n, float *host) LORAD_WARN_UNUSED;
/* Points da and db of a panel's parts into the adapter's gradient. */
void model_gradient(const struct model *model, struct adapter *adapter, int32_t layer, enum panel_slot slot,
                    struct panel_backward *args);

/* Sum over the tensor-parallel group in place; nothing for a group of one. */
enum status model_all_reduce(struct model *model, struct matrix m) LORAD_WARN_UNUSED;

/* residual.c. Rows of a share when the batch has so many tokens. */
int32_t model_share_rows(const struct model *model, int32_t tokens);
/* The rows of this rank's share within a whole buffer. */
struct matrix model_share(const struct model *model, struct matrix whole);
/* Partial sums in `whole` -> this rank's share of their sum. Without sequence_parallel both are one buffer.
 */
enum status model_combine(struct model *model, struct matrix whole, struct matrix share) LORAD_WARN_UNUSED;
/* Every rank's share, at its place in `whole` -> all of them there on every rank. */
enum status model_collect(struct model *model, struct matrix whole) LORAD_WARN_UNUSED;
/* After n_tokens was set, before a pass. */
enum status model_cut_batch(struct model *model) LORAD_WARN_UNUSED;

#endif
