/* sdpa_kernels.h: the small kernels around cuDNN's attention (sdpa.cu). */
#ifndef LORAD_KERNELS_CUDA_SDPA_KERNELS_H
#define LORAD_KERNELS_CUDA_SDPA_KERNELS_H

#include "kernels/cuda/cuda_impl.h"
#include "kernels/cuda/sdpa_graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Writes what a plan needs to know of the sequences: how long they are (`batch` of them, those that are not
 * there have no tokens), and for each tensor where they begin, in its elements (batch + 1 numbers; no stride:
 * not written). Zeroes the plan's workspace. */
struct sdpa_tables {
    const int32_t *start; /* [count + 1] */
    int32_t count, batch;
    int32_t *lengths;
    int64_t *offset[SDPA_PACKED];
    int64_t stride[SDPA_PACKED];
    void *workspace; /* 16-byte aligned */
    size_t workspace_bytes;
};
enum status sdpa_write_tables(struct device *device, const struct sdpa_tables *tables) LORAD_WARN_UNUSED;

/* to[i] = from[i] for both, 16-bit elements; columns, strides and addresses are multiples of 16 bytes. */
enum status sdpa_copy_rows(struct device *device, const struct matrix from[2],
                           const struct matrix to[2]) LORAD_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
