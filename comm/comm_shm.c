/*
 * Collectives through shared memory for ranks of one host.
 *
 * The segment is an anonymous memory file of the group's rank 0 that the others map through /proc, so nothing
 * is left behind however the run ends. It holds one counter per rank and, per rank, two slots of SLOT_BYTES.
 *
 * 1. A rank's counter only grows. "Meet" adds one to it and waits until every counter has reached the same
 * value; all ranks make the same sequence of meets, since collectives are called in the same order.
 * 2. Each piece of work writes slots of one parity, meets at least once before anyone reads them, and flips
 * the parity. A rank meets in piece k+1 only after its last read in piece k, so a writer in piece k+2, which
 * has passed that meet, overwrites nothing that is still being read.
 * 3. Within a reduction, rank r alone reads slice r of the slots and alone writes the result there.
 * 4. Operands are combined in rank order (comm_reduce), so every rank gets the same bits.
 */
#include "comm/comm_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
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

struct peer {
    int32_t pid, fd, ready, world_rank;
    uint64_t pid_space; /* inode of the PID namespace: pids mean something within one only */
};

struct comm_shm {
    struct segment *segment;
    size_t bytes;
    int rank, size;
    bool crowded; /* more ranks than cores: spinning only delays the one that is waited for */
    uint32_t meets;
    int parity;
    char *slots;
    struct peer *peers;    /* [size] */
    const void **operands; /* [size] */
};

static _Atomic(struct segment *) segments[MAX_SEGMENTS];
static atomic_int sleeps_for = -1;

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

static uint64_t pid_space(void)
{
    struct stat info;
    return stat("/proc/self/ns/pid", &info) == 0 ? (uint64_t)info.st_ino : 0;
}

static struct segment *segment_map(int fd, size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* Rank 0 makes the file, the others open it. Not ready is no failure: the group then sends messages. */
static enum status segment_share(struct comm_shm *shm, struct peer *mine, int world_rank,
                                 comm_exchange gather, void *group)
{
    const char *wish = getenv("LORAD_COMM_SHM");
    bool wanted = !wish || strcmp(wish, "0") != 0;
    *mine = (struct peer){.pid = (int32_t)getpid(), .fd = -1, .ready = wanted, .world_rank = world_rank};
    mine->pid_space = pid_space();
    if (shm->rank == 0 && wanted) {
        mine->fd = memfd_create("lorad-comm", MFD_CLOEXEC);
        if (mine->fd >= 0 && ftruncate(mine->fd, (off_t)shm->bytes) == 0)
            shm->segment = segment_map(mine->fd, shm->bytes);
        mine->ready = shm->segment != NULL;
    }
    TRY(gather(group, mine, shm->peers, sizeof *mine));

    const struct peer *first = &shm->peers[0];
    if (shm->rank != 0 && wanted && first->ready && first->pid_space == mine->pid_space) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/fd/%d", first->pid, first->fd);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        struct stat info;
        if (fd >= 0 && fstat(fd, &info) == 0 && info.st_size == (off_t)shm->bytes)
            shm->segment = segment_map(fd, shm->bytes);
        if (fd >= 0) close(fd);
    }
    mine->ready = shm->segment != NULL;
    return gather(group, mine, shm->peers, sizeof *mine);
}

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

    struct peer mine;
    status = segment_share(shm, &mine, world_rank, gather, group);
    if (mine.fd >= 0) close(mine.fd);
    if (status != LORAD_OK) goto destroy_shm;
    for (int r = 0; r < size; r++) {
        if (shm->peers[r].ready) continue;
        log_debug("rank %d cannot share memory with its peers; the group sends messages", r);
        comm_shm_destroy(shm);
        *out = NULL;
        return LORAD_OK;
    }
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

int comm_shm_waits_for(void)
{
    return atomic_load(&sleeps_for);
}

/* ---- meeting ---- */

static enum status check_peer(const struct comm_shm *shm, int rank)
{
    if (atomic_load(&shm->segment->over))
        return comm_peer_lost("another rank ended the run while this one waited for rank %d",
                              shm->peers[rank].world_rank);
    const struct peer *peer = &shm->peers[rank];
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
    atomic_store(&sleeps_for, shm->peers[rank].world_rank);
    atomic_fetch_add(&segment->sleepers, 1);
    while (status == LORAD_OK) {
        uint32_t seen = atomic_load(&segment->seats[rank].counter);
        if ((int32_t)(seen - target) >= 0) break;
        struct timespec limit = {.tv_nsec = 100 * 1000 * 1000};
        long woken = syscall(SYS_futex, &segment->seats[rank].counter, FUTEX_WAIT, seen, &limit, NULL, 0);
        if (woken != 0 && errno == ETIMEDOUT) status = check_peer(shm, rank);
    }
    atomic_fetch_sub(&segment->sleepers, 1);
    atomic_store(&sleeps_for, -1);
    return status;
}

static enum status wait_for(struct comm_shm *shm, int rank, uint32_t target)
{
    for (int i = shm->crowded ? 0 : 500; i > 0; i--) {
        if (reached(shm, rank, target, memory_order_acquire)) return LORAD_OK;
        relax();
    }
    int64_t patience_ns = shm->crowded ? 100 * 1000 : 2 * 1000 * 1000, start = clock_monotonic_ns();
    do {
        for (int i = 0; i < 8; i++) {
            if (reached(shm, rank, target, memory_order_acquire)) return LORAD_OK;
            sched_yield();
        }
    } while (clock_monotonic_ns() - start < patience_ns);
    return sleep_for(shm, rank, target);
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
