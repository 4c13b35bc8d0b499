/*
 * attention.h: attention by kernels of our own, for what cuDNN does not do: deterministic gradients, f32,
 * every head_dim and every GPU. attention.c chooses.
 *
 * Flash attention (Dao et al. 2022; Dao 2023): a block of queries in shared memory, keys and values passing
 * by it in tiles, scores in registers only. The gradients of keys and values have a kernel of their own, in
 * which the tile of keys stays and queries pass, so that no two blocks add to the same number: 7 products a
 * tile instead of 5, and always the same bits.
 *
 * lse is [q_heads, T]. `scale` is above 0. Scratch: the backward takes rowsum(dout * out), f32 [q_heads, T].
 */
#ifndef LORAD_KERNELS_CUDA_ATTENTION_H
#define LORAD_KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/cuda_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t flash_attention_scratch(const struct attention_shape *shape);
enum status flash_attention(struct device *device, const struct op_attention *args);
enum status flash_attention_backward(struct device *device, const struct op_attention_backward *args);

#ifdef __cplusplus
}
#endif

#endif
