/*
 * loss.cu: cross entropy over a vocabulary that may be split over ranks.
 *
 * 1. A row belongs to one block. Thread t has columns 4t..4t+3 of every THREADS * 4 columns, wherever the row
 * lies, and threads are added in one fixed order.
 * 2. NaN never wins a maximum but always reaches the sum, so a row with NaN has a NaN loss and NaN gradients.
 * 3. dlogits may lie in the logits' memory. Column c of a narrower type then lies in logits before column c,
 * so a tile of columns is read by all threads before any of them writes it, and no later tile is touched.
 * 4. Losses are added as integers (loss_sum.h), by one block: there are few rows, and their order is nobody's
 * concern.
 */
#include "kernels/cuda/quad.cuh"

#include <math.h>

enum { THREADS = 256, QUADS = 4, TILE = THREADS * QUADS * 4, SUM_THREADS = 1024 };

/* A maximum and its column; no column, NONE, loses every comparison of equals. */
struct peak {
    float max;
    uint32_t column;
};
enum : uint32_t { NONE = 0xffffffffu };

INLINE struct peak peak_higher(struct peak a, struct peak b)
{
    bool second = b.max > a.max || (b.max == a.max && b.column < a.column);
    return second ? b : a;
}

/* The peak of a block, in every thread; all threads call it. */
INLINE struct peak block_peak(struct peak peak)
{
    __shared__ struct peak room[THREADS / WARP];
    for (int step = WARP / 2; step > 0; step /= 2) {
        struct peak other = {__shfl_xor_sync(0xffffffffu, peak.max, step),
                             __shfl_xor_sync(0xffffffffu, peak.column, step)};
        peak = peak_higher(peak, other);
    }
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = peak;
    __syncthreads();
    peak = room[0];
    for (int i = 1; i < THREADS / WARP; i++) peak = peak_higher(peak, room[i]);
    return peak;
}

/* This thread's part of a tile; columns at n or beyond give `fill`. */
INLINE void tile_load(quad<float> tile[QUADS], const float *row, int64_t first, int64_t n, float fill)
{
    for (int q = 0; q < QUADS; q++)
        tile[q] = quad_load(row, first + 4 * (int64_t)(threadIdx.x + q * THREADS), n, fill);
}

INLINE float tile_max(const quad<float> tile[QUADS])
{
    float max = -INFINITY;
    for (int q = 0; q < QUADS; q++)
        for (int j = 0; j < 4; j++) max = fmaxf(max, tile[q].value[j]);
    return max;
}

/* The lowest column of this thread's that holds `max`. */
INLINE uint32_t tile_column(const quad<float> tile[QUADS], int64_t first, float max)
{
    uint32_t column = NONE;
    for (int q = QUADS - 1; q >= 0; q--)
        for (int j = 3; j >= 0; j--)
            if (tile[q].value[j] == max) column = (uint32_t)(first + 4 * (threadIdx.x + q * THREADS) + j);
    return column;
}

static __global__ void __launch_bounds__(THREADS) loss_stats_kernel(struct op_loss_stats args)
{
    __shared__ float room[THREADS / WARP];
    int64_t row = blockIdx.x;
    const float *z = (const float *)args.logits.data + row * args.logits.stride;
    struct peak own = {-INFINITY, NONE};
    float sum = 0;
    for (int64_t first = 0; first < args.valid_cols; first += TILE) {
        quad<float> tile[QUADS];
        tile_load(tile, z, first, args.valid_cols, -INFINITY);
        float max = tile_max(tile);
        if (max > own.max) {
            sum *= expf(own.max - max);
            own = {max, tile_column(tile, first, max)};
        }
        /* without any finite maximum yet, only NaN matters: z - 0 is -inf or NaN */
        float base = own.max == -INFINITY ? 0.0f : own.max;
        for (int q = 0; q < QUADS; q++)
            for (int j = 0; j < 4; j++) sum += expf(tile[q].value[j] - base);
    }
    struct peak peak = block_peak(own);
    if (own.max != -INFINITY) sum *= expf(own.max - peak.max);
    sum = block_sum(sum, room);
    if (threadIdx.x > 0) return;
    int64_t label = args.labels[row] - args.first_col;
    struct loss_stat stat = {.max = peak.max, .sum = sum, .label_logit = 0, .best = -1};
    if (label >= 0 && label < args.valid_cols) stat.label_logit = z[label];
    if (peak.column != NONE) stat.best = (int32_t)(args.first_col + peak.column);
    args.stats[row] = stat;
}

enum status cuda_loss_stats(struct device *device, const struct op_loss_stats *args)
{
    LAUNCH(loss_stats_kernel, (unsigned)args->logits.rows, THREADS, 0, cuda_compute(device), *args);
    return cuda_launched("loss_stats");
}

/* The parts of one row in rank order. Columns ascend with the rank, so the first of equal maxima is the
 * lowest. */
INLINE struct loss_stat combine(const struct op_loss_grad *args, int64_t row)
{
    struct loss_stat whole = {.max = -INFINITY, .sum = 0, .label_logit = 0, .best = -1};
    for (int32_t p = 0; p < args->parts; p++) {
        const struct loss_stat part = args->all[p * args->logits.rows + row];
        if (part.max > whole.max) {
            whole.max = part.max;
            whole.best = part.best;
        }
        whole.label_logit += part.label_logit;
    }
    for (int32_t p = 0; p < args->parts; p++) {
        const struct loss_stat part = args->all[p * args->logits.rows + row];
        whole.sum += part.max == -INFINITY ? part.sum /* 0, or NaN */ : part.sum * expf(part.max - whole.max);
    }
    return whole;
}

INLINE int64_t warp_total(int64_t x)
{
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/* loss_sum_add, but for the carry. */
INLINE void addend(struct loss_sum *sum, double loss)
{
    if (!(fabs(loss) < 0x1p40)) {
        sum->broken++;
        return;
    }
    double whole = floor(loss);
    sum->whole += (int64_t)whole;
    sum->fraction += (int64_t)llrint((loss - whole) * 0x1p40);
}

/* One block for all rows: losses and hits into the sums. */
static __global__ void __launch_bounds__(SUM_THREADS) loss_sum_kernel(struct op_loss_grad args)
{
    __shared__ int64_t room[4][SUM_THREADS / WARP];
    struct loss_sum own = {0, 0, 0};
    int64_t hits = 0;
    for (int64_t row = threadIdx.x; row < args.logits.rows; row += SUM_THREADS) {
        const struct loss_stat whole = combine(&args, row);
        double loss = (double)whole.max + log((double)whole.sum) - (double)whole.label_logit;
        addend(&own, args.weights ? (double)args.weights[row] * loss : loss);
        hits += whole.best == args.labels[row];
        if (args.row_loss) args.row_loss[row] = (float)loss;
    }
    int64_t total[4] = {warp_total(own.whole), warp_total(own.fraction), warp_total(own.broken),
                        warp_total(hits)};
    if (threadIdx.x % WARP == 0)
        for (int k = 0; k < 4; k++) room[k][threadIdx.x / WARP] = total[k];
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int k = 0; k < 4; k++)
        for (int i = 1; i < SUM_THREADS / WARP; i++) total[k] += room[k][i];
    struct loss_sum *sum = args.loss_sum;
    int64_t fraction = sum->fraction + total[1];
    sum->whole += total[0] + (fraction >> 40);
    sum->fraction = fraction & ((INT64_C(1) << 40) - 1);
    sum->broken += total[2];
    *args.correct_sum += total[3];
}

template <class T>
static __global__ void __launch_bounds__(THREADS) loss_grad_kernel(struct op_loss_grad args)
{
    int64_t row = blockIdx.x, cols = args.logits.cols;
    const float *z = (const float *)args.logits.data + row * args.logits.stride;
    T *dz = (T *)args.dlogits.data + row * args.dlogits.stride;
    const struct loss_stat whole = combine(&args, row);
    const float weight = (args.weights ? args.weights[row] : 1.0f) * args.scale, factor = weight / whole.sum;
    int64_t label = args.labels[row] - args.first_col;
    if (label >= args.valid_cols) label = -1;
    for (int64_t first = 0; first < cols; first += TILE) {
        quad<float> tile[QUADS];
        tile_load(tile, z, first, args.valid_cols, 0);
        __syncthreads();
        for (int q = 0; q < QUADS; q++) {
            int64_t at = first + 4 * (int64_t)(threadIdx.x + q * THREADS);
            quad<T> out;
            for (int j = 0; j < 4; j++) {
                float e = expf(tile[q].value[j] - whole.max), d = factor * e;
                if (at + j == label) d = weight * (e / whole.sum - 1.0f);
                out.value[j] = from_float<T>(at + j < args.valid_cols ? d : 0.0f);
            }
            quad_store(dz, at, cols, out);
        }
    }
}

enum status cuda_loss_grad(struct device *device, const struct op_loss_grad *args)
{
    cudaStream_t stream = cuda_compute(device);
    LAUNCH(loss_sum_kernel, 1, SUM_THREADS, 0, stream, *args);
    TRY(cuda_launched("loss_sum"));
    if (!args->dlogits.data) return LORAD_OK;
    WITH_ACT(args->dlogits.dtype, T,
             LAUNCH(loss_grad_kernel<T>, (unsigned)args->logits.rows, THREADS, 0, stream, *args));
    return cuda_launched("loss_grad");
}
