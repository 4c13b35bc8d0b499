/*
 * The functions of comm.h over a backend: argument checks, the activity that a watchdog reads, the contract
 * check, and the way through host memory for devices whose backend speaks host memory only.
 *
 * 1. The backend list is the array below and nothing else.
 * 2. An activity is recorded for exactly the time between entering and leaving a collective.
 */
#include "comm/comm.h"
#include "comm/activity_impl.h"
#include "comm/comm_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

static const struct comm_ops *const backends[] = {&comm_self_ops, &comm_mpi_ops};

enum { STAGE_BYTES = 4 << 20, MESSAGE_BYTES = 4096, PEER_PATIENCE_MS = 3000 };

/* What one rank is about to do; all ranks of a group must be about to do the same. */
struct call {
    uint64_t sequence; /* in this group */
    int64_t count;
    int32_t op, dtype, reduction, root;
};

struct comm {
    const struct comm_ops *ops;
    void *group;
    struct device *device; /* NULL: host memory */
    int rank, size;
    bool checked;
    uint64_t sequence;
    struct call *calls; /* [size] */
    int32_t *codes;     /* [size] */
    char *stage;        /* STAGE_BYTES, then [size] of them; only for devices that are not the host */
};

static struct comm_world_info world = {.world = 1, .local_world = 1, .threads = 1};

static enum status leave(enum status status)
{
    activity_leave();
    return status;
}

/* ---- the process ---- */

enum status comm_startup(struct comm_world_info *out)
{
    TRY(comm_mpi_start(&world));
    *out = world;
    return LORAD_OK;
}

void comm_shutdown(void)
{
    comm_mpi_stop();
}

void comm_abort(int exit_code)
{
    comm_shm_abort();
    comm_mpi_abort(exit_code);
    _exit(exit_code);
}

enum status comm_peer_lost(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    clock_sleep_ms(PEER_PATIENCE_MS);
    return FAIL(LORAD_PEER_LOST, "%s; this rank stops with it", text);
}

/* ---- groups ---- */

static bool is_host(const struct comm *comm)
{
    return !comm->device || device_is_host(comm->device);
}

/* Whether calls are compared must itself be agreed: an environment may not reach every host. */
static enum status agree_on_checking(struct comm *comm)
{
    const char *wish = getenv("LORAD_COMM_CHECK");
#ifdef NDEBUG
    int32_t check = wish && strcmp(wish, "0") != 0;
#else
    int32_t check = !wish || strcmp(wish, "0") != 0;
#endif
    TRY(comm->ops->all_reduce(comm->group, &check, 1, DTYPE_I32, COMM_MAX));
    comm->checked = check != 0;
    return LORAD_OK;
}

/* Takes over `group` on success and on failure. */
static enum status wrap_group(struct comm **out, const struct comm_ops *ops, void *group,
                              struct device *device)
{
    enum status status = LORAD_NOMEM;
    struct comm *comm = memory_new(1, sizeof *comm);
    if (!comm) {
        ops->destroy(group);
        return status;
    }
    comm->ops = ops;
    comm->group = group;
    comm->device = device;
    comm->rank = ops->rank(group);
    comm->size = ops->size(group);
    comm->calls = memory_new((size_t)comm->size, sizeof *comm->calls);
    comm->codes = memory_new((size_t)comm->size, sizeof *comm->codes);
    if (!comm->calls || !comm->codes) goto destroy_comm;
    if (!is_host(comm) && comm->size > 1) {
        void *stage = NULL;
        status = device_alloc_host(&stage, device, (size_t)(comm->size + 1) * STAGE_BYTES);
        if (status != LORAD_OK) goto destroy_comm;
        comm->stage = stage;
    }
    status = agree_on_checking(comm);
    if (status != LORAD_OK) goto destroy_comm;
    *out = comm;
    return LORAD_OK;

destroy_comm:
    comm_destroy(comm);
    return status;
}

enum status comm_create(struct comm **out, const char *kind, struct device *device)
{
    const char *wanted = strcmp(kind, "auto") == 0 ? (world.world == 1 ? "self" : "mpi") : kind;
    if (strcmp(wanted, "self") == 0 && world.world > 1)
        return FAIL(LORAD_CONFIG, "comm: self is for one rank, and this run has %d; use comm: auto",
                    world.world);
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        if (strcmp(backends[i]->kind, wanted) != 0) continue;
        void *group = NULL;
        TRY(backends[i]->create(&group));
        return wrap_group(out, backends[i], group, device);
    }
    return FAIL(LORAD_CONFIG, "comm: \"%s\" is not one of auto, self, mpi", kind);
}

void comm_destroy(struct comm *comm)
{
    if (!comm) return;
    if (comm->stage) device_free_host(comm->device, comm->stage);
    comm->ops->destroy(comm->group);
    free(comm->calls);
    free(comm->codes);
    free(comm);
}

int comm_rank(const struct comm *comm)
{
    return comm->rank;
}

int comm_size(const struct comm *comm)
{
    return comm->size;
}

const char *comm_kind(const struct comm *comm)
{
    return comm->ops->kind;
}

/* ---- the contract check ---- */

static bool same_call(const struct call *a, const struct call *b)
{
    return a->sequence == b->sequence && a->count == b->count && a->op == b->op && a->dtype == b->dtype &&
           a->reduction == b->reduction && a->root == b->root;
}

static void describe_call(char *text, size_t bytes, const struct call *call)
{
    static const char *const reductions[] = {"sum", "max", "min"};
    bool reduces = call->op == OP_ALL_REDUCE || call->op == OP_HOST_ALL_REDUCE;
    bool typed = reduces || call->op == OP_ALL_GATHER || call->op == OP_BROADCAST;
    bool rooted = call->op == OP_BROADCAST || call->op == OP_HOST_BROADCAST;
    int n = snprintf(text, bytes, "%s(%lld %s", activity_op_name((enum op)call->op), (long long)call->count,
                     typed ? dtype_name((enum dtype)call->dtype) : "bytes");
    if (reduces) n += snprintf(text + n, bytes - (size_t)n, ", %s", reductions[call->reduction]);
    if (rooted) n += snprintf(text + n, bytes - (size_t)n, ", root %d", call->root);
    snprintf(text + n, bytes - (size_t)n, ") as its call %llu", (unsigned long long)call->sequence);
}

/* The rank to name is the first that differs from most others; of two ranks, rank 1. */
static int odd_rank(const struct comm *comm)
{
    for (int r = 0; r < comm->size; r++) {
        int like = 0;
        for (int other = 0; other < comm->size; other++)
            like += same_call(&comm->calls[r], &comm->calls[other]);
        if (2 * like > comm->size) {
            for (int other = 0; other < comm->size; other++)
                if (!same_call(&comm->calls[r], &comm->calls[other])) return other;
            return -1;
        }
    }
    for (int r = 1; r < comm->size; r++)
        if (!same_call(&comm->calls[0], &comm->calls[r])) return r;
    return -1;
}

static enum status check_call(struct comm *comm, struct call mine)
{
    mine.sequence = ++comm->sequence;
    if (!comm->checked || comm->size == 1) return LORAD_OK;
    TRY(comm->ops->all_gather(comm->group, &mine, comm->calls, sizeof mine));
    int odd = odd_rank(comm);
    if (odd < 0) return LORAD_OK;
    int other = 0;
    while (other == odd || same_call(&comm->calls[odd], &comm->calls[other])) other++;
    char one[128], two[128];
    describe_call(one, sizeof one, &comm->calls[odd]);
    describe_call(two, sizeof two, &comm->calls[other]);
    return FAIL(LORAD_BUG, "collectives do not match: rank %d of %d makes %s, rank %d makes %s", odd,
                comm->size, one, other, two);
}

static enum status begin(struct comm *comm, enum op op, int64_t count, enum dtype dtype, int reduction,
                         int root)
{
    activity_enter(op);
    struct call call = {
        .count = count, .op = (int32_t)op, .dtype = (int32_t)dtype, .reduction = reduction, .root = root};
    if (count < 0) return FAIL(LORAD_BUG, "%s of %lld elements", activity_op_name(op), (long long)count);
    if (root < 0 || root >= comm->size)
        return FAIL(LORAD_BUG, "%s from rank %d of a group of %d", activity_op_name(op), root, comm->size);
    return check_call(comm, call);
}

enum status comm_split(struct comm **out, struct comm *comm, int color, int key)
{
    void *group = NULL;
    if (color < 0) return FAIL(LORAD_BUG, "a group's color is at least 0, not %d", color);
    enum status status = begin(comm, OP_SPLIT, 0, DTYPE_F32, 0, 0);
    if (status == LORAD_OK) status = comm->ops->split(&group, comm->group, color, key);
    if (status == LORAD_OK) status = wrap_group(out, comm->ops, group, comm->device);
    return leave(status);
}

/* ---- device memory ---- */

static enum status from_device(struct comm *comm, void *host, const void *device, size_t bytes)
{
    TRY(device_copy_from(comm->device, STREAM_COMPUTE, host, device, bytes));
    return device_sync(comm->device);
}

/* The staging memory is used again by the next piece, so the copy must be over. */
static enum status to_device(struct comm *comm, void *device, const void *host, size_t bytes)
{
    TRY(device_copy_to(comm->device, STREAM_COMPUTE, device, host, bytes));
    return device_sync(comm->device);
}

static enum status staged_all_reduce(struct comm *comm, char *buffer, int64_t count, enum dtype dtype,
                                     enum comm_reduction reduction)
{
    size_t width = dtype_bytes(dtype);
    int64_t most = (int64_t)(STAGE_BYTES / width);
    for (int64_t at = 0; at < count; at += most) {
        int64_t n = count - at < most ? count - at : most;
        char *piece = buffer + (size_t)at * width;
        TRY(from_device(comm, comm->stage, piece, (size_t)n * width));
        TRY(comm->ops->all_reduce(comm->group, comm->stage, n, dtype, reduction));
        TRY(to_device(comm, piece, comm->stage, (size_t)n * width));
    }
    return LORAD_OK;
}

static enum status staged_all_gather(struct comm *comm, const char *in, char *out, size_t bytes)
{
    char *gathered = comm->stage + STAGE_BYTES;
    for (size_t at = 0; at < bytes; at += STAGE_BYTES) {
        size_t n = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES;
        TRY(from_device(comm, comm->stage, in + at, n));
        TRY(comm->ops->all_gather(comm->group, comm->stage, gathered, n));
        for (int r = 0; r < comm->size; r++)
            TRY(to_device(comm, out + (size_t)r * bytes + at, gathered + (size_t)r * n, n));
    }
    return LORAD_OK;
}

static enum status staged_broadcast(struct comm *comm, char *buffer, size_t bytes, int root)
{
    for (size_t at = 0; at < bytes; at += STAGE_BYTES) {
        size_t n = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES;
        if (comm->rank == root) TRY(from_device(comm, comm->stage, buffer + at, n));
        TRY(comm->ops->broadcast(comm->group, comm->stage, n, root));
        if (comm->rank != root) TRY(to_device(comm, buffer + at, comm->stage, n));
    }
    return LORAD_OK;
}

enum status comm_all_reduce(struct comm *comm, void *buffer, int64_t count, enum dtype dtype,
                            enum comm_reduction reduction)
{
    enum status status = begin(comm, OP_ALL_REDUCE, count, dtype, (int)reduction, 0);
    if (status == LORAD_OK && count > 0 && comm->size > 1)
        status = is_host(comm) ? comm->ops->all_reduce(comm->group, buffer, count, dtype, reduction)
                               : staged_all_reduce(comm, buffer, count, dtype, reduction);
    return leave(status);
}

enum status comm_all_gather(struct comm *comm, const void *in, void *out, int64_t count, enum dtype dtype)
{
    enum status status = begin(comm, OP_ALL_GATHER, count, dtype, 0, 0);
    size_t bytes = (size_t)count * dtype_bytes(dtype);
    if (status == LORAD_OK && count > 0) {
        if (is_host(comm))
            status = comm->ops->all_gather(comm->group, in, out, bytes);
        else if (comm->size > 1)
            status = staged_all_gather(comm, in, out, bytes);
        else if (in != out)
            status = device_copy(comm->device, STREAM_COMPUTE, out, in, bytes);
    }
    return leave(status);
}

enum status comm_broadcast(struct comm *comm, void *buffer, int64_t count, enum dtype dtype, int root)
{
    enum status status = begin(comm, OP_BROADCAST, count, dtype, 0, root);
    size_t bytes = (size_t)count * dtype_bytes(dtype);
    if (status == LORAD_OK && count > 0 && comm->size > 1)
        status = is_host(comm) ? comm->ops->broadcast(comm->group, buffer, bytes, root)
                               : staged_broadcast(comm, buffer, bytes, root);
    return leave(status);
}

/* ---- host memory ---- */

enum status comm_host_all_reduce(struct comm *comm, void *buffer, int64_t count, enum dtype dtype,
                                 enum comm_reduction reduction)
{
    enum status status = begin(comm, OP_HOST_ALL_REDUCE, count, dtype, (int)reduction, 0);
    if (status == LORAD_OK && count > 0)
        status = comm->ops->all_reduce(comm->group, buffer, count, dtype, reduction);
    return leave(status);
}

enum status comm_host_all_gather(struct comm *comm, const void *in, void *out, size_t bytes)
{
    enum status status = begin(comm, OP_HOST_ALL_GATHER, (int64_t)bytes, DTYPE_F32, 0, 0);
    if (status == LORAD_OK && bytes > 0) status = comm->ops->all_gather(comm->group, in, out, bytes);
    return leave(status);
}

enum status comm_host_broadcast(struct comm *comm, void *buffer, size_t bytes, int root)
{
    enum status status = begin(comm, OP_HOST_BROADCAST, (int64_t)bytes, DTYPE_F32, 0, root);
    if (status == LORAD_OK && bytes > 0) status = comm->ops->broadcast(comm->group, buffer, bytes, root);
    return leave(status);
}

enum status comm_barrier(struct comm *comm)
{
    enum status status = begin(comm, OP_BARRIER, 0, DTYPE_F32, 0, 0);
    if (status == LORAD_OK) status = comm->ops->barrier(comm->group);
    return leave(status);
}

static enum status agree(struct comm *comm, enum status mine)
{
    int32_t code = (int32_t)mine;
    TRY(comm->ops->all_gather(comm->group, &code, comm->codes, sizeof code));
    int first = 0;
    while (first < comm->size && comm->codes[first] == LORAD_OK) first++;
    if (first == comm->size) return LORAD_OK;
    char message[MESSAGE_BYTES] = "";
    if (comm->rank == first) snprintf(message, sizeof message, "%s", status_message());
    TRY(comm->ops->broadcast(comm->group, message, sizeof message, first));
    return FAIL((enum status)comm->codes[first], "rank %d: %s", first, message);
}

enum status comm_agree(struct comm *comm, enum status mine)
{
    if (comm->size == 1) return mine;
    /* Before the message that `mine` recorded can be overwritten by a failure of the check itself. */
    enum status status = begin(comm, OP_AGREE, 0, DTYPE_F32, 0, 0);
    if (status == LORAD_OK) status = agree(comm, mine);
    return leave(status);
}
