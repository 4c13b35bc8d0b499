/*
 * attention.c: causal attention over packed sequences without a [T, T] matrix (Dao et al. 2022), forward,
 * backward and for one new token.
 *
 * A tile is up to TILE_ROWS query rows against TILE_KEYS keys of one sequence and one key/value head. Its
 * query rows are `block` consecutive positions times the `heads` query heads that share the key/value head,
 * position by position, so that grouped queries reuse every key that was loaded. Scores are kept transposed,
 * keys down and query rows across: then softmax works on whole vectors of rows, keys and values are used as
 * they lie, and only queries are transposed, once a block.
 *
 * 1. Blocks and key tiles are counted from the sequence's start, and every sum runs over them in ascending
 * order: the bits depend neither on the threads nor on what else is in the batch.
 * 2. The two schedules of the backward (by_head, by_tile) give the same bits: they only differ in what they
 * compute twice.
 * 3. Everything here is f32; bf16 is converted when a tile is loaded and when the result is stored. Queries
 * carry `scale`.
 * 4. A row that has seen no key has maximum -inf and sum 0.
 */
#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/matmul_tile.h"
#include "kernels/cpu/vec.h"

#include <math.h>
#include <omp.h>

enum {
    TILE_ROWS = 128,
    TILE_KEYS = 64,
    MOST_HEAD_DIM = 256,
    MOST_HEADS = 16,           /* query heads of one tile */
    SCORE_LD = TILE_ROWS + 16, /* not a power of two: columns of a tile would share cache sets */
};

struct shape {
    enum dtype dtype;
    int64_t head_dim, dim; /* dim: head_dim padded to whole vectors */
    int64_t kv_heads;
    int64_t heads, subs; /* query heads of a tile; tiles side by side for one key/value head */
    int64_t block;       /* positions of a tile */
    int64_t window;
    float scale;
};

static struct shape shape_of(const struct matrix *q, const struct matrix *k, int32_t head_dim, int32_t window,
                             float scale)
{
    int64_t group = q->cols / k->cols, heads = group;
    while (heads > MOST_HEADS || group % heads) heads--;
    return (struct shape){
        .dtype = q->dtype,
        .head_dim = head_dim,
        .dim = (head_dim + VEC - 1) / VEC * VEC,
        .kv_heads = k->cols / head_dim,
        .heads = heads,
        .subs = group / heads,
        .block = TILE_ROWS / heads,
        .window = window,
        .scale = scale,
    };
}

/* One sequence's rows of one key/value head, and which of its query heads. */
struct place {
    int64_t token, length; /* first token and number of tokens of the sequence */
    int64_t query; /* row of position 0 in q and what has its shape: `token`, except for one new token */
    int64_t kv_head, head; /* head: the first query head of the tile */
};

/* Query rows [0, rows) of a tile are positions first + row / heads; keys [0, keys) are positions key + j. */
struct tile {
    int64_t first, rows, key, keys;
    int64_t heads, window;
};

/* First key that row r sees, and the one after the last, within the tile. */
INLINE int64_t key_from(const struct tile *t, int64_t r)
{
    if (t->window <= 0) return 0;
    int64_t from = t->first + r / t->heads - t->window + 1 - t->key;
    return from < 0 ? 0 : from > t->keys ? t->keys : from;
}

INLINE int64_t key_until(const struct tile *t, int64_t r)
{
    int64_t until = t->first + r / t->heads + 1 - t->key;
    return until < 0 ? 0 : until > t->keys ? t->keys : until;
}

/* First row that sees key j, and the one after the last. */
INLINE int64_t row_from(const struct tile *t, int64_t j)
{
    int64_t row = (t->key + j - t->first) * t->heads;
    return row < 0 ? 0 : row > t->rows ? t->rows : row;
}

INLINE int64_t row_until(const struct tile *t, int64_t j)
{
    if (t->window <= 0) return t->rows;
    int64_t row = (t->key + j + t->window - t->first) * t->heads;
    return row < 0 ? 0 : row > t->rows ? t->rows : row;
}

static bool tile_is_full(const struct tile *t)
{
    return key_until(t, 0) == t->keys && key_from(t, t->rows - 1) == 0;
}

INLINE int64_t floor_vec(int64_t n)
{
    return n / VEC * VEC;
}

INLINE int64_t ceil_vec(int64_t n)
{
    return (n + VEC - 1) / VEC * VEC;
}

/* scores[j][r] = sum_d key[j][d] query[d][r]. Where the tile is not full, vectors of rows that no key of a
 * group sees are left as they are. */
static void tile_scores(const struct tile *t, float *scores, const float *keys, const float *queries,
                        int64_t dim)
{
    if (tile_is_full(t)) {
        matmul_tile(scores, SCORE_LD, keys, dim, 1, queries, TILE_ROWS, t->keys, ceil_vec(t->rows), dim,
                    false);
        return;
    }
    for (int64_t j = 0; j < t->keys; j += MATMUL_ROWS) {
        int64_t n = t->keys - j < MATMUL_ROWS ? t->keys - j : MATMUL_ROWS;
        int64_t from = floor_vec(row_from(t, j)), until = ceil_vec(row_until(t, j + n - 1));
        if (from < until)
            matmul_tile(scores + j * SCORE_LD + from, SCORE_LD, keys + j * dim, dim, 1, queries + from,
                        TILE_ROWS, n, until - from, dim, false);
    }
}

/* out[r][d] (+)= sum_j scores[j][r] values[j][d] */
static void tile_rows(const struct tile *t, float *out, const float *scores, const float *values, int64_t dim,
                      bool add)
{
    if (tile_is_full(t)) {
        matmul_tile(out, dim, scores, 1, SCORE_LD, values, dim, t->rows, dim, t->keys, add);
        return;
    }
    for (int64_t r = 0; r < t->rows; r += MATMUL_ROWS) {
        int64_t n = t->rows - r < MATMUL_ROWS ? t->rows - r : MATMUL_ROWS;
        int64_t from = key_from(t, r), until = key_until(t, r + n - 1);
        if (until < from) until = from;
        matmul_tile(out + r * dim, dim, scores + from * SCORE_LD + r, 1, SCORE_LD, values + from * dim, dim,
                    n, dim, until - from, add);
    }
}

/* out[j][d] += sum_r scores[j][r] rows[r][d] */
static void tile_keys(const struct tile *t, float *out, const float *scores, const float *rows, int64_t dim)
{
    if (tile_is_full(t)) {
        matmul_tile(out, dim, scores, SCORE_LD, 1, rows, dim, t->keys, dim, t->rows, true);
        return;
    }
    for (int64_t j = 0; j < t->keys; j += MATMUL_ROWS) {
        int64_t n = t->keys - j < MATMUL_ROWS ? t->keys - j : MATMUL_ROWS;
        int64_t from = row_from(t, j), until = row_until(t, j + n - 1);
        if (from < until)
            matmul_tile(out + j * dim, dim, scores + j * SCORE_LD + from, SCORE_LD, 1, rows + from * dim, dim,
                        n, dim, until - from, true);
    }
}

/* All ones where row r0 + lane sees the key of the tile with the limits given. */
INLINE vi visible(vi from, vi until, int64_t key)
{
    vi at = (vi){0} + (int32_t)key;
    return (vi)(at >= from) & (vi)(at < until);
}

struct limits {
    int32_t from[TILE_ROWS], until[TILE_ROWS];
};

static void tile_limits(const struct tile *t, struct limits *limits)
{
    for (int64_t r = 0; r < ceil_vec(t->rows); r++) {
        limits->from[r] = r < t->rows ? (int32_t)key_from(t, r) : 0;
        limits->until[r] = r < t->rows ? (int32_t)key_until(t, r) : 0;
    }
}

/* Puts -inf (what = -inf) or 0 where a row does not see a key; everything of the tile then has a value. */
static void tile_mask(const struct tile *t, float *scores, float what)
{
    struct limits limits;
    if (tile_is_full(t)) return;
    tile_limits(t, &limits);
    vf hidden = vec_set(what);
    for (int64_t r = 0; r < ceil_vec(t->rows); r += VEC) {
        vi from, until;
        memcpy(&from, limits.from + r, sizeof from);
        memcpy(&until, limits.until + r, sizeof until);
        for (int64_t j = 0; j < t->keys; j++) {
            float *at = scores + j * SCORE_LD + r;
            vec_store(at, vec_select(visible(from, until, j), vec_load(at), hidden));
        }
    }
}

/* Loads n rows of head_dim elements, `step` elements apart in memory, as f32 rows of `dim`, times factor. */
INLINE void load_rows_as(float *out, const void *in, int64_t step, int64_t n, int64_t head_dim, int64_t dim,
                         float factor, enum dtype dtype)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < dim; d += VEC)
            vec_store(out + i * dim + d, act_load_n(in, i * step + d, head_dim - d, dtype) * factor);
}

static void load_rows(const struct shape *s, float *out, const void *in, int64_t step, int64_t n,
                      float factor)
{
    if (s->dtype == DTYPE_F32)
        load_rows_as(out, in, step, n, s->head_dim, s->dim, factor, DTYPE_F32);
    else
        load_rows_as(out, in, step, n, s->head_dim, s->dim, factor, DTYPE_BF16);
}

static const char *element(const struct matrix *m, int64_t row, int64_t col)
{
    return (const char *)m->data + (size_t)(row * m->stride + col) * dtype_bytes(m->dtype);
}

/* The tile's query rows of q (or dout, out): rows[r][d], times factor. */
static void load_query_rows(const struct shape *s, const struct place *p, const struct tile *t, float *rows,
                            const struct matrix *m, float factor)
{
    int64_t positions = t->rows / t->heads;
    for (int64_t i = 0; i < positions; i++)
        load_rows(s, rows + i * t->heads * s->dim, element(m, p->query + t->first + i, p->head * s->head_dim),
                  s->head_dim, t->heads, factor);
}

static void load_keys(const struct shape *s, const struct place *p, const struct tile *t, float *keys,
                      const struct matrix *m)
{
    load_rows(s, keys, element(m, p->token + t->key, p->kv_head * s->head_dim), m->stride, t->keys, 1.0f);
}

/* out[d][r] = rows[r][d]; rows beyond the tile's last become zeros up to a whole vector. dim is whole
 * vectors. */
static void transpose_rows(float *out, const float *rows, int64_t n, int64_t dim)
{
    for (int64_t r = 0; r < n; r += VEC) {
        for (int64_t d = 0; d < dim; d += VEC) {
            vf square[VEC];
#pragma GCC unroll 16
            for (int i = 0; i < VEC; i++)
                square[i] = r + i < n ? vec_load(rows + (r + i) * dim + d) : (vf){0};
            vec_transpose(square);
#pragma GCC unroll 16
            for (int i = 0; i < VEC; i++) vec_store(out + (d + i) * TILE_ROWS + r, square[i]);
        }
    }
}

INLINE void store_row_as(void *out, const float *row, int64_t head_dim, float factor, enum dtype dtype)
{
    for (int64_t d = 0; d < head_dim; d += VEC)
        act_store_n(out, d, head_dim - d, dtype, vec_load(row + d) * factor);
}

static void store_row(const struct shape *s, const char *out, const float *row, float factor)
{
    if (s->dtype == DTYPE_F32)
        store_row_as((void *)out, row, s->head_dim, factor, DTYPE_F32);
    else
        store_row_as((void *)out, row, s->head_dim, factor, DTYPE_BF16);
}

/* The first key position that any row of a block starting at `first` sees, rounded down to a tile. */
static int64_t first_key(const struct shape *s, int64_t first)
{
    if (s->window <= 0 || first < s->window) return 0;
    return (first - s->window + 1) / TILE_KEYS * TILE_KEYS;
}

static struct tile tile_at(const struct shape *s, const struct place *p, int64_t first, int64_t key)
{
    int64_t positions = p->length - first < s->block ? p->length - first : s->block;
    int64_t last = first + positions; /* keys at or after it are hidden from all rows */
    return (struct tile){
        .first = first,
        .rows = positions * s->heads,
        .key = key,
        .keys = last - key < TILE_KEYS ? last - key : TILE_KEYS,
        .heads = s->heads,
        .window = s->window,
    };
}

/* ---- forward ---- */

struct forward_scratch {
    float query[TILE_ROWS * MOST_HEAD_DIM];  /* rows */
    float across[MOST_HEAD_DIM * TILE_ROWS]; /* the same, transposed */
    float out[TILE_ROWS * MOST_HEAD_DIM];
    float key[TILE_KEYS * MOST_HEAD_DIM];
    float scores[TILE_KEYS * SCORE_LD];
    float max[TILE_ROWS], sum[TILE_ROWS], shrink[TILE_ROWS];
};

/* Scores become exp(score - max) with the rows' running maximum; shrink is what older sums and outputs are
 * multiplied by. */
static void tile_softmax(const struct tile *t, struct forward_scratch *f)
{
    vf lowest = vec_set(-INFINITY);
    for (int64_t r = 0; r < ceil_vec(t->rows); r += VEC) {
        float *column = f->scores + r;
        vf old = vec_load(f->max + r), most = old, second = lowest;
        int64_t j = 0;
        for (; j + 2 <= t->keys; j += 2) {
            most = vec_max(most, vec_load(column + j * SCORE_LD));
            second = vec_max(second, vec_load(column + (j + 1) * SCORE_LD));
        }
        if (j < t->keys) most = vec_max(most, vec_load(column + j * SCORE_LD));
        most = vec_max(most, second);
        vf base = vec_select(most == lowest, (vf){0}, most), sum = {0};
        for (j = 0; j < t->keys; j++) {
            vf p = vec_exp(vec_load(column + j * SCORE_LD) - base);
            vec_store(column + j * SCORE_LD, p);
            sum += p;
        }
        vf shrink = vec_exp(old - base);
        vec_store(f->shrink + r, shrink);
        vec_store(f->max + r, most);
        vec_store(f->sum + r, vec_fma(vec_load(f->sum + r), shrink, sum));
    }
}

static void shrink_rows(float *rows, const float *shrink, int64_t n, int64_t dim)
{
    for (int64_t r = 0; r < n; r++) {
        if (shrink[r] == 1.0f) continue;
        for (int64_t d = 0; d < dim; d += VEC)
            vec_store(rows + r * dim + d, vec_load(rows + r * dim + d) * shrink[r]);
    }
}

/* One block of queries against all keys it sees. lse may be NULL. */
static void forward_block(const struct shape *s, const struct place *p, int64_t first,
                          const struct op_attention *args, struct forward_scratch *f)
{
    struct tile t = tile_at(s, p, first, first_key(s, first));
    load_query_rows(s, p, &t, f->query, &args->q, s->scale);
    transpose_rows(f->across, f->query, t.rows, s->dim);
    for (int64_t r = 0; r < ceil_vec(t.rows); r++) {
        f->max[r] = -INFINITY;
        f->sum[r] = 0.0f;
    }
    bool add = false;
    int64_t end = first + t.rows / t.heads;
    for (int64_t key = t.key; key < end; key += TILE_KEYS) {
        t = tile_at(s, p, first, key);
        load_keys(s, p, &t, f->key, &args->k);
        tile_scores(&t, f->scores, f->key, f->across, s->dim);
        tile_mask(&t, f->scores, -INFINITY);
        tile_softmax(&t, f);
        if (add) shrink_rows(f->out, f->shrink, t.rows, s->dim);
        load_keys(s, p, &t, f->key, &args->v);
        tile_rows(&t, f->out, f->scores, f->key, s->dim, add);
        add = true;
    }
    for (int64_t r = 0; r < t.rows; r++) {
        int64_t token = p->query + first + r / t.heads, head = p->head + r % t.heads;
        store_row(s, element(&args->out, token, head * s->head_dim), f->out + r * s->dim, 1.0f / f->sum[r]);
        if (args->lse) args->lse[head * args->q.rows + token] = f->max[r] + logf(f->sum[r]);
    }
}

/* Blocks of all sequences are numbered through; item / n_heads names one, counted from each sequence's end,
 * where the most keys are. */
static int64_t count_blocks(const struct sequences *sequences, int64_t block)
{
    int64_t n = 0;
    for (int32_t i = 0; i < sequences->count; i++)
        n += (sequences->start[i + 1] - sequences->start[i] + block - 1) / block;
    return n;
}

/* What ops.c cannot see: the starts, from which tiles are addressed and scratch is used. */
static enum status check_starts(const char *op, const struct sequences *sequences, int64_t tokens)
{
    const int32_t *start = sequences->start;
    if (start[0] != 0 || start[sequences->count] != tokens) {
        return FAIL(LORAD_BUG, "%s: sequences span [%d, %d), the matrices have %lld rows", op, start[0],
                    start[sequences->count], (long long)tokens);
    }
    for (int32_t i = 0; i < sequences->count; i++) {
        int32_t length = start[i + 1] - start[i];
        if (length < 1 || length > sequences->longest) {
            return FAIL(LORAD_BUG, "%s: sequence %d has %d tokens, the longest is said to have %d", op, i,
                        length, sequences->longest);
        }
    }
    return LORAD_OK;
}

static void find_block(const struct sequences *sequences, int64_t block, int64_t number, struct place *p,
                       int64_t *first)
{
    for (int32_t i = 0;; i++) {
        int64_t length = sequences->start[i + 1] - sequences->start[i], blocks = (length + block - 1) / block;
        if (number < blocks) {
            p->token = sequences->start[i];
            p->query = p->token;
            p->length = length;
            *first = (blocks - 1 - number) * block;
            return;
        }
        number -= blocks;
    }
}

enum status CPU_OP(attention)(struct cpu_device *device, const struct op_attention *args)
{
    _Static_assert(sizeof(struct forward_scratch) <= CPU_SCRATCH_FLOATS * sizeof(float), "scratch");
    TRY(check_starts("attention", &args->sequences, args->q.rows));
    struct shape s = shape_of(&args->q, &args->k, args->head_dim, args->window, args->scale);
    int64_t n_heads = s.kv_heads * s.subs, items = count_blocks(&args->sequences, s.block) * n_heads;
#pragma omp parallel for schedule(dynamic) num_threads(device->threads)
    for (int64_t item = 0; item < items; item++) {
        struct forward_scratch *f =
            (struct forward_scratch *)(void *)cpu_scratch(device, omp_get_thread_num());
        int64_t tile_head = item % n_heads, first;
        struct place p = {.kv_head = tile_head / s.subs, .head = tile_head * s.heads};
        find_block(&args->sequences, s.block, item / n_heads, &p, &first);
        forward_block(&s, &p, first, args, f);
    }
    return LORAD_OK;
}

/* ---- one token against a cache ---- */

/* The cache is one sequence whose last position is the query's; only that position's block is computed. */
enum status CPU_OP(attention_decode)(struct cpu_device *device, const struct op_attention_decode *args)
{
    struct shape s = shape_of(&args->q, &args->k_cache, args->head_dim, args->window, args->scale);
    int64_t n_heads = s.kv_heads * s.subs, last = args->length - 1;
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads_for(device, args->length * args->q.cols))
    for (int64_t item = 0; item < n_heads; item++) {
        struct forward_scratch *f =
            (struct forward_scratch *)(void *)cpu_scratch(device, omp_get_thread_num());
        struct place p = {
            .length = args->length, .query = -last, .kv_head = item / s.subs, .head = item * s.heads};
        struct op_attention view = {.q = args->q, .k = args->k_cache, .v = args->v_cache, .out = args->out};
        forward_block(&s, &p, last, &view, f);
    }
    return LORAD_OK;
}

/* ---- backward ---- */

struct backward_scratch {
    float query[TILE_ROWS * MOST_HEAD_DIM], query_across[MOST_HEAD_DIM * TILE_ROWS];
    float dout[TILE_ROWS * MOST_HEAD_DIM], dout_across[MOST_HEAD_DIM * TILE_ROWS];
    float dquery[TILE_ROWS * MOST_HEAD_DIM];
    float key[TILE_KEYS * MOST_HEAD_DIM], value[TILE_KEYS * MOST_HEAD_DIM];
    float scores[TILE_KEYS * SCORE_LD], dscores[TILE_KEYS * SCORE_LD];
    float lse[TILE_ROWS], delta[TILE_ROWS]; /* delta: rowsum(dout * out) */
    float sums[];                           /* dk, dv */
};

enum { SUM_FLOATS = CPU_SCRATCH_FLOATS - (int)(sizeof(struct backward_scratch) / sizeof(float)) };

static void load_block(const struct shape *s, const struct place *p, const struct tile *t,
                       const struct op_attention_backward *args, struct backward_scratch *b)
{
    load_query_rows(s, p, t, b->dquery, &args->out, 1.0f); /* free until the first tile */
    load_query_rows(s, p, t, b->dout, &args->dout, 1.0f);
    load_query_rows(s, p, t, b->query, &args->q, s->scale);
    for (int64_t r = 0; r < ceil_vec(t->rows); r++) {
        b->lse[r] = b->delta[r] = 0.0f;
        if (r >= t->rows) continue;
        vf sum = {0};
        for (int64_t d = 0; d < s->dim; d += VEC)
            sum = vec_fma(vec_load(b->dquery + r * s->dim + d), vec_load(b->dout + r * s->dim + d), sum);
        b->delta[r] = vec_sum(sum);
        b->lse[r] = args->lse[(p->head + r % t->heads) * args->q.rows + p->token + t->first + r / t->heads];
    }
    transpose_rows(b->query_across, b->query, t->rows, s->dim);
    transpose_rows(b->dout_across, b->dout, t->rows, s->dim);
}

/* scores become probabilities */
static void tile_probabilities(const struct tile *t, struct backward_scratch *b)
{
    for (int64_t r = 0; r < ceil_vec(t->rows); r += VEC) {
        vf lse = vec_load(b->lse + r);
        float *column = b->scores + r;
        for (int64_t j = 0; j < t->keys; j++)
            vec_store(column + j * SCORE_LD, vec_exp(vec_load(column + j * SCORE_LD) - lse));
    }
    tile_mask(t, b->scores, 0.0f);
}

/* probabilities become the gradients of the scores */
static void tile_dscores(const struct tile *t, struct backward_scratch *b)
{
    for (int64_t r = 0; r < ceil_vec(t->rows); r += VEC) {
        vf delta = vec_load(b->delta + r);
        for (int64_t at = r; at < r + t->keys * SCORE_LD; at += SCORE_LD)
            vec_store(b->scores + at, vec_load(b->scores + at) * (vec_load(b->dscores + at) - delta));
    }
    tile_mask(t, b->scores, 0.0f);
}

/* Adds the tile's part to dk and dv (both or neither) and to dquery (written when !add). */
static void backward_tile(const struct shape *s, const struct place *p, const struct tile *t,
                          const struct op_attention_backward *args, struct backward_scratch *b, float *dk,
                          float *dv, bool want_dq, bool add)
{
    load_keys(s, p, t, b->key, &args->k);
    load_keys(s, p, t, b->value, &args->v);
    tile_scores(t, b->scores, b->key, b->query_across, s->dim);
    tile_probabilities(t, b);
    if (dv) tile_keys(t, dv, b->scores, b->dout, s->dim);
    tile_scores(t, b->dscores, b->value, b->dout_across, s->dim);
    tile_dscores(t, b);
    if (dk) tile_keys(t, dk, b->scores, b->query, s->dim);
    if (want_dq) tile_rows(t, b->dquery, b->scores, b->key, s->dim, add);
}

/* All tiles of one block of queries; dk and dv (whole sequence) may be NULL. */
static void backward_block(const struct shape *s, const struct place *p, int64_t first,
                           const struct op_attention_backward *args, struct backward_scratch *b, float *dk,
                           float *dv)
{
    int64_t from = first_key(s, first);
    struct tile t = tile_at(s, p, first, from);
    int64_t end = first + t.rows / t.heads;
    load_block(s, p, &t, args, b);
    for (int64_t key = from; key < end; key += TILE_KEYS) {
        t = tile_at(s, p, first, key);
        backward_tile(s, p, &t, args, b, dk ? dk + key * s->dim : NULL, dv ? dv + key * s->dim : NULL, true,
                      key > from);
    }
    for (int64_t r = 0; r < t.rows; r++) {
        int64_t token = p->token + first + r / t.heads, head = p->head + r % t.heads;
        store_row(s, element(&args->dq, token, head * s->head_dim), b->dquery + r * s->dim, s->scale);
    }
}

static void store_keys(const struct shape *s, const struct place *p, int64_t key, int64_t n,
                       const struct op_attention_backward *args, const float *dk, const float *dv)
{
    for (int64_t j = 0; j < n; j++) {
        int64_t token = p->token + key + j, col = p->kv_head * s->head_dim;
        store_row(s, element(&args->dk, token, col), dk + j * s->dim, 1.0f);
        store_row(s, element(&args->dv, token, col), dv + j * s->dim, 1.0f);
    }
}

/* One sequence and key/value head: every probability is computed once, and dk, dv of the sequence stay in the
 * scratch. */
static void backward_by_head(const struct shape *s, struct place p, const struct op_attention_backward *args,
                             struct backward_scratch *b)
{
    float *dk = b->sums, *dv = b->sums + p.length * s->dim;
    memset(dk, 0, (size_t)(2 * p.length * s->dim) * sizeof *dk);
    for (int64_t first = 0; first < p.length; first += s->block) {
        for (int64_t sub = 0; sub < s->subs; sub++) {
            p.head = (p.kv_head * s->subs + sub) * s->heads;
            backward_block(s, &p, first, args, b, dk, dv);
        }
    }
    store_keys(s, &p, 0, p.length, args, dk, dv);
}

/* dk and dv of one tile of keys, from every block of queries that sees it. */
static void backward_by_tile(const struct shape *s, struct place p, int64_t key,
                             const struct op_attention_backward *args, struct backward_scratch *b)
{
    int64_t keys = p.length - key < TILE_KEYS ? p.length - key : TILE_KEYS;
    float *dk = b->sums, *dv = b->sums + keys * s->dim;
    memset(dk, 0, (size_t)(2 * keys * s->dim) * sizeof *dk);
    for (int64_t first = key / s->block * s->block; first < p.length && first_key(s, first) <= key;
         first += s->block) {
        for (int64_t sub = 0; sub < s->subs; sub++) {
            p.head = (p.kv_head * s->subs + sub) * s->heads;
            struct tile t = tile_at(s, &p, first, key);
            load_block(s, &p, &t, args, b);
            backward_tile(s, &p, &t, args, b, dk, dv, false, false);
        }
    }
    store_keys(s, &p, key, keys, args, dk, dv);
}

/* By head does 5 products a tile, but has few items; by tile does 7 in many. */
static bool by_head_is_better(const struct cpu_device *device, const struct shape *s,
                              const struct sequences *sequences)
{
    double total = 0, longest = (double)sequences->longest * sequences->longest;
    if (2 * (int64_t)sequences->longest * s->dim > SUM_FLOATS) return false;
    for (int32_t i = 0; i < sequences->count; i++) {
        double length = sequences->start[i + 1] - sequences->start[i];
        total += length * length * (double)s->kv_heads;
    }
    double share = total / device->threads;
    return 5 * (share > longest ? share : longest) <= 7 * share;
}

static struct backward_scratch *backward_scratch(const struct cpu_device *device)
{
    return (struct backward_scratch *)(void *)cpu_scratch(device, omp_get_thread_num());
}

enum status CPU_OP(attention_backward)(struct cpu_device *device, const struct op_attention_backward *args)
{
    TRY(check_starts("attention_backward", &args->sequences, args->q.rows));
    struct shape s = shape_of(&args->q, &args->k, args->head_dim, args->window, args->scale);
    const struct sequences *sequences = &args->sequences;
    if (by_head_is_better(device, &s, sequences)) {
        int64_t items = sequences->count * s.kv_heads;
#pragma omp parallel for schedule(dynamic) num_threads(device->threads)
        for (int64_t item = 0; item < items; item++) {
            int64_t sequence = item / s.kv_heads, token = sequences->start[sequence];
            struct place p = {.token = token,
                              .query = token,
                              .length = sequences->start[sequence + 1] - token,
                              .kv_head = item % s.kv_heads};
            backward_by_head(&s, p, args, backward_scratch(device));
        }
        return LORAD_OK;
    }
    int64_t tiles = count_blocks(sequences, TILE_KEYS) * s.kv_heads, n_heads = s.kv_heads * s.subs;
    int64_t blocks = count_blocks(sequences, s.block) * n_heads;
#pragma omp parallel for schedule(dynamic) num_threads(device->threads)
    for (int64_t item = 0; item < tiles + blocks; item++) {
        struct place p = {0};
        int64_t at;
        if (item < tiles) {
            p.kv_head = item % s.kv_heads;
            find_block(sequences, TILE_KEYS, item / s.kv_heads, &p, &at);
            backward_by_tile(&s, p, at, args, backward_scratch(device));
        } else {
            int64_t tile_head = (item - tiles) % n_heads;
            p.kv_head = tile_head / s.subs;
            p.head = tile_head * s.heads;
            find_block(sequences, s.block, (item - tiles) / n_heads, &p, &at);
            backward_block(&s, &p, at, args, backward_scratch(device), NULL, NULL);
        }
    }
    return LORAD_OK;
}
