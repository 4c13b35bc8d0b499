/*
 * 1. The main thread leaves signs of life in its record of comm/activity.h and the step times here, without a
 * lock; the watching thread reads them.
 * 2. The watching thread touches nothing else: a hang may have happened anywhere, with any lock held. It
 * calls the log, which takes none but the progress line's, comm_health, which never waits, and comm_abort,
 * which ends the process whatever its device does.
 * 3. All times are taken so that the last rank speaks before L is over: ranks that wait speak in turn.
 */
#include "trainer/watchdog.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "base/thread.h"
#include "comm/activity.h"
#include "comm/comm.h"
#include "trainer/starved.h"

enum { LEARN_STEPS = 20, ENOUGH_STEPS = 3, ABORT_SECONDS = 10, CAUSE_SECONDS = 3, HOST_BYTES = 256 };

static const double SPEAKS_AT = 0.8, STOPPED_AT = 0.8, PEERS_SPEAK_AT = 0.9, TURN = 0.1, STARVED_SHARE = 0.1;
static const double STEPS = 5; /* L over the learned step time */

/* How many F a rank may stay silent; of two numbers the first while no step time is known. */
static const struct {
    const char *name;
    double unknown, known;
    bool follows_steps; /* L is at least STEPS learned steps */
    bool far_away;      /* other hosts may be blamed: nobody waits there for minutes as a matter of course */
} phases[] = {
    [WATCH_START] = {"start", 100, 100, false, false},
    [WATCH_TRAIN] = {"train", 100, 1, true, true},
    [WATCH_WAIT_ROWS] = {"train, rows being prepared", 100, 10, true, false},
    [WATCH_EVALUATE] = {"evaluate", 100, 1, true, true},
    [WATCH_SAVE] = {"save", 10, 10, true, true},
    [WATCH_PAUSE] = {"paused", 10, 10, true, true}, /* a phase begins ten times a second */
    [WATCH_END] = {"end", 100, 100, false, false},
};
enum { N_PHASES = sizeof phases / sizeof *phases };

struct watchdog {
    int world;
    double floor; /* F */
    char host[HOST_BYTES];
    _Atomic double steps[LEARN_STEPS]; /* the main thread's, as n_steps */
    _Atomic int64_t n_steps;
    pthread_t thread;
    pthread_mutex_t lock; /* guards stop */
    pthread_cond_t wake;
    bool stop;
    /* the watching thread's own */
    struct comm_activity all[ACTIVITY_MOST]; /* of this host */
    int n;
    struct starved starved;
    uint64_t signs;
    int64_t looked_ns, awake_ns; /* the last look; since when there was no gap between looks */
    double silent, forgiven;     /* seconds since the last sign, and how many of them do not count */
    int64_t broken_ns;           /* since when comm_health fails; 0: it does not */
};

/* ---- how long is too long ---- */

/* The second longest of the last steps, 0 while too few are known. */
static double learned_step(struct watchdog *watchdog)
{
    int64_t n = atomic_load(&watchdog->n_steps);
    double longest = 0, second = 0;
    if (n < ENOUGH_STEPS) return 0;
    for (int i = 0; i < LEARN_STEPS && i < n; i++) {
        double seconds = atomic_load(&watchdog->steps[i]);
        second = fmax(second, fmin(longest, seconds));
        longest = fmax(longest, seconds);
    }
    return second;
}

static int phase_of(const struct comm_activity *rank)
{
    return rank->phase >= 0 && rank->phase < N_PHASES ? rank->phase : WATCH_START;
}

static double limit(struct watchdog *watchdog, const struct comm_activity *me)
{
    int phase = phase_of(me);
    double step = learned_step(watchdog);
    double least = watchdog->floor * (step > 0 ? phases[phase].known : phases[phase].unknown);
    return phases[phase].follows_steps ? fmax(least, STEPS * step) : least;
}

/* ---- speaking ---- */

/* The letter of /proc/PID/stat, or 0. */
static char process_state(int64_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = '\0';
    const char *end = strrchr(text, ')');
    return end && end[1] == ' ' ? end[2] : 0;
}

static const char *state_words(char state)
{
    switch (state) {
    case 'T':
        return "its process is stopped (SIGSTOP)";
    case 't':
        return "its process is held by a debugger";
    case 'D':
        return "its process waits for a disk or a driver";
    case 'Z':
        return "its process is dead";
    default:
        return "its process does not run";
    }
}

static void describe(struct strbuf *out, const struct comm_activity *rank)
{
    strbuf_printf(out, "step %lld, phase %s, ", (long long)rank->step, phases[phase_of(rank)].name);
    if (!rank->what) {
        strbuf_printf(out, "%s any collective (after %llu)",
                      rank->on_device ? "waiting for its device, outside" : "outside",
                      (unsigned long long)rank->sequence);
        return;
    }
    strbuf_printf(out, "in %s%s (collective %llu)", rank->what, rank->on_device ? " on the device" : "",
                  (unsigned long long)rank->sequence);
    if (rank->waits_for >= 0) strbuf_printf(out, ", waiting for rank %d", rank->waits_for);
}

/* One line a rank: the error first, then where the others are. Does not return. */
static void end_run(struct watchdog *watchdog, const char *verdict, int named)
{
    alarm(ABORT_SECONDS); /* should MPI hang, too */
    watchdog->n = activity_of_host(watchdog->all, ACTIVITY_MOST);
    log_error("%s; ending the run", verdict);
    for (int i = 0; i < watchdog->n; i++) {
        const struct comm_activity *rank = &watchdog->all[i];
        struct strbuf text = STRBUF_EMPTY;
        if (rank->rank == named || rank->looked_ns == 0) continue;
        describe(&text, rank);
        log_warn("rank %d on host %s: %s", rank->rank, watchdog->host, strbuf_text(&text));
        strbuf_free(&text);
    }
    comm_abort(status_exit_code(LORAD_PEER_LOST));
}

static void name_rank(struct watchdog *watchdog, const struct comm_activity *rank, const char *why,
                      double seconds)
{
    struct strbuf where = STRBUF_EMPTY;
    char verdict[1024];
    describe(&where, rank);
    snprintf(verdict, sizeof verdict, "rank %d on host %s hangs: %s for %.0f s; %s", rank->rank,
             watchdog->host, why, seconds, strbuf_text(&where));
    strbuf_free(&where);
    end_run(watchdog, verdict, rank->rank);
}

/* ---- judging ---- */

static double age(int64_t then_ns, int64_t now_ns)
{
    return (double)(now_ns - then_ns) * 1e-9;
}

/* Whose process has not run for F; NULL: nobody's. Two watchdogs that were both held up do not blame each
 * other: this one must have run all the time. */
static const struct comm_activity *stopped_rank(const struct watchdog *watchdog,
                                                const struct comm_activity *me, int64_t now_ns)
{
    double needed = STOPPED_AT * watchdog->floor;
    if (age(watchdog->awake_ns, now_ns) < needed) return NULL;
    for (int i = 0; i < watchdog->n; i++) {
        const struct comm_activity *rank = &watchdog->all[i];
        if (rank->rank != me->rank && rank->looked_ns > 0 && age(rank->looked_ns, now_ns) >= needed)
            return rank;
    }
    return NULL;
}

/* A rank of this host that still works, or will speak for itself. */
static bool somebody_works(const struct watchdog *watchdog, double limit_seconds)
{
    for (int i = 0; i < watchdog->n; i++) {
        const struct comm_activity *rank = &watchdog->all[i];
        if (!rank->what || (double)rank->silent_ns * 1e-9 < SPEAKS_AT * limit_seconds) return true;
    }
    return false;
}

/* All wait. The one that is behind the others is the odd one; where the ranks of a host are in the same
 * place, another host is. */
static void name_waiting(struct watchdog *watchdog, const struct comm_activity *me, double waited)
{
    char verdict[512];
    if (watchdog->n < watchdog->world) {
        snprintf(verdict, sizeof verdict,
                 "a rank of another host hangs: all ranks of host %s wait, rank %d for %.0f s in %s "
                 "(collective %llu, step %lld, phase %s)",
                 watchdog->host, me->rank, waited, me->what, (unsigned long long)me->sequence,
                 (long long)me->step, phases[phase_of(me)].name);
        end_run(watchdog, verdict, me->rank);
    }
    snprintf(verdict, sizeof verdict,
             "the ranks wait for each other for %.0f s in different collectives: rank %d in %s (collective "
             "%llu, step %lld, phase %s)",
             waited, me->rank, me->what, (unsigned long long)me->sequence, (long long)me->step,
             phases[phase_of(me)].name);
    end_run(watchdog, verdict, me->rank);
}

static int turn(const struct watchdog *watchdog, const struct comm_activity *me)
{
    int turn = 0;
    for (int i = 0; i < watchdog->n; i++) turn += watchdog->all[i].rank < me->rank;
    return turn;
}

static void judge(struct watchdog *watchdog, const struct comm_activity *me, int64_t now_ns)
{
    double late = watchdog->silent - watchdog->forgiven, most = limit(watchdog, me);
    if (!me->what) {
        if (late >= SPEAKS_AT * most) name_rank(watchdog, me, "no sign of life", watchdog->silent);
        return;
    }
    /* In turn, within the last tenth of the time. */
    watchdog->n = activity_of_host(watchdog->all, ACTIVITY_MOST);
    double at = PEERS_SPEAK_AT + TURN * turn(watchdog, me) / watchdog->n;
    if (late < at * watchdog->floor) return;
    const struct comm_activity *stopped = stopped_rank(watchdog, me, now_ns);
    if (stopped)
        name_rank(watchdog, stopped, state_words(process_state(stopped->pid)),
                  age(stopped->looked_ns, now_ns));
    if (late < at * most || somebody_works(watchdog, most)) return;
    if (watchdog->n == watchdog->world || phases[phase_of(me)].far_away) name_waiting(watchdog, me, late);
}

/* A connection that breaks is seen before the rank at its other end has said why. */
static void judge_health(struct watchdog *watchdog, const struct comm_activity *me, int64_t now_ns)
{
    char verdict[1024];
    if (comm_health() == LORAD_OK) {
        watchdog->broken_ns = 0;
        return;
    }
    if (watchdog->broken_ns == 0) watchdog->broken_ns = now_ns;
    if (age(watchdog->broken_ns, now_ns) < CAUSE_SECONDS) return;
    snprintf(verdict, sizeof verdict, "rank %d on host %s: %s", me->rank, watchdog->host, status_message());
    end_run(watchdog, verdict, me->rank);
}

/* ---- the thread ---- */

static void look(struct watchdog *watchdog, double interval)
{
    int64_t now_ns = clock_monotonic_ns();
    double gap = age(watchdog->looked_ns, now_ns);
    struct comm_activity me = comm_activity();
    watchdog->looked_ns = now_ns;
    if (gap > 4 * interval + 1) watchdog->awake_ns = now_ns;
    if (me.signs != watchdog->signs) {
        watchdog->signs = me.signs;
        watchdog->silent = watchdog->forgiven = 0;
        watchdog->starved.n = 0;
    } else if (watchdog->awake_ns != now_ns) { /* rule 5 */
        double starved = (double)starved_ns(&watchdog->starved, (int64_t)(gap * 1e9)) * 1e-9;
        watchdog->silent += gap;
        watchdog->forgiven += (1 - STARVED_SHARE) * starved;
    }
    activity_looked((int64_t)((watchdog->silent - watchdog->forgiven) * 1e9));
    judge_health(watchdog, &me, now_ns);
    judge(watchdog, &me, now_ns);
}

static void *watch(void *argument)
{
    struct watchdog *watchdog = argument;
    double interval = fmin(1.0, watchdog->floor / 40);
    pthread_mutex_lock(&watchdog->lock);
    while (!watchdog->stop) {
        look(watchdog, interval);
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        int64_t ns = until.tv_nsec + (int64_t)(interval * 1e9);
        until.tv_sec += ns / 1000000000;
        until.tv_nsec = ns % 1000000000;
        pthread_cond_timedwait(&watchdog->wake, &watchdog->lock, &until);
    }
    pthread_mutex_unlock(&watchdog->lock);
    return NULL;
}

enum status watchdog_open(struct watchdog **out, int world, double hang_timeout)
{
    if (hang_timeout <= 0) return LORAD_OK;
    struct watchdog *watchdog = memory_new(1, sizeof *watchdog);
    if (!watchdog) return LORAD_NOMEM;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&watchdog->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&watchdog->lock, NULL);
    watchdog->world = world;
    watchdog->floor = hang_timeout;
    gethostname(watchdog->host, sizeof watchdog->host - 1);
    watchdog->looked_ns = watchdog->awake_ns = clock_monotonic_ns();
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
    activity_looked(-1);
    pthread_cond_destroy(&watchdog->wake);
    pthread_mutex_destroy(&watchdog->lock);
    free(watchdog);
}

void watchdog_note(struct watchdog *watchdog, enum watch_phase phase, int64_t step)
{
    if (watchdog) activity_note((int32_t)phase, step);
}

void watchdog_learn(struct watchdog *watchdog, double step_seconds)
{
    if (!watchdog) return;
    int64_t n = atomic_load(&watchdog->n_steps);
    atomic_store(&watchdog->steps[n % LEARN_STEPS], step_seconds);
    atomic_store(&watchdog->n_steps, n + 1);
}
