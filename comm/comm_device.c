/*
 * Device collectives through a library's own table (NCCL): who may use it, how a group is set up, and how far
 * the host runs ahead.
 *
 * 1. All ranks decide from the same gathered facts, so they decide alike.
 * 2. A group is made and ended on a thread of its own, which the main thread watches: a library that waits
 * for ever for a peer must not hold the program. The thread is left behind then. While it runs, the main
 * thread makes no call of the library.
 * 3. The host is never more than WINDOW collectives ahead of the device. A device that waits for a peer
 * therefore holds the host inside a collective, where a watchdog sees it, and not in some launch of a kernel
 * that finds the queue full.
 * 4. A group that failed is aborted at once: what it left on the device would hold back everything behind it,
 * the freeing of memory too.
 * 5. Groups are listed for comm_health, which other threads call; a group is taken off the list, under the
 * lock, before it ends.
 */
#include "comm/activity_impl.h"
#include "comm/comm_impl.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"

enum { WINDOW = 16, HOST_BYTES = 64, TEXT_BYTES = 512, LOOK_MS = 20, END_SECONDS = 3, MAX_GROUPS = 16 };

struct comm_device {
    const struct comm_device_ops *ops;
    void *group; /* NULL: it failed and was aborted */
    struct device *device;
    void *stream;
    struct device_event *marks[WINDOW]; /* behind the last collectives */
    uint64_t enqueued;
    double settled; /* seconds of its collectives that are counted as waited */
};

/* ---- who can ---- */

enum fitness { FIT, NO_LIBRARY, OTHER_RELEASE, NO_PLACE };

/* What a rank says of itself. */
struct facts {
    char host[HOST_BYTES];
    int32_t fitness;
    struct comm_place place;
};

static const struct comm_device_ops *describe_rank(struct facts *mine, struct device *device)
{
    const struct comm_device_ops *ops = device_extension(device, "lorad_nccl_ops");
    *mine = (struct facts){.fitness = FIT};
    gethostname(mine->host, sizeof mine->host - 1);
    if (!ops)
        mine->fitness = NO_LIBRARY;
    else if (ops->size != sizeof *ops)
        mine->fitness = OTHER_RELEASE;
    else if (ops->locate(&mine->place) != LORAD_OK)
        mine->fitness = NO_PLACE;
    return mine->fitness == FIT ? ops : NULL;
}

static bool same_gpu(const struct facts *a, const struct facts *b)
{
    return strcmp(a->host, b->host) == 0 && strcmp(a->place.bus, b->place.bus) == 0;
}

/* Whether nothing is in the way; else says what. */
static bool judge_facts(const struct facts *all, int size, char *why, size_t bytes)
{
    static const char *const reasons[] = {[NO_LIBRARY] = "has no device that NCCL can use",
                                          [OTHER_RELEASE] = "has a lorad_cuda.so of another release",
                                          [NO_PLACE] = "cannot tell which GPU it uses"};
    for (int r = 0; r < size; r++) {
        const struct facts *me = &all[r];
        if (me->fitness != FIT) {
            snprintf(why, bytes, "rank %d on host %s %s", r, me->host, reasons[me->fitness]);
            return false;
        }
        if (me->place.version != all[0].place.version) {
            snprintf(why, bytes, "rank %d on host %s has NCCL %d and rank 0 on host %s has NCCL %d", r,
                     me->host, me->place.version, all[0].host, all[0].place.version);
            return false;
        }
        for (int other = 0; other < r; other++) {
            if (!same_gpu(me, &all[other])) continue;
            snprintf(why, bytes,
                     "ranks %d and %d both use GPU %d (%s) of host %s, and NCCL needs one GPU a rank", other,
                     r, me->place.number, me->place.bus, me->host);
            return false;
        }
    }
    return true;
}

static void name_library(char *words, size_t bytes, const struct comm_device_ops *ops, int32_t version)
{
    snprintf(words, bytes, "%s %d.%d.%d", ops->name, version / 10000, version / 100 % 100, version % 100);
}

enum status comm_device_find(const struct comm_device_ops **out, char *words, size_t bytes,
                             const struct comm_host *host, struct device *device)
{
    struct facts mine, *all = memory_new((size_t)host->size, sizeof *all);
    if (!all) return LORAD_NOMEM;
    const struct comm_device_ops *ops = describe_rank(&mine, device);
    enum status status = host->ops->all_gather(host->group, &mine, all, sizeof mine);
    if (status == LORAD_OK) {
        *out = judge_facts(all, host->size, words, bytes) ? ops : NULL;
        if (*out) name_library(words, bytes, ops, mine.place.version);
    }
    free(all);
    return status;
}

void comm_device_library(char *words, size_t bytes)
{
    const struct device_backend *backend;
    const struct comm_device_ops *ops = NULL;
    int32_t version;
    if (device_backend_find(&backend, "cuda") == LORAD_OK)
        ops = device_backend_extension(backend, "lorad_nccl_ops");
    if (bytes) *words = '\0';
    if (ops && ops->size == sizeof *ops && ops->version(&version) == LORAD_OK)
        name_library(words, bytes, ops, version);
}

/* ---- health ---- */

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct comm_device *list[MAX_GROUPS];

static void list_change(const struct comm_device *from, struct comm_device *to)
{
    pthread_mutex_lock(&list_lock);
    int i = 0;
    while (i < MAX_GROUPS && list[i] != from) i++;
    if (i < MAX_GROUPS) list[i] = to;
    pthread_mutex_unlock(&list_lock);
}

enum status comm_health(void)
{
    enum status status = LORAD_OK;
    if (pthread_mutex_trylock(&list_lock) != 0) return LORAD_OK;
    for (int i = 0; i < MAX_GROUPS && status == LORAD_OK; i++)
        if (list[i]) status = list[i]->ops->check(list[i]->group);
    pthread_mutex_unlock(&list_lock);
    return status;
}

/* The list changes on this thread alone. */
void comm_settle(void)
{
    for (int i = 0; i < MAX_GROUPS; i++) {
        struct comm_device *group = list[i];
        if (!group) continue;
        double seconds = group->ops->seconds(group->group);
        activity_waited_more((int64_t)((seconds - group->settled) * 1e9));
        group->settled = seconds;
    }
}

/* ---- on a thread of its own ---- */

/* Making a group, or ending one. */
struct errand {
    void (*run)(struct errand *errand);
    const struct comm_device_ops *ops;
    void *group;
    struct comm_place place;
    char id[COMM_ID_BYTES];
    int rank, size;
    bool deterministic;
    enum status status; /* with its message, since that stays with the thread */
    char words[TEXT_BYTES];
    _Atomic int progress; /* DONE after all the others are set */
};
enum { RUNNING, DONE, LEFT }; /* LEFT: nobody waits, the thread frees it */

static void run_create(struct errand *errand)
{
    errand->status = errand->ops->create(&errand->group, errand->id, errand->rank, errand->size,
                                         &errand->place, errand->deterministic);
    if (errand->status != LORAD_OK) snprintf(errand->words, sizeof errand->words, "%s", status_message());
}

static void run_destroy(struct errand *errand)
{
    errand->ops->destroy(errand->group);
}

static void run_abort(struct errand *errand)
{
    errand->ops->abort(errand->group);
}

static void *run_errand(void *argument)
{
    struct errand *errand = argument;
    errand->run(errand);
    if (atomic_exchange(&errand->progress, DONE) == LEFT) free(errand);
    return NULL;
}

/* LORAD_OK with *done false: it has not come to an end in that time, or a rank ended the run. Then the errand
 * is its thread's. */
static enum status do_errand(struct errand *errand, int seconds, bool *done)
{
    pthread_t thread;
    int code = thread_start(&thread, run_errand, errand);
    if (code != 0) return FAIL(LORAD_NOMEM, "cannot start a thread for NCCL (error %d)", code);
    int64_t start_ns = clock_monotonic_ns(), pause_ms = 1;
    while (atomic_load(&errand->progress) != DONE && clock_seconds_since(start_ns) < seconds &&
           !comm_shm_over()) {
        clock_sleep_ms(pause_ms);
        pause_ms = pause_ms < LOOK_MS ? 2 * pause_ms : LOOK_MS;
    }
    int expected = RUNNING;
    *done = !atomic_compare_exchange_strong(&errand->progress, &expected, LEFT);
    if (*done)
        pthread_join(thread, NULL);
    else
        pthread_detach(thread);
    return LORAD_OK;
}

/* ---- ending ---- */

/* The library may want the peers for this, and they may be gone. */
static void end_group(struct comm_device *group, void (*run)(struct errand *))
{
    bool done = false;
    list_change(group, NULL);
    struct errand *errand = memory_new(1, sizeof *errand);
    if (!errand || !group->group) {
        free(errand);
        return;
    }
    errand->run = run;
    errand->ops = group->ops;
    errand->group = group->group;
    group->group = NULL;
    if (do_errand(errand, END_SECONDS, &done) != LORAD_OK || done)
        free(errand);
    else
        log_debug("a group of %s did not end", group->ops->name);
}

static enum status failed(struct comm_device *group, enum status status)
{
    char words[TEXT_BYTES];
    snprintf(words, sizeof words, "%s", status_message());
    end_group(group, run_abort);
    return status == LORAD_PEER_LOST ? comm_peer_lost("%s", words) : FAIL(status, "%s", words);
}

void comm_device_destroy(struct comm_device *group)
{
    if (!group) return;
    end_group(group, run_destroy);
    for (int i = 0; i < WINDOW; i++) device_event_destroy(group->device, group->marks[i]);
    free(group);
}

/* ---- setting up ---- */

static enum status not_set_up(const struct comm_device_ops *ops, int size)
{
    if (comm_shm_over()) return comm_peer_lost("another rank ended the run");
    return FAIL(
        LORAD_DEVICE,
        "comm: %s did not connect the %d ranks of a group within %d s; NCCL_DEBUG=INFO shows where it "
        "stands, NCCL_SOCKET_IFNAME names the network that the hosts share, and comm: mpi does without",
        ops->name, size, ops->setup_seconds);
}

static enum status run_setup(void **out, struct errand *errand)
{
    const struct comm_device_ops *ops = errand->ops;
    int size = errand->size;
    bool done = false;
    enum status status = do_errand(errand, ops->setup_seconds, &done);
    if (status == LORAD_OK && !done) return not_set_up(ops, size);
    if (status == LORAD_OK) {
        status = errand->status;
        *out = errand->group;
        if (status == LORAD_PEER_LOST)
            status = comm_peer_lost("%s", errand->words);
        else if (status != LORAD_OK)
            status = FAIL(status, "%s", errand->words);
    }
    free(errand);
    return status;
}

/* Rank 0 makes the id; when it cannot, all hear why. */
static enum status share_id(char id[COMM_ID_BYTES], const struct comm_device_ops *ops,
                            const struct comm_host *host)
{
    struct {
        int32_t status;
        char id[COMM_ID_BYTES], words[TEXT_BYTES];
    } told = {0};
    if (host->rank == 0) {
        told.status = (int32_t)ops->make_id(told.id);
        if (told.status != LORAD_OK) snprintf(told.words, sizeof told.words, "%s", status_message());
    }
    TRY(host->ops->broadcast(host->group, &told, sizeof told, 0));
    if (told.status != LORAD_OK) return FAIL((enum status)told.status, "%s", told.words);
    memcpy(id, told.id, COMM_ID_BYTES);
    return LORAD_OK;
}

static void prepare_once(const struct comm_device_ops *ops, int32_t version, bool deterministic)
{
    static bool prepared;
    char library[64], words[TEXT_BYTES] = "";
    if (prepared) return;
    prepared = true;
    ops->prepare(deterministic, words, sizeof words);
    name_library(library, sizeof library, ops, version);
    log_info("comm: %s%s%s", library, words[0] ? ", " : "", words);
}

static enum status connect_ranks(struct comm_device *group, const struct comm_host *host, bool deterministic)
{
    struct errand *errand = memory_new(1, sizeof *errand);
    if (!errand) return LORAD_NOMEM;
    errand->run = run_create;
    errand->ops = group->ops;
    errand->rank = host->rank;
    errand->size = host->size;
    errand->deterministic = deterministic;
    enum status status = group->ops->locate(&errand->place);
    if (status == LORAD_OK) {
        prepare_once(group->ops, errand->place.version, deterministic);
        status = share_id(errand->id, group->ops, host);
    }
    if (status != LORAD_OK) {
        free(errand);
        return status;
    }
    return run_setup(&group->group, errand);
}

enum status comm_device_create(struct comm_device **out, const struct comm_device_ops *ops,
                               const struct comm_host *host, struct device *device, bool deterministic)
{
    struct comm_device *group = memory_new(1, sizeof *group);
    enum status status = group ? LORAD_OK : LORAD_NOMEM;
    if (status != LORAD_OK) return status;
    group->ops = ops;
    group->device = device;
    group->stream = device_native_stream(device, STREAM_COMPUTE);
    for (int i = 0; i < WINDOW && status == LORAD_OK; i++)
        status = device_event_create(&group->marks[i], device);
    if (status == LORAD_OK) status = connect_ranks(group, host, deterministic);
    if (status != LORAD_OK) {
        comm_device_destroy(group);
        return status;
    }
    list_change(NULL, group);
    *out = group;
    return LORAD_OK;
}

/* ---- collectives ---- */

static enum status before(struct comm_device *group)
{
    if (!group->group) return FAIL(LORAD_PEER_LOST, "the ranks of a group have lost each other");
    if (group->enqueued >= WINDOW)
        TRY(device_event_sync(group->device, group->marks[group->enqueued % WINDOW]));
    enum status status = group->ops->check(group->group);
    return status == LORAD_OK ? status : failed(group, status);
}

static enum status after(struct comm_device *group, enum status status)
{
    if (status != LORAD_OK) return failed(group, status);
    return device_event_record(group->device, STREAM_COMPUTE, group->marks[group->enqueued++ % WINDOW]);
}

enum status comm_device_all_reduce(struct comm_device *group, void *buffer, int64_t count, enum dtype dtype,
                                   enum comm_reduction reduction)
{
    TRY(before(group));
    return after(group, group->ops->all_reduce(group->group, group->stream, buffer, count, dtype, reduction));
}

enum status comm_device_all_gather(struct comm_device *group, const void *in, void *out, size_t bytes)
{
    TRY(before(group));
    return after(group, group->ops->all_gather(group->group, group->stream, in, out, bytes));
}

enum status comm_device_reduce_scatter(struct comm_device *group, const void *in, void *out, int64_t count,
                                       enum dtype dtype, enum comm_reduction reduction)
{
    TRY(before(group));
    return after(group,
                 group->ops->reduce_scatter(group->group, group->stream, in, out, count, dtype, reduction));
}

enum status comm_device_broadcast(struct comm_device *group, void *buffer, size_t bytes, int root)
{
    TRY(before(group));
    return after(group, group->ops->broadcast(group->group, group->stream, buffer, bytes, root));
}
