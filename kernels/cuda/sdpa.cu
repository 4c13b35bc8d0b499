/* sdpa.cu: the small kernels around cuDNN's attention. */
#include "kernels/cuda/sdpa_kernels.h"

#include "kernels/cuda/kernel.cuh"

static const int THREADS = 256;
static const int64_t MOST_BLOCKS = 1056; /* 8 on each multiprocessor of an H100 */

/* Block 0 writes the tables, the others zero the workspace. */
static __global__ void tables_kernel(struct sdpa_tables tables)
{
    if (blockIdx.x > 0) {
        size_t words = tables.workspace_bytes / sizeof(uint32_t);
        size_t step = (size_t)(gridDim.x - 1) * blockDim.x;
        for (size_t i = (size_t)(blockIdx.x - 1) * blockDim.x + threadIdx.x; i < words; i += step)
            ((uint32_t *)tables.workspace)[i] = 0;
        return;
    }
    for (int i = threadIdx.x; i <= tables.batch; i += blockDim.x) {
        int at = i < tables.count ? i : tables.count;
        int64_t start = tables.start[at];
        if (i < tables.batch)
            tables.lengths[i] = at < tables.count ? tables.start[at + 1] - (int32_t)start : 0;
        for (int t = 0; t < SDPA_PACKED; t++)
            if (tables.stride[t] > 0) tables.offset[t][i] = start * tables.stride[t];
    }
}

enum status sdpa_write_tables(struct device *device, const struct sdpa_tables *tables)
{
    int64_t clear = blocks_for((int64_t)(tables->workspace_bytes / sizeof(uint32_t)), (int64_t)THREADS * 4);
    int grid = 1 + (int)(clear < MOST_BLOCKS ? clear : MOST_BLOCKS);
    LAUNCH(tables_kernel, grid, THREADS, 0, cuda_compute(device), *tables);
    return cuda_launched("sdpa_write_tables");
}

struct row_copies {
    struct matrix from[2], to[2];
};

static __global__ void copy_kernel(struct row_copies copies)
{
    const struct matrix from = copies.from[blockIdx.y], to = copies.to[blockIdx.y];
    int64_t width = from.cols / vec16<uint16_t>::N, n = from.rows * width;
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        int64_t row = i / width, col = i % width * vec16<uint16_t>::N;
        store16((uint16_t *)to.data + row * to.stride + col,
                load16((const uint16_t *)from.data + row * from.stride + col));
    }
}

enum status sdpa_copy_rows(struct device *device, const struct matrix from[2], const struct matrix to[2])
{
    struct row_copies copies = {{from[0], from[1]}, {to[0], to[1]}};
    int64_t blocks = blocks_for(from[0].rows * from[0].cols / vec16<uint16_t>::N, THREADS);
    dim3 grid((unsigned)(blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS), 2);
    LAUNCH(copy_kernel, grid, THREADS, 0, cuda_compute(device), copies);
    return cuda_launched("sdpa_copy_rows");
}
