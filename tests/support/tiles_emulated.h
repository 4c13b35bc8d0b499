/* tiles_emulated.h: the tile kernel of kernels/cpu/gemm_amx_body.h on emulated registers: runs on any
 * processor. */
#ifndef LORAD_TESTS_SUPPORT_TILES_EMULATED_H
#define LORAD_TESTS_SUPPORT_TILES_EMULATED_H

#include "kernels/cpu/gemm.h"

const struct gemm_kernel *tiles_emulated(void);

#endif
