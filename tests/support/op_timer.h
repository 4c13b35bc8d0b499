/*
 * op_timer.h: where the time of a step goes: a device whose every operation is waited for and timed.
 *
 * Waiting takes the overlap away, so the sum is more than a step takes by itself; the shares are what to
 * read.
 */
#ifndef LORAD_TESTS_SUPPORT_OP_TIMER_H
#define LORAD_TESTS_SUPPORT_OP_TIMER_H

#include "kernels/device.h"

/* From here on operations and panels of this device are timed. One device at a time. */
void op_timer_begin(struct device *device);
/* As it was; prints a table: phase, calls and milliseconds in each of `passes`, share. */
void op_timer_end(struct device *device, int passes);

#endif
