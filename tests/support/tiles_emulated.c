/*
 * tiles_emulated.c: eight tile registers in plain C under gemm_amx_body.h, for processors without them. Loads
 * and stores move 16 rows of 64 bytes exactly as TILELOADD and TILESTORED do; the dot product sums row by row
 * and pair by pair in f32, as TDPBF16PS does.
 */
#include "support/tiles_emulated.h"

#include <string.h>

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
#define AMX_MICRO                     micro_emulated

static gemm_micro_fn micro_emulated;
#include "kernels/cpu/gemm_amx_body.h"

const struct gemm_kernel *tiles_emulated(void)
{
    static const struct gemm_kernel kernel = {.name = "amx emulated",
                                              .dtype = DTYPE_BF16,
                                              .a_dtype = DTYPE_BF16,
                                              .mr = AMX_ROWS,
                                              .kp = AMX_DEPTH,
                                              .micro = micro_emulated,
                                              .vector = &gemm_vector_generic};
    return &kernel;
}
