/*
 * 1. Signals are blocked and read from a descriptor, so each is handled between two looks at the job.
 * 2. The ranks were asked to stop: they are not started again, whatever they end with.
 * 3. Nothing of a start is left on this host when the next one begins.
 */
#include "launch/supervise.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "launch/supervise_folder.h"
#include "launch/supervise_job.h"
#include "launch/supervise_service.h"
#include "trainer/trainer.h"

enum {
    LOOK_MS = 1000,
    SHORT_LOOK_MS = 100, /* while it starts and stops */
    ASK_AGAIN_MS = 1000, /* a rank that was just being started may have missed the first time */
    TERM_MS = 3000,      /* from TERM to KILL */
    EXTEND_MS = 10000,   /* of a service manager's patience, each time */
    STARTING_MS = 30000, /* looks are frequent so long, until all ranks were seen */
    LOST_MS = 3000,      /* ranks that are gone while mpirun waits: it never notices some deaths */
    LOST_AT_END_MS = 120000,
    WITHOUT_PROGRESS = 3,
    EXIT_INTERRUPTED = 130,
};

struct supervisor {
    const struct supervise_plan *plan;
    struct claim *claim;
    const struct scratch *scratch;
    struct service service;
    struct job job;
    int signals;
    bool asked, killed; /* to stop; by a second INT */
    int64_t asked_ns, told_ns;
    bool terminated; /* the grace is over */
    bool full;       /* all ranks of this start were seen on this host at once */
    int64_t started_ns;
    int64_t lost_ns; /* since when some are missing; 0: none is */
};

bool supervise_starts_again(int code)
{
    static const enum status final[] = {
        LORAD_OK,      LORAD_USAGE,  LORAD_DATA,   LORAD_NOT_FOUND, LORAD_CANNOT_CREATE,
        LORAD_REQUEUE, LORAD_FENCED, LORAD_CONFIG, LORAD_NUMERIC,   LORAD_STOPPED};
    for (size_t i = 0; i < sizeof final / sizeof *final; i++)
        if (code == status_exit_code(final[i])) return false;
    return code != EXIT_INTERRUPTED;
}

static double seconds_since(int64_t start_ns)
{
    return clock_seconds_since(start_ns);
}

/* ---- signals ---- */

static enum status open_signals(struct supervisor *s)
{
    static const int heard[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
    struct sigaction before;
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof heard / sizeof *heard; i++) {
        bool ignored = sigaction(heard[i], NULL, &before) == 0 && before.sa_handler == SIG_IGN;
        if (heard[i] == SIGHUP && ignored) continue; /* nohup */
        sigaddset(&set, heard[i]);
        signal(heard[i], SIG_DFL);
    }
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL) == 0) s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return s->signals >= 0 ? LORAD_OK : FAIL(LORAD_BUG, "cannot listen for signals: %s", strerror(errno));
}

static void ask_to_stop(struct supervisor *s, int number)
{
    if (!s->asked) {
        log_info("%s: asking the ranks to finish their step and save%s", strsignal(number),
                 number == SIGINT ? " (once more: end at once)" : "");
        s->asked = true;
        s->asked_ns = clock_monotonic_ns();
        service_stopping(&s->service);
        service_extend(&s->service, EXTEND_MS);
    } else if (number == SIGINT) {
        s->killed = true;
    }
    s->told_ns = clock_monotonic_ns();
    job_signal(&s->job, SIGUSR1);
}

static void hear(struct supervisor *s, int timeout_ms)
{
    struct pollfd ready = {.fd = s->signals, .events = POLLIN};
    struct signalfd_siginfo info;
    if (poll(&ready, 1, timeout_ms) <= 0) return;
    while (read(s->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        int number = (int)info.ssi_signo;
        if (number == SIGUSR2)
            job_signal(&s->job, SIGUSR2);
        else if (number != SIGCHLD)
            ask_to_stop(s, number);
    }
}

/* ---- one start ---- */

/* The ranks were asked to stop and have not ended yet. */
static void press(struct supervisor *s)
{
    double waited = seconds_since(s->asked_ns), grace = s->plan->grace_seconds;
    if (s->killed || waited > grace + TERM_MS / 1e3) {
        s->terminated = true;
        job_kill(&s->job);
    } else if (waited > grace && !s->terminated) {
        log_warn("the ranks did not end within %.0f s (stop_grace_seconds): ending them; the last checkpoint "
                 "stands",
                 grace);
        s->terminated = true;
        job_signal(&s->job, SIGTERM);
    } else if (seconds_since(s->told_ns) * 1e3 > ASK_AGAIN_MS && !s->terminated) {
        s->told_ns = clock_monotonic_ns();
        job_signal(&s->job, SIGUSR1);
        service_extend(&s->service, EXTEND_MS);
    }
}

static bool counts_ranks(const struct supervisor *s)
{
    return s->plan->local_ranks > 0 && !s->plan->alone;
}

/* A rank that dies while it shakes hands with mpirun can leave Open MPI 4 waiting for ever. No rank ends by
 * itself before rank 0 has left the folder. Ranks that were never seen here may well run elsewhere: mpirun
 * has more ways to learn of hosts than can be known here. */
static void look_for_lost_ranks(struct supervisor *s)
{
    if (!counts_ranks(s)) return;
    int ranks = job_ranks(&s->job);
    s->full |= ranks >= s->plan->local_ranks;
    if (!s->full || ranks >= s->plan->local_ranks) {
        s->lost_ns = 0;
        return;
    }
    if (s->lost_ns == 0) s->lost_ns = clock_monotonic_ns();
    int limit_ms = service_run_is_over(&s->service) ? LOST_AT_END_MS : LOST_MS;
    if (seconds_since(s->lost_ns) * 1e3 < limit_ms) return;
    log_warn("%d of %d ranks are gone, but mpirun does not end: ending it", s->plan->local_ranks - ranks,
             s->plan->local_ranks);
    job_kill(&s->job);
}

static int until_next_look_ms(const struct supervisor *s)
{
    bool starting = counts_ranks(s) && !s->full && seconds_since(s->started_ns) * 1e3 < STARTING_MS;
    return s->asked || starting ? SHORT_LOOK_MS : LOOK_MS;
}

static int attend(struct supervisor *s)
{
    int code = 0;
    while (!job_ended(&s->job, &code)) {
        hear(s, until_next_look_ms(s));
        if (s->asked) press(s);
        service_look(&s->service);
        look_for_lost_ranks(s);
    }
    job_sweep(&s->job);
    scratch_empty(s->scratch);
    return code;
}

static enum status start(struct supervisor *s, bool go_on)
{
    char count[16];
    snprintf(count, sizeof count, "%d", s->claim->start);
    if (setenv("LORAD_JOB_ID", s->claim->job, 1) != 0 || setenv("LORAD_RESTART_COUNT", count, 1) != 0)
        return FAIL(LORAD_NOMEM, "out of memory");
    TRY(claim_write(s->claim));
    s->full = false;
    s->lost_ns = 0;
    s->started_ns = clock_monotonic_ns();
    TRY(job_start(&s->job, go_on ? s->plan->again : s->plan->argv, s->plan->alone));
    service_started(&s->service);
    return LORAD_OK;
}

/* ---- from start to start ---- */

static void describe_end(char text[64], int code)
{
    if (code > 128 && code < 128 + SIGRTMIN)
        snprintf(text, 64, "code %d: %s", code, strsignal(code - 128));
    else
        snprintf(text, 64, "code %d", code);
}

/* The exit code of the program when the job is not started again; -1: it is. */
static int judge(struct supervisor *s, int code, int restarts, int in_vain)
{
    char how[64];
    if (s->killed) return EXIT_INTERRUPTED;
    if (!supervise_starts_again(code)) return code;
    describe_end(how, code);
    if (s->asked) {
        if (!s->terminated) log_warn("asked to stop, the run ended with %s; the last checkpoint stands", how);
        return status_exit_code(LORAD_REQUEUE);
    }
    if (in_vain >= WITHOUT_PROGRESS) {
        log_error("the run ended with %s; %d starts in a row have committed no new checkpoint, so it is not "
                  "started again: look for the first error above",
                  how, in_vain);
        return code;
    }
    if (restarts >= s->plan->restarts) {
        log_error("the run ended with %s; it is not started again: --restarts %d", how, s->plan->restarts);
        return code;
    }
    return -1;
}

static void announce(const struct supervisor *s, int code, const struct run_committed *now, int restart)
{
    char how[64], from[64] = "";
    describe_end(how, code);
    if (now->step >= 0)
        snprintf(from, sizeof from, "; its last checkpoint is that of step %lld", (long long)now->step);
    log_warn("the run ended with %s%s. Starting it again: restart %d of at most %d", how, from, restart,
             s->plan->restarts);
}

/* A crash that follows another one at once is given time to pass. */
static void back_off(struct supervisor *s, int in_vain)
{
    static const int wait_ms[WITHOUT_PROGRESS] = {0, 500, 3000};
    int64_t start_ns = clock_monotonic_ns();
    while (!s->asked && seconds_since(start_ns) * 1e3 < wait_ms[in_vain]) hear(s, LOOK_MS);
}

static int run_until_over(struct supervisor *s)
{
    struct run_committed before = run_committed(s->plan->output_dir);
    int in_vain = 0;
    if (s->claim->first_epoch < 0) s->claim->first_epoch = before.epoch;
    for (int restarts = 0;; restarts++) {
        hear(s, 0);
        if (s->asked) return s->killed ? EXIT_INTERRUPTED : status_exit_code(LORAD_REQUEUE);
        /* What lay there before this job is continued only where the configuration says so. */
        bool go_on = before.epoch > s->claim->first_epoch;
        enum status status = start(s, go_on);
        if (status != LORAD_OK) {
            log_error("%s", status_message());
            return status_exit_code(status);
        }
        int code = attend(s);
        struct run_committed now = run_committed(s->plan->output_dir);
        bool progress = now.epoch > before.epoch && (now.step > before.step || !go_on);
        in_vain = progress ? 0 : in_vain + 1;
        int end = judge(s, code, restarts, in_vain);
        if (end >= 0) return end;
        announce(s, code, &now, restarts + 1);
        before = now;
        s->claim->start++;
        back_off(s, in_vain);
    }
}

int supervise(const struct supervise_plan *plan, struct claim *claim, const struct scratch *scratch)
{
    struct supervisor s = {.plan = plan, .claim = claim, .scratch = scratch, .signals = -1};
    enum status status = open_signals(&s);
    if (status != LORAD_OK) {
        log_error("%s", status_message());
        return status_exit_code(status);
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    service_open(&s.service, plan->output_dir);
    int code = run_until_over(&s);
    service_close(&s.service);
    close(s.signals);
    return code;
}
