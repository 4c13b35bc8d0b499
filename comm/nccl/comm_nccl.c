/*
 * Collectives of GPUs by NCCL: the table that lorad_cuda.so offers to comm. The only file that includes
 * nccl.h. https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html
 *
 * 1. Communicators are blocking: one that is not starts a thread for every collective (NCCL 2.28,
 * group.cc), and polling it would hold the host up as long. What may wait for a peer, making a communicator
 * and connecting it, therefore happens in create, which comm_device.c runs on a thread of its own.
 * 2. Deterministic: rings alone, a fixed number of them, no reductions inside the switch; then the order of a
 * sum depends on the layout of the ranks, the machines and the count only.
 * 3. Blocks of bytes move as ncclInt8.
 * 4. Two events around each collective tell how long it took on the stream, which for most is waiting for the
 * slowest rank. They are read when the host asks, or when the ring of them comes round: by then the caller,
 * which is never so many collectives ahead (comm_device.c), has seen that the oldest is over. What is not
 * over then is not counted.
 */
#include "comm/comm_impl.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

_Static_assert(sizeof(ncclUniqueId) <= COMM_ID_BYTES, "an id goes through COMM_ID_BYTES");

enum {
    CHANNELS = 16, /* rings, when deterministic: what NCCL itself takes between four GPUs by NVLink */
    TIMERS = 32,
    SETUP_SECONDS = 120 /* some seconds on one host, tens over a thousand ranks */
};

struct group {
    ncclComm_t comm;
    int gpu;
    cudaEvent_t begin[TIMERS], end[TIMERS]; /* of collective n: n % TIMERS */
    uint64_t enqueued, read;
    double seconds; /* of those before `read` */
};

/* ---- errors ---- */

static enum status nccl_failed(enum status code, ncclResult_t result, const char *what)
{
    const char *detail = ncclGetLastError(NULL);
    bool more = detail && *detail;
    return FAIL(code, "NCCL: %s: %s%s%s (NCCL_DEBUG=WARN tells more)", what, ncclGetErrorString(result),
                more ? ": " : "", more ? detail : "");
}

static enum status nccl_check(ncclResult_t result, const char *call)
{
    switch (result) {
    case ncclSuccess:
        return LORAD_OK;
    case ncclRemoteError:
        return nccl_failed(LORAD_PEER_LOST, result, call);
    case ncclInvalidUsage:
        return nccl_failed(LORAD_CONFIG, result, call);
    case ncclInvalidArgument:
        return nccl_failed(LORAD_BUG, result, call);
    default:
        return nccl_failed(LORAD_DEVICE, result, call);
    }
}

static enum status cuda_check(cudaError_t error, const char *call)
{
    if (error == cudaSuccess) return LORAD_OK;
    (void)cudaGetLastError(); /* or it waits for the next call that asks */
    return FAIL(LORAD_DEVICE, "CUDA: %s: %s", call, cudaGetErrorString(error));
}

/* ---- setting up ---- */

static enum status tell_version(int32_t *out)
{
    int version = 0;
    TRY(nccl_check(ncclGetVersion(&version), "ncclGetVersion"));
    *out = version;
    return LORAD_OK;
}

static enum status locate(struct comm_place *out)
{
    struct comm_place place = {.number = -1};
    int number = -1;
    TRY(tell_version(&place.version));
    TRY(cuda_check(cudaGetDevice(&number), "cudaGetDevice"));
    TRY(cuda_check(cudaDeviceGetPCIBusId(place.bus, (int)sizeof place.bus, number), "cudaDeviceGetPCIBusId"));
    size_t length = strlen(place.bus);
    memset(place.bus + length, 0, sizeof place.bus - length);
    place.number = number;
    *out = place;
    return LORAD_OK;
}

/* What the user chose stands. NCCL reads these when the first communicator is made. */
static void prepare(bool deterministic, char *words, size_t bytes)
{
    if (!deterministic) return;
    setenv("NCCL_ALGO", "Ring", 0);
    setenv("NCCL_NVLS_ENABLE", "0", 0);
    snprintf(words, bytes, "deterministic: NCCL_ALGO=%s, NCCL_NVLS_ENABLE=%s, %d channels",
             getenv("NCCL_ALGO"), getenv("NCCL_NVLS_ENABLE"), CHANNELS);
}

static enum status make_id(void *id)
{
    ncclUniqueId made;
    TRY(nccl_check(ncclGetUniqueId(&made), "ncclGetUniqueId"));
    memcpy(id, &made, sizeof made);
    return LORAD_OK;
}

/* One number all over: the first collective connects the ranks, and fails here instead of in the first step.
 */
static enum status try_out(ncclComm_t comm)
{
    float *one = NULL;
    cudaStream_t stream = NULL;
    enum status status = cuda_check(cudaMalloc((void **)&one, sizeof *one), "cudaMalloc");
    if (status == LORAD_OK)
        status = cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    if (status == LORAD_OK) status = cuda_check(cudaMemsetAsync(one, 0, sizeof *one, stream), "cudaMemset");
    if (status == LORAD_OK)
        status = nccl_check(ncclAllReduce(one, one, 1, ncclFloat32, ncclSum, comm, stream), "ncclAllReduce");
    if (status == LORAD_OK) status = cuda_check(cudaStreamSynchronize(stream), "the first ncclAllReduce");
    if (stream) cudaStreamDestroy(stream);
    cudaFree(one);
    return status;
}

static enum status timers_create(struct group *group)
{
    for (int i = 0; i < TIMERS; i++) {
        TRY(cuda_check(cudaEventCreate(&group->begin[i]), "cudaEventCreate"));
        TRY(cuda_check(cudaEventCreate(&group->end[i]), "cudaEventCreate"));
    }
    return LORAD_OK;
}

static void group_free(struct group *group)
{
    for (int i = 0; i < TIMERS; i++) {
        if (group->begin[i]) cudaEventDestroy(group->begin[i]);
        if (group->end[i]) cudaEventDestroy(group->end[i]);
    }
    free(group);
}

static void abort_group(void *state)
{
    struct group *group = state;
    cudaSetDevice(group->gpu);
    ncclCommAbort(group->comm);
    group_free(group);
}

static enum status create(void **out, const void *id, int rank, int size, const struct comm_place *place,
                          bool deterministic)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId unique;
    memcpy(&unique, id, sizeof unique);
    config.blocking = 1;
    if (deterministic) config.minCTAs = config.maxCTAs = CHANNELS;
    struct group *group = memory_new(1, sizeof *group);
    if (!group) return LORAD_NOMEM;
    group->gpu = place->number;
    enum status status = cuda_check(cudaSetDevice(place->number), "cudaSetDevice");
    if (status == LORAD_OK)
        status = nccl_check(ncclCommInitRankConfig(&group->comm, size, unique, rank, &config),
                            "ncclCommInitRankConfig");
    if (status != LORAD_OK) {
        free(group);
        return status;
    }
    status = timers_create(group);
    if (status == LORAD_OK) status = try_out(group->comm);
    if (status != LORAD_OK) {
        abort_group(group);
        return status;
    }
    *out = group;
    return LORAD_OK;
}

static enum status check(void *state)
{
    ncclResult_t found = ncclSuccess;
    TRY(nccl_check(ncclCommGetAsyncError(((struct group *)state)->comm, &found), "ncclCommGetAsyncError"));
    if (found == ncclSuccess || found == ncclInProgress) return LORAD_OK;
    return nccl_failed(found == ncclUnhandledCudaError ? LORAD_DEVICE : LORAD_PEER_LOST, found,
                       "a connection between ranks failed");
}

static void destroy(void *state)
{
    struct group *group = state;
    if (!group) return;
    cudaSetDevice(group->gpu);
    ncclCommDestroy(group->comm);
    group_free(group);
}

/* ---- collectives ---- */

static ncclDataType_t type_of(enum dtype dtype)
{
    static const ncclDataType_t types[] = {
        [DTYPE_F32] = ncclFloat32, [DTYPE_F64] = ncclFloat64, [DTYPE_BF16] = ncclBfloat16,
        [DTYPE_F16] = ncclFloat16, [DTYPE_I32] = ncclInt32,   [DTYPE_I64] = ncclInt64};
    return types[dtype];
}

static ncclComm_t comm_of(void *state)
{
    return ((struct group *)state)->comm;
}

static ncclRedOp_t operation_of(enum comm_reduction reduction)
{
    static const ncclRedOp_t operations[] = {
        [COMM_SUM] = ncclSum, [COMM_MAX] = ncclMax, [COMM_MIN] = ncclMin};
    return operations[reduction];
}

/* Whether the oldest collective that is not read yet is over: then it is. */
static bool read_timer(struct group *group)
{
    float milliseconds = 0;
    int i = (int)(group->read % TIMERS);
    if (cudaEventElapsedTime(&milliseconds, group->begin[i], group->end[i]) != cudaSuccess) {
        (void)cudaGetLastError(); /* not over, or never timed */
        return false;
    }
    group->seconds += milliseconds * 1e-3;
    group->read++;
    return true;
}

static double seconds(void *state)
{
    struct group *group = state;
    while (group->read < group->enqueued && read_timer(group)) continue;
    return group->seconds;
}

static enum status begin(struct group *group, cudaStream_t stream)
{
    if (group->enqueued - group->read == TIMERS && !read_timer(group)) group->read++;
    return cuda_check(cudaEventRecord(group->begin[group->enqueued % TIMERS], stream), "cudaEventRecord");
}

static enum status end(struct group *group, cudaStream_t stream, ncclResult_t result, const char *call)
{
    TRY(nccl_check(result, call));
    return cuda_check(cudaEventRecord(group->end[group->enqueued++ % TIMERS], stream), "cudaEventRecord");
}

static enum status all_reduce(void *state, void *stream, void *buffer, int64_t count, enum dtype dtype,
                              enum comm_reduction reduction)
{
    TRY(begin(state, stream));
    return end(state, stream,
               ncclAllReduce(buffer, buffer, (size_t)count, type_of(dtype), operation_of(reduction),
                             comm_of(state), stream),
               "ncclAllReduce");
}

static enum status all_gather(void *state, void *stream, const void *in, void *out, size_t bytes)
{
    TRY(begin(state, stream));
    return end(state, stream, ncclAllGather(in, out, bytes, ncclInt8, comm_of(state), stream),
               "ncclAllGather");
}

static enum status reduce_scatter(void *state, void *stream, const void *in, void *out, int64_t count,
                                  enum dtype dtype, enum comm_reduction reduction)
{
    TRY(begin(state, stream));
    return end(state, stream,
               ncclReduceScatter(in, out, (size_t)count, type_of(dtype), operation_of(reduction),
                                 comm_of(state), stream),
               "ncclReduceScatter");
}

static enum status broadcast(void *state, void *stream, void *buffer, size_t bytes, int root)
{
    TRY(begin(state, stream));
    return end(state, stream, ncclBroadcast(buffer, buffer, bytes, ncclInt8, root, comm_of(state), stream),
               "ncclBroadcast");
}

const struct comm_device_ops lorad_nccl_ops = {
    .size = sizeof(struct comm_device_ops),
    .name = "NCCL",
    .setup_seconds = SETUP_SECONDS,
    .version = tell_version,
    .locate = locate,
    .prepare = prepare,
    .make_id = make_id,
    .create = create,
    .check = check,
    .seconds = seconds,
    .abort = abort_group,
    .destroy = destroy,
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .reduce_scatter = reduce_scatter,
    .broadcast = broadcast,
};
