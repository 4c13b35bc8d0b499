/* sdpa_layout.h: the sizes behind sdpa.h: which plan serves a call, and what lies where in its scratch.
 * Arithmetic only. */
#ifndef LORAD_KERNELS_CUDA_SDPA_LAYOUT_H
#define LORAD_KERNELS_CUDA_SDPA_LAYOUT_H

#include "kernels/cuda/sdpa_graph.h"
#include "kernels/device_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A plan is compiled for a number of sequences and a greatest length and serves all calls with fewer:
 * sequences that are not there have no tokens. What is not there still costs a little time, so the steps are
 * not large; every step is a plan to compile, so they are not small. 0: more than is taken. */
int32_t sdpa_batch_step(int32_t sequences);
int32_t sdpa_tokens_step(int32_t longest);

/* Whether attention of this kind may be taken, as far as can be said without asking cuDNN. */
bool sdpa_kind_fits(enum dtype dtype, int32_t q_heads, int32_t kv_heads, int32_t head_dim);

/* Bytes of workspace that a plan may have; their need grows with the sequences alone (descriptors of each).
 */
size_t sdpa_workspace_allowed(int32_t batch);

/* Offsets into the scratch of a call with `tokens` rows; 256-byte borders. Of SDPA_DK and SDPA_DV the place
 * is where they are written first where a key head has several query heads: the sums by query head then have
 * the stride of these, not the larger one of the rows that are asked for. */
struct sdpa_layout {
    size_t at[SDPA_TENSORS]; /* SDPA_OFFSET and later, and dk and dv */
    size_t workspace;
    size_t bytes;
};
struct sdpa_layout sdpa_layout(const struct sdpa_key *key, int64_t tokens);

/* Whether the backward writes dk and dv into scratch and copies them from there. */
static inline bool sdpa_key_copies(const struct sdpa_key *key)
{
    return key->backward && key->q_heads > key->kv_heads;
}

size_t cuda_sdpa_scratch(const struct attention_shape *shape); /* sdpa.h */

#ifdef __cplusplus
}
#endif

#endif
