#include "support/crash_job.h"

#include "support/test.h"

#include <sys/stat.h>
#include <unistd.h>

enum { MAX_CALLS = 4000, SEEDS = 2, LONG_SEEDS = 20 };

static const char *const fault_names[FAULT_KINDS] = {
    [FAULT_CRASH] = "power cut",      [FAULT_EIO] = "EIO",           [FAULT_ENOSPC] = "ENOSPC",
    [FAULT_EDQUOT] = "EDQUOT",        [FAULT_SHORT] = "short write", [FAULT_EINTR] = "EINTR",
    [FAULT_DONE_EIO] = "lost answer",
};

void crash_use_memory(void)
{
    if (!getenv("TMPDIR") && access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1);
}

static uint64_t seeds_of(enum fs_loss loss)
{
    if (loss != LOSS_SOME) return 1;
    return getenv("LORAD_CRASH_LONG") ? LONG_SEEDS : SEEDS;
}

static void fresh(const char *path)
{
    assert_ok(fs_remove_tree(fs_quick(), path));
    assert_int_equal(mkdir(path, 0777), 0);
}

/* One run with a fault at call `at`: false when the job needs fewer calls. */
static bool run_once(const struct crash_job *job, enum fs_fault fault, int64_t at, bool stays, int *disks)
{
    char out[600], after[600];
    struct fs_crash *crash;
    snprintf(out, sizeof out, "%s/out", test_tmpdir());
    snprintf(after, sizeof after, "%s/after", test_tmpdir());
    fresh(out);
    job->prepare(out);
    assert_ok(fs_crash_create(&crash, out));
    fs_crash_arm(crash, fault, at, stays);
    bool reported = job->work(fs_crash_fs(crash), out) == LORAD_OK;
    bool fired = fs_crash_fired(crash);
    if (!fired || fault == FAULT_SHORT || fault == FAULT_EINTR) assert_true(reported);

    /* After other faults a power cut shows only whether what was reported is durable. */
    for (int loss = 0; loss < (fault == FAULT_CRASH ? LOSS_KINDS : 1); loss++)
        for (uint64_t seed = 0; seed < seeds_of((enum fs_loss)loss); seed++) {
            assert_ok(fs_remove_tree(fs_quick(), after));
            assert_ok(fs_crash_rebuild(crash, after, (enum fs_loss)loss, seed + (uint64_t)at));
            job->check(after, reported);
            ++*disks;
        }
    job->finish(after);
    fs_crash_destroy(crash);
    if (fault != FAULT_CRASH) { /* the process lives on */
        job->check(out, reported);
        job->finish(out);
    }
    return fired;
}

void crash_every_call(const struct crash_job *jobs, size_t n, enum fs_fault fault, bool stays)
{
    int64_t calls = 0;
    int disks = 0;
    for (size_t j = 0; j < n; j++) {
        int64_t at = 0;
        while (run_once(&jobs[j], fault, at, stays, &disks)) assert_true(++at < MAX_CALLS);
        if (fault == FAULT_CRASH) print_message("%5lld calls: %s\n", (long long)at, jobs[j].name);
        calls += at;
    }
    print_message("%s%s at each of %lld calls: %d disks checked\n", fault_names[fault],
                  stays && fault != FAULT_CRASH ? ", and at all later ones," : "", (long long)calls, disks);
}
