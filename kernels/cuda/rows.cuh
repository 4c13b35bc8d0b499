/*
 * rows.cuh: what the rooms that treat rows one by one share: packs of elements, and tiles of a matrix.
 *
 * 1. A kernel has two widths: packs of up to 16 bytes, when every matrix of the call allows them, and single
 * elements. The host chooses (is_packed), so no kernel looks at alignment.
 * 2. In a tile a thread owns one pack of columns and `each` rows, which lie blockDim.y apart. It loads from
 * all its rows before it stores to the first: enough loads are under way, and outputs may be inputs.
 */
#ifndef LORAD_KERNELS_CUDA_ROWS_CUH
#define LORAD_KERNELS_CUDA_ROWS_CUH

#include "kernels/cuda/kernel.cuh"

/* A pack is words: a float, two 16-bit elements in a register (the first below), or a single element. Code
 * that takes 16-bit elements out of registers one by one costs more than the memory. */
template <class T, int N> struct pack_word {
    typedef uint32_t type;
    enum { ELEMENTS = 2 };
};
template <int N> struct pack_word<float, N> {
    typedef float type;
    enum { ELEMENTS = 1 };
};
template <class T> struct pack_word<T, 1> {
    typedef T type;
    enum { ELEMENTS = 1 };
};
template <> struct pack_word<float, 1> {
    typedef float type;
    enum { ELEMENTS = 1 };
};
template <class T, int N> struct alignas(N * sizeof(T)) pack {
    enum { ELEMENTS = pack_word<T, N>::ELEMENTS, WORDS = N / ELEMENTS };
    typename pack_word<T, N>::type word[WORDS];
};

template <int N, class T> INLINE pack<T, N> load_pack(const T *from)
{
    return *(const pack<T, N> *)from;
}
template <class T, int N> INLINE void store_pack(T *to, const pack<T, N> &from)
{
    *(pack<T, N> *)to = from;
}

template <class T> INLINE void unpack_word(float *to, T word)
{
    *to = to_float(word);
}
template <class T> INLINE void unpack_word(float *to, uint32_t word)
{
    T half[2];
    memcpy(half, &word, sizeof half);
    to[0] = to_float(half[0]);
    to[1] = to_float(half[1]);
}
template <> __device__ __forceinline__ void unpack_word<bf16>(float *to, uint32_t word)
{
    to[0] = __uint_as_float(word << 16);
    to[1] = __uint_as_float(word & 0xffff0000u);
}
template <class T, int N> INLINE void unpack(float (&to)[N], const pack<T, N> &from)
{
#pragma unroll
    for (int i = 0; i < from.WORDS; i++) unpack_word<T>(to + i * from.ELEMENTS, from.word[i]);
}

/* Rounded to T. */
template <class T, int N> INLINE pack<T, N> packed(const float (&from)[N])
{
    pack<T, N> to;
#pragma unroll
    for (int i = 0; i < to.WORDS; i++) {
        if constexpr (pack<T, N>::ELEMENTS == 2)
            to.word[i] = pack2_floats<T>(from[2 * i], from[2 * i + 1]);
        else
            to.word[i] = from_float<T>(from[i]);
    }
    return to;
}

/* What values become when they are stored and read again. */
template <class T, int N> INLINE void round_to(float (&x)[N])
{
    unpack(x, packed<T>(x));
}

template <class T> INLINE T *row_of(const struct matrix &m, int64_t row)
{
    return (T *)m.data + row * m.stride;
}

/* Whether all rows of m consist of packs of n elements; also when it is absent. */
static inline bool is_packed(const struct matrix *m, int n)
{
    return !m->data ||
           (is_aligned(m->data, (size_t)n * dtype_bytes(m->dtype)) && m->stride % n == 0 && m->cols % n == 0);
}

/* Runs the code with N as `full` or as 1. */
#define WITH_WIDTH(packed, full, N, ...)                                                                     \
    do {                                                                                                     \
        if (packed) {                                                                                        \
            constexpr int N = (full);                                                                        \
            __VA_ARGS__;                                                                                     \
        } else {                                                                                             \
            constexpr int N = 1;                                                                             \
            __VA_ARGS__;                                                                                     \
        }                                                                                                    \
    } while (0)
/* The elements of 16 bytes. */
#define FULL(T) ((int)(16 / sizeof(T)))

/* Tiles over rows x packs: columns in x, rows in y, where rows beyond the grid take another turn. */
enum { TILE_THREADS = 256 };
struct tiles {
    dim3 grid, block;
};

static inline struct tiles tiles_for(struct device *device, int64_t rows, int64_t packs, int each)
{
    const int64_t most_blocks = 32 * (int64_t)cuda_of(device)->multiprocessors, most_down = 65535;
    int wide = 1;
    while (wide < WARP && wide < packs) wide *= 2;
    /* few rows: the block becomes wider instead */
    while (wide < TILE_THREADS && wide < packs && TILE_THREADS / wide / 2 >= rows) wide *= 2;
    int tall = TILE_THREADS / wide;
    int64_t across = blocks_for(packs, wide), down = blocks_for(rows, (int64_t)tall * each);
    int64_t turns = blocks_for(down, min(blocks_for(most_blocks, across), most_down));
    struct tiles tiles;
    tiles.block = dim3((unsigned)wide, (unsigned)tall);
    tiles.grid = dim3((unsigned)across, (unsigned)blocks_for(down, turns));
    return tiles;
}

/* This thread's first column; and the rows of its tiles: r, r + blockDim.y, ... `each` of them, from every r
 * that begins at tile_row() and advances by tile_step(). */
INLINE int64_t tile_col(int n)
{
    return ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * n;
}
INLINE int64_t tile_row(int each)
{
    return (int64_t)blockIdx.y * blockDim.y * each + threadIdx.y;
}
INLINE int64_t tile_step(int each)
{
    return (int64_t)gridDim.y * blockDim.y * each;
}

#endif
