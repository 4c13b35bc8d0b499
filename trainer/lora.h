/*
 * lora.h: the shape of an adapter: which modules it adapts and where each factor lies in this rank's flat
 * vector of f32 parameters. Pure arithmetic: no device, no communication.
 *
 * The flat vector: first every factor that all tensor-parallel ranks hold whole (A of column-split modules, B
 * of row-split ones, B of k and v where key/value heads are replicated), then the factors that are split. So
 * the tensor-parallel sum of the replicated gradients is one contiguous all-reduce of [0, replicated_count),
 * and the rest needs none.
 *
 * Invariants:
 *  1. Offsets are multiples of LORA_ALIGN; the gaps are zero in parameters, gradients and moments, for ever.
 *  2. replicated_count and count are the same on every rank of a tensor-parallel group.
 *  3. A factor's whole contents do not depend on the layout: A is drawn for the whole matrix and then sliced.
 */
#ifndef LORAD_TRAINER_LORA_H
#define LORAD_TRAINER_LORA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "trainer/arch.h"
#include "trainer/partition.h"
#include "trainer/trainer.h"

enum module { MODULE_Q, MODULE_K, MODULE_V, MODULE_O, MODULE_GATE, MODULE_UP, MODULE_DOWN, MODULES };
enum { LORA_ALIGN = 16, LORA_NAME_BYTES = 112 };

const char *module_name(enum module module); /* "q_proj" */
const char *module_path(enum module module); /* "self_attn.q_proj" */

struct lora_tensor {
    char name[LORA_NAME_BYTES]; /* "model.layers.0.self_attn.q_proj.lora_A.weight"; PEFT puts
                                   base_model.model. before it */
    int32_t layer;
    enum module module;
    bool is_b;                    /* B [out, r], else A [r, in] */
    int64_t shape[2];             /* of the whole factor */
    int64_t row, rows, col, cols; /* the piece this rank keeps in its flat vector */
    bool replicated;              /* every rank of the tensor-parallel group keeps the whole */
    int64_t offset;               /* elements into the flat vector */
};

struct lora {
    int32_t rank;
    double alpha;
    float scale; /* alpha / r, or alpha / sqrt(r) */
    float dropout;
    bool use_rslora;
    struct lora_tensor *tensors; /* in flat order */
    int32_t n_tensors;
    int32_t *index; /* [layers][MODULES][2]: tensor number or -1 */
    int32_t layers;
    int32_t first_layer;      /* lowest adapted layer: nothing below is differentiated */
    int64_t replicated_count; /* elements */
    int64_t count;            /* elements of the flat vector, gaps included */
    int64_t parameters;       /* trainable parameters of the whole adapter, each counted once */
};

/* LORAD_CONFIG when a target names no module of the model, or the pattern matches none. Owns: *out. */
enum status lora_create(struct lora **out, const struct lora_options *options, const struct arch *arch,
                        const struct partition *partition) LORAD_WARN_UNUSED;
void lora_destroy(struct lora *lora);

/* The A (is_b false) or B factor of a module; NULL when it is not adapted. */
const struct lora_tensor *lora_find(const struct lora *lora, int32_t layer, enum module module, bool is_b);

/* PEFT's default: A uniform in +-1/sqrt(in) (kaiming_uniform with a = sqrt(5)), B zero. Writes this rank's
 * piece of A, dense [rows, cols], element by element from a counter-based generator keyed by (seed, layer,
 * module). */
void lora_init_a(const struct lora_tensor *tensor, uint64_t seed, float *piece);

/* Whole sizes of a module's W. */
int64_t module_in(const struct arch *arch, enum module module);
int64_t module_out(const struct arch *arch, enum module module);
/* Row-split modules (o, down) hold columns of W, the others rows. */
bool module_is_row_split(enum module module);
/* This rank's rows (column-split) or columns (row-split) of W: first and number. */
void module_slice(const struct arch *arch, const struct partition *partition, enum module module,
                  int64_t *first, int64_t *count);

#endif
