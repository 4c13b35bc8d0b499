/*
 * gemm_tiles_emulated.h: eight tile registers in plain C, for gemm_amx_body.h on processors without them.
 * Loads and stores move 16 rows of 64 bytes exactly as TILELOADD and TILESTORED do; the dot product follows
 * TDPBF16PS's order (row by row, pair by pair) in f32. Used by tests only.
 */
#ifndef LORAD_KERNELS_CPU_GEMM_TILES_EMULATED_H
#define LORAD_KERNELS_CPU_GEMM_TILES_EMULATED_H

#include <stdint.h>
#include <string.h>

#include "kernels/tensor.h"

enum { TILE_ROWS = 16, TILE_ROW_BYTES = 64, TILE_COLS = 16 };

static _Thread_local unsigned char tile_register[8][TILE_ROWS][TILE_ROW_BYTES];

static inline void tile_load(int tile, const void *memory, int64_t stride)
{
    for (int i = 0; i < TILE_ROWS; i++)
        memcpy(tile_register[tile][i], (const char *)memory + i * stride, TILE_ROW_BYTES);
}

static inline void tile_store(int tile, void *memory, int64_t stride)
{
    for (int i = 0; i < TILE_ROWS; i++)
        memcpy((char *)memory + i * stride, tile_register[tile][i], TILE_ROW_BYTES);
}

static inline void tile_dot(int c, int a, int b)
{
    for (int i = 0; i < TILE_ROWS; i++) {
        float sum[TILE_COLS];
        uint16_t left[2 * TILE_COLS], right[2 * TILE_COLS];
        memcpy(sum, tile_register[c][i], sizeof sum);
        memcpy(left, tile_register[a][i], sizeof left);
        for (int pair = 0; pair < TILE_ROWS; pair++) {
            memcpy(right, tile_register[b][pair], sizeof right);
            for (int j = 0; j < TILE_COLS; j++) {
                sum[j] += bf16_to_f32(left[2 * pair]) * bf16_to_f32(right[2 * j]);
                sum[j] += bf16_to_f32(left[2 * pair + 1]) * bf16_to_f32(right[2 * j + 1]);
            }
        }
        memcpy(tile_register[c][i], sum, sizeof sum);
    }
}

#define TILE_ZERO(t)                  memset(tile_register[t], 0, sizeof tile_register[t])
#define TILE_LOAD(t, memory, stride)  tile_load(t, memory, stride)
#define TILE_STORE(t, memory, stride) tile_store(t, memory, stride)
#define TILE_DOT(c, a, b)             tile_dot(c, a, b)

#endif
