/*
 * gemm.h: the matrix products of the CPU backend. Inside kernels/cpu and tests only; callers use panel.h.
 *
 *   gemm_run:   C [rows, n] = scale * (A_0 B_0 + sum over masked segments of mask_s * scale_s * A_s B_s) +
 * bias gemm_outer: D [m, n] += scale * P^T Q with P [T, m], Q [T, n]
 *
 * Packed operands. The right one (K x N, frozen weights) is cut into panels of GEMM_NR = 32 columns, K padded
 * to 32:
 *
 *   f32:  element (k, n) of a panel at [k][n]
 *   bf16: element (k, n) of a panel at [k/2][n][k%2], pairs of k as VDPBF16PS and TDPBF16PS read them
 *
 * The left one (rows x K, activations) is cut into blocks of kernel->mr rows, element (i, k) of a block at
 * [k/kp][i][k%kp]: kp is 1 for f32 FMA, 2 for VDPBF16PS, 32 for tiles. Padding is zero. A strided kernel
 * (OpenBLAS) takes both operands as they are.
 *
 * Every element of a result is one chain of f32 sums over k in rising order, cut only at multiples of a depth
 * that belongs to the kernel: the bits depend neither on the number of threads nor, but for OpenBLAS, on the
 * number of rows.
 *
 * Thread: every function opens its own parallel region of `threads` threads; its tiles are thread-local.
 */
#ifndef LORAD_KERNELS_CPU_GEMM_H
#define LORAD_KERNELS_CPU_GEMM_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/tensor.h"

enum {
    GEMM_NR = 32,      /* columns of a panel of the right operand */
    GEMM_K_ALIGN = 32, /* K is padded to this */
    GEMM_SEGMENTS = 4,
};

/* c[m][32] (+)= a b over k; a and b packed, k a multiple of gemm_k_step, 1 <= m <= kernel->mr. Only the first
 * n of the 32 columns are wanted; the others may be written or not. */
typedef void gemm_micro_fn(int m, int n, int64_t k, const void *a, const void *b, float *c, bool accumulate);

/* Elementwise passes, compiled once per instruction set from gemm_vector.h. */
struct gemm_vector {
    /* c[i][j] = tile[i][first + j] * scale + bias[j] for j < n, as `dtype`; bias NULL: none */
    void (*store)(int64_t m, int first, int n, const float *tile, float scale, const float *bias, void *c,
                  enum dtype dtype, int64_t ldc);
    /* tile[i][j] += mask bit j of word[i * words] ? scale * add[i][j] : 0 */
    void (*add_masked)(int64_t m, float *tile, const float *add, float scale, const uint32_t *word,
                       int64_t words);
    /* Packs rows [k, n <= 32] of a row-major matrix as a panel of a right operand; rows up to the next
     * multiple of 32 and columns from n are zeroed. */
    void (*pack_panel)(int64_t k, int n, const void *source, enum dtype dtype, int64_t stride, void *panel);
    /* Bits of panel_dropout_keep() for 32 * words columns from col_first, a multiple of 4; a value stays when
     * its 24 random bits are >= least. */
    void (*mask_row)(uint32_t *bits, int64_t words, uint64_t key, int64_t token, int64_t col_first,
                     uint32_t least);
};

struct gemm_kernel {
    const char *name;   /* "amx", "avx512_bf16", "avx512", "avx2", "generic", "openblas" */
    enum dtype dtype;   /* of weights and activations in memory */
    enum dtype a_dtype; /* of a packed left operand */
    int mr, kp;
    bool strided;               /* gemm_run goes to OpenBLAS; gemm_outer uses micro */
    void (*thread_begin)(void); /* optional: by each thread of a parallel region before its first micro */
    void (*thread_end)(void);   /* optional */
    gemm_micro_fn *micro;
    const struct gemm_vector *vector;
};

/* What a K must be a multiple of: operands are zero up to there. */
static inline int64_t gemm_k_step(const struct gemm_kernel *kernel)
{
    return kernel->kp > 2 ? kernel->kp : kernel->dtype == DTYPE_BF16 ? 2 : 1;
}

/* The kernel for a dtype on this processor, chosen at the first call. */
const struct gemm_kernel *gemm_kernel(enum dtype dtype);
/* A kernel by name, NULL when this processor lacks it. */
const struct gemm_kernel *gemm_kernel_named(enum dtype dtype, const char *name);
/* Tests and benches: panels created from now on use this kernel for its dtype; NULL undoes it. */
void gemm_kernel_force(enum dtype dtype, const struct gemm_kernel *kernel);
/* "bf16 by avx512_bf16, f32 by openblas 0.3.21". Borrowed. */
const char *gemm_describe(void);

/* Right operand. Strided: element (k, n) at data[k * k_step + n * n_step], one of the steps is 1. */
struct gemm_weights {
    const struct gemm_kernel *kernel;
    char *data;
    int64_t k, n;
    int64_t k_step, n_step; /* strided only */
};

/* 0 for a strided kernel, whose weights are views of a matrix that the caller keeps. */
size_t gemm_weights_bytes(const struct gemm_kernel *kernel, int64_t k, int64_t n);
/* Columns [n, n + columns), rows [k, k + count): element (k + i, n + c) is source[c * stride + i]. */
void gemm_weights_put_columns(struct gemm_weights *w, int64_t n, int64_t columns, int64_t k, int64_t count,
                              const void *source, int64_t stride);
/* Rows [k, k + rows), columns [n, n + count): element (k + r, n + i) is source[r * stride + i]. Source
 * elements are of kernel->dtype in both. Thread: callers on different threads must not share a pair of k
 * (bf16). */
void gemm_weights_put_rows(struct gemm_weights *w, int64_t k, int64_t rows, int64_t n, int64_t count,
                           const void *source, int64_t stride);

/* Left operand. */
struct gemm_operand {
    const struct gemm_kernel *kernel;
    char *data;
    int64_t rows, k;
    int64_t stride; /* strided only */
};

size_t gemm_operand_bytes(const struct gemm_kernel *kernel, int64_t rows, int64_t k);
/* An operand [rows, k] over memory of gemm_operand_bytes. */
struct gemm_operand gemm_operand_of(const struct gemm_kernel *kernel, void *memory, int64_t rows, int64_t k);
/* Columns [k, k + source.cols) from a matrix; zeroes up to the next multiple of 32. A strided operand then is
 * the matrix itself, and what is packed later must lie behind its columns already. */
void gemm_operand_pack(struct gemm_operand *a, int64_t k, struct matrix source, int threads);
/* The transpose of source [k, rows], always packed. */
void gemm_operand_pack_transposed(struct gemm_operand *a, struct matrix source, int threads);

struct gemm_segment {
    const struct gemm_operand *a;
    int64_t k;            /* columns 0..k of a against ... */
    int64_t b_k;          /* ... rows b_k.. of b; even */
    const uint32_t *mask; /* [rows][ceil(n/32)] bits, NULL: none. Only with n_first == 0, and never first */
    float scale;          /* of a masked segment */
};

struct gemm_args {
    const struct gemm_weights *b;
    struct gemm_segment segment[GEMM_SEGMENTS];
    int n_segments;
    int64_t n_first; /* columns [n_first, n_first + c.cols) of b */
    float scale;
    const float *bias; /* [c.cols] or NULL */
    struct matrix c;   /* f32 or bf16 */
    int threads;
    float *product; /* strided with masks only: [rows, c.cols] */
};

void gemm_run(const struct gemm_args *args);

struct gemm_outer_args {
    const struct gemm_operand *p; /* gemm_operand_pack_transposed: m = p->rows, T = p->k */
    struct matrix q;              /* [T, n] */
    float *const *row;            /* [m] where D's rows are; NULL: not wanted */
    int64_t step;                 /* elements from a column of D to the next */
    float scale;
    int threads;
};
void gemm_outer(const struct gemm_outer_args *args);

/* gemm_blas.c, the owner of cblas.h. C [m, n] = alpha A B + beta C, B's element (k, n) at b[k * k_step + n *
 * n_step]. */
void gemm_blas(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b,
               int64_t k_step, int64_t n_step, float beta, float *c, int64_t ldc);
/* Makes OpenBLAS stay on its caller's thread: we cut the work ourselves. Once per process. */
void gemm_blas_single_thread(void);
const char *gemm_blas_version(void);

/* The tables that each file provides; entered only when cpu_features() allows. */
extern const struct gemm_vector gemm_vector_generic, gemm_vector_avx2, gemm_vector_avx512;
gemm_micro_fn gemm_micro_bf16_generic, gemm_micro_f32_generic;
gemm_micro_fn gemm_micro_bf16_avx2, gemm_micro_f32_avx2;
gemm_micro_fn gemm_micro_bf16_avx512, gemm_micro_f32_avx512;
gemm_micro_fn gemm_micro_avx512bf16, gemm_micro_amx;
void gemm_amx_begin(void), gemm_amx_end(void);

#endif
