/*
 * fixed_sums.h: gradients summed in fixed point (`deterministic: elastic`): the same bits for any dealing of
 * a global batch's micro-batches to ranks and accumulation steps, at one tensor-parallel width.
 *
 * An addend is one micro-batch's gradient on one rank. Factor t counts in units of 2^-k, k = bits - 10 - e_t,
 * where the greatest element of an addend of the last good step was below 2^e_t: ten bits of room for growth.
 * bits is so small that no sum of a global batch's addends can overflow. docs/arithmetic.md has the rules.
 *
 * Invariants:
 *  1. e, and with it every unit, is a function of the run's steps so far alone, not of the layout: it follows
 *     from maxima over all addends of all ranks.
 *  2. When an addend did not fit, or units were too coarse, the whole step is computed again, once, with
 * units that fit it; the second time it fits for certain.
 *  3. A skipped step leaves e as it was.
 */
#ifndef LORAD_TRAINER_FIXED_SUMS_H
#define LORAD_TRAINER_FIXED_SUMS_H

#include "base/status.h"
#include "comm/comm.h"
#include "kernels/ops.h"
#include "trainer/lora.h"

enum { FIXED_UNKNOWN = INT16_MIN, MOST_FIXED_SCALES = 256 * MODULES * 2 };

/* What a checkpoint keeps: e of every factor in the order layer, module, A before B, which no layout changes.
 * Plain data. */
struct fixed_scales {
    int32_t n;                           /* 0: this run sums in floating point */
    int16_t exponent[MOST_FIXED_SCALES]; /* [n]; FIXED_UNKNOWN: no gradient but zeros yet */
};

struct fixed_sums;

/* Bytes of device memory. */
size_t fixed_sums_bytes(const struct lora *lora);

/* Borrows lora and device. LORAD_CONFIG: more layers than scales are kept for. Owns: *out. */
enum status fixed_sums_create(struct fixed_sums **out, const struct lora *lora,
                              struct device *device) LORAD_WARN_UNUSED;
void fixed_sums_destroy(struct fixed_sums *sums);

/* Before the first step: the most addends of a global batch, its micro-batches times the tensor-parallel
 * width. */
void fixed_sums_set_addends(struct fixed_sums *sums, int64_t most);

/* Before the first micro-batch of a step. */
enum status fixed_sums_begin(struct fixed_sums *sums) LORAD_WARN_UNUSED;
/* Adds one micro-batch's gradient [lora->count] and leaves zeros there. */
enum status fixed_sums_add(struct fixed_sums *sums, float *grad) LORAD_WARN_UNUSED;

/* Whether all ranks' addends fit. again: they did not, the units are others now, begin the step anew.
 * *greatest: of any addend's elements; not finite when one was not, and then there is nothing to read. world
 * NULL: one rank. Collective over the world. Blocks. */
enum status fixed_sums_agree(struct fixed_sums *sums, struct comm *world, bool *again,
                             double *greatest) LORAD_WARN_UNUSED;
/* The sums over the tensor-parallel group where factors are replicated, and over data-parallel ranks (NULL: a
 * group of one), as floats into grad. Collective over both groups. */
enum status fixed_sums_reduce(struct fixed_sums *sums, struct comm *tp, struct comm *dp,
                              float *grad) LORAD_WARN_UNUSED;
/* The step was good: the next one's units follow its addends. */
void fixed_sums_accept(struct fixed_sums *sums);

void fixed_sums_scales(const struct fixed_sums *sums, struct fixed_scales *out);
/* Of a checkpoint; n 0: it was written without. LORAD_DATA: they are another adapter's. */
enum status fixed_sums_restore(struct fixed_sums *sums, const struct fixed_scales *scales) LORAD_WARN_UNUSED;

#endif
