/* gemm_generic.c: the micro-kernels and passes of gemm_vector.h for any processor: 4 lanes, multiply and add.
 */
#define VW            4
#define MR            6
#define VFMA(a, b, c) ((a) * (b) + (c))
#define NAME(x)       x##_generic
#include "kernels/cpu/gemm_vector.h"
