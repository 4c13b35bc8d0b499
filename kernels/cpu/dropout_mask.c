/* dropout_mask.c: masks of whole matrices, row by row; the rows' own loops are in gemm_vector.h. */
#include "kernels/cpu/dropout_mask.h"

#include <math.h>

int64_t dropout_mask_words(int64_t cols)
{
    return (cols + 31) / 32;
}

void dropout_mask_fill(uint32_t *bits, int64_t rows, int64_t cols, int32_t part,
                       const struct panel_dropout *dropout, const struct gemm_vector *vector, int threads)
{
    int64_t words = dropout_mask_words(cols);
    uint64_t key = dropout->key[part];
    uint32_t least = (uint32_t)ceilf(dropout->p * 0x1p24f); /* unit >= p, in units of 2^-24: both are exact */
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < rows; t++) {
        int64_t token = dropout->token_index[t];
        if (dropout->col_first % 4 == 0) {
            vector->mask_row(bits + t * words, words, key, token, dropout->col_first, least);
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
