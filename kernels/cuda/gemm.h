/*
 * gemm.h: products of matrices, between the rooms here and the library that multiplies (gemm_cublaslt.c; the
 * emulator has its own). Inside kernels/cuda only.
 *
 * Sums are f32. A product (struct cuda_product) runs on STREAM_COMPUTE with the device's workspace. A
 * deterministic device gives the same bits for the same shapes, strides and alignments; another one times
 * algorithms the first time it meets a product (the host then waits) and keeps the answers in a file.
 */
#ifndef LORAD_KERNELS_CUDA_GEMM_H
#define LORAD_KERNELS_CUDA_GEMM_H

#include "kernels/cuda/cuda_impl.h"
#include "kernels/cuda/products.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status cuda_gemm_create(struct cuda_gemm **out, struct cuda_device *device) LORAD_WARN_UNUSED;
void cuda_gemm_destroy(struct cuda_gemm *gemm); /* NULL ok */
/* The library and its version, "cuBLASLt 13.1.0": another one gives other bits. */
void cuda_gemm_name(char *words, size_t bytes);
/* Chooses what cuda_gemm_run will use for a product that adds to d, while d holds nothing yet: timing writes
 * there. Without this call such a product is timed only where its d fits the workspace. */
enum status cuda_gemm_choose(struct cuda_gemm *gemm, const struct cuda_product *product) LORAD_WARN_UNUSED;
enum status cuda_gemm_run(struct cuda_gemm *gemm, const struct cuda_product *product) LORAD_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
