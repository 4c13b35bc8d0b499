#include "trainer/schedule.h"

#include <math.h>

int64_t schedule_warmup(const struct optimizer_options *options, int64_t total_steps)
{
    if (options->schedule == SCHEDULE_CONSTANT) return 0;
    if (options->warmup_steps > 0) return options->warmup_steps;
    return (int64_t)ceil(options->warmup_ratio * (double)total_steps);
}

double schedule_factor(const struct optimizer_options *options, int64_t step, int64_t total_steps)
{
    int64_t warmup = schedule_warmup(options, total_steps);
    if (step < warmup) return (double)step / (double)(warmup > 1 ? warmup : 1);
    int64_t span = total_steps - warmup > 1 ? total_steps - warmup : 1;
    double progress = (double)(step - warmup) / (double)span,
           cosine = fmax(0.0, 0.5 * (1.0 + cos(M_PI * progress)));
    switch (options->schedule) {
    case SCHEDULE_LINEAR:
        return fmax(0.0, (double)(total_steps - step) / (double)span);
    case SCHEDULE_COSINE:
        return cosine;
    case SCHEDULE_COSINE_WITH_MIN_LR: {
        double least = options->min_lr / options->learning_rate;
        return cosine * (1.0 - least) + least;
    }
    default:
        return 1.0;
    }
}
