/*
 * The functions of comm.h over a backend: argument checks, the activity that a watchdog reads, the contract
 * check, and the choice of the way that device memory takes.
 *
 * 1. Every communicator has a host group (self or mpi). Memory of another device goes through a comm_device
 * with nccl, through a comm_stage otherwise. comm_create is the only place that chooses.
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
#include "base/log.h"
#include "base/memory.h"

enum { MESSAGE_BYTES = 4096, PEER_PATIENCE_MS = 3000 };

/* What one rank is about to do; all ranks of a group must be about to do the same. */
struct call {
    uint64_t sequence; /* in this group */
    int64_t count;
    int32_t op, dtype, reduction, root;
};

/* What a communicator is made for; a part of one has the same as the whole. */
struct purpose {
    struct device *device; /* NULL: host memory */
    bool deterministic;
    const struct comm_device_ops *direct; /* NULL unless nccl */
    char words[64];                       /* comm_describe */
};

struct comm {
    struct comm_host host;
    struct purpose purpose;
    struct comm_device *direct; /* with purpose.direct, once it is needed */
    struct comm_stage *stage;   /* for devices that are not the host, without purpose.direct */
    bool checked;
    uint64_t sequence;
    struct call *calls; /* [size] */
    int32_t *codes;     /* [size] */
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
    return !comm->purpose.device || device_is_host(comm->purpose.device);
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
    TRY(comm->host.ops->all_reduce(comm->host.group, &check, 1, DTYPE_I32, COMM_MAX));
    comm->checked = check != 0;
    return LORAD_OK;
}

/* Takes over `group` on success and on failure. */
static enum status wrap_group(struct comm **out, const struct comm_ops *ops, void *group,
                              const struct purpose *purpose)
{
    enum status status = LORAD_NOMEM;
    struct comm *comm = memory_new(1, sizeof *comm);
    if (!comm) {
        ops->destroy(group);
        return status;
    }
    comm->host = (struct comm_host){ops, group, ops->rank(group), ops->size(group)};
    comm->purpose = *purpose;
    comm->calls = memory_new((size_t)comm->host.size, sizeof *comm->calls);
    comm->codes = memory_new((size_t)comm->host.size, sizeof *comm->codes);
    if (!comm->calls || !comm->codes) goto destroy_comm;
    status = LORAD_OK;
    if (!is_host(comm) && comm->host.size > 1 && !comm->purpose.direct)
        status = comm_stage_create(&comm->stage, &comm->host, comm->purpose.device);
    if (status == LORAD_OK) status = agree_on_checking(comm);
    if (status != LORAD_OK) goto destroy_comm;
    *out = comm;
    return LORAD_OK;

destroy_comm:
    comm_destroy(comm);
    return status;
}

/* A group takes a second and some hundred megabytes of GPU memory, so the world has none until it is used. */
static enum status connect_devices(struct comm *comm)
{
    if (!comm->purpose.direct || comm->direct || comm->host.size == 1) return LORAD_OK;
    return comm_device_create(&comm->direct, comm->purpose.direct, &comm->host, comm->purpose.device,
                              comm->purpose.deterministic);
}

/* For "auto" and "nccl": whether the devices can talk to each other. */
static enum status choose_devices(struct purpose *purpose, const struct comm_host *host, bool wanted)
{
    char words[512] = "";
    TRY(comm_device_find(&purpose->direct, words, sizeof words, host, purpose->device));
    if (purpose->direct)
        snprintf(purpose->words, sizeof purpose->words, "%s", words);
    else if (wanted)
        return FAIL(LORAD_CONFIG,
                    "comm: nccl does not work here: %s; set comm: mpi to go through host memory", words);
    else if (!device_is_host(purpose->device))
        log_info("comm: mpi, through host memory: %s", words);
    return LORAD_OK;
}

static enum status check_kind(const char *kind, const struct device *device)
{
    static const char *const kinds[] = {"auto", "self", "mpi", "nccl"};
    size_t i = 0;
    while (i < sizeof kinds / sizeof *kinds && strcmp(kinds[i], kind) != 0) i++;
    if (i == sizeof kinds / sizeof *kinds)
        return FAIL(LORAD_CONFIG, "comm: \"%s\" is not one of auto, self, mpi, nccl", kind);
    if (strcmp(kind, "self") == 0 && world.world > 1)
        return FAIL(LORAD_CONFIG, "comm: self is for one rank, and this run has %d; use comm: auto",
                    world.world);
    if (strcmp(kind, "nccl") == 0 && (!device || device_is_host(device)))
        return FAIL(LORAD_CONFIG, "comm: nccl is for GPUs, and this rank computes on %s; use comm: auto",
                    device ? device_kind(device) : "the host");
    return LORAD_OK;
}

enum status comm_create(struct comm **out, const struct comm_options *options)
{
    const char *kind = options->kind ? options->kind : "auto";
    TRY(check_kind(kind, options->device));
    bool alone = world.world == 1 && strcmp(kind, "mpi") != 0;
    bool direct = !alone && options->device && (strcmp(kind, "auto") == 0 || strcmp(kind, "nccl") == 0);
    const struct comm_ops *ops = alone ? &comm_self_ops : &comm_mpi_ops;
    struct purpose purpose = {.device = options->device, .deterministic = options->deterministic};
    struct comm_host host = {.ops = ops};
    snprintf(purpose.words, sizeof purpose.words, "%s", ops->kind);
    TRY(ops->create(&host.group));
    if (direct) {
        host.rank = ops->rank(host.group);
        host.size = ops->size(host.group);
        enum status status = choose_devices(&purpose, &host, strcmp(kind, "nccl") == 0);
        if (status != LORAD_OK) {
            ops->destroy(host.group);
            return status;
        }
    }
    return wrap_group(out, ops, host.group, &purpose);
}

void comm_destroy(struct comm *comm)
{
    if (!comm) return;
    comm_device_destroy(comm->direct);
    comm_stage_destroy(comm->stage);
    comm->host.ops->destroy(comm->host.group);
    free(comm->calls);
    free(comm->codes);
    free(comm);
}

int comm_rank(const struct comm *comm)
{
    return comm->host.rank;
}

int comm_size(const struct comm *comm)
{
    return comm->host.size;
}

const char *comm_kind(const struct comm *comm)
{
    return comm->purpose.direct ? "nccl" : comm->host.ops->kind;
}

const char *comm_describe(const struct comm *comm)
{
    return comm->purpose.words;
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
    bool reduces =
        call->op == OP_ALL_REDUCE || call->op == OP_REDUCE_SCATTER || call->op == OP_HOST_ALL_REDUCE;
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
    for (int r = 0; r < comm->host.size; r++) {
        int like = 0;
        for (int other = 0; other < comm->host.size; other++)
            like += same_call(&comm->calls[r], &comm->calls[other]);
        if (2 * like > comm->host.size) {
            for (int other = 0; other < comm->host.size; other++)
                if (!same_call(&comm->calls[r], &comm->calls[other])) return other;
            return -1;
        }
    }
    for (int r = 1; r < comm->host.size; r++)
        if (!same_call(&comm->calls[0], &comm->calls[r])) return r;
    return -1;
}

static enum status check_call(struct comm *comm, struct call mine)
{
    mine.sequence = ++comm->sequence;
    if (!comm->checked || comm->host.size == 1) return LORAD_OK;
    TRY(comm->host.ops->all_gather(comm->host.group, &mine, comm->calls, sizeof mine));
    int odd = odd_rank(comm);
    if (odd < 0) return LORAD_OK;
    int other = 0;
    while (other == odd || same_call(&comm->calls[odd], &comm->calls[other])) other++;
    char one[128], two[128];
    describe_call(one, sizeof one, &comm->calls[odd]);
    describe_call(two, sizeof two, &comm->calls[other]);
    return FAIL(LORAD_BUG, "collectives do not match: rank %d of %d makes %s, rank %d makes %s", odd,
                comm->host.size, one, other, two);
}

static enum status begin(struct comm *comm, enum op op, int64_t count, enum dtype dtype, int reduction,
                         int root)
{
    activity_enter(op);
    struct call call = {
        .count = count, .op = (int32_t)op, .dtype = (int32_t)dtype, .reduction = reduction, .root = root};
    if (count < 0) return FAIL(LORAD_BUG, "%s of %lld elements", activity_op_name(op), (long long)count);
    if (root < 0 || root >= comm->host.size)
        return FAIL(LORAD_BUG, "%s from rank %d of a group of %d", activity_op_name(op), root,
                    comm->host.size);
    return check_call(comm, call);
}

enum status comm_split(struct comm **out, struct comm *comm, int color, int key)
{
    void *group = NULL;
    struct comm *part = NULL;
    if (color < 0) return FAIL(LORAD_BUG, "a group's color is at least 0, not %d", color);
    enum status status = begin(comm, OP_SPLIT, 0, DTYPE_F32, 0, 0);
    if (status == LORAD_OK) status = comm->host.ops->split(&group, comm->host.group, color, key);
    if (status == LORAD_OK) status = wrap_group(&part, comm->host.ops, group, &comm->purpose);
    if (status == LORAD_OK) status = connect_devices(part);
    if (status == LORAD_OK)
        *out = part;
    else
        comm_destroy(part);
    return leave(status);
}

/* ---- device memory ---- */

/* A collective that is enqueued and not over when this returns. */
static enum status leave_enqueued(enum op op, enum status status)
{
    if (status == LORAD_OK) activity_enqueued(op);
    return leave(status);
}

enum status comm_all_reduce(struct comm *comm, void *buffer, int64_t count, enum dtype dtype,
                            enum comm_reduction reduction)
{
    const struct comm_host *host = &comm->host;
    enum status status = begin(comm, OP_ALL_REDUCE, count, dtype, (int)reduction, 0);
    if (status != LORAD_OK || count == 0 || host->size == 1) return leave(status);
    if (is_host(comm)) return leave(host->ops->all_reduce(host->group, buffer, count, dtype, reduction));
    if (comm->stage) return leave(comm_stage_all_reduce(comm->stage, buffer, count, dtype, reduction));
    status = connect_devices(comm);
    if (status == LORAD_OK) status = comm_device_all_reduce(comm->direct, buffer, count, dtype, reduction);
    return leave_enqueued(OP_ALL_REDUCE, status);
}

enum status comm_all_gather(struct comm *comm, const void *in, void *out, int64_t count, enum dtype dtype)
{
    const struct comm_host *host = &comm->host;
    enum status status = begin(comm, OP_ALL_GATHER, count, dtype, 0, 0);
    size_t bytes = (size_t)count * dtype_bytes(dtype);
    if (status != LORAD_OK || count == 0) return leave(status);
    if (is_host(comm)) return leave(host->ops->all_gather(host->group, in, out, bytes));
    if (host->size == 1)
        return leave(in == out ? LORAD_OK
                               : device_copy(comm->purpose.device, STREAM_COMPUTE, out, in, bytes));
    if (comm->stage) return leave(comm_stage_all_gather(comm->stage, in, out, bytes));
    status = connect_devices(comm);
    if (status == LORAD_OK) status = comm_device_all_gather(comm->direct, in, out, bytes);
    return leave_enqueued(OP_ALL_GATHER, status);
}

enum status comm_reduce_scatter(struct comm *comm, const void *in, void *out, int64_t count, enum dtype dtype,
                                enum comm_reduction reduction)
{
    const struct comm_host *host = &comm->host;
    enum status status = begin(comm, OP_REDUCE_SCATTER, count, dtype, (int)reduction, 0);
    if (status != LORAD_OK || count == 0) return leave(status);
    if (is_host(comm)) return leave(host->ops->reduce_scatter(host->group, in, out, count, dtype, reduction));
    if (host->size == 1)
        return leave(in == out ? LORAD_OK
                               : device_copy(comm->purpose.device, STREAM_COMPUTE, out, in,
                                             (size_t)count * dtype_bytes(dtype)));
    if (comm->stage) return leave(comm_stage_reduce_scatter(comm->stage, in, out, count, dtype, reduction));
    status = connect_devices(comm);
    if (status == LORAD_OK)
        status = comm_device_reduce_scatter(comm->direct, in, out, count, dtype, reduction);
    return leave_enqueued(OP_REDUCE_SCATTER, status);
}

enum status comm_broadcast(struct comm *comm, void *buffer, int64_t count, enum dtype dtype, int root)
{
    const struct comm_host *host = &comm->host;
    enum status status = begin(comm, OP_BROADCAST, count, dtype, 0, root);
    size_t bytes = (size_t)count * dtype_bytes(dtype);
    if (status != LORAD_OK || count == 0 || host->size == 1) return leave(status);
    if (is_host(comm)) return leave(host->ops->broadcast(host->group, buffer, bytes, root));
    if (comm->stage) return leave(comm_stage_broadcast(comm->stage, buffer, bytes, root));
    status = connect_devices(comm);
    if (status == LORAD_OK) status = comm_device_broadcast(comm->direct, buffer, bytes, root);
    return leave_enqueued(OP_BROADCAST, status);
}

/* ---- host memory ---- */

enum status comm_host_all_reduce(struct comm *comm, void *buffer, int64_t count, enum dtype dtype,
                                 enum comm_reduction reduction)
{
    enum status status = begin(comm, OP_HOST_ALL_REDUCE, count, dtype, (int)reduction, 0);
    if (status == LORAD_OK && count > 0)
        status = comm->host.ops->all_reduce(comm->host.group, buffer, count, dtype, reduction);
    return leave(status);
}

enum status comm_host_all_gather(struct comm *comm, const void *in, void *out, size_t bytes)
{
    enum status status = begin(comm, OP_HOST_ALL_GATHER, (int64_t)bytes, DTYPE_F32, 0, 0);
    if (status == LORAD_OK && bytes > 0)
        status = comm->host.ops->all_gather(comm->host.group, in, out, bytes);
    return leave(status);
}

enum status comm_host_broadcast(struct comm *comm, void *buffer, size_t bytes, int root)
{
    enum status status = begin(comm, OP_HOST_BROADCAST, (int64_t)bytes, DTYPE_F32, 0, root);
    if (status == LORAD_OK && bytes > 0)
        status = comm->host.ops->broadcast(comm->host.group, buffer, bytes, root);
    return leave(status);
}

enum status comm_barrier(struct comm *comm)
{
    enum status status = begin(comm, OP_BARRIER, 0, DTYPE_F32, 0, 0);
    if (status == LORAD_OK) status = comm->host.ops->barrier(comm->host.group);
    return leave(status);
}

static enum status agree(struct comm *comm, enum status mine)
{
    int32_t code = (int32_t)mine;
    TRY(comm->host.ops->all_gather(comm->host.group, &code, comm->codes, sizeof code));
    int first = 0;
    while (first < comm->host.size && comm->codes[first] == LORAD_OK) first++;
    if (first == comm->host.size) return LORAD_OK;
    char message[MESSAGE_BYTES] = "";
    if (comm->host.rank == first) snprintf(message, sizeof message, "%s", status_message());
    TRY(comm->host.ops->broadcast(comm->host.group, message, sizeof message, first));
    return FAIL((enum status)comm->codes[first], "rank %d: %s", first, message);
}

enum status comm_agree(struct comm *comm, enum status mine)
{
    if (comm->host.size == 1) return mine;
    /* Before the message that `mine` recorded can be overwritten by a failure of the check itself. */
    enum status status = begin(comm, OP_AGREE, 0, DTYPE_F32, 0, 0);
    if (status == LORAD_OK) status = agree(comm, mine);
    return leave(status);
}
