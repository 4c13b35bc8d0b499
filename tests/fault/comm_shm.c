/* What a rank in shared memory hears when its peer dies, gives up or cannot share: two processes, no MPI. */
#include "support/test.h"

#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "comm/activity_impl.h"
#include "comm/comm_impl.h"

static int wire;    /* to the other process */
static int my_rank; /* 0 or 1 */

/* The slow all-gather that setting up a segment needs. */
static enum status gather(void *group, const void *in, void *out, size_t bytes)
{
    (void)group;
    char *slots = out;
    memcpy(slots + (size_t)my_rank * bytes, in, bytes);
    if (write(wire, in, bytes) != (ssize_t)bytes) return FAIL(LORAD_PEER_LOST, "write");
    if (recv(wire, slots + (size_t)(1 - my_rank) * bytes, bytes, MSG_WAITALL) != (ssize_t)bytes)
        return FAIL(LORAD_PEER_LOST, "read");
    return LORAD_OK;
}

/* Starts rank 1 with `peer`; this process is rank 0. */
static pid_t start_peer(void (*peer)(struct comm_shm *))
{
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    my_rank = pid == 0;
    wire = ends[my_rank];
    close(ends[1 - my_rank]);
    if (pid == 0) {
        struct comm_shm *shm = NULL;
        if (comm_shm_create(&shm, 1, 2, 1, true, gather, NULL) != LORAD_OK) _exit(3);
        peer(shm);
        _exit(0);
    }
    return pid;
}

/* The peer's exit code; killed by a signal: 128 + its number. */
static int end_of(pid_t pid)
{
    int how = 0;
    waitpid(pid, &how, 0);
    close(wire);
    return WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
}

static void gives_its_share(struct comm_shm *shm)
{
    float value[3] = {1, 2, 3};
    if (comm_shm_all_reduce(shm, value, 3, DTYPE_F32, COMM_SUM) != LORAD_OK || value[2] != 33) _exit(4);
    comm_shm_destroy(shm);
}

static void two_processes_meet(void **state)
{
    (void)state;
    pid_t pid = start_peer(gives_its_share);
    struct comm_shm *shm;
    float value[3] = {10, 20, 30};
    assert_ok(comm_shm_create(&shm, 0, 2, 0, true, gather, NULL));
    assert_non_null(shm);
    assert_ok(comm_shm_all_reduce(shm, value, 3, DTYPE_F32, COMM_SUM));
    assert_true(value[0] == 11 && value[1] == 22 && value[2] == 33);
    assert_int_equal(end_of(pid), 0);
    comm_shm_destroy(shm);
}

static void dies(struct comm_shm *shm)
{
    (void)shm;
    clock_sleep_ms(200);
    raise(SIGKILL);
}

/* The launcher reaps its children; here that is us, so a thread does it while the test waits. */
static void *reap(void *argument)
{
    waitpid(*(pid_t *)argument, NULL, 0);
    return NULL;
}

static void a_dead_peer_is_named_after_three_seconds(void **state)
{
    (void)state;
    pid_t pid = start_peer(dies);
    pthread_t reaper;
    struct comm_shm *shm;
    assert_ok(comm_shm_create(&shm, 0, 2, 0, false, gather, NULL));
    assert_int_equal(pthread_create(&reaper, NULL, reap, &pid), 0);
    int64_t start = clock_monotonic_ns();
    char words[64];
    snprintf(words, sizeof words, "rank 1 (process %d) is gone", (int)pid);
    assert_fails(comm_shm_barrier(shm), LORAD_PEER_LOST, words);
    assert_true(clock_seconds_since(start) >= 3.0);
    assert_int_equal(comm_activity().waits_for, -1);
    pthread_join(reaper, NULL);
    close(wire);
    comm_shm_destroy(shm);
}

static void gives_up(struct comm_shm *shm)
{
    (void)shm;
    clock_sleep_ms(200);
    comm_shm_abort();
    clock_sleep_ms(2000); /* alive, so that it is not its death that is noticed */
}

static void a_peer_that_gives_up_ends_the_wait(void **state)
{
    (void)state;
    pid_t pid = start_peer(gives_up);
    struct comm_shm *shm;
    float value[1] = {1};
    assert_ok(comm_shm_create(&shm, 0, 2, 0, true, gather, NULL));
    assert_fails(comm_shm_all_reduce(shm, value, 1, DTYPE_F32, COMM_SUM), LORAD_PEER_LOST,
                 "another rank ended the run while this one waited for rank 1");
    assert_int_equal(end_of(pid), 0);
    comm_shm_destroy(shm);
}

/* The other rank comes 200 ms late: that, and not the exchange itself, is waiting. */
static void comes_late(struct comm_shm *shm)
{
    clock_sleep_ms(200);
    if (comm_shm_barrier(shm) != LORAD_OK) _exit(4);
}

static void waiting_is_counted(void **state)
{
    (void)state;
    pid_t pid = start_peer(comes_late);
    struct comm_shm *shm;
    assert_ok(comm_shm_create(&shm, 0, 2, 0, true, gather, NULL));
    double before = activity_waited_seconds();
    assert_ok(comm_shm_barrier(shm));
    double waited = activity_waited_seconds() - before;
    assert_true(waited > 0.1 && waited < 5);
    assert_int_equal(end_of(pid), 0);
    comm_shm_destroy(shm);
}

static void says_what_it_does(struct comm_shm *shm)
{
    if (activity_share(1, 2, 7, gather, NULL) != LORAD_OK) _exit(4);
    activity_note(3, 42);
    activity_enter(OP_BROADCAST);
    activity_waits_for(5);
    activity_looked(1000);
    if (comm_shm_barrier(shm) != LORAD_OK || comm_shm_barrier(shm) != LORAD_OK) _exit(4);
}

static void ranks_of_a_host_see_each_other(void **state)
{
    (void)state;
    struct comm_activity ranks[3];
    struct comm_shm *shm;
    assert_int_equal(activity_of_host(ranks, 3), 1);
    uint64_t signs = comm_activity().signs;
    pid_t pid = start_peer(says_what_it_does);
    assert_ok(comm_shm_create(&shm, 0, 2, 0, true, gather, NULL));
    assert_ok(activity_share(0, 2, 6, gather, NULL));
    assert_ok(comm_shm_barrier(shm));
    assert_int_equal(activity_of_host(ranks, 3), 2);
    assert_int_equal(ranks[0].rank, 6);
    assert_int_equal(ranks[0].signs, signs);
    assert_int_equal(ranks[1].rank, 7);
    assert_int_equal(ranks[1].pid, pid);
    assert_int_equal(ranks[1].phase, 3);
    assert_int_equal(ranks[1].step, 42);
    assert_int_equal(ranks[1].silent_ns, 1000);
    assert_string_equal(ranks[1].what, "broadcast");
    assert_ok(comm_shm_barrier(shm));
    assert_int_equal(end_of(pid), 0);
    comm_shm_destroy(shm);
}

static void expects_no_segment(struct comm_shm *shm)
{
    if (shm) _exit(5);
}

static void when_one_cannot_share_nobody_does(void **state)
{
    (void)state;
    pid_t pid = start_peer(expects_no_segment);
    struct comm_shm *shm = (struct comm_shm *)&wire;
    setenv("LORAD_COMM_SHM", "0", 1); /* after the fork: only here */
    assert_ok(comm_shm_create(&shm, 0, 2, 0, true, gather, NULL));
    unsetenv("LORAD_COMM_SHM");
    assert_null(shm);
    assert_int_equal(end_of(pid), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_processes_meet),
        cmocka_unit_test(a_dead_peer_is_named_after_three_seconds),
        cmocka_unit_test(a_peer_that_gives_up_ends_the_wait),
        cmocka_unit_test(waiting_is_counted),
        cmocka_unit_test(ranks_of_a_host_see_each_other), /* the last that shares its record */
        cmocka_unit_test(when_one_cannot_share_nobody_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
