/*
 * skinny.cu: see skinny.h.
 *
 * project: out[t, r] = sum over k of wide[t, k] factor(k, r). A block takes 128 tokens and a range of k, and
 * writes f32 partial sums; a second kernel adds the ranges in order and rounds once.
 * gather: sum over t of wide[t, c] small[t, r]. A block takes 128 columns c and a range of tokens; again a
 * second kernel adds the ranges in order, into the gradient.
 * Both stream `wide` through three buffers in shared memory. How many ranges there are follows from the
 * shape, so that the blocks fill the GPU.
 *
 * Invariants: 1. Partial sums of a call lie in the device's workspace: group, range, then the block's matrix.
 * 2. A group is what shares a mask: all parts when there is none, else one part. Its columns of R begin at a
 * multiple of 8 and may take in a neighbour's; the second kernel picks each column from its own part's group.
 */
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/skinny.h"

enum {
    THREADS = 128,
    TOKENS = 128, /* of a block of project */
    COLS = 128,   /* of a block of gather: 32 a warp */
    STAGES = 3,
    MOST_TILES = 12, /* 8-column tiles of R that a warp sums at a time */
    BLOCKS_EACH = 2, /* blocks that a multiprocessor holds at once */
    MOST_RANGES = 32,
    LEAST_STEPS = 4, /* steps of a range, below which filling the buffers would dominate */
};

/* Where the parts lie, for kernels. */
struct skinny_shape {
    int32_t parts, used, spare;
    int32_t rank_first[PANEL_PARTS + 1];
    int64_t out_first[PANEL_PARTS + 1];
};

struct skinny_call {
    const void *wide, *other; /* other: the factor of project, the small matrix of gather */
    int64_t wide_stride, other_stride;
    const uint32_t *bits; /* [part][tokens][words] */
    int64_t bits_part, bits_row;
    float *partial;
    int64_t tokens, cols; /* of wide */
    int32_t ranges, chunks, width;
    int32_t first[PANEL_PARTS]; /* of each group */
    int32_t part[PANEL_PARTS];  /* whose mask it has */
    bool diagonal;              /* column c of wide meets only the columns of R of its own part */
    struct skinny_shape shape;
};

/* The columns [*first, *last) of R that columns [col, end) of wide meet. */
INLINE void columns_met(const struct skinny_call &call, int64_t col, int64_t end, int *first, int *last)
{
    *first = 0;
    *last = call.shape.used;
    if (!call.diagonal) return;
    *first = call.shape.used;
    *last = 0;
    for (int i = 0; i < call.shape.parts; i++) {
        if (call.shape.out_first[i] >= end || call.shape.out_first[i + 1] <= col) continue;
        if (call.shape.rank_first[i] < *first) *first = call.shape.rank_first[i];
        if (call.shape.rank_first[i + 1] > *last) *last = call.shape.rank_first[i + 1];
    }
}

/* The first step after this one that may meet others: steps that lie in one part meet the same. */
INLINE int64_t same_until(const struct skinny_call &call, int64_t step, int64_t step_cols)
{
    for (int i = 0; i < call.shape.parts; i++) {
        int64_t end = call.shape.out_first[i + 1];
        if (call.shape.out_first[i] <= step * step_cols && (step + 1) * step_cols <= end)
            return end / step_cols;
    }
    return step + 1;
}

template <class T> struct unit {
    enum { CHUNK = 16 / sizeof(T), STEP = 128 / sizeof(T) }; /* elements of 16 bytes and of a step of k */
};

template <class T> struct alignas(2 * sizeof(T)) pair_of {
    T value[2];
};
template <class T> INLINE void store2(T *to, T first, T second)
{
    *(pair_of<T> *)to = {{first, second}};
}

/* A thread's chunks of ROWS x CHUNKS that are copied again and again from places `advance` apart: one column
 * of chunks, rows APART apart. What can be known before the first copy is, since with two warps a scheduler
 * instructions are as scarce as memory. */
template <class T, int ROWS, int CHUNKS, int PITCH, bool SWIZZLED> struct stream {
    enum { APART = THREADS / CHUNKS, EACH = (ROWS + APART - 1) / APART, ALL = EACH * APART == ROWS };
    const T *next;
    int64_t apart, advance; /* elements */
    int row, chunk;         /* this thread's first */

    __device__ __forceinline__ stream(const T *from, int64_t stride, int64_t advance)
        : apart(APART * stride), advance(advance), row(threadIdx.x / CHUNKS), chunk(threadIdx.x % CHUNKS)
    {
        next = from + row * stride + chunk * unit<T>::CHUNK;
        if (APART * CHUNKS < THREADS && row >= APART) row = ROWS; /* has none */
    }
    /* Rows from `rows` on and columns from `cols` on become zero. */
    __device__ __forceinline__ void copy(unsigned char *to, int64_t rows, int64_t cols)
    {
        tile<PITCH, SWIZZLED> place = {to};
        bool inside = chunk * unit<T>::CHUNK < cols;
        int last = rows < ROWS ? (int)rows : (int)ROWS;
        UNROLL for (int k = 0; k < EACH; k++)
        {
            int r = row + k * APART;
            if (ALL || r < ROWS) copy_async(place.at(r, chunk), next + k * apart, inside && r < last);
        }
        next += advance;
    }
};

template <class T, int TILES, bool TURNED> struct project_room {
    enum {
        N = TILES * 8,
        FACTOR_ROWS = TURNED ? (int)unit<T>::STEP : (int)N,
        FACTOR_PITCH = TURNED ? N * (int)sizeof(T) + 16 : 128,
        FACTOR_CHUNKS = TURNED ? N / (int)unit<T>::CHUNK : 8,
        STAGE_BYTES = TOKENS * 128 + FACTOR_ROWS * FACTOR_PITCH,
    };
    typedef stream<T, FACTOR_ROWS, FACTOR_CHUNKS, FACTOR_PITCH, !TURNED> factor_stream;
};

/* Grid: blocks of tokens, ranges of k, groups x chunks of R. TURNED: the factor is [k, R] instead of [R, k].
 */
template <class T, int TILES, bool TURNED, bool MASKED>
static __global__ void __launch_bounds__(THREADS) project_kernel(struct skinny_call call)
{
    typedef project_room<T, TILES, TURNED> room;
    enum { STEP = unit<T>::STEP, N = room::N };
    DYNAMIC_SHARED(shared);
    int group = blockIdx.z / call.chunks, chunk = blockIdx.z % call.chunks;
    int first = call.first[group] + chunk * N, warp_row = threadIdx.x / WARP * 32, g = lane_number() / 4;
    int64_t token = (int64_t)blockIdx.x * TOKENS, steps = (call.cols + STEP - 1) / STEP;
    int64_t begin = steps * blockIdx.y / call.ranges, end = steps * (blockIdx.y + 1) / call.ranges;
    const uint32_t *bits =
        MASKED ? call.bits + call.part[group] * call.bits_part + (token + warp_row + g) * call.bits_row
               : NULL;
    float sum[2][TILES][4] = {};

    int64_t rows = call.tokens - token, at = begin * STEP;
    stream<T, TOKENS, 8, 128, true> wide_in((const T *)call.wide + token * call.wide_stride + at,
                                            call.wide_stride, STEP);
    typename room::factor_stream factor_in(
        (const T *)call.other + (TURNED ? at * call.other_stride + first : first * call.other_stride + at),
        call.other_stride, TURNED ? STEP * call.other_stride : STEP);
    int filling = 0, used = 0; /* buffers */
    auto fetch = [&](int64_t step) {
        unsigned char *stage = shared + filling * room::STAGE_BYTES;
        if (step < end) {
            int64_t left = call.cols - step * STEP;
            wide_in.copy(stage, rows, left);
            if (TURNED)
                factor_in.copy(stage + TOKENS * 128, left, call.shape.spare - first);
            else
                factor_in.copy(stage + TOKENS * 128, call.shape.spare - first, left);
        }
        commit_copies();
        filling = filling + 1 == STAGES ? 0 : filling + 1;
    };
    int met_first = 0, met_last = call.shape.used;
    int64_t met_until = begin; /* the step from which others may be met */
    for (int i = 0; i < STAGES - 1; i++) fetch(begin + i);
    for (int64_t step = begin; step < end; step++) {
        uint32_t word[2][2][STEP / 32];
        if (MASKED)
            UNROLL for (int i = 0; i < 4; i++) UNROLL for (int w = 0; w < STEP / 32; w++)
                word[i / 2][i % 2][w] = token + warp_row + g + 8 * i < call.tokens
                                            ? bits[8 * i * call.bits_row + step * (STEP / 32) + w]
                                            : 0;
        wait_copies<STAGES - 2>();
        __syncthreads();
        fetch(step + STAGES - 1);
        if (TURNED && step >= met_until) {
            columns_met(call, step * STEP, (step + 1) * STEP, &met_first, &met_last);
            met_until = same_until(call, step, STEP);
        }
        unsigned char *stage = shared + used * room::STAGE_BYTES;
        used = used + 1 == STAGES ? 0 : used + 1;
        tile<128, true> wide = {stage}, lines = {stage + TOKENS * 128};
        tile<N * sizeof(T) + 16, false> strip = {stage + TOKENS * 128};
        UNROLL for (int k = 0; k < STEP; k += 16)
        {
            left_piece<T> left[2];
            UNROLL for (int m = 0; m < 2; m++)
            {
                left_load(left[m], wide, warp_row + 16 * m, k);
                if (MASKED) left_mask(left[m], word[m][0][k / 32] >> k % 32, word[m][1][k / 32] >> k % 32);
            }
            UNROLL for (int n = 0; n < TILES; n += 2)
            {
                if (first + n * 8 >= met_last || first + n * 8 + 16 <= met_first) continue;
                right_piece<T> right;
                if (TURNED)
                    right_load_turned(right, strip, k, n * 8);
                else
                    right_load(right, lines, k, n * 8);
                UNROLL for (int m = 0; m < 2; m++) multiply(sum[m] + n, left[m], right);
            }
        }
    }
    wait_copies<0>();

    float *to = call.partial + ((int64_t)group * call.ranges + blockIdx.y) * call.tokens * call.width +
                chunk * N + 2 * (lane_number() % 4);
    UNROLL for (int m = 0; m < 2; m++) UNROLL for (int half = 0; half < 2; half++)
    {
        int64_t t = token + warp_row + 16 * m + 8 * half + g;
        if (t >= call.tokens) continue;
        UNROLL for (int n = 0; n < TILES; n++)
            store2(to + t * call.width + n * 8, sum[m][n][2 * half], sum[m][n][2 * half + 1]);
    }
}

/* The part of column r of R. */
INLINE int part_of(const struct skinny_shape &shape, int r)
{
    int part = 0;
    while (part + 1 < shape.parts && r >= shape.rank_first[part + 1]) part++;
    return part;
}

/* The group that a part's columns come from. */
INLINE int group_of(const struct skinny_call &call, int part)
{
    return call.bits ? part : 0;
}

template <class T>
static __global__ void project_end_kernel(struct skinny_call call, float scale, T *out, int64_t stride)
{
    int spare = call.shape.spare;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = i / spare;
    int r = (int)(i % spare);
    if (t >= call.tokens) return;
    float sum = 0;
    if (r < call.shape.used) {
        int group = group_of(call, part_of(call.shape, r));
        const float *from = call.partial + ((int64_t)group * call.ranges * call.tokens + t) * call.width + r -
                            call.first[group];
        for (int s = 0; s < call.ranges; s++) sum += from[s * call.tokens * call.width];
    }
    out[t * stride + r] = from_float<T>(scale * sum);
}

template <class T, int TILES> struct gather_room {
    enum {
        N = TILES * 8,
        PITCH = COLS * (int)sizeof(T),
        WIDE_BYTES = unit<T>::STEP * PITCH,
        SMALL_BYTES = unit<T>::STEP * (N * (int)sizeof(T) + 16),
        BITS_BYTES = unit<T>::STEP * 16,
        STAGE_BYTES = WIDE_BYTES + SMALL_BYTES + BITS_BYTES,
    };
};

/* Grid: blocks of columns, ranges of tokens, groups x chunks of R. Element (c, r) of a group's partial sum is
 * at c * col_step + r * rank_step. */
template <class T, int TILES, bool MASKED>
static __global__ void __launch_bounds__(THREADS)
    gather_kernel(struct skinny_call call, int64_t col_step, int64_t rank_step)
{
    typedef gather_room<T, TILES> room;
    enum { STEP = unit<T>::STEP, N = room::N, CHUNKS = COLS / unit<T>::CHUNK };
    DYNAMIC_SHARED(shared);
    int group = blockIdx.z / call.chunks, chunk = blockIdx.z % call.chunks;
    int first = call.first[group] + chunk * N, warp = threadIdx.x / WARP;
    int64_t col = (int64_t)blockIdx.x * COLS, steps = (call.tokens + STEP - 1) / STEP;
    int64_t begin = steps * blockIdx.y / call.ranges, end = steps * (blockIdx.y + 1) / call.ranges;
    int met_first, met_last;
    columns_met(call, col, col + COLS, &met_first, &met_last);
    float sum[2][TILES][4] = {};

    int64_t token = begin * STEP;
    stream<T, STEP, CHUNKS, room::PITCH, true> wide_in((const T *)call.wide + token * call.wide_stride + col,
                                                       call.wide_stride, STEP * call.wide_stride);
    stream<T, STEP, N / unit<T>::CHUNK, N * sizeof(T) + 16, false> small_in(
        (const T *)call.other + token * call.other_stride + first, call.other_stride,
        STEP * call.other_stride);
    int filling = 0, used = 0; /* buffers */
    auto fetch = [&](int64_t step) {
        unsigned char *stage = shared + filling * room::STAGE_BYTES;
        if (step < end) {
            int64_t left = call.tokens - step * STEP;
            wide_in.copy(stage, left, call.cols - col);
            small_in.copy(stage + room::WIDE_BYTES, left, call.shape.spare - first);
            if (MASKED && threadIdx.x < STEP) {
                int64_t t = step * STEP + threadIdx.x;
                bool valid = t < call.tokens;
                copy_async(stage + room::WIDE_BYTES + room::SMALL_BYTES + threadIdx.x * 16,
                           call.bits + call.part[group] * call.bits_part +
                               (valid ? t * call.bits_row + col / 32 : 0),
                           valid);
            }
        }
        commit_copies();
        filling = filling + 1 == STAGES ? 0 : filling + 1;
    };
    for (int i = 0; i < STAGES - 1; i++) fetch(begin + i);
    for (int64_t step = begin; step < end; step++) {
        wait_copies<STAGES - 2>();
        __syncthreads();
        fetch(step + STAGES - 1);
        unsigned char *stage = shared + used * room::STAGE_BYTES;
        used = used + 1 == STAGES ? 0 : used + 1;
        tile<room::PITCH, true> wide = {stage};
        tile<N * sizeof(T) + 16, false> small = {stage + room::WIDE_BYTES};
        const uint32_t *word = (const uint32_t *)(stage + room::WIDE_BYTES + room::SMALL_BYTES) + warp;
        UNROLL for (int k = 0; k < STEP; k += 16)
        {
            left_piece<T> left[2];
            UNROLL for (int m = 0; m < 2; m++)
            {
                left_load_turned(left[m], wide, warp * 32 + 16 * m, k);
                if (MASKED) left_mask_turned(left[m], word + k * 4, 4, 16 * m);
            }
            UNROLL for (int n = 0; n < TILES; n += 2)
            {
                if (first + n * 8 >= met_last || first + n * 8 + 16 <= met_first) continue;
                right_piece<T> right;
                right_load_turned(right, small, k, n * 8);
                UNROLL for (int m = 0; m < 2; m++) multiply(sum[m] + n, left[m], right);
            }
        }
    }
    wait_copies<0>();

    float *to = call.partial + ((int64_t)group * call.ranges + blockIdx.y) * call.cols * call.width;
    UNROLL for (int m = 0; m < 2; m++) UNROLL for (int n = 0; n < TILES; n++)
        UNROLL for (int i = 0; i < 4; i++)
    {
        int64_t c = col + warp * 32 + 16 * m + lane_number() / 4 + i / 2 * 8;
        int64_t r = chunk * N + n * 8 + 2 * (lane_number() % 4) + i % 2;
        if (c < call.cols) to[c * col_step + r * rank_step] = sum[m][n][i];
    }
}

struct gradients {
    float *to[PANEL_PARTS]; /* [rank, stride] or [out, rank] */
    float scale[PANEL_PARTS];
    int64_t stride;
};

/* Partial sums are [R][cols]. Grid y: column of R. */
static __global__ void da_kernel(struct skinny_call call, struct gradients da)
{
    int r = blockIdx.y, part = part_of(call.shape, r), group = group_of(call, part);
    int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= call.cols || !da.to[part]) return;
    const float *from = call.partial + (int64_t)group * call.ranges * call.cols * call.width +
                        (r - call.first[group]) * call.cols + c;
    float sum = 0;
    for (int s = 0; s < call.ranges; s++) sum += from[s * call.cols * call.width];
    da.to[part][(r - call.shape.rank_first[part]) * da.stride + c] += da.scale[part] * sum;
}

/* Partial sums are [cols][R]. Grid y: part. */
static __global__ void db_kernel(struct skinny_call call, struct gradients db)
{
    const struct skinny_shape &shape = call.shape;
    int part = blockIdx.y, rank = shape.rank_first[part + 1] - shape.rank_first[part];
    int64_t begin = shape.out_first[part], end = shape.out_first[part + 1];
    int64_t first = begin > 0 ? begin : 0, last = end < call.cols ? end : call.cols;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (!db.to[part] || first >= last || i >= (last - first) * rank) return;
    int64_t c = first + i / rank;
    int r = (int)(i % rank);
    const float *from = call.partial + c * call.width + shape.rank_first[part] + r;
    float sum = 0;
    for (int s = 0; s < call.ranges; s++) sum += from[s * call.cols * call.width];
    db.to[part][(c - begin) * rank + r] += db.scale[part] * sum;
}

enum { DX_TOKENS = 64, DX_COLS = 64, DX_RANKS = 32 };

/* Grid: blocks of tokens, blocks of columns. Every part's g A is summed alone, then masked. */
template <class T>
static __global__ void __launch_bounds__(THREADS)
    dx_kernel(struct skinny_call call, struct matrix g, float scale, T *dx, int64_t dx_stride)
{
    enum { CHUNK = unit<T>::CHUNK, PITCH = DX_RANKS * (int)sizeof(T) + 16 };
    __shared__ __align__(128) unsigned char g_room[DX_TOKENS * PITCH];
    __shared__ __align__(128) unsigned char a_room[DX_RANKS * DX_COLS * sizeof(T)];
    tile<PITCH, false> small = {g_room};
    tile<DX_COLS * sizeof(T), true> factor = {a_room};
    int64_t token = (int64_t)blockIdx.x * DX_TOKENS, col = (int64_t)blockIdx.y * DX_COLS;
    int warp_row = threadIdx.x / WARP * 16, lane = lane_number();
    float total[8][4] = {};
    for (int part = 0; part < call.shape.parts; part++) {
        int first = call.shape.rank_first[part], last = call.shape.rank_first[part + 1];
        if (first == last) continue;
        float sum[8][4] = {};
        for (int r0 = first / 8 * 8; r0 < last; r0 += DX_RANKS) {
            __syncthreads();
            for (int i = threadIdx.x; i < DX_TOKENS * DX_RANKS / CHUNK; i += THREADS) {
                int row = i / (DX_RANKS / CHUNK), chunk = i % (DX_RANKS / CHUNK), r = r0 + chunk * CHUNK;
                vec16<T> v;
                if (token + row < call.tokens && r < call.shape.spare)
                    v = load16((const T *)g.data + (token + row) * g.stride + r);
                for (int j = 0; j < CHUNK; j++)
                    if (token + row >= call.tokens || r + j < first || r + j >= last)
                        v.value[j] = from_float<T>(0);
                store16((T *)small.at(row, chunk), v);
            }
            for (int i = threadIdx.x; i < DX_RANKS * DX_COLS / CHUNK; i += THREADS) {
                int row = i / (DX_COLS / CHUNK), chunk = i % (DX_COLS / CHUNK);
                bool valid = r0 + row < call.shape.spare && col + chunk * CHUNK < call.cols;
                copy_async(factor.at(row, chunk),
                           (const T *)call.other +
                               (valid ? (r0 + row) * call.other_stride + col + chunk * CHUNK : 0),
                           valid);
            }
            commit_copies();
            wait_copies<0>();
            __syncthreads();
            UNROLL for (int k = 0; k < DX_RANKS; k += 16)
            {
                left_piece<T> left;
                left_load(left, small, warp_row, k);
                UNROLL for (int n = 0; n < 8; n += 2)
                {
                    right_piece<T> right;
                    right_load_turned(right, factor, k, n * 8);
                    multiply(sum + n, left, right);
                }
            }
        }
        UNROLL for (int half = 0; half < 2; half++)
        {
            int64_t t = token + warp_row + lane / 4 + 8 * half;
            const uint32_t *bits = call.bits + part * call.bits_part + t * call.bits_row + col / 32;
            uint32_t word[2] = {0, 0};
            if (t < call.tokens) word[0] = bits[0], word[1] = bits[1];
            UNROLL for (int n = 0; n < 8; n++)
                UNROLL for (int odd = 0; odd < 2;
                            odd++) if (word[n / 4] >> (n % 4 * 8 + 2 * (lane % 4) + odd) & 1)
                    total[n][2 * half + odd] += sum[n][2 * half + odd];
        }
    }
    UNROLL for (int n = 0; n < 8; n++) UNROLL for (int half = 0; half < 2; half++)
    {
        int64_t t = token + warp_row + lane / 4 + 8 * half, c = col + n * 8 + 2 * (lane % 4);
        if (t >= call.tokens || c >= call.cols) continue;
        store2(dx + t * dx_stride + c, from_float<T>(scale * total[n][2 * half]),
               from_float<T>(scale * total[n][2 * half + 1]));
    }
}

/* A thread makes a word of 32 columns: 8 blocks of Philox, 9 when columns do not start at a multiple of 4.
 * `least`: what (word >> 8) must reach to survive. Grid y: part. */
static __global__ void mask_kernel(uint32_t *bits, int64_t tokens, int64_t words, const uint64_t *keys,
                                   const int64_t *token_index, int64_t col_first, uint32_t least)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= tokens * words) return;
    int64_t t = i / words, col = col_first + i % words * 32;
    uint64_t key = keys[blockIdx.y], token = (uint64_t)token_index[t], found = 0;
    int shift = (int)(col % 4);
    UNROLL for (int q = 0; q < 9; q++)
    {
        if (q == 8 && shift == 0) break;
        struct random_block block = random_philox(key, token, (uint64_t)(col / 4 + q));
        UNROLL for (int j = 0; j < 4; j++) found |= (uint64_t)(block.word[j] >> 8 >= least) << (4 * q + j);
    }
    bits[blockIdx.y * tokens * words + i] = (uint32_t)(found >> shift);
}

/* Host side */

/* Words of a token's row of bits: whole chunks of 128 columns. */
static int64_t mask_words(int64_t cols)
{
    return (cols + 127) / 128 * 4;
}

size_t skinny_mask_bytes(int32_t parts, int64_t tokens, int64_t cols)
{
    return (size_t)(parts * tokens * mask_words(cols)) * sizeof(uint32_t);
}

enum status skinny_mask(const struct panel *panel, const struct panel_dropout *dropout, int64_t tokens,
                        uint32_t *bits)
{
    int64_t words = mask_words(panel->spec.in);
    double least = (double)dropout->p * 0x1p24; /* exact; random_unit_f32 is a multiple of 2^-24 */
    uint32_t whole = (uint32_t)least;
    dim3 grid((unsigned)blocks_for(tokens * words, THREADS), (unsigned)panel->spec.n_parts);
    LAUNCH(mask_kernel, grid, THREADS, 0, cuda_compute(panel->device), bits, tokens, words, dropout->key,
           dropout->token_index, dropout->col_first, whole + (whole < least));
    return cuda_launched("dropout mask");
}

static struct skinny_shape shape_of(const struct panel *panel)
{
    struct skinny_shape shape = {};
    shape.parts = panel->spec.n_parts;
    shape.used = panel->rank_sum;
    shape.spare = (int32_t)panel->spare;
    for (int i = 0; i < shape.parts; i++) {
        shape.rank_first[i] = panel->rank_first[i];
        shape.out_first[i] = panel->out_first[i];
    }
    shape.rank_first[shape.parts] = panel->rank_sum;
    shape.out_first[shape.parts] = panel->out;
    return shape;
}

static int32_t round_up(int32_t value, int32_t step)
{
    return (value + step - 1) / step * step;
}

/* Fills everything but the ranges; *tiles: 8-column tiles of a block, *groups: what the grid's z counts. */
static struct skinny_call call_of(const struct panel *panel, struct matrix wide, struct matrix other,
                                  const uint32_t *bits, int *tiles, int *groups)
{
    struct skinny_call call = {};
    call.wide = wide.data;
    call.other = other.data;
    call.wide_stride = wide.stride;
    call.other_stride = other.stride;
    call.bits = bits;
    call.bits_row = mask_words(panel->spec.in);
    call.bits_part = wide.rows * call.bits_row;
    call.partial = (float *)cuda_of(panel->device)->workspace;
    call.tokens = wide.rows;
    call.cols = wide.cols;
    call.shape = shape_of(panel);
    int32_t most = call.shape.used;
    *groups = 1;
    if (bits) {
        most = 0;
        *groups = call.shape.parts;
        for (int i = 0; i < call.shape.parts; i++) {
            call.part[i] = i;
            call.first[i] = call.shape.rank_first[i] / 8 * 8;
            if (call.shape.rank_first[i + 1] - call.first[i] > most)
                most = call.shape.rank_first[i + 1] - call.first[i];
        }
    }
    static const int widths[] = {2, 4, 8, MOST_TILES};
    call.chunks = (most + MOST_TILES * 8 - 1) / (MOST_TILES * 8);
    int32_t each = round_up((most + call.chunks - 1) / call.chunks, 8);
    if (wide.dtype == DTYPE_F32) {
        *tiles = 4;
        call.chunks = (most + 31) / 32;
    } else {
        int i = 0;
        while (widths[i] * 8 < each) i++;
        *tiles = widths[i];
    }
    call.width = call.chunks * *tiles * 8;
    return call;
}

/* Ranges so that `blocks` of each fill the GPU, with `bytes` of partial sums a range. */
static int32_t ranges_for(const struct panel *panel, int64_t blocks, int64_t steps, int64_t bytes)
{
    int64_t n = (int64_t)cuda_of(panel->device)->multiprocessors * BLOCKS_EACH / blocks;
    if (n > steps / LEAST_STEPS) n = steps / LEAST_STEPS;
    if (n > CUDA_WORKSPACE_BYTES / bytes) n = CUDA_WORKSPACE_BYTES / bytes;
    if (n > MOST_RANGES) n = MOST_RANGES;
    return n > 1 ? (int32_t)n : 1;
}

template <class T, int TILES, bool TURNED, bool MASKED>
static enum status project_launch(const struct panel *panel, const struct skinny_call &call, dim3 grid)
{
    size_t bytes = STAGES * (size_t)project_room<T, TILES, TURNED>::STAGE_BYTES;
    CUDA_TRY(allow_shared(project_kernel<T, TILES, TURNED, MASKED>, bytes));
    LAUNCH((project_kernel<T, TILES, TURNED, MASKED>), grid, THREADS, bytes, cuda_compute(panel->device),
           call);
    return cuda_launched("product with the adapter");
}

template <class T, int TILES, bool MASKED>
static enum status gather_launch(const struct panel *panel, const struct skinny_call &call, dim3 grid,
                                 int64_t col_step, int64_t rank_step)
{
    size_t bytes = STAGES * (size_t)gather_room<T, TILES>::STAGE_BYTES;
    CUDA_TRY(allow_shared(gather_kernel<T, TILES, MASKED>, bytes));
    LAUNCH((gather_kernel<T, TILES, MASKED>), grid, THREADS, bytes, cuda_compute(panel->device), call,
           col_step, rank_step);
    return cuda_launched("gradient of the adapter");
}

template <class T, bool TURNED, bool MASKED>
static enum status project_tiles(const struct panel *panel, const struct skinny_call &call, dim3 grid,
                                 int tiles)
{
    if constexpr (sizeof(T) == 4)
        return project_launch<T, 4, TURNED, MASKED>(panel, call, grid);
    else
        switch (tiles) {
        case 2:
            return project_launch<T, 2, TURNED, MASKED>(panel, call, grid);
        case 4:
            return project_launch<T, 4, TURNED, MASKED>(panel, call, grid);
        case 8:
            return project_launch<T, 8, TURNED, MASKED>(panel, call, grid);
        default:
            return project_launch<T, MOST_TILES, TURNED, MASKED>(panel, call, grid);
        }
}

template <class T, bool MASKED>
static enum status gather_tiles(const struct panel *panel, const struct skinny_call &call, dim3 grid,
                                int tiles, int64_t col_step, int64_t rank_step)
{
    if constexpr (sizeof(T) == 4)
        return gather_launch<T, 4, MASKED>(panel, call, grid, col_step, rank_step);
    else
        switch (tiles) {
        case 2:
            return gather_launch<T, 2, MASKED>(panel, call, grid, col_step, rank_step);
        case 4:
            return gather_launch<T, 4, MASKED>(panel, call, grid, col_step, rank_step);
        case 8:
            return gather_launch<T, 8, MASKED>(panel, call, grid, col_step, rank_step);
        default:
            return gather_launch<T, MOST_TILES, MASKED>(panel, call, grid, col_step, rank_step);
        }
}

/* In pieces of tokens whose partial sums fit the workspace. */
template <class T, bool TURNED>
static enum status project(const struct panel *panel, struct matrix wide, struct matrix factor,
                           const uint32_t *bits, float scale, struct matrix out)
{
    int tiles, groups;
    struct skinny_call call = call_of(panel, wide, factor, bits, &tiles, &groups);
    call.diagonal = TURNED;
    int64_t row_bytes = (int64_t)groups * call.width * (int64_t)sizeof(float);
    int64_t most = CUDA_WORKSPACE_BYTES / row_bytes / TOKENS * TOKENS;
    for (int64_t token = 0; token < wide.rows; token += most) {
        struct matrix piece = matrix_part(out, token, wide.rows - token, 0, out.cols);
        call.wide = (const T *)wide.data + token * wide.stride;
        if (bits) call.bits = bits + token * call.bits_row;
        call.tokens = piece.rows < most ? piece.rows : most;
        int64_t blocks = blocks_for(call.tokens, TOKENS);
        call.ranges = ranges_for(panel, blocks * groups * call.chunks, blocks_for(wide.cols, unit<T>::STEP),
                                 call.tokens * row_bytes);
        dim3 grid((unsigned)blocks, (unsigned)call.ranges, (unsigned)(groups * call.chunks));
        if constexpr (TURNED)
            TRY((project_tiles<T, true, false>(panel, call, grid, tiles)));
        else if (bits)
            TRY((project_tiles<T, false, true>(panel, call, grid, tiles)));
        else
            TRY((project_tiles<T, false, false>(panel, call, grid, tiles)));
        LAUNCH(project_end_kernel<T>, (unsigned)blocks_for(call.tokens * panel->spare, THREADS), THREADS, 0,
               cuda_compute(panel->device), call, scale, (T *)piece.data, out.stride);
        TRY(cuda_launched("sum of products with the adapter"));
    }
    return LORAD_OK;
}

/* In pieces of columns whose partial sums fit the workspace. ROWS: of dA, [R][cols]; else of dB, [cols][R].
 */
template <class T, bool ROWS>
static enum status gather(const struct panel *panel, struct matrix small, struct matrix wide,
                          const uint32_t *bits, struct gradients gradients)
{
    int tiles, groups;
    struct skinny_call call = call_of(panel, wide, small, bits, &tiles, &groups);
    call.diagonal = !ROWS;
    int64_t col_bytes = (int64_t)groups * call.width * (int64_t)sizeof(float);
    int64_t most = CUDA_WORKSPACE_BYTES / col_bytes / COLS * COLS;
    for (int64_t col = 0; col < wide.cols; col += most) {
        call.wide = (const T *)wide.data + col;
        if (bits) call.bits = bits + col / 32;
        call.cols = wide.cols - col < most ? wide.cols - col : most;
        int64_t blocks = blocks_for(call.cols, COLS);
        call.ranges = ranges_for(panel, blocks * groups * call.chunks, blocks_for(wide.rows, unit<T>::STEP),
                                 call.cols * col_bytes);
        int64_t col_step = ROWS ? 1 : call.width, rank_step = ROWS ? call.cols : 1;
        dim3 grid((unsigned)blocks, (unsigned)call.ranges, (unsigned)(groups * call.chunks));
        if (bits)
            TRY((gather_tiles<T, true>(panel, call, grid, tiles, col_step, rank_step)));
        else
            TRY((gather_tiles<T, false>(panel, call, grid, tiles, col_step, rank_step)));
        cudaStream_t stream = cuda_compute(panel->device);
        if (ROWS) {
            dim3 ends((unsigned)blocks_for(call.cols, THREADS), (unsigned)call.shape.used);
            LAUNCH(da_kernel, ends, THREADS, 0, stream, call, gradients);
        } else {
            int64_t longest = 0;
            for (int i = 0; i < call.shape.parts; i++) {
                int64_t rank = call.shape.rank_first[i + 1] - call.shape.rank_first[i];
                if (rank * panel->spec.part[i].out > longest) longest = rank * panel->spec.part[i].out;
            }
            dim3 ends((unsigned)blocks_for(longest, THREADS), (unsigned)call.shape.parts);
            LAUNCH(db_kernel, ends, THREADS, 0, stream, call, gradients);
        }
        TRY(cuda_launched("sum of the adapter's gradient"));
        for (int i = 0; i <= call.shape.parts; i++) call.shape.out_first[i] -= call.cols;
        for (int i = 0; ROWS && i < PANEL_PARTS; i++)
            if (gradients.to[i]) gradients.to[i] += call.cols;
    }
    return LORAD_OK;
}

enum status skinny_u(const struct panel *panel, struct matrix x, struct matrix a, const uint32_t *bits,
                     float scale, struct matrix u)
{
    WITH_ACT(x.dtype, T, return (project<T, false>(panel, x, a, bits, scale, u)));
}

enum status skinny_g(const struct panel *panel, struct matrix dy, struct matrix sb, struct matrix g)
{
    WITH_ACT(dy.dtype, T, return (project<T, true>(panel, dy, sb, NULL, 1, g)));
}

enum status skinny_da(const struct panel *panel, struct matrix g, struct matrix x, const uint32_t *bits,
                      float scale, float *const da[PANEL_PARTS])
{
    struct gradients to = {};
    for (int i = 0; i < PANEL_PARTS; i++) {
        to.to[i] = da[i];
        to.scale[i] = scale;
    }
    to.stride = panel->spec.in;
    WITH_ACT(x.dtype, T, return (gather<T, true>(panel, g, x, bits, to)));
}

enum status skinny_db(const struct panel *panel, struct matrix u, struct matrix dy,
                      const float scale[PANEL_PARTS], float *const db[PANEL_PARTS])
{
    struct gradients to = {};
    for (int i = 0; i < PANEL_PARTS; i++) {
        to.to[i] = db[i];
        to.scale[i] = scale[i];
    }
    WITH_ACT(dy.dtype, T, return (gather<T, false>(panel, u, dy, NULL, to)));
}

enum status skinny_dx(const struct panel *panel, struct matrix g, struct matrix a, const uint32_t *bits,
                      float scale, struct matrix dx)
{
    int tiles, groups;
    struct skinny_call call = call_of(panel, dx, a, bits, &tiles, &groups);
    dim3 grid((unsigned)blocks_for(dx.rows, DX_TOKENS), (unsigned)blocks_for(dx.cols, DX_COLS));
    WITH_ACT(dx.dtype, T,
             LAUNCH(dx_kernel<T>, grid, THREADS, 0, cuda_compute(panel->device), call, g, scale, (T *)dx.data,
                    dx.stride));
    return cuda_launched("masked part of dx");
}
