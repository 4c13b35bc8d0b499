/* cpu_features.h: which instructions this processor and this kernel let us use. Asked once, at the first
 * call. */
#ifndef LORAD_KERNELS_CPU_FEATURES_H
#define LORAD_KERNELS_CPU_FEATURES_H

#include <stdbool.h>

struct cpu_features {
    bool avx2;        /* avx2, fma, f16c */
    bool avx512;      /* avx512 f, bw, vl, dq, and all of avx2 */
    bool avx512_bf16; /* and all of avx512 */
    bool amx_bf16;    /* amx-tile, amx-bf16, all of avx512_bf16, and the kernel granted this process the tile
                         registers */
    bool intel, amd;  /* vendor */
    char model[64];   /* the processor's name for people, or "" */
};

/* Thread: safe. Borrowed, constant for the life of the process. */
const struct cpu_features *cpu_features(void);

#endif
