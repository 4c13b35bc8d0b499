/* elementwise.cu: sums of two matrices, and copies that change dtype or stride. */
#include "kernels/cuda/rows.cuh"

template <class Out, class In, int N> INLINE void convert(pack<Out, N> &to, const pack<In, N> &from)
{
    float x[N];
    unpack(x, from);
    to = packed<Out>(x);
}
/* What keeps its type keeps its bits, NaN included. */
template <class T, int N> INLINE void convert(pack<T, N> &to, const pack<T, N> &from)
{
    to = from;
}
template <class Out, class In, int N> INLINE void add(pack<Out, N> &to, const pack<In, N> &from)
{
    float x[N], y[N];
    unpack(x, from);
    unpack(y, to);
#pragma unroll
    for (int i = 0; i < N; i++) y[i] += x[i];
    to = packed<Out>(y);
}

enum { ADD_ROWS = 4, COPY_ROWS = 4 }; /* of a thread */

template <class In, class Out, int N, bool ADD>
static __global__ void __launch_bounds__(TILE_THREADS, 4)
    elementwise_kernel(struct matrix in, struct matrix out)
{
    constexpr int EACH = ADD ? ADD_ROWS : COPY_ROWS;
    int64_t col = tile_col(N);
    if (col >= out.cols) return;
    for (int64_t first = tile_row(EACH); first < out.rows; first += tile_step(EACH)) {
        pack<In, N> x[EACH];
        pack<Out, N> y[EACH];
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int64_t row = first + e * blockDim.y;
            if (row >= out.rows) break;
            x[e] = load_pack<N>(row_of<In>(in, row) + col);
            if (ADD) y[e] = load_pack<N>(row_of<Out>(out, row) + col);
        }
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            int64_t row = first + e * blockDim.y;
            if (row >= out.rows) break;
            if (ADD)
                add(y[e], x[e]);
            else
                convert(y[e], x[e]);
            store_pack(row_of<Out>(out, row) + col, y[e]);
        }
    }
}

template <class In, class Out, bool ADD>
static void launch(struct device *device, const struct matrix *in, const struct matrix *out)
{
    constexpr int full = sizeof(In) > sizeof(Out) ? FULL(In) : FULL(Out);
    WITH_WIDTH(is_packed(in, full) && is_packed(out, full), full, N, {
        struct tiles tiles = tiles_for(device, out->rows, out->cols / N, ADD ? ADD_ROWS : COPY_ROWS);
        LAUNCH((elementwise_kernel<In, Out, N, ADD>), tiles.grid, tiles.block, 0, cuda_compute(device), *in,
               *out);
    });
}

enum status cuda_add(struct device *device, const struct op_add *args)
{
    WITH_ACT(args->x.dtype, In,
             WITH_ACT(args->y.dtype, Out, (launch<In, Out, true>(device, &args->x, &args->y))));
    return cuda_launched("add");
}

enum status cuda_copy(struct device *device, const struct op_copy *args)
{
    WITH_ACT(args->in.dtype, In,
             WITH_ACT(args->out.dtype, Out, (launch<In, Out, false>(device, &args->in, &args->out))));
    return cuda_launched("copy");
}
