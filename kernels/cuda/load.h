/*
 * load.h: rows of a frozen matrix on their way from host memory to where kernels read them, and the adapter's
 * compute copies. Inside kernels/cuda only.
 */
#ifndef LORAD_KERNELS_CUDA_LOAD_H
#define LORAD_KERNELS_CUDA_LOAD_H

#include "kernels/cuda/cuda_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Pinned blocks and the threads that fill them. Made at a device's first rows and kept until it closes. */
struct cuda_loader;
void cuda_loader_destroy(struct cuda_loader *loader); /* NULL ok */

/* `to` (device) = `host` (any float dtype, same rows and cols), rounded to nearest even, on STREAM_COPY. The
 * host's memory is free again when this returns; it waits for a pinned block, not for the copy. */
enum status cuda_load_rows(struct cuda_device *device, struct matrix to,
                           struct matrix host) LORAD_WARN_UNUSED;
/* What is enqueued on STREAM_COMPUTE from now on sees all rows. */
enum status cuda_load_join(struct cuda_device *device) LORAD_WARN_UNUSED;

/* One chunk of rows that lie densely in pinned memory goes into the matrix: the place for any storage that is
 * not the file's. */
enum status cuda_put_rows(cudaStream_t stream, struct matrix to, const void *pinned,
                          enum dtype dtype) LORAD_WARN_UNUSED;

/* a [rank, in] and b [out, rank] in f32 become to_a and, times scale, to_b. */
struct cuda_adapter {
    struct matrix to_a, to_b;
    const float *a, *b;
    float scale;
    int64_t first_block; /* cuda_put_adapters sets it */
};
/* Many in one launch, on STREAM_COMPUTE with the device's workspace; n at most CUDA_ADAPTERS, one dtype. */
enum { CUDA_ADAPTERS = 256 };
enum status cuda_put_adapters(struct device *device, struct cuda_adapter *adapters,
                              int32_t n) LORAD_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
