/*
 * ops.h: the operations of a training step that are not a linear layer (those are panel.h).
 *
 * Every operation has one argument struct; ops.def lists them once, and the wrapper of each checks shapes,
 * dtypes, strides and aliasing for all backends before it calls the backend's function of the same name.
 *
 * Notation: T tokens of a micro-batch, d hidden size, "act" the activation dtype (f32 or bf16; f16 on CUDA).
 * Sums, softmax, norms and loss are f32 or better whatever the storage. An optional matrix has data == NULL.
 * Unless said otherwise an output may not overlap an input. Outputs beyond `cols` (spare columns) are not
 * touched. Errors: LORAD_BUG for a broken contract, LORAD_DEVICE from an accelerator.
 */
#ifndef LORAD_KERNELS_OPS_H
#define LORAD_KERNELS_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/device.h"
#include "kernels/loss_sum.h"
#include "kernels/tensor.h"

/* Rows of packed sequences: sequence s is tokens [start[s], start[s+1]); start[count] == T. Device memory. */
struct sequences {
    const int32_t *start;
    int32_t count;
    int32_t longest; /* tokens of the longest sequence */
};

/* out[t] = table[id[t] - first_row], or zeros when the id is not in [first_row, first_row + table.rows)
 * (vocabulary split over TP: the all-reduce that follows adds the one row that is not zero). */
struct op_embed {
    struct matrix table; /* [rows of this rank, d] act */
    const int32_t *ids;  /* [T] */
    int64_t first_row;
    struct matrix out; /* [T, d] act */
};

/* sum = x + delta (written when sum.data is set, may be x itself); h = w * sum * rstd, rstd =
 * 1/sqrt(mean(sum^2) + eps). HF LlamaRMSNorm: the product sum * rstd is rounded to act before the weight is
 * applied; bf16 runs follow that. */
struct op_rmsnorm {
    struct matrix x;     /* [T, d] act: the residual stream */
    struct matrix delta; /* [T, d] act, optional: output of the block before, already all-reduced */
    struct matrix sum;   /* [T, d] act, optional */
    const void *weight;  /* [d] act */
    float eps;
    struct matrix h; /* [T, d] act, stride with spare columns */
    float *rstd;     /* [T] */
};

/* dsum += w-normed gradient:  t = w * dh, xhat = x * rstd:  dx[t] += rstd (t - xhat mean(t * xhat)). Zhang &
 * Sennrich 2019. `x` is the saved sum of the forward. */
struct op_rmsnorm_backward {
    struct matrix x;    /* [T, d] act */
    const float *rstd;  /* [T] */
    const void *weight; /* [d] act */
    struct matrix dh;   /* [T, d] act */
    struct matrix dx;   /* [T, d] act, accumulated into: on entry the gradient that skips the block */
};

/* h again from the saved residual input, for the backward's dA: h = w * (x * rstd), bit for bit as in the
 * forward. */
struct op_rmsnorm_apply {
    struct matrix x;
    const float *rstd;
    const void *weight;
    struct matrix h;
};

/* Rotates heads in place, rotate-half convention of Llama and Qwen (pairs j and j + head_dim/2):
 *   (a, b) -> (a cos - b sin, b cos + a sin), angle of position p and pair j in cos_sin.
 * inverse: rotates back (the backward). With q_weight / k_weight (Qwen3) each head is RMS-normed before the
 * rotation into q_out / k_out, and the pre-norm q, k stay as they are; without, q_out/k_out must be q/k
 * themselves. */
struct op_rope {
    struct matrix q;     /* [T, q_heads * head_dim] act */
    struct matrix k;     /* [T, kv_heads * head_dim] act */
    struct matrix q_out; /* [T, q_heads * head_dim] act; data may equal q.data */
    struct matrix k_out;
    int32_t head_dim;
    const int32_t *positions; /* [T] */
    const float *cos_sin;     /* [max_position, head_dim]: head_dim/2 cosines, then head_dim/2 sines */
    const void *q_weight;     /* [head_dim] act or NULL */
    const void *k_weight;
    float eps;
    bool inverse; /* without norm weights only */
};

/* Backward of op_rope with norm weights: from pre-norm q, k and gradients of q_out, k_out, in place over dq,
 * dk. Without norm weights use op_rope with inverse. */
struct op_rope_norm_backward {
    struct matrix q, k;   /* pre-norm, saved */
    struct matrix dq, dk; /* in: gradient of the rotated; out: gradient of the pre-norm */
    int32_t head_dim;
    const int32_t *positions;
    const float *cos_sin;
    const void *q_weight, *k_weight;
    float eps;
};

/* What sizes the scratch of attention: the largest call, and whether the backward will run too. */
struct attention_shape {
    enum dtype dtype;
    int32_t q_heads, kv_heads, head_dim, window;
    int64_t max_tokens;
    int32_t max_sequences;
    int64_t qkv_stride;  /* elements of a row of q, k, v, which lie side by side */
    int64_t dqkv_stride; /* of their gradients' row; 0: no backward */
    bool deterministic;
};
/* Bytes of device memory that op_attention and op_attention_backward may use while they run; 0: none. */
size_t attention_scratch_bytes(const struct device_backend *backend, const struct attention_shape *shape);

/* Causal softmax attention inside each sequence; query head i uses key/value head i / (q_heads / kv_heads).
 * window > 0: a query sees the last `window` keys including itself (HF sliding_window). Never holds [T, T].
 */
struct op_attention {
    struct matrix q; /* [T, q_heads * head_dim] act */
    struct matrix k; /* [T, kv_heads * head_dim] act */
    struct matrix v; /* [T, kv_heads * head_dim] act */
    int32_t head_dim;
    float scale;
    int32_t window;
    struct sequences sequences;
    struct matrix out; /* [T, q_heads * head_dim] act, stride with spare columns */
    float *lse;        /* q_heads * T: log-sum-exp of the scaled scores, [q_heads, T] on the CPU; elsewhere in
                          the order that the same device's backward reads */
    void *scratch;     /* attention_scratch_bytes; NULL where that is 0 */
};

/* Flash backward (Dao et al. 2022): recomputes probabilities from q, k, lse; D = rowsum(dout * out). */
struct op_attention_backward {
    struct matrix q, k, v, out; /* as in the forward */
    const float *lse;
    struct matrix dout; /* [T, q_heads * head_dim] act */
    int32_t head_dim;
    float scale;
    int32_t window;
    struct sequences sequences;
    struct matrix dq, dk, dv; /* act, written; strides with spare columns */
    void *scratch;            /* as in the forward */
};

/* One query per call against cached keys and values, for generation: q [1, q_heads * head_dim]; the cache
 * holds `length` tokens including this one. */
struct op_attention_decode {
    struct matrix q;
    struct matrix k_cache, v_cache; /* [capacity, kv_heads * head_dim] act, first `length` rows valid */
    int32_t length;
    int32_t head_dim;
    float scale;
    int32_t window;
    struct matrix out;
};

/* a = silu(gate) * up with gate_up = [gate | up] side by side. */
struct op_swiglu {
    struct matrix gate_up; /* [T, 2f] act */
    struct matrix a;       /* [T, f] act, stride with spare columns */
};

/* From da: d_gate = da * up * silu'(gate), d_up = da * silu(gate). d_gate_up may be gate_up itself (in
 * place). What the adapter of down needs, silu(gate) * up, is op_swiglu again, before this. */
struct op_swiglu_backward {
    struct matrix gate_up;   /* [T, 2f] act */
    struct matrix da;        /* [T, f] act */
    struct matrix d_gate_up; /* [T, 2f] act */
};

/* y += x elementwise; act or f32. */
struct op_add {
    struct matrix x, y;
};

/* out = in, converting between f32 and act when the dtypes differ; same rows and cols, any strides. */
struct op_copy {
    struct matrix in, out;
};

/* out[i] = in[index[i]] (gather), or out[index[i]] = in[i] with the other rows zeroed first (scatter). An
 * index of -1 is no row: zeros, or nothing. */
struct op_gather_rows {
    struct matrix in;     /* [T, d] act */
    const int32_t *index; /* [n] */
    struct matrix out;    /* [n, d] act, stride with spare columns */
};
struct op_scatter_rows {
    struct matrix in;     /* [n, d] act */
    const int32_t *index; /* [n], distinct but for -1 */
    struct matrix out;    /* [T, d] act */
};

/* Vocabulary-parallel cross entropy, first pass over this rank's columns [first_col, first_col + cols -
 * padding). stats[i] = {m = max z, S = sum exp(z - m), z_label or 0 when the label is elsewhere}; a rank
 * whose columns are all padding gives m = -inf, S = 0. best[i], optional: the column of the maximum (global
 * number, lowest wins). */
struct loss_stat {
    float max;
    float sum;
    float label_logit;
    int32_t best; /* global column of max; -1: none */
};
struct op_loss_stats {
    struct matrix logits;    /* [n, columns of this rank, padding included] f32 */
    int64_t first_col;       /* global number of column 0 */
    int64_t valid_cols;      /* columns that exist in the vocabulary; the rest is padding */
    const int32_t *labels;   /* [n] global token numbers */
    struct loss_stat *stats; /* [n] */
};

/* Second pass: dlogits = weight (softmax - onehot) over this rank's columns, padding zero; loss and correct
 * per row. `all` holds `parts` arrays of n stats, in TP rank order (combined in that order on every rank).
 * Weights are unscaled here (1 or a row's loss weight): the division by the global sum happens once at the
 * optimizer step. dlogits alone are multiplied by `scale`, a power of two (loss scaling of f16; else 1). */
struct op_loss_grad {
    struct matrix logits; /* [n, columns] f32 */
    int64_t first_col, valid_cols;
    const int32_t *labels;       /* [n] */
    const float *weights;        /* [n] or NULL for 1 */
    float scale;                 /* of dlogits */
    const struct loss_stat *all; /* [parts][n] */
    int32_t parts;
    struct matrix dlogits; /* [n, columns] act or f32, optional; may lie in the logits' memory, row on row */
    struct loss_sum *loss_sum; /* one, added to: weight * (log sum exp - z_label) of every row */
    int64_t *correct_sum;      /* one counter, added to: rows whose best column is the label */
    float *row_loss;           /* [n], optional: unweighted loss of each row */
};

/* AdamW over one flat vector of parameters cut into segments with their own learning rate and decay (see
 * arithmetic in docs/arithmetic.md; Loshchilov & Hutter 2019, PyTorch's order: decay first, eps outside the
 * corrected root). g = grad * grad_scale;  p *= 1 - lr wd;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2 p -=
 * (lr / (1-b1^t)) m / (sqrt(v) / sqrt(1-b2^t) + eps) Scalars are computed in double by the caller's t. */
struct adamw_segment {
    int64_t start, count; /* elements */
    double learning_rate;
    double weight_decay;
};
struct op_adamw {
    float *param;                         /* [n] */
    const float *grad;                    /* [n] */
    float *m, *v;                         /* [n] */
    const struct adamw_segment *segments; /* host memory */
    int32_t n_segments;
    int64_t step; /* t >= 1: applied steps including this one */
    double beta1, beta2, eps;
    double grad_scale; /* 1 / (global loss weights) times the clip factor */
};

/* out[i] = sum of squares in f64 of segment i of x, fixed order (blocks of 4096, pairwise), so that the bits
 * depend on the segment only. */
struct op_sum_squares {
    const float *x;
    const int64_t *starts; /* [n_segments + 1], host memory */
    int32_t n_segments;
    double *out; /* [n_segments], host memory; blocks */
};

/* Sums in fixed point, whose bits do not depend on the order of the addends: x of a segment counts as the
 * whole number nearest to x * 2^shift, ties to even (docs/arithmetic.md). */
struct fixed_segment {
    int64_t start, count; /* elements */
    int32_t shift;
};
enum { FIXED_MOST_BITS = 50, FIXED_MOST_SHIFT = 400 };

/* sum += x, and x = 0, ready for the next addend. What is not finite, or more than 2^bits units, is left out
 * of the sum; `most` tells that it was there. */
struct op_fixed_add {
    float *x;                             /* [n] */
    int64_t *sum;                         /* [n] */
    int32_t *most;                        /* [n_segments], raised to the greatest |x|, as the bits of an f32:
                                             those of infinity or more when an x was not finite */
    const struct fixed_segment *segments; /* host memory */
    int32_t n_segments;
    int32_t bits; /* at most FIXED_MOST_BITS */
};

/* x = sum / 2^shift, rounded to f64 and then to f32. */
struct op_fixed_read {
    const int64_t *sum;                   /* [n] */
    float *x;                             /* [n] */
    const struct fixed_segment *segments; /* host memory */
    int32_t n_segments;
};

/* Declares `enum status op_NAME(struct device *, const struct op_NAME *)` for every line of ops.def. */
#define OP(name) enum status op_##name(struct device *device, const struct op_##name *args) LORAD_WARN_UNUSED;
#include "kernels/ops.def"
#undef OP

#endif
