/* weights.cu: what a panel holds, written: rows of the frozen matrix, and the adapter's compute copies. */
#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/load.h"

enum { THREADS = 256, MOST_BLOCKS = 4096, EACH = 8 };

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

/* Elements of A, then those of B. */
template <class T>
static __global__ void adapter_kernel(struct matrix to_a, const float *a, struct matrix to_b, const float *b,
                                      float scale)
{
    int64_t n_a = to_a.rows * to_a.cols, n = n_a + to_b.rows * to_b.cols;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    bool is_a = i < n_a;
    const struct matrix &to = is_a ? to_a : to_b;
    int64_t at = is_a ? i : i - n_a;
    ((T *)to.data)[at / to.cols * to.stride + at % to.cols] = from_float<T>(is_a ? a[at] : scale * b[at]);
}

enum status cuda_put_adapter(struct device *device, struct matrix to_a, const float *a, struct matrix to_b,
                             const float *b, float scale)
{
    int64_t n = to_a.rows * to_a.cols + to_b.rows * to_b.cols;
    WITH_ACT(to_a.dtype, T,
             LAUNCH(adapter_kernel<T>, (unsigned)blocks_for(n, THREADS), THREADS, 0, cuda_compute(device),
                    to_a, a, to_b, b, scale));
    return cuda_launched("copy of the adapter");
}
