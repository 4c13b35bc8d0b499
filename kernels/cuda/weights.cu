/* weights.cu: what a panel holds, written: rows of the frozen matrix, and the adapter's compute copies. */
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/quad.cuh"

enum { THREADS = 256, MOST_BLOCKS = 4096, EACH = 8, ADAPTER_QUADS = 2 * THREADS /* of a block */ };

/* `from` is pinned host memory: the kernel reads it over the bus. A thread takes N elements of a row. */
template <class In, class Out, int N> static __global__ void convert_kernel(struct matrix to, const In *from)
{
    struct alignas(N * sizeof(In)) in_run {
        In value[N];
    };
    struct alignas(N * sizeof(Out)) out_run {
        Out value[N];
    };
    int64_t n = to.rows * to.cols / N, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        int64_t row = i * N / to.cols, col = i * N % to.cols;
        struct in_run in = ((const struct in_run *)from)[i];
        struct out_run out;
        for (int j = 0; j < N; j++) out.value[j] = from_float<Out>(to_float(in.value[j]));
        *(struct out_run *)((Out *)to.data + row * to.stride + col) = out;
    }
}

template <class In, class Out> static void convert(cudaStream_t stream, struct matrix to, const In *from)
{
    bool wide = to.cols % EACH == 0 && to.stride % EACH == 0 && is_aligned(to.data, EACH * sizeof(Out));
    int64_t blocks = blocks_for(to.rows * to.cols, THREADS * (wide ? EACH : 1));
    int grid = blocks < MOST_BLOCKS ? (int)blocks : (int)MOST_BLOCKS;
    if (wide)
        LAUNCH((convert_kernel<In, Out, EACH>), grid, THREADS, 0, stream, to, from);
    else
        LAUNCH((convert_kernel<In, Out, 1>), grid, THREADS, 0, stream, to, from);
}

enum status cuda_put_rows(cudaStream_t stream, struct matrix to, const void *pinned, enum dtype dtype)
{
    if (to.dtype == dtype) {
        size_t size = dtype_bytes(dtype), width = (size_t)to.cols * size;
        CUDA_TRY(cudaMemcpy2DAsync(to.data, (size_t)to.stride * size, pinned, width, width, (size_t)to.rows,
                                   cudaMemcpyHostToDevice, stream));
        return LORAD_OK;
    }
    WITH_ACT(dtype, In, WITH_ACT(to.dtype, Out, (convert<In, Out>(stream, to, (const In *)pinned))));
    return cuda_launched("conversion of weights");
}

/* Quads of A, then those of B; a quad does not leave its row. */
static __host__ __device__ inline int64_t quads_of(const struct matrix &m)
{
    return m.rows * ((m.cols + 3) / 4);
}

/* A block finds its adapter in the table: the last that begins with it or before it. */
template <class T>
static __global__ void __launch_bounds__(THREADS) adapters_kernel(const struct cuda_adapter *table, int32_t n)
{
    int32_t low = 0, high = n;
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        if (table[middle].first_block <= (int64_t)blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    const struct cuda_adapter &adapter = table[low];
    int64_t n_a = quads_of(adapter.to_a), n_b = quads_of(adapter.to_b);
    int64_t first = ((int64_t)blockIdx.x - adapter.first_block) * ADAPTER_QUADS + threadIdx.x;
    for (int64_t i = first; i < first + ADAPTER_QUADS && i < n_a + n_b; i += THREADS) {
        bool is_a = i < n_a;
        const struct matrix to = is_a ? adapter.to_a : adapter.to_b;
        int64_t at = is_a ? i : i - n_a, row_quads = (to.cols + 3) / 4;
        int64_t row = at / row_quads, col = at % row_quads * 4;
        quad<float> x = quad_load((is_a ? adapter.a : adapter.b) + row * to.cols, col, to.cols, 0.0f);
        quad<T> y;
        for (int j = 0; j < 4; j++)
            y.value[j] = from_float<T>(is_a ? x.value[j] : adapter.scale * x.value[j]);
        quad_store((T *)to.data + row * to.stride, col, to.cols, y);
    }
}

enum status cuda_put_adapters(struct device *device, struct cuda_adapter *adapters, int32_t n)
{
    struct cuda_adapter *table = (struct cuda_adapter *)cuda_of(device)->workspace;
    int64_t blocks = 0;
    for (int32_t i = 0; i < n; i++) {
        adapters[i].first_block = blocks;
        blocks += blocks_for(quads_of(adapters[i].to_a) + quads_of(adapters[i].to_b), ADAPTER_QUADS);
    }
    TRY(cuda_copy_to(device, STREAM_COMPUTE, table, adapters, (size_t)n * sizeof *adapters));
    WITH_ACT(adapters[0].to_a.dtype, T,
             LAUNCH(adapters_kernel<T>, (unsigned)blocks, THREADS, 0, cuda_compute(device), table, n));
    return cuda_launched("copies of the adapters");
}
