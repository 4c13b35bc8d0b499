/*
 * device_cuda.c: a GPU as a device: which one, memory, streams, copies, events.
 *
 * 1. Every function makes its GPU the calling thread's current one (STREAM_COPY may be used by another thread
 * than opened the device); the thread that opened it has it current from then on, which the operations rely
 * on.
 * 2. Both streams are non-blocking: what is on CUDA's stream 0 orders nothing, and what fills new memory is
 * waited for.
 * 3. What a step copies to the device (at most RING_MOST_BYTES a call) passes through a ring of pinned
 * blocks, so that the caller may use its memory again at once and nothing waits; greater copies from memory
 * that is not pinned may wait for all that is before them. A block is written again when the event behind its
 * last copy is done.
 */
#include "kernels/cuda/device_cuda.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/sdpa.h"
#include "kernels/cuda/sdpa_graph.h"

enum {
    RING_BLOCKS = 16,
    RING_BLOCK_BYTES = 64 << 10,
    RING_MOST_BYTES = RING_BLOCKS / 2 * RING_BLOCK_BYTES,
    RING_ALIGN = 256,
    OLDEST_ARCH = 80,
};

struct device_event {
    cudaEvent_t event;
};

/* One ring per stream, since each has one thread. */
struct cuda_ring {
    char *block[RING_BLOCKS];      /* pinned */
    cudaEvent_t done[RING_BLOCKS]; /* behind the last copy out of each */
    size_t used;                   /* bytes of the current block */
    int current;
};

/* Opening */

static const char *with_environment(void)
{
    return getenv("CUDA_VISIBLE_DEVICES") ? " (CUDA_VISIBLE_DEVICES is set)" : "";
}

/* "2 x NAME, compute 9.0, CUDA 13.0, driver 13.0" */
static void describe_machine(char *words, size_t bytes, int gpus)
{
    struct cudaDeviceProp properties;
    int driver = 0, runtime = 0;
    if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess ||
        cudaDriverGetVersion(&driver) != cudaSuccess || cudaRuntimeGetVersion(&runtime) != cudaSuccess) {
        (void)cudaGetLastError();
        snprintf(words, bytes, "%d GPUs", gpus);
        return;
    }
    snprintf(words, bytes, "%d x %s, %zu GiB, compute %d.%d, CUDA %d.%d, driver %d.%d", gpus, properties.name,
             properties.totalGlobalMem >> 30, properties.major, properties.minor, runtime / 1000,
             runtime % 1000 / 10, driver / 1000, driver % 1000 / 10);
}

int cuda_count(char *words, size_t bytes)
{
    int gpus = 0, driver = 0, runtime = 0; /* CUDA leaves them as they are when it fails */
    cudaError_t error = cudaGetDeviceCount(&gpus);
    if (error == cudaSuccess && gpus > 0) {
        describe_machine(words, bytes, gpus);
        return gpus;
    }
    (void)cudaGetLastError();
    if (cudaDriverGetVersion(&driver) != cudaSuccess || cudaRuntimeGetVersion(&runtime) != cudaSuccess)
        driver = 0;
    if (driver == 0)
        snprintf(words, bytes, "there is no NVIDIA driver");
    else if (error == cudaErrorInsufficientDriver)
        snprintf(words, bytes, "the NVIDIA driver is for CUDA %d.%d, and %d.%d or later is needed",
                 driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    else if (error == cudaSuccess || error == cudaErrorNoDevice)
        snprintf(words, bytes, "the NVIDIA driver shows no GPU%s", with_environment());
    else
        snprintf(words, bytes, "the NVIDIA driver shows no GPU: %s (%s)%s", cudaGetErrorString(error),
                 cudaGetErrorName(error), with_environment());
    return 0;
}

enum status cuda_identify(struct device_id *out, int number)
{
    struct cudaDeviceProp properties;
    CUDA_TRY(cudaGetDeviceProperties(&properties, number));
    _Static_assert(sizeof out->bytes == sizeof properties.uuid, "the whole UUID");
    memcpy(out->bytes, &properties.uuid, sizeof out->bytes);
    return LORAD_OK;
}

static enum status check_number(int number)
{
    char why[256];
    int gpus = cuda_count(why, sizeof why);
    if (gpus == 0) return FAIL(LORAD_CONFIG, "device: %s", why);
    if (number >= gpus)
        return FAIL(LORAD_CONFIG, "device: there is no GPU %d: the NVIDIA driver shows %d%s", number, gpus,
                    with_environment());
    return LORAD_OK;
}

static enum status ring_fill(struct cuda_ring *ring)
{
    for (int i = 0; i < RING_BLOCKS; i++) {
        CUDA_TRY(cudaMallocHost((void **)&ring->block[i], RING_BLOCK_BYTES));
        CUDA_TRY(cudaEventCreateWithFlags(&ring->done[i], cudaEventDisableTiming));
    }
    return LORAD_OK;
}

static void ring_empty(struct cuda_ring *ring)
{
    for (int i = 0; i < RING_BLOCKS; i++) {
        if (ring->done[i]) cudaEventDestroy(ring->done[i]);
        if (ring->block[i]) cudaFreeHost(ring->block[i]);
    }
}

static enum status read_properties(struct cuda_device *cuda)
{
    struct cudaDeviceProp properties;
    int driver = 0, runtime = 0;
    CUDA_TRY(cudaGetDeviceProperties(&properties, cuda->number));
    CUDA_TRY(cudaDriverGetVersion(&driver));
    CUDA_TRY(cudaRuntimeGetVersion(&runtime));
    cuda->arch = 10 * properties.major + properties.minor;
    cuda->multiprocessors = properties.multiProcessorCount;
    cuda->shared_bytes = properties.sharedMemPerBlockOptin;
    if (cuda->arch < OLDEST_ARCH)
        return FAIL(LORAD_CONFIG, "device: %s has compute capability %d.%d; %d.%d (A100) or later is needed",
                    properties.name, properties.major, properties.minor, OLDEST_ARCH / 10, OLDEST_ARCH % 10);
    snprintf(cuda->base.description, sizeof cuda->base.description,
             "%.48s, %d SMs, %zu GiB, compute %d.%d, CUDA %d.%d, driver %d.%d, %s", properties.name,
             cuda->multiprocessors, properties.totalGlobalMem >> 30, properties.major, properties.minor,
             runtime / 1000, runtime % 1000 / 10, driver / 1000, driver % 1000 / 10,
             cuda->deterministic ? "deterministic" : "fast");
    return LORAD_OK;
}

/* Libraries whose version decides bits: what resumes a run compares the description. */
static void name_libraries(struct cuda_device *cuda)
{
    char *text = cuda->base.description, products[64];
    size_t length = strlen(text), most = sizeof cuda->base.description;
    cuda_gemm_name(products, sizeof products);
    snprintf(text + length, most - length, ", %s%s%s", products, cuda->sdpa ? ", cuDNN " : "",
             cuda->sdpa ? cuda_sdpa_version(cuda->sdpa) : "");
}

void cuda_libraries(char *words, size_t bytes)
{
    char products[64];
    const struct sdpa_library *cudnn;
    cuda_gemm_name(products, sizeof products);
    if (sdpa_library_open(&cudnn) == LORAD_OK)
        snprintf(words, bytes, "%s, cuDNN %s", products, sdpa_library_version(cudnn));
    else
        snprintf(words, bytes, "%s, no cuDNN: %s", products, status_message());
}

/* What the plan may use: this rank's share of what is free, less what libraries take later. */
static enum status measure_memory(struct cuda_device *cuda, int sharers)
{
    size_t available = 0, total = 0;
    CUDA_TRY(cudaMemGetInfo(&available, &total));
    int64_t left = (int64_t)(available / (size_t)sharers) - device_reserve_bytes((int64_t)total);
    cuda->base.memory_bytes = left > 0 ? left : 0;
    return LORAD_OK;
}

/* On the current GPU, as it comes. */
static enum status block_new(void **out, const struct cuda_device *cuda, size_t bytes)
{
    void *block = NULL;
    size_t available = 0, total = 0;
    cudaError_t error = cudaMalloc(&block, bytes);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        CUDA_TRY(cudaMemGetInfo(&available, &total));
        return FAIL(LORAD_NOMEM, "GPU %d: no memory for %zu bytes (%.2f GiB): %.2f of %.2f GiB are free",
                    cuda->number, bytes, (double)bytes / 0x1p30, (double)available / 0x1p30,
                    (double)total / 0x1p30);
    }
    TRY(cuda_check(error, "cudaMalloc"));
    *out = block;
    return LORAD_OK;
}

static enum status set_up(struct cuda_device *cuda, int sharers)
{
    int least = 0, greatest = 0;
    CUDA_TRY(cudaSetDevice(cuda->number));
    TRY(read_properties(cuda));
    CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CUDA_TRY(cudaStreamCreateWithPriority(&cuda->stream[STREAM_COMPUTE], cudaStreamNonBlocking, greatest));
    CUDA_TRY(cudaStreamCreateWithPriority(&cuda->stream[STREAM_COPY], cudaStreamNonBlocking, least));
    cuda->ring = memory_new(2, sizeof *cuda->ring);
    if (!cuda->ring) return LORAD_NOMEM;
    TRY(ring_fill(&cuda->ring[STREAM_COMPUTE]));
    TRY(ring_fill(&cuda->ring[STREAM_COPY]));
    TRY(block_new(&cuda->workspace, cuda, CUDA_WORKSPACE_BYTES));
    TRY(cuda_gemm_create(&cuda->gemm, cuda));
    TRY(cuda_sdpa_create(&cuda->sdpa, cuda));
    name_libraries(cuda);
    return measure_memory(cuda, sharers);
}

enum status cuda_open(struct device **out, const struct device_options *options)
{
    TRY(check_number(options->number));
    struct cuda_device *cuda = memory_new(1, sizeof *cuda);
    if (!cuda) return LORAD_NOMEM;
    cuda->base.ops = &lorad_cuda_backend;
    cuda->number = options->number;
    cuda->deterministic = options->deterministic;
    enum status status = set_up(cuda, options->sharers > 1 ? options->sharers : 1);
    if (status != LORAD_OK) {
        cuda_close(&cuda->base);
        return status;
    }
    *out = &cuda->base;
    return LORAD_OK;
}

/* Errors here have been seen before, or are of no use to anyone. */
void cuda_close(struct device *device)
{
    struct cuda_device *cuda = cuda_of(device);
    (void)cudaSetDevice(cuda->number);
    for (int i = 0; i < 2; i++)
        if (cuda->stream[i]) cudaStreamSynchronize(cuda->stream[i]);
    cuda_sdpa_destroy(cuda->sdpa);
    cuda_gemm_destroy(cuda->gemm);
    cuda_loader_destroy(cuda->loader);
    cudaFree(cuda->workspace);
    for (int i = 0; i < 2; i++) {
        if (cuda->ring) ring_empty(&cuda->ring[i]);
        if (cuda->stream[i]) cudaStreamDestroy(cuda->stream[i]);
    }
    (void)cudaGetLastError();
    free(cuda->ring);
    free(cuda);
}

/* CUDA keeps an error for the next call that asks, which would blame another one. */
enum status cuda_check(cudaError_t error, const char *call)
{
    if (error == cudaSuccess) return LORAD_OK;
    (void)cudaGetLastError();
    enum { FIRST_OF_KERNELS = 700, BEHIND_KERNELS = 800 }; /* cudaErrorIllegalAddress and what follows it */
    return FAIL(error == cudaErrorMemoryAllocation ? LORAD_NOMEM : LORAD_DEVICE, "GPU: %s: %s (%s)%s", call,
                cudaGetErrorString(error), cudaGetErrorName(error),
                (int)error >= FIRST_OF_KERNELS && (int)error < BEHIND_KERNELS
                    ? "; an earlier operation may be the cause: CUDA_LAUNCH_BLOCKING=1 shows which"
                    : "");
}

static enum status enter(struct device *device)
{
    CUDA_TRY(cudaSetDevice(cuda_of(device)->number));
    return LORAD_OK;
}

/* Memory */

enum status cuda_alloc(void **out, struct device *device, size_t bytes)
{
    void *block = NULL;
    TRY(enter(device));
    TRY(block_new(&block, cuda_of(device), bytes));
    cudaError_t error = cudaMemset(block, 0, bytes);
    if (error == cudaSuccess) error = cudaStreamSynchronize(NULL);
    if (error != cudaSuccess) cudaFree(block);
    TRY(cuda_check(error, "cudaMemset"));
    *out = block;
    return LORAD_OK;
}

void cuda_free(struct device *device, void *block)
{
    (void)cudaSetDevice(cuda_of(device)->number);
    cudaFree(block);
}

enum status cuda_alloc_host(void **out, struct device *device, size_t bytes)
{
    void *block = NULL;
    TRY(enter(device));
    cudaError_t error = cudaMallocHost(&block, bytes);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return FAIL(LORAD_NOMEM, "no pinned memory for %zu bytes (ulimit -l, or the memory of this machine)",
                    bytes);
    }
    TRY(cuda_check(error, "cudaMallocHost"));
    memset(block, 0, bytes);
    *out = block;
    return LORAD_OK;
}

void cuda_free_host(struct device *device, void *block)
{
    (void)cudaSetDevice(cuda_of(device)->number);
    cudaFreeHost(block);
}

/* Copies */

/* *room: `bytes` of a block that no copy reads any more. */
static enum status ring_take(char **room, struct cuda_ring *ring, cudaStream_t stream, size_t bytes)
{
    if (ring->used + bytes > RING_BLOCK_BYTES) {
        CUDA_TRY(cudaEventRecord(ring->done[ring->current], stream));
        ring->current = (ring->current + 1) % RING_BLOCKS;
        ring->used = 0;
        CUDA_TRY(cudaEventSynchronize(ring->done[ring->current])); /* at once, but for a full ring */
    }
    *room = ring->block[ring->current] + ring->used;
    ring->used += (bytes + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;
    return LORAD_OK;
}

static enum status copy_by_ring(struct cuda_ring *ring, cudaStream_t stream, char *to, const char *from,
                                size_t bytes)
{
    for (size_t done = 0; done < bytes; done += RING_BLOCK_BYTES) {
        size_t n = bytes - done < RING_BLOCK_BYTES ? bytes - done : RING_BLOCK_BYTES;
        char *room = NULL;
        TRY(ring_take(&room, ring, stream, n));
        memcpy(room, from + done, n);
        CUDA_TRY(cudaMemcpyAsync(to + done, room, n, cudaMemcpyHostToDevice, stream));
    }
    return LORAD_OK;
}

/* A replay would copy what the host has there by then. */
static enum status enter_copy(struct device *device, enum device_stream stream)
{
    TRY(enter(device));
    if (stream == STREAM_COMPUTE && cuda_of(device)->recording)
        return FAIL(LORAD_BUG, "cuda: a copy from or to the host inside a recording");
    return LORAD_OK;
}

enum status cuda_copy_to(struct device *device, enum device_stream stream, void *to, const void *from,
                         size_t bytes)
{
    struct cuda_device *cuda = cuda_of(device);
    TRY(enter_copy(device, stream));
    if (bytes <= RING_MOST_BYTES)
        return copy_by_ring(&cuda->ring[stream], cuda->stream[stream], to, from, bytes);
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda->stream[stream]));
    return LORAD_OK;
}

enum status cuda_copy_from(struct device *device, enum device_stream stream, void *to, const void *from,
                           size_t bytes)
{
    TRY(enter_copy(device, stream));
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda_of(device)->stream[stream]));
    return LORAD_OK;
}

enum status cuda_copy_inside(struct device *device, enum device_stream stream, void *to, const void *from,
                             size_t bytes)
{
    TRY(enter(device));
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda_of(device)->stream[stream]));
    return LORAD_OK;
}

enum status cuda_zero(struct device *device, enum device_stream stream, void *block, size_t bytes)
{
    TRY(enter(device));
    CUDA_TRY(cudaMemsetAsync(block, 0, bytes, cuda_of(device)->stream[stream]));
    return LORAD_OK;
}

/* Events */

enum status cuda_event_create(struct device_event **out, struct device *device)
{
    TRY(enter(device));
    struct device_event *event = memory_new(1, sizeof *event);
    if (!event) return LORAD_NOMEM;
    enum status status = cuda_check(cudaEventCreateWithFlags(&event->event, cudaEventDisableTiming),
                                    "cudaEventCreateWithFlags");
    if (status != LORAD_OK) {
        free(event);
        return status;
    }
    *out = event;
    return LORAD_OK;
}

void cuda_event_destroy(struct device *device, struct device_event *event)
{
    (void)cudaSetDevice(cuda_of(device)->number);
    cudaEventDestroy(event->event);
    free(event);
}

enum status cuda_event_record(struct device *device, enum device_stream stream, struct device_event *event)
{
    TRY(enter(device));
    CUDA_TRY(cudaEventRecord(event->event, cuda_of(device)->stream[stream]));
    return LORAD_OK;
}

enum status cuda_stream_wait(struct device *device, enum device_stream stream, struct device_event *event)
{
    TRY(enter(device));
    CUDA_TRY(cudaStreamWaitEvent(cuda_of(device)->stream[stream], event->event, 0));
    return LORAD_OK;
}

enum status cuda_event_sync(struct device *device, struct device_event *event)
{
    TRY(enter(device));
    CUDA_TRY(cudaEventSynchronize(event->event));
    return LORAD_OK;
}

enum status cuda_sync(struct device *device)
{
    TRY(enter(device));
    CUDA_TRY(cudaStreamSynchronize(cuda_of(device)->stream[STREAM_COMPUTE]));
    return LORAD_OK;
}

void *cuda_native_stream(const struct device *device, enum device_stream stream)
{
    return ((const struct cuda_device *)device)->stream[stream];
}

/* What else this library may hold; a part that was not built has no address. */
extern const struct comm_device_ops lorad_nccl_ops __attribute__((weak)); /* comm/nccl */

const void *cuda_extension(const char *name)
{
    if (strcmp(name, "lorad_nccl_ops") == 0) return &lorad_nccl_ops;
    if (strcmp(name, "lorad_products") == 0) return &lorad_cuda_products;
    return NULL;
}
