/*
 * kernel.cuh: what all kernels share: vectors of 16 bytes, sums in a fixed order, the choice of a type.
 */
#ifndef LORAD_KERNELS_CUDA_KERNEL_CUH
#define LORAD_KERNELS_CUDA_KERNEL_CUH

#include <machine.cuh>

#include "kernels/cuda/cuda_impl.h"

enum { WARP = 32 };

/* Rows of activations start at 16-byte borders and have a multiple of 8 columns (arch.c and panel.h see to
 * it); what may be otherwise (a vector of parameters, a part of a matrix) asks with is_aligned. */
template <class T> struct alignas(16) vec16 {
    enum { N = 16 / sizeof(T) };
    T value[N];
};
template <class T> INLINE vec16<T> load16(const T *from)
{
    return *(const vec16<T> *)from;
}
template <class T> INLINE void store16(T *to, const vec16<T> &from)
{
    *(vec16<T> *)to = from;
}

/* The sum over a warp, in every lane; butterfly order. */
INLINE float warp_sum(float x)
{
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
INLINE double warp_sum(double x)
{
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
INLINE float warp_max(float x)
{
    for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

/* The sum over a block, in every thread; all threads call it. `room`: shared memory of one value per warp,
 * not in use; it may be used again after the next __syncthreads. */
template <class T> INLINE T block_sum(T x, T *room)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = (blockDim.x + WARP - 1) / WARP;
    x = warp_sum(x);
    if (lane == 0) room[warp] = x;
    __syncthreads();
    T total = 0;
    for (int i = 0; i < warps; i++) total += room[i];
    return total;
}

/* Runs the code with T as the type of `dtype`: f32, bf16 or f16. */
#define WITH_ACT(dtype, T, ...)                                                                              \
    do {                                                                                                     \
        switch (dtype) {                                                                                     \
        case DTYPE_BF16: {                                                                                   \
            typedef bf16 T;                                                                                  \
            __VA_ARGS__;                                                                                     \
            break;                                                                                           \
        }                                                                                                    \
        case DTYPE_F16: {                                                                                    \
            typedef f16 T;                                                                                   \
            __VA_ARGS__;                                                                                     \
            break;                                                                                           \
        }                                                                                                    \
        default: {                                                                                           \
            typedef float T;                                                                                 \
            __VA_ARGS__;                                                                                     \
        }                                                                                                    \
        }                                                                                                    \
    } while (0)

static inline int64_t blocks_for(int64_t n, int64_t per_block)
{
    return (n + per_block - 1) / per_block;
}

static inline bool is_aligned(const void *pointer, size_t bytes)
{
    return (uintptr_t)pointer % bytes == 0;
}

#endif
