/*
 * machine.cuh: what kernels need of the GPU, on an ordinary processor: the same functions as in
 * kernels/cuda/native/machine.cuh, where they are described.
 */
#ifndef LORAD_EMULATOR_MACHINE_CUH
#define LORAD_EMULATOR_MACHINE_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels/tensor.h"

#define INLINE EMULATED_INLINE

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                               \
    do {                                                                                                     \
        auto launched_kernel_ = kernel;                                                                      \
        emulated_launch(#kernel, launched_kernel_, (grid), (block), (size_t)(shared_bytes), (stream),        \
                        __VA_ARGS__);                                                                        \
    } while (0)

template <class Kernel> static inline cudaError_t allow_shared(Kernel *kernel, size_t bytes)
{
    return cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)bytes);
}

#define DYNAMIC_SHARED(name) unsigned char *const name = emulator::dynamic_shared()

struct alignas(2) bf16 {
    uint16_t bits;
};
struct alignas(2) f16 {
    uint16_t bits;
};

INLINE float to_float(float x)
{
    return x;
}
INLINE float to_float(bf16 x)
{
    return bf16_to_f32(x.bits);
}
INLINE float to_float(f16 x)
{
    return f16_to_f32(x.bits);
}
template <class T> INLINE T from_float(float x);
template <> inline float from_float<float>(float x)
{
    return x;
}
template <> inline bf16 from_float<bf16>(float x)
{
    return {f32_to_bf16(x)};
}
template <> inline f16 from_float<f16>(float x)
{
    return {f32_to_f16(x)};
}

INLINE uint32_t pack2(bf16 low, bf16 high)
{
    return (uint32_t)high.bits << 16 | low.bits;
}
INLINE uint32_t pack2(f16 low, f16 high)
{
    return (uint32_t)high.bits << 16 | low.bits;
}

template <class T> INLINE uint32_t pack2_floats(float low, float high)
{
    return pack2(from_float<T>(low), from_float<T>(high));
}

INLINE float exp2_quick(float x)
{
    float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

namespace emulator {
template <class T> INLINE float half_of(uint32_t pair, int which)
{
    return to_float(T{(uint16_t)(pair >> 16 * which)});
}

typedef double four __attribute__((vector_size(32)));
struct product {
    float *c;
    const uint32_t *a, *b;
};
/* Products are summed as one exact sum, rounded once; the tensor cores' own order is not documented. Most of
 * attention's time is spent here, so its own arrays are not watched. */
template <class T> EMULATED_UNWATCHED static void multiply_all(void *const *lane, uint32_t)
{
    double a[16][16], b[16][8], sum[16][8];
    for (int l = 0; l < 32; l++) {
        auto *p = (const product *)lane[l];
        if (!p) fail("a matrix product without lane %d", l);
        int g = l / 4, i = 2 * (l % 4);
        for (int half = 0; half < 2; half++) {
            a[g][i + half] = (double)half_of<T>(p->a[0], half);
            a[g + 8][i + half] = (double)half_of<T>(p->a[1], half);
            a[g][i + 8 + half] = (double)half_of<T>(p->a[2], half);
            a[g + 8][i + 8 + half] = (double)half_of<T>(p->a[3], half);
            b[i + half][g] = (double)half_of<T>(p->b[0], half);
            b[i + 8 + half][g] = (double)half_of<T>(p->b[1], half);
            sum[g][i + half] = (double)p->c[half];
            sum[g + 8][i + half] = (double)p->c[2 + half];
        }
    }
    for (int row = 0; row < 16; row++) {
        four left, right;
        memcpy(&left, sum[row], sizeof left);
        memcpy(&right, sum[row] + 4, sizeof right);
        for (int k = 0; k < 16; k++) {
            four b_left, b_right, x = {a[row][k], a[row][k], a[row][k], a[row][k]};
            memcpy(&b_left, b[k], sizeof b_left);
            memcpy(&b_right, b[k] + 4, sizeof b_right);
            left += x * b_left;
            right += x * b_right;
        }
        memcpy(sum[row], &left, sizeof left);
        memcpy(sum[row] + 4, &right, sizeof right);
    }
    for (int l = 0; l < 32; l++) {
        float *c = ((const product *)lane[l])->c;
        for (int at = 0; at < 4; at++) c[at] = (float)sum[l / 4 + 8 * (at / 2)][2 * (l % 4) + at % 2];
    }
}

struct matrices {
    uint32_t *out;
    const uint16_t *row;
};
template <bool TRANSPOSED> EMULATED_UNWATCHED static void load_all(void *const *lane, uint32_t)
{
    const uint16_t *row[32];
    for (int l = 0; l < 32; l++) {
        if (!lane[l]) fail("matrices are loaded without lane %d", l);
        row[l] = ((const matrices *)lane[l])->row;
        if ((uintptr_t)row[l] % 16)
            fail("matrices are loaded from %p, which is not aligned", (const void *)row[l]);
    }
    uint32_t result[32][4];
    for (int l = 0; l < 32; l++)
        for (int m = 0; m < 4; m++) {
            int g = l / 4, i = 2 * (l % 4);
            const uint16_t *const *at = row + 8 * m;
            result[l][m] = TRANSPOSED ? (uint32_t)at[i + 1][g] << 16 | at[i][g]
                                      : (uint32_t)at[g][i + 1] << 16 | at[g][i];
        }
    for (int l = 0; l < 32; l++) memcpy(((const matrices *)lane[l])->out, result[l], sizeof result[l]);
}
} // namespace emulator

template <class T> INLINE void mma_16x8x16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    emulator::product mine = {c, a, b};
    emulator::together(0xffffffffu, emulator::multiply_all<T>, &mine);
}
INLINE void load_matrices(uint32_t out[4], const void *row)
{
    emulator::matrices mine = {out, (const uint16_t *)row};
    emulator::together(0xffffffffu, emulator::load_all<false>, &mine);
}
INLINE void load_matrices_transposed(uint32_t out[4], const void *row)
{
    emulator::matrices mine = {out, (const uint16_t *)row};
    emulator::together(0xffffffffu, emulator::load_all<true>, &mine);
}

INLINE void copy_async(void *shared, const void *global, bool valid)
{
    emulator::copy_begin(shared, global, valid);
}
INLINE void commit_copies()
{
    emulator::copy_commit();
}
template <int N> INLINE void wait_copies()
{
    emulator::copy_wait(N);
}

#endif
