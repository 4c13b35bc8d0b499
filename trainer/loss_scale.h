/*
 * loss_scale.h: dynamic loss scaling, for fp16: gradients below 2^-24 would be zero there, and above 65504
 * infinite (Micikevicius et al. 2018, "Mixed precision training").
 *
 * 1. The scale S is a power of two, and so is what dlogits are multiplied by: scaling and unscaling round
 * nothing. Where nothing overflows or underflows, the bits of a step do not depend on S.
 * 2. S is the scale of the mean loss, as in other trainers. Sums of losses are divided at the end of a step
 * only, so dlogits get S over the step's loss weights, these taken up to a power of two.
 * 3. An overflow halves S. So many good steps in a row double it. It stays in [1, 2^24].
 */
#ifndef LORAD_TRAINER_LOSS_SCALE_H
#define LORAD_TRAINER_LOSS_SCALE_H

#include <stdbool.h>
#include <stdint.h>

enum { LOSS_SCALE_MOST_POWER = 24 };

struct loss_scale_options {
    int32_t initial_power; /* S = 2^initial_power at first; at most LOSS_SCALE_MOST_POWER */
    int64_t window;        /* good steps in a row before S is doubled */
};

/* Part of a run's state. All zero: no scaling. */
struct loss_scale {
    double value;       /* S */
    int64_t good_steps; /* in a row, since S changed */
};

struct loss_scale loss_scale_first(const struct loss_scale_options *options);

static inline bool loss_scale_in_use(const struct loss_scale *scale)
{
    return scale->value > 0;
}

/* What dlogits are multiplied by in a step with this sum of loss weights; 1 without scaling. */
double loss_scale_factor(const struct loss_scale *scale, double loss_weight);

/* Whether a gradient that is not finite may be S's fault: then S can be halved. */
static inline bool loss_scale_can_fall(const struct loss_scale *scale)
{
    return scale->value > 1;
}
void loss_scale_overflowed(struct loss_scale *scale);
/* A step whose gradient was finite. */
void loss_scale_went_well(struct loss_scale *scale, const struct loss_scale_options *options);

/* Whether a run can have had this scale. */
bool loss_scale_is_valid(const struct loss_scale *scale);

#endif
