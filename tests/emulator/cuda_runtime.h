/*
 * cuda_runtime.h: the part of CUDA C++ that kernels use, as C++ for ordinary processors.
 */
#ifndef LORAD_EMULATOR_CUDA_RUNTIME_H
#define LORAD_EMULATOR_CUDA_RUNTIME_H

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tuple>

#include <cuda_runtime_api.h>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __shared__      static /* blocks run one after the other */
#define __constant__
#define __launch_bounds__(...)
#define __align__(n)       __attribute__((aligned(n)))
#define EMULATED_INLINE    static inline __attribute__((always_inline, unused))
/* For code of the emulator itself: the checks are for kernels. */
#define EMULATED_UNWATCHED __attribute__((no_sanitize("alignment", "bounds", "integer-divide-by-zero")))

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};
struct alignas(16) longlong2 {
    long long x, y;
};
struct alignas(4) short2 {
    short x, y;
};
struct alignas(4) uchar4 {
    unsigned char x, y, z, w;
};

EMULATED_INLINE float2 make_float2(float x, float y)
{
    return {x, y};
}
EMULATED_INLINE float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}
EMULATED_INLINE int2 make_int2(int x, int y)
{
    return {x, y};
}
EMULATED_INLINE int4 make_int4(int x, int y, int z, int w)
{
    return {x, y, z, w};
}
EMULATED_INLINE uint2 make_uint2(unsigned x, unsigned y)
{
    return {x, y};
}
EMULATED_INLINE uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}
EMULATED_INLINE double2 make_double2(double x, double y)
{
    return {x, y};
}

/* Barriers and exchanges within a warp */

EMULATED_INLINE void __syncthreads()
{
    emulator::barrier();
}

namespace emulator {
static inline void nothing(void *const *, uint32_t)
{
}

/* A lane's value in a shuffle, the lane it reads, and what it gets. From a lane that is not there: garbage.
 */
template <class T> struct shuffled {
    T value, result;
    int from;
};
template <class T> static void shuffle_all(void *const *lane, uint32_t mask)
{
    for (int i = 0; i < 32; i++) {
        auto *mine = (shuffled<T> *)lane[i];
        if (!mine) continue;
        auto *source = (mask >> mine->from & 1) ? (const shuffled<T> *)lane[mine->from] : nullptr;
        if (source)
            mine->result = source->value;
        else
            memset((void *)&mine->result, 0xff, sizeof mine->result);
    }
}
template <class T> static inline T shuffle(uint32_t mask, T value, int from)
{
    shuffled<T> mine = {value, value, from};
    together(mask, shuffle_all<T>, &mine);
    return mine.result;
}

struct vote {
    bool yes;
    uint32_t result;
};
static inline void vote_all(void *const *lane, uint32_t)
{
    uint32_t votes = 0;
    for (int i = 0; i < 32; i++)
        if (lane[i] && ((const vote *)lane[i])->yes) votes |= 1u << i;
    for (int i = 0; i < 32; i++)
        if (lane[i]) ((vote *)lane[i])->result = votes;
}
} // namespace emulator

EMULATED_INLINE void __syncwarp(unsigned mask = 0xffffffffu)
{
    char here = 0;
    emulator::together(mask, emulator::nothing, &here);
}
template <class T> EMULATED_INLINE T __shfl_sync(unsigned mask, T value, int from, int width = 32)
{
    int first = emulator::lane() & -width;
    return emulator::shuffle(mask, value, first + (from & (width - 1)));
}
template <class T> EMULATED_INLINE T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32)
{
    int mine = emulator::lane(), from = mine ^ flip;
    return emulator::shuffle(mask, value, from < (mine & -width) + width ? from : mine);
}
template <class T> EMULATED_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32)
{
    int mine = emulator::lane(), from = mine + (int)by;
    return emulator::shuffle(mask, value, from < (mine & -width) + width ? from : mine);
}
template <class T> EMULATED_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32)
{
    int mine = emulator::lane(), from = mine - (int)by;
    return emulator::shuffle(mask, value, from >= (mine & -width) ? from : mine);
}
EMULATED_INLINE unsigned __ballot_sync(unsigned mask, int yes)
{
    emulator::vote mine = {yes != 0, 0};
    emulator::together(mask, emulator::vote_all, &mine);
    return mine.result;
}
EMULATED_INLINE int __any_sync(unsigned mask, int yes)
{
    return __ballot_sync(mask, yes) != 0;
}
EMULATED_INLINE int __all_sync(unsigned mask, int yes)
{
    return __ballot_sync(mask, !yes) == 0;
}
EMULATED_INLINE void __threadfence()
{
}
EMULATED_INLINE void __threadfence_block()
{
}
[[noreturn]] EMULATED_INLINE void __trap()
{
    emulator::fail("a kernel stopped itself");
}

/* Atomics on integers; on floating-point numbers there are none, since their order would not be fixed. */

template <class T> EMULATED_INLINE T emulated_atomic(T *at, T value)
{
    T before = *at;
    *at = value;
    return before;
}
#define EMULATED_ATOMICS(T)                                                                                  \
    EMULATED_INLINE T atomicAdd(T *at, T value)                                                              \
    {                                                                                                        \
        return emulated_atomic(at, (T)(*at + value));                                                        \
    }                                                                                                        \
    EMULATED_INLINE T atomicMax(T *at, T value)                                                              \
    {                                                                                                        \
        return emulated_atomic(at, *at > value ? *at : value);                                               \
    }                                                                                                        \
    EMULATED_INLINE T atomicMin(T *at, T value)                                                              \
    {                                                                                                        \
        return emulated_atomic(at, *at < value ? *at : value);                                               \
    }                                                                                                        \
    EMULATED_INLINE T atomicOr(T *at, T value)                                                               \
    {                                                                                                        \
        return emulated_atomic(at, (T)(*at | value));                                                        \
    }                                                                                                        \
    EMULATED_INLINE T atomicExch(T *at, T value)                                                             \
    {                                                                                                        \
        return emulated_atomic(at, value);                                                                   \
    }                                                                                                        \
    EMULATED_INLINE T atomicCAS(T *at, T expected, T value)                                                  \
    {                                                                                                        \
        return emulated_atomic(at, *at == expected ? value : *at);                                           \
    }
EMULATED_ATOMICS(int)
EMULATED_ATOMICS(unsigned)
EMULATED_ATOMICS(long long)
EMULATED_ATOMICS(unsigned long long)
#undef EMULATED_ATOMICS

/* Mathematics. Macros where the C library has, or may have, such a name of its own. */

#define rsqrtf(x)  (1.0f / sqrtf(x))
#define rsqrt(x)   (1.0 / sqrt(x))
#define __expf(x)  expf(x)
#define __logf(x)  logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x)  sinf(x)
#define __cosf(x)  cosf(x)

EMULATED_INLINE float __fdividef(float x, float y)
{
    return x / y;
}
EMULATED_INLINE float __fmul_rn(float x, float y)
{
    return x * y;
}
EMULATED_INLINE float __fadd_rn(float x, float y)
{
    return x + y;
}
EMULATED_INLINE float __fsub_rn(float x, float y)
{
    return x - y;
}
EMULATED_INLINE float __fdiv_rn(float x, float y)
{
    return x / y;
}
EMULATED_INLINE float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
EMULATED_INLINE float __frcp_rn(float x)
{
    return 1 / x;
}
EMULATED_INLINE float __fmaf_rn(float x, float y, float z)
{
    return fmaf(x, y, z);
}
EMULATED_INLINE double __dmul_rn(double x, double y)
{
    return x * y;
}
EMULATED_INLINE double __dadd_rn(double x, double y)
{
    return x + y;
}
EMULATED_INLINE double __ddiv_rn(double x, double y)
{
    return x / y;
}

/* To the nearest integer, ties to even; what does not fit becomes the nearest that does, and NaN becomes 0
 * (for long long: LLONG_MIN). */
EMULATED_INLINE int __double2int_rn(double x)
{
    if (!(x == x)) return 0;
    return x >= 2147483647.0 ? INT_MAX : x <= -2147483648.0 ? INT_MIN : (int)rint(x);
}
EMULATED_INLINE int __float2int_rn(float x)
{
    return __double2int_rn((double)x);
}
EMULATED_INLINE long long __double2ll_rn(double x)
{
    if (!(x == x)) return LLONG_MIN;
    return x >= 0x1p63 ? LLONG_MAX : x < -0x1p63 ? LLONG_MIN : (long long)rint(x);
}
EMULATED_INLINE long long __float2ll_rn(float x)
{
    return __double2ll_rn((double)x);
}
EMULATED_INLINE float __int2float_rn(int x)
{
    return (float)x;
}
EMULATED_INLINE float __uint2float_rn(unsigned x)
{
    return (float)x;
}
EMULATED_INLINE double __ll2double_rn(long long x)
{
    return (double)x;
}
EMULATED_INLINE float __double2float_rn(double x)
{
    return (float)x;
}

template <class To, class From> EMULATED_INLINE To emulated_bits(From from)
{
    To to;
    static_assert(sizeof to == sizeof from, "the same bits");
    memcpy(&to, &from, sizeof to);
    return to;
}
EMULATED_INLINE float __int_as_float(int x)
{
    return emulated_bits<float>(x);
}
EMULATED_INLINE float __uint_as_float(unsigned x)
{
    return emulated_bits<float>(x);
}
EMULATED_INLINE int __float_as_int(float x)
{
    return emulated_bits<int>(x);
}
EMULATED_INLINE unsigned __float_as_uint(float x)
{
    return emulated_bits<unsigned>(x);
}
EMULATED_INLINE double __longlong_as_double(long long x)
{
    return emulated_bits<double>(x);
}
EMULATED_INLINE long long __double_as_longlong(double x)
{
    return emulated_bits<long long>(x);
}

EMULATED_INLINE unsigned __umulhi(unsigned x, unsigned y)
{
    return (unsigned)((uint64_t)x * y >> 32);
}
EMULATED_INLINE unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}
EMULATED_INLINE int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
EMULATED_INLINE int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
EMULATED_INLINE int __ffs(int x)
{
    return __builtin_ffs(x);
}
EMULATED_INLINE int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
EMULATED_INLINE int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}

#define EMULATED_MIN_MAX(T)                                                                                  \
    EMULATED_INLINE T min(T x, T y)                                                                          \
    {                                                                                                        \
        return x < y ? x : y;                                                                                \
    }                                                                                                        \
    EMULATED_INLINE T max(T x, T y)                                                                          \
    {                                                                                                        \
        return x > y ? x : y;                                                                                \
    }
EMULATED_MIN_MAX(int)
EMULATED_MIN_MAX(unsigned)
EMULATED_MIN_MAX(long)
EMULATED_MIN_MAX(unsigned long)
EMULATED_MIN_MAX(long long)
EMULATED_MIN_MAX(unsigned long long)
#undef EMULATED_MIN_MAX
EMULATED_INLINE float min(float x, float y)
{
    return fminf(x, y);
}
EMULATED_INLINE float max(float x, float y)
{
    return fmaxf(x, y);
}
EMULATED_INLINE double min(double x, double y)
{
    return fmin(x, y);
}
EMULATED_INLINE double max(double x, double y)
{
    return fmax(x, y);
}

template <class T> EMULATED_INLINE T __ldg(const T *from)
{
    return *from;
}
template <class T> EMULATED_INLINE T __ldcs(const T *from)
{
    return *from;
}
template <class T> EMULATED_INLINE T __ldcg(const T *from)
{
    return *from;
}
template <class T> EMULATED_INLINE void __stcs(T *to, T value)
{
    *to = value;
}
template <class T> EMULATED_INLINE void __stcg(T *to, T value)
{
    *to = value;
}

/* Arguments are copied at the launch, as CUDA does. */
template <class... Parameters, class... Arguments>
static inline void emulated_launch(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                   size_t shared_bytes, cudaStream_t stream, Arguments &&...arguments)
{
    std::tuple<Parameters...> copied(std::forward<Arguments>(arguments)...);
    emulator::enqueue({name, grid, block, shared_bytes, [=] { std::apply(kernel, copied); }},
                      (const void *)kernel, stream);
}

#endif
