/*
 * lazy_device.h: a device that is not the host and does nothing before somebody waits for it: a copy that
 * nobody waited for has not happened, so a missing wait shows. Its memory is host memory. No operations.
 */
#ifndef LORAD_TEST_LAZY_DEVICE_H
#define LORAD_TEST_LAZY_DEVICE_H

#include "kernels/device.h"

/* `extension`: what device_extension gives for `name`; NULL: nothing. */
struct device *lazy_device_open(const char *name, const void *extension);

/* Calls work(argument) in its turn, as a kernel would run. */
void lazy_device_enqueue(struct device *device, void (*work)(void *), void *argument);
/* Things enqueued and not done. */
int lazy_device_waiting(const struct device *device);

#endif
