/*
 * Power cuts and failing calls at every single call of a save, a collection, a quarantine, a pin and a
 * resume.
 *
 * What must hold afterwards: each checkpoint that was committed before is whole, each that looks committed is
 * whole, and one whose commit was reported is there.
 */
#include "support/test.h"

#include <inttypes.h>

#include "base/file.h"
#include "base/log.h"
#include "comm/coord.h"
#include "support/checkpoint_resume.h"
#include "support/checkpoint_state.h"
#include "support/crash_job.h"

enum { WORLD = 2 };

static const struct checkpoint_id first = {1, 1, 0}, second = {2, 1, 0}, third = {3, 1, 0};

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

static enum status pin_first(struct fs *fs, const char *out)
{
    return checkpoint_pin(fs, out, "s000000001.e0000001.a0", true);
}

static void both_are_whole(const char *out, bool reported)
{
    struct checkpoint_entry *entries;
    size_t n;
    assert_ok(state_verify(out, first));
    assert_ok(state_verify(out, second));
    assert_ok(checkpoint_list(&entries, &n, out));
    if (reported) assert_true(entries[1].pinned);
    free(entries);
}

/* ---- a resume: the claim of an epoch, quarantine of a damaged checkpoint, the record, a save, a collection
 * ---- */

static bool was_recorded; /* the record of the resume was reported durable */

static void damage_third(const char *out)
{
    char path[700];
    snprintf(path, sizeof path, "%s/ckpt/s000000003.e0000001.a0/notes.txt", out);
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    fputc('X', file);
    assert_int_equal(fclose(file), 0);
}

static void a_run_and_its_damage(const char *out)
{
    assert_ok(state_save(fs_quick(), out, first, WORLD, false));
    assert_ok(state_save(fs_quick(), out, second, WORLD, false));
    assert_ok(state_save(fs_quick(), out, third, WORLD, false));
    damage_third(out);
    was_recorded = false;
}

static enum status compare_state(struct checkpoint *checkpoint, void *context)
{
    (void)context;
    return state_compare(checkpoint);
}

static enum status go_on(struct coord *coord, struct fs *fs, const char *out)
{
    struct resume_result from;
    struct checkpoint_id base, next;
    TRY(resume_newest(&from, fs, out, compare_state, NULL));
    if (sscanf(from.name, "s%" SCNd64 ".e%" SCNd64 ".a%" SCNd32, &base.step, &base.epoch, &base.attempt) != 3)
        return FAIL(LORAD_BUG, "nothing is left to go on from");
    TRY(coord_record_resume(coord, base.step, base.epoch, "00000000000000000000000000000000"));
    was_recorded = true;
    next = (struct checkpoint_id){base.step + 1, coord_epoch(coord), 0};
    TRY(state_save(fs, out, next, WORLD, true));
    return state_collect(fs, out, 1, -1);
}

static enum status resume(struct fs *fs, const char *out)
{
    struct coord_options options = {.output_dir = out, .run_name = "crash", .fs = fs};
    struct coord *coord;
    TRY(coord_join(&coord, &options, 1));
    enum status status = go_on(coord, fs, out);
    coord_leave(coord);
    return status;
}

/* What is loaded next is the second, which the resume went on from, or what it saved; and once the resume was
 * recorded the damaged third is void for ever, should its bits come back. */
static void old_or_new_is_loaded(const char *out, bool reported)
{
    struct checkpoint_entry *entries;
    size_t n;
    bool found = false, is_void = false;
    assert_ok(checkpoint_list(&entries, &n, out));
    for (size_t i = 0; i < n && !found; i++) {
        bool fenced;
        assert_ok(coord_is_fenced(&fenced, out, entries[i].id.step, entries[i].id.epoch));
        if (!entries[i].committed || fenced || (entries[i].id.step == 3 && entries[i].id.epoch == 1))
            continue;
        assert_ok(state_verify(out, entries[i].id));
        assert_true(entries[i].id.epoch > 1 ? entries[i].id.step >= 3 : entries[i].id.step == 2);
        if (reported) assert_true(entries[i].id.epoch > 1);
        found = true;
    }
    free(entries);
    assert_true(found);
    if (!was_recorded) return;
    assert_ok(coord_is_fenced(&is_void, out, 3, 1));
    assert_true(is_void);
}

static void resume_again(const char *out)
{
    bool recorded = was_recorded;
    assert_ok(resume(fs_quick(), out));
    was_recorded = recorded; /* of the run with the fault */
}

static const struct crash_job jobs[] = {
    {"save at world 2, with its adapter", one_checkpoint, save_second, first_and_maybe_second, save_another},
    {"collection of two checkpoints and a dead save", three_checkpoints, collect_two, third_is_whole,
     collect_the_rest},
    {"quarantine", two_checkpoints, quarantine_second, second_is_somewhere, first_is_left},
    {"pinning", two_checkpoints, pin_first, both_are_whole, first_is_left},
    {"resume: claim, quarantine, record, save, collection", a_run_and_its_damage, resume,
     old_or_new_is_loaded, resume_again},
};
enum { JOBS = sizeof jobs / sizeof *jobs };

static void a_power_cut_at_every_call_leaves_old_or_new(void **state)
{
    (void)state;
    crash_every_call(jobs, JOBS, FAULT_CRASH, true);
}

static void an_error_at_every_call_loses_nothing(void **state)
{
    (void)state;
    crash_every_call(jobs, JOBS, FAULT_EIO, false);
    crash_every_call(jobs, JOBS, FAULT_EIO, true);
}

static void a_full_disk_at_every_call_loses_nothing(void **state)
{
    (void)state;
    crash_every_call(jobs, JOBS, FAULT_ENOSPC, true);
    crash_every_call(jobs, JOBS, FAULT_EDQUOT, false);
}

static void short_writes_and_interrupts_are_no_errors(void **state)
{
    (void)state;
    crash_every_call(jobs, JOBS, FAULT_SHORT, true);
    crash_every_call(jobs, JOBS, FAULT_EINTR, false);
}

static void a_lost_answer_at_every_call_loses_nothing(void **state)
{
    (void)state;
    crash_every_call(jobs, JOBS, FAULT_DONE_EIO, false);
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
    crash_use_memory();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
