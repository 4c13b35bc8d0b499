/*
 * machine.cuh: what kernels need of the GPU beside CUDA C++ itself: launching, 16-bit floats, and the
 * instructions for tensor cores and asynchronous copies (PTX ISA, "Warp-level matrix instructions" and
 * "cp.async"; sm_80 and later).
 *
 * tests/emulator has a file of the same name with the same functions for ordinary processors; kernels include
 * it as <machine.cuh> and use nothing of PTX directly.
 */
#ifndef LORAD_KERNELS_CUDA_MACHINE_CUH
#define LORAD_KERNELS_CUDA_MACHINE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define INLINE static __device__ __forceinline__

/* kernel<<<grid, block, shared_bytes, stream>>>(arguments); put a kernel with commas into parentheses. */
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                               \
    do {                                                                                                     \
        auto launched_kernel_ = kernel;                                                                      \
        launched_kernel_<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__);                        \
    } while (0)

/* More than 48 KiB of dynamic shared memory must be asked for, once for every kernel and device. */
template <class Kernel> static inline cudaError_t allow_shared(Kernel *kernel, size_t bytes)
{
    return cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)bytes);
}

/* `name`: this block's dynamic shared memory, aligned to 128 bytes. */
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

typedef __nv_bfloat16 bf16;
typedef __half f16;

INLINE float to_float(float x)
{
    return x;
}
INLINE float to_float(bf16 x)
{
    return __bfloat162float(x);
}
INLINE float to_float(f16 x)
{
    return __half2float(x);
}
/* To nearest, ties to even. */
template <class T> INLINE T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x)
{
    return x;
}
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x)
{
    return __float2bfloat16_rn(x);
}
template <> __device__ __forceinline__ f16 from_float<f16>(float x)
{
    return __float2half_rn(x);
}

/* Two values as one register, the first in the lower half. */
INLINE uint32_t pack2(bf16 low, bf16 high)
{
    __nv_bfloat162 pair = __halves2bfloat162(low, high);
    return *(uint32_t *)&pair;
}
INLINE uint32_t pack2(f16 low, f16 high)
{
    __half2 pair = __halves2half2(low, high);
    return *(uint32_t *)&pair;
}

/* Two values rounded to T, as one register. */
template <class T> INLINE uint32_t pack2_floats(float low, float high);
template <> __device__ __forceinline__ uint32_t pack2_floats<bf16>(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&pair;
}
template <> __device__ __forceinline__ uint32_t pack2_floats<f16>(float low, float high)
{
    __half2 pair = __floats2half2_rn(low, high);
    return *(uint32_t *)&pair;
}

/* 2^x within 2 units in the last place; results below 2^-126 are 0. */
INLINE float exp2_quick(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* c += a b over a warp: a 16 x 16 row-major, b 16 x 8 column-major, c 16 x 8 f32. Lane l, with g = l / 4 and
 * i = l % 4, holds a: (g, 2i..2i+1), (g + 8, 2i..), (g, 2i + 8..), (g + 8, 2i + 8..); b: (2i..2i+1, g),
 * (2i + 8.., g); c: (g, 2i), (g, 2i + 1), (g + 8, 2i), (g + 8, 2i + 1). */
template <class T> INLINE void mma_16x8x16(float c[4], const uint32_t a[4], const uint32_t b[2]);
template <>
__device__ __forceinline__ void mma_16x8x16<bf16>(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void mma_16x8x16<f16>(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The instructions below read and write shared memory behind the compiler's back: "memory" keeps ordinary
 * loads and stores on their side. */

/* Four 8 x 8 matrices of 16-bit values from shared memory: lane l gives the address of row l % 8 of matrix
 * l / 8 (16 bytes, aligned), and receives of each matrix its row l / 4, columns 2 (l % 4) and the next. */
INLINE void load_matrices(uint32_t out[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
}
/* The same with every matrix transposed. */
INLINE void load_matrices_transposed(uint32_t out[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
}

/* 16 bytes from global to shared memory, both aligned to 16, arriving in the background; `valid` false writes
 * zeros and reads nothing. */
INLINE void copy_async(void *shared, const void *global, bool valid)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}
/* Closes a group of copies; wait_copies<N> waits until at most N groups are under way (for this thread: a
 * __syncthreads must follow before others read). */
INLINE void commit_copies()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> INLINE void wait_copies()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif
