#include "trainer/loss_scale.h"

#include <math.h>

struct loss_scale loss_scale_first(const struct loss_scale_options *options)
{
    return (struct loss_scale){.value = ldexp(1, options->initial_power)};
}

double loss_scale_factor(const struct loss_scale *scale, double loss_weight)
{
    int power;
    if (!loss_scale_in_use(scale)) return 1;
    double fraction = frexp(loss_weight, &power); /* in [1/2, 1), or 0 */
    return ldexp(scale->value, fraction == 0.5 ? 1 - power : -power);
}

void loss_scale_overflowed(struct loss_scale *scale)
{
    scale->value /= 2;
    scale->good_steps = 0;
}

void loss_scale_went_well(struct loss_scale *scale, const struct loss_scale_options *options)
{
    if (++scale->good_steps < options->window) return;
    scale->value = fmin(2 * scale->value, ldexp(1, LOSS_SCALE_MOST_POWER));
    scale->good_steps = 0;
}

bool loss_scale_is_valid(const struct loss_scale *scale)
{
    int power;
    bool is_power = frexp(scale->value, &power) == 0.5;
    return is_power && scale->value >= 1 && scale->value <= ldexp(1, LOSS_SCALE_MOST_POWER) &&
           scale->good_steps >= 0;
}
