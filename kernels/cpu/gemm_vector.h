/*
 * gemm_vector.h: the f32 micro-kernels and the elementwise passes of gemm.h over GCC's vector types. Included
 * once by each of gemm_generic.c, gemm_avx2.c and gemm_avx512.c, which define
 *
 *   VW: f32 lanes of a vector
 *   MR: rows of the register block; 2 * MR accumulators stay in registers
 *   VFMA(a, b, c): a * b + c
 *   NAME(x): the exported name
 */
#include <string.h>

#include "kernels/cpu/gemm.h"

typedef float vf __attribute__((vector_size(4 * VW)));
typedef float vf_any __attribute__((vector_size(4 * VW), aligned(4), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * VW)));
typedef uint32_t vu_any __attribute__((vector_size(4 * VW), aligned(2), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * VW)));
typedef uint16_t vh_any __attribute__((vector_size(2 * VW), aligned(2), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vf load_f32(const float *p)
{
    return *(const vf_any *)p;
}

INLINE vf splat(float value)
{
    return (vf){0} + value;
}

/* `m` rows x `v` vectors of columns (1 or 2); both are constants where it is inlined. */
INLINE void block_f32(int m, int v, int64_t k, const float *a, const float *b, float *c, bool accumulate)
{
    vf sum[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
        for (int j = 0; j < v; j++) sum[i][j] = accumulate ? load_f32(c + i * GEMM_NR + j * VW) : splat(0);
    for (int64_t kk = 0; kk < k; kk++, a += MR, b += GEMM_NR) {
        vf b0 = load_f32(b), b1 = v == 2 ? load_f32(b + VW) : b0;
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            vf value = splat(a[i]);
            sum[i][0] = VFMA(value, b0, sum[i][0]);
            if (v == 2) sum[i][1] = VFMA(value, b1, sum[i][1]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
        for (int j = 0; j < v; j++) *(vf_any *)(c + i * GEMM_NR + j * VW) = sum[i][j];
}

/* b holds bf16 pairs; a bf16 is the upper half of an f32, so a pair is two f32 by a shift and a mask. */
INLINE void block_bf16(int m, int v, int64_t k, const float *a, const uint16_t *b, float *c, bool accumulate)
{
    vf sum[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
        for (int j = 0; j < v; j++) sum[i][j] = accumulate ? load_f32(c + i * GEMM_NR + j * VW) : splat(0);
    for (int64_t kk = 0; kk < k; kk += 2, a += 2 * MR, b += 2 * GEMM_NR) {
        vu p0 = *(const vu_any *)b, p1 = p0;
        if (v == 2) p1 = *(const vu_any *)(b + 2 * VW);
        vf b0 = (vf)(p0 << 16), b1 = (vf)(p1 << 16);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            vf value = splat(a[i]);
            sum[i][0] = VFMA(value, b0, sum[i][0]);
            if (v == 2) sum[i][1] = VFMA(value, b1, sum[i][1]);
        }
        b0 = (vf)(p0 & 0xffff0000u);
        b1 = (vf)(p1 & 0xffff0000u);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            vf value = splat(a[MR + i]);
            sum[i][0] = VFMA(value, b0, sum[i][0]);
            if (v == 2) sum[i][1] = VFMA(value, b1, sum[i][1]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
        for (int j = 0; j < v; j++) *(vf_any *)(c + i * GEMM_NR + j * VW) = sum[i][j];
}

/* One function per row count, so that the accumulators of each are registers. */
#define FOR_ROWS(body)                                                                                       \
    switch (m) {                                                                                             \
    case 1:                                                                                                  \
        body(1);                                                                                             \
        break;                                                                                               \
    case 2:                                                                                                  \
        body(2);                                                                                             \
        break;                                                                                               \
    case 3:                                                                                                  \
        body(3);                                                                                             \
        break;                                                                                               \
    case 4:                                                                                                  \
        body(4);                                                                                             \
        break;                                                                                               \
    case 5:                                                                                                  \
        body(5);                                                                                             \
        break;                                                                                               \
    case 6:                                                                                                  \
        body(6);                                                                                             \
        break;                                                                                               \
        FOR_MORE_ROWS(body)                                                                                  \
    }
#if MR == 12
#define FOR_MORE_ROWS(body)                                                                                  \
    case 7:                                                                                                  \
        body(7);                                                                                             \
        break;                                                                                               \
    case 8:                                                                                                  \
        body(8);                                                                                             \
        break;                                                                                               \
    case 9:                                                                                                  \
        body(9);                                                                                             \
        break;                                                                                               \
    case 10:                                                                                                 \
        body(10);                                                                                            \
        break;                                                                                               \
    case 11:                                                                                                 \
        body(11);                                                                                            \
        break;                                                                                               \
    case 12:                                                                                                 \
        body(12);                                                                                            \
        break;
#else
#define FOR_MORE_ROWS(body)
#endif

void NAME(gemm_micro_f32)(int m, int n, int64_t k, const void *a, const void *b, float *c, bool accumulate)
{
    for (int first = 0; first < n; first += 2 * VW) {
        const float *from = (const float *)b + first;
        if (n - first <= VW) {
#define BODY(rows) block_f32(rows, 1, k, a, from, c + first, accumulate)
            FOR_ROWS(BODY)
#undef BODY
        } else {
#define BODY(rows) block_f32(rows, 2, k, a, from, c + first, accumulate)
            FOR_ROWS(BODY)
#undef BODY
        }
    }
}

void NAME(gemm_micro_bf16)(int m, int n, int64_t k, const void *a, const void *b, float *c, bool accumulate)
{
    for (int first = 0; first < n; first += 2 * VW) {
        const uint16_t *from = (const uint16_t *)b + 2 * first;
        if (n - first <= VW) {
#define BODY(rows) block_bf16(rows, 1, k, a, from, c + first, accumulate)
            FOR_ROWS(BODY)
#undef BODY
        } else {
#define BODY(rows) block_bf16(rows, 2, k, a, from, c + first, accumulate)
            FOR_ROWS(BODY)
#undef BODY
        }
    }
}

/* As f32_to_bf16. */
INLINE vh round_bf16(vf value)
{
    vu bits = (vu)value;
    vu rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    vu nan = (vu)((bits & 0x7fffffffu) > 0x7f800000u);
    return __builtin_convertvector((rounded & ~nan) | ((bits >> 16 | 0x40u) & nan), vh);
}

static void store(int64_t m, int first, int n, const float *tile, float scale, const float *bias, void *c,
                  enum dtype dtype, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++) {
        const float *from = tile + i * GEMM_NR + first;
        float *f32 = (float *)c + i * ldc;
        uint16_t *bf16 = (uint16_t *)c + i * ldc;
        int j = 0;
        for (; j + VW <= n; j += VW) {
            vf value = load_f32(from + j) * scale;
            if (bias) value += load_f32(bias + j);
            if (dtype == DTYPE_F32)
                *(vf_any *)(f32 + j) = value;
            else
                *(vh_any *)(bf16 + j) = round_bf16(value);
        }
        for (; j < n; j++) {
            float value = from[j] * scale;
            if (bias) value += bias[j];
            if (dtype == DTYPE_F32)
                f32[j] = value;
            else
                bf16[j] = f32_to_bf16(value);
        }
    }
}

static void add_masked(int64_t m, float *tile, const float *add, float scale, const uint32_t *word,
                       int64_t words)
{
    vu lane;
    for (int j = 0; j < VW; j++) lane[j] = (uint32_t)j;
    for (int64_t i = 0; i < m; i++, tile += GEMM_NR, add += GEMM_NR, word += words)
        for (int j = 0; j < GEMM_NR; j += VW) {
            vu keep = -(((vu){0} + (*word >> j)) >> lane & 1);
            vf value = load_f32(add + j) * scale;
            *(vf_any *)(tile + j) = load_f32(tile + j) + (vf)((vu)value & keep);
        }
}

static void pack_panel_f32(int64_t k, int n, const float *source, int64_t stride, float *panel)
{
    for (int64_t i = 0; i < k; i++, source += stride, panel += GEMM_NR) {
        memcpy(panel, source, (size_t)n * sizeof *panel);
        for (int j = n; j < GEMM_NR; j++) panel[j] = 0;
    }
}

static void pack_panel_bf16(int64_t k, int n, const uint16_t *source, int64_t stride, uint16_t *panel)
{
    int64_t i = 0;
    if (n == GEMM_NR) {
        for (; i + 2 <= k; i += 2, source += 2 * stride, panel += 2 * GEMM_NR)
            for (int j = 0; j < GEMM_NR; j += VW) {
                vu low = __builtin_convertvector(*(const vh_any *)(source + j), vu);
                vu high = __builtin_convertvector(*(const vh_any *)(source + stride + j), vu);
                *(vu_any *)(panel + 2 * j) = low | high << 16;
            }
    }
    for (; i < k; i += 2, source += 2 * stride, panel += 2 * GEMM_NR)
        for (int j = 0; j < GEMM_NR; j++) {
            panel[2 * j] = j < n ? source[j] : 0;
            panel[2 * j + 1] = j < n && i + 1 < k ? source[stride + j] : 0;
        }
}

static void pack_panel(int64_t k, int n, const void *source, enum dtype dtype, int64_t stride, void *panel)
{
    int64_t padded = (k + GEMM_K_ALIGN - 1) / GEMM_K_ALIGN * GEMM_K_ALIGN;
    size_t size = dtype_bytes(dtype);
    if (dtype == DTYPE_F32)
        pack_panel_f32(k, n, source, stride, panel);
    else
        pack_panel_bf16(k, n, source, stride, panel);
    int64_t written = dtype == DTYPE_F32 ? k : (k + 1) / 2 * 2;
    memset((char *)panel + (size_t)(written * GEMM_NR) * size, 0,
           (size_t)((padded - written) * GEMM_NR) * size);
}

enum { LANES = 16 };

/* One Philox block serves four columns; LANES of them side by side are vectors.
 * random_philox(key, token, block .. block + LANES), words as word[4][LANES]. */
INLINE void philox_lanes(uint64_t key, uint64_t token, uint64_t block, uint32_t word[4][LANES])
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int i = 0; i < LANES; i++) {
        word[0][i] = (uint32_t)(block + (uint64_t)i);
        word[1][i] = (uint32_t)((block + (uint64_t)i) >> 32);
        word[2][i] = (uint32_t)token;
        word[3][i] = (uint32_t)(token >> 32);
    }
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int i = 0; i < LANES; i++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * word[0][i], p1 = (uint64_t)0xCD9E8D57u * word[2][i];
            word[0][i] = (uint32_t)(p1 >> 32) ^ word[1][i] ^ k0;
            word[2][i] = (uint32_t)(p0 >> 32) ^ word[3][i] ^ k1;
            word[1][i] = (uint32_t)p1;
            word[3][i] = (uint32_t)p0;
        }
}

static void mask_row(uint32_t *bits, int64_t words, uint64_t key, int64_t token, int64_t col_first,
                     uint32_t least)
{
    uint32_t word[4][LANES], nibble[LANES];
    for (int64_t w = 0; w < words; w++) {
        if (w % 2 == 0) {
            philox_lanes(key, (uint64_t)token, (uint64_t)(col_first + w * 32) >> 2, word);
            for (int i = 0; i < LANES; i++)
                nibble[i] = (uint32_t)(word[0][i] >> 8 >= least) | (uint32_t)(word[1][i] >> 8 >= least) << 1 |
                            (uint32_t)(word[2][i] >> 8 >= least) << 2 |
                            (uint32_t)(word[3][i] >> 8 >= least) << 3;
        }
        uint32_t value = 0;
        for (int i = 0; i < 8; i++) value |= nibble[w % 2 * 8 + i] << (4 * i);
        bits[w] = value;
    }
}

const struct gemm_vector NAME(gemm_vector) = {store, add_masked, pack_panel, mask_row};
