/*
 * frozen_panels.h: what an adapter costs: a device whose linears leave theirs out, with everything else as it
 * is.
 *
 * The products then have K = in forward and K = out for dx, over the same memory; u, g, dA and dB are not
 * computed, and the adapter's gradient stays what it was. Not for the CPU, whose panels are laid out for
 * their adapters.
 */
#ifndef LORAD_TESTS_SUPPORT_FROZEN_PANELS_H
#define LORAD_TESTS_SUPPORT_FROZEN_PANELS_H

#include "kernels/device.h"

/* From here on, until _end, for every panel of this device. One device at a time; not inside op_timer_begin
 * and _end, but around them. */
void frozen_panels_begin(struct device *device);
void frozen_panels_end(struct device *device);

#endif
