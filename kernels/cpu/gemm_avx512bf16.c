/*
 * gemm_avx512bf16.c: the bf16 micro-kernel over VDPBF16PS: two products of a pair of k and one f32 sum per
 * lane. 12 rows x 32 columns: 24 accumulators, two vectors of b, the pairs of a broadcast from memory.
 */
#if defined(__AVX512BF16__)
#include <immintrin.h>

#include "kernels/cpu/gemm.h"

enum { ROWS = 12 };

static inline __attribute__((always_inline)) void block(int m, int64_t k, const uint32_t *a,
                                                        const uint16_t *b, float *c, bool accumulate)
{
    __m512 sum[ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        sum[i][0] = accumulate ? _mm512_loadu_ps(c + i * GEMM_NR) : _mm512_setzero_ps();
        sum[i][1] = accumulate ? _mm512_loadu_ps(c + i * GEMM_NR + 16) : _mm512_setzero_ps();
    }
    for (int64_t kk = 0; kk < k; kk += 2, a += ROWS, b += 2 * GEMM_NR) {
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + GEMM_NR);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            __m512bh pair = (__m512bh)_mm512_set1_epi32((int)a[i]);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], pair, b0);
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], pair, b1);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        _mm512_storeu_ps(c + i * GEMM_NR, sum[i][0]);
        _mm512_storeu_ps(c + i * GEMM_NR + 16, sum[i][1]);
    }
}

void gemm_micro_avx512bf16(int m, int64_t k, const void *a, const void *b, float *c, bool accumulate)
{
    switch (m) {
    case 1:
        block(1, k, a, b, c, accumulate);
        break;
    case 2:
        block(2, k, a, b, c, accumulate);
        break;
    case 3:
        block(3, k, a, b, c, accumulate);
        break;
    case 4:
        block(4, k, a, b, c, accumulate);
        break;
    case 5:
        block(5, k, a, b, c, accumulate);
        break;
    case 6:
        block(6, k, a, b, c, accumulate);
        break;
    case 7:
        block(7, k, a, b, c, accumulate);
        break;
    case 8:
        block(8, k, a, b, c, accumulate);
        break;
    case 9:
        block(9, k, a, b, c, accumulate);
        break;
    case 10:
        block(10, k, a, b, c, accumulate);
        break;
    case 11:
        block(11, k, a, b, c, accumulate);
        break;
    default:
        block(12, k, a, b, c, accumulate);
        break;
    }
}
#else
typedef int gemm_avx512bf16_is_for_x86; /* a translation unit may not be empty */
#endif
