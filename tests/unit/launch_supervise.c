#include "support/test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "launch/notify.h"
#include "launch/supervise.h"
#include "launch/supervise_folder.h"
#include "launch/supervise_job.h"
#include "trainer/trainer.h"

/* ---- what is started again ---- */

static void crashes_are_started_again_and_nothing_else(void **state)
{
    static const int again[] = {1, 2, 70, 71, 74, 134, 137, 139, 143, 205};
    static const int final[] = {0, 64, 65, 66, 73, 75, 76, 78, 79, 80, 130};
    (void)state;
    for (size_t i = 0; i < sizeof again / sizeof *again; i++) assert_true(supervise_starts_again(again[i]));
    for (size_t i = 0; i < sizeof final / sizeof *final; i++) assert_false(supervise_starts_again(final[i]));
}

/* ---- whose start it is ---- */

static void forget_job(void)
{
    static const char *const names[] = {"SLURM_JOB_ID", "SLURM_RESTART_COUNT", "LORAD_JOB_ID",
                                        "LORAD_RESTART_COUNT"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
}

static void a_requeue_counts_for_more_than_restarts(void **state)
{
    (void)state;
    forget_job();
    assert_null(run_job().id);
    assert_int_equal(run_job().start, 0);
    setenv("LORAD_JOB_ID", "run-1", 1);
    setenv("LORAD_RESTART_COUNT", "7", 1);
    assert_string_equal(run_job().id, "run-1");
    assert_int_equal(run_job().start, 7);
    assert_false(run_job().requeued);
    setenv("SLURM_JOB_ID", "4711", 1);
    assert_string_equal(run_job().id, "4711");
    int before = run_job().start;
    assert_false(run_job().requeued);
    setenv("SLURM_RESTART_COUNT", "1", 1);
    setenv("LORAD_RESTART_COUNT", "0", 1);
    assert_true(run_job().start > before);
    assert_true(run_job().requeued);
    setenv("LORAD_RESTART_COUNT", "1", 1);
    int first = run_job().start;
    setenv("LORAD_RESTART_COUNT", "99999999", 1);
    assert_true(run_job().start > first);
    setenv("SLURM_RESTART_COUNT", "2", 1);
    int second = run_job().start;
    setenv("LORAD_RESTART_COUNT", "0", 1);
    assert_true(run_job().start < second);
    setenv("LORAD_RESTART_COUNT", "-3", 1);
    assert_true(run_job().start > first);
    forget_job();
}

/* ---- the claim ---- */

static void a_folder_has_one_supervisor(void **state)
{
    (void)state;
    char dir[512];
    snprintf(dir, sizeof dir, "%s/claim/deep", test_tmpdir());
    struct claim claim, other;
    assert_ok(claim_open(&claim, dir));
    assert_ok(claim_write(&claim));
    assert_int_equal(claim.start, 0);
    assert_int_equal(claim_open(&other, dir), LORAD_CANNOT_CREATE);
    assert_non_null(strstr(status_message(), "supervised by another"));
    char pid[32];
    snprintf(pid, sizeof pid, "process %lld", (long long)getpid());
    assert_non_null(strstr(status_message(), pid));
    claim_close(&claim);
    char first[CLAIM_JOB_BYTES];
    memcpy(first, claim.job, sizeof first);
    assert_ok(claim_open(&claim, dir)); /* it ended properly: another job */
    assert_int_equal(claim.start, 0);
    assert_string_not_equal(claim.job, first);
    claim_close(&claim);
}

static void a_killed_supervisor_is_followed_as_the_same_job(void **state)
{
    (void)state;
    char dir[512];
    struct claim claim, next;
    snprintf(dir, sizeof dir, "%s/killed", test_tmpdir());
    assert_ok(claim_open(&claim, dir));
    claim.start = 4;
    claim.first_epoch = 3; /* what came after it is the job's own, also for the next supervisor */
    assert_ok(claim_write(&claim));
    close(claim.fd); /* as the kernel does */
    assert_ok(claim_open(&next, dir));
    assert_string_equal(next.job, claim.job);
    assert_int_equal(next.start, 5);
    assert_int_equal(next.first_epoch, 3);
    free(claim.path);
    claim_close(&next);
}

static void a_damaged_claim_is_another_job(void **state)
{
    static const char *const damaged[] = {
        "{",
        "[1]",
        "{\"job\": \"\", \"start\": 1}",
        "{\"job\": 7, \"start\": 1}",
        "{\"job\": \"a\", \"start\": -1}",
        "{\"job\": \"a\"}",
        "\x01\xff",
        "{\"job\": \"a name that is longer than forty bytes, by some\", \"start\": 1}"};
    (void)state;
    char dir[512], path[600];
    snprintf(dir, sizeof dir, "%s/damaged", test_tmpdir());
    snprintf(path, sizeof path, "%s/SUPERVISOR", dir);
    assert_ok(file_make_dirs(dir));
    for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fputs(damaged[i], file);
        fclose(file);
        struct claim claim;
        assert_ok(claim_open(&claim, dir));
        assert_int_equal(claim.start, 0);
        assert_int_equal(strncmp(claim.job, "run-", 4), 0);
        claim_close(&claim);
    }
}

/* ---- the scratch folder ---- */

static void scratch_is_emptied_and_removed(void **state)
{
    (void)state;
    char command[1024];
    struct scratch scratch;
    setenv("TMPDIR", test_tmpdir(), 1);
    assert_ok(scratch_open(&scratch));
    assert_int_equal(strncmp(scratch.path, test_tmpdir(), strlen(test_tmpdir())), 0);
    snprintf(command, sizeof command, "mkdir -p %s/a/b && touch %s/a/b/c && ln -s / %s/root", scratch.path,
             scratch.path, scratch.path);
    assert_int_equal(system(command), 0);
    scratch_empty(&scratch);
    assert_true(file_is_dir(scratch.path));
    assert_int_equal(rmdir(scratch.path), 0); /* it is empty */
    assert_int_equal(mkdir(scratch.path, 0700), 0);
    char path[1024];
    snprintf(path, sizeof path, "%s", scratch.path);
    scratch_close(&scratch);
    assert_false(file_exists(path));
    assert_true(file_exists("/"));
    unsetenv("TMPDIR");
}

/* Of a supervisor that was killed; another host's lock may not be seen here. */
static void what_a_killed_supervisor_of_this_host_left_is_removed(void **state)
{
    (void)state;
    char own[1024], other[1024], longer[1024], host[256] = "";
    struct scratch scratch;
    assert_int_equal(gethostname(host, sizeof host - 1), 0);
    snprintf(own, sizeof own, "%s/lorad-run-%s-abcdef", test_tmpdir(), host);
    snprintf(other, sizeof other, "%s/lorad-run-elsewhere-abcdef", test_tmpdir());
    snprintf(longer, sizeof longer, "%s/lorad-run-%s-2-abcdef", test_tmpdir(), host);
    assert_ok(file_make_dirs(own));
    assert_ok(file_make_dirs(other));
    assert_ok(file_make_dirs(longer));
    setenv("TMPDIR", test_tmpdir(), 1);
    scratch_clear(0);
    assert_false(file_exists(own));
    assert_true(file_exists(other));
    assert_true(file_exists(longer));
    assert_ok(scratch_open(&scratch));
    scratch_clear(0);
    assert_true(file_exists(scratch.path)); /* it is in use */
    scratch_close(&scratch);
    unsetenv("TMPDIR");
}

/* ---- a job ---- */

static int end_of(const struct job *job)
{
    int code = -1;
    for (int i = 0; i < 1000 && !job_ended(job, &code); i++) clock_sleep_ms(5);
    return code;
}

static int end_and_sweep(struct job *job)
{
    int code = end_of(job);
    job_sweep(job);
    return code;
}

static int shell(struct job *job, const char *script)
{
    char *argv[] = {(char *)"sh", (char *)"-c", (char *)script, NULL};
    return job_start(job, argv, false);
}

static void codes_of_a_job(void **state)
{
    (void)state;
    struct job job = {0};
    assert_ok(shell(&job, "exit 71"));
    assert_int_equal(end_and_sweep(&job), 71);
    assert_ok(shell(&job, "kill -SEGV $$"));
    assert_int_equal(end_and_sweep(&job), 139);
    assert_ok(shell(&job, "read line && exit 1; exit 7")); /* standard input is closed */
    assert_int_equal(end_and_sweep(&job), 7);
    char *argv[] = {(char *)"no-such-program-anywhere", NULL};
    assert_int_equal(job_start(&job, argv, false), LORAD_NOT_FOUND);
    assert_non_null(strstr(status_message(), "no-such-program-anywhere"));
}

static void a_request_before_the_job_listens_does_not_end_it(void **state)
{
    (void)state;
    struct job job = {0};
    assert_ok(shell(&job, "kill -USR1 $$; kill -USR2 $$; exit 7"));
    assert_int_equal(end_and_sweep(&job), 7);
}

/* Orphans in process groups of their own, as mpirun's ranks are. */
static void what_is_left_of_a_job_is_killed(void **state)
{
    (void)state;
    char path[512], script[1200], *text;
    size_t length;
    struct job job = {0};
    snprintf(path, sizeof path, "%s/left", test_tmpdir());
    snprintf(script, sizeof script,
             "set -m; for i in 1 2; do (trap '' TERM; sleep 100; :) & echo $! >>%s; done; kill -KILL $$",
             path);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    assert_ok(shell(&job, script));
    assert_int_equal(end_of(&job), 137);
    assert_int_equal(kill(job.pid, 0), 0); /* nobody else has its number as yet */
    assert_ok(file_read(&text, &length, path, 1 << 12));
    int left[2];
    assert_int_equal(sscanf(text, "%d %d", &left[0], &left[1]), 2);
    free(text);
    for (int i = 0; i < 2; i++) assert_int_equal(kill(left[i], 0), 0);
    int64_t start = clock_monotonic_ns();
    job_sweep(&job);
    assert_int_equal(job.pid, 0);
    assert_true(clock_seconds_since(start) < 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(kill(left[i], 0), -1);
        assert_int_equal(errno, ESRCH);
    }
}

static void ranks_of_a_job_are_counted(void **state)
{
    (void)state;
    struct job job = {0};
    char script[1024]; /* one of the three is by which mpirun reaches another host */
    snprintf(script, sizeof script,
             "ln -sf \"$(command -v sleep)\" %s/ssh; %s/ssh 100 & sleep 100 & sleep 100 & wait",
             test_tmpdir(), test_tmpdir());
    assert_ok(shell(&job, script));
    for (int i = 0; i < 400 && job_ranks(&job) < 2; i++) clock_sleep_ms(5);
    clock_sleep_ms(100);
    assert_int_equal(job_ranks(&job), 2);
    job_kill(&job);
    assert_int_equal(end_of(&job), 137);
    job_sweep(&job);
    assert_int_equal(job.pid, 0);
}

/* ---- the service manager ---- */

static void hears(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    bool hidden = name[0] == '@';
    memcpy(address.sun_path, name, length);
    if (hidden) address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + !hidden);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, bytes), 0);
    char text[256], pid[32];
    snprintf(pid, sizeof pid, "%lld", (long long)getpid());
    setenv("NOTIFY_SOCKET", name, 1);
    setenv("WATCHDOG_USEC", "3000000", 1);
    setenv("WATCHDOG_PID", pid, 1);
    struct notify notify;
    notify_open(&notify);
    assert_null(getenv("NOTIFY_SOCKET"));
    assert_int_equal(notify.watchdog_ns, 3000000000);
    notify_send(&notify, "READY=1\nSTATUS=step %d", 3);
    ssize_t n = recv(fd, text, sizeof text, 0);
    assert_int_equal(n, (ssize_t)strlen("READY=1\nSTATUS=step 3"));
    assert_memory_equal(text, "READY=1\nSTATUS=step 3", (size_t)n);
    close(fd);
    notify_send(&notify, "STOPPING=1"); /* nobody listens any more */
    notify_close(&notify);
}

static void the_service_manager_hears_by_path_and_by_name(void **state)
{
    (void)state;
    char name[128];
    snprintf(name, sizeof name, "%s/notify", test_tmpdir());
    hears(name);
    snprintf(name, sizeof name, "@lorad-test-%lld", (long long)getpid());
    hears(name);
}

static void without_a_service_manager_nothing_is_said(void **state)
{
    static const char *const bad[] = {"", "relative", "/", "@", "vsock:2:1"};
    (void)state;
    char far[200];
    memset(far, 'x', sizeof far - 1);
    far[0] = '/';
    far[sizeof far - 1] = '\0';
    for (size_t i = 0; i <= sizeof bad / sizeof *bad; i++) {
        struct notify notify;
        setenv("NOTIFY_SOCKET", i < sizeof bad / sizeof *bad ? bad[i] : far, 1);
        setenv("WATCHDOG_USEC", "3000000", 1);
        notify_open(&notify);
        assert_int_equal(notify.fd, -1);
        assert_int_equal(notify.watchdog_ns, 0);
        notify_send(&notify, "READY=1");
        notify_close(&notify);
    }
}

static void a_watchdog_for_another_process_is_not_ours(void **state)
{
    (void)state;
    char name[128];
    struct notify notify;
    snprintf(name, sizeof name, "@lorad-test-%lld", (long long)getpid());
    setenv("NOTIFY_SOCKET", name, 1);
    setenv("WATCHDOG_USEC", "3000000", 1);
    setenv("WATCHDOG_PID", "1", 1);
    notify_open(&notify);
    assert_true(notify.fd >= 0);
    assert_int_equal(notify.watchdog_ns, 0);
    notify_close(&notify);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crashes_are_started_again_and_nothing_else),
        cmocka_unit_test(a_requeue_counts_for_more_than_restarts),
        cmocka_unit_test(a_folder_has_one_supervisor),
        cmocka_unit_test(a_killed_supervisor_is_followed_as_the_same_job),
        cmocka_unit_test(a_damaged_claim_is_another_job),
        cmocka_unit_test(scratch_is_emptied_and_removed),
        cmocka_unit_test(what_a_killed_supervisor_of_this_host_left_is_removed),
        cmocka_unit_test(codes_of_a_job),
        cmocka_unit_test(a_request_before_the_job_listens_does_not_end_it),
        cmocka_unit_test(what_is_left_of_a_job_is_killed),
        cmocka_unit_test(ranks_of_a_job_are_counted),
        cmocka_unit_test(the_service_manager_hears_by_path_and_by_name),
        cmocka_unit_test(without_a_service_manager_nothing_is_said),
        cmocka_unit_test(a_watchdog_for_another_process_is_not_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
