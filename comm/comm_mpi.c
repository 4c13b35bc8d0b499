/*
 * Ranks started by mpirun or srun. The only file that includes mpi.h.
 *
 * 1. Ranks of one host exchange through comm_shm; messages carry what is left: groups across hosts, setting
 * up, ending.
 * 2. A reduction by messages cuts the buffer in one slice per rank, brings every rank's copy of a slice to
 * its owner, reduces there in rank order (comm_reduce) and hands the result out: the same bits as comm_shm,
 * whatever algorithm MPI picks, since MPI only moves bytes.
 * 3. MPI returns its errors here; each becomes LORAD_PEER_LOST with MPI's words.
 */
#include "comm/activity_impl.h"
#include "comm/comm_impl.h"

#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

enum {
    PIECE_BYTES = 4 << 20,   /* reduced at once: bounds the scratch memory of a group */
    SMALL_BYTES = 4 * 1024,  /* up to here all operands go to all ranks: one exchange instead of two */
    MESSAGE_BYTES = 1 << 30, /* MPI counts are int */
};

struct group {
    MPI_Comm comm;
    int rank, size;
    struct comm_shm *shm; /* NULL: messages */
    char *scratch;        /* only without shm, as the three below; [size] slices or small buffers */
    int *counts, *starts, *incoming, *places;
    const void **operands;
};

static bool running;
static bool crowded; /* more ranks on this host than cores */

static enum status mpi_failed(int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return comm_peer_lost("MPI %s failed: %s", what, text);
}

#define MPI_TRY(call, what)                                                                                  \
    do {                                                                                                     \
        int code_ = (call);                                                                                  \
        if (code_ != MPI_SUCCESS) return mpi_failed(code_, what);                                            \
    } while (0)

/* ---- starting and ending ---- */

static int env_int(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

/* How many ranks the launcher says it started; 1 without a launcher, 0 when only MPI_Init can tell. */
static int launched_ranks(void)
{
    int open_mpi = env_int("OMPI_COMM_WORLD_SIZE", 0), pmi = env_int("PMI_SIZE", 0);
    if (open_mpi > 0) return open_mpi;
    if (pmi > 0) return pmi;
    int slurm = env_int("SLURM_STEP_NUM_TASKS", env_int("SLURM_NTASKS", 0));
    if (slurm > 0) return slurm;
    return getenv("PMIX_RANK") || getenv("PMI_RANK") ? 0 : 1;
}

static bool one_host(int ranks)
{
    if (getenv("OMPI_COMM_WORLD_LOCAL_SIZE")) return env_int("OMPI_COMM_WORLD_LOCAL_SIZE", 0) == ranks;
    return env_int("SLURM_STEP_NUM_NODES", env_int("SLURM_NNODES", 0)) == 1;
}

/* Looking for fabrics costs 0.2 s that ranks of one host do not need. A choice of the user stands. */
static void choose_transport(int ranks)
{
    static const char *const choices[] = {"OMPI_MCA_btl", "OMPI_MCA_pml", "OMPI_MCA_mtl", "OMPI_MCA_osc"};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        if (getenv(choices[i])) return;
    if (!one_host(ranks)) return;
#if defined(OMPI_MAJOR_VERSION) && OMPI_MAJOR_VERSION < 5
    setenv("OMPI_MCA_btl", "vader,self", 0);
#else
    setenv("OMPI_MCA_btl", "sm,self", 0);
#endif
    setenv("OMPI_MCA_pml", "ob1", 0);
    int local = env_int("OMPI_COMM_WORLD_LOCAL_SIZE", ranks);
    if (local > (int)sysconf(_SC_NPROCESSORS_ONLN)) setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
}

static enum status refuse_singleton(int ranks)
{
    const char *slurm = getenv("SLURM_NTASKS") || getenv("SLURM_STEP_NUM_TASKS") ? "Slurm" : "the launcher";
    return FAIL(
        LORAD_CONFIG,
        "%s started %d processes, but this one finds itself alone: each of them would train on its own and "
        "write to the same output_dir. Start lorad with `mpirun -np %d lorad ...` inside the job, or with "
        "`srun --mpi=pmix`, using the MPI that lorad was built with; for one rank on purpose use "
        "`mpirun -np 1 lorad ...`",
        slurm, ranks, ranks);
}

/* Cores that the ranks of this host may use together, and the threads that leave each rank its share. */
static enum status count_cores(MPI_Comm host, int local_world, struct comm_world_info *info)
{
    cpu_set_t mine, all;
    CPU_ZERO(&mine);
    if (sched_getaffinity(0, sizeof mine, &mine) != 0) CPU_SET(0, &mine);
    MPI_TRY(MPI_Allreduce(&mine, &all, (int)sizeof mine, MPI_BYTE, MPI_BOR, host), "start");
    int share = CPU_COUNT(&all) / local_world, own = CPU_COUNT(&mine);
    crowded = CPU_COUNT(&all) < local_world;
    info->threads = share < 1 ? 1 : share < own ? share : own;
    return LORAD_OK;
}

static enum status host_all_gather(void *group, const void *in, void *out, size_t bytes)
{
    MPI_TRY(MPI_Allgather(in, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, *(MPI_Comm *)group), "start");
    return LORAD_OK;
}

static enum status describe_world(struct comm_world_info *out)
{
    struct comm_world_info info;
    MPI_TRY(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "start");
    MPI_TRY(MPI_Comm_rank(MPI_COMM_WORLD, &info.rank), "start");
    MPI_TRY(MPI_Comm_size(MPI_COMM_WORLD, &info.world), "start");
    MPI_Comm host;
    MPI_TRY(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, info.rank, MPI_INFO_NULL, &host),
            "start");
    MPI_TRY(MPI_Comm_rank(host, &info.local_rank), "start");
    MPI_TRY(MPI_Comm_size(host, &info.local_world), "start");
    TRY(count_cores(host, info.local_world, &info));
    TRY(activity_share(info.local_rank, info.local_world, info.rank, host_all_gather, &host));
    MPI_TRY(MPI_Comm_free(&host), "start");
    *out = info;
    return LORAD_OK;
}

enum status comm_mpi_start(struct comm_world_info *out)
{
    int ranks = launched_ranks();
    if (ranks == 1) {
        cpu_set_t mine;
        CPU_ZERO(&mine);
        int cores = sched_getaffinity(0, sizeof mine, &mine) == 0 ? CPU_COUNT(&mine) : 1;
        *out = (struct comm_world_info){
            .rank = 0, .world = 1, .local_rank = 0, .local_world = 1, .threads = cores};
        return LORAD_OK;
    }
    /* Without a process manager's address MPI would start as a singleton: say so before it does. */
    if (!getenv("OMPI_COMM_WORLD_SIZE") && !getenv("PMIX_RANK") && !getenv("PMI_RANK"))
        return refuse_singleton(ranks);
    choose_transport(ranks);
    int granted = MPI_THREAD_SINGLE;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &granted) != MPI_SUCCESS)
        return FAIL(LORAD_PEER_LOST, "MPI did not start; its own message stands above");
    running = true;
    TRY(describe_world(out));
    if (out->world == 1 && ranks > 1) return refuse_singleton(ranks);
    return LORAD_OK;
}

bool comm_mpi_running(void)
{
    return running;
}

void comm_mpi_stop(void)
{
    if (!running) return;
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    running = false;
}

void comm_mpi_abort(int exit_code)
{
    if (running) MPI_Abort(MPI_COMM_WORLD, exit_code);
}

/* ---- groups ---- */

static void mpi_destroy(void *state)
{
    struct group *group = state;
    if (!group) return;
    comm_shm_destroy(group->shm);
    if (running && group->comm != MPI_COMM_NULL) MPI_Comm_free(&group->comm);
    free(group->scratch);
    free(group->counts);
    free(group->operands);
    free(group);
}

static enum status message_all_gather(void *state, const void *in, void *out, size_t bytes)
{
    struct group *group = state;
    if (bytes <= MESSAGE_BYTES / (size_t)group->size) {
        if (in == (char *)out + (size_t)group->rank * bytes) in = MPI_IN_PLACE;
        MPI_TRY(MPI_Allgather(in, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, group->comm),
                "all_gather");
        return LORAD_OK;
    }
    memmove((char *)out + (size_t)group->rank * bytes, in, bytes);
    for (int root = 0; root < group->size; root++)
        for (size_t at = 0; at < bytes; at += MESSAGE_BYTES) {
            size_t n = bytes - at < MESSAGE_BYTES ? bytes - at : MESSAGE_BYTES;
            char *piece = (char *)out + (size_t)root * bytes + at;
            MPI_TRY(MPI_Bcast(piece, (int)n, MPI_BYTE, root, group->comm), "all_gather");
        }
    return LORAD_OK;
}

static enum status make_scratch(struct group *group)
{
    size_t size = (size_t)group->size;
    size_t small = SMALL_BYTES * size, pieces = PIECE_BYTES + 64 * size;
    group->scratch = memory_new(1, small > pieces ? small : pieces);
    group->counts = memory_new(4 * size, sizeof *group->counts);
    group->operands = memory_new(size, sizeof *group->operands);
    if (!group->scratch || !group->counts || !group->operands) return LORAD_NOMEM;
    group->starts = group->counts + size;
    group->incoming = group->starts + size;
    group->places = group->incoming + size;
    return LORAD_OK;
}

static enum status open_group(struct group *group)
{
    MPI_TRY(MPI_Comm_set_errhandler(group->comm, MPI_ERRORS_RETURN), "create");
    MPI_TRY(MPI_Comm_rank(group->comm, &group->rank), "create");
    MPI_TRY(MPI_Comm_size(group->comm, &group->size), "create");
    MPI_Comm host;
    int on_host = 0;
    MPI_TRY(MPI_Comm_split_type(group->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host), "create");
    MPI_TRY(MPI_Comm_size(host, &on_host), "create");
    MPI_TRY(MPI_Comm_free(&host), "create");
    int least = on_host, world_rank;
    MPI_TRY(MPI_Comm_rank(MPI_COMM_WORLD, &world_rank), "create");
    MPI_TRY(MPI_Allreduce(&on_host, &least, 1, MPI_INT, MPI_MIN, group->comm), "create");
    if (least == group->size)
        TRY(comm_shm_create(&group->shm, group->rank, group->size, world_rank, crowded, message_all_gather,
                            group));
    return group->shm ? LORAD_OK : make_scratch(group);
}

static enum status group_of(void **out, MPI_Comm parent, int color, int key)
{
    struct group *group = memory_new(1, sizeof *group);
    if (!group) return LORAD_NOMEM;
    group->comm = MPI_COMM_NULL;
    enum status status = LORAD_OK;
    int code = MPI_Comm_split(parent, color, key, &group->comm);
    if (code != MPI_SUCCESS)
        status = mpi_failed(code, "split");
    else
        status = open_group(group);
    if (status != LORAD_OK) {
        mpi_destroy(group);
        return status;
    }
    *out = group;
    return LORAD_OK;
}

static enum status mpi_create(void **out)
{
    if (!running)
        return FAIL(LORAD_CONFIG,
                    "comm: mpi needs ranks: start lorad with mpirun -np N, N at least 2, or set comm: auto");
    return group_of(out, MPI_COMM_WORLD, 0, 0);
}

static enum status mpi_split(void **out, void *state, int color, int key)
{
    return group_of(out, ((struct group *)state)->comm, color, key);
}

static int mpi_rank(const void *state)
{
    return ((const struct group *)state)->rank;
}

static int mpi_size(const void *state)
{
    return ((const struct group *)state)->size;
}

/* ---- collectives ---- */

static enum status reduce_small(struct group *group, void *buffer, int64_t count, enum dtype dtype,
                                enum comm_reduction reduction)
{
    size_t bytes = (size_t)count * dtype_bytes(dtype);
    TRY(message_all_gather(group, buffer, group->scratch, bytes));
    for (int r = 0; r < group->size; r++) group->operands[r] = group->scratch + (size_t)r * bytes;
    comm_reduce(buffer, group->operands, group->size, count, dtype, reduction);
    return LORAD_OK;
}

static enum status reduce_piece(struct group *group, char *buffer, int64_t count, enum dtype dtype,
                                enum comm_reduction reduction)
{
    int width = (int)dtype_bytes(dtype), bytes = (int)count * width;
    int slice = (bytes / group->size + 64) / 64 * 64;
    for (int r = 0; r < group->size; r++) {
        int from = slice * r < bytes ? slice * r : bytes, to = slice < bytes - from ? from + slice : bytes;
        group->starts[r] = from;
        group->counts[r] = to - from;
    }
    int from = group->starts[group->rank], mine = group->counts[group->rank];
    for (int r = 0; r < group->size; r++) {
        group->incoming[r] = mine;
        group->places[r] = mine * r;
        group->operands[r] = group->scratch + (size_t)mine * (size_t)r;
    }
    MPI_TRY(MPI_Alltoallv(buffer, group->counts, group->starts, MPI_BYTE, group->scratch, group->incoming,
                          group->places, MPI_BYTE, group->comm),
            "all_reduce");
    comm_reduce(buffer + from, group->operands, group->size, mine / width, dtype, reduction);
    MPI_TRY(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, buffer, group->counts, group->starts, MPI_BYTE,
                           group->comm),
            "all_reduce");
    return LORAD_OK;
}

static enum status message_all_reduce(struct group *group, void *buffer, int64_t count, enum dtype dtype,
                                      enum comm_reduction reduction)
{
    size_t width = dtype_bytes(dtype);
    if ((size_t)count * width <= SMALL_BYTES) return reduce_small(group, buffer, count, dtype, reduction);
    int64_t most = (int64_t)(PIECE_BYTES / width);
    for (int64_t at = 0; at < count; at += most) {
        int64_t n = count - at < most ? count - at : most;
        TRY(reduce_piece(group, (char *)buffer + (size_t)at * width, n, dtype, reduction));
    }
    return LORAD_OK;
}

/* In pairs: one exchange of all would count places in `in` by int. */
static enum status message_reduce_scatter(struct group *group, const char *in, char *out, int64_t count,
                                          enum dtype dtype, enum comm_reduction reduction)
{
    int size = group->size, rank = group->rank;
    size_t width = dtype_bytes(dtype), block = (size_t)count * width;
    size_t most = PIECE_BYTES / (size_t)size / 64 * 64;
    for (size_t at = 0; at < block; at += most) {
        size_t n = block - at < most ? block - at : most;
        for (int step = 1; step < size; step++) {
            int to = (rank + step) % size, from = (rank + size - step) % size;
            MPI_TRY(MPI_Sendrecv(in + (size_t)to * block + at, (int)n, MPI_BYTE, to, 0,
                                 group->scratch + (size_t)from * most, (int)n, MPI_BYTE, from, 0, group->comm,
                                 MPI_STATUS_IGNORE),
                    "reduce_scatter");
        }
        for (int r = 0; r < size; r++)
            group->operands[r] =
                r == rank ? in + (size_t)rank * block + at : group->scratch + (size_t)r * most;
        comm_reduce(out + at, group->operands, size, (int64_t)(n / width), dtype, reduction);
    }
    return LORAD_OK;
}

static enum status message_broadcast(struct group *group, void *buffer, size_t bytes, int root)
{
    for (size_t at = 0; at < bytes; at += MESSAGE_BYTES) {
        size_t n = bytes - at < MESSAGE_BYTES ? bytes - at : MESSAGE_BYTES;
        MPI_TRY(MPI_Bcast((char *)buffer + at, (int)n, MPI_BYTE, root, group->comm), "broadcast");
    }
    return LORAD_OK;
}

static enum status message_barrier(struct group *group)
{
    MPI_TRY(MPI_Barrier(group->comm), "barrier");
    return LORAD_OK;
}

/* Messages: all the time inside counts as waiting. */
static enum status since(int64_t start_ns, enum status status)
{
    activity_waited(start_ns);
    return status;
}

static enum status mpi_all_reduce(void *state, void *buffer, int64_t count, enum dtype dtype,
                                  enum comm_reduction reduction)
{
    struct group *group = state;
    if (group->shm) return comm_shm_all_reduce(group->shm, buffer, count, dtype, reduction);
    int64_t start_ns = clock_monotonic_ns();
    return since(start_ns, message_all_reduce(group, buffer, count, dtype, reduction));
}

static enum status mpi_all_gather(void *state, const void *in, void *out, size_t bytes)
{
    struct group *group = state;
    if (group->shm) return comm_shm_all_gather(group->shm, in, out, bytes);
    int64_t start_ns = clock_monotonic_ns();
    return since(start_ns, message_all_gather(group, in, out, bytes));
}

static enum status mpi_reduce_scatter(void *state, const void *in, void *out, int64_t count, enum dtype dtype,
                                      enum comm_reduction reduction)
{
    struct group *group = state;
    if (group->shm) return comm_shm_reduce_scatter(group->shm, in, out, count, dtype, reduction);
    int64_t start_ns = clock_monotonic_ns();
    return since(start_ns, message_reduce_scatter(group, in, out, count, dtype, reduction));
}

static enum status mpi_broadcast(void *state, void *buffer, size_t bytes, int root)
{
    struct group *group = state;
    if (group->shm) return comm_shm_broadcast(group->shm, buffer, bytes, root);
    int64_t start_ns = clock_monotonic_ns();
    return since(start_ns, message_broadcast(group, buffer, bytes, root));
}

static enum status mpi_barrier(void *state)
{
    struct group *group = state;
    if (group->shm) return comm_shm_barrier(group->shm);
    int64_t start_ns = clock_monotonic_ns();
    return since(start_ns, message_barrier(group));
}

const struct comm_ops comm_mpi_ops = {
    .kind = "mpi",
    .create = mpi_create,
    .split = mpi_split,
    .destroy = mpi_destroy,
    .rank = mpi_rank,
    .size = mpi_size,
    .all_reduce = mpi_all_reduce,
    .all_gather = mpi_all_gather,
    .reduce_scatter = mpi_reduce_scatter,
    .broadcast = mpi_broadcast,
    .barrier = mpi_barrier,
};
