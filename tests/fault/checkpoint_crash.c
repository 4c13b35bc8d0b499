/*
 * Power cuts and failing calls at every single call of a save, a collection and a quarantine.
 *
 * What must hold afterwards: each checkpoint that was committed before is whole, each that looks committed is
 * whole, and one whose commit was reported is there.
 */
#include "support/test.h"

#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "support/checkpoint_state.h"
#include "support/fs_crash.h"

enum { MAX_CALLS = 2000, SEEDS = 2, WORLD = 2 };

static const struct checkpoint_id first = {1, 1, 0}, second = {2, 1, 0}, third = {3, 1, 0};

static void fresh(const char *path)
{
    assert_ok(fs_remove_tree(fs_quick(), path));
    assert_int_equal(mkdir(path, 0777), 0);
}

static const char *place(const char *name)
{
    static char text[2][600];
    static int turn;
    char *path = text[turn++ % 2];
    snprintf(path, sizeof text[0], "%s/%s", test_tmpdir(), name);
    return path;
}

/* Every folder that looks committed is whole. */
static void all_commits_are_whole(const char *out)
{
    struct checkpoint_entry *entries;
    size_t n;
    assert_ok(checkpoint_list(&entries, &n, out));
    for (size_t i = 0; i < n; i++)
        if (entries[i].committed) assert_ok(state_verify(out, entries[i].id));
    free(entries);
}

/* ---- the three jobs; each says what must be whole after a cut ---- */

struct job {
    void (*prepare)(const char *out);
    enum status (*work)(struct fs *fs, const char *out);
    void (*check)(const char *out, bool reported);
    void (*finish)(const char *out); /* afterwards, without faults, the job can be done */
};

static void one_checkpoint(const char *out)
{
    assert_ok(state_save(fs_quick(), out, first, 1, false));
}

static enum status save_second(struct fs *fs, const char *out)
{
    return state_save(fs, out, second, WORLD, false);
}

static void first_and_maybe_second(const char *out, bool reported)
{
    all_commits_are_whole(out);
    assert_ok(state_verify(out, first));
    if (reported) assert_ok(state_verify(out, second));
}

static void save_another(const char *out)
{
    struct checkpoint_id id = {2, 2, 0}; /* the run that starts again has a new epoch */
    assert_ok(state_save(fs_quick(), out, id, WORLD, true));
    assert_ok(state_verify(out, id));
}

static void three_checkpoints(const char *out)
{
    assert_ok(state_save(fs_quick(), out, first, 1, false));
    assert_ok(state_save(fs_quick(), out, second, 1, false));
    assert_ok(state_save(fs_quick(), out, third, 1, false));
    struct checkpoint_writer *writer;
    assert_ok(checkpoint_begin(&writer, fs_quick(), out, (struct checkpoint_id){2, 1, 1}, 0, 1, 0));
    checkpoint_finish(writer); /* as if its run had died */
}

static enum status collect_two(struct fs *fs, const char *out)
{
    return state_collect(fs, out, 1, -1);
}

static void third_is_whole(const char *out, bool reported)
{
    (void)reported;
    all_commits_are_whole(out);
    assert_ok(state_verify(out, third));
}

static void collect_the_rest(const char *out)
{
    struct checkpoint_entry *entries;
    size_t n;
    assert_ok(state_collect(fs_quick(), out, 1, -1));
    assert_ok(checkpoint_list(&entries, &n, out));
    assert_int_equal(n, 1);
    assert_int_equal(entries[0].id.step, 3);
    free(entries);
    assert_ok(state_verify(out, third));
}

static void two_checkpoints(const char *out)
{
    assert_ok(state_save(fs_quick(), out, first, 1, false));
    assert_ok(state_save(fs_quick(), out, second, 1, false));
}

static enum status quarantine_second(struct fs *fs, const char *out)
{
    return checkpoint_quarantine(fs, out, "s000000002.e0000001.a0", "damaged by a test");
}

static void second_is_somewhere(const char *out, bool reported)
{
    char path[700];
    snprintf(path, sizeof path, "%s/quarantine/s000000002.e0000001.a0", out);
    assert_ok(state_verify(out, first));
    if (!file_exists(path) && !reported)
        assert_ok(state_verify(out, second));
    else
        assert_ok(state_verify_dir(path));
}

static void first_is_left(const char *out)
{
    assert_ok(state_verify(out, first));
}

static const struct job jobs[] = {
    {one_checkpoint, save_second, first_and_maybe_second, save_another},
    {three_checkpoints, collect_two, third_is_whole, collect_the_rest},
    {two_checkpoints, quarantine_second, second_is_somewhere, first_is_left},
};

/* ---- faults ---- */

/* One run with a fault at call `at`: false when the job needs fewer calls. */
static bool run_once(const struct job *job, enum fs_fault fault, int64_t at, bool stays, int *cuts)
{
    const char *out = place("out"), *after = place("after");
    struct fs_crash *crash;
    fresh(out);
    job->prepare(out);
    assert_ok(fs_crash_create(&crash, out));
    fs_crash_arm(crash, fault, at, stays);
    bool reported = job->work(fs_crash_fs(crash), out) == LORAD_OK;
    bool fired = fs_crash_fired(crash);
    if (!fired || fault == FAULT_SHORT || fault == FAULT_EINTR) assert_true(reported);

    /* After other faults a power cut shows only whether what was reported is durable. */
    for (int loss = 0; loss < (fault == FAULT_CRASH ? LOSS_KINDS : 1); loss++)
        for (uint64_t seed = 0; seed < (loss == LOSS_SOME ? SEEDS : 1); seed++) {
            assert_ok(fs_remove_tree(fs_quick(), after));
            assert_ok(fs_crash_rebuild(crash, after, (enum fs_loss)loss, seed + (uint64_t)at));
            job->check(after, reported);
            ++*cuts;
        }
    job->finish(after);
    fs_crash_destroy(crash);
    if (fault != FAULT_CRASH) { /* the process lives on */
        job->check(out, reported);
        job->finish(out);
    }
    return fired;
}

static void every_call_fails(enum fs_fault fault, bool stays)
{
    int64_t calls = 0;
    int cuts = 0;
    for (size_t j = 0; j < sizeof jobs / sizeof *jobs; j++) {
        int64_t at = 0;
        while (run_once(&jobs[j], fault, at, stays, &cuts)) assert_true(++at < MAX_CALLS);
        calls += at;
    }
    print_message("%lld places, %d disks checked\n", (long long)calls, cuts);
}

static void a_power_cut_at_every_call_leaves_old_or_new(void **state)
{
    (void)state;
    every_call_fails(FAULT_CRASH, true);
}

static void an_error_at_every_call_loses_nothing(void **state)
{
    (void)state;
    every_call_fails(FAULT_EIO, false);
    every_call_fails(FAULT_EIO, true);
}

static void a_full_disk_at_every_call_loses_nothing(void **state)
{
    (void)state;
    every_call_fails(FAULT_ENOSPC, true);
}

static void short_writes_and_interrupts_are_no_errors(void **state)
{
    (void)state;
    every_call_fails(FAULT_SHORT, true);
    every_call_fails(FAULT_EINTR, false);
}

static void a_lost_answer_at_every_call_loses_nothing(void **state)
{
    (void)state;
    every_call_fails(FAULT_DONE_EIO, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_power_cut_at_every_call_leaves_old_or_new),
        cmocka_unit_test(an_error_at_every_call_loses_nothing),
        cmocka_unit_test(a_full_disk_at_every_call_loses_nothing),
        cmocka_unit_test(short_writes_and_interrupts_are_no_errors),
        cmocka_unit_test(a_lost_answer_at_every_call_loses_nothing),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
