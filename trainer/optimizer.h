/*
 * optimizer.h: from accumulated gradients to updated parameters: the sums over tensor- and data-parallel
 * ranks, the global norm, and AdamW with a learning rate of its own for every factor.
 */
#ifndef LORAD_TRAINER_OPTIMIZER_H
#define LORAD_TRAINER_OPTIMIZER_H

#include "base/status.h"
#include "kernels/ops.h"
#include "trainer/adapter.h"
#include "trainer/trainer.h"

struct optimizer {
    struct optimizer_options options;
    struct adamw_segment *segments; /* [lora->n_tensors]; learning_rate: the peak of each */
    struct adamw_segment *scaled;   /* the same at the current factor */
    int64_t *starts;                /* [n + 1] for the norm */
    double *squares;                /* [n] */
    int32_t n;
};

/* Peak rates: learning_rate, times loraplus_lr_ratio for B, or that of the first lr_group whose pattern
 * matches the factor's name. LORAD_CONFIG when a pattern matches nothing. Owns: *out. */
enum status optimizer_create(struct optimizer **out, const struct lora *lora,
                             const struct optimizer_options *options) LORAD_WARN_UNUSED;
void optimizer_destroy(struct optimizer *optimizer);

/* Sums the gradient over the tensor-parallel group where it is replicated, and all of it over data-parallel
 * ranks; with adapter->sums, of what these hold. Collective over both groups. */
enum status optimizer_reduce(struct adapter *adapter) LORAD_WARN_UNUSED;

/* Sums of squares of the reduced gradient: of factors that every tensor-parallel rank holds, and of this
 * rank's pieces of the others. f64, fixed order. Blocks. */
enum status optimizer_squares(struct optimizer *optimizer, struct adapter *adapter, double *replicated,
                              double *local) LORAD_WARN_UNUSED;

/* One AdamW update with every rate times `factor` and the gradient times `grad_scale`. */
enum status optimizer_apply(struct optimizer *optimizer, struct adapter *adapter, double factor,
                            double grad_scale) LORAD_WARN_UNUSED;

#endif
