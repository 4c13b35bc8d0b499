/*
 * gemm_avx512bf16.c: the bf16 micro-kernel over VDPBF16PS: two products of a pair of k and one f32 sum per
 * lane. 12 rows x 32 columns: 24 accumulators, two vectors of b, the pairs of a broadcast from memory.
 */
#if defined(__AVX512BF16__)
#include <immintrin.h>

#include "kernels/cpu/gemm.h"

enum { ROWS = 12 };

/* m rows x v vectors of columns; both are constants where it is inlined. */
static inline __attribute__((always_inline)) void block(int m, int v, int64_t k, const uint32_t *a,
                                                        const uint16_t *b, float *c, bool accumulate)
{
    __m512 sum[ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
        for (int j = 0; j < v; j++)
            sum[i][j] = accumulate ? _mm512_loadu_ps(c + i * GEMM_NR + 16 * j) : _mm512_setzero_ps();
    for (int64_t kk = 0; kk < k; kk += 2, a += ROWS, b += 2 * GEMM_NR) {
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(b);
        __m512bh b1 = v == 2 ? (__m512bh)_mm512_loadu_si512(b + GEMM_NR) : b0;
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            __m512bh pair = (__m512bh)_mm512_set1_epi32((int)a[i]);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], pair, b0);
            if (v == 2) sum[i][1] = _mm512_dpbf16_ps(sum[i][1], pair, b1);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
        for (int j = 0; j < v; j++) _mm512_storeu_ps(c + i * GEMM_NR + 16 * j, sum[i][j]);
}

#define CASE(rows)                                                                                           \
    case rows:                                                                                               \
        if (n <= 16)                                                                                         \
            block(rows, 1, k, a, b, c, accumulate);                                                          \
        else                                                                                                 \
            block(rows, 2, k, a, b, c, accumulate);                                                          \
        break;

void gemm_micro_avx512bf16(int m, int n, int64_t k, const void *a, const void *b, float *c, bool accumulate)
{
    switch (m) {
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
        CASE(7)
        CASE(8)
        CASE(9)
        CASE(10)
        CASE(11)
        CASE(12)
    }
}
#else
typedef int gemm_avx512bf16_is_for_x86; /* a translation unit may not be empty */
#endif
