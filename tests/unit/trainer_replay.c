/* trainer_replay.c: the trial of cuda_graphs: which way stays, and what does not count. */
#include "support/test.h"
#include "trainer/replay.h"

/* Runs steps until it is decided or 200 are over; a step takes plain or replayed seconds a token, and
 * `replays` of its 4 passes are replayed when they may be. Returns the steps; *forget as at the decision. */
static int run(struct replay *replay, double plain, double replayed, int64_t replays, bool *forget)
{
    int steps = 0;
    *forget = false;
    for (; steps < 200 && !*forget; steps++) {
        bool now = replay_begin(replay), undecided = !replay->decided;
        int64_t tokens = 1000 + 100 * (steps % 7);
        double seconds = (double)tokens * (now ? replayed : plain);
        if (steps < 2 || steps % 9 == 8) seconds *= 20; /* warming up; a disturbance now and then */
        struct replay_step step = {
            .seconds = seconds, .tokens = tokens, .passes = 4, .replayed = now ? replays : 0};
        *forget = replay_end(replay, &step);
        if (undecided && replay->decided) return steps + 1;
    }
    return steps;
}

/* A trial of a step with replays that takes so much of the time is decided after `steps`, this way. */
static void trial(double replayed, int64_t replays, int steps, bool chosen)
{
    struct replay replay;
    bool forget;
    replay_init(&replay, true, CUDA_GRAPHS_AUTO);
    assert_int_equal(run(&replay, 1.0, replayed, replays, &forget), steps);
    assert_int_equal(forget, !chosen);
    assert_int_equal(replay_begin(&replay), chosen);
}

static void the_faster_way_stays(void **state)
{
    (void)state;
    trial(0.98, 4, 2 + 2 * REPLAY_TRIALS, true);
    trial(1.02, 4, 2 + 2 * REPLAY_TRIALS, false);
}

static void steps_count_of_which_half_is_replayed(void **state)
{
    (void)state;
    trial(0.5, 1, REPLAY_PATIENCE, false);
    trial(0.5, 2, 2 + 2 * REPLAY_TRIALS, true);
}

/* All ranks hear of one step, so that they decide alike. */
static void the_slowest_rank_sets_the_pace(void **state)
{
    (void)state;
    struct replay_step all = {0};
    replay_join(&all, &(struct replay_step){.seconds = 2, .tokens = 100, .passes = 3, .replayed = 1});
    replay_join(&all, &(struct replay_step){.seconds = 5, .tokens = 40, .passes = 2, .replayed = 2});
    replay_join(&all, &(struct replay_step){.seconds = 1});
    assert_float_equal(all.seconds, 5, 0);
    assert_int_equal(all.tokens, 140);
    assert_int_equal(all.passes, 5);
    assert_int_equal(all.replayed, 3);
}

static void steps_without_rows_are_no_trial(void **state)
{
    (void)state;
    struct replay replay;
    replay_init(&replay, true, CUDA_GRAPHS_AUTO);
    for (int i = 0; i < 2 * REPLAY_PATIENCE; i++) {
        replay_begin(&replay);
        assert_false(replay_end(&replay, &(struct replay_step){.seconds = 1}));
    }
    assert_false(replay.decided);
}

static void a_wish_needs_no_trial(void **state)
{
    (void)state;
    struct replay replay;
    bool forget;
    for (int wish = CUDA_GRAPHS_OFF; wish <= CUDA_GRAPHS_AUTO; wish++)
        for (int can = 0; can < 2; can++) {
            if (can && wish == CUDA_GRAPHS_AUTO) continue;
            replay_init(&replay, can, (enum cuda_graphs)wish);
            assert_true(replay.decided);
            assert_int_equal(run(&replay, 1.0, 2.0, 4, &forget), 200);
            assert_int_equal(replay_begin(&replay), can && wish == CUDA_GRAPHS_ON);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_faster_way_stays),
        cmocka_unit_test(steps_count_of_which_half_is_replayed),
        cmocka_unit_test(the_slowest_rank_sets_the_pace),
        cmocka_unit_test(steps_without_rows_are_no_trial),
        cmocka_unit_test(a_wish_needs_no_trial),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
