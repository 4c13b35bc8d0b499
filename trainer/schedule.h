/*
 * schedule.h: the learning rate of a step as a factor of the peak, as transformers' get_scheduler has it: the
 * first update is step 0, so that a warm-up starts at zero. Pure functions.
 */
#ifndef LORAD_TRAINER_SCHEDULE_H
#define LORAD_TRAINER_SCHEDULE_H

#include <stdint.h>

#include "trainer/trainer.h"

/* Updates of warm-up: warmup_steps, or else ceil(warmup_ratio * total). */
int64_t schedule_warmup(const struct optimizer_options *options, int64_t total_steps);

/* In [0, 1]: learning rate of update `step` (from 0) over learning_rate. */
double schedule_factor(const struct optimizer_options *options, int64_t step, int64_t total_steps);

#endif
