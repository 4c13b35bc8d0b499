/*
 * bench_coord_redis [SECONDS]: what Redis costs a run. A loop does every 2 ms what a step with a checkpoint
 * does: heartbeat, status, metrics, an event, a commit, the question whether it is still the owner. For a
 * Redis that works and for each way to fail: the time these calls take together (median, 99th percentile,
 * worst), the processor time of the calling thread in them, and that of the whole process beside the loop
 * (the thread that talks to Redis) per second.
 */
#include "support/test.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "comm/coord.h"
#include "support/redis_server.h"

static int64_t cpu_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void one_step(struct coord *coord, int64_t step, const char *status, const char *line)
{
    static const char *const receipts[] = {"{\"rank\":0,\"bytes\":12345}", "{\"rank\":1,\"bytes\":12345}"};
    coord_heartbeat(coord, step, "training");
    coord_publish_status(coord, status);
    coord_tell(coord, COORD_METRICS, line);
    coord_tell(coord, COORD_EVENTS, line);
    coord_note_commit(coord, "s0000000010.e0000000001.a0", step, line, receipts, 2);
    if (coord_check_owner(coord) != LORAD_OK) abort();
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void measure(const char *kind, const char *url, double seconds, pid_t stop)
{
    enum { MOST = 100000 };
    static int64_t took[MOST];
    struct coord *coord;
    char folder[512], status[1500], line[400];
    snprintf(folder, sizeof folder, "%s/%s", test_tmpdir(), kind);
    assert_ok(file_make_dirs(folder));
    snprintf(status, sizeof status, "{\"text\":\"%0*d\"}", 1000, 0);
    snprintf(line, sizeof line, "{\"step\":1,\"text\":\"%0*d\"}", 300, 0);
    struct coord_options options = {.output_dir = folder, .run_name = kind, .redis_url = url};
    log_set_level(LOG_ERROR);
    assert_ok(coord_join(&coord, &options, 0));
    clock_sleep_ms(300);
    if (stop) kill(stop, SIGSTOP);
    int64_t start = clock_monotonic_ns(), process = cpu_ns(CLOCK_PROCESS_CPUTIME_ID), in_calls = 0;
    int64_t thread = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    size_t n = 0;
    for (; n < MOST && clock_seconds_since(start) < seconds; n++) {
        int64_t cpu = cpu_ns(CLOCK_THREAD_CPUTIME_ID), before = clock_monotonic_ns();
        one_step(coord, (int64_t)n, status, line);
        took[n] = clock_monotonic_ns() - before;
        in_calls += cpu_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
        clock_sleep_ms(2);
    }
    double lasted = clock_seconds_since(start);
    process = cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - process - (cpu_ns(CLOCK_THREAD_CPUTIME_ID) - thread);
    if (stop) kill(stop, SIGCONT);
    coord_leave(coord);
    qsort(took, n, sizeof *took, compare);
    printf("%-10s %6zu steps  median %6.1f us  p99 %6.1f us  worst %7.1f us  processor %5.1f us a step, "
           "other threads %6.2f ms/s\n",
           kind, n, 1e-3 * (double)took[n / 2], 1e-3 * (double)took[n * 99 / 100], 1e-3 * (double)took[n - 1],
           1e-3 * (double)in_calls / (double)n, 1e-6 * (double)process / lasted);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct redis_server server;
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 5;
    if (!redis_server_exists()) {
        printf("skipped: no redis-server\n");
        return 77;
    }
    measure("none", NULL, seconds, 0);
    redis_server_start(&server, test_tmpdir(), NULL);
    measure("up", server.url, seconds, 0);
    measure("frozen", server.url, seconds, server.pid);
    redis_server_kill(&server);
    measure("refused", server.url, seconds, 0);
    for (int kind = 0; kind < FAKES; kind++) {
        pid_t pid = fake_redis_start(server.socket, (enum fake_redis)kind);
        measure(fake_redis_names[kind], server.url, seconds, 0);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    return 0;
}
