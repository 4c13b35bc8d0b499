/* The rules by which one stage follows another, on states made by hand; and a journal that makes no sense. */
#include <math.h>

#include "support/test.h"
#include "trainer/stage.h"

enum { PATIENCE_OFF = 0 };

static struct run_state at_step(int64_t first, int64_t step)
{
    return (struct run_state){
        .step = step, .global_batch_size = 1, .best_step = -1, .stage = {.first_step = first}};
}

static void a_stage_ends_with_its_length(void **state)
{
    (void)state;
    struct stage stage = {.options = {.name = "a"}, .steps = 10};
    struct run_state s = at_step(100, 109);
    assert_int_equal(stage_end(&stage, &s, PATIENCE_OFF), STAGE_GOES_ON);
    s.step = 110;
    assert_int_equal(stage_end(&stage, &s, PATIENCE_OFF), STAGE_LENGTH);
    s.step = 104;
    s.stage.spent = true; /* every entry has given its epochs */
    assert_int_equal(stage_end(&stage, &s, PATIENCE_OFF), STAGE_LENGTH);
}

static void an_eval_loss_below_promotes(void **state)
{
    (void)state;
    struct stage stage = {.options = {.promote = {.eval_loss_below = 1.5}}, .steps = 10};
    struct run_state s = at_step(0, 5);
    assert_int_equal(stage_end(&stage, &s, PATIENCE_OFF), STAGE_GOES_ON); /* nothing evaluated yet */
    static const double losses[] = {1.6, 1.5, NAN, INFINITY};
    for (int i = 0; i < 4; i++) {
        stage_note_evaluation(&s.stage, &stage.options.promote, losses[i]);
        assert_int_equal(stage_end(&stage, &s, PATIENCE_OFF), STAGE_GOES_ON);
    }
    stage_note_evaluation(&s.stage, &stage.options.promote, 1.4999);
    assert_int_equal(stage_end(&stage, &s, PATIENCE_OFF), STAGE_EVAL_LOSS);
}

static void a_plateau_is_counted_from_the_last_real_gain(void **state)
{
    (void)state;
    struct stage stage = {.options = {.promote = {.plateau_evaluations = 2, .min_delta = 0.125}},
                          .steps = 100};
    struct run_state s = at_step(0, 5);
    /* 3.0 is the level; 2.9375 and 2.8125 gain 0.0625 and 0.1875 on it; then two that gain 0.125 at most */
    static const double losses[] = {3.0, 2.9375, 2.8125, 2.75, 2.6875};
    static const int counted[] = {0, 1, 0, 1, 2};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(stage_end(&stage, &s, PATIENCE_OFF), STAGE_GOES_ON);
        stage_note_evaluation(&s.stage, &stage.options.promote, losses[i]);
        assert_int_equal(s.stage.evaluations_on_plateau, counted[i]);
    }
    assert_int_equal(stage_end(&stage, &s, PATIENCE_OFF), STAGE_PLATEAU);
}

static void patience_is_a_stage_s_own(void **state)
{
    (void)state;
    struct stage stage = {.options = {.name = "first"}, .steps = 100};
    struct run_state s = at_step(0, 30);
    s.evaluations_without_gain = 3;
    s.has_best = true;
    s.best_step = 20;
    s.cursor = (struct data_cursor){2, 1, 7};
    s.epoch = 2.5;
    stage_note_evaluation(&s.stage, &stage.options.promote, 2.0);
    assert_int_equal(stage_end(&stage, &s, 4), STAGE_GOES_ON);
    assert_int_equal(stage_end(&stage, &s, 3), STAGE_EARLY_STOPPING);

    stage_leave(&s, &stage, STAGE_EARLY_STOPPING);
    assert_int_equal(stage_end(&stage, &s, 3), STAGE_GOES_ON);
    assert_int_equal(s.stage.number, 1);
    assert_int_equal(s.stage.first_step, 30);
    assert_true(s.cursor.epoch == 0 && s.cursor.window == 0 && s.cursor.pack == 0 && s.epoch == 0);
    assert_false(s.has_best);
    assert_int_equal(s.best_step, -1);
    const struct stage_record *record = &s.stage.done[0];
    assert_string_equal(record->name, "first");
    assert_int_equal(record->end, STAGE_EARLY_STOPPING);
    assert_true(record->first_step == 0 && record->last_step == 30);
    assert_true(record->has_loss && record->eval_loss == 2.0);
}

static void steps_of_the_run_follow_a_promotion(void **state)
{
    (void)state;
    struct stage all[3] = {{.steps = 10}, {.steps = 20}, {.steps = 30}};
    struct stages stages = {.all = all, .n = 3};
    struct run_state s = at_step(0, 4);
    all[0].options.name = "a";
    assert_int_equal(stages_total_steps(&stages, &s.stage), 60);
    stage_leave(&s, &all[0], STAGE_EVAL_LOSS);
    assert_int_equal(stages_total_steps(&stages, &s.stage), 54);
}

static void the_reason_is_told(void **state)
{
    (void)state;
    struct stage stage = {.options = {.promote = {.eval_loss_below = 1.5, .plateau_evaluations = 2}},
                          .steps = 9};
    struct run_state s = at_step(0, 7);
    s.stage.last_loss = 1.25;
    static const struct {
        enum stage_end end;
        const char *words;
    } cases[] = {{STAGE_LENGTH, "its 7 steps are done"},
                 {STAGE_EVAL_LOSS, "eval_loss 1.2500 is below 1.5"},
                 {STAGE_PLATEAU, "evaluations without a gain"},
                 {STAGE_EARLY_STOPPING, "without a better metric"}};
    for (int i = 0; i < 4; i++) {
        struct strbuf text = STRBUF_EMPTY;
        stage_end_text(&text, cases[i].end, &stage, &s);
        assert_non_null(strstr(strbuf_text(&text), cases[i].words));
        strbuf_free(&text);
    }
}

static const char good_state[] =
    "{\"step\":9,\"applied_steps\":9,\"total_steps\":20,\"global_batch_size\":4,\"tokens\":1,\"supervised_"
    "tokens\":1,"
    "\"skipped_in_row\":0,\"skipped_steps\":0,\"best_step\":-1,\"evaluations_without_gain\":0,\"metrics_"
    "bytes\":0,"
    "\"epoch\":0.5,\"fixed_exponents\":[-3,null,128],\"loss_scale\":{\"value\":1024,\"good_steps\":17},"
    "\"evaluation_owed\":true,\"overrides\":[],\"cursor\":{"
    "\"epoch\":0,"
    "\"window\":0,\"pack\":3},"
    "\"stage\":{\"number\":1,\"first_step\":5,\"evaluations_on_plateau\":1,\"last_loss\":2.5,\"level\":2.25,"
    "\"spent\":false,\"appends\":[{\"epoch\":2,\"old_rows\":[7,0]}],\"done\":[{\"name\":\"a\",\"end\":"
    "\"plateau\",\"first_step\":0,\"last_step\":5,"
    "\"eval_loss\":3.5}]}}";

static enum status read_state(struct run_state *out, const char *text)
{
    struct json *json = NULL;
    assert_ok(js_parse(&json, text, strlen(text), "state"));
    enum status status = run_state_read(out, json, "here");
    js_destroy(json);
    return status;
}

static void the_journal_is_read(void **state)
{
    (void)state;
    struct run_state s;
    assert_ok(read_state(&s, good_state));
    assert_true(s.evaluation_owed && s.stage.number == 1 && s.stage.first_step == 5);
    assert_true(s.stage.has_loss && s.stage.last_loss == 2.5 && s.stage.has_level && s.stage.level == 2.25);
    assert_int_equal(s.stage.done[0].end, STAGE_PLATEAU);
    assert_string_equal(s.stage.done[0].name, "a");
    assert_true(s.stage.done[0].eval_loss == 3.5);

    assert_true(s.stage.n_appends == 1 && s.stage.appends[0].epoch == 2 && s.stage.appends[0].n_groups == 2);
    assert_true(s.stage.appends[0].old_rows[0] == 7 && s.stage.appends[0].old_rows[1] == 0);

    assert_true(s.scales.n == 3 && s.scales.exponent[0] == -3 && s.scales.exponent[1] == FIXED_UNKNOWN &&
                s.scales.exponent[2] == 128);

    assert_true(s.loss_scale.value == 1024 && s.loss_scale.good_steps == 17);

    static const char *const wrong[][2] = {
        {"\"value\":1024", "\"value\":1000"},
        {"\"value\":1024", "\"worth\":1024"},
        {"\"good_steps\":17", "\"good_steps\":-1"},
        {"[-3,null", "[-150,null"},
        {"[-3,null", "[129,null"},
        {"[-3,null,128]", "-3"},
        {"\"epoch\":2", "\"epoch\":-2"},
        {"[7,0]", "7"},
        {"\"number\":1", "\"number\":2"},
        {"\"number\":1", "\"number\":-1"},
        {"\"number\":1", "\"number\":4000000000"},
        {"\"first_step\":5", "\"first_step\":10"},
        {"\"plateau\"", "\"because\""},
        {"\"plateau\"", "\"goes_on\""},
        {"\"evaluations_on_plateau\":1", "\"evaluations_on_plateau\":-1"},
        {"\"done\"", "\"gone\""},
        {"\"last_step\":5", "\"last_step\":\"5\""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct strbuf text = STRBUF_EMPTY;
        const char *at = strstr(good_state, wrong[i][0]);
        assert_non_null(at);
        strbuf_add(&text, good_state, (size_t)(at - good_state));
        strbuf_puts(&text, wrong[i][1]);
        strbuf_puts(&text, at + strlen(wrong[i][0]));
        if (read_state(&s, strbuf_text(&text)) != LORAD_DATA) fail_msg("taken: %s", strbuf_text(&text));
        strbuf_free(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stage_ends_with_its_length),
        cmocka_unit_test(an_eval_loss_below_promotes),
        cmocka_unit_test(a_plateau_is_counted_from_the_last_real_gain),
        cmocka_unit_test(patience_is_a_stage_s_own),
        cmocka_unit_test(steps_of_the_run_follow_a_promotion),
        cmocka_unit_test(the_reason_is_told),
        cmocka_unit_test(the_journal_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
