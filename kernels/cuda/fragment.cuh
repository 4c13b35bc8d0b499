/*
 * fragment.cuh: pieces of a product as a warp holds them, for every type: 16 x 16 of the left matrix, two
 * 16 x 8 of the right one, sums in f32. For 16-bit types they are the operands of mma_16x8x16; f32 has the
 * same shape and lanes (machine.cuh) and multiplies by FMA.
 *
 * Pieces come from tiles in shared memory: rows of PITCH bytes cut into 16-byte chunks. A pitch that is an
 * odd number of chunks, or a power of two from 128 on with SWIZZLED (chunk c of row r then lies at c ^ r %
 * 8), lets eight rows be read at one chunk without bank conflicts.
 */
#ifndef LORAD_KERNELS_CUDA_FRAGMENT_CUH
#define LORAD_KERNELS_CUDA_FRAGMENT_CUH

#include "kernels/cuda/kernel.cuh"

#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

template <int PITCH, bool SWIZZLED> struct tile {
    unsigned char *bytes;
    __device__ __forceinline__ unsigned char *at(int row, int chunk) const
    {
        return bytes + row * PITCH + ((SWIZZLED ? chunk ^ (row & 7) : chunk) << 4);
    }
    __device__ __forceinline__ float f32(int row, int col) const
    {
        return ((const float *)at(row, col / 4))[col % 4];
    }
};

template <class T> struct left_piece {
    uint32_t value[4];
};
template <> struct left_piece<float> {
    float value[2][16]; /* rows g and g + 8, all k */
};
/* Columns 0..7 and 8..15. */
template <class T> struct right_piece {
    uint32_t value[4];
};
template <> struct right_piece<float> {
    float value[2][2][16]; /* of each half columns 2i and 2i + 1, all k */
};

INLINE int lane_number()
{
    return threadIdx.x % WARP;
}

/* Rows [row, +16), k [k, +16) of a tile whose rows are rows of the left matrix. */
template <class T, int P, bool S>
INLINE void left_load(left_piece<T> &to, const tile<P, S> &from, int row, int k)
{
    int lane = lane_number();
    load_matrices(to.value, from.at(row + lane % 16, k / 8 + lane / 16));
}
template <int P, bool S> INLINE void left_load(left_piece<float> &to, const tile<P, S> &from, int row, int k)
{
    int g = lane_number() / 4;
    UNROLL for (int j = 0; j < 16; j++)
    {
        to.value[0][j] = from.f32(row + g, k + j);
        to.value[1][j] = from.f32(row + g + 8, k + j);
    }
}

/* The same of a tile whose rows are k. */
template <class T, int P, bool S>
INLINE void left_load_turned(left_piece<T> &to, const tile<P, S> &from, int row, int k)
{
    int lane = lane_number();
    load_matrices_transposed(to.value, from.at(k + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2));
}
template <int P, bool S>
INLINE void left_load_turned(left_piece<float> &to, const tile<P, S> &from, int row, int k)
{
    int g = lane_number() / 4;
    UNROLL for (int j = 0; j < 16; j++)
    {
        to.value[0][j] = from.f32(k + j, row + g);
        to.value[1][j] = from.f32(k + j, row + g + 8);
    }
}

/* Columns [col, +16), k [k, +16) of a tile whose rows are columns of the right matrix. */
template <class T, int P, bool S>
INLINE void right_load(right_piece<T> &to, const tile<P, S> &from, int k, int col)
{
    int lane = lane_number();
    load_matrices(to.value, from.at(col + lane / 16 * 8 + lane % 8, k / 8 + lane / 8 % 2));
}
template <int P, bool S>
INLINE void right_load(right_piece<float> &to, const tile<P, S> &from, int k, int col)
{
    int i = lane_number() % 4;
    UNROLL for (int half = 0; half < 2; half++) UNROLL for (int odd = 0; odd < 2; odd++)
        UNROLL for (int j = 0; j < 16; j++)
            to.value[half][odd][j] = from.f32(col + 8 * half + 2 * i + odd, k + j);
}

/* The same of a tile whose rows are k. */
template <class T, int P, bool S>
INLINE void right_load_turned(right_piece<T> &to, const tile<P, S> &from, int k, int col)
{
    int lane = lane_number();
    load_matrices_transposed(to.value, from.at(k + lane % 16, col / 8 + lane / 16));
}
template <int P, bool S>
INLINE void right_load_turned(right_piece<float> &to, const tile<P, S> &from, int k, int col)
{
    int i = lane_number() % 4;
    UNROLL for (int half = 0; half < 2; half++) UNROLL for (int odd = 0; odd < 2; odd++)
        UNROLL for (int j = 0; j < 16; j++)
            to.value[half][odd][j] = from.f32(k + j, col + 8 * half + 2 * i + odd);
}

/* sum[0] += left * columns 0..7 of right, sum[1] += left * columns 8..15. */
template <class T>
INLINE void multiply(float (*sum)[4], const left_piece<T> &left, const right_piece<T> &right)
{
    mma_16x8x16<T>(sum[0], left.value, right.value);
    mma_16x8x16<T>(sum[1], left.value, right.value + 2);
}
INLINE void multiply(float (*sum)[4], const left_piece<float> &left, const right_piece<float> &right)
{
    UNROLL for (int half = 0; half < 2; half++) UNROLL for (int j = 0; j < 16; j++)
    {
        sum[half][0] += left.value[0][j] * right.value[half][0][j];
        sum[half][1] += left.value[0][j] * right.value[half][1][j];
        sum[half][2] += left.value[1][j] * right.value[half][0][j];
        sum[half][3] += left.value[1][j] * right.value[half][1][j];
    }
}

/* Masks: a bit that is 0 makes its value 0. */
INLINE uint32_t pair_mask(uint32_t low, uint32_t high)
{
    return ((low & 1) | (high & 1) << 16) * 0xffffu;
}

/* `bits0`, `bits1` hold k [0, 16) of this lane's rows g and g + 8. */
template <class T> INLINE void left_mask(left_piece<T> &to, uint32_t bits0, uint32_t bits1)
{
    int at = 2 * (lane_number() % 4);
    to.value[0] &= pair_mask(bits0 >> at, bits0 >> (at + 1));
    to.value[1] &= pair_mask(bits1 >> at, bits1 >> (at + 1));
    to.value[2] &= pair_mask(bits0 >> (at + 8), bits0 >> (at + 9));
    to.value[3] &= pair_mask(bits1 >> (at + 8), bits1 >> (at + 9));
}
INLINE void left_mask(left_piece<float> &to, uint32_t bits0, uint32_t bits1)
{
    UNROLL for (int j = 0; j < 16; j++)
    {
        if (!(bits0 >> j & 1)) to.value[0][j] = 0;
        if (!(bits1 >> j & 1)) to.value[1][j] = 0;
    }
}

/* word[k * step]: bits [row, row + 16) are the piece's rows. */
template <class T> INLINE void left_mask_turned(left_piece<T> &to, const uint32_t *word, int step, int row)
{
    int g = row + lane_number() / 4, k = 2 * (lane_number() % 4);
    UNROLL for (int half = 0; half < 2; half++)
    {
        uint32_t even = word[(k + 8 * half) * step] >> g, odd = word[(k + 8 * half + 1) * step] >> g;
        to.value[2 * half] &= pair_mask(even, odd);
        to.value[2 * half + 1] &= pair_mask(even >> 8, odd >> 8);
    }
}
INLINE void left_mask_turned(left_piece<float> &to, const uint32_t *word, int step, int row)
{
    int g = row + lane_number() / 4;
    UNROLL for (int j = 0; j < 16; j++)
    {
        if (!(word[j * step] >> g & 1)) to.value[0][j] = 0;
        if (!(word[j * step] >> g >> 8 & 1)) to.value[1][j] = 0;
    }
}

#endif
