/*
 * attention_forward.cu: out and lse of causal attention over packed sequences.
 *
 * A block has one tile of queries of one head; a warp 16 M of its rows, for which it holds scores and sums in
 * registers. Keys and values share the time of each other's arrival: the next values come while scores are
 * computed, the next keys while values are summed.
 */
#include "kernels/cuda/attention_tile.cuh"

/* Sized for two blocks on a multiprocessor with 164 KiB of shared memory where 255 registers a thread allow
 * it; a warp with 32 rows loads each fragment of keys once for two products. */
template <class T, int D> struct forward_shape {
    enum {
        WARPS = sizeof(T) == 4 && D == 256 ? 2 : 4,
        M = sizeof(T) == 4 || D == 256 ? 1 : 2,
        KEYS = sizeof(T) == 4 ? 32 : 64,
        THREADS = WARPS * WARP,
        ROWS = WARPS * 16 * M,
        BYTES = (ROWS + 2 * KEYS) * tile_row<T, D>::LD * (int)sizeof(T),
    };
};

/* Softmax as far as it is known of a warp's rows. sum is a lane's own share. */
template <int M> struct softmax {
    float most[M][2], sum[M][2];
};

/* Scores that are not to be start at -inf and stay there: hidden after the product, they would cost registers
 * where these are fewest. */
template <int M, int N>
INLINE void hide(float (&scores)[M][N][4], int query, int key, const struct tile_call &call)
{
    int lane = threadIdx.x % WARP;
    int ahead = query + lane / 4 - key - lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (!sees(ahead + 16 * m + e / 2 * 8, 8 * n + e % 2, call.window))
                    scores[m][n][e] = -INFINITY;
}

/* Scores become exp(scale (score - the row's maximum)); what was summed under an older maximum shrinks. A row
 * that has seen no key has maximum -inf. */
template <int M, int N, int OUT>
INLINE void softmax_step(struct softmax<M> &s, float (&scores)[M][N][4], float (&out)[M][OUT][4],
                         float scale2)
{
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float most = s.most[m][h], sum = 0.0f;
#pragma unroll
            for (int n = 0; n < N; n++)
                most = fmaxf(most, fmaxf(scores[m][n][2 * h], scores[m][n][2 * h + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            /* from one rounded base to the next, not fused: exactly 1 where the maximum stays, or else what
             * came before would weigh more or less with every tile */
            float base = most == -INFINITY ? 0.0f : __fmul_rn(most, scale2);
            float shrink = exp2_quick(__fmul_rn(s.most[m][h], scale2) - base);
#pragma unroll
            for (int n = 0; n < N; n++) {
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) {
                    scores[m][n][e] = exp2_quick(fmaf(scores[m][n][e], scale2, -base));
                    sum += scores[m][n][e];
                }
            }
            s.most[m][h] = most;
            s.sum[m][h] = fmaf(s.sum[m][h], shrink, sum);
#pragma unroll
            for (int n = 0; n < OUT; n++) {
                out[m][n][2 * h] *= shrink;
                out[m][n][2 * h + 1] *= shrink;
            }
        }
    }
}

/* sum becomes what the rows' outputs are divided by, most the log-sum-exp. */
template <int M> INLINE void softmax_finish(struct softmax<M> &s, float scale)
{
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float sum = s.sum[m][h];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            s.most[m][h] = fmaf(s.most[m][h], scale, logf(sum));
            s.sum[m][h] = 1.0f / sum;
        }
    }
}

template <class T, int D>
static __global__ __launch_bounds__(forward_shape<T, D>::THREADS) void forward_kernel(struct op_attention a,
                                                                                      struct tile_call call)
{
    typedef forward_shape<T, D> S;
    enum { M = S::M, KEYS = S::KEYS, LD = tile_row<T, D>::LD };
    DYNAMIC_SHARED(shared);
    T *q_tile = (T *)shared, *k_tile = q_tile + S::ROWS * LD, *v_tile = k_tile + KEYS * LD;
    struct place p = find_place(call, blockIdx.x / call.q_heads, S::ROWS);
    if (p.tile >= p.tiles) return;
    int head = blockIdx.x % call.q_heads, kv_col = head / call.group * call.head_dim;
    int first = (p.tiles - 1 - p.tile) * S::ROWS; /* the most keys first */
    int end = first + S::ROWS < p.length ? first + S::ROWS : p.length;
    int key = first >= call.window ? (first - call.window + 1) / KEYS * KEYS : 0;
    int warp_row = threadIdx.x / WARP * 16 * M, warp_first = first + warp_row;

    const T *q = element_at<T>(a.q, p.token + first, head * call.head_dim);
    tile_load<T, D, S::ROWS, S::THREADS>(q_tile, q, a.q.stride, end - first, call);
    const T *k = element_at<T>(a.k, p.token + key, kv_col);
    tile_load<T, D, KEYS, S::THREADS>(k_tile, k, a.k.stride, end - key, call);
    commit_copies();

    float out[M][D / 8][4];
    struct softmax<M> soft;
    product_zero(out);
#pragma unroll
    for (int m = 0; m < M; m++) {
        soft.most[m][0] = soft.most[m][1] = -INFINITY;
        soft.sum[m][0] = soft.sum[m][1] = 0.0f;
    }
    for (; key < end; key += KEYS) {
        bool seen = any_seen(warp_first, 16 * M, key, KEYS, call.window);
        float scores[M][KEYS / 8][4];
        wait_copies<0>();
        __syncthreads(); /* keys are here, and the last values are used */
        const T *v = element_at<T>(a.v, p.token + key, kv_col);
        tile_load<T, D, KEYS, S::THREADS>(v_tile, v, a.v.stride, end - key, call);
        commit_copies();
        if (seen) {
            product_zero(scores);
            if (any_hidden(warp_first, 16 * M, key, KEYS, call.window)) hide(scores, warp_first, key, call);
            multiply_rows<T, D>(scores, q_tile + warp_row * LD, k_tile);
        }
        wait_copies<0>();
        __syncthreads(); /* values are here, and the keys are used */
        k = element_at<T>(a.k, p.token + key + KEYS, kv_col);
        if (key + KEYS < end)
            tile_load<T, D, KEYS, S::THREADS>(k_tile, k, a.k.stride, end - key - KEYS, call);
        commit_copies();
        if (seen) {
            softmax_step(soft, scores, out, call.scale2);
            multiply_product<T, D>(out, scores, v_tile);
        }
    }

    softmax_finish(soft, call.scale);
    int lane = threadIdx.x % WARP;
    float *lse = a.lse + head * a.q.rows + p.token + warp_first + lane / 4;
#pragma unroll
    for (int i = 0; i < 2 * M; i++)
        if (lane % 4 == 0 && warp_first + lane / 4 + 8 * i < end) lse[8 * i] = soft.most[i / 2][i % 2];
    T *to = element_at<T>(a.out, p.token + warp_first, head * call.head_dim);
    product_store<T, D>(to, a.out.stride, end - warp_first, call.head_dim, out, soft.sum,
                        q_tile + warp_row * LD, call.vectors);
}

template <class T, int D>
static enum status forward(struct device *device, const struct op_attention *args,
                           const struct tile_call *call)
{
    typedef forward_shape<T, D> S;
    static_assert((int)S::BYTES <= (int)SHARED_ANYWHERE, "fits every GPU");
    int64_t blocks = tile_slots(args->q.rows, call->count, S::ROWS) * call->q_heads;
    CUDA_TRY(allow_shared(forward_kernel<T, D>, S::BYTES));
    LAUNCH((forward_kernel<T, D>), (int)blocks, S::THREADS, S::BYTES, cuda_compute(device), *args, *call);
    return cuda_launched("attention");
}

enum status flash_attention(struct device *device, const struct op_attention *args)
{
    struct tile_call call =
        tile_call_of(&args->q, &args->k, args->head_dim, args->scale, args->window, &args->sequences);
    call.vectors = call.vectors && rows_aligned(&args->v) && rows_aligned(&args->out);
    WITH_ACT(args->q.dtype, T, WITH_COLUMNS(args->head_dim, D, return (forward<T, D>(device, args, &call))));
}
