/*
 * swiglu.cu: silu(gate) * up (Shazeer 2020) and its backward, arithmetic in f32 with one rounding at the end.
 */
#include "kernels/cuda/rows.cuh"

/* 16-bit results do not need the last digits, and the precise functions would cost more than the memory.
 * Error below 2e-6; 0 beyond -87. */
template <class T> INLINE float sigmoid(float x)
{
    const float log2_e = 1.4426950408889634f;
    return __fdividef(1.0f, 1.0f + exp2_quick(-log2_e * x));
}
template <> __device__ __forceinline__ float sigmoid<float>(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

enum { FORWARD_ROWS = 4, BACKWARD_ROWS = 2 }; /* of a thread */

template <class T, int N>
static __global__ void __launch_bounds__(TILE_THREADS, 4)
    swiglu_kernel(struct matrix gate_up, struct matrix a)
{
    int64_t col = tile_col(N), f = a.cols;
    if (col >= f) return;
    for (int64_t first = tile_row(FORWARD_ROWS); first < a.rows; first += tile_step(FORWARD_ROWS)) {
        pack<T, N> gate[FORWARD_ROWS], up[FORWARD_ROWS];
#pragma unroll
        for (int e = 0; e < FORWARD_ROWS; e++) {
            int64_t row = first + e * blockDim.y;
            if (row >= a.rows) break;
            gate[e] = load_pack<N>(row_of<T>(gate_up, row) + col);
            up[e] = load_pack<N>(row_of<T>(gate_up, row) + f + col);
        }
#pragma unroll
        for (int e = 0; e < FORWARD_ROWS; e++) {
            int64_t row = first + e * blockDim.y;
            if (row >= a.rows) break;
            float g[N], u[N];
            unpack(g, gate[e]);
            unpack(u, up[e]);
#pragma unroll
            for (int i = 0; i < N; i++) u[i] *= g[i] * sigmoid<T>(g[i]);
            store_pack(row_of<T>(a, row) + col, packed<T>(u));
        }
    }
}

/* silu'(g) = s + g s (1 - s) with s = sigmoid(g). */
template <class T, int N>
INLINE void differentiate(const pack<T, N> &gate, const pack<T, N> &up, const pack<T, N> &da,
                          pack<T, N> &d_gate, pack<T, N> &d_up)
{
    float g[N], u[N], d[N];
    unpack(g, gate);
    unpack(u, up);
    unpack(d, da);
#pragma unroll
    for (int i = 0; i < N; i++) {
        float s = sigmoid<T>(g[i]), silu = g[i] * s;
        u[i] = d[i] * u[i] * (s + silu * (1.0f - s));
        d[i] *= silu;
    }
    d_gate = packed<T>(u);
    d_up = packed<T>(d);
}

template <class T, int N>
static __global__ void __launch_bounds__(TILE_THREADS, 4)
    swiglu_backward_kernel(struct matrix gate_up, struct matrix da, struct matrix d_gate_up)
{
    int64_t col = tile_col(N), f = da.cols;
    if (col >= f) return;
    for (int64_t first = tile_row(BACKWARD_ROWS); first < da.rows; first += tile_step(BACKWARD_ROWS)) {
        pack<T, N> gate[BACKWARD_ROWS], up[BACKWARD_ROWS], d[BACKWARD_ROWS];
#pragma unroll
        for (int e = 0; e < BACKWARD_ROWS; e++) {
            int64_t row = first + e * blockDim.y;
            if (row >= da.rows) break;
            gate[e] = load_pack<N>(row_of<T>(gate_up, row) + col);
            up[e] = load_pack<N>(row_of<T>(gate_up, row) + f + col);
            d[e] = load_pack<N>(row_of<T>(da, row) + col);
        }
#pragma unroll
        for (int e = 0; e < BACKWARD_ROWS; e++) {
            int64_t row = first + e * blockDim.y;
            if (row >= da.rows) break;
            pack<T, N> d_gate, d_up;
            differentiate(gate[e], up[e], d[e], d_gate, d_up);
            store_pack(row_of<T>(d_gate_up, row) + col, d_gate);
            store_pack(row_of<T>(d_gate_up, row) + f + col, d_up);
        }
    }
}

enum status cuda_swiglu(struct device *device, const struct op_swiglu *args)
{
    const struct matrix *a = &args->a;
    int n = (int)(16 / dtype_bytes(a->dtype));
    WITH_ACT(a->dtype, T, WITH_WIDTH(is_packed(a, n) && is_packed(&args->gate_up, n), FULL(T), N, {
                 struct tiles tiles = tiles_for(device, a->rows, a->cols / N, FORWARD_ROWS);
                 LAUNCH((swiglu_kernel<T, N>), tiles.grid, tiles.block, 0, cuda_compute(device),
                        args->gate_up, *a);
             }));
    return cuda_launched("swiglu");
}

enum status cuda_swiglu_backward(struct device *device, const struct op_swiglu_backward *args)
{
    const struct matrix *da = &args->da;
    int n = (int)(16 / dtype_bytes(da->dtype));
    bool packed = is_packed(da, n) && is_packed(&args->gate_up, n) && is_packed(&args->d_gate_up, n);
    WITH_ACT(da->dtype, T, WITH_WIDTH(packed, FULL(T), N, {
                 struct tiles tiles = tiles_for(device, da->rows, da->cols / N, BACKWARD_ROWS);
                 LAUNCH((swiglu_backward_kernel<T, N>), tiles.grid, tiles.block, 0, cuda_compute(device),
                        args->gate_up, *da, args->d_gate_up);
             }));
    return cuda_launched("swiglu_backward");
}
