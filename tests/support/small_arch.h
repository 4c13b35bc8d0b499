/* small_arch.h: the shape of a small model with fewer key/value heads than some layouts have ranks. */
#ifndef LORAD_TESTS_SUPPORT_SMALL_ARCH_H
#define LORAD_TESTS_SUPPORT_SMALL_ARCH_H

#include "trainer/arch.h"

extern const struct arch small_arch;

#endif
