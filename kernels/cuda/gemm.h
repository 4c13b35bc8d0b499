/*
 * gemm.h: products of matrices, between the rooms here and the library that multiplies (gemm_cublaslt.c; the
 * emulator has its own). Inside kernels/cuda only.
 *
 * Everything is row-major, sums are f32, and runs on STREAM_COMPUTE with the device's workspace. A
 * deterministic device gives the same bits for the same shapes, strides and alignments; another one times
 * algorithms the first time it meets a product (the host then waits) and keeps the answers in a file.
 */
#ifndef LORAD_KERNELS_CUDA_GEMM_H
#define LORAD_KERNELS_CUDA_GEMM_H

#include "kernels/cuda/cuda_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* d = alpha op(a) op(b) + beta d + bias. a and b share a dtype (f32, bf16, f16), d has it too or is f32. */
struct cuda_product {
    struct matrix a;     /* [m, k]; [k, m] with turn_a */
    struct matrix b;     /* [k, n]; [n, k] with turn_b */
    struct matrix d;     /* [m, n] */
    bool turn_a, turn_b; /* op is the transpose */
    const void *bias;    /* [n] of d's dtype; NULL: none */
    float alpha, beta;
};

enum status cuda_gemm_create(struct cuda_gemm **out, struct cuda_device *device) LORAD_WARN_UNUSED;
void cuda_gemm_destroy(struct cuda_gemm *gemm); /* NULL ok */
enum status cuda_gemm_run(struct cuda_gemm *gemm, const struct cuda_product *product) LORAD_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
