/*
 * sdpa_graph.h: attention as a graph of cuDNN's operations, and the plans that cuDNN makes of it. Its owner
 * of cudnn.h is sdpa_graph_cudnn.c; the tests use it without a GPU.
 */
#ifndef LORAD_KERNELS_CUDA_SDPA_GRAPH_H
#define LORAD_KERNELS_CUDA_SDPA_GRAPH_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/tensor.h"

struct sdpa_library; /* libcudnn, opened */
struct sdpa_plan;    /* one direction of attention, compiled for one GPU */

/* What a plan reads and writes by address. The first part has rows that are packed sequences. */
enum sdpa_tensor {
    SDPA_Q,
    SDPA_K,
    SDPA_V,
    SDPA_OUT,
    SDPA_DOUT,
    SDPA_DQ,
    SDPA_DK,
    SDPA_DV,
    SDPA_LSE,
    SDPA_PACKED, /* number of those above */
    /* where the sequences of each begin, in its own elements: [batch + 1] i64 */
    SDPA_OFFSET = SDPA_PACKED,
    SDPA_LENGTHS = SDPA_OFFSET + SDPA_PACKED, /* [batch] i32 */
    /* what the backward keeps on the way */
    SDPA_DOUT_OUT, /* rowsum(dout * out) f32, like lse */
    SDPA_DQ_SUM,   /* f32, like dq */
    SDPA_DK_HEADS, /* dk and dv by query head, with their offsets times the group */
    SDPA_DV_HEADS,
    SDPA_TENSORS,
};

/* All that is compiled into a plan. Keys are compared as bytes, so there are none between the fields. */
struct sdpa_key {
    enum dtype dtype;           /* bf16 or f16 */
    int32_t backward, windowed; /* 0 or 1 */
    int32_t q_heads, kv_heads, head_dim;
    int32_t batch;               /* sequences, those of no tokens included */
    int32_t tokens;              /* that a sequence has at most */
    int64_t stride[SDPA_PACKED]; /* elements of a row; lse: q_heads; not used: 0 */
};

/* What differs from call to call. */
struct sdpa_values {
    void *at[SDPA_TENSORS]; /* device memory; NULL where the plan has no such tensor */
    float scale;
    float window; /* keys that a query sees; with key.windowed */
    void *workspace;
};

/* Opens libcudnn.so.9 once; borrowed for ever. LORAD_NOT_FOUND says what is missing or too old. */
enum status sdpa_library_open(const struct sdpa_library **out) LORAD_WARN_UNUSED;
const char *sdpa_library_version(const struct sdpa_library *library); /* "9.19.0" */

/* cuDNN's handle for the calling thread's GPU and a stream (cudaStream_t). */
enum status sdpa_handle_create(void **out, const struct sdpa_library *library,
                               void *stream) LORAD_WARN_UNUSED;
void sdpa_handle_destroy(const struct sdpa_library *library, void *handle);

/* Whether cuDNN has a kernel for `key`, without compiling it: *workspace is then what it needs. The GPU is
 * that of the handle, or, without one, the one that `gpu` describes (JSON; the tests' way). LORAD_NOT_FOUND:
 * there is none. */
enum status sdpa_plan_find(size_t *workspace, const struct sdpa_library *library, void *handle,
                           const struct sdpa_key *key, const char *gpu) LORAD_WARN_UNUSED;

/* Compiles, about a second. Thread: any, with the GPU set. Owned by the caller; key is borrowed for the call.
 */
enum status sdpa_plan_create(struct sdpa_plan **out, const struct sdpa_library *library, void *handle,
                             const struct sdpa_key *key, const char *gpu) LORAD_WARN_UNUSED;
void sdpa_plan_destroy(struct sdpa_plan *plan); /* NULL is fine */
size_t sdpa_plan_workspace(const struct sdpa_plan *plan);

/* Enqueues it on the handle's stream. */
enum status sdpa_plan_run(const struct sdpa_plan *plan, void *handle,
                          const struct sdpa_values *values) LORAD_WARN_UNUSED;

#endif
