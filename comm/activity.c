/*
 * 1. A record has one writer, its rank: the main thread all fields but looked and silent, which are the
 * watchdog's. Readers take whatever is there; a reader that must not see a torn picture reads again when
 * `signs` moved meanwhile.
 * 2. `signs` grows with every entering and every leaving of a collective, so a rank that makes progress never
 * shows the same number twice.
 * 3. `enqueued` is the last collective that may still run on the device: forgotten when the device was waited
 * for.
 * 4. A record is found at the same place before and after sharing: what was counted is carried over.
 */
#include "comm/activity_impl.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

static const char *const op_names[N_OPS] = {
    "all_reduce",      "all_gather",     "reduce_scatter", "broadcast", "host_all_reduce",
    "host_all_gather", "host_broadcast", "barrier",        "agree",     "split"};

struct record {
    _Alignas(64) _Atomic int32_t rank, pid;
    _Atomic int32_t inside;   /* enum op + 1; 0: in no collective */
    _Atomic int32_t enqueued; /* enum op + 1; 0: none */
    _Atomic int32_t on_device;
    _Atomic int32_t waits_for;
    _Atomic int32_t phase;
    _Atomic int64_t step;
    _Atomic int64_t since_ns, waited_ns;
    _Atomic uint64_t sequence, signs;
    _Alignas(64) _Atomic int64_t looked_ns, silent_ns;
};

static struct record alone = {.waits_for = -1};
static struct record *_Atomic mine = &alone;
static struct record *_Atomic shared; /* [n_shared], or NULL */
static int n_shared;

const char *activity_op_name(enum op op)
{
    return op_names[op];
}

/* ---- writing: one thread, so a load and a store do for an add ---- */

#define RELAXED(field) atomic_load_explicit(&(field), memory_order_relaxed)

static void add_sign(struct record *record)
{
    atomic_store_explicit(&record->signs, RELAXED(record->signs) + 1, memory_order_release);
}

void activity_enter(enum op op)
{
    struct record *record = RELAXED(mine);
    atomic_store_explicit(&record->since_ns, clock_monotonic_ns(), memory_order_relaxed);
    atomic_store_explicit(&record->sequence, RELAXED(record->sequence) + 1, memory_order_relaxed);
    atomic_store_explicit(&record->inside, (int32_t)op + 1, memory_order_relaxed);
    add_sign(record);
}

void activity_leave(void)
{
    struct record *record = RELAXED(mine);
    atomic_store_explicit(&record->since_ns, clock_monotonic_ns(), memory_order_relaxed);
    atomic_store_explicit(&record->inside, 0, memory_order_relaxed);
    add_sign(record);
}

void activity_enqueued(enum op op)
{
    atomic_store_explicit(&RELAXED(mine)->enqueued, (int32_t)op + 1, memory_order_relaxed);
}

static void set_on_device(int32_t on_device)
{
    struct record *record = RELAXED(mine);
    atomic_store_explicit(&record->since_ns, clock_monotonic_ns(), memory_order_relaxed);
    atomic_store_explicit(&record->on_device, on_device, memory_order_relaxed);
    if (!on_device) atomic_store_explicit(&record->enqueued, 0, memory_order_relaxed);
    add_sign(record);
}

void activity_device_begin(const struct device *device)
{
    if (!device_is_host(device)) set_on_device(1);
}

void activity_device_end(const struct device *device)
{
    if (!device_is_host(device)) set_on_device(0);
}

enum status activity_device_sync(struct device *device)
{
    activity_device_begin(device);
    enum status status = device_sync(device);
    activity_device_end(device);
    return status;
}

void activity_waits_for(int rank)
{
    atomic_store_explicit(&RELAXED(mine)->waits_for, rank, memory_order_relaxed);
}

void activity_waited_more(int64_t ns)
{
    struct record *record = RELAXED(mine);
    atomic_store_explicit(&record->waited_ns, RELAXED(record->waited_ns) + ns, memory_order_relaxed);
}

void activity_waited(int64_t start_ns)
{
    activity_waited_more(clock_monotonic_ns() - start_ns);
}

void activity_sign(void)
{
    add_sign(RELAXED(mine));
}

void activity_note(int32_t phase, int64_t step)
{
    struct record *record = RELAXED(mine);
    atomic_store_explicit(&record->phase, phase, memory_order_relaxed);
    atomic_store_explicit(&record->step, step, memory_order_relaxed);
    add_sign(record);
}

void activity_looked(int64_t silent_ns)
{
    struct record *record = atomic_load(&mine);
    atomic_store(&record->silent_ns, silent_ns);
    atomic_store(&record->looked_ns, silent_ns < 0 ? 0 : clock_monotonic_ns());
}

/* ---- reading ---- */

static struct comm_activity look_at(struct record *record)
{
    struct comm_activity now;
    do {
        now.signs = atomic_load(&record->signs);
        int on_device = atomic_load(&record->on_device), entered = atomic_load(&record->inside);
        int inside = on_device ? atomic_load(&record->enqueued) : entered;
        now = (struct comm_activity){.rank = atomic_load(&record->rank),
                                     .pid = atomic_load(&record->pid),
                                     .what = inside > 0 && inside <= N_OPS ? op_names[inside - 1] : NULL,
                                     .on_device = on_device != 0,
                                     .since_ns = atomic_load(&record->since_ns),
                                     .sequence = atomic_load(&record->sequence),
                                     .waits_for = entered ? atomic_load(&record->waits_for) : -1,
                                     .waited_ns = atomic_load(&record->waited_ns),
                                     .signs = now.signs,
                                     .phase = atomic_load(&record->phase),
                                     .step = atomic_load(&record->step),
                                     .looked_ns = atomic_load(&record->looked_ns),
                                     .silent_ns = atomic_load(&record->silent_ns)};
    } while (now.signs != atomic_load(&record->signs));
    return now;
}

struct comm_activity comm_activity(void)
{
    return look_at(atomic_load(&mine));
}

int activity_of_host(struct comm_activity *out, int most)
{
    struct record *all = atomic_load(&shared);
    int n = all ? n_shared : 1;
    for (int i = 0; i < n && i < most; i++) out[i] = look_at(all ? &all[i] : atomic_load(&mine));
    return n < most ? n : most;
}

double activity_waited_seconds(void)
{
    return (double)RELAXED(RELAXED(mine)->waited_ns) * 1e-9;
}

/* ---- sharing ---- */

static void move_to(struct record *place)
{
    struct record *from = atomic_load(&mine);
    atomic_store(&place->rank, atomic_load(&from->rank));
    atomic_store(&place->pid, (int32_t)getpid());
    atomic_store(&place->waits_for, -1);
    atomic_store(&place->since_ns, atomic_load(&from->since_ns));
    atomic_store(&place->waited_ns, atomic_load(&from->waited_ns));
    atomic_store(&place->sequence, atomic_load(&from->sequence));
    atomic_store(&place->signs, atomic_load(&from->signs));
    atomic_store(&place->phase, atomic_load(&from->phase));
    atomic_store(&place->step, atomic_load(&from->step));
    atomic_store(&place->enqueued, atomic_load(&from->enqueued));
    atomic_store(&place->on_device, atomic_load(&from->on_device));
    atomic_store(&place->inside, atomic_load(&from->inside));
    atomic_store(&mine, place);
}

enum status activity_share(int rank, int size, int world_rank, comm_exchange gather, void *group)
{
    atomic_store(&alone.rank, (int32_t)world_rank);
    atomic_store(&alone.pid, (int32_t)getpid());
    if (size > ACTIVITY_MOST) return LORAD_OK;
    struct comm_peer *peers = memory_new((size_t)size, sizeof *peers);
    void *records = NULL;
    if (!peers) return LORAD_NOMEM;
    struct comm_sharing sharing = {.rank = rank,
                                   .size = size,
                                   .world_rank = world_rank,
                                   .wanted = true,
                                   .bytes = (size_t)size * sizeof(struct record),
                                   .gather = gather,
                                   .group = group};
    enum status status = comm_share_memory(&records, peers, &sharing);
    free(peers);
    if (status != LORAD_OK || !records) return status;
    n_shared = size;
    move_to((struct record *)records + rank);
    atomic_store(&shared, records);
    return LORAD_OK;
}
