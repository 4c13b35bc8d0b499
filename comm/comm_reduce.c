/*
 * The arithmetic of a reduction, the same for every backend.
 *
 * 1. Operands are combined left to right, element by element, so neither the slicing of a buffer nor the
 * number of instructions at once changes a bit.
 */
#include "comm/comm_impl.h"

/* Elements worked on at once: the accumulators of one block stay in the first-level cache. */
enum { BLOCK = 2048 };

/* Wider vectors give the same bits; the sanitizers' runtimes do not survive the resolvers that clones need.
 */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&     \
    !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

/* acc = acc op in, where a NaN wins max and min. */
#define DEFINE_FOLD(name, type)                                                                              \
    WIDE static void fold_##name(type *restrict acc, const type *restrict in, int64_t n,                     \
                                 enum comm_reduction reduction)                                              \
    {                                                                                                        \
        if (reduction == COMM_SUM) {                                                                         \
            for (int64_t i = 0; i < n; i++) acc[i] = (type)(acc[i] + in[i]);                                 \
        } else if (reduction == COMM_MAX) {                                                                  \
            for (int64_t i = 0; i < n; i++) acc[i] = in[i] > acc[i] || in[i] != in[i] ? in[i] : acc[i];      \
        } else {                                                                                             \
            for (int64_t i = 0; i < n; i++) acc[i] = in[i] < acc[i] || in[i] != in[i] ? in[i] : acc[i];      \
        }                                                                                                    \
    }

DEFINE_FOLD(f32, float)
DEFINE_FOLD(f64, double)
DEFINE_FOLD(u32, uint32_t)
DEFINE_FOLD(i32, int32_t)
DEFINE_FOLD(u64, uint64_t)
DEFINE_FOLD(i64, int64_t)

WIDE static void widen_bf16(float *restrict out, const uint16_t *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) out[i] = bf16_to_f32(in[i]);
}

WIDE static void narrow_bf16(uint16_t *restrict out, const float *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) out[i] = f32_to_bf16(in[i]);
}

static void widen_f16(float *out, const uint16_t *in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) out[i] = f16_to_f32(in[i]);
}

static void narrow_f16(uint16_t *out, const float *in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) out[i] = f32_to_f16(in[i]);
}

static void reduce_half_block(uint16_t *out, const void *const *in, int ways, int64_t at, int64_t n,
                              enum dtype dtype, enum comm_reduction reduction)
{
    void (*widen)(float *, const uint16_t *, int64_t) = dtype == DTYPE_BF16 ? widen_bf16 : widen_f16;
    float acc[BLOCK], next[BLOCK];
    widen(acc, (const uint16_t *)in[0] + at, n);
    for (int w = 1; w < ways; w++) {
        widen(next, (const uint16_t *)in[w] + at, n);
        fold_f32(acc, next, n, reduction);
    }
    if (dtype == DTYPE_BF16)
        narrow_bf16(out + at, acc, n);
    else
        narrow_f16(out + at, acc, n);
}

/* Sums of integers wrap like unsigned ones: overflow is the caller's mistake, not undefined behaviour. */
static void fold(void *acc, const void *in, int64_t n, enum dtype dtype, enum comm_reduction reduction)
{
    switch (dtype) {
    case DTYPE_F32:
        fold_f32(acc, in, n, reduction);
        break;
    case DTYPE_F64:
        fold_f64(acc, in, n, reduction);
        break;
    case DTYPE_I32:
        if (reduction == COMM_SUM)
            fold_u32(acc, in, n, reduction);
        else
            fold_i32(acc, in, n, reduction);
        break;
    default:
        if (reduction == COMM_SUM)
            fold_u64(acc, in, n, reduction);
        else
            fold_i64(acc, in, n, reduction);
        break;
    }
}

void comm_reduce(void *out, const void *const *in, int ways, int64_t count, enum dtype dtype,
                 enum comm_reduction reduction)
{
    size_t width = dtype_bytes(dtype);
    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t n = count - at < BLOCK ? count - at : BLOCK;
        if (width == 2) {
            reduce_half_block(out, in, ways, at, n, dtype, reduction);
            continue;
        }
        union {
            float f32[BLOCK];
            double f64[BLOCK];
            int32_t i32[BLOCK];
            int64_t i64[BLOCK];
        } acc;
        memcpy(&acc, (const char *)in[0] + (size_t)at * width, (size_t)n * width);
        for (int w = 1; w < ways; w++)
            fold(&acc, (const char *)in[w] + (size_t)at * width, n, dtype, reduction);
        memcpy((char *)out + (size_t)at * width, &acc, (size_t)n * width);
    }
}
