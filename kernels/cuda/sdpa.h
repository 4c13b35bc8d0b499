/*
 * sdpa.h: attention by cuDNN ("scaled dot product attention"), forward and backward, for packed rows.
 * attention.c asks it first and runs lorad's own kernels on what it does not take.
 *
 * It is the quick way of a GPU with the tensor cores of Hopper and later, and not deterministic: partial sums
 * of dq are added as they come. cuDNN is opened at run time, so a machine without it keeps working.
 *
 * Log-sum-exps lie as [T, q_heads] here; forward and backward of a call are taken by the same side, since
 * cuda_sdpa_takes decides by what both know.
 */
#ifndef LORAD_KERNELS_CUDA_SDPA_H
#define LORAD_KERNELS_CUDA_SDPA_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/cuda/cuda_impl.h"

/* *out is NULL, and one line is logged, where cuDNN is not to be used: it is missing or too old, the GPU is
 * an older or unknown one, or the device is deterministic. */
enum status cuda_sdpa_create(struct cuda_sdpa **out, struct cuda_device *device) LORAD_WARN_UNUSED;
void cuda_sdpa_destroy(struct cuda_sdpa *sdpa);              /* NULL is fine */
const char *cuda_sdpa_version(const struct cuda_sdpa *sdpa); /* cuDNN's, "9.19.0" */

/* Whether the calls below may be made for these rows. The first question for a kind of heads and a size of
 * sequences asks cuDNN and takes some ten milliseconds. sdpa may be NULL. */
bool cuda_sdpa_takes(struct cuda_sdpa *sdpa, const struct matrix *q, const struct matrix *k, int32_t head_dim,
                     int32_t window, const struct sequences *sequences);

/* Only what cuda_sdpa_takes. The first call for a size of sequences (steps of powers of two) compiles a
 * kernel, which takes about a second. *done false: the kernel could not be compiled and nothing was computed;
 * cuda_sdpa_takes then refuses the like. */
enum status cuda_sdpa_forward(struct cuda_sdpa *sdpa, const struct op_attention *args,
                              bool *done) LORAD_WARN_UNUSED;
enum status cuda_sdpa_backward(struct cuda_sdpa *sdpa,
                               const struct op_attention_backward *args) LORAD_WARN_UNUSED;

/* Bytes of op_attention's scratch that the two calls need at most; 0 for a shape that is never taken. Needs
 * no device: sdpa_layout.c. */
size_t cuda_sdpa_scratch(const struct attention_shape *shape);

#ifdef __cplusplus
}
#endif

#endif
