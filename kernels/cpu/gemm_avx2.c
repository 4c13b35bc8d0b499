/* gemm_avx2.c: the micro-kernels and passes of gemm_vector.h for AVX2 and FMA: 8 lanes. */
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#define VW            8
#define MR            6
#define VFMA(a, b, c) ((vf)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define NAME(x)       x##_avx2
#include "kernels/cpu/gemm_vector.h"
#else
typedef int gemm_avx2_is_for_x86; /* a translation unit may not be empty */
#endif
