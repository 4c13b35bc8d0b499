/*
 * skinny.h: the products of a panel's adapter: one of their sides is its rank, so memory decides their speed,
 * and each reads its long operand once for all parts. Under dropout x is masked on its way.
 *
 * R is panel_spare; a part's columns of u and g are those of struct panel. Everything runs on STREAM_COMPUTE
 * and may use the device's workspace. Rows start at 16-byte borders. Results do not change between calls with
 * the same shapes; another number of rows may split the sums otherwise.
 */
#ifndef LORAD_KERNELS_CUDA_SKINNY_H
#define LORAD_KERNELS_CUDA_SKINNY_H

#include "kernels/cuda/cuda_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bits of panel_dropout_keep() for every part, token and column: bit c % 32 of word c / 32 of a token's row
 * is set when column c survives; bits behind the last column are not defined. */
size_t skinny_mask_bytes(int32_t parts, int64_t tokens, int64_t cols);
enum status skinny_mask(const struct panel *panel, const struct panel_dropout *dropout, int64_t tokens,
                        uint32_t *bits) LORAD_WARN_UNUSED;

/* u[t, r] = scale * sum over c of x[t, c] A[r, c], masked when `bits` is set; columns of u from rank_sum to R
 * become zero. A is [R, in] of x's dtype, with zeros from rank_sum on. */
enum status skinny_u(const struct panel *panel, struct matrix x, struct matrix a, const uint32_t *bits,
                     float scale, struct matrix u) LORAD_WARN_UNUSED;
/* g = dy (sB) in the same way; sB is [out, R], zero outside of its parts' blocks. */
enum status skinny_g(const struct panel *panel, struct matrix dy, struct matrix sb,
                     struct matrix g) LORAD_WARN_UNUSED;

/* da[i][r, c] += scale * sum over t of g[t, r] x[t, c] for every part with da[i] set; [rank, in] f32. */
enum status skinny_da(const struct panel *panel, struct matrix g, struct matrix x, const uint32_t *bits,
                      float scale, float *const da[PANEL_PARTS]) LORAD_WARN_UNUSED;
/* db[i][o, r] += scale[i] * sum over t of dy[t, o] u[t, r] for every part with db[i] set; [out, rank] f32. */
enum status skinny_db(const struct panel *panel, struct matrix u, struct matrix dy,
                      const float scale[PANEL_PARTS], float *const db[PANEL_PARTS]) LORAD_WARN_UNUSED;

/* dx[t, c] = scale * sum over parts of mask * (g A of the part)[t, c]. */
enum status skinny_dx(const struct panel *panel, struct matrix g, struct matrix a, const uint32_t *bits,
                      float scale, struct matrix dx) LORAD_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
