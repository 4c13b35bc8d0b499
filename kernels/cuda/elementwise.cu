/* elementwise.cu: add and copy. */
#include "kernels/cuda/kernel.cuh"

enum { THREADS = 256 };

template <class In, class Out, bool ADD>
static __global__ void rows_kernel(struct matrix in, struct matrix out)
{
    int64_t n = in.rows * in.cols, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        int64_t row = i / in.cols, col = i % in.cols;
        Out *to = (Out *)out.data + row * out.stride + col;
        float x = to_float(((const In *)in.data)[row * in.stride + col]);
        *to = from_float<Out>(ADD ? to_float(*to) + x : x);
    }
}

static int grid_for(int64_t elements)
{
    int64_t blocks = blocks_for(elements, THREADS);
    return (int)(blocks < 65535 ? blocks : 65535);
}

enum status cuda_add(struct device *device, const struct op_add *args)
{
    int grid = grid_for(args->x.rows * args->x.cols);
    WITH_ACT(args->x.dtype, T,
             LAUNCH((rows_kernel<T, T, true>), grid, THREADS, 0, cuda_compute(device), args->x, args->y));
    return cuda_launched("add");
}

enum status cuda_copy(struct device *device, const struct op_copy *args)
{
    int grid = grid_for(args->in.rows * args->in.cols);
    WITH_ACT(args->in.dtype, In,
             WITH_ACT(args->out.dtype, Out,
                      LAUNCH((rows_kernel<In, Out, false>), grid, THREADS, 0, cuda_compute(device), args->in,
                             args->out)));
    return cuda_launched("copy");
}
