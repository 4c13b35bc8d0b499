/*
 * dropout_mask.c: one Philox block serves four columns; LANES blocks are computed side by side so that the
 * compiler can keep them in vectors.
 */
#include "kernels/cpu/dropout_mask.h"

#include <math.h>

enum { LANES = 16 };

int64_t dropout_mask_words(int64_t cols)
{
    return (cols + 31) / 32;
}

/* random_philox(key, token, block .. block + LANES), words as word[4][LANES]. */
static void philox_lanes(uint64_t key, uint64_t token, uint64_t block, uint32_t word[4][LANES])
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int i = 0; i < LANES; i++) {
        word[0][i] = (uint32_t)(block + (uint64_t)i);
        word[1][i] = (uint32_t)((block + (uint64_t)i) >> 32);
        word[2][i] = (uint32_t)token;
        word[3][i] = (uint32_t)(token >> 32);
    }
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int i = 0; i < LANES; i++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * word[0][i], p1 = (uint64_t)0xCD9E8D57u * word[2][i];
            word[0][i] = (uint32_t)(p1 >> 32) ^ word[1][i] ^ k0;
            word[2][i] = (uint32_t)(p0 >> 32) ^ word[3][i] ^ k1;
            word[1][i] = (uint32_t)p1;
            word[3][i] = (uint32_t)p0;
        }
}

/* Column col_first of the whole matrix is a multiple of 4. */
static void row_fill(uint32_t *bits, int64_t words, uint64_t key, int64_t token, int64_t col_first,
                     uint32_t least)
{
    uint32_t word[4][LANES], nibble[LANES];
    for (int64_t w = 0; w < words; w++) {
        if (w % 2 == 0) {
            philox_lanes(key, (uint64_t)token, (uint64_t)(col_first + w * 32) >> 2, word);
            for (int i = 0; i < LANES; i++)
                nibble[i] = (uint32_t)(word[0][i] >> 8 >= least) | (uint32_t)(word[1][i] >> 8 >= least) << 1 |
                            (uint32_t)(word[2][i] >> 8 >= least) << 2 |
                            (uint32_t)(word[3][i] >> 8 >= least) << 3;
        }
        uint32_t value = 0;
        for (int i = 0; i < 8; i++) value |= nibble[w % 2 * 8 + i] << (4 * i);
        bits[w] = value;
    }
}

void dropout_mask_fill(uint32_t *bits, int64_t rows, int64_t cols, int32_t part,
                       const struct panel_dropout *dropout, int threads)
{
    int64_t words = dropout_mask_words(cols);
    uint64_t key = dropout->key[part];
    uint32_t least = (uint32_t)ceilf(dropout->p * 0x1p24f); /* unit >= p, in units of 2^-24: both are exact */
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < rows; t++) {
        int64_t token = dropout->token_index[t];
        if (dropout->col_first % 4 == 0) {
            row_fill(bits + t * words, words, key, token, dropout->col_first, least);
            continue;
        }
        for (int64_t w = 0; w < words; w++) {
            uint32_t value = 0;
            for (int64_t c = w * 32; c < cols && c < w * 32 + 32; c++)
                value |= (uint32_t)panel_dropout_keep(key, token, dropout->col_first + c, dropout->p)
                         << (c % 32);
            bits[t * words + w] = value;
        }
    }
}

void dropout_mask_apply(struct matrix to, struct matrix x, const uint32_t *bits, int threads)
{
    int64_t words = dropout_mask_words(x.cols);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < x.rows; t++)
        for (int64_t w = 0; w < words; w++) {
            uint32_t word = bits[t * words + w];
            int64_t first = w * 32, n = x.cols - first < 32 ? x.cols - first : 32;
            if (x.dtype == DTYPE_F32) {
                const float *from = (const float *)x.data + t * x.stride + first;
                float *out = (float *)to.data + t * to.stride + first;
                for (int64_t i = 0; i < n; i++) out[i] = word >> i & 1 ? from[i] : 0;
            } else {
                const uint16_t *from = (const uint16_t *)x.data + t * x.stride + first;
                uint16_t *out = (uint16_t *)to.data + t * to.stride + first;
                for (int64_t i = 0; i < n; i++) out[i] = word >> i & 1 ? from[i] : 0;
            }
        }
}
