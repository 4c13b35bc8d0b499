/*
 * gemm_select.c: which kernel multiplies on this processor.
 *
 * bf16: tiles where the processor has them; else VDPBF16PS, except on Intel, where it is slower than
 * converting to f32 (Sapphire Rapids: 77 against 140 GFLOP/s a core; Zen 4 runs it at twice the rate of f32);
 * else f32 arithmetic on bf16 storage with AVX-512, AVX2 or plain C. f32: OpenBLAS, with our widest f32
 * kernel for the sums over tokens.
 */
#include <stdio.h>
#include <string.h>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/gemm.h"

#define VECTOR_KERNELS(path, rows)                                                                           \
    static const struct gemm_kernel bf16_##path = {.name = #path,                                            \
                                                   .dtype = DTYPE_BF16,                                      \
                                                   .a_dtype = DTYPE_F32,                                     \
                                                   .mr = rows,                                               \
                                                   .kp = 1,                                                  \
                                                   .micro = gemm_micro_bf16_##path,                          \
                                                   .vector = &gemm_vector_##path};                           \
    static const struct gemm_kernel f32_##path = {.name = #path,                                             \
                                                  .dtype = DTYPE_F32,                                        \
                                                  .a_dtype = DTYPE_F32,                                      \
                                                  .mr = rows,                                                \
                                                  .kp = 1,                                                   \
                                                  .micro = gemm_micro_f32_##path,                            \
                                                  .vector = &gemm_vector_##path}

VECTOR_KERNELS(generic, 6);
#if defined(__x86_64__)
VECTOR_KERNELS(avx2, 6);
VECTOR_KERNELS(avx512, 12);
static const struct gemm_kernel bf16_avx512bf16 = {.name = "avx512_bf16",
                                                   .dtype = DTYPE_BF16,
                                                   .a_dtype = DTYPE_BF16,
                                                   .mr = 12,
                                                   .kp = 2,
                                                   .micro = gemm_micro_avx512bf16,
                                                   .vector = &gemm_vector_avx512};
static const struct gemm_kernel bf16_amx = {.name = "amx",
                                            .dtype = DTYPE_BF16,
                                            .a_dtype = DTYPE_BF16,
                                            .mr = 32,
                                            .kp = 32,
                                            .thread_begin = gemm_amx_begin,
                                            .thread_end = gemm_amx_end,
                                            .micro = gemm_micro_amx,
                                            .vector = &gemm_vector_avx512};
#endif

static struct gemm_kernel f32_blas;
static const struct gemm_kernel *forced[2];

/* Fastest first. */
static int candidates(enum dtype dtype, const struct gemm_kernel *list[8])
{
    int n = 0;
    const struct gemm_kernel *widest = &f32_generic;
#if defined(__x86_64__)
    const struct cpu_features *cpu = cpu_features();
    widest = cpu->avx512 ? &f32_avx512 : cpu->avx2 ? &f32_avx2 : &f32_generic;
    if (dtype == DTYPE_BF16) {
        if (cpu->amx_bf16) list[n++] = &bf16_amx;
        if (cpu->avx512_bf16 && !cpu->intel) list[n++] = &bf16_avx512bf16;
        if (cpu->avx512) list[n++] = &bf16_avx512;
        if (cpu->avx2) list[n++] = &bf16_avx2;
        list[n++] = &bf16_generic;
        if (cpu->avx512_bf16 && cpu->intel) list[n++] = &bf16_avx512bf16;
        return n;
    }
#else
    if (dtype == DTYPE_BF16) {
        list[n++] = &bf16_generic;
        return n;
    }
#endif
    if (!f32_blas.name) {
        f32_blas = *widest;
        f32_blas.strided = true;
        f32_blas.name = "openblas";
        gemm_blas_single_thread();
    }
    list[n++] = &f32_blas;
#if defined(__x86_64__)
    if (cpu->avx512) list[n++] = &f32_avx512;
    if (cpu->avx2) list[n++] = &f32_avx2;
#endif
    list[n++] = &f32_generic;
    return n;
}

const struct gemm_kernel *gemm_kernel(enum dtype dtype)
{
    if (forced[dtype == DTYPE_BF16]) return forced[dtype == DTYPE_BF16];
    const struct gemm_kernel *list[8];
    candidates(dtype, list);
    return list[0];
}

const struct gemm_kernel *gemm_kernel_named(enum dtype dtype, const char *name)
{
    const struct gemm_kernel *list[8];
    int n = candidates(dtype, list);
    for (int i = 0; i < n; i++)
        if (strcmp(list[i]->name, name) == 0) return list[i];
    return NULL;
}

void gemm_kernel_force(enum dtype dtype, const struct gemm_kernel *kernel)
{
    forced[dtype == DTYPE_BF16] = kernel;
}

const char *gemm_describe(void)
{
    static char text[192];
    const struct gemm_kernel *f32 = gemm_kernel(DTYPE_F32);
    snprintf(text, sizeof text, "bf16 by %s, f32 by %s", gemm_kernel(DTYPE_BF16)->name,
             f32->strided ? gemm_blas_version() : f32->name);
    return text;
}
