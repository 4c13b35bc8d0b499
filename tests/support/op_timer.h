/*
 * op_timer.h: where the time of a step goes: a device whose every operation is waited for and timed.
 *
 * Waiting takes the overlap away, so the sum is more than a step takes by itself; the shares are what to
 * read.
 */
#ifndef LORAD_TESTS_SUPPORT_OP_TIMER_H
#define LORAD_TESTS_SUPPORT_OP_TIMER_H

#include "kernels/device.h"

/* The parts of a step that are told apart. A linear without an adapter counts as the head. */
enum op_part {
    OP_PART_LINEAR, /* base and adapter */
    OP_PART_ATTENTION,
    OP_PART_ROWS, /* norms, RoPE, SwiGLU, embedding, sums, copies */
    OP_PART_HEAD, /* with the loss */
    OP_PART_OPTIMIZER,
    OP_PARTS
};

/* From here on operations and panels of this device are timed. One device at a time. */
void op_timer_begin(struct device *device);
/* As it was. milliseconds: of the parts, in each of `passes`. */
void op_timer_end(struct device *device, int passes, double milliseconds[OP_PARTS]);
/* What was timed last, as a table: phase, calls and milliseconds in each of `passes`, share. */
void op_timer_print(int passes);

#endif
