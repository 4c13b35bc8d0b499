/*
 * gemm_amx_body.h: the bf16 micro-kernel over tile registers. Included by gemm_amx.c with the real
 * instructions and by tests/support/tiles_emulated.c with tiles in plain C, so that packing and blocking are
 * checked on any processor.
 *
 * A register block is 32 rows x 32 columns: four accumulator tiles, two of a and two of b, so that each
 * loaded tile is used twice. A tile is 16 rows of 64 bytes:
 *
 *   a: 16 rows x 32 k; block layout [k/32][32 rows][32 k], rows 64 bytes apart
 *   b: 16 pairs of k x 16 columns x 2; panel layout [k/2][32 columns][2], rows 128 bytes apart
 *   c: 16 rows x 16 columns of f32; rows 128 bytes apart
 *
 * Rows m to 31 of a block are zero, and the tile of c that the caller gives has room for all 32.
 *
 * Needs TILE_ZERO(t), TILE_LOAD(t, pointer, stride), TILE_STORE(t, pointer, stride), TILE_DOT(c, a, b) and
 * AMX_MICRO, the function's name.
 */
#include "kernels/cpu/gemm.h"

enum {
    AMX_ROWS = 32,
    AMX_HALF = 16,
    AMX_DEPTH = 32,
    AMX_A_STRIDE = 64,
    AMX_B_STRIDE = 128,
    AMX_C_STRIDE = 128
};

/* Up to 16 rows: half of the registers, all of the panel's bytes. */
static void amx_half(int64_t k, const uint16_t *a, const uint16_t *b, float *c, bool accumulate)
{
    if (accumulate) {
        TILE_LOAD(0, c, AMX_C_STRIDE);
        TILE_LOAD(1, c + AMX_HALF, AMX_C_STRIDE);
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
    }
    for (int64_t kk = 0; kk < k; kk += AMX_DEPTH, a += AMX_ROWS * AMX_DEPTH, b += AMX_DEPTH * GEMM_NR) {
        TILE_LOAD(4, a, AMX_A_STRIDE);
        TILE_LOAD(6, b, AMX_B_STRIDE);
        TILE_LOAD(7, b + AMX_HALF * 2, AMX_B_STRIDE);
        TILE_DOT(0, 4, 6);
        TILE_DOT(1, 4, 7);
    }
    TILE_STORE(0, c, AMX_C_STRIDE);
    TILE_STORE(1, c + AMX_HALF, AMX_C_STRIDE);
}

static void amx_whole(int64_t k, const uint16_t *a, const uint16_t *b, float *c, bool accumulate)
{
    float *below = c + AMX_HALF * GEMM_NR;
    if (accumulate) {
        TILE_LOAD(0, c, AMX_C_STRIDE);
        TILE_LOAD(1, c + AMX_HALF, AMX_C_STRIDE);
        TILE_LOAD(2, below, AMX_C_STRIDE);
        TILE_LOAD(3, below + AMX_HALF, AMX_C_STRIDE);
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    }
    for (int64_t kk = 0; kk < k; kk += AMX_DEPTH, a += AMX_ROWS * AMX_DEPTH, b += AMX_DEPTH * GEMM_NR) {
        TILE_LOAD(4, a, AMX_A_STRIDE);
        TILE_LOAD(6, b, AMX_B_STRIDE);
        TILE_DOT(0, 4, 6);
        TILE_LOAD(7, b + AMX_HALF * 2, AMX_B_STRIDE);
        TILE_DOT(1, 4, 7);
        TILE_LOAD(5, a + AMX_HALF * AMX_DEPTH, AMX_A_STRIDE);
        TILE_DOT(2, 5, 6);
        TILE_DOT(3, 5, 7);
    }
    TILE_STORE(0, c, AMX_C_STRIDE);
    TILE_STORE(1, c + AMX_HALF, AMX_C_STRIDE);
    TILE_STORE(2, below, AMX_C_STRIDE);
    TILE_STORE(3, below + AMX_HALF, AMX_C_STRIDE);
}

void AMX_MICRO(int m, int n, int64_t k, const void *a, const void *b, float *c, bool accumulate)
{
    (void)n;
    if (m <= AMX_HALF)
        amx_half(k, a, b, c, accumulate);
    else
        amx_whole(k, a, b, c, accumulate);
}
