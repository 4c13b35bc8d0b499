/* Mixtures and stages in a configuration: what is inherited, what gives way, and every mistake with its line.
 */
#include "support/test.h"

#include "launch/config.h"

static const char base[] = "model_name_or_path: m\noutput_dir: out\n"; /* lines 1 and 2 */

static struct config *parse(const char *text)
{
    char whole[4096];
    struct config *config = NULL;
    int n = snprintf(whole, sizeof whole, "%s%s", base, text);
    assert_true(n > 0 && (size_t)n < sizeof whole);
    assert_ok(config_parse(&config, whole, (size_t)n, "x.yaml", NULL, 0));
    return config;
}

static struct config *parse_good(const char *text)
{
    struct config *config = parse(text);
    if (config_problem_count(config)) fail_msg("%s: %s", text, config_problem(config, 0));
    return config;
}

static void a_run_without_stages_is_one_stage(void **state)
{
    (void)state;
    struct config *config = parse_good("dataset: d.jsonl\nmax_tokens: 5000\nmix_strategy: interleave_over\n");
    const struct run_options *run = config_run(config);
    assert_int_equal(run->n_stages, 0);
    assert_int_equal(run_stages(run), 1);
    struct stage_options stage = run_stage(run, 0);
    assert_string_equal(stage.name, "");
    assert_ptr_equal(stage.train_sources, run->train_sources);
    assert_int_equal(stage.max_tokens, 5000);
    assert_int_equal(stage.mix_strategy, MIX_INTERLEAVE_OVER);
    assert_true(stage.optimizer.learning_rate == run->optimizer.learning_rate);
    config_destroy(config);
}

static void a_stage_has_from_the_run_what_it_does_not_say(void **state)
{
    (void)state;
    struct config *config = parse_good(
        "eval_file: e.jsonl\nlearning_rate: 1e-3\nlr_scheduler_type: cosine_with_min_lr\nmin_lr: 1e-5\n"
        "warmup_steps: 7\nmax_steps: 50\nnum_train_epochs: 9\nmix_strategy: interleave_under\n"
        "stages:\n"
        "  - {name: 一般, dataset: [a.jsonl, b.jsonl], interleave_probs: '0.7, 0.3'}\n"
        "  - name: banking\n    train_file: c.jsonl\n    lr: 1e-4\n    lr_scheduler_type: constant\n"
        "    warmup_ratio: 0.1\n    epochs: 2\n    eval_file: f.jsonl\n    promote_when: {eval_loss_below: "
        "1.5}\n"
        "  - dataset: c.jsonl\n    max_tokens: 1000\n    learning_rate: 1e-4\n"
        "    promote_when: {plateau_evaluations: 3, min_delta: 0.01}\n");
    const struct run_options *run = config_run(config);
    assert_int_equal(run_stages(run), 3);
    struct stage_options a = run_stage(run, 0), b = run_stage(run, 1), c = run_stage(run, 2);

    assert_string_equal(a.name, "一般");
    assert_int_equal(a.n_train_sources, 2);
    assert_true(a.train_sources[0].weight == 0.7 && a.train_sources[1].weight == 0.3);
    assert_int_equal(a.mix_strategy, MIX_INTERLEAVE_UNDER);
    assert_int_equal(a.max_steps, 50);
    assert_true(a.optimizer.learning_rate == 1e-3 && a.optimizer.min_lr == 1e-5);
    assert_int_equal(a.optimizer.warmup_steps, 7);
    assert_ptr_equal(a.eval_sources, run->eval_sources); /* the very same: prepared once */
    assert_true(a.promote.eval_loss_below == 0 && a.promote.plateau_evaluations == 0);

    assert_int_equal(b.max_steps, -1); /* the stage's epochs come before the run's steps */
    assert_true(b.num_train_epochs == 2);
    assert_true(b.optimizer.learning_rate == 1e-4 && b.optimizer.min_lr == 0);
    assert_int_equal(b.optimizer.schedule, SCHEDULE_CONSTANT);
    assert_true(b.optimizer.warmup_steps == 0 && b.optimizer.warmup_ratio == 0.1);
    assert_string_equal(b.eval_sources[0].path, "f.jsonl");
    assert_true(b.promote.eval_loss_below == 1.5);

    assert_string_equal(c.name, "stage-3");
    assert_int_equal(c.max_steps, -1);
    assert_int_equal(c.max_tokens, 1000);
    assert_true(c.optimizer.schedule == SCHEDULE_COSINE_WITH_MIN_LR && c.optimizer.min_lr == 1e-5);
    assert_true(c.promote.plateau_evaluations == 3 && c.promote.min_delta == 0.01);

    /* the run's own fields are what the file says */
    assert_int_equal(run->max_steps, 50);
    assert_int_equal(run->n_train_sources, 0);
    assert_int_equal(run->eval_strategy, WHEN_EPOCH);
    config_destroy(config);
}

static void caps_and_weights_reach_the_datasets(void **state)
{
    (void)state;
    struct config *config = parse_good("dataset:\n  - {path: a, weight: 2.5, max_samples: 7, epochs: 1.5}\n  "
                                       "- b\nmax_samples: 100\neval_file: e\n");
    const struct run_options *run = config_run(config);
    assert_true(run->train_sources[0].weight == 2.5 && run->train_sources[0].max_epochs == 1.5);
    assert_int_equal(run->train_sources[0].max_samples, 7);
    assert_int_equal(run->train_sources[1].max_samples, 100);
    assert_true(run->train_sources[1].weight == 1 && run->train_sources[1].max_epochs == 0);
    assert_int_equal(run->eval_sources[0].max_samples, 100);
    config_destroy(config);
    config = parse_good("max_samples: 10\ndataset: d\neval_file: e\n"
                        "stages: [{name: few}, {name: all, max_samples: 99}, {name: own, dataset: f}]\n");
    run = config_run(config);
    assert_ptr_equal(run_stage(run, 0).train_sources, run->train_sources);
    assert_int_equal(run_stage(run, 0).train_sources[0].max_samples, 10);
    assert_int_equal(run_stage(run, 1).train_sources[0].max_samples, 99);
    assert_int_equal(run_stage(run, 1).eval_sources[0].max_samples, 99);
    assert_int_equal(run_stage(run, 2).train_sources[0].max_samples, 10);
    config_destroy(config);
}

static void the_resolved_text_has_the_stages(void **state)
{
    (void)state;
    struct config *first = parse_good("stages: [{name: 'a: b', dataset: d, max_steps: 3}, {dataset: e}]\n"),
                  *second = NULL;
    const char *text = config_run(first)->config_text;
    assert_ok(config_parse(&second, text, strlen(text), "y.yaml", NULL, 0));
    if (config_problem_count(second)) fail_msg("%s\n%s", config_problem(second, 0), text);
    assert_true(hash128_equal(config_run(first)->config_hash, config_run(second)->config_hash));
    assert_string_equal(run_stage(config_run(second), 0).name, "a: b");
    struct config *other = parse_good("stages: [{name: 'a: b', dataset: d, max_steps: 4}, {dataset: e}]\n");
    assert_false(hash128_equal(config_run(first)->config_hash, config_run(other)->config_hash));
    config_destroy(first);
    config_destroy(second);
    config_destroy(other);
}

static void a_single_value_is_told(void **state)
{
    (void)state;
    struct config *config = parse_good("dataset: [d]\nlora_r: 4\n");
    const char *value = NULL;
    assert_ok(config_value_of(&value, config, "output_dir"));
    assert_string_equal(value, "out");
    assert_ok(config_value_of(&value, config, "lora_rank"));
    assert_string_equal(value, "4");
    assert_ok(config_value_of(&value, config, "adapter_name_or_path"));
    assert_string_equal(value, "");
    assert_fails(config_value_of(&value, config, "dataset"), LORAD_USAGE, "not a single value");
    assert_fails(config_value_of(&value, config, "outputdir"), LORAD_USAGE, "not a configuration key");
    config_destroy(config);
}

/* One problem each, which contains the words. */
static const struct {
    const char *text, *words;
} bad[] = {
    {"dataset: [{path: a, max_samples: 0}]\n", "max_samples: a whole number of rows"},
    {"dataset: [{path: a, max_samples: 1.5}]\n", "max_samples: a whole number of rows"},
    {"dataset: [{path: a, epochs: 0}]\n", "epochs: a number above 0"},
    {"dataset: [{path: a, weight: -1}]\n", "weight: a number above 0"},
    {"dataset: [{path: a, wieght: 1}]\n", "did you mean weight?"},
    {"dataset: a\nmix_strategy: interleave\n",
     "\"interleave\" is not known; use one of: concat, interleave_under"},
    {"dataset: [a, b]\ninterleave_probs: 0.5,0.5\n", "is for mix_strategy interleave_under"},
    {"dataset: [a, b]\nmix_strategy: interleave_over\ninterleave_probs: [0.5]\n",
     "has 1 numbers, but dataset has 2"},
    {"dataset: [a, b]\nmix_strategy: interleave_over\ninterleave_probs: 0.5,x\n", "probabilities above 0"},
    {"dataset: [a, b]\nmix_strategy: interleave_over\ninterleave_probs: [1, -1]\n", "probabilities above 0"},
    {"dataset: [a, b]\nmix_strategy: interleave_over\ninterleave_probs: {a: 1}\n", "not a map"},
    {"dataset: [{path: a, weight: 2}, b]\nmix_strategy: interleave_over\ninterleave_probs: 0.5,0.5\n",
     "says the same as the weights"},
    {"dataset: a\nmax_steps: 5\nmax_tokens: 5\n", "max_tokens: cannot be used together with max_steps"},
    {"stages: x\n", "x.yaml:3: stages: a list of stages"},
    {"stages: []\n", "the list is empty"},
    {"stages: [x]\n", "a stage is {name"},
    {"stages: [{name: a}]\n", "has no dataset, and the run has none"},
    {"dataset: d\nstages: [{name: a, dataset: b}]\n", "x.yaml:3: dataset: is not used"},
    {"stages:\n  - dataset: b\n    lora_rank: 3\n", "x.yaml:5: lora_rank: is the same in all stages"},
    {"stages:\n  - dataset: b\n    seed: 3\n", "x.yaml:5: seed: is the same in all stages"},
    {"stages: [{dataset: b, kd_ratio: 0.3}]\n", "kd_ratio: is not supported: distillation"},
    {"stages: [{dataset: b, kd_temperature: 2}]\n", "kd_temperature: is not supported: distillation"},
    {"stages: [{dataset: b, learing_rate: 0.3}]\n", "learing_rate: unknown in a stage; known are name"},
    {"stages: [{dataset: b, learning_rate: fast}]\n", "learning_rate: a number is wanted"},
    {"stages: [{dataset: b, lr: 1, learning_rate: 2}]\n", "learning_rate: is given twice in this stage"},
    {"stages: [{dataset: b, max_steps: 1, epochs: 2}]\n", "two lengths"},
    {"stages: [{dataset: b, max_steps: 1, max_tokens: 2}]\n",
     "max_tokens: cannot be used together with max_steps"},
    {"stages: [{dataset: b, max_steps: 0}]\n", "0 steps train nothing"},
    {"stages: [{dataset: b, warmup_steps: 4, max_steps: 3}]\n", "warmup_steps: is larger than max_steps"},
    {"stages: [{dataset: b, min_lr: 1e-6}]\n", "cosine_with_min_lr only"},
    {"stages: [{dataset: b, name: ''}]\n", "name: a name of 1 to 63 bytes"},
    {"stages: [{dataset: b, name: a}, {dataset: c, name: a}]\n", "two stages have this name"},
    {"stages: [{dataset: b, promote_when: {eval_loss_below: 1}}]\n", "promote_when needs held-out rows"},
    {"eval_file: e\nstages: [{dataset: b, promote_when: end}]\n", "promote_when: {eval_loss_below"},
    {"eval_file: e\nstages: [{dataset: b, promote_when: {loss: 1}}]\n", "loss: {eval_loss_below"},
    {"eval_file: e\nstages: [{dataset: b, promote_when: {eval_loss_below: -1}}]\n", "a loss above 0"},
    {"eval_file: e\nstages: [{dataset: b, promote_when: {plateau_evaluations: 0.5}}]\n",
     "a whole number from 1"},
    {"eval_file: e\nstages: [{dataset: b, promote_when: {min_delta: 1, eval_loss_below: 1}}]\n",
     "belongs to plateau_evaluations"},
    {"stages: [{dataset: b, eval_file: e}, {dataset: c}]\nload_best_model_at_end: true\nsave_strategy: "
     "best\n",
     "the best of the last stage, which has no held-out rows"},
    {"stages: [{dataset: b}]\nearly_stopping_patience: 2\n", "needs evaluations"},
};

static void every_mistake_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct config *config = parse(bad[i].text);
        if (config_problem_count(config) != 1 || !strstr(config_problem(config, 0), bad[i].words)) {
            for (size_t p = 0; p < config_problem_count(config); p++)
                print_error("  %s\n", config_problem(config, p));
            fail_msg("%s: expected one problem with \"%s\"", bad[i].text, bad[i].words);
        }
        config_destroy(config);
    }
}

static void a_mistake_that_all_stages_share_is_told_once(void **state)
{
    (void)state;
    struct config *config =
        parse("warmup_ratio: 0.1\nwarmup_steps: 5\ndataset: d\nstages: [{name: a}, {name: b}]\n");
    assert_int_equal(config_problem_count(config), 1);
    config_destroy(config);
}

static void at_most_64_stages(void **state)
{
    (void)state;
    struct strbuf text = STRBUF_EMPTY;
    strbuf_puts(&text, "dataset: d\nstages: [");
    for (int i = 0; i < MOST_STAGES; i++) strbuf_printf(&text, "{name: s%d}, ", i);
    struct config *config = NULL;
    strbuf_puts(&text, "]\n");
    config = parse_good(strbuf_text(&text));
    assert_int_equal(config_run(config)->n_stages, MOST_STAGES);
    config_destroy(config);
    text.length -= 2;
    strbuf_puts(&text, "{name: more}]\n");
    config = parse(strbuf_text(&text));
    assert_int_equal(config_problem_count(config), 1);
    assert_non_null(strstr(config_problem(config, 0), "more than 64"));
    config_destroy(config);
    strbuf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_without_stages_is_one_stage),
        cmocka_unit_test(a_stage_has_from_the_run_what_it_does_not_say),
        cmocka_unit_test(caps_and_weights_reach_the_datasets),
        cmocka_unit_test(the_resolved_text_has_the_stages),
        cmocka_unit_test(a_single_value_is_told),
        cmocka_unit_test(every_mistake_is_named),
        cmocka_unit_test(a_mistake_that_all_stages_share_is_told_once),
        cmocka_unit_test(at_most_64_stages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
