/*
 * matmul_tile.h: small f32 matrix products whose operands are in the first two cache levels, for attention's
 * tiles.
 *
 * A block of MATMUL_ROWS rows and MATMUL_VECS vectors of the result stays in registers while the depth is
 * walked: each step loads the vectors of b once and broadcasts one element of a per row.
 */
#ifndef LORAD_KERNELS_CPU_MATMUL_TILE_H
#define LORAD_KERNELS_CPU_MATMUL_TILE_H

#include <stdbool.h>

#include "kernels/cpu/vec.h"

#define MATMUL_ROWS 6
#if defined(VEC_AVX512)
#define MATMUL_VECS 4 /* 24 of 32 registers */
#else
#define MATMUL_VECS 2 /* 12 of 16 */
#endif

struct matmul_block {
    float *c;
    int64_t c_ld;
    const float *a;
    int64_t a_row, a_step; /* element (i, k) of a is a[i * a_row + k * a_step] */
    const float *b;
    int64_t b_ld;
    int64_t depth;
    bool add;
};

INLINE void matmul_block(const struct matmul_block *m, const int rows, const int vecs)
{
    vf sum[MATMUL_ROWS][MATMUL_VECS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) sum[i][v] = m->add ? vec_load(m->c + i * m->c_ld + v * VEC) : (vf){0};
    const float *a = m->a, *b = m->b;
    for (int64_t k = 0; k < m->depth; k++) {
        vf right[MATMUL_VECS];
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) right[v] = vec_load(b + v * VEC);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            vf left = vec_set(a[i * m->a_row]);
#pragma GCC unroll 8
            for (int v = 0; v < vecs; v++) sum[i][v] = vec_fma(left, right[v], sum[i][v]);
        }
        a += m->a_step;
        b += m->b_ld;
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) vec_store(m->c + i * m->c_ld + v * VEC, sum[i][v]);
}

/* Row counts and widths become constants here. */
INLINE void matmul_block_rows(const struct matmul_block *m, const int rows, int vecs)
{
    switch (vecs) {
#if MATMUL_VECS == 4
    case 4:
        matmul_block(m, rows, 4);
        break;
    case 3:
        matmul_block(m, rows, 3);
        break;
#endif
    case 2:
        matmul_block(m, rows, 2);
        break;
    default:
        matmul_block(m, rows, 1);
        break;
    }
}

/* c[m][n] = (add ? c : 0) + sum over depth of a * b; n is a multiple of VEC. */
static void matmul_tile(float *c, int64_t c_ld, const float *a, int64_t a_row, int64_t a_step, const float *b,
                        int64_t b_ld, int64_t rows, int64_t cols, int64_t depth, bool add)
{
    struct matmul_block m = {NULL, c_ld, NULL, a_row, a_step, NULL, b_ld, depth, add};
    for (int64_t col = 0; col < cols; col += MATMUL_VECS * VEC) {
        int64_t left = (cols - col) / VEC;
        int vecs = left < MATMUL_VECS ? (int)left : MATMUL_VECS;
        for (int64_t row = 0; row < rows; row += MATMUL_ROWS) {
            m.c = c + row * c_ld + col;
            m.a = a + row * a_row;
            m.b = b + col;
            switch (rows - row) {
            case 1:
                matmul_block_rows(&m, 1, vecs);
                break;
            case 2:
                matmul_block_rows(&m, 2, vecs);
                break;
            case 3:
                matmul_block_rows(&m, 3, vecs);
                break;
            case 4:
                matmul_block_rows(&m, 4, vecs);
                break;
            case 5:
                matmul_block_rows(&m, 5, vecs);
                break;
            default:
                matmul_block_rows(&m, MATMUL_ROWS, vecs);
                break;
            }
        }
    }
}

#endif
