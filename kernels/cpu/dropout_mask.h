/* dropout_mask.h: the masks of panel_dropout_keep() as bits, and their application. Inside kernels/cpu only.
 */
#ifndef LORAD_KERNELS_CPU_DROPOUT_MASK_H
#define LORAD_KERNELS_CPU_DROPOUT_MASK_H

#include <stdint.h>

#include "kernels/cpu/gemm.h"
#include "kernels/panel.h"
#include "kernels/tensor.h"

/* 32-bit words of one token's mask of `cols` columns. */
int64_t dropout_mask_words(int64_t cols);

/* bits[rows][words]: bit c % 32 of word c / 32 is set when column c of the token survives; bits from `cols`
 * are not defined. */
void dropout_mask_fill(uint32_t *bits, int64_t rows, int64_t cols, int32_t part,
                       const struct panel_dropout *dropout, const struct gemm_vector *vector, int threads);

/* to = x where the bit is set, else 0; `to` has x's dtype and shape. No scaling. */
void dropout_mask_apply(struct matrix to, struct matrix x, const uint32_t *bits, int threads);

#endif
