/*
 * segments.cuh: operations over one flat vector that is cut into segments, in one launch.
 *
 * 1. A block of threads works on at most SEGMENT_BLOCK elements of one segment, and finds which in a table
 * in the device's workspace. So a thousand small segments are as quick as one long one.
 * 2. The table is copied in small pieces, which pass through the device's pinned blocks: what they are made
 * from may go out of scope at once, and nothing waits.
 */
#ifndef LORAD_KERNELS_CUDA_SEGMENTS_CUH
#define LORAD_KERNELS_CUDA_SEGMENTS_CUH

#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/quad.cuh"

enum { SEGMENT_BLOCK = 4096, SEGMENT_THREADS = 256, SEGMENTS_AT_ONCE = 512 };

struct segment {
    int64_t start, count;   /* elements */
    int64_t first_block;    /* its blocks follow those of the segment before */
    double unit;            /* fixed point: what the operation multiplies with */
    float decay, step_size; /* AdamW */
};

/* The table on its way to the workspace. All zero but `device`: nothing written yet. */
struct segment_table {
    struct device *device;
    int32_t n;
    int64_t blocks; /* of all segments */
    struct segment waiting[SEGMENTS_AT_ONCE];
    int32_t n_waiting;
};

static inline struct segment *segment_table_data(const struct segment_table *table)
{
    return (struct segment *)cuda_of(table->device)->workspace;
}

/* Behind the table: the rest of the workspace, aligned as the table's end is (to 8 bytes). */
static inline void *segment_table_end(const struct segment_table *table)
{
    return segment_table_data(table) + table->n;
}

static inline enum status segment_table_send(struct segment_table *table)
{
    if (table->n_waiting == 0) return LORAD_OK;
    struct segment *to = segment_table_data(table) + (table->n - table->n_waiting);
    size_t bytes = (size_t)table->n_waiting * sizeof *to;
    table->n_waiting = 0;
    return cuda_copy_to(table->device, STREAM_COMPUTE, to, table->waiting, bytes);
}

static inline enum status segment_table_add(struct segment_table *table, struct segment segment)
{
    if ((size_t)(table->n + 1) * sizeof segment > CUDA_WORKSPACE_BYTES)
        return FAIL(LORAD_BUG, "cuda: more than %d segments", table->n);
    segment.first_block = table->blocks;
    table->blocks += blocks_for(segment.count, SEGMENT_BLOCK);
    table->waiting[table->n_waiting++] = segment;
    table->n++;
    return table->n_waiting == SEGMENTS_AT_ONCE ? segment_table_send(table) : LORAD_OK;
}

/* The number of the segment that this block works on: the last that begins with it or before it. */
INLINE int32_t segment_of_block(const struct segment *table, int32_t n)
{
    int32_t low = 0, high = n;
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        if (table[middle].first_block <= (int64_t)blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Where this block's elements begin in the vector, and how many they are. */
INLINE int64_t segment_span(const struct segment *segment, int32_t *count)
{
    int64_t first = ((int64_t)blockIdx.x - segment->first_block) * SEGMENT_BLOCK;
    int64_t left = segment->count - first;
    *count = (int32_t)(left < SEGMENT_BLOCK ? left : SEGMENT_BLOCK);
    return segment->start + first;
}

#endif
