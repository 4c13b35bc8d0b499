/*
 * gemm_amx.c: gemm_amx_body.h with the tile instructions of Intel processors (Sapphire Rapids and later). The
 * kernel was asked for the registers by cpu_features(); every thread loads the tile shapes itself.
 */
/* clang before 16 leaves out the underline. */
#if (defined(__AMX_BF16__) && defined(__AMX_TILE__)) || (defined(__AMXBF16__) && defined(__AMXTILE__))
#include <immintrin.h>

#define TILE_ZERO(t)                  _tile_zero(t)
#define TILE_LOAD(t, memory, stride)  _tile_loadd(t, memory, stride)
#define TILE_STORE(t, memory, stride) _tile_stored(t, memory, stride)
#define TILE_DOT(c, a, b)             _tile_dpbf16ps(c, a, b)
#define AMX_MICRO                     gemm_micro_amx
#include "kernels/cpu/gemm_amx_body.h"

void gemm_amx_begin(void)
{
    /* LDTILECFG's 64 bytes: palette 1, every tile 16 rows of 64 bytes. */
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        config.row_bytes[t] = 64;
        config.rows[t] = 16;
    }
    _tile_loadconfig(&config);
}

void gemm_amx_end(void)
{
    _tile_release();
}
#else
typedef int gemm_amx_is_for_x86; /* a translation unit may not be empty */
#endif
