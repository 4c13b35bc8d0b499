#include "support/test.h"

#include "launch/config_impl.h"
#include "trainer/overrides.h"

/* A run of two stages, as configured and in force. */
struct rig {
    struct run_options configured, options;
    struct stage_options stage_options[2];
    struct stage all[2];
    struct stages stages;
    struct override_place place;
    struct run_state state;
};

static void rig_make(struct rig *rig)
{
    memset(rig, 0, sizeof *rig);
    struct optimizer_options optimizer = {
        .learning_rate = 1e-3, .schedule = SCHEDULE_COSINE_WITH_MIN_LR, .min_lr = 1e-6, .max_grad_norm = 1};
    for (int32_t i = 0; i < 2; i++) {
        rig->stage_options[i] =
            (struct stage_options){.number = i, .name = i ? "b" : "a", .optimizer = optimizer};
        rig->stage_options[i].optimizer.learning_rate = i ? 2e-4 : 1e-3;
        rig->all[i].options = rig->stage_options[i];
    }
    rig->configured = (struct run_options){.optimizer = optimizer,
                                           .stages = rig->stage_options,
                                           .n_stages = 2,
                                           .save_strategy = WHEN_STEPS,
                                           .save_steps = 100,
                                           .eval_strategy = WHEN_STEPS,
                                           .eval_steps = 50,
                                           .logging_steps = 10,
                                           .max_skipped_steps = 10};
    rig->options = rig->configured;
    rig->stages = (struct stages){.all = rig->all, .n = 2};
    rig->place = (struct override_place){&rig->configured, &rig->options, &rig->stages};
    rig->state = (struct run_state){.step = 7};
}

static enum status set(struct rig *rig, const char *key, const char *value)
{
    struct override_record record;
    TRY(override_read(&record, &rig->place, &rig->state, key, value));
    override_apply(&rig->place, &rig->state, &record);
    return LORAD_OK;
}

/* What is allowed is what the configuration allows. */
static void limits_are_those_of_the_configuration(void **state)
{
    (void)state;
    struct rig rig;
    rig_make(&rig);
    assert_int_equal(override_n_keys, 9);
    for (int32_t i = 0; i < override_n_keys; i++) {
        const struct override_key *key = &override_keys[i];
        int at = config_key_find(key->name);
        assert_true(at >= 0);
        const struct config_key *configured = &config_keys[at];
        if (strcmp(configured->name, key->name) != 0) fail_msg("%s is an alias", key->name);
        assert_int_equal(key->whole, configured->type == TYPE_INT32 || configured->type == TYPE_INT64);
        assert_int_equal(!key->above_lowest, config_in_interval(configured->allowed, key->lowest));
        assert_true(config_in_interval(configured->allowed, key->highest));
        assert_false(config_in_interval(configured->allowed, key->highest * 1.001 + 1));
        assert_false(config_in_interval(configured->allowed, key->lowest - 1));
    }
}

static void what_cannot_be_is_refused_in_words(void **state)
{
    (void)state;
    struct rig rig;
    rig_make(&rig);
    assert_fails(set(&rig, "lora_rank", "4"), LORAD_CONFIG,
                 "lora_rank cannot be set on a running job; these can");
    static const char *const no_numbers[] = {"",    "abc", "1e",   " 1",    "1 ",
                                             "nan", "inf", "0x10", "1e999", "--1"};
    for (size_t i = 0; i < sizeof no_numbers / sizeof *no_numbers; i++)
        assert_fails(set(&rig, "learning_rate", no_numbers[i]), LORAD_CONFIG, "is not a number");
    assert_fails(set(&rig, "learning_rate", "0"), LORAD_CONFIG, "0 is not in (0, 10]");
    assert_fails(set(&rig, "save_steps", "2.5"), LORAD_CONFIG, "not a whole number");
    assert_fails(set(&rig, "save_steps", "0"), LORAD_CONFIG, "is not in [1, 1e+12]");
    assert_fails(set(&rig, "learning_rate", "1e-7"), LORAD_CONFIG, "below min_lr");
    rig.options.load_best_model_at_end = true;
    assert_fails(set(&rig, "eval_steps", "30"), LORAD_CONFIG, "to be a multiple of eval_steps (30)");
    assert_ok(set(&rig, "eval_steps", "20"));
    rig.options.save_strategy = WHEN_EPOCH;
    assert_fails(set(&rig, "save_steps", "20"), LORAD_CONFIG, "save_strategy is epoch");
    rig.options.eval_strategy = WHEN_NO;
    assert_fails(set(&rig, "eval_steps", "20"), LORAD_CONFIG, "eval_strategy is no");
    assert_fails(set(&rig, "early_stopping_patience", "2"), LORAD_CONFIG, "no evaluations");
    assert_int_equal(rig.state.n_overrides, 1);
}

static void values_are_in_force_where_they_belong(void **state)
{
    (void)state;
    struct rig rig;
    rig_make(&rig);
    assert_ok(set(&rig, "learning_rate", "5e-5"));
    assert_true(rig.all[0].options.optimizer.learning_rate == 5e-5);
    assert_true(rig.all[1].options.optimizer.learning_rate == 2e-4); /* the next stage has its own */
    assert_ok(set(&rig, "weight_decay", "0.1"));
    assert_true(rig.options.optimizer.weight_decay == 0.1);
    assert_true(rig.all[0].options.optimizer.weight_decay == 0.1);
    assert_true(rig.all[1].options.optimizer.weight_decay == 0.1);
    assert_true(rig.all[0].options.optimizer.learning_rate == 5e-5);
    assert_ok(set(&rig, "save_steps", "1e2"));
    assert_ok(set(&rig, "save_total_limit", "3"));
    assert_int_equal(rig.options.save_steps, 100);
    assert_int_equal(rig.options.save_total_limit, 3);
    assert_int_equal(rig.configured.save_total_limit, 0);
    assert_int_equal(rig.state.n_overrides, 4);
}

static void write_and_read(struct rig *to, const struct rig *from)
{
    struct strbuf text = STRBUF_EMPTY;
    struct json *json;
    overrides_write(&text, &from->state);
    assert_ok(js_parse(&json, strbuf_text(&text), text.length, "journal"));
    assert_ok(overrides_parse(&to->state, json, "journal"));
    js_destroy(json);
    strbuf_free(&text);
}

static void a_resumed_run_has_them_again(void **state)
{
    (void)state;
    struct rig rig, again;
    rig_make(&rig);
    assert_ok(set(&rig, "learning_rate", "3.3333333333333335e-05"));
    rig.state.step = 9;
    assert_ok(set(&rig, "logging_steps", "3"));
    rig.state.stage.number = 1;
    assert_ok(set(&rig, "learning_rate", "1e-5"));

    rig_make(&again);
    again.state = (struct run_state){.step = 9, .stage.number = 1};
    write_and_read(&again, &rig);
    overrides_replay(&again.place, &again.state);
    assert_int_equal(again.state.n_overrides, 3);
    assert_true(again.all[0].options.optimizer.learning_rate == 3.3333333333333335e-05);
    assert_true(again.all[1].options.optimizer.learning_rate == 1e-5);
    assert_int_equal(again.options.logging_steps, 3);
    assert_int_equal(again.state.overrides[1].step, 9);
    assert_true(again.state.overrides[0].was == 1e-3);
    assert_string_equal(again.state.overrides[2].time, rig.state.overrides[2].time);

    rig_make(&again); /* the configuration was changed since: it counts, for this key */
    again.configured.logging_steps = again.options.logging_steps = 20;
    again.state = (struct run_state){.step = 9, .stage.number = 1};
    write_and_read(&again, &rig);
    overrides_replay(&again.place, &again.state);
    assert_int_equal(again.state.n_overrides, 2);
    assert_int_equal(again.options.logging_steps, 20);
    assert_true(again.all[1].options.optimizer.learning_rate == 1e-5);
}

static void a_full_journal_forgets_what_was_replaced(void **state)
{
    (void)state;
    struct rig rig;
    char value[16];
    rig_make(&rig);
    assert_ok(set(&rig, "max_grad_norm", "0.5"));
    for (int i = 1; i <= 3 * MOST_OVERRIDES; i++) {
        snprintf(value, sizeof value, "%d", i);
        assert_ok(set(&rig, "logging_steps", value));
        assert_true(rig.state.n_overrides <= MOST_OVERRIDES);
    }
    assert_string_equal(rig.state.overrides[0].key, "max_grad_norm");
    struct rig again;
    rig_make(&again);
    write_and_read(&again, &rig);
    overrides_replay(&again.place, &again.state);
    assert_true(again.options.optimizer.max_grad_norm == 0.5);
    assert_int_equal(again.options.logging_steps, 3 * MOST_OVERRIDES);
}

static void a_journal_that_makes_no_sense_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "[{\"step\":1,\"stage\":0,\"key\":\"lora_rank\",\"value\":1,\"was\":1,\"time\":\"2026\"}]",
        "[{\"step\":1,\"stage\":64,\"key\":\"save_steps\",\"value\":1,\"was\":1,\"time\":\"2026\"}]",
        "[{\"step\":-1,\"stage\":0,\"key\":\"save_steps\",\"value\":1,\"was\":1,\"time\":\"2026\"}]",
        "[{\"step\":1,\"stage\":0,\"key\":\"save_steps\",\"value\":1e13,\"was\":1,\"time\":\"2026\"}]",
        "[{\"step\":1,\"stage\":0,\"key\":\"save_steps\",\"value\":1,\"was\":1,\"time\":\"2026\\\"\"}]",
        "[{\"step\":1,\"stage\":0,\"key\":\"save_steps\",\"was\":1,\"time\":\"2026\"}]",
        "[7]",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct json *json;
        struct run_state out = {.step = 0};
        assert_ok(js_parse(&json, wrong[i], strlen(wrong[i]), "journal"));
        assert_fails(overrides_parse(&out, json, "MANIFEST.json"), LORAD_DATA, "MANIFEST.json");
        js_destroy(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits_are_those_of_the_configuration),
        cmocka_unit_test(what_cannot_be_is_refused_in_words),
        cmocka_unit_test(values_are_in_force_where_they_belong),
        cmocka_unit_test(a_resumed_run_has_them_again),
        cmocka_unit_test(a_full_journal_forgets_what_was_replaced),
        cmocka_unit_test(a_journal_that_makes_no_sense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
