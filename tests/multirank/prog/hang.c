/*
 * A program to run under mpirun: hang MODE RANK TIMEOUT. All ranks make the collectives of a run of small
 * steps, watched by a watchdog with hang_timeout TIMEOUT; behind the 30th step RANK does this:
 *   stop     stops itself (SIGSTOP) outside a collective
 *   inside   is stopped inside a collective, while it waits for a rank that comes late
 *   sleep    sleeps for ever
 *   spin     computes for ever
 *   skip     leaves a collective out
 *   starve   works without a sign for longer than TIMEOUT, since it seldom gets a processor: no hang
 *   suspend  has all ranks stopped at once for two TIMEOUTs, as a suspended machine does: no hang
 *   tp       stops itself in a pair of two pairs, so that others wait for its partner
 * Without an end of that kind the program ends with code 0 after the 60th step. With LORAD_TEST_DEVICE=cuda
 * the collectives are of that device's memory and of the kind LORAD_TEST_COMM.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/activity.h"
#include "comm/comm.h"
#include "trainer/gpu_choice.h"
#include "trainer/watchdog.h"

enum { STEPS = 60, ODD_STEP = 30, STEP_MS = 10 };

static struct comm *all, *pair;
static struct watchdog *watchdog;
static const char *mode;
static int rank, odd;
static double timeout;
static struct device *device; /* NULL: host memory */
static double *room;          /* of the device */

static void must(enum status status)
{
    if (status == LORAD_OK) return;
    fprintf(stderr, "rank %d: %s: %s\n", rank, status_name(status), status_message());
    comm_abort(status_exit_code(status));
}

/* Work that takes about this much processor time. */
static void compute(double seconds)
{
    struct rusage then, now;
    getrusage(RUSAGE_THREAD, &then);
    do {
        for (volatile int i = 0; i < 10000; i++) continue;
        getrusage(RUSAGE_THREAD, &now);
    } while ((double)(now.ru_utime.tv_sec - then.ru_utime.tv_sec) +
                 (double)(now.ru_utime.tv_usec - then.ru_utime.tv_usec) * 1e-6 <
             seconds);
}

/* Processes that do nothing but compute, on the one processor where this rank has the least to say. */
static void starve(void)
{
    enum { OTHERS = 20 };
    double seconds = 2.5 * timeout;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    sched_setaffinity(0, sizeof one, &one);
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < OTHERS; i++) {
        if (fork() != 0) continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm((unsigned)seconds);
        for (;;) continue;
    }
    setpriority(PRIO_PROCESS, 0, 10);
    for (int64_t start = clock_monotonic_ns(); clock_seconds_since(start) < seconds;) continue;
}

static bool is(const char *name)
{
    return strcmp(mode, name) == 0;
}

/* A process that stops this one while it waits inside the next collective. */
static void stop_later(void)
{
    pid_t me = getpid();
    if (fork() != 0) return;
    clock_sleep_ms(300);
    kill(me, SIGSTOP);
    _exit(0);
}

static void suspend_all(void)
{
    struct comm_activity ranks[ACTIVITY_MOST];
    int n = activity_of_host(ranks, ACTIVITY_MOST);
    if (fork() != 0) {
        clock_sleep_ms(500);
        return;
    }
    for (int i = 0; i < n; i++) kill((pid_t)ranks[i].pid, SIGSTOP);
    clock_sleep_ms((int64_t)(2000 * timeout));
    for (int i = 0; i < n; i++) kill((pid_t)ranks[i].pid, SIGCONT);
    _exit(0);
}

static void be_odd(void)
{
    if (is("suspend")) suspend_all();
    if (is("stop") || is("tp")) raise(SIGSTOP);
    while (is("sleep")) clock_sleep_ms(1000);
    for (volatile int i = 0; is("spin"); i++) continue;
    if (is("starve")) starve();
    if (is("inside")) stop_later();
}

static void all_reduce(struct comm *comm)
{
    double sum = rank;
    if (device) {
        must(comm_all_reduce(comm, room, 1, DTYPE_F64, COMM_SUM));
        return;
    }
    must(comm_host_all_reduce(comm, &sum, 1, DTYPE_F64, COMM_SUM));
}

static void open_device(void)
{
    struct gpu_choice gpu;
    const char *kind = getenv("LORAD_TEST_DEVICE");
    if (!kind) return;
    must(gpu_choose(&gpu, kind));
    must(device_open(&device, &(struct device_options){.kind = kind, .number = gpu.number, .threads = 1}));
    must(device_alloc((void **)&room, device, sizeof *room));
}

static void step(int number)
{
    watchdog_note(watchdog, WATCH_TRAIN, number);
    compute(STEP_MS * 1e-3);
    if (number == 1) clock_sleep_ms(1500); /* the limit must not be learned from this one */
    if (number == ODD_STEP && rank == odd) be_odd();
    if (number == ODD_STEP && rank != odd && is("inside")) clock_sleep_ms(600);
    all_reduce(pair);
    if (number == ODD_STEP && rank == odd && is("skip")) return;
    all_reduce(all);
    if (device) must(activity_device_sync(device));
}

int main(int argc, char **argv)
{
    struct comm_world_info info;
    if (argc != 4) return 64;
    mode = argv[1];
    odd = atoi(argv[2]);
    timeout = atof(argv[3]);
    must(comm_startup(&info));
    rank = info.rank;
    log_set_rank(rank, info.world);
    open_device();
    must(comm_create(&all, &(struct comm_options){.kind = getenv("LORAD_TEST_COMM"), .device = device}));
    must(comm_split(&pair, all, is("tp") ? rank / 2 : 0, rank));
    must(watchdog_open(&watchdog, info.world, timeout));
    for (int number = 1; number <= STEPS; number++) {
        int64_t start = clock_monotonic_ns();
        step(number);
        watchdog_learn(watchdog, clock_seconds_since(start));
    }
    watchdog_close(watchdog);
    comm_destroy(pair);
    comm_destroy(all);
    device_free(device, room);
    device_close(device);
    comm_shutdown();
    return 0;
}
