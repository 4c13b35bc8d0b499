/* Saves in the background, one rank: what was there at the boundary is what is kept, whatever comes after. */
#include "support/test.h"

#include <glob.h>
#include <pthread.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "support/fs_gate.h"
#include "support/saver_rig.h"
#include "support/small_arch.h"

static const struct comm_world_info alone = {.world = 1, .local_world = 1, .threads = 1};
static struct fs_gate *gate;
static struct saver_rig *rig;
static char out[600];

static int open_rig(void **state)
{
    static int n;
    (void)state;
    log_set_level(LOG_ERROR + 1);
    snprintf(out, sizeof out, "%s/run%d", test_tmpdir(), n++);
    assert_ok(fs_gate_create(&gate));
    assert_ok(saver_rig_open(&rig, out, fs_gate_fs(gate), 1, &alone));
    return 0;
}

static int close_rig(void **state)
{
    (void)state;
    saver_rig_close(rig);
    fs_gate_destroy(gate);
    return 0;
}

static void step_and_save(int64_t step)
{
    assert_ok(saver_rig_update(rig, step));
    assert_ok(saver_rig_boundary(rig));
    assert_ok(saver_rig_save(rig));
}

static size_t count_folders(void)
{
    struct checkpoint_entry *entries = NULL;
    size_t n;
    assert_ok(checkpoint_list(&entries, &n, out));
    free(entries);
    return n;
}

static void every_step_is_kept_as_it_was(void **state)
{
    (void)state;
    for (int64_t step = 1; step <= 12; step++) step_and_save(step);
    assert_ok(saver_rig_update(rig, 99));
    assert_ok(saver_drain(&rig->saver));
    assert_int_equal(rig->saver.last_saved_step, 12);
    assert_int_equal(count_folders(), 12);
    for (int64_t step = 1; step <= 12; step++) assert_ok(saver_rig_verify(rig, step, 0));
    assert_true(saver_last_seconds(&rig->saver) > 0);
    assert_true(saver_take_stall_seconds(&rig->saver) > 0);
}

static void *open_later(void *argument)
{
    clock_sleep_ms(100);
    fs_gate_open(argument);
    return NULL;
}

/* A slow disk: two saves are in flight, the third waits, and none is left out. */
static void training_goes_on_while_the_disk_is_slow(void **state)
{
    (void)state;
    pthread_t opener;
    fs_gate_close(gate);
    step_and_save(1);
    fs_gate_wait(gate);
    step_and_save(2); /* past the gate of the first */
    assert_ok(saver_rig_update(rig, 3));
    assert_ok(saver_rig_boundary(rig));
    assert_int_equal(rig->saver.last_saved_step, -1);
    int64_t start = clock_monotonic_ns();
    assert_int_equal(pthread_create(&opener, NULL, open_later, gate), 0);
    assert_ok(saver_rig_save(rig));
    assert_true(clock_seconds_since(start) > 0.05);
    pthread_join(opener, NULL);
    assert_ok(saver_rig_update(rig, 4));
    assert_ok(saver_drain(&rig->saver));
    assert_int_equal(rig->saver.last_saved_step, 3);
    for (int64_t step = 1; step <= 3; step++) assert_ok(saver_rig_verify(rig, step, 0));
}

static void one_step_is_saved_once(void **state)
{
    (void)state;
    step_and_save(1);
    assert_ok(saver_rig_save(rig));
    assert_ok(saver_drain(&rig->saver));
    assert_ok(saver_rig_save(rig));
    assert_ok(saver_drain(&rig->saver));
    assert_int_equal(count_folders(), 1);
}

/* What is set in a pause needs another save, which does not hide the one that is there. */
static void a_state_that_changed_is_saved_again(void **state)
{
    (void)state;
    step_and_save(4);
    assert_ok(saver_drain(&rig->saver));
    saver_state_changed(&rig->saver, 3);
    assert_int_equal(saver_settled_step(&rig->saver), 4);
    saver_state_changed(&rig->saver, 4);
    assert_int_equal(saver_settled_step(&rig->saver), 3);
    assert_int_equal(rig->saver.last_saved_step, 4);
    fs_gate_fail(gate, "MANIFEST");
    assert_ok(saver_rig_save(rig));
    assert_ok(saver_drain(&rig->saver));
    assert_int_equal(saver_settled_step(&rig->saver), 3);
    assert_int_equal(rig->saver.last_saved_step, 4);
    fs_gate_fail(gate, NULL);
    assert_ok(saver_rig_save(rig));
    assert_ok(saver_drain(&rig->saver));
    assert_int_equal(saver_settled_step(&rig->saver), 4);
    assert_int_equal(count_folders(), 2);
    assert_ok(saver_rig_verify(rig, 4, 2));
}

/* Whichever file cannot be written: nothing is left of that save, and the next is another attempt. */
static void a_failed_save_is_counted_and_removed(void **state)
{
    (void)state;
    static const char *const words[] = {"shard-", "lorad.yaml", "adapter_model", "MANIFEST"};
    int32_t failures = 0;
    step_and_save(1);
    assert_ok(saver_drain(&rig->saver));
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        int64_t step = 2 * (int64_t)i + 2;
        fs_gate_fail(gate, words[i]);
        step_and_save(step);
        assert_ok(saver_drain(&rig->saver));
        assert_int_equal(rig->saver.failures, ++failures);
        assert_int_equal(rig->saver.last_saved_step, step - 1);
        assert_int_equal(count_folders(), i + 1);
        fs_gate_fail(gate, NULL);
        step_and_save(step + 1);
        assert_ok(saver_drain(&rig->saver));
        assert_ok(saver_rig_verify(rig, step + 1, failures));
    }
}

static void a_fenced_run_ends(void **state)
{
    (void)state;
    char path[700];
    struct coord *coord;
    assert_int_equal(mkdir(out, 0777), 0);
    assert_ok(coord_join(&coord, &(struct coord_options){.output_dir = out}, 0));
    rig->saver.coord = coord;
    step_and_save(1);
    assert_ok(saver_drain(&rig->saver));
    snprintf(path, sizeof path, "%s/epoch/e0000000009", out);
    assert_ok(fs_write_file(fs_posix(), path, "{}", 2));
    step_and_save(2);
    assert_fails(saver_drain(&rig->saver), LORAD_FENCED, NULL);
    assert_int_equal(rig->saver.last_saved_step, 1);
    saver_stop(&rig->saver);
    assert_int_equal(count_folders(), 1);
    rig->saver.coord = NULL;
    coord_leave(coord);
}

static void the_end_waits_for_the_commit(void **state)
{
    (void)state;
    step_and_save(1);
    step_and_save(2);
    saver_stop(&rig->saver);
    assert_ok(saver_rig_verify(rig, 1, 0));
    assert_ok(saver_rig_verify(rig, 2, 0));
}

/* What saver_start takes is in the plan; a device's own memory holds none of it, nor does another replica. */
static void the_plan_counts_the_snapshots(void **state)
{
    (void)state;
    const struct session *s = &rig->session;
    struct plan host, device, replica;
    struct partition other = s->part;
    const struct device_backend *backend;
    assert_ok(device_backend_find(&backend, "cpu"));
    struct plan_request request = {.backend = backend,
                                   .model = {.dtype = DTYPE_F32,
                                             .max_tokens = 16,
                                             .max_sequences = 4,
                                             .max_positions = 16,
                                             .training = true},
                                   .wanted = CHECKPOINTING_NONE};
    other.dp_rank = 1;
    assert_ok(plan_make(&device, &small_arch, &s->part, s->lora, &request));
    request.host = true;
    assert_ok(plan_make(&replica, &small_arch, &other, s->lora, &request));
    assert_ok(plan_make(&host, &small_arch, &s->part, s->lora, &request));
    assert_int_equal(host.saves, SAVES_IN_FLIGHT * 3 * sizeof(float) * (size_t)s->lora->count);
    assert_int_equal(host.total, device.total + host.saves);
    assert_int_equal(replica.total, device.total);
}

static void old_ones_go_and_the_best_stays(void **state)
{
    (void)state;
    rig->options.save_total_limit = 3;
    rig->state.has_best = true;
    rig->state.best_step = 2;
    for (int64_t step = 1; step <= 8; step++) step_and_save(step);
    assert_ok(saver_drain(&rig->saver));
    assert_int_equal(count_folders(), 3);
    assert_ok(saver_rig_verify(rig, 2, 0));
    assert_ok(saver_rig_verify(rig, 7, 0));
    assert_ok(saver_rig_verify(rig, 8, 0));
}

/* ---- as the second of two ranks, which hears of the first what a test says ---- */

static void become_second_of_two(void)
{
    saver_stop(&rig->saver);
    rig->session.ranks.rank = 1;
    rig->session.ranks.world = 2;
    assert_ok(saver_start(&rig->saver));
}

/* Begins saves of steps 1 to n; what both ranks report once all of them are written. */
static void write_shards(int n, struct boundary_report reports[2])
{
    for (int64_t step = 1; step <= n; step++) {
        assert_ok(saver_rig_update(rig, step));
        assert_ok(saver_rig_save(rig));
    }
    do {
        clock_sleep_ms(1);
        saver_vote(&rig->saver, reports[1].saves);
    } while (reports[1].saves[n - 1].phase == SAVE_WRITING);
    reports[0] = reports[1];
}

static size_t count_shards(void)
{
    char pattern[700];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/ckpt/*/shard-*", out);
    size_t n = glob(pattern, 0, NULL, &found) == 0 ? found.gl_pathc : 0;
    globfree(&found);
    return n;
}

/* The first rank may have heard of the vote, and commit. */
static void a_shard_that_was_voted_for_outlives_a_failure(void **state)
{
    (void)state;
    struct boundary_report reports[2] = {0};
    become_second_of_two();
    write_shards(1, reports);
    saver_stop(&rig->saver);
    assert_int_equal(count_shards(), 1);
}

/* Who asked for the earlier one is not told that it failed. */
static void a_failure_is_told_after_an_earlier_commit(void **state)
{
    (void)state;
    struct boundary_report reports[2] = {0};
    become_second_of_two();
    write_shards(2, reports);
    reports[0].saves[1].phase = SAVE_FAILED;
    assert_ok(saver_settle(&rig->saver, reports));
    assert_int_equal(rig->saver.failures, 0);
    reports[0].saves[0].phase = SAVE_COMMITTED;
    assert_ok(saver_settle(&rig->saver, reports));
    assert_int_equal(rig->saver.last_saved_step, 1);
    assert_int_equal(rig->saver.last_failed_step, 2);
    saver_stop(&rig->saver);
    assert_int_equal(count_shards(), 1);
}

#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, open_rig, close_rig)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RIG(every_step_is_kept_as_it_was),
        WITH_RIG(training_goes_on_while_the_disk_is_slow),
        WITH_RIG(one_step_is_saved_once),
        WITH_RIG(a_state_that_changed_is_saved_again),
        WITH_RIG(a_failed_save_is_counted_and_removed),
        WITH_RIG(a_fenced_run_ends),
        WITH_RIG(the_end_waits_for_the_commit),
        WITH_RIG(the_plan_counts_the_snapshots),
        WITH_RIG(old_ones_go_and_the_best_stays),
        WITH_RIG(a_shard_that_was_voted_for_outlives_a_failure),
        WITH_RIG(a_failure_is_told_after_an_earlier_commit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
