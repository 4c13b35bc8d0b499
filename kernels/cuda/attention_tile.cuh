/*
 * attention_tile.cuh: what the kernels of attention share: tiles of heads in shared memory, and products of
 * tiles in a warp's registers.
 *
 * 1. A tile is some tokens of one sequence by the D columns of one head, of which head_dim are the head's.
 * Columns from there on and rows beyond the sequence's end are zero, so that they add nothing to a product.
 * 2. Rows of a tile lie D elements and 16 bytes apart, an odd number of 16 bytes: 8 rows at one column are in
 * different banks of shared memory.
 * 3. A warp's product of 16 M rows by 8 N columns is acc[M][N][4] in the layout of mma_16x8x16: lane l has
 * rows 16 m + l / 4 (elements 0, 1) and 8 further down (2, 3), columns 8 n + 2 (l % 4) and the next. For f32,
 * which tensor cores do not multiply without loss, the layout is the same.
 * 4. Tiles are counted from the sequence's start and every sum runs over them in one order, so the bits do
 * not depend on what else is in the batch.
 */
#ifndef LORAD_KERNELS_CUDA_ATTENTION_TILE_CUH
#define LORAD_KERNELS_CUDA_ATTENTION_TILE_CUH

#include "kernels/cuda/attention.h"
#include "kernels/cuda/kernel.cuh"

/* What kernels need to know of a call beside its matrices. */
struct tile_call {
    const int32_t *start; /* sequences */
    int32_t count;
    int q_heads, group; /* group: query heads of one key/value head */
    int head_dim;
    int window; /* keys that a query sees at most, itself included; INT32_MAX: all */
    float scale;
    float scale2; /* scale * log2(e): exp(scale x) = exp2(scale2 x) */
    bool vectors; /* every row of every matrix starts at a 16-byte border */
};

/* Shared memory that a block may have on every GPU since sm_80, and on the great ones (sm_80, 90, 100). */
enum { SHARED_ANYWHERE = 99 << 10, SHARED_GREAT = 163 << 10 };

#define LOG2_E 1.4426950408889634f
#define LN_2   0.6931471805599453f

/* Tiles of `rows` tokens of all sequences have slots: sequence s has those from start[s] / rows + s on, which
 * is enough for its tiles and leaves few slots empty. So a block finds its tile by itself. */
static inline int64_t tile_slots(int64_t tokens, int32_t count, int rows)
{
    return tokens / rows + count;
}

struct place {
    int token, length; /* first token of the sequence, its tokens */
    int tile, tiles;   /* tile >= tiles: an empty slot */
};

INLINE struct place find_place(const struct tile_call &call, int slot, int rows)
{
    int low = 0, high = call.count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (call.start[middle] / rows + middle <= slot)
            low = middle;
        else
            high = middle - 1;
    }
    struct place p;
    p.token = call.start[low];
    p.length = call.start[low + 1] - p.token;
    p.tile = slot - p.token / rows - low;
    p.tiles = (p.length + rows - 1) / rows;
    return p;
}

INLINE bool sees(int query, int key, int window)
{
    return (unsigned)(query - key) < (unsigned)window;
}

/* Whether any of n_queries tokens from `query` on sees any of n_keys from `key` on. */
INLINE bool any_seen(int query, int n_queries, int key, int n_keys, int window)
{
    return key < query + n_queries && query - (key + n_keys - 1) < window;
}

/* Whether any of n_queries tokens from `query` on does not see any of n_keys from `key` on. */
INLINE bool any_hidden(int query, int n_queries, int key, int n_keys, int window)
{
    return !sees(query, key + n_keys - 1, window) || !sees(query + n_queries - 1, key, window);
}

/* ---- tiles ---- */

template <class T, int D> struct tile_row {
    enum { N = 16 / sizeof(T), LD = D + N };
};

template <class T> INLINE T *element_at(const struct matrix &m, int64_t token, int col)
{
    return (T *)m.data + token * m.stride + col;
}

/* ROWS rows, of which `rows` exist, to shared memory, by all THREADS of a block; in the background (the
 * caller commits) where rows are aligned. */
template <class T, int D, int ROWS, int THREADS>
INLINE void tile_load(T *to, const T *from, int64_t stride, int rows, const struct tile_call &call)
{
    enum { N = tile_row<T, D>::N, LD = tile_row<T, D>::LD };
    enum { ACROSS = D / N, DOWN = THREADS / ACROSS };
    static_assert(THREADS % ACROSS == 0 && ROWS % DOWN == 0, "every thread loads the same number");
    if (!call.vectors) {
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * D; i += THREADS) {
            int row = i / D, col = i % D;
            bool valid = row < rows && col < call.head_dim;
            to[row * LD + col] = valid ? from[row * stride + col] : from_float<T>(0.0f);
        }
        return;
    }
    int row = threadIdx.x / ACROSS, col = threadIdx.x % ACROSS * N;
    from += row * stride + col;
    bool inside = col < call.head_dim;
#pragma unroll 4
    for (int i = 0; i < ROWS / DOWN; i++, row += DOWN, from += DOWN * stride)
        copy_async(to + row * LD + col, from, inside && row < rows);
}

INLINE void store2(float *to, float a, float b)
{
    to[0] = a;
    to[1] = b;
}
template <class T> INLINE void store2(T *to, float a, float b)
{
    *(uint32_t *)to = pack2_floats<T>(a, b);
}

/* A warp's product times factor[m][0 or 1] of its rows, as the first `rows` rows and `cols` columns of a
 * matrix at `to`, by way of the warp's own 16 M rows of a tile. */
template <class T, int D, int M, int N>
INLINE void product_store(T *to, int64_t stride, int rows, int cols, const float (&acc)[M][N][4],
                          const float (&factor)[M][2], T *tile, bool vectors)
{
    enum { LD = tile_row<T, D>::LD, WIDE = tile_row<T, D>::N, ACROSS = 8 * N / WIDE };
    int lane = threadIdx.x % WARP;
    T *at = tile + lane / 4 * LD + lane % 4 * 2;
    __syncwarp(); /* all lanes have read what was there */
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < N; n++) {
            const float *x = acc[m][n];
            store2(at + m * 16 * LD + n * 8, x[0] * factor[m][0], x[1] * factor[m][0]);
            store2(at + (m * 16 + 8) * LD + n * 8, x[2] * factor[m][1], x[3] * factor[m][1]);
        }
    }
    __syncwarp();
    for (int i = lane; i < 16 * M * ACROSS; i += WARP) {
        int row = i / ACROSS, col = i % ACROSS * WIDE;
        if (row >= rows || col >= cols) continue;
        if (vectors) {
            store16(to + row * stride + col, load16(tile + row * LD + col));
        } else {
            for (int j = 0; j < WIDE; j++) to[row * stride + col + j] = tile[row * LD + col + j];
        }
    }
}

/* ---- products ---- */

INLINE float dot4(const vec16<float> &a, const vec16<float> &b, float sum)
{
#pragma unroll
    for (int i = 0; i < 4; i++) sum = fmaf(a.value[i], b.value[i], sum);
    return sum;
}

template <int D, int M, int N>
INLINE void multiply_rows_f32(float (&acc)[M][N][4], const float *rows, const float *columns)
{
    enum { LD = tile_row<float, D>::LD };
    int lane = threadIdx.x % WARP;
    const float *a = rows + lane / 4 * LD, *b = columns + lane % 4 * 2 * LD;
#pragma unroll 1
    for (int k = 0; k < D; k += 4) {
#pragma unroll
        for (int m = 0; m < M; m++) {
            vec16<float> x0 = load16(a + m * 16 * LD + k), x1 = load16(a + (m * 16 + 8) * LD + k);
#pragma unroll
            for (int n = 0; n < N; n++) {
                vec16<float> y0 = load16(b + n * 8 * LD + k), y1 = load16(b + (n * 8 + 1) * LD + k);
                acc[m][n][0] = dot4(x0, y0, acc[m][n][0]);
                acc[m][n][1] = dot4(x0, y1, acc[m][n][1]);
                acc[m][n][2] = dot4(x1, y0, acc[m][n][2]);
                acc[m][n][3] = dot4(x1, y1, acc[m][n][3]);
            }
        }
    }
}

/* acc += rows times the rows of `columns`, transposed: 16 M rows of a tile by 8 N rows of another, over their
 * D columns. */
template <class T, int D, int M, int N>
INLINE void multiply_rows(float (&acc)[M][N][4], const T *rows, const T *columns)
{
    if constexpr (sizeof(T) == 4) {
        multiply_rows_f32<D>(acc, rows, columns);
    } else {
        enum { LD = tile_row<T, D>::LD };
        int lane = threadIdx.x % WARP;
        const T *a = rows + lane % 16 * LD + lane / 16 * 8;
        const T *b = columns + (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8;
#pragma unroll
        for (int k = 0; k < D; k += 16) {
            uint32_t x[M][4];
#pragma unroll
            for (int m = 0; m < M; m++) load_matrices(x[m], a + m * 16 * LD + k);
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                uint32_t y[4];
                load_matrices(y, b + n * 8 * LD + k);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    mma_16x8x16<T>(acc[m][n], x[m], y);
                    mma_16x8x16<T>(acc[m][n + 1], x[m], y + 2);
                }
            }
        }
    }
}

template <int D, int M, int N, int K>
INLINE void multiply_product_f32(float (&acc)[M][N][4], const float (&left)[M][K][4], const float *right)
{
    enum { LD = tile_row<float, D>::LD };
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int k = 0; k < K; k++) {
#pragma unroll 1
        for (int owner = 0; owner < 4; owner++) { /* of two columns of left, among the lanes of a row */
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float *row = right + (k * 8 + owner * 2 + e) * LD + lane % 4 * 2;
                int from = lane / 4 * 4 + owner;
#pragma unroll
                for (int m = 0; m < M; m++) {
                    float x0 = __shfl_sync(0xffffffffu, left[m][k][e], from);
                    float x1 = __shfl_sync(0xffffffffu, left[m][k][2 + e], from);
#pragma unroll
                    for (int n = 0; n < N; n++) {
                        acc[m][n][0] = fmaf(x0, row[n * 8], acc[m][n][0]);
                        acc[m][n][1] = fmaf(x0, row[n * 8 + 1], acc[m][n][1]);
                        acc[m][n][2] = fmaf(x1, row[n * 8], acc[m][n][2]);
                        acc[m][n][3] = fmaf(x1, row[n * 8 + 1], acc[m][n][3]);
                    }
                }
            }
        }
    }
}

/* acc += left times 8 N columns, from `right` on, of a tile: left is a product in registers, 16 M rows by 8 K
 * columns, one for each of 8 K rows of the tile, and is rounded to T. */
template <class T, int D, int M, int N, int K>
INLINE void multiply_product(float (&acc)[M][N][4], const float (&left)[M][K][4], const T *right)
{
    if constexpr (sizeof(T) == 4) {
        multiply_product_f32<D>(acc, left, right);
    } else {
        enum { LD = tile_row<T, D>::LD };
        int lane = threadIdx.x % WARP;
        const T *b = right + lane % 16 * LD + lane / 16 * 8;
#pragma unroll
        for (int k = 0; k < K; k += 2) {
            uint32_t x[M][4];
#pragma unroll
            for (int m = 0; m < M; m++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float *pair = left[m][k + i / 2] + i % 2 * 2;
                    x[m][i] = pack2_floats<T>(pair[0], pair[1]);
                }
            }
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                uint32_t y[4];
                load_matrices_transposed(y, b + k * 8 * LD + n * 8);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    mma_16x8x16<T>(acc[m][n], x[m], y);
                    mma_16x8x16<T>(acc[m][n + 1], x[m], y + 2);
                }
            }
        }
    }
}

template <int M, int N> INLINE void product_zero(float (&acc)[M][N][4])
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[m][n][e] = 0.0f;
}

/* ---- launching ---- */

static inline bool rows_aligned(const struct matrix *m)
{
    return is_aligned(m->data, 16) && m->stride * dtype_bytes(m->dtype) % 16 == 0;
}

static inline struct tile_call tile_call_of(const struct matrix *q, const struct matrix *k, int32_t head_dim,
                                            float scale, int32_t window, const struct sequences *sequences)
{
    struct tile_call call;
    call.start = sequences->start;
    call.count = sequences->count;
    call.q_heads = (int)(q->cols / head_dim);
    call.group = (int)(q->cols / k->cols);
    call.head_dim = head_dim;
    call.window = window > 0 ? window : INT32_MAX;
    call.scale = scale;
    call.scale2 = scale * LOG2_E;
    call.vectors = rows_aligned(q) && rows_aligned(k);
    return call;
}

/* Runs the code with D as the columns of a tile for heads of head_dim. */
#define WITH_COLUMNS(head_dim, D, ...)                                                                       \
    do {                                                                                                     \
        if ((head_dim) <= 64) {                                                                              \
            enum { D = 64 };                                                                                 \
            __VA_ARGS__;                                                                                     \
        } else if ((head_dim) <= 128) {                                                                      \
            enum { D = 128 };                                                                                \
            __VA_ARGS__;                                                                                     \
        } else {                                                                                             \
            enum { D = 256 };                                                                                \
            __VA_ARGS__;                                                                                     \
        }                                                                                                    \
    } while (0)

#endif
