/*
 * quad.cuh: four neighbours of a vector that may begin anywhere and end anywhere. Which thread has which
 * element then does not depend on where the vector lies, and neither do the bits of sums.
 */
#ifndef LORAD_KERNELS_CUDA_QUAD_CUH
#define LORAD_KERNELS_CUDA_QUAD_CUH

#include "kernels/cuda/kernel.cuh"

template <class T> struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) quad {
    T value[4];
};
/* Elements [at, at + 4) of `from`, in pieces of 16 bytes where they lie so. Those at `n` or beyond are `fill`
 * and not read. */
template <class T> INLINE quad<T> quad_load(const T *from, int64_t at, int64_t n, T fill)
{
    const T *first = from + at;
    if (at + 4 <= n && (uintptr_t)first % alignof(quad<T>) == 0) return *(const quad<T> *)first;
    quad<T> out;
    for (int j = 0; j < 4; j++) out.value[j] = at + j < n ? first[j] : fill;
    return out;
}
template <class T> INLINE void quad_store(T *to, int64_t at, int64_t n, const quad<T> &from)
{
    T *first = to + at;
    if (at + 4 <= n && (uintptr_t)first % alignof(quad<T>) == 0) {
        *(quad<T> *)first = from;
        return;
    }
    for (int j = 0; j < 4 && at + j < n; j++) first[j] = from.value[j];
}

#endif
