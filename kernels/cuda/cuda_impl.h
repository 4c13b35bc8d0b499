/*
 * cuda_impl.h: what the files of the CUDA backend share. C and CUDA C++ include it.
 *
 * The backend is a library of its own, lorad_cuda.so. A file here is a room of the same name as in ../cpu:
 * X.cu holds kernels and, below them, the operations' functions (cuda_NAME for OP(NAME)); what needs no
 * kernel is plain C.
 *
 * 1. Everything is enqueued on the stream of STREAM_COMPUTE in call order, unless a function says otherwise.
 * 2. Nothing allocates, frees or waits for the GPU inside an operation (op_sum_squares, which gives numbers
 * to the host, waits).
 * 3. Sums have one fixed order: no floating-point atomics.
 * 4. What kernels need of the machine (launch, 16-bit floats, tensor cores) is machine.cuh, which the tests
 * replace by an emulation, so that every kernel here also runs on a processor.
 */
#ifndef LORAD_KERNELS_CUDA_IMPL_H
#define LORAD_KERNELS_CUDA_IMPL_H

#ifdef __cplusplus
extern "C" {
#endif

#include <cuda_runtime_api.h>

#include "kernels/device_impl.h"
#include "kernels/panel_impl.h"

struct cuda_gemm;   /* gemm.h */
struct cuda_sdpa;   /* sdpa.h */
struct cuda_loader; /* load.h */

/* Rows of a tile of the library's products: fewer take as long. Tests use less, to meet padding at their
 * sizes. */
#ifndef CUDA_ROW_MULTIPLE
#define CUDA_ROW_MULTIPLE 128
#endif

/* Device memory that one operation may use from its begin to its end, and that matrix products use too. */
enum { CUDA_WORKSPACE_BYTES = 64 << 20 };

struct cuda_device {
    struct device base;
    int number; /* CUDA's, of this GPU */
    bool deterministic;
    bool recording; /* recording.c: between record_begin and record_end */
    int arch; /* 10 * major + minor: 80, 90, 100 */
    int multiprocessors;
    size_t shared_bytes;    /* shared memory a block may ask for */
    cudaStream_t stream[2]; /* by enum device_stream */
    void *workspace;        /* CUDA_WORKSPACE_BYTES */
    struct cuda_ring *ring; /* [2], device_cuda.c: pinned blocks that small copies pass through */
    struct cuda_gemm *gemm;
    struct cuda_sdpa *sdpa;     /* NULL: cuDNN is not used */
    struct cuda_loader *loader; /* NULL until the first rows */
};

static inline struct cuda_device *cuda_of(struct device *device)
{
    return (struct cuda_device *)device;
}

static inline cudaStream_t cuda_compute(struct device *device)
{
    return cuda_of(device)->stream[STREAM_COMPUTE];
}

/* LORAD_DEVICE (LORAD_NOMEM for memory) with the call and CUDA's own words. */
enum status cuda_check(cudaError_t error, const char *call) LORAD_WARN_UNUSED;
#define CUDA_TRY(call) TRY(cuda_check((call), #call))

/* After a kernel's launch: whether it could be launched at all. */
static inline enum status cuda_launched(const char *kernel)
{
    cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? LORAD_OK : cuda_check(error, kernel);
}

#define OP(name) enum status cuda_##name(struct device *device, const struct op_##name *args);
#include "kernels/ops.def"
#undef OP

extern const struct device_ops lorad_cuda_backend;                  /* backend.c */
size_t cuda_attention_scratch(const struct attention_shape *shape); /* attention.c */
extern const struct panel_ops cuda_panel_ops;                       /* linear.c */
extern const struct cuda_products lorad_cuda_products;              /* linear.c; products.h */

#ifdef __cplusplus
}
#endif

#endif
