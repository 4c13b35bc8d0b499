/* Which rank is called slow, and when: reports made up, no run. */
#include "support/test.h"

#include <math.h>

#include "base/random.h"
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

static void a_slow_rank_is_named_within_50_steps_and_cleared(void **state)
{
    (void)state;
    for (int world = 2; world <= MOST; world *= 2) {
        struct pretend p = begin(world);
        double even[MOST] = {1, 1, 1, 1, 1, 1, 1, 1}, slow[MOST] = {1, 1.5, 1, 1, 1, 1, 1, 1};
        for (int i = 0; i < 100; i++) step(&p, even, 0.02);
        assert_int_equal(flagged(&p, NULL), 0);
        for (int i = 0; i < 50; i++) step(&p, slow, 0.02);
        assert_int_equal(flagged(&p, "rank 1 on host node1 works 1.5"), 1);
        for (int i = 0; i < 50; i++) step(&p, even, 0.02);
        assert_int_equal(flagged(&p, NULL), 0);
        straggler_close(p.straggler);
    }
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

/* 1.3 times as long is told of by nobody, a slow minute neither. */
static void little_and_short_is_not_said(void **state)
{
    (void)state;
    struct pretend p = begin(2);
    double little[MOST] = {1, 1.3}, slow[MOST] = {3, 1}, even[MOST] = {1, 1};
    for (int i = 0; i < 200; i++) step(&p, little, 0.02);
    assert_int_equal(flagged(&p, NULL), 0);
    for (int i = 0; i < 40; i++) step(&p, even, 0.02);
    for (int i = 0; i < 10; i++) step(&p, slow, 0.02);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slow_rank_is_named_within_50_steps_and_cleared),
        cmocka_unit_test(noise_and_uneven_work_name_nobody),
        cmocka_unit_test(little_and_short_is_not_said),
        cmocka_unit_test(idle_steps_do_not_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
