/*
 * attention_backward.cu: the gradients of attention, in three kernels without a common sum:
 *   delta = rowsum(dout * out), in the scratch;
 *   dq: a block has a tile of queries of one head, and keys pass;
 *   dk, dv: a block has a tile of keys of one key/value head, and the queries of all its heads pass.
 * With p = exp(scale q k - lse) and ds = p (dout v - delta): dv = p^T dout, dk = scale ds^T q, dq = scale ds
 * k.
 *
 * 1. Scores have the side that stays down and the side that passes across. So a warp's p and ds are at once
 * the left side of the products that follow, and never leave its registers.
 * 2. What passes has two places in shared memory: one is used while the other fills.
 * 3. A query beyond the sequence's end has lse = inf, so that its p is 0.
 */
#include "kernels/cuda/attention_tile.cuh"

/* ---- delta ---- */

/* A group of lanes, a power of two, has one head of one token. */
template <class T>
static __global__ void delta_kernel(struct matrix out, struct matrix dout, float *delta, int head_dim,
                                    int lanes, bool vectors)
{
    enum { N = vec16<T>::N };
    int heads = (int)(out.cols / head_dim), lane = threadIdx.x % lanes;
    int64_t item = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / lanes, token = item / heads;
    int head = (int)(item % heads);
    bool valid = token < out.rows;
    float sum = 0.0f;
    for (int col = lane * N; valid && col < head_dim; col += lanes * N) {
        const T *x = (const T *)out.data + token * out.stride + head * head_dim + col;
        const T *y = (const T *)dout.data + token * dout.stride + head * head_dim + col;
        if (vectors) {
            vec16<T> a = load16(x), b = load16(y);
            for (int i = 0; i < N; i++) sum = fmaf(to_float(a.value[i]), to_float(b.value[i]), sum);
        } else {
            for (int i = 0; i < N; i++) sum = fmaf(to_float(x[i]), to_float(y[i]), sum);
        }
    }
    for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (valid && lane == 0) delta[head * out.rows + token] = sum;
}

template <class T>
static enum status delta(struct device *device, const struct op_attention_backward *args,
                         const struct tile_call *call)
{
    enum { THREADS = 256 };
    int lanes = 1;
    while (lanes < WARP && lanes * (int)vec16<T>::N < call->head_dim) lanes *= 2;
    int64_t blocks = blocks_for(args->q.rows * call->q_heads * lanes, THREADS);
    LAUNCH(delta_kernel<T>, (int)blocks, THREADS, 0, cuda_compute(device), args->out, args->dout,
           (float *)args->scratch, call->head_dim, lanes, call->vectors);
    return cuda_launched("attention_backward: delta");
}

/* ---- dq ---- */

/* SMALL: for SHARED_ANYWHERE, which GPUs between the great ones have (f32, which is for comparisons, always
 * does with that). Else for SHARED_GREAT. */
template <class T, int D, bool SMALL> struct query_shape {
    enum {
        F32 = sizeof(T) == 4,
        WARPS = F32 && D == 256 ? 2 : 4,
        M = F32 || SMALL || D == 256 ? 1 : 2,
        KEYS = F32                 ? 2048 / D
               : D == 64           ? 64
               : SMALL && D == 256 ? 16
                                   : 32,
        THREADS = WARPS * WARP,
        ROWS = WARPS * 16 * M,
        BYTES = (2 * ROWS + 4 * KEYS) * tile_row<T, D>::LD * (int)sizeof(T),
    };
};

/* Scores of a warp's queries become ds. */
template <int M, int N>
INLINE void query_dscores(float (&scores)[M][N][4], const float (&dp)[M][N][4], const float (&lse2)[M][2],
                          const float (&delta)[M][2], int query, int key, const struct tile_call &call)
{
    int lane = threadIdx.x % WARP, ahead = query + lane / 4 - key - lane % 4 * 2;
    bool hidden = any_hidden(query, 16 * M, key, 8 * N, call.window);
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float p = exp2_quick(fmaf(scores[m][n][e], call.scale2, -lse2[m][e / 2]));
                if (hidden && !sees(ahead + 16 * m + e / 2 * 8, 8 * n + e % 2, call.window)) p = 0.0f;
                scores[m][n][e] = p * (dp[m][n][e] - delta[m][e / 2]);
            }
        }
    }
}

template <class T, int D, bool SMALL>
static __global__ __launch_bounds__(query_shape<T, D, SMALL>::THREADS) void query_kernel(
    struct op_attention_backward a, struct tile_call call)
{
    typedef query_shape<T, D, SMALL> S;
    enum { M = S::M, KEYS = S::KEYS, LD = tile_row<T, D>::LD, STAGE = 2 * KEYS * LD };
    DYNAMIC_SHARED(shared);
    T *q_tile = (T *)shared, *dout_tile = q_tile + S::ROWS * LD, *passing = dout_tile + S::ROWS * LD;
    struct place p = find_place(call, blockIdx.x / call.q_heads, S::ROWS);
    if (p.tile >= p.tiles) return;
    int head = blockIdx.x % call.q_heads, col = head * call.head_dim;
    int kv_col = head / call.group * call.head_dim;
    int first = (p.tiles - 1 - p.tile) * S::ROWS; /* the most keys first */
    int end = first + S::ROWS < p.length ? first + S::ROWS : p.length;
    int key = first >= call.window ? (first - call.window + 1) / KEYS * KEYS : 0;
    int warp_row = threadIdx.x / WARP * 16 * M, warp_first = first + warp_row;
    auto load_keys = [&](int at, T *tile) {
        const T *k = element_at<T>(a.k, p.token + at, kv_col), *v = element_at<T>(a.v, p.token + at, kv_col);
        tile_load<T, D, KEYS, S::THREADS>(tile, k, a.k.stride, end - at, call);
        tile_load<T, D, KEYS, S::THREADS>(tile + KEYS * LD, v, a.v.stride, end - at, call);
    };

    const T *q = element_at<T>(a.q, p.token + first, col);
    const T *dout = element_at<T>(a.dout, p.token + first, col);
    tile_load<T, D, S::ROWS, S::THREADS>(q_tile, q, a.q.stride, end - first, call);
    tile_load<T, D, S::ROWS, S::THREADS>(dout_tile, dout, a.dout.stride, end - first, call);
    load_keys(key, passing);
    commit_copies();

    float dq[M][D / 8][4], lse2[M][2], delta[M][2];
    product_zero(dq);
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        int row = warp_first + threadIdx.x % WARP / 4 + 8 * i;
        int64_t at = head * a.q.rows + p.token + row;
        lse2[i / 2][i % 2] = row < end ? a.lse[at] * LOG2_E : INFINITY;
        delta[i / 2][i % 2] = row < end ? ((const float *)a.scratch)[at] : 0.0f;
    }
    for (int stage = 0; key < end; key += KEYS, stage ^= 1) {
        const T *k_tile = passing + stage * STAGE, *v_tile = k_tile + KEYS * LD;
        wait_copies<0>();
        __syncthreads(); /* these keys are here, and those before are used */
        if (key + KEYS < end) load_keys(key + KEYS, passing + (stage ^ 1) * STAGE);
        commit_copies();
        if (!any_seen(warp_first, 16 * M, key, KEYS, call.window)) continue;
        float scores[M][KEYS / 8][4], dp[M][KEYS / 8][4];
        product_zero(scores);
        product_zero(dp);
        multiply_rows<T, D>(scores, q_tile + warp_row * LD, k_tile);
        multiply_rows<T, D>(dp, dout_tile + warp_row * LD, v_tile);
        query_dscores(scores, dp, lse2, delta, warp_first, key, call);
        multiply_product<T, D>(dq, scores, k_tile);
    }

    float factor[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) factor[m][0] = factor[m][1] = call.scale;
    product_store<T, D>(element_at<T>(a.dq, p.token + warp_first, col), a.dq.stride, end - warp_first,
                        call.head_dim, dq, factor, q_tile + warp_row * LD, call.vectors);
}

/* ---- dk, dv ---- */

/* Warps stand DOWN along the keys and ACROSS along the columns of dk and dv; those side by side compute the
 * same scores. */
template <class T, int D, bool SMALL> struct key_shape {
    enum {
        F32 = sizeof(T) == 4,
        ACROSS = D == 256 ? 2 : 1,
        DOWN = D == 256 && (F32 || SMALL)   ? 2
               : D == 128 && !F32 && !SMALL ? 8
                                            : 4,
        M = D == 64 && !F32 ? 2 : 1,
        QUERIES = F32                  ? (D == 64 ? 32 : 8)
                  : D == 256 && SMALL  ? 16
                  : D == 128 && !SMALL ? 64
                                       : 32,
        THREADS = DOWN * ACROSS * WARP,
        ROWS = DOWN * 16 * M,
        BYTES = (2 * ROWS + 4 * QUERIES) * tile_row<T, D>::LD * (int)sizeof(T),
    };
};

/* Scores of a warp's keys, with queries across, become p. */
template <int M, int N>
INLINE void key_probabilities(float (&scores)[M][N][4], const float *lse2, int query, int key,
                              const struct tile_call &call)
{
    int lane = threadIdx.x % WARP, ahead = query + lane % 4 * 2 - key - lane / 4;
    bool hidden = any_hidden(query, 8 * N, key, 16 * M, call.window);
#pragma unroll
    for (int n = 0; n < N; n++) {
        float most[2] = {lse2[8 * n + lane % 4 * 2], lse2[8 * n + lane % 4 * 2 + 1]};
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float p = exp2_quick(fmaf(scores[m][n][e], call.scale2, -most[e % 2]));
                if (hidden && !sees(ahead + 8 * n + e % 2, 16 * m + e / 2 * 8, call.window)) p = 0.0f;
                scores[m][n][e] = p;
            }
        }
    }
}

/* p becomes ds. */
template <int M, int N>
INLINE void key_dscores(float (&p)[M][N][4], const float (&dp)[M][N][4], const float *delta)
{
    int col = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < N; n++) {
        float less[2] = {delta[8 * n + col], delta[8 * n + col + 1]};
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) p[m][n][e] *= dp[m][n][e] - less[e % 2];
    }
}

template <class T, int D, bool SMALL>
static __global__ __launch_bounds__(key_shape<T, D, SMALL>::THREADS) void key_kernel(
    struct op_attention_backward a, struct tile_call call)
{
    typedef key_shape<T, D, SMALL> S;
    enum { M = S::M, QUERIES = S::QUERIES, COLS = D / S::ACROSS };
    enum { LD = tile_row<T, D>::LD, STAGE = 2 * QUERIES * LD };
    DYNAMIC_SHARED(shared);
    __shared__ float row_numbers[2][2 * QUERIES]; /* lse2, delta */
    T *k_tile = (T *)shared, *v_tile = k_tile + S::ROWS * LD, *passing = v_tile + S::ROWS * LD;
    int kv_heads = call.q_heads / call.group;
    struct place p = find_place(call, blockIdx.x / kv_heads, S::ROWS);
    if (p.tile >= p.tiles) return;
    int kv_head = blockIdx.x % kv_heads, kv_col = kv_head * call.head_dim;
    int first = p.tile * S::ROWS; /* the first keys are seen by the most queries */
    int rows = p.length - first;
    int end = call.window < rows - S::ROWS + 1 ? first + S::ROWS - 1 + call.window : p.length;
    int warp = threadIdx.x / WARP, warp_row = warp % S::DOWN * 16 * M, warp_first = first + warp_row;
    int warp_col = warp / S::DOWN * COLS;
    auto load_queries = [&](int head, int query, T *tile) {
        int at = p.token + query, col = head * call.head_dim;
        const T *q = element_at<T>(a.q, at, col), *dout = element_at<T>(a.dout, at, col);
        tile_load<T, D, QUERIES, S::THREADS>(tile, q, a.q.stride, p.length - query, call);
        tile_load<T, D, QUERIES, S::THREADS>(tile + QUERIES * LD, dout, a.dout.stride, p.length - query,
                                             call);
    };
    auto load_number = [&](int head, int query) {
        bool is_delta = threadIdx.x >= QUERIES;
        query += threadIdx.x % QUERIES;
        if (threadIdx.x >= 2 * QUERIES || query >= p.length) return is_delta ? 0.0f : INFINITY;
        int64_t at = head * a.q.rows + p.token + query;
        return is_delta ? ((const float *)a.scratch)[at] : a.lse[at] * LOG2_E;
    };

    int head = kv_head * call.group, last_head = head + call.group, query = first;
    const T *k = element_at<T>(a.k, p.token + first, kv_col);
    const T *v = element_at<T>(a.v, p.token + first, kv_col);
    tile_load<T, D, S::ROWS, S::THREADS>(k_tile, k, a.k.stride, rows, call);
    tile_load<T, D, S::ROWS, S::THREADS>(v_tile, v, a.v.stride, rows, call);
    load_queries(head, query, passing);
    commit_copies();
    float number = load_number(head, query);
    if (threadIdx.x < 2 * QUERIES) row_numbers[0][threadIdx.x] = number;

    float dk[M][COLS / 8][4], dv[M][COLS / 8][4];
    product_zero(dk);
    product_zero(dv);
    for (int stage = 0; head < last_head; stage ^= 1) {
        const T *q_tile = passing + stage * STAGE, *dout_tile = q_tile + QUERIES * LD;
        int this_query = query;
        wait_copies<0>();
        __syncthreads(); /* these queries are here, and those before are used */
        query += QUERIES;
        if (query >= end) {
            query = first;
            head++;
        }
        if (head < last_head) {
            load_queries(head, query, passing + (stage ^ 1) * STAGE);
            number = load_number(head, query);
        }
        commit_copies();
        if (any_seen(this_query, QUERIES, warp_first, 16 * M, call.window)) {
            float scores[M][QUERIES / 8][4], dp[M][QUERIES / 8][4];
            product_zero(scores);
            multiply_rows<T, D>(scores, k_tile + warp_row * LD, q_tile);
            key_probabilities(scores, row_numbers[stage], this_query, warp_first, call);
            multiply_product<T, D>(dv, scores, dout_tile + warp_col);
            product_zero(dp);
            multiply_rows<T, D>(dp, v_tile + warp_row * LD, dout_tile);
            key_dscores(scores, dp, row_numbers[stage] + QUERIES);
            multiply_product<T, D>(dk, scores, q_tile + warp_col);
        }
        if (threadIdx.x < 2 * QUERIES) row_numbers[stage ^ 1][threadIdx.x] = number;
    }

    float dk_factor[M][2], dv_factor[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) {
        dk_factor[m][0] = dk_factor[m][1] = call.scale;
        dv_factor[m][0] = dv_factor[m][1] = 1.0f;
    }
    __syncthreads(); /* warps side by side have the same rows */
    int64_t at = p.token + warp_first;
    product_store<T, D>(element_at<T>(a.dk, at, kv_col + warp_col), a.dk.stride, p.length - warp_first,
                        call.head_dim - warp_col, dk, dk_factor, k_tile + warp_row * LD + warp_col,
                        call.vectors);
    product_store<T, D>(element_at<T>(a.dv, at, kv_col + warp_col), a.dv.stride, p.length - warp_first,
                        call.head_dim - warp_col, dv, dv_factor, v_tile + warp_row * LD + warp_col,
                        call.vectors);
}

template <class T, int D, bool SMALL>
static enum status backward_shaped(struct device *device, const struct op_attention_backward *args,
                                   const struct tile_call *call)
{
    typedef query_shape<T, D, SMALL> Q;
    typedef key_shape<T, D, SMALL> K;
    enum { MOST = SMALL || sizeof(T) == 4 || D == 64 ? SHARED_ANYWHERE : SHARED_GREAT };
    static_assert((int)Q::BYTES <= (int)MOST, "fits the GPUs that it is for");
    static_assert((int)K::BYTES + 4 * (int)K::QUERIES * (int)sizeof(float) <= (int)MOST, "with row_numbers");
    int64_t tiles = tile_slots(args->q.rows, call->count, K::ROWS);
    int64_t blocks = tiles * (call->q_heads / call->group);
    CUDA_TRY(allow_shared(key_kernel<T, D, SMALL>, K::BYTES));
    LAUNCH((key_kernel<T, D, SMALL>), (int)blocks, K::THREADS, K::BYTES, cuda_compute(device), *args, *call);
    TRY(cuda_launched("attention_backward: dk, dv"));
    blocks = tile_slots(args->q.rows, call->count, Q::ROWS) * call->q_heads;
    CUDA_TRY(allow_shared(query_kernel<T, D, SMALL>, Q::BYTES));
    LAUNCH((query_kernel<T, D, SMALL>), (int)blocks, Q::THREADS, Q::BYTES, cuda_compute(device), *args,
           *call);
    return cuda_launched("attention_backward: dq");
}

template <class T, int D>
static enum status backward(struct device *device, const struct op_attention_backward *args,
                            const struct tile_call *call)
{
    TRY(delta<T>(device, args, call));
    if constexpr (sizeof(T) == 2 && D > 64)
        if (cuda_of(device)->shared_bytes < SHARED_GREAT)
            return backward_shaped<T, D, true>(device, args, call);
    return backward_shaped<T, D, false>(device, args, call);
}

size_t flash_attention_scratch(const struct attention_shape *shape)
{
    if (!shape->dqkv_stride) return 0;
    return (size_t)shape->max_tokens * (size_t)shape->q_heads * sizeof(float);
}

enum status flash_attention_backward(struct device *device, const struct op_attention_backward *args)
{
    const struct matrix *all[] = {&args->v, &args->out, &args->dout, &args->dq, &args->dk, &args->dv};
    struct tile_call call =
        tile_call_of(&args->q, &args->k, args->head_dim, args->scale, args->window, &args->sequences);
    for (int i = 0; i < 6; i++) call.vectors = call.vectors && rows_aligned(all[i]);
    WITH_ACT(args->q.dtype, T, WITH_COLUMNS(args->head_dim, D, return (backward<T, D>(device, args, &call))));
}
