/*
 * panel.h: a frozen linear layer with its LoRA adapter as one matrix.
 *
 * Up to PANEL_PARTS modules that share their input (q,k,v; gate,up) share a panel: their W stacked by rows,
 * their A stacked, their B block-diagonal. With R the sum of the parts' ranks padded to PANEL_ALIGN: u  = x
 * A^T                    written into the R spare columns behind each row of x y  = [x | u] [W | sB]^T + b
 * one GEMM, K = in + R g  = dy (sB)                  written into the R spare columns behind each row of dy
 *     dx = [dy | g] [W ; A]         one GEMM, K = out + R
 *     dA += g^T x,  dB += s dy^T u  f32
 * Each backend stores W as suits it (one strided matrix, packed tiles): the struct is opaque.
 *
 * lora_dropout p > 0 masks x for the adapter only, one mask per part: mask_j[t, c] is 1/(1-p) or 0 by
 * panel_dropout_keep(); the forward uses mask_j * x for u_j, and dx takes one more pass.
 *
 * Under tensor parallelism a row-split panel (o, down) holds columns [col_first, col_first + in) of the whole
 * matrix: u and y are then partial sums that the caller's all-reduce completes; a bias is added on one rank
 * only (caller).
 *
 * Padding rows and columns of x's and dy's spare part are zero by construction and must start as zero.
 * Thread, order and device: as device.h. Nothing allocates after panel_create.
 */
#ifndef LORAD_KERNELS_PANEL_H
#define LORAD_KERNELS_PANEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/random.h"
#include "base/status.h"
#include "kernels/device.h"
#include "kernels/tensor.h"

enum { PANEL_PARTS = 3, PANEL_ALIGN = 32 };

struct panel;

struct panel_part {
    int64_t out;  /* rows of W of this rank */
    int32_t rank; /* LoRA r; 0: not adapted */
};

struct panel_spec {
    int64_t in;
    struct panel_part part[PANEL_PARTS];
    int32_t n_parts;
    enum dtype dtype;   /* activations and frozen weights: f32 or bf16 */
    enum dtype y_dtype; /* of the forward's y: dtype, or f32 (the head's logits) */
    bool bias;          /* of W, per output row */
    bool needs_dx;      /* false: no orientation for dx is kept (nothing below is differentiated) */
    int64_t max_tokens; /* most rows of x in one call: sizes the scratch */
};

/* Spare columns behind rows of x (R) and behind rows of dy (R): 0 without an adapter. */
int64_t panel_spare(const struct panel_spec *spec);

/* Bytes that panel_create will take from a device of this backend: frozen weights and adapter copies; and
 * scratch, which all panels of a device share (the largest counts). */
void panel_bytes(const struct device_backend *backend, const struct panel_spec *spec, size_t *weights_bytes,
                 size_t *scratch_bytes);

/* `scratch`: device memory of at least the largest scratch_bytes of all panels that share it (they never run
 * at the same time). Owns: *out. */
enum status panel_create(struct panel **out, struct device *device, const struct panel_spec *spec,
                         void *scratch) LORAD_WARN_UNUSED;
void panel_destroy(struct panel *panel);

/* Loads rows [row, row + m.rows) of part `part` from host memory, m [rows, in] of any float dtype (F32, BF16,
 * F16); conversion to the panel's dtype rounds to nearest even. Blocks. */
enum status panel_load_rows(struct panel *panel, int32_t part, int64_t row,
                            struct matrix host) LORAD_WARN_UNUSED;
/* Bias of rows [row, row + n) of a part, f32 in host memory. */
enum status panel_load_bias(struct panel *panel, int32_t part, int64_t row, int64_t n,
                            const float *host) LORAD_WARN_UNUSED;
/* Called once after the last row: lets a backend finish packing. */
enum status panel_seal(struct panel *panel) LORAD_WARN_UNUSED;

/* Refreshes the compute copies of adapters from the f32 masters (device memory), after every optimizer step:
 * of many parts at once, since a launch a part would take a GPU longer than its copy. All panels are of one
 * device. */
struct panel_adapter {
    struct panel *panel;
    int32_t part;
    const float *a; /* [rank, in] dense */
    const float *b; /* [out, rank] dense */
    float scale;    /* alpha / r, or alpha / sqrt(r) */
};
enum status panel_set_adapters(const struct panel_adapter *adapters, int32_t n) LORAD_WARN_UNUSED;

struct panel_dropout {
    float p;                    /* 0: none; the rest is then ignored */
    const uint64_t *key;        /* [n_parts] device memory: random_key(seed, RANDOM_LORA_DROPOUT, step,
                                   adapter, layer*16 + module) */
    const int64_t *token_index; /* [T] device memory: number of the token in the global batch */
    int64_t col_first;          /* column of the whole matrix that column 0 of x is */
};

/* Whether element (token, column of the whole matrix) of a part survives; the same on every backend. */
static inline bool panel_dropout_keep(uint64_t key, int64_t token, int64_t column, float p)
{
    struct random_block block = random_philox(key, (uint64_t)token, (uint64_t)column >> 2);
    return random_unit_f32(block.word[column & 3]) >= p;
}

struct panel_forward {
    struct matrix x;                     /* [T, in], stride >= in + R: the spare columns are written */
    struct matrix y;                     /* [T, sum of out], y_dtype */
    bool adapter;                        /* false: the frozen base alone; u is zeroed */
    const struct panel_dropout *dropout; /* NULL: none */
};
enum status panel_forward(struct panel *panel, const struct panel_forward *args) LORAD_WARN_UNUSED;

struct panel_backward {
    struct matrix x;        /* [T, in] the forward's input; its spare columns are not read */
    struct matrix u;        /* [T, R] as the forward wrote it behind x: those columns or a saved copy */
    struct matrix dy;       /* [T, sum of out], act dtype, stride >= out + R: the spare columns are written */
    struct matrix dx;       /* [T, in] act, written; data NULL: not wanted */
    float *da[PANEL_PARTS]; /* [rank, in] f32, added to; NULL: part not adapted */
    float *db[PANEL_PARTS]; /* [out, rank] f32, added to */
    const struct panel_dropout *dropout;
};
enum status panel_backward(struct panel *panel, const struct panel_backward *args) LORAD_WARN_UNUSED;

#endif
