/*
 * fixed.cu: sums in fixed point (docs/arithmetic.md).
 *
 * 1. x * 2^shift is exact in f64 and rounded to the nearest whole number, ties to even, as on the CPU: the
 * bits are the same.
 * 2. Integers add in any order, and the greatest is the greatest in any order: atomics are exact here.
 */
#include "kernels/cuda/segments.cuh"

#include <math.h>

/* The bits of |x| ascend as the values do, and NaN is above all. */
INLINE int32_t magnitude_bits(float x)
{
    return __float_as_int(x) & 0x7fffffff;
}

static __global__ void __launch_bounds__(SEGMENT_THREADS)
    fixed_add_kernel(float *x, int64_t *sum, int32_t *most, const struct segment *table, int32_t n_segments,
                     double limit)
{
    const int32_t number = segment_of_block(table, n_segments);
    const struct segment segment = table[number];
    int32_t count, highest = 0;
    int64_t start = segment_span(&segment, &count);
    const quad<float> zero = {};
    for (int32_t i = 4 * threadIdx.x; i < count; i += 4 * SEGMENT_THREADS) {
        quad<float> values = quad_load(x + start, i, count, 0.0f);
        quad<int64_t> sums = quad_load(sum + start, i, count, (int64_t)0);
        for (int j = 0; j < 4; j++) {
            double units = (double)values.value[j] * segment.unit;
            int64_t whole = fabs(units) <= limit ? (int64_t)llrint(units) : 0;
            int32_t bits = magnitude_bits(values.value[j]);
            sums.value[j] = (int64_t)((uint64_t)sums.value[j] + (uint64_t)whole);
            highest = bits > highest ? bits : highest;
        }
        quad_store(sum + start, i, count, sums);
        quad_store(x + start, i, count, zero);
    }
    for (int step = WARP / 2; step > 0; step /= 2) {
        int32_t other = __shfl_xor_sync(0xffffffffu, highest, step);
        highest = other > highest ? other : highest;
    }
    if (threadIdx.x % WARP == 0 && highest > 0) atomicMax(&most[number], highest);
}

static enum status send_segments(struct segment_table *table, const struct fixed_segment *segments, int32_t n,
                                 int sign)
{
    for (int32_t i = 0; i < n; i++) {
        struct segment segment = {};
        segment.start = segments[i].start;
        segment.count = segments[i].count;
        segment.unit = ldexp(1, sign * segments[i].shift);
        TRY(segment_table_add(table, segment));
    }
    return segment_table_send(table);
}

enum status cuda_fixed_add(struct device *device, const struct op_fixed_add *args)
{
    struct segment_table table = {};
    table.device = device;
    TRY(send_segments(&table, args->segments, args->n_segments, 1));
    if (table.blocks == 0) return LORAD_OK;
    LAUNCH(fixed_add_kernel, (unsigned)table.blocks, SEGMENT_THREADS, 0, cuda_compute(device), args->x,
           args->sum, args->most, segment_table_data(&table), table.n, ldexp(1, args->bits));
    return cuda_launched("fixed_add");
}

static __global__ void __launch_bounds__(SEGMENT_THREADS)
    fixed_read_kernel(const int64_t *sum, float *x, const struct segment *table, int32_t n_segments)
{
    const struct segment segment = table[segment_of_block(table, n_segments)];
    int32_t count;
    int64_t start = segment_span(&segment, &count);
    for (int32_t i = 4 * threadIdx.x; i < count; i += 4 * SEGMENT_THREADS) {
        quad<int64_t> sums = quad_load(sum + start, i, count, (int64_t)0);
        quad<float> values;
        for (int j = 0; j < 4; j++) values.value[j] = (float)((double)sums.value[j] * segment.unit);
        quad_store(x + start, i, count, values);
    }
}

enum status cuda_fixed_read(struct device *device, const struct op_fixed_read *args)
{
    struct segment_table table = {};
    table.device = device;
    TRY(send_segments(&table, args->segments, args->n_segments, -1));
    if (table.blocks == 0) return LORAD_OK;
    LAUNCH(fixed_read_kernel, (unsigned)table.blocks, SEGMENT_THREADS, 0, cuda_compute(device), args->sum,
           args->x, segment_table_data(&table), table.n);
    return cuda_launched("fixed_read");
}
