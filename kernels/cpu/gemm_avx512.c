/* gemm_avx512.c: the micro-kernels and passes of gemm_vector.h for AVX-512: 16 lanes. */
#if defined(__AVX512F__)
#include <immintrin.h>

#define VW            16
#define MR            12
#define VFMA(a, b, c) ((vf)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define NAME(x)       x##_avx512
#include "kernels/cpu/gemm_vector.h"
#else
typedef int gemm_avx512_is_for_x86; /* a translation unit may not be empty */
#endif
