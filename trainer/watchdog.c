/*
 * 1. The main thread writes what it does, the watching thread reads it; both only under `lock`.
 * 2. The watching thread touches nothing else: a hang may have happened anywhere, with any lock held. It
 * calls the log, which takes none but the progress line's, and comm_abort.
 */
#include "trainer/watchdog.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "comm/comm.h"

enum { GRACE_MS = 3000, STAGGER_MS = 1000, MAX_STAGGER_MS = 8000 };

struct watchdog {
    int rank;
    pthread_t thread;
    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t wake;
    bool stop;
    int64_t step, since_ns, limit_ns; /* 0: no limit */
    const char *phase;
};

/* Says what this rank was doing. Returns only when it is too early to speak. */
static void judge(const struct watchdog *watchdog, int64_t late_ns, double seconds)
{
    struct comm_activity activity = comm_activity();
    if (!activity.what) {
        log_error("rank %d hangs: step %lld, phase %s, no sign of life for %.0f s, outside any collective; "
                  "ending the run",
                  watchdog->rank, (long long)watchdog->step, watchdog->phase, seconds);
        comm_abort(status_exit_code(LORAD_PEER_LOST));
    }
    int64_t stagger_ms = (int64_t)watchdog->rank * STAGGER_MS;
    if (stagger_ms > MAX_STAGGER_MS) stagger_ms = MAX_STAGGER_MS;
    if (late_ns < (GRACE_MS + stagger_ms) * 1000000) return;
    char whom[64] = "another rank";
    if (activity.waits_for >= 0) snprintf(whom, sizeof whom, "rank %d", activity.waits_for);
    log_error("%s hangs: rank %d has waited %.0f s for it in %s (collective %llu, step %lld, phase %s); "
              "ending the run",
              whom, watchdog->rank, clock_seconds_since(activity.since_ns), activity.what,
              (unsigned long long)activity.sequence, (long long)watchdog->step, watchdog->phase);
    comm_abort(status_exit_code(LORAD_PEER_LOST));
}

static void *watch(void *argument)
{
    struct watchdog *watchdog = argument;
    pthread_mutex_lock(&watchdog->lock);
    while (!watchdog->stop) {
        int64_t silent_ns = clock_monotonic_ns() - watchdog->since_ns;
        int64_t late_ns = silent_ns - watchdog->limit_ns;
        if (watchdog->limit_ns > 0 && late_ns > 0) judge(watchdog, late_ns, (double)silent_ns * 1e-9);

        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += 1;
        pthread_cond_timedwait(&watchdog->wake, &watchdog->lock, &until);
    }
    pthread_mutex_unlock(&watchdog->lock);
    return NULL;
}

enum status watchdog_open(struct watchdog **out, int rank)
{
    struct watchdog *watchdog = memory_new(1, sizeof *watchdog);
    if (!watchdog) return LORAD_NOMEM;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&watchdog->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&watchdog->lock, NULL);
    watchdog->rank = rank;
    watchdog->phase = "start";
    watchdog->since_ns = clock_monotonic_ns();
    int code = thread_start(&watchdog->thread, watch, watchdog);
    if (code != 0) {
        pthread_cond_destroy(&watchdog->wake);
        pthread_mutex_destroy(&watchdog->lock);
        free(watchdog);
        return FAIL(LORAD_NOMEM, "cannot start the watchdog thread (error %d)", code);
    }
    *out = watchdog;
    return LORAD_OK;
}

void watchdog_close(struct watchdog *watchdog)
{
    if (!watchdog) return;
    pthread_mutex_lock(&watchdog->lock);
    watchdog->stop = true;
    pthread_cond_signal(&watchdog->wake);
    pthread_mutex_unlock(&watchdog->lock);
    pthread_join(watchdog->thread, NULL);
    pthread_cond_destroy(&watchdog->wake);
    pthread_mutex_destroy(&watchdog->lock);
    free(watchdog);
}

void watchdog_note(struct watchdog *watchdog, int64_t step, const char *phase, double limit_seconds)
{
    if (!watchdog) return;
    pthread_mutex_lock(&watchdog->lock);
    watchdog->step = step;
    watchdog->phase = phase;
    watchdog->since_ns = clock_monotonic_ns();
    watchdog->limit_ns = (int64_t)(limit_seconds * 1e9);
    pthread_mutex_unlock(&watchdog->lock);
}
