/*
 * Collectives through shared memory for ranks of one host.
 *
 * The segment (comm_share_memory) holds one counter per rank and, per rank, two slots of SLOT_BYTES.
 *
 * 1. A rank's counter only grows. "Meet" adds one to it and waits until every counter has reached the same
 * value; all ranks make the same sequence of meets, since collectives are called in the same order.
 * 2. Each piece of work writes slots of one parity, meets at least once before anyone reads them, and flips
 * the parity. A rank meets in piece k+1 only after its last read in piece k, so a writer in piece k+2, which
 * has passed that meet, overwrites nothing that is still being read.
 * 3. Within a reduction, rank r alone reads slice r of the slots and alone writes the result there.
 * 4. Operands are combined in rank order (comm_reduce), so every rank gets the same bits.
 */
#include "comm/activity_impl.h"
#include "comm/comm_impl.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

enum {
    SLOT_BYTES = 512 * 1024, /* of two slots: they stay in a core's second-level cache */
    SMALL_BYTES = 8 * 1024,  /* up to here every rank reduces everything: one meet instead of two */
    MAX_RANKS = 256,
    MAX_SEGMENTS = 16, /* that comm_abort tells */
};

struct seat {
    _Alignas(64) _Atomic uint32_t counter;
};

struct segment {
    _Alignas(64) _Atomic uint32_t over; /* a rank has called comm_abort */
    _Alignas(64) _Atomic uint32_t sleepers;
    struct seat seats[];
};

struct comm_shm {
    struct segment *segment;
    size_t bytes;
    int rank, size;
    bool crowded; /* more ranks than cores: spinning only delays the one that is waited for */
    uint32_t meets;
    int parity;
    char *slots;
    struct comm_peer *peers; /* [size] */
    const void **operands;   /* [size] */
};

static _Atomic(struct segment *) segments[MAX_SEGMENTS];

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static char *slot(const struct comm_shm *shm, int rank)
{
    return shm->slots + ((size_t)shm->parity * (size_t)shm->size + (size_t)rank) * SLOT_BYTES;
}

/* ---- setting up ---- */

static void segment_register(struct segment *segment)
{
    for (int i = 0; i < MAX_SEGMENTS; i++) {
        struct segment *none = NULL;
        if (atomic_compare_exchange_strong(&segments[i], &none, segment)) return;
    }
}

static void segment_forget(struct segment *segment)
{
    for (int i = 0; i < MAX_SEGMENTS; i++) {
        struct segment *it = segment;
        if (atomic_compare_exchange_strong(&segments[i], &it, NULL)) return;
    }
}

enum status comm_shm_create(struct comm_shm **out, int rank, int size, int world_rank, bool crowded,
                            comm_exchange gather, void *group)
{
    enum status status = LORAD_NOMEM;
    if (size > MAX_RANKS) {
        *out = NULL;
        return LORAD_OK;
    }
    struct comm_shm *shm = memory_new(1, sizeof *shm);
    if (!shm) return LORAD_NOMEM;
    size_t head = sizeof(struct segment) + (size_t)size * sizeof(struct seat);
    head = (head + 4095) / 4096 * 4096;
    shm->rank = rank;
    shm->size = size;
    shm->crowded = crowded;
    shm->bytes = head + 2 * (size_t)size * SLOT_BYTES;
    shm->peers = memory_new((size_t)size, sizeof *shm->peers);
    shm->operands = memory_new((size_t)size, sizeof *shm->operands);
    if (!shm->peers || !shm->operands) goto destroy_shm;

    const char *wish = getenv("LORAD_COMM_SHM");
    struct comm_sharing sharing = {.rank = rank,
                                   .size = size,
                                   .world_rank = world_rank,
                                   .wanted = !wish || strcmp(wish, "0") != 0,
                                   .bytes = shm->bytes,
                                   .gather = gather,
                                   .group = group};
    void *segment = NULL;
    status = comm_share_memory(&segment, shm->peers, &sharing);
    if (status != LORAD_OK) goto destroy_shm;
    if (!segment) { /* the group sends messages */
        comm_shm_destroy(shm);
        *out = NULL;
        return LORAD_OK;
    }
    shm->segment = segment;
    shm->slots = (char *)shm->segment + head;
    segment_register(shm->segment);
    *out = shm;
    return LORAD_OK;

destroy_shm:
    comm_shm_destroy(shm);
    return status;
}

void comm_shm_destroy(struct comm_shm *shm)
{
    if (!shm) return;
    if (shm->segment) {
        segment_forget(shm->segment);
        munmap(shm->segment, shm->bytes);
    }
    free(shm->peers);
    free(shm->operands);
    free(shm);
}

void comm_shm_abort(void)
{
    for (int i = 0; i < MAX_SEGMENTS; i++) {
        struct segment *segment = atomic_load(&segments[i]);
        if (segment) atomic_store(&segment->over, 1);
    }
}

bool comm_shm_over(void)
{
    for (int i = 0; i < MAX_SEGMENTS; i++) {
        struct segment *segment = atomic_load(&segments[i]);
        if (segment && atomic_load(&segment->over)) return true;
    }
    return false;
}

/* ---- meeting ---- */

static enum status check_peer(const struct comm_shm *shm, int rank)
{
    if (atomic_load(&shm->segment->over))
        return comm_peer_lost("another rank ended the run while this one waited for rank %d",
                              shm->peers[rank].world_rank);
    const struct comm_peer *peer = &shm->peers[rank];
    bool same_space = peer->pid_space && peer->pid_space == shm->peers[shm->rank].pid_space;
    if (same_space && kill(peer->pid, 0) != 0 && errno == ESRCH)
        return comm_peer_lost("rank %d (process %d) is gone", peer->world_rank, peer->pid);
    return LORAD_OK;
}

static bool reached(struct comm_shm *shm, int rank, uint32_t target, memory_order order)
{
    return (int32_t)(atomic_load_explicit(&shm->segment->seats[rank].counter, order) - target) >= 0;
}

/* Sleeps until the rank's counter changes; looks up every 100 ms for an abort or a dead process. */
static enum status sleep_for(struct comm_shm *shm, int rank, uint32_t target)
{
    struct segment *segment = shm->segment;
    enum status status = LORAD_OK;
    activity_waits_for(shm->peers[rank].world_rank);
    atomic_fetch_add(&segment->sleepers, 1);
    while (status == LORAD_OK) {
        uint32_t seen = atomic_load(&segment->seats[rank].counter);
        if ((int32_t)(seen - target) >= 0) break;
        struct timespec limit = {.tv_nsec = 100 * 1000 * 1000};
        long woken = syscall(SYS_futex, &segment->seats[rank].counter, FUTEX_WAIT, seen, &limit, NULL, 0);
        if (woken != 0 && errno == ETIMEDOUT) status = check_peer(shm, rank);
    }
    atomic_fetch_sub(&segment->sleepers, 1);
    activity_waits_for(-1);
    return status;
}

/* Spins, then yields, then sleeps. */
static enum status wait_longer(struct comm_shm *shm, int rank, uint32_t target, int64_t start_ns)
{
    int64_t patience_ns = shm->crowded ? 100 * 1000 : 2 * 1000 * 1000;
    do {
        for (int i = 0; i < 8; i++) {
            if (reached(shm, rank, target, memory_order_acquire)) return LORAD_OK;
            sched_yield();
        }
    } while (clock_monotonic_ns() - start_ns < patience_ns);
    return sleep_for(shm, rank, target);
}

/* The first microseconds are not counted as waiting: no clock is asked for a peer that is as good as there.
 */
static enum status wait_for(struct comm_shm *shm, int rank, uint32_t target)
{
    for (int i = shm->crowded ? 1 : 500; i > 0; i--) {
        if (reached(shm, rank, target, memory_order_acquire)) return LORAD_OK;
        relax();
    }
    int64_t start_ns = clock_monotonic_ns();
    enum status status = wait_longer(shm, rank, target, start_ns);
    activity_waited(start_ns);
    return status;
}

static enum status meet(struct comm_shm *shm)
{
    struct segment *segment = shm->segment;
    uint32_t target = ++shm->meets;
    atomic_store(&segment->seats[shm->rank].counter, target); /* sequential: before reading sleepers */
    if (atomic_load(&segment->sleepers))
        syscall(SYS_futex, &segment->seats[shm->rank].counter, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    for (int r = 0; r < shm->size; r++)
        if (r != shm->rank) TRY(wait_for(shm, r, target));
    return LORAD_OK;
}

/* ---- collectives ---- */

enum status comm_shm_barrier(struct comm_shm *shm)
{
    return meet(shm);
}

static enum status reduce_small(struct comm_shm *shm, char *buffer, int64_t count, enum dtype dtype,
                                enum comm_reduction reduction)
{
    memcpy(slot(shm, shm->rank), buffer, (size_t)count * dtype_bytes(dtype));
    TRY(meet(shm));
    for (int r = 0; r < shm->size; r++) shm->operands[r] = slot(shm, r);
    comm_reduce(buffer, shm->operands, shm->size, count, dtype, reduction);
    shm->parity ^= 1;
    return LORAD_OK;
}

static enum status reduce_piece(struct comm_shm *shm, char *buffer, int64_t count, enum dtype dtype,
                                enum comm_reduction reduction)
{
    size_t width = dtype_bytes(dtype), bytes = (size_t)count * width;
    /* Slices of whole cache lines, so that no line is written by two ranks. */
    size_t slice = (bytes / (size_t)shm->size + 64) / 64 * 64;
    size_t from = slice * (size_t)shm->rank, to = from + slice;
    if (from > bytes) from = bytes;
    if (to > bytes) to = bytes;

    char *mine = slot(shm, shm->rank);
    memcpy(mine, buffer, from);
    memcpy(mine + to, buffer + to, bytes - to);
    TRY(meet(shm));

    for (int r = 0; r < shm->size; r++) shm->operands[r] = (r == shm->rank ? buffer : slot(shm, r)) + from;
    comm_reduce(buffer + from, shm->operands, shm->size, (int64_t)((to - from) / width), dtype, reduction);
    memcpy(mine + from, buffer + from, to - from);
    TRY(meet(shm));

    for (int r = 0; r < shm->size; r++) {
        size_t start = slice * (size_t)r, end = start + slice < bytes ? start + slice : bytes;
        if (r != shm->rank && start < bytes) memcpy(buffer + start, slot(shm, r) + start, end - start);
    }
    shm->parity ^= 1;
    return LORAD_OK;
}

enum status comm_shm_all_reduce(struct comm_shm *shm, void *buffer, int64_t count, enum dtype dtype,
                                enum comm_reduction reduction)
{
    size_t width = dtype_bytes(dtype);
    if ((size_t)count * width <= SMALL_BYTES) return reduce_small(shm, buffer, count, dtype, reduction);
    int64_t most = (int64_t)(SLOT_BYTES / width);
    for (int64_t at = 0; at < count; at += most) {
        int64_t n = count - at < most ? count - at : most;
        TRY(reduce_piece(shm, (char *)buffer + (size_t)at * width, n, dtype, reduction));
    }
    return LORAD_OK;
}

enum status comm_shm_all_gather(struct comm_shm *shm, const void *in, void *out, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += SLOT_BYTES) {
        size_t n = bytes - at < SLOT_BYTES ? bytes - at : SLOT_BYTES;
        memcpy(slot(shm, shm->rank), (const char *)in + at, n);
        TRY(meet(shm));
        for (int r = 0; r < shm->size; r++) memcpy((char *)out + (size_t)r * bytes + at, slot(shm, r), n);
        shm->parity ^= 1;
    }
    return LORAD_OK;
}

/* A slot holds this rank's pieces for the others, in rank order. */
enum status comm_shm_reduce_scatter(struct comm_shm *shm, const void *in, void *out, int64_t count,
                                    enum dtype dtype, enum comm_reduction reduction)
{
    size_t width = dtype_bytes(dtype), block = (size_t)count * width;
    size_t most = SLOT_BYTES / (size_t)shm->size / 64 * 64;
    const char *own = (const char *)in + (size_t)shm->rank * block;
    for (size_t at = 0; at < block; at += most) {
        size_t n = block - at < most ? block - at : most;
        for (int r = 0; r < shm->size; r++)
            if (r != shm->rank)
                memcpy(slot(shm, shm->rank) + (size_t)r * most, (const char *)in + (size_t)r * block + at, n);
        TRY(meet(shm));
        for (int r = 0; r < shm->size; r++)
            shm->operands[r] = r == shm->rank ? own + at : slot(shm, r) + (size_t)shm->rank * most;
        comm_reduce((char *)out + at, shm->operands, shm->size, (int64_t)(n / width), dtype, reduction);
        shm->parity ^= 1;
    }
    return LORAD_OK;
}

enum status comm_shm_broadcast(struct comm_shm *shm, void *buffer, size_t bytes, int root)
{
    for (size_t at = 0; at < bytes; at += SLOT_BYTES) {
        size_t n = bytes - at < SLOT_BYTES ? bytes - at : SLOT_BYTES;
        if (shm->rank == root) memcpy(slot(shm, root), (char *)buffer + at, n);
        TRY(meet(shm));
        if (shm->rank != root) memcpy((char *)buffer + at, slot(shm, root), n);
        shm->parity ^= 1;
    }
    return LORAD_OK;
}
