#include "kernels/cuda/sdpa_layout.h"

enum {
    FEWEST_SEQUENCES = 4,
    MOST_SEQUENCES = 512,
    SHORTEST = 512,
    LONG_STEP = 32768,
    HEAD_DIM_STEP = 16, /* with others, packed partial sums are wrong in cuDNN 9 */
    WIDEST_HEAD = 256,
    TILE = 128, /* rows of a tile: what is kept on the way has room for whole ones */
};

static int32_t power_of_two(int32_t n, int32_t least)
{
    int32_t step = least;
    while (step < n) step *= 2;
    return step;
}

int32_t sdpa_batch_step(int32_t sequences)
{
    return sequences > MOST_SEQUENCES ? 0 : power_of_two(sequences, FEWEST_SEQUENCES);
}

int32_t sdpa_tokens_step(int32_t longest)
{
    if (longest > INT32_MAX - LONG_STEP) return 0;
    if (longest > LONG_STEP) return (longest + LONG_STEP - 1) / LONG_STEP * LONG_STEP;
    return power_of_two(longest, SHORTEST);
}

bool sdpa_kind_fits(enum dtype dtype, int32_t q_heads, int32_t kv_heads, int32_t head_dim)
{
    return (dtype == DTYPE_BF16 || dtype == DTYPE_F16) && q_heads % kv_heads == 0 &&
           head_dim <= WIDEST_HEAD && head_dim % HEAD_DIM_STEP == 0;
}

size_t sdpa_workspace_allowed(int32_t batch)
{
    return ((size_t)32 << 10) + (size_t)batch * 512;
}

static size_t take(size_t *used, int64_t bytes)
{
    size_t at = *used;
    *used += ((size_t)bytes + 255) / 256 * 256;
    return at;
}

struct sdpa_layout sdpa_layout(const struct sdpa_key *key, int64_t tokens)
{
    struct sdpa_layout layout = {0};
    size_t *used = &layout.bytes;
    layout.at[SDPA_LENGTHS] = take(used, key->batch * (int64_t)sizeof(int32_t));
    for (int i = 0; i < SDPA_PACKED; i++)
        layout.at[SDPA_OFFSET + i] = take(used, (key->batch + 1) * (int64_t)sizeof(int64_t));
    layout.workspace = take(used, (int64_t)sdpa_workspace_allowed(key->batch));
    if (!key->backward) return layout;
    int64_t rows = (tokens + TILE - 1) / TILE * TILE;
    int64_t q_cols = (int64_t)key->q_heads * key->head_dim, kv_cols = (int64_t)key->kv_heads * key->head_dim;
    layout.at[SDPA_DOUT_OUT] = take(used, rows * key->q_heads * (int64_t)sizeof(float));
    layout.at[SDPA_DQ_SUM] = take(used, rows * key->stride[SDPA_DQ] * (int64_t)sizeof(float));
    if (!sdpa_key_copies(key)) return layout;
    /* By query head they are 16-bit, but NVIDIA's front end gives them room for f32; so does this. */
    layout.at[SDPA_DK_HEADS] = take(used, rows * q_cols * (int64_t)sizeof(float));
    layout.at[SDPA_DV_HEADS] = take(used, rows * q_cols * (int64_t)sizeof(float));
    layout.at[SDPA_DK] = take(used, rows * kv_cols * (int64_t)dtype_bytes(key->dtype));
    layout.at[SDPA_DV] = take(used, rows * kv_cols * (int64_t)dtype_bytes(key->dtype));
    return layout;
}

size_t cuda_sdpa_scratch(const struct attention_shape *shape)
{
    if (shape->deterministic || shape->max_sequences < 1 ||
        !sdpa_kind_fits(shape->dtype, shape->q_heads, shape->kv_heads, shape->head_dim))
        return 0;
    int32_t sequences = shape->max_sequences < MOST_SEQUENCES ? shape->max_sequences : MOST_SEQUENCES;
    struct sdpa_key key = {.dtype = shape->dtype,
                           .backward = shape->dqkv_stride > 0,
                           .q_heads = shape->q_heads,
                           .kv_heads = shape->kv_heads,
                           .head_dim = shape->head_dim,
                           .batch = sdpa_batch_step(sequences)};
    key.stride[SDPA_DQ] = shape->dqkv_stride;
    return sdpa_layout(&key, shape->max_tokens).bytes;
}
