/*
 * device.h: a place that owns memory and runs operations: the CPU, or a CUDA GPU behind the same functions.
 *
 * Work is enqueued on the device's compute stream in call order. On the CPU every call has finished when it
 * returns. Owns: device_open gives the caller a device; device_close(NULL) is fine. Thread: one thread per
 * device, except device_copy_* on STREAM_COPY, which one other thread may use.
 */
#ifndef LORAD_KERNELS_DEVICE_H
#define LORAD_KERNELS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/tensor.h"

struct device;
struct device_event;
struct device_backend; /* a kind of device, with or without one at hand */

struct device_options {
    const char *kind; /* "auto", "cpu", "cuda"; asked for and absent is LORAD_CONFIG, never another device */
    int number;       /* of the GPUs that this process sees */
    int sharers;      /* ranks that use it, and its memory; 0: 1 */
    int threads; /* CPU threads of this rank; 0: allowed cores / ranks on the host, which the caller knows */
    bool deterministic; /* CUDA only; the CPU always is */
};

enum device_stream { STREAM_COMPUTE, STREAM_COPY };

enum status device_open(struct device **out, const struct device_options *options) LORAD_WARN_UNUSED;
void device_close(struct device *device);

/* The backend of a kind, to plan for a device that is not here (its memory: panel_bytes,
 * attention_scratch_bytes). LORAD_CONFIG when this build or this machine lacks it. Borrowed, for ever. */
enum status device_backend_find(const struct device_backend **out, const char *kind) LORAD_WARN_UNUSED;
const struct device_backend *device_backend(const struct device *device);
bool device_backend_is_host(const struct device_backend *backend); /* as device_is_host */
/* What the rows of a micro-batch should be a multiple of: 1 on the CPU. */
int32_t device_backend_row_multiple(const struct device_backend *backend);
/* Which devices of a kind there are, in words ("2 x NVIDIA H200, compute 9.0, CUDA 13.0, driver 13.0"; "" for
 * the CPU); takes none of them. LORAD_CONFIG: there is none, and why. */
enum status device_probe(char *words, size_t bytes, const char *kind) LORAD_WARN_UNUSED;
/* Which libraries a kind computes with here, and their versions ("cuBLASLt 13.1.0, cuDNN 9.19.0"; "" for the
 * CPU, whose description has them); takes no device, and none need be there. */
enum status device_libraries(char *words, size_t bytes, const char *kind) LORAD_WARN_UNUSED;
/* What tells a GPU from all others anywhere, whatever a process sees of them. */
struct device_id {
    unsigned char bytes[16];
};
/* The GPUs of a kind (or "auto") that this process sees, by number, at most `most`; takes none of them.
 * *n: 0 where there is none, or the kind has none. */
enum status device_list(struct device_id *out, int *n, int most, const char *kind) LORAD_WARN_UNUSED;

const char *device_kind(const struct device *device); /* "cpu", "cuda" */
/* One line for people: "cpu, 2 threads, bf16 by avx512_bf16, f32 by OpenBLAS 0.3.21". Borrowed. */
const char *device_describe(const struct device *device);
/* Whether host pointers are device pointers (the CPU). */
bool device_is_host(const struct device *device);
int64_t device_memory_bytes(const struct device *device); /* usable in all */
/* What a plan for a GPU of so much memory leaves to libraries: their code, NCCL's buffers (docs/gpu.md). */
static inline int64_t device_reserve_bytes(int64_t total)
{
    return total / 64 + (INT64_C(256) << 20);
}

/* Memory, aligned to 256 bytes, zeroed. Blocks. Not inside a step. */
enum status device_alloc(void **out, struct device *device, size_t bytes) LORAD_WARN_UNUSED;
void device_free(struct device *device, void *block);
/* Host memory that copies can be enqueued from and to (pinned on CUDA, plain on the CPU). Zeroed. Blocks. */
enum status device_alloc_host(void **out, struct device *device, size_t bytes) LORAD_WARN_UNUSED;
void device_free_host(struct device *device, void *block);

/* A copy is done when an event behind it is. device_copy_to: from memory of device_alloc_host, which keeps
 * its contents until then; other memory may be used again when the call returns. device_copy_from: into
 * memory of device_alloc_host; with other memory the call also waits for what is before it on the stream. */
enum status device_copy_to(struct device *device, enum device_stream stream, void *to_device,
                           const void *from_host, size_t bytes) LORAD_WARN_UNUSED;
enum status device_copy_from(struct device *device, enum device_stream stream, void *to_host,
                             const void *from_device, size_t bytes) LORAD_WARN_UNUSED;
enum status device_copy(struct device *device, enum device_stream stream, void *to, const void *from,
                        size_t bytes) LORAD_WARN_UNUSED;
enum status device_zero(struct device *device, enum device_stream stream, void *block,
                        size_t bytes) LORAD_WARN_UNUSED;

/* Events order streams and let the host wait. */
enum status device_event_create(struct device_event **out, struct device *device) LORAD_WARN_UNUSED;
void device_event_destroy(struct device *device, struct device_event *event);
enum status device_event_record(struct device *device, enum device_stream stream,
                                struct device_event *event) LORAD_WARN_UNUSED;
enum status device_stream_wait(struct device *device, enum device_stream stream,
                               struct device_event *event) LORAD_WARN_UNUSED;
enum status device_event_sync(struct device *device,
                              struct device_event *event) LORAD_WARN_UNUSED; /* blocks */
/* Blocks until all that was enqueued on STREAM_COMPUTE is done. */
enum status device_sync(struct device *device) LORAD_WARN_UNUSED;

/* A recording: what was enqueued on STREAM_COMPUTE between record_begin and record_end, which did not run. A
 * replay enqueues all of it again in one call, with the arguments it had and the same bits. In between only
 * operations, panels' passes, device_zero and device_copy may be called, and only as they were called before:
 * the first call of a shape may choose a kernel. device_record_end follows every device_record_begin, also
 * after an error in between; *out is NULL when `keep` is false. Owns: *out, destroyed before its device is
 * closed; destroying may block. */
struct device_recording;
/* Whether the device can: the CPU can not. */
bool device_records(const struct device *device);
enum status device_record_begin(struct device *device) LORAD_WARN_UNUSED;
enum status device_record_end(struct device_recording **out, struct device *device,
                              bool keep) LORAD_WARN_UNUSED;
enum status device_replay(struct device *device, const struct device_recording *recording) LORAD_WARN_UNUSED;
void device_recording_destroy(struct device *device, struct device_recording *recording);

/* What a backend's library offers beside this header, by name (comm's NCCL); NULL: nothing. Borrowed. */
const void *device_extension(const struct device *device, const char *name);
const void *device_backend_extension(const struct device_backend *backend, const char *name);
/* The stream as the backend's own libraries know it (cudaStream_t); NULL on the CPU. */
void *device_native_stream(const struct device *device, enum device_stream stream);

#endif
