/*
 * vec.h: vectors of VEC floats, as wide as the instruction path this file is compiled for, and the
 * exponential.
 *
 * Activations are f32 or bf16 in memory and f32 in registers: act_load and act_store convert. With a constant
 * dtype the branch disappears. The forms with a count touch only `n` elements and fill the rest with zeros.
 * Contraction is off, so a * b + c rounds twice; vec_fma rounds once where the path has the instruction.
 */
#ifndef LORAD_KERNELS_CPU_VEC_H
#define LORAD_KERNELS_CPU_VEC_H

#include <stdint.h>
#include <string.h>

#include "kernels/tensor.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define VEC_AVX512 1
#define VEC        16
#elif defined(__AVX2__) && defined(__FMA__)
#define VEC_AVX2 1
#define VEC      8
#else
#define VEC 4
#endif
#if defined(VEC_AVX512) || defined(VEC_AVX2)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(4 * VEC)));
typedef int32_t vi __attribute__((vector_size(4 * VEC)));
typedef uint32_t vu __attribute__((vector_size(4 * VEC)));
typedef uint16_t vh __attribute__((vector_size(2 * VEC)));

INLINE vf vec_set(float x)
{
    return x - (vf){0}; /* x - 0 is x for every x, -0 included */
}

INLINE vf vec_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void vec_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vf vec_fma(vf a, vf b, vf c)
{
#if defined(VEC_AVX512)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(VEC_AVX2)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* mask is all ones or all zeros per lane */
INLINE vf vec_select(vi mask, vf yes, vf no)
{
#if defined(VEC_AVX512)
    return (vf)_mm512_mask_mov_ps((__m512)no, _mm512_movepi32_mask((__m512i)mask), (__m512)yes);
#elif defined(VEC_AVX2)
    return (vf)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
#else
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
#endif
}

/* The greater; x when it is NaN never counts (a running maximum keeps `most`). */
INLINE vf vec_max(vf most, vf x)
{
#if defined(VEC_AVX512)
    return (vf)_mm512_max_ps((__m512)x, (__m512)most);
#elif defined(VEC_AVX2)
    return (vf)_mm256_max_ps((__m256)x, (__m256)most);
#else
    return vec_select(x > most, x, most);
#endif
}

/* x held between low and high; NaN stays NaN. */
INLINE vf vec_clamp(vf x, vf low, vf high)
{
#if defined(VEC_AVX512)
    return (vf)_mm512_min_ps((__m512)high, _mm512_max_ps((__m512)low, (__m512)x));
#elif defined(VEC_AVX2)
    return (vf)_mm256_min_ps((__m256)high, _mm256_max_ps((__m256)low, (__m256)x));
#else
    x = vec_select(x < low, low, x);
    return vec_select(x > high, high, x);
#endif
}

/* The lanes' sum, always in the same order: halves folded on each other. */
INLINE float vec_sum(vf v)
{
    float lane[VEC];
    memcpy(lane, &v, sizeof v);
    for (int half = VEC / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

INLINE float vec_highest(vf v)
{
    float lane[VEC];
    memcpy(lane, &v, sizeof v);
    for (int half = VEC / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
    return lane[0];
}

INLINE vf vec_from_bf16(vh h)
{
#if defined(VEC_AVX512)
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#elif defined(VEC_AVX2)
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16);
#else
    return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}

/* As f32_to_bf16. */
INLINE vh vec_to_bf16(vf v)
{
    vu bits = (vu)v;
    vu rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    vu quiet = bits >> 16 | 0x40;
#if defined(VEC_AVX512)
    __mmask16 is_nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
    return (vh)_mm512_cvtepi32_epi16(_mm512_mask_mov_epi32((__m512i)rounded, is_nan, (__m512i)quiet));
#else
    vu is_nan = (vu)(v != v);
    vu half = (rounded & ~is_nan) | (quiet & is_nan);
#if defined(VEC_AVX2)
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)half, (__m256i)half), 0x08);
    return (vh)_mm256_castsi256_si128(packed);
#else
    return __builtin_convertvector(half, vh);
#endif
#endif
}

INLINE vf act_load(const void *p, int64_t i, enum dtype dtype)
{
    if (dtype == DTYPE_F32) return vec_load((const float *)p + i);
    vh h;
    memcpy(&h, (const uint16_t *)p + i, sizeof h);
    return vec_from_bf16(h);
}

INLINE void act_store(void *p, int64_t i, enum dtype dtype, vf v)
{
    if (dtype == DTYPE_F32) {
        vec_store((float *)p + i, v);
    } else {
        vh h = vec_to_bf16(v);
        memcpy((uint16_t *)p + i, &h, sizeof h);
    }
}

/* The first n <= VEC lanes. */
INLINE vf act_load_n(const void *p, int64_t i, int64_t n, enum dtype dtype)
{
    if (n >= VEC) return act_load(p, i, dtype);
#if defined(VEC_AVX512)
    __mmask16 mask = (__mmask16)((1u << n) - 1);
    if (dtype == DTYPE_F32) return (vf)_mm512_maskz_loadu_ps(mask, (const float *)p + i);
    return vec_from_bf16((vh)_mm256_maskz_loadu_epi16(mask, (const uint16_t *)p + i));
#else
    if (dtype == DTYPE_F32) {
        float lane[VEC] = {0};
        for (int64_t j = 0; j < n; j++) lane[j] = ((const float *)p)[i + j];
        return vec_load(lane);
    }
    uint16_t lane[VEC] = {0};
    for (int64_t j = 0; j < n; j++) lane[j] = ((const uint16_t *)p)[i + j];
    return act_load(lane, 0, DTYPE_BF16);
#endif
}

INLINE void act_store_n(void *p, int64_t i, int64_t n, enum dtype dtype, vf v)
{
    if (n >= VEC) {
        act_store(p, i, dtype, v);
        return;
    }
#if defined(VEC_AVX512)
    __mmask16 mask = (__mmask16)((1u << n) - 1);
    if (dtype == DTYPE_F32)
        _mm512_mask_storeu_ps((float *)p + i, mask, (__m512)v);
    else
        _mm256_mask_storeu_epi16((uint16_t *)p + i, mask, (__m256i)vec_to_bf16(v));
#else
    if (dtype == DTYPE_F32) {
        float lane[VEC];
        vec_store(lane, v);
        for (int64_t j = 0; j < n; j++) ((float *)p)[i + j] = lane[j];
    } else {
        uint16_t lane[VEC];
        act_store(lane, 0, DTYPE_BF16, v);
        for (int64_t j = 0; j < n; j++) ((uint16_t *)p)[i + j] = lane[j];
    }
#endif
}

/* Lane i is lane index[i] of a and b side by side. */
INLINE vf vec_shuffle(vf a, vf b, vi index)
{
#if defined(VEC_AVX512)
    return (vf)_mm512_permutex2var_ps((__m512)a, (__m512i)index, (__m512)b);
#elif defined(__clang__) /* has the shuffle with literal indices only */
    vf out;
    for (int i = 0; i < VEC; i++) out[i] = index[i] < VEC ? a[index[i]] : b[index[i] - VEC];
    return out;
#else
    return __builtin_shuffle(a, b, index);
#endif
}

/* Exchanges, for every pair of rows `step` apart, the two squares off the diagonal. */
INLINE void vec_exchange(vf row[VEC], const int step)
{
    vi lane;
#pragma GCC unroll 16
    for (int i = 0; i < VEC; i++) lane[i] = i;
    vi upper = (vi)((lane & step) != 0);
    vi first = (upper & ((lane ^ step) + VEC)) | (~upper & lane);
    vi second = (upper & (lane + VEC)) | (~upper & (lane ^ step));
#pragma GCC unroll 16
    for (int i = 0; i < VEC; i++) {
        if (i & step) continue;
        vf a = row[i], b = row[i | step];
        row[i] = vec_shuffle(a, b, first);
        row[i | step] = vec_shuffle(a, b, second);
    }
}

/* Lane j of row i and lane i of row j change places. */
INLINE void vec_transpose(vf row[VEC])
{
    vec_exchange(row, 1);
    vec_exchange(row, 2);
#if VEC >= 8
    vec_exchange(row, 4);
#endif
#if VEC >= 16
    vec_exchange(row, 8);
#endif
}

/* What a value becomes when it is stored and read again. */
INLINE vf act_round(vf v, enum dtype dtype)
{
    if (dtype == DTYPE_F32) return v;
    vu bits = (vu)v;
    vu rounded = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
#if defined(VEC_AVX512)
    __mmask16 is_nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
    return (vf)_mm512_mask_or_epi32((__m512i)rounded, is_nan, (__m512i)bits, _mm512_set1_epi32(0x400000));
#else
    return vec_select((vi)(v != v), (vf)(bits | 0x400000u), (vf)rounded);
#endif
}

/* Stores a value that act_round gave. */
INLINE void act_store_rounded_n(void *p, int64_t i, int64_t n, enum dtype dtype, vf v)
{
#if defined(VEC_AVX512)
    if (dtype == DTYPE_BF16) {
        __mmask16 mask = n >= VEC ? (__mmask16)-1 : (__mmask16)((1u << n) - 1);
        __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)v, 16));
        _mm256_mask_storeu_epi16((uint16_t *)p + i, mask, half);
        return;
    }
#endif
    act_store_n(p, i, n, dtype, v);
}

/*
 * e^x, at most 2 ulp from the exact value (measured: tests/unit/kernels_vec.c), 0 and
 * infinity where f32 ends, NaN for NaN, results below the smallest normal number included. x = n ln 2 + r
 * with |r| <= ln 2 / 2; e^r by a polynomial of degree 6, fitted to the least greatest relative error.
 */
INLINE vf vec_exp(vf x)
{
    const vf log2e = vec_set(0x1.715476p+0f), ln2_high = vec_set(0x1.62e4p-1f),
             ln2_low = vec_set(0x1.7f7d1cp-20f);
    /* beyond these the result is 0 or infinity anyway */
    x = vec_clamp(x, vec_set(-104.0f), vec_set(89.0f));
    const vf shift = vec_set(0x1.8p23f); /* adding it rounds to an integer */
    vf n = (x * log2e + shift) - shift;
    vf r = vec_fma(n, -ln2_high, x);
    r = vec_fma(n, -ln2_low, r);
    vf p = vec_set(0x1.a057b4p-13f);
    p = vec_fma(p, r, vec_set(0x1.6d2d92p-10f));
    p = vec_fma(p, r, vec_set(0x1.11114cp-7f));
    p = vec_fma(p, r, vec_set(0x1.5554f4p-5f));
    p = vec_fma(p, r, vec_set(0x1.555556p-3f));
    p = vec_fma(p, r, vec_set(0.5f));
    p = vec_fma(r * r, p, r) + 1.0f;
#if defined(VEC_AVX512)
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    /* two factors, so that neither leaves the range of normal numbers; NaN converts to some integer and stays
     * NaN */
    vi k = __builtin_convertvector(n, vi), half = k >> 1;
    return p * (vf)((vu)(half + 127) << 23) * (vf)((vu)(k - half + 127) << 23);
#endif
}

#endif
