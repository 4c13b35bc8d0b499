/* Which rank is called slow, and when: reports made up, or recorded in real runs. */
#include "support/test.h"

#include <math.h>

#include "base/log.h"
#include "base/random.h"
#include "support/pace_trace.h"
#include "trainer/straggler.h"

enum { MOST = 8 };

struct pretend {
    struct straggler *straggler;
    int world;
    int64_t step;
};

static struct pretend begin(int world)
{
    char hosts[MOST][STRAGGLER_HOST_BYTES];
    struct pretend p = {.world = world};
    for (int r = 0; r < world; r++) snprintf(hosts[r], sizeof hosts[r], "node%d", r);
    assert_ok(straggler_create(&p.straggler, world, (const char(*)[STRAGGLER_HOST_BYTES])hosts));
    return p;
}

/* One step in which rank r needs factors[r] times as long for the same work; noise is a share of it. */
static void step(struct pretend *p, const double *factors, double noise)
{
    struct boundary_report reports[MOST] = {{0}};
    struct random_block block = random_philox(11, (uint64_t)p->step, 0),
                        work = random_philox(12, (uint64_t)p->step, 0);
    for (int r = 0; r < p->world; r++) {
        double unit = (double)random_unit_f32(block.word[r % 4]) - 0.5;
        reports[r].own_work = 1e9 * (1 + (double)random_unit_f32(work.word[r % 4]));
        reports[r].own_seconds = reports[r].own_work * 1e-11 * factors[r] * (1 + 2 * noise * unit);
    }
    straggler_step(p->straggler, reports, ++p->step, NULL);
}

static int flagged(const struct pretend *p, const char *words)
{
    struct strbuf text = STRBUF_EMPTY;
    int n = straggler_text(p->straggler, &text);
    if (n && words) assert_non_null(strstr(strbuf_text(&text), words));
    strbuf_free(&text);
    return n;
}

/* Steps until `words` are said, at most 50. */
static int steps_until(struct pretend *p, const double *factors, double noise, const char *words)
{
    int n = 0;
    while (flagged(p, NULL) == 0 && n < 50) {
        step(p, factors, noise);
        n++;
    }
    assert_int_equal(flagged(p, words), 1);
    return n;
}

static void a_slow_rank_is_named_within_50_steps_and_cleared(void **state)
{
    (void)state;
    for (int world = 2; world <= MOST; world++) {
        struct pretend p = begin(world);
        double even[MOST] = {1, 1, 1, 1, 1, 1, 1, 1}, slow[MOST] = {1, 1.55, 1, 1, 1, 1, 1, 1};
        for (int i = 0; i < 100; i++) step(&p, even, 0.02);
        assert_int_equal(flagged(&p, NULL), 0);
        assert_in_range(steps_until(&p, slow, 0.02, "rank 1 on host node1 works 1."), 11, 18);
        for (int i = 0; i < 1000; i++) {
            step(&p, slow, 0.02);
            assert_int_equal(flagged(&p, "rank 1 on host node1 works 1."), 1); /* and nobody else */
        }
        assert_int_equal(flagged(&p, "works 1.5"), 1);
        for (int i = 0; i < 20; i++) step(&p, even, 0.02);
        assert_int_equal(flagged(&p, NULL), 0);
        straggler_close(p.straggler);
    }
}

/* Every step from 0.7 to 1.3 times as long as it would be. */
static void a_slow_rank_is_named_in_noise(void **state)
{
    (void)state;
    int late = 0;
    for (int trial = 0; trial < 500; trial++) {
        struct pretend p = begin(4);
        double even[MOST] = {1, 1, 1, 1}, slow[MOST] = {1, 1, 1.5, 1};
        p.step = 1000 * trial;
        for (int i = 0; i < 30; i++) step(&p, even, 0.3);
        assert_int_equal(flagged(&p, NULL), 0);
        for (int i = 0; i < 50 && flagged(&p, NULL) == 0; i++) step(&p, slow, 0.3);
        late += flagged(&p, "rank 2 on host node2 works ") == 0;
        straggler_close(p.straggler);
    }
    assert_in_range(late, 0, 2);
}

static void noise_and_uneven_work_name_nobody(void **state)
{
    (void)state;
    struct pretend p = begin(4);
    double even[MOST] = {1, 1, 1, 1};
    int times = 0;
    for (int i = 0; i < 10000; i++) {
        step(&p, even, 0.5); /* from half to one and a half times as long, any step */
        times += flagged(&p, NULL) > 0;
    }
    assert_int_equal(times, 0);
    straggler_close(p.straggler);
}

/* 1.15 times as long is told of by nobody, ten steps neither, however slow they are. */
static void little_and_short_is_not_said(void **state)
{
    (void)state;
    struct pretend p = begin(2);
    double little[MOST] = {1, 1.15}, slow[MOST] = {30, 1}, even[MOST] = {1, 1};
    for (int i = 0; i < 1000; i++) {
        step(&p, little, 0.02);
        assert_int_equal(flagged(&p, NULL), 0);
    }
    for (int i = 0; i < 10; i++) step(&p, slow, 0.02);
    assert_int_equal(flagged(&p, NULL), 0);
    for (int i = 0; i < 40; i++) step(&p, even, 0.02);
    assert_int_equal(flagged(&p, NULL), 0);
    straggler_close(p.straggler);
}

/* The first steps of a process tell nothing. */
static void a_slow_start_is_not_said(void **state)
{
    (void)state;
    struct pretend p = begin(2);
    double slow[MOST] = {1, 20}, even[MOST] = {1, 1};
    for (int i = 0; i < 20; i++) step(&p, slow, 0.02);
    assert_int_equal(flagged(&p, NULL), 0);
    for (int i = 0; i < 40; i++) step(&p, even, 0.02);
    assert_int_equal(flagged(&p, NULL), 0);
    straggler_close(p.straggler);
}

/* A rank without work in most steps is judged by those in which it had some. */
static void idle_steps_do_not_count(void **state)
{
    (void)state;
    struct pretend p = begin(2);
    for (int i = 0; i < 200; i++) {
        struct boundary_report reports[2] = {{.own_seconds = 1, .own_work = 1},
                                             {.own_seconds = i % 3 ? 1e-6 : 1, .own_work = i % 3 ? 0 : 1}};
        straggler_step(p.straggler, reports, ++p.step, NULL);
        assert_int_equal(flagged(&p, NULL), 0);
    }
    straggler_close(p.straggler);
}

/* Ranks that are never at work in the same step are compared all the same, and one that has none harms
 * nobody. */
static void ranks_take_turns(void **state)
{
    (void)state;
    struct pretend p = begin(3);
    for (int i = 0; i < 120; i++) {
        struct boundary_report reports[3] = {{0}};
        reports[i % 2] = (struct boundary_report){.own_seconds = i % 2 && i > 60 ? 1.5 : 1, .own_work = 1};
        straggler_step(p.straggler, reports, ++p.step, NULL);
        if (i <= 60) assert_int_equal(flagged(&p, NULL), 0);
    }
    assert_int_equal(flagged(&p, "rank 1 on host node1 works 1.50 times as long"), 1);
    straggler_close(p.straggler);
}

/* Runs on a machine with many other programs, where a step of a rank takes from two thirds to half as long
 * again. */
static void recorded_runs_name_nobody_and_slow_ranks_in_them_soon(void **state)
{
    (void)state;
    static const char *const files[] = {LORAD_TEST_DATA "/straggler/2-ranks.txt",
                                        LORAD_TEST_DATA "/straggler/4-ranks.txt"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct pace_trace trace;
        int trials = 0, late = 0;
        assert_ok(pace_trace_read(&trace, files[i]));
        assert_in_range(trace.steps, 600, 2000);
        assert_int_equal(pace_trace_alarms(&trace), 0);
        for (int64_t at = 60; at + 100 < trace.steps; at += 3) {
            int64_t delay = pace_trace_delay(&trace, (int)(at / 3 % trace.world), at, 1.5);
            late += delay == 0 || delay > 50;
            trials++;
        }
        assert_in_range(trials, 140, 1000);
        assert_in_range(late, 0, trials / 50);
        free(trace.paces);
    }
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slow_rank_is_named_within_50_steps_and_cleared),
        cmocka_unit_test(a_slow_rank_is_named_in_noise),
        cmocka_unit_test(noise_and_uneven_work_name_nobody),
        cmocka_unit_test(little_and_short_is_not_said),
        cmocka_unit_test(a_slow_start_is_not_said),
        cmocka_unit_test(idle_steps_do_not_count),
        cmocka_unit_test(ranks_take_turns),
        cmocka_unit_test(recorded_runs_name_nobody_and_slow_ranks_in_them_soon),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
