/*
 * test_device.h: the device that device-independent tests run on: LORAD_TEST_DEVICE (cpu, cuda), cpu unless
 * it is set.
 *
 * A GPU that is asked for and not here is a skip of the whole program, or its failure with
 * LORAD_REQUIRE_GPU=1.
 */
#ifndef LORAD_TESTS_SUPPORT_TEST_DEVICE_H
#define LORAD_TESTS_SUPPORT_TEST_DEVICE_H

#include <stdbool.h>

#include "kernels/device.h"

const char *test_device_kind(void); /* borrowed */
bool test_device_is_cpu(void);
bool test_device_is_fast(void); /* LORAD_TEST_FAST=1: a GPU as it is without deterministic */

/* Owns: the result. threads: of a CPU. */
struct device *test_device_open(int threads);

/* From now on "cuda" is the emulated GPU (docs/testing.md); where it was not built the program ends as
 * skipped. */
void test_device_emulate(void);

/* Before run number 0, 1, 2 ... of what must have equal bits every time: on the emulated GPU each runs its
 * threads in another order, the first in that of LORAD_EMULATOR_ORDER. */
void test_device_turn(int run);

/* What a device_open of this kind returned: given back, unless it means that the program is to be skipped. */
enum status test_device_opened(enum status status) LORAD_WARN_UNUSED;

#endif
