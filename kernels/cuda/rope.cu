/*
 * rope.cu: rotary position embedding (Su et al. 2021) in the rotate-half convention, with Qwen3's norm of
 * each head before it, forward and backward. Arithmetic in f32; one rounding at the end (and norm.cu's
 * rounding inside the norm).
 *
 * 1. The heads of q and k are one list. A group is the threads of one token and of every `slots`-th head of
 * that list: each thread reads the angles of its pairs once, and loads from all its heads before it stores to
 * the first.
 * 2. Block: x the packs of pairs of one head, y groups. With a norm, x is a power of two up to a warp, so
 * that the lanes of a head sum among themselves; lanes beyond the head's pairs hold zeros, and no lane leaves
 * early.
 */
#include "kernels/cuda/rows.cuh"

enum { BLOCK_THREADS = 256 };
enum { ROTATED = 4, NORMED = 4, DIFFERENTIATED = 2 }; /* heads of a thread */
/* A warp whose lanes load single elements covers the 128 pairs of the widest head in so many parts. */
enum { SINGLE_PARTS = 4 };

struct head_list {
    int64_t rows;
    int q_heads, heads, slots, head_dim, half;
};

/* The group of this thread: its token (none: row >= rows) and its first head. */
struct group {
    int64_t row;
    int slot;
};
INLINE struct group group_here(const struct head_list &list)
{
    int64_t number = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    return {number / list.slots, (int)(number % list.slots)};
}

template <class T>
INLINE T *head_of(const struct matrix &q, const struct matrix &k, const struct head_list &list, int64_t row,
                  int head)
{
    return head < list.q_heads ? row_of<T>(q, row) + head * list.head_dim
                               : row_of<T>(k, row) + (head - list.q_heads) * list.head_dim;
}

/* N pairs of one head: a from its first half, b from its second. */
template <class T, int N> struct pairs {
    pack<T, N> a, b;
};
template <int N, class T> INLINE pairs<T, N> load_pairs(const T *from, int half)
{
    return {load_pack<N>(from), load_pack<N>(from + half)};
}
/* Rounded to T. */
template <class T, int N> INLINE void store_pairs(T *to, int half, const float (&a)[N], const float (&b)[N])
{
    store_pack(to, packed<T>(a));
    store_pack(to + half, packed<T>(b));
}

template <int N> struct angles {
    float cos[N], sin[N];
};
template <int N> INLINE angles<N> load_angles(const float *from, int half)
{
    constexpr int M = N < 4 ? N : 4;
    angles<N> angle;
#pragma unroll
    for (int i = 0; i < N; i += M) {
        pack<float, M> c = load_pack<M>(from + i), s = load_pack<M>(from + half + i);
#pragma unroll
        for (int j = 0; j < M; j++) {
            angle.cos[i + j] = c.word[j];
            angle.sin[i + j] = s.word[j];
        }
    }
    return angle;
}

template <int N> INLINE void turn_back(angles<N> &angle)
{
#pragma unroll
    for (int i = 0; i < N; i++) angle.sin[i] = -angle.sin[i];
}
template <int N> INLINE void rotate(float (&a)[N], float (&b)[N], const angles<N> &angle)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        float turned = a[i] * angle.cos[i] - b[i] * angle.sin[i];
        b[i] = b[i] * angle.cos[i] + a[i] * angle.sin[i];
        a[i] = turned;
    }
}

/* ---- rotation alone ---- */

template <class T, int N>
static __global__ void __launch_bounds__(BLOCK_THREADS, 3)
    rotate_kernel(struct op_rope args, struct head_list list)
{
    struct group here = group_here(list);
    if (here.row >= list.rows) return;
    int j = threadIdx.x * N, half = list.half;
    angles<N> angle =
        load_angles<N>(args.cos_sin + (int64_t)args.positions[here.row] * list.head_dim + j, half);
    if (args.inverse) turn_back(angle);
    pairs<T, N> v[ROTATED];
#pragma unroll
    for (int h = 0; h < ROTATED; h++) {
        int head = here.slot + h * list.slots;
        if (head >= list.heads) break;
        v[h] = load_pairs<N>(head_of<const T>(args.q, args.k, list, here.row, head) + j, half);
    }
#pragma unroll
    for (int h = 0; h < ROTATED; h++) {
        int head = here.slot + h * list.slots;
        if (head >= list.heads) break;
        float a[N], b[N];
        unpack(a, v[h].a);
        unpack(b, v[h].b);
        rotate(a, b, angle);
        store_pairs(head_of<T>(args.q_out, args.k_out, list, here.row, head) + j, half, a, b);
    }
}

/* ---- with norm: a lane holds PARTS packs of pairs, blockDim.x packs apart ---- */

/* The sum over the lanes of one head, in each of them. */
INLINE float head_sum(float x)
{
    for (int step = blockDim.x / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
INLINE float head_rstd(float squares, int head_dim, float eps)
{
    return 1.0f / sqrtf(squares / (float)head_dim + eps);
}

/* Where a part begins in each half of a head; not below list.half: there are no such pairs. */
template <int N> INLINE int part_at(int part)
{
    return (threadIdx.x + part * blockDim.x) * N;
}

/* The same pairs of a thread's heads, zeros where there is none. */
template <int N, int HEADS, class T>
INLINE void load_heads(pairs<T, N> (&v)[HEADS], const struct matrix &q, const struct matrix &k,
                       const struct head_list &list, const struct group &here, int j)
{
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        int head = here.slot + h * list.slots;
        if (here.row < list.rows && head < list.heads && j < list.half)
            v[h] = load_pairs<N>(head_of<const T>(q, k, list, here.row, head) + j, list.half);
        else
            v[h].a = v[h].b = pack<T, N>{};
    }
}

/* The weights of the same pairs; those of heads that are not there are not used. */
template <int N, int HEADS, class T>
INLINE void load_weights(pairs<T, N> (&weight)[HEADS], const void *q_weight, const void *k_weight,
                         const struct head_list &list, const struct group &here, int j)
{
    if (j >= list.half) return;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        int head = here.slot + h * list.slots;
        weight[h] = load_pairs<N>((const T *)(head < list.q_heads ? q_weight : k_weight) + j, list.half);
    }
}
INLINE const float *angles_of(const float *cos_sin, const int32_t *positions, const struct head_list &list,
                              const struct group &here)
{
    return here.row < list.rows ? cos_sin + (int64_t)positions[here.row] * list.head_dim : cos_sin;
}

template <class T, int N> INLINE float squares(const pairs<T, N> &v)
{
    float a[N], b[N], sum = 0;
    unpack(a, v.a);
    unpack(b, v.b);
#pragma unroll
    for (int i = 0; i < N; i++) sum += a[i] * a[i] + b[i] * b[i];
    return sum;
}

/* One half: round(round(x * rstd) * w) */
template <class T, int N>
INLINE void normed(float (&to)[N], const pack<T, N> &x, const pack<T, N> &weight, float rstd)
{
    float w[N];
    unpack(to, x);
    unpack(w, weight);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] *= rstd;
    round_to<T>(to);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] *= w[i];
    round_to<T>(to);
}

template <class T, int N, int HEADS, int PARTS>
static __global__ void __launch_bounds__(BLOCK_THREADS, 2)
    norm_rotate_kernel(struct op_rope args, struct head_list list)
{
    struct group here = group_here(list);
    const float *cos_sin = angles_of(args.cos_sin, args.positions, list, here);
    pairs<T, N> v[PARTS][HEADS], weight[PARTS][HEADS];
    angles<N> angle[PARTS];
    float rstd[HEADS];
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        int j = part_at<N>(p);
        load_heads(v[p], args.q, args.k, list, here, j);
        load_weights(weight[p], args.q_weight, args.k_weight, list, here, j);
        if (j < list.half) angle[p] = load_angles<N>(cos_sin + j, list.half);
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float sum = 0;
#pragma unroll
        for (int p = 0; p < PARTS; p++) sum += squares(v[p][h]);
        rstd[h] = head_rstd(head_sum(sum), list.head_dim, args.eps);
    }
    if (here.row >= list.rows) return;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        int head = here.slot + h * list.slots;
        if (head >= list.heads) break;
        T *to = head_of<T>(args.q_out, args.k_out, list, here.row, head);
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
            int j = part_at<N>(p);
            if (j >= list.half) break;
            float a[N], b[N];
            normed(a, v[p][h].a, weight[p][h].a, rstd[h]);
            normed(b, v[p][h].b, weight[p][h].b, rstd[h]);
            rotate(a, b, angle[p]);
            store_pairs(to + j, list.half, a, b);
        }
    }
}

/* With t = w * (gradient rotated back) and xhat = x * rstd: dx = rstd (t - xhat mean(t * xhat)). */
template <int N> struct gradients {
    float a[N], b[N];
};
/* `back`: angles turned back */
template <class T, int N>
INLINE gradients<N> rotated_back(const pairs<T, N> &d, const pairs<T, N> &weight, const angles<N> &back)
{
    gradients<N> t;
    float a[N], b[N];
    unpack(t.a, d.a);
    unpack(t.b, d.b);
    rotate(t.a, t.b, back);
    unpack(a, weight.a);
    unpack(b, weight.b);
#pragma unroll
    for (int i = 0; i < N; i++) {
        t.a[i] *= a[i];
        t.b[i] *= b[i];
    }
    return t;
}
template <class T, int N> INLINE float dot(const gradients<N> &t, const pairs<T, N> &x)
{
    float a[N], b[N], sum = 0;
    unpack(a, x.a);
    unpack(b, x.b);
#pragma unroll
    for (int i = 0; i < N; i++) sum += t.a[i] * a[i] + t.b[i] * b[i];
    return sum;
}
/* One half: rstd (t - xhat mean) */
template <class T, int N>
INLINE void norm_gradient(float (&t)[N], const pack<T, N> &x, float rstd, float mean)
{
    float v[N];
    unpack(v, x);
#pragma unroll
    for (int i = 0; i < N; i++) t[i] = rstd * (t[i] - v[i] * rstd * mean);
}

template <class T, int N, int HEADS, int PARTS>
static __global__ void __launch_bounds__(BLOCK_THREADS, 2)
    norm_backward_kernel(struct op_rope_norm_backward args, struct head_list list)
{
    struct group here = group_here(list);
    const float *cos_sin = angles_of(args.cos_sin, args.positions, list, here);
    pairs<T, N> x[PARTS][HEADS], d[PARTS][HEADS];
    gradients<N> t[PARTS][HEADS];
    float sum_squares[HEADS], sum_dots[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) sum_squares[h] = sum_dots[h] = 0;
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        int j = part_at<N>(p);
        pairs<T, N> weight[HEADS];
        load_heads(x[p], args.q, args.k, list, here, j);
        load_heads(d[p], args.dq, args.dk, list, here, j);
        load_weights(weight, args.q_weight, args.k_weight, list, here, j);
        if (j >= list.half) break;
        angles<N> angle = load_angles<N>(cos_sin + j, list.half);
        turn_back(angle);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            t[p][h] = rotated_back(d[p][h], weight[h], angle);
            sum_squares[h] += squares(x[p][h]);
            sum_dots[h] += dot(t[p][h], x[p][h]);
        }
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        sum_squares[h] = head_sum(sum_squares[h]);
        sum_dots[h] = head_sum(sum_dots[h]);
    }
    if (here.row >= list.rows) return;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        int head = here.slot + h * list.slots;
        if (head >= list.heads) break;
        T *to = head_of<T>(args.dq, args.dk, list, here.row, head);
        float rstd = head_rstd(sum_squares[h], list.head_dim, args.eps);
        float mean = sum_dots[h] * rstd / (float)list.head_dim;
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
            int j = part_at<N>(p);
            if (j >= list.half) break;
            norm_gradient(t[p][h].a, x[p][h].a, rstd, mean);
            norm_gradient(t[p][h].b, x[p][h].b, rstd, mean);
            store_pairs(to + j, list.half, t[p][h].a, t[p][h].b);
        }
    }
}

/* ---- host ---- */

static bool heads_packed(const struct matrix *q, const struct matrix *k, int32_t head_dim, int n)
{
    return is_packed(q, n) && is_packed(k, n) && head_dim / 2 % n == 0;
}

static struct head_list list_of(const struct matrix *q, const struct matrix *k, int32_t head_dim,
                                int heads_each)
{
    int q_heads = (int)(q->cols / head_dim), heads = q_heads + (int)(k->cols / head_dim);
    return {q->rows, q_heads, heads, (heads + heads_each - 1) / heads_each, head_dim, head_dim / 2};
}

/* A block of groups of `wide` threads, and as many blocks as all groups need. */
static dim3 block_of(int wide)
{
    return dim3((unsigned)wide, (unsigned)(BLOCK_THREADS / wide));
}
static unsigned grid_of(const struct head_list &list, dim3 block)
{
    return (unsigned)blocks_for(list.rows * list.slots, block.y);
}

/* The lanes of a head, so that they sum among themselves. */
static int lanes_for(int packs)
{
    int lanes = 1;
    while (lanes < packs && lanes < WARP) lanes *= 2;
    return lanes;
}

enum status cuda_rope(struct device *device, const struct op_rope *args)
{
    int n = (int)(16 / dtype_bytes(args->q.dtype)), half = args->head_dim / 2;
    bool packed = heads_packed(&args->q, &args->k, args->head_dim, n) &&
                  heads_packed(&args->q_out, &args->k_out, args->head_dim, n) &&
                  is_aligned(args->cos_sin, 16) && is_aligned(args->q_weight, 16) &&
                  is_aligned(args->k_weight, 16);
    WITH_ACT(args->q.dtype, T, WITH_WIDTH(packed, FULL(T), N, {
                 if (args->q_weight) {
                     constexpr int HEADS = N > 1 ? NORMED : 1, PARTS = N > 1 ? 1 : SINGLE_PARTS;
                     struct head_list list = list_of(&args->q, &args->k, args->head_dim, HEADS);
                     dim3 block = block_of(lanes_for(half / N));
                     LAUNCH((norm_rotate_kernel<T, N, HEADS, PARTS>), grid_of(list, block), block, 0,
                            cuda_compute(device), *args, list);
                 } else {
                     struct head_list list = list_of(&args->q, &args->k, args->head_dim, ROTATED);
                     dim3 block = block_of(half / N);
                     LAUNCH((rotate_kernel<T, N>), grid_of(list, block), block, 0, cuda_compute(device),
                            *args, list);
                 }
             }));
    return cuda_launched("rope");
}

enum status cuda_rope_norm_backward(struct device *device, const struct op_rope_norm_backward *args)
{
    int n = (int)(16 / dtype_bytes(args->q.dtype)), half = args->head_dim / 2;
    bool packed = heads_packed(&args->q, &args->k, args->head_dim, n) &&
                  heads_packed(&args->dq, &args->dk, args->head_dim, n) && is_aligned(args->cos_sin, 16) &&
                  is_aligned(args->q_weight, 16) && is_aligned(args->k_weight, 16);
    WITH_ACT(args->q.dtype, T, WITH_WIDTH(packed, FULL(T), N, {
                 constexpr int HEADS = N > 1 ? DIFFERENTIATED : 1, PARTS = N > 1 ? 1 : SINGLE_PARTS;
                 struct head_list list = list_of(&args->q, &args->k, args->head_dim, HEADS);
                 dim3 block = block_of(lanes_for(half / N));
                 LAUNCH((norm_backward_kernel<T, N, HEADS, PARTS>), grid_of(list, block), block, 0,
                        cuda_compute(device), *args, list);
             }));
    return cuda_launched("rope_norm_backward");
}
