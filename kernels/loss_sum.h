/*
 * loss_sum.h: a sum of losses whose bits do not depend on the order of the addends. Each is rounded once, to
 * 2^-40, which is less than f64 loses on the way to such a sum; from there on all is integers.
 *
 * Invariant: 0 <= fraction < 2^40, so equal sums have equal members.
 */
#ifndef LORAD_KERNELS_LOSS_SUM_H
#define LORAD_KERNELS_LOSS_SUM_H

#include <math.h>
#include <stdint.h>

/* Plain data: travels as bytes. All zero: nothing added yet. */
struct loss_sum {
    int64_t whole;
    int64_t fraction; /* in units of 2^-40 */
    int64_t broken;   /* addends that were not finite, or beyond 2^40, and so no loss of any model */
};

static inline void loss_sum_carry(struct loss_sum *sum, int64_t whole, int64_t fraction)
{
    sum->whole += whole + (fraction >> 40);
    sum->fraction = fraction & ((INT64_C(1) << 40) - 1);
}

static inline void loss_sum_add(struct loss_sum *sum, double loss)
{
    if (!(fabs(loss) < 0x1p40)) {
        sum->broken++;
        return;
    }
    double whole = floor(loss);
    loss_sum_carry(sum, (int64_t)whole, sum->fraction + llrint((loss - whole) * 0x1p40));
}

static inline void loss_sum_join(struct loss_sum *sum, const struct loss_sum *other)
{
    sum->broken += other->broken;
    loss_sum_carry(sum, other->whole, sum->fraction + other->fraction);
}

/* NaN when an addend was broken. */
static inline double loss_sum_value(const struct loss_sum *sum)
{
    return sum->broken ? (double)NAN : (double)sum->whole + (double)sum->fraction * 0x1p-40;
}

#endif
