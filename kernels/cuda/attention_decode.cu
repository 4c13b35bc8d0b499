/*
 * attention_decode.cu: attention of one new token to a cache.
 *
 * The cache is read once: a block has some keys of one key/value head and up to HEADS of its query heads, and
 * leaves, for each, the outputs' sum with the softmax's maximum and sum over its keys. A second kernel
 * combines the blocks in their order.
 *
 * 1. LANES threads side by side hold 8 columns each of a key's or value's row; THREADS / LANES rows pass at a
 * time. A row beyond the last is not read.
 */
#include "kernels/cuda/kernel.cuh"

#define LOG2_E 1.4426950408889634f

enum { THREADS = 256, WARPS = THREADS / WARP, HEADS = 8, CHUNK = 128, WIDE = 8 };

struct decode_call {
    int q_heads, group, head_dim;
    int head_blocks;   /* blocks for the query heads of one key/value head */
    int first, length; /* keys [first, length) */
    int split_keys;    /* keys of a block, a multiple of CHUNK */
    int splits;
    float scale2;   /* exp(scale x) = exp2(scale2 x) */
    bool vectors;   /* every row starts at a 16-byte border */
    float *partial; /* [q_heads][splits][head_dim + 2]: outputs, maximum in units of exp2, sum */
};

template <class T> INLINE void load_wide(float (&out)[WIDE], const T *from, bool vectors)
{
    enum { N = vec16<T>::N };
    if (!vectors) {
        for (int i = 0; i < WIDE; i++) out[i] = to_float(from[i]);
        return;
    }
#pragma unroll
    for (int i = 0; i < WIDE; i += N) {
        vec16<T> x = load16(from + i);
#pragma unroll
        for (int j = 0; j < N; j++) out[i + j] = to_float(x.value[j]);
    }
}

/* Scores of the chunk's keys, in units of exp2. */
template <class T, int LANES>
INLINE void decode_scores(float (*scores)[CHUNK], const float (&q)[HEADS][WIDE], const struct matrix &cache,
                          int col, bool inside, int n_heads, int key, int end, bool vectors)
{
    enum { ROWS = THREADS / LANES };
#pragma unroll 4
    for (int row = threadIdx.x / LANES; row < CHUNK; row += ROWS) {
        float k[WIDE] = {0};
        if (inside && key + row < end)
            load_wide(k, (const T *)cache.data + (int64_t)(key + row) * cache.stride + col, vectors);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (h >= n_heads) break;
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < WIDE; i++) sum = fmaf(q[h][i], k[i], sum);
#pragma unroll
            for (int step = LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
            if (threadIdx.x % LANES == 0) scores[h][row] = key + row < end ? sum : -INFINITY;
        }
    }
}

struct decode_softmax {
    float most[HEADS], sum[HEADS], shrink[HEADS];
};

/* A warp for each head: scores become exp(score - maximum); shrink is for what was summed before. */
INLINE void decode_probabilities(float (*scores)[CHUNK], struct decode_softmax *s, int n_heads)
{
    int h = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (h >= n_heads) return;
    float old = s->most[h], most = old, sum = 0.0f;
    for (int i = lane; i < CHUNK; i += WARP) most = fmaxf(most, scores[h][i]);
    most = warp_max(most);
    for (int i = lane; i < CHUNK; i += WARP) sum += scores[h][i] = exp2_quick(scores[h][i] - most);
    sum = warp_sum(sum);
    if (lane > 0) return;
    s->shrink[h] = exp2_quick(old - most);
    s->most[h] = most;
    s->sum[h] = fmaf(s->sum[h], s->shrink[h], sum);
}

template <class T, int LANES>
INLINE void decode_values(float (&out)[HEADS][WIDE], const float (*p)[CHUNK], const float *shrink,
                          const struct matrix &cache, int col, bool inside, int n_heads, int key, int end,
                          bool vectors)
{
    enum { ROWS = THREADS / LANES };
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (h >= n_heads) break;
#pragma unroll
        for (int i = 0; i < WIDE; i++) out[h][i] *= shrink[h];
    }
#pragma unroll 4
    for (int row = threadIdx.x / LANES; row < CHUNK; row += ROWS) {
        float v[WIDE] = {0};
        if (inside && key + row < end)
            load_wide(v, (const T *)cache.data + (int64_t)(key + row) * cache.stride + col, vectors);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (h >= n_heads) break;
#pragma unroll
            for (int i = 0; i < WIDE; i++) out[h][i] = fmaf(p[h][row], v[i], out[h][i]);
        }
    }
}

template <class T, int LANES>
static __global__ __launch_bounds__(THREADS) void decode_kernel(struct op_attention_decode a,
                                                                struct decode_call call)
{
    __shared__ float scores[HEADS][CHUNK], room[WARPS][LANES * WIDE];
    __shared__ struct decode_softmax soft;
    int kv_head = blockIdx.y / call.head_blocks, within = blockIdx.y % call.head_blocks * HEADS;
    int n_heads = call.group - within < HEADS ? call.group - within : HEADS;
    int head = kv_head * call.group + within, split = blockIdx.x;
    int key = call.first + split * call.split_keys;
    int end = call.length - key < call.split_keys ? call.length : key + call.split_keys;
    int lane_col = threadIdx.x % LANES * WIDE, col = kv_head * call.head_dim + lane_col;
    bool inside = lane_col < call.head_dim;

    float q[HEADS][WIDE] = {{0}}, out[HEADS][WIDE] = {{0}};
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (h >= n_heads || !inside) break;
        load_wide(q[h], (const T *)a.q.data + (head + h) * call.head_dim + lane_col, call.vectors);
#pragma unroll
        for (int i = 0; i < WIDE; i++) q[h][i] *= call.scale2;
    }
    if (threadIdx.x < HEADS) {
        soft.most[threadIdx.x] = -INFINITY;
        soft.sum[threadIdx.x] = 0.0f;
    }
    for (; key < end; key += CHUNK) {
        decode_scores<T, LANES>(scores, q, a.k_cache, col, inside, n_heads, key, end, call.vectors);
        __syncthreads();
        decode_probabilities(scores, &soft, n_heads);
        __syncthreads();
        decode_values<T, LANES>(out, scores, soft.shrink, a.v_cache, col, inside, n_heads, key, end,
                                call.vectors);
        __syncthreads();
    }

#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (h >= n_heads) break;
        float *partial = call.partial + ((int64_t)(head + h) * call.splits + split) * (call.head_dim + 2);
#pragma unroll
        for (int i = 0; i < WIDE; i++) {
            float x = out[h][i];
            for (int step = LANES; step < WARP; step *= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
            if (threadIdx.x % WARP < LANES) room[threadIdx.x / WARP][lane_col + i] = x;
        }
        __syncthreads();
        if ((int)threadIdx.x < call.head_dim) {
            float sum = 0.0f;
            for (int w = 0; w < WARPS; w++) sum += room[w][threadIdx.x];
            partial[threadIdx.x] = sum;
        }
        if (threadIdx.x == 0) {
            partial[call.head_dim] = soft.most[h];
            partial[call.head_dim + 1] = soft.sum[h];
        }
        __syncthreads();
    }
}

/* A block for each query head, a thread for each column. */
template <class T> static __global__ void combine_kernel(T *out, struct decode_call call)
{
    int step = call.head_dim + 2, col = threadIdx.x;
    const float *partial = call.partial + (int64_t)blockIdx.x * call.splits * step;
    float most = -INFINITY, sum = 0.0f, total = 0.0f;
    for (int s = 0; s < call.splits; s++) most = fmaxf(most, partial[s * step + call.head_dim]);
    for (int s = 0; s < call.splits; s++) {
        float share = exp2_quick(partial[s * step + call.head_dim] - most);
        sum = fmaf(share, partial[s * step + call.head_dim + 1], sum);
        total = fmaf(share, partial[s * step + col], total);
    }
    out[(int64_t)blockIdx.x * call.head_dim + col] = from_float<T>(total / sum);
}

/* Enough blocks for every multiprocessor to have two, of whole chunks; bounded by the workspace. */
static void decode_split(struct decode_call *call, int multiprocessors)
{
    int64_t heads = call->q_heads / call->group * call->head_blocks;
    int64_t keys = call->length - call->first, splits = blocks_for(2 * (int64_t)multiprocessors, heads);
    int64_t most = CUDA_WORKSPACE_BYTES / ((int64_t)sizeof(float) * call->q_heads * (call->head_dim + 2));
    if (splits > most) splits = most;
    call->split_keys = (int)blocks_for(blocks_for(keys, CHUNK), splits) * CHUNK;
    call->splits = (int)blocks_for(keys, call->split_keys);
}

template <class T>
static enum status decode(struct device *device, const struct op_attention_decode *args,
                          const struct decode_call *call)
{
    cudaStream_t stream = cuda_compute(device);
    dim3 grid((unsigned)call->splits, (unsigned)(call->q_heads / call->group * call->head_blocks));
    if (call->head_dim <= 8 * WIDE)
        LAUNCH((decode_kernel<T, 8>), grid, THREADS, 0, stream, *args, *call);
    else if (call->head_dim <= 16 * WIDE)
        LAUNCH((decode_kernel<T, 16>), grid, THREADS, 0, stream, *args, *call);
    else
        LAUNCH((decode_kernel<T, 32>), grid, THREADS, 0, stream, *args, *call);
    TRY(cuda_launched("attention_decode"));
    LAUNCH(combine_kernel<T>, call->q_heads, call->head_dim, 0, stream, (T *)args->out.data, *call);
    return cuda_launched("attention_decode: combine");
}

static bool rows_aligned(const struct matrix *m)
{
    return is_aligned(m->data, 16) && m->stride * dtype_bytes(m->dtype) % 16 == 0;
}

enum status cuda_attention_decode(struct device *device, const struct op_attention_decode *args)
{
    struct decode_call call;
    call.head_dim = args->head_dim;
    call.q_heads = (int)(args->q.cols / args->head_dim);
    call.group = (int)(args->q.cols / args->k_cache.cols);
    call.head_blocks = (int)blocks_for(call.group, HEADS);
    call.length = args->length;
    call.first = args->window > 0 && args->window < args->length ? args->length - args->window : 0;
    call.scale2 = args->scale * LOG2_E;
    call.vectors =
        is_aligned(args->q.data, 16) && rows_aligned(&args->k_cache) && rows_aligned(&args->v_cache);
    call.partial = (float *)cuda_of(device)->workspace;
    decode_split(&call, cuda_of(device)->multiprocessors);
    WITH_ACT(args->q.dtype, T, return decode<T>(device, args, &call));
}
