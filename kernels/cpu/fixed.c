/*
 * fixed.c: sums in fixed point (docs/arithmetic.md).
 *
 * 1. x * 2^shift is exact in f64, and adding 1.5 * 2^52 to it rounds to the nearest whole number, ties to
 * even, which then lies in the low bits: valid below 2^51, and FIXED_MOST_BITS is 50. So every path has the
 * same bits.
 * 2. Integers add in any order, so the work is cut as suits the threads.
 */
#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/vec.h"

#include <math.h>

enum { FIXED_PART = 1 << 15 };

/* Parts of FIXED_PART elements of the longest segment; part p of segment s is number s * parts + p. */
static int64_t parts_of(const struct fixed_segment *segments, int32_t n, int64_t *total)
{
    int64_t longest = 1;
    *total = 0;
    for (int32_t i = 0; i < n; i++) {
        longest = segments[i].count > longest ? segments[i].count : longest;
        *total += segments[i].count;
    }
    return (longest + FIXED_PART - 1) / FIXED_PART;
}

/* Where a part begins in the vectors; its length, 0 when the segment has no such part. */
static int64_t part_at(const struct fixed_segment *segment, int64_t part, int64_t *start)
{
    int64_t left = segment->count - part * FIXED_PART;
    *start = segment->start + part * FIXED_PART;
    return left < 0 ? 0 : left < FIXED_PART ? left : FIXED_PART;
}

/* Gives the bits of the greatest |x|: like the values they ascend, and NaN is above all. */
static int32_t add_part(float *restrict x, int64_t *restrict sum, int64_t n, double scale, double limit)
{
    const double round = 0x1.8p52;
    int64_t round_bits;
    int32_t most = 0;
    memcpy(&round_bits, &round, sizeof round_bits);
    for (int64_t i = 0; i < n; i++) {
        double units = (double)x[i] * scale, rounded = units + round;
        int64_t whole;
        int32_t bits;
        memcpy(&whole, &rounded, sizeof whole);
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
        whole = fabs(units) <= limit ? whole - round_bits : 0;
        sum[i] = (int64_t)((uint64_t)sum[i] + (uint64_t)whole);
        x[i] = 0;
    }
    return most;
}

static void raise_most(int32_t *most, int32_t bits)
{
    int32_t now = __atomic_load_n(most, __ATOMIC_RELAXED);
    while (bits > now &&
           !__atomic_compare_exchange_n(most, &now, bits, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

enum status CPU_OP(fixed_add)(struct cpu_device *device, const struct op_fixed_add *args)
{
    int64_t total, parts = parts_of(args->segments, args->n_segments, &total);
    double limit = ldexp(1, args->bits);
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads_for(device, total))
    for (int64_t i = 0; i < args->n_segments * parts; i++) {
        const struct fixed_segment *segment = &args->segments[i / parts];
        int64_t start, n = part_at(segment, i % parts, &start);
        if (n == 0) continue;
        raise_most(&args->most[i / parts],
                   add_part(args->x + start, args->sum + start, n, ldexp(1, segment->shift), limit));
    }
    return LORAD_OK;
}

enum status CPU_OP(fixed_read)(struct cpu_device *device, const struct op_fixed_read *args)
{
    int64_t total, parts = parts_of(args->segments, args->n_segments, &total);
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads_for(device, total))
    for (int64_t i = 0; i < args->n_segments * parts; i++) {
        const struct fixed_segment *segment = &args->segments[i / parts];
        int64_t start, n = part_at(segment, i % parts, &start);
        double unit = ldexp(1, -segment->shift);
        for (int64_t k = start; k < start + n; k++) args->x[k] = (float)((double)args->sum[k] * unit);
    }
    return LORAD_OK;
}
