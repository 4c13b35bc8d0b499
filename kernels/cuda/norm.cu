/*
 * norm.cu: RMSNorm (Zhang & Sennrich 2019), its backward, and its output again from the saved input.
 *
 * 1. h = w * round(x * rstd): the product is rounded to the activations' dtype before the weight, as
 * LlamaRMSNorm does. rmsnorm and rmsnorm_apply share `scaled`, so both give the same bits.
 * 2. A row of up to HELD * MOST_THREADS packs stays in the registers of the threads that read it (a warp, or
 * a block): one read and one write of every operand. Thread i holds the row's packs i, i + blockDim.x, ...
 * 3. Longer rows, and those that do not consist of packs, are read twice by the same threads, so that a sum
 * written over x in the first pass is what the second reads.
 */
#include "kernels/cuda/rows.cuh"

enum { VALUES = 16, MOST_THREADS = 1024, MOST_WARPS = MOST_THREADS / WARP };

template <class T, int N> INLINE pack<T, N> scaled(const pack<T, N> &x, float rstd, const pack<T, N> &weight)
{
    float v[N], w[N];
    unpack(v, x);
    unpack(w, weight);
#pragma unroll
    for (int i = 0; i < N; i++) v[i] *= rstd;
    round_to<T>(v);
#pragma unroll
    for (int i = 0; i < N; i++) v[i] *= w[i];
    return packed<T>(v);
}

template <class T, int N> INLINE void add_rounded(pack<T, N> &x, const pack<T, N> &delta)
{
    float v[N], d[N];
    unpack(v, x);
    unpack(d, delta);
#pragma unroll
    for (int i = 0; i < N; i++) v[i] += d[i];
    x = packed<T>(v);
}
template <class T, int N> INLINE float squares(const pack<T, N> &x)
{
    float v[N], sum = 0;
    unpack(v, x);
#pragma unroll
    for (int i = 0; i < N; i++) sum += v[i] * v[i];
    return sum;
}
INLINE float rstd_of(float sum_squares, int64_t cols, float eps)
{
    return 1.0f / sqrtf(sum_squares / (float)cols + eps);
}

/* t = w * dh and xhat = x * rstd */
template <class T, int N>
INLINE void backward_terms(float (&t)[N], float (&xhat)[N], const pack<T, N> &x, const pack<T, N> &dh,
                           const pack<T, N> &weight, float rstd)
{
    float w[N];
    unpack(t, dh);
    unpack(w, weight);
    unpack(xhat, x);
#pragma unroll
    for (int i = 0; i < N; i++) {
        t[i] *= w[i];
        xhat[i] *= rstd;
    }
}
template <class T, int N>
INLINE float dot(const pack<T, N> &x, const pack<T, N> &dh, const pack<T, N> &weight, float rstd)
{
    float t[N], xhat[N], sum = 0;
    backward_terms(t, xhat, x, dh, weight, rstd);
#pragma unroll
    for (int i = 0; i < N; i++) sum += t[i] * xhat[i];
    return sum;
}
/* dx + rstd (t - xhat mean) */
template <class T, int N>
INLINE pack<T, N> gradient(const pack<T, N> &x, const pack<T, N> &dh, const pack<T, N> &weight,
                           const pack<T, N> &dx, float rstd, float mean)
{
    float t[N], xhat[N], d[N];
    backward_terms(t, xhat, x, dh, weight, rstd);
    unpack(d, dx);
#pragma unroll
    for (int i = 0; i < N; i++) d[i] += rstd * (t[i] - xhat[i] * mean);
    return packed<T>(d);
}

/* ---- rows in registers ---- */

template <int HELD, class T, int N> INLINE void load_row(pack<T, N> (&part)[HELD], const T *row, int packs)
{
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        int at = threadIdx.x + k * blockDim.x;
        part[k] = at < packs ? load_pack<N>(row + at * N) : pack<T, N>{};
    }
}
template <int HELD, class T, int N> INLINE void store_row(T *row, const pack<T, N> (&part)[HELD], int packs)
{
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        int at = threadIdx.x + k * blockDim.x;
        if (at < packs) store_pack(row + at * N, part[k]);
    }
}

template <class T>
static __global__ void __launch_bounds__(MOST_THREADS) rmsnorm_kernel(struct op_rmsnorm args)
{
    constexpr int N = FULL(T), HELD = VALUES / N;
    __shared__ float room[2][MOST_WARPS]; /* rows take turns: one barrier for each */
    int packs = (int)(args.x.cols / N), turn = 0;
    pack<T, N> weight[HELD], x[HELD], delta[HELD];
    load_row(weight, (const T *)args.weight, packs);
    for (int64_t row = blockIdx.x; row < args.x.rows; row += gridDim.x) {
        load_row(x, row_of<const T>(args.x, row), packs);
        if (args.delta.data) {
            load_row(delta, row_of<const T>(args.delta, row), packs);
#pragma unroll
            for (int k = 0; k < HELD; k++) add_rounded(x[k], delta[k]);
        }
        if (args.sum.data) store_row(row_of<T>(args.sum, row), x, packs);
        float sum = 0;
#pragma unroll
        for (int k = 0; k < HELD; k++) sum += squares(x[k]);
        float rstd = rstd_of(block_sum(sum, room[turn]), args.x.cols, args.eps);
        turn ^= 1;
        if (threadIdx.x == 0) args.rstd[row] = rstd;
#pragma unroll
        for (int k = 0; k < HELD; k++) x[k] = scaled(x[k], rstd, weight[k]);
        store_row(row_of<T>(args.h, row), x, packs);
    }
}

template <class T>
static __global__ void __launch_bounds__(MOST_THREADS)
    rmsnorm_backward_kernel(struct op_rmsnorm_backward args)
{
    constexpr int N = FULL(T), HELD = VALUES / N;
    __shared__ float room[2][MOST_WARPS];
    int packs = (int)(args.x.cols / N), turn = 0;
    pack<T, N> weight[HELD], x[HELD], dh[HELD], dx[HELD];
    for (int64_t row = blockIdx.x; row < args.x.rows; row += gridDim.x) {
        float rstd = args.rstd[row], sum = 0;
        load_row(x, row_of<const T>(args.x, row), packs);
        load_row(dh, row_of<const T>(args.dh, row), packs);
        load_row(weight, (const T *)args.weight, packs);
        load_row(dx, row_of<const T>(args.dx, row), packs);
#pragma unroll
        for (int k = 0; k < HELD; k++) sum += dot(x[k], dh[k], weight[k], rstd);
        float mean = block_sum(sum, room[turn]) / (float)args.x.cols;
        turn ^= 1;
#pragma unroll
        for (int k = 0; k < HELD; k++) dx[k] = gradient(x[k], dh[k], weight[k], dx[k], rstd, mean);
        store_row(row_of<T>(args.dx, row), dx, packs);
    }
}

/* ---- rows that are read twice ---- */

template <class T, int N>
static __global__ void __launch_bounds__(MOST_THREADS) rmsnorm_long_kernel(struct op_rmsnorm args)
{
    __shared__ float room[2][MOST_WARPS];
    int64_t cols = args.x.cols, begin = threadIdx.x * N, step = blockDim.x * N;
    const T *weight = (const T *)args.weight;
    int turn = 0;
    for (int64_t row = blockIdx.x; row < args.x.rows; row += gridDim.x) {
        const T *x = row_of<const T>(args.x, row), *delta = row_of<const T>(args.delta, row);
        T *sum = row_of<T>(args.sum, row), *h = row_of<T>(args.h, row);
        float total = 0;
        for (int64_t i = begin; i < cols; i += step) {
            pack<T, N> v = load_pack<N>(x + i);
            if (args.delta.data) add_rounded(v, load_pack<N>(delta + i));
            if (args.sum.data) store_pack(sum + i, v);
            total += squares(v);
        }
        float rstd = rstd_of(block_sum(total, room[turn]), cols, args.eps);
        turn ^= 1;
        if (threadIdx.x == 0) args.rstd[row] = rstd;
        for (int64_t i = begin; i < cols; i += step) {
            pack<T, N> v = load_pack<N>(args.sum.data ? sum + i : x + i);
            if (args.delta.data && !args.sum.data) add_rounded(v, load_pack<N>(delta + i));
            store_pack(h + i, scaled(v, rstd, load_pack<N>(weight + i)));
        }
    }
}

template <class T, int N>
static __global__ void __launch_bounds__(MOST_THREADS)
    rmsnorm_backward_long_kernel(struct op_rmsnorm_backward args)
{
    __shared__ float room[2][MOST_WARPS];
    int64_t cols = args.x.cols, begin = threadIdx.x * N, step = blockDim.x * N;
    const T *weight = (const T *)args.weight;
    int turn = 0;
    for (int64_t row = blockIdx.x; row < args.x.rows; row += gridDim.x) {
        const T *x = row_of<const T>(args.x, row), *dh = row_of<const T>(args.dh, row);
        T *dx = row_of<T>(args.dx, row);
        float rstd = args.rstd[row], sum = 0;
        for (int64_t i = begin; i < cols; i += step)
            sum += dot(load_pack<N>(x + i), load_pack<N>(dh + i), load_pack<N>(weight + i), rstd);
        float mean = block_sum(sum, room[turn]) / (float)cols;
        turn ^= 1;
        for (int64_t i = begin; i < cols; i += step)
            store_pack(dx + i, gradient(load_pack<N>(x + i), load_pack<N>(dh + i), load_pack<N>(weight + i),
                                        load_pack<N>(dx + i), rstd, mean));
    }
}

/* ---- the output again: nothing is summed, so tiles do ---- */

enum { APPLY_ROWS = 4 }; /* of a thread */

template <class T, int N>
static __global__ void __launch_bounds__(TILE_THREADS, 4) rmsnorm_apply_kernel(struct op_rmsnorm_apply args)
{
    int64_t col = tile_col(N);
    if (col >= args.x.cols) return;
    pack<T, N> weight = load_pack<N>((const T *)args.weight + col), x[APPLY_ROWS];
    float rstd[APPLY_ROWS];
    for (int64_t first = tile_row(APPLY_ROWS); first < args.x.rows; first += tile_step(APPLY_ROWS)) {
#pragma unroll
        for (int e = 0; e < APPLY_ROWS; e++) {
            int64_t row = first + e * blockDim.y;
            if (row >= args.x.rows) break;
            x[e] = load_pack<N>(row_of<const T>(args.x, row) + col);
            rstd[e] = args.rstd[row];
        }
#pragma unroll
        for (int e = 0; e < APPLY_ROWS; e++) {
            int64_t row = first + e * blockDim.y;
            if (row >= args.x.rows) break;
            store_pack(row_of<T>(args.h, row) + col, scaled(x[e], rstd[e], weight));
        }
    }
}

/* ---- host ---- */

struct rows_launch {
    unsigned grid, threads;
    bool packed, held; /* packs, in registers */
};

static struct rows_launch launch_for(struct device *device, const struct matrix *x, bool packed)
{
    const int at_once = 1024; /* threads of a multiprocessor, by the kernels' registers */
    struct rows_launch launch;
    launch.packed = packed;
    launch.held = packed && x->cols <= VALUES * MOST_THREADS;
    int64_t threads = blocks_for(blocks_for(x->cols, VALUES), WARP) * WARP;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    int64_t most = cuda_of(device)->multiprocessors * (at_once / threads);
    launch.threads = (unsigned)threads;
    launch.grid = (unsigned)(x->rows < most ? x->rows : most);
    return launch;
}

/* The kernel of a row in registers, or of one read twice in either width. */
#define LAUNCH_ROWS(how, T, device, held_kernel, long_kernel, args)                                          \
    do {                                                                                                     \
        if ((how).held)                                                                                      \
            LAUNCH(held_kernel<T>, (how).grid, (how).threads, 0, cuda_compute(device), args);                \
        else                                                                                                 \
            WITH_WIDTH(                                                                                      \
                (how).packed, FULL(T), N,                                                                    \
                LAUNCH((long_kernel<T, N>), (how).grid, (how).threads, 0, cuda_compute(device), args));      \
    } while (0)

enum status cuda_rmsnorm(struct device *device, const struct op_rmsnorm *args)
{
    int n = (int)(16 / dtype_bytes(args->x.dtype));
    bool packed = is_packed(&args->x, n) && is_packed(&args->delta, n) && is_packed(&args->sum, n) &&
                  is_packed(&args->h, n) && is_aligned(args->weight, 16);
    struct rows_launch how = launch_for(device, &args->x, packed);
    WITH_ACT(args->x.dtype, T, LAUNCH_ROWS(how, T, device, rmsnorm_kernel, rmsnorm_long_kernel, *args));
    return cuda_launched("rmsnorm");
}

enum status cuda_rmsnorm_backward(struct device *device, const struct op_rmsnorm_backward *args)
{
    int n = (int)(16 / dtype_bytes(args->x.dtype));
    bool packed = is_packed(&args->x, n) && is_packed(&args->dh, n) && is_packed(&args->dx, n) &&
                  is_aligned(args->weight, 16);
    struct rows_launch how = launch_for(device, &args->x, packed);
    WITH_ACT(args->x.dtype, T,
             LAUNCH_ROWS(how, T, device, rmsnorm_backward_kernel, rmsnorm_backward_long_kernel, *args));
    return cuda_launched("rmsnorm_backward");
}

enum status cuda_rmsnorm_apply(struct device *device, const struct op_rmsnorm_apply *args)
{
    const struct matrix *x = &args->x;
    int n = (int)(16 / dtype_bytes(x->dtype));
    bool packed = is_packed(x, n) && is_packed(&args->h, n) && is_aligned(args->weight, 16);
    WITH_ACT(x->dtype, T, WITH_WIDTH(packed, FULL(T), N, {
                 struct tiles tiles = tiles_for(device, x->rows, x->cols / N, APPLY_ROWS);
                 LAUNCH((rmsnorm_apply_kernel<T, N>), tiles.grid, tiles.block, 0, cuda_compute(device),
                        *args);
             }));
    return cuda_launched("rmsnorm_apply");
}
