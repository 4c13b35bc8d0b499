/*
 * optim.cu: AdamW over flat vectors, and sums of squares for the gradient norm.
 *
 * 1. AdamW's scalars are computed in double on the host and rounded to f32 once.
 * 2. A sum of squares adds blocks of SEGMENT_BLOCK elements in f64, each thread's and then the threads' in
 * one fixed order, and then the blocks pairwise (neighbours first): its bits depend on the segment's contents
 * only, not on where it lies.
 */
#include "kernels/cuda/segments.cuh"

#include <math.h>

struct adamw_scalars {
    float grad_scale, beta1, one_less_beta1, beta2, one_less_beta2, inverse_root, eps;
};

static __global__ void __launch_bounds__(SEGMENT_THREADS)
    adamw_kernel(float *param, const float *grad, float *first, float *second, const struct segment *table,
                 int32_t n_segments, struct adamw_scalars s)
{
    const struct segment segment = table[segment_of_block(table, n_segments)];
    int32_t count;
    int64_t start = segment_span(&segment, &count);
    for (int32_t i = 4 * threadIdx.x; i < count; i += 4 * SEGMENT_THREADS) {
        quad<float> p = quad_load(param + start, i, count, 0.0f), g = quad_load(grad + start, i, count, 0.0f),
                    m = quad_load(first + start, i, count, 0.0f),
                    v = quad_load(second + start, i, count, 0.0f);
        for (int j = 0; j < 4; j++) {
            float slope = g.value[j] * s.grad_scale;
            m.value[j] = m.value[j] * s.beta1 + slope * s.one_less_beta1;
            v.value[j] = v.value[j] * s.beta2 + slope * slope * s.one_less_beta2;
            p.value[j] = p.value[j] * segment.decay -
                         segment.step_size * m.value[j] / (sqrtf(v.value[j]) * s.inverse_root + s.eps);
        }
        quad_store(first + start, i, count, m);
        quad_store(second + start, i, count, v);
        quad_store(param + start, i, count, p);
    }
}

enum status cuda_adamw(struct device *device, const struct op_adamw *args)
{
    double correction1 = 1.0 - pow(args->beta1, (double)args->step);
    double correction2 = 1.0 - pow(args->beta2, (double)args->step);
    const struct adamw_scalars scalars = {
        .grad_scale = (float)args->grad_scale,
        .beta1 = (float)args->beta1,
        .one_less_beta1 = (float)(1.0 - args->beta1),
        .beta2 = (float)args->beta2,
        .one_less_beta2 = (float)(1.0 - args->beta2),
        .inverse_root = (float)(1.0 / sqrt(correction2)),
        .eps = (float)args->eps,
    };
    struct segment_table table = {};
    table.device = device;
    for (int32_t i = 0; i < args->n_segments; i++) {
        const struct adamw_segment *from = &args->segments[i];
        struct segment segment = {};
        segment.start = from->start;
        segment.count = from->count;
        segment.decay = (float)(1.0 - from->learning_rate * from->weight_decay);
        segment.step_size = (float)(from->learning_rate / correction1);
        TRY(segment_table_add(&table, segment));
    }
    TRY(segment_table_send(&table));
    if (table.blocks == 0) return LORAD_OK;
    LAUNCH(adamw_kernel, (unsigned)table.blocks, SEGMENT_THREADS, 0, cuda_compute(device), args->param,
           args->grad, args->m, args->v, segment_table_data(&table), table.n, scalars);
    return cuda_launched("adamw");
}

/* partial[block] = the sum of squares of the block's elements. */
static __global__ void __launch_bounds__(SEGMENT_THREADS)
    squares_kernel(const float *x, const struct segment *table, int32_t n_segments, double *partial)
{
    __shared__ double room[SEGMENT_THREADS / WARP];
    const struct segment segment = table[segment_of_block(table, n_segments)];
    int32_t count;
    int64_t start = segment_span(&segment, &count);
    double sum = 0;
    for (int32_t i = 4 * threadIdx.x; i < count; i += 4 * SEGMENT_THREADS) {
        quad<float> values = quad_load(x + start, i, count, 0.0f);
        for (int j = 0; j < 4; j++) sum += (double)values.value[j] * (double)values.value[j];
    }
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/* A block adds the partial sums of one segment in place: neighbours, then neighbours of those. */
static __global__ void __launch_bounds__(SEGMENT_THREADS)
    pairwise_kernel(const struct segment *table, double *partial, double *out)
{
    const struct segment segment = table[blockIdx.x];
    int64_t n = (segment.count + SEGMENT_BLOCK - 1) / SEGMENT_BLOCK;
    double *sum = partial + segment.first_block;
    for (int64_t step = 1; step < n; step *= 2) {
        for (int64_t i = 2 * step * threadIdx.x; i + step < n; i += 2 * step * SEGMENT_THREADS)
            sum[i] += sum[i + step];
        __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = n > 0 ? sum[0] : 0;
}

enum status cuda_sum_squares(struct device *device, const struct op_sum_squares *args)
{
    struct segment_table table = {};
    table.device = device;
    for (int32_t i = 0; i < args->n_segments; i++) {
        struct segment segment = {};
        segment.start = args->starts[i];
        segment.count = args->starts[i + 1] - args->starts[i];
        TRY(segment_table_add(&table, segment));
    }
    TRY(segment_table_send(&table));
    double *out = (double *)segment_table_end(&table), *partial = out + table.n;
    if ((char *)(partial + table.blocks) > (char *)segment_table_data(&table) + CUDA_WORKSPACE_BYTES)
        return FAIL(LORAD_BUG, "cuda: a sum of squares over %lld blocks", (long long)table.blocks);
    cudaStream_t stream = cuda_compute(device);
    if (table.blocks > 0) {
        LAUNCH(squares_kernel, (unsigned)table.blocks, SEGMENT_THREADS, 0, stream, args->x,
               segment_table_data(&table), table.n, partial);
        TRY(cuda_launched("sum_squares"));
    }
    LAUNCH(pairwise_kernel, (unsigned)table.n, SEGMENT_THREADS, 0, stream, segment_table_data(&table),
           partial, out);
    TRY(cuda_launched("sum_squares"));
    TRY(cuda_copy_from(device, STREAM_COMPUTE, args->out, out, (size_t)table.n * sizeof *out));
    CUDA_TRY(cudaStreamSynchronize(stream));
    return LORAD_OK;
}
