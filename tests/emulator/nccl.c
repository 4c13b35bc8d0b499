/*
 * nccl.c: NCCL between the emulated GPUs of one host's processes, through a shared file.
 *
 * 1. A collective runs when its stream gets there (emulator_enqueue), and then waits for the peers for as
 * long as it takes, as a real one does.
 * 2. Operands are combined in rank order and rounded to their type after every addition, which a ring does
 * too, though in an order of its own.
 * 3. Two ranks of a group with the same GPU are refused.
 * 4. ncclCommDestroy waits for the peers.
 * LORAD_EMULATED_NCCL_BREAK=N: at the N-th collective of a group (1: the trial of its setting up) the
 * connection breaks: the collective never ends, and ncclCommGetAsyncError says ncclRemoteError.
 */
#include <nccl.h>

#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kernels/tensor.h"

enum { MOST_RANKS = 16, SLOT_BYTES = 1 << 18 };

struct segment {
    struct {
        _Atomic uint32_t meets;
        char bus[32];
        int32_t min_ctas;
    } seat[MOST_RANKS];
    _Alignas(64) char slot[MOST_RANKS][SLOT_BYTES];
};

struct ncclComm {
    struct segment *segment;
    int rank, ranks;
    uint32_t meets;
    int64_t enqueued, break_at;
    _Atomic bool broken, aborted;
};

enum kind { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, BROADCAST };

struct collective {
    ncclComm_t comm;
    enum kind kind;
    const char *in;
    char *out;
    size_t count, width; /* elements (of a block, where there are several), bytes of one */
    ncclDataType_t type;
    ncclRedOp_t op;
    int root;
    bool breaks;
};

static _Thread_local char last_error[256];

static ncclResult_t refuse(ncclResult_t result, const char *why)
{
    snprintf(last_error, sizeof last_error, "%s", why);
    return result;
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = 22809;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const words[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "NCCL operation in progress"};
    return words[result];
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return last_error;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static _Atomic int made;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/dev/shm/lorad-emulated-nccl-%d-%d", (int)getpid(),
             atomic_fetch_add(&made, 1));
    int fd = open(id->internal, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return refuse(ncclSystemError, "cannot make the shared file");
    int code = ftruncate(fd, sizeof(struct segment));
    close(fd);
    return code == 0 ? ncclSuccess : refuse(ncclSystemError, "cannot extend the shared file");
}

/* false: aborted while waiting. */
static bool meet(ncclComm_t comm)
{
    uint32_t target = ++comm->meets;
    atomic_store(&comm->segment->seat[comm->rank].meets, target);
    for (int r = 0; r < comm->ranks; r++)
        for (int spins = 0; (int32_t)(atomic_load(&comm->segment->seat[r].meets) - target) < 0; spins++) {
            if (atomic_load(&comm->aborted)) return false;
            sched_yield();
            if (spins > 100) nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        }
    return true;
}

static void release(ncclComm_t comm)
{
    munmap(comm->segment, sizeof *comm->segment);
    free(comm);
}

static ncclResult_t check_seats(ncclComm_t comm)
{
    for (int a = 0; a < comm->ranks; a++) {
        if (comm->segment->seat[a].min_ctas != comm->segment->seat[0].min_ctas)
            return refuse(ncclInvalidUsage, "the ranks ask for different numbers of CTAs");
        for (int b = 0; b < a; b++)
            if (strcmp(comm->segment->seat[a].bus, comm->segment->seat[b].bus) == 0)
                return refuse(ncclInvalidUsage, "Duplicate GPU detected");
    }
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    if (config->size != sizeof *config || config->magic != 0xcafebeef || config->blocking != 1 ||
        ranks > MOST_RANKS || rank < 0 || rank >= ranks)
        return refuse(ncclInvalidArgument, "what the emulation does not know");
    int fd = open(id.internal, O_RDWR | O_CLOEXEC);
    if (fd < 0) return refuse(ncclSystemError, "cannot open the shared file");
    void *memory = mmap(NULL, sizeof(struct segment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    ncclComm_t comm = calloc(1, sizeof *comm);
    if (memory == MAP_FAILED || !comm) return refuse(ncclSystemError, "cannot map the shared file");
    const char *break_at = getenv("LORAD_EMULATED_NCCL_BREAK");
    int gpu = -1;
    cudaGetDevice(&gpu);
    comm->segment = memory;
    comm->rank = rank;
    comm->ranks = ranks;
    comm->break_at = break_at ? atoll(break_at) : 0;
    cudaDeviceGetPCIBusId(comm->segment->seat[rank].bus, sizeof comm->segment->seat[rank].bus, gpu);
    comm->segment->seat[rank].min_ctas = config->minCTAs;
    meet(comm);
    if (rank == 0) unlink(id.internal);
    ncclResult_t result = check_seats(comm);
    if (result != ncclSuccess) {
        release(comm);
        return result;
    }
    *out = comm;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    *error = atomic_load(&comm->broken) ? ncclRemoteError : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    cudaDeviceSynchronize();
    meet(comm);
    release(comm);
    return ncclSuccess;
}

/* Collectives that are still enqueued end at once. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    atomic_store(&comm->aborted, true);
    cudaDeviceSynchronize();
    release(comm);
    return ncclSuccess;
}

/* ---- collectives ---- */

static double combine(double a, double b, ncclRedOp_t op)
{
    return op == ncclSum ? a + b : op == ncclMax ? (a < b ? b : a) : (b < a ? b : a);
}

static int64_t combine_integers(int64_t a, int64_t b, ncclRedOp_t op)
{
    if (op == ncclSum) return (int64_t)((uint64_t)a + (uint64_t)b);
    return op == ncclMax ? (a < b ? b : a) : (b < a ? b : a);
}

static void add_operand(void *to, const void *from, size_t count, ncclDataType_t type, ncclRedOp_t op)
{
    for (size_t i = 0; i < count; i++) {
        switch (type) {
        case ncclFloat32:
            ((float *)to)[i] = (float)combine(((float *)to)[i], ((const float *)from)[i], op);
            break;
        case ncclFloat64:
            ((double *)to)[i] = combine(((double *)to)[i], ((const double *)from)[i], op);
            break;
        case ncclBfloat16:
            ((uint16_t *)to)[i] = f32_to_bf16((float)combine(bf16_to_f32(((uint16_t *)to)[i]),
                                                             bf16_to_f32(((const uint16_t *)from)[i]), op));
            break;
        case ncclFloat16:
            ((uint16_t *)to)[i] = f32_to_f16(
                (float)combine(f16_to_f32(((uint16_t *)to)[i]), f16_to_f32(((const uint16_t *)from)[i]), op));
            break;
        case ncclInt32:
            ((int32_t *)to)[i] =
                (int32_t)combine_integers(((int32_t *)to)[i], ((const int32_t *)from)[i], op);
            break;
        case ncclInt64:
            ((int64_t *)to)[i] = combine_integers(((int64_t *)to)[i], ((const int64_t *)from)[i], op);
            break;
        case ncclInt8:
            ((int8_t *)to)[i] = (int8_t)combine_integers(((int8_t *)to)[i], ((const int8_t *)from)[i], op);
            break;
        }
    }
}

/* One slot's worth of elements, from element `at` on. */
static bool run_piece(const struct collective *c, size_t at, size_t n)
{
    struct segment *segment = c->comm->segment;
    size_t bytes = n * c->width, place = at * c->width;
    int blocks = c->kind == REDUCE_SCATTER ? c->comm->ranks : 1;
    for (int b = 0; b < blocks; b++)
        memcpy(segment->slot[c->comm->rank] + (size_t)b * bytes,
               c->in + (size_t)b * c->count * c->width + place, bytes);
    if (!meet(c->comm)) return false;
    if (c->kind == ALL_REDUCE || c->kind == REDUCE_SCATTER) {
        size_t block = blocks > 1 ? (size_t)c->comm->rank * bytes : 0;
        memcpy(c->out + place, segment->slot[0] + block, bytes);
        for (int r = 1; r < c->comm->ranks; r++)
            add_operand(c->out + place, segment->slot[r] + block, n, c->type, c->op);
    } else if (c->kind == BROADCAST) {
        memcpy(c->out + place, segment->slot[c->root], bytes);
    } else {
        for (int r = 0; r < c->comm->ranks; r++)
            memcpy(c->out + (size_t)r * c->count * c->width + place, segment->slot[r], bytes);
    }
    return meet(c->comm);
}

static void run_collective(void *data)
{
    const struct collective *c = data;
    size_t most = SLOT_BYTES / c->width;
    if (c->kind == REDUCE_SCATTER) most /= (size_t)c->comm->ranks;
    if (c->breaks) {
        atomic_store(&c->comm->broken, true);
        while (!atomic_load(&c->comm->aborted)) usleep(1000);
        return;
    }
    for (size_t at = 0; at < c->count; at += most)
        if (!run_piece(c, at, c->count - at < most ? c->count - at : most)) return;
}

static ncclResult_t enqueue(struct collective what, cudaStream_t stream)
{
    static const size_t widths[] = {
        [ncclInt8] = 1,    [ncclInt32] = 4,   [ncclInt64] = 8,   [ncclFloat16] = 2,
        [ncclFloat32] = 4, [ncclFloat64] = 8, [ncclBfloat16] = 2};
    what.width = widths[what.type];
    what.breaks = ++what.comm->enqueued == what.comm->break_at;
    struct collective *copy = malloc(sizeof *copy);
    if (!copy) return refuse(ncclSystemError, "no memory");
    *copy = what;
    return emulator_enqueue(stream, run_collective, copy) == cudaSuccess ? ncclSuccess
                                                                         : ncclUnhandledCudaError;
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream)
{
    return enqueue(
        (struct collective){
            .comm = comm, .kind = ALL_REDUCE, .in = in, .out = out, .count = count, .type = type, .op = op},
        stream);
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream)
{
    return enqueue(
        (struct collective){
            .comm = comm, .kind = ALL_GATHER, .in = in, .out = out, .count = count, .type = type},
        stream);
}

ncclResult_t ncclReduceScatter(const void *in, void *out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream)
{
    return enqueue((struct collective){.comm = comm,
                                       .kind = REDUCE_SCATTER,
                                       .in = in,
                                       .out = out,
                                       .count = count,
                                       .type = type,
                                       .op = op},
                   stream);
}

ncclResult_t ncclBroadcast(const void *in, void *out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    return enqueue((struct collective){.comm = comm,
                                       .kind = BROADCAST,
                                       .in = in,
                                       .out = out,
                                       .count = count,
                                       .type = type,
                                       .root = root},
                   stream);
}
