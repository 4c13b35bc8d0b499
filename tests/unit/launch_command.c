#include "support/test.h"

#include "launch/command.h"
#include "launch/nearest.h"

static int never(const struct command *command)
{
    (void)command;
    return 1;
}

static const struct verb verbs[] = {
    {.name = "", .summary = "train", .needs_config = true, .start = never},
    {.name = "eval", .summary = "evaluate", .needs_config = true, .start = never},
    {.name = "generate", .summary = "answer", .needs_config = true, .start = never},
    {.name = "help", .summary = "help", .most_words = 1, .start = never},
};

static enum status parse(struct command *out, const char *const *words)
{
    char *argv[16] = {"lorad"};
    int argc = 1;
    for (; words[argc - 1]; argc++) argv[argc] = (char *)words[argc - 1];
    return command_parse(out, argc, argv, verbs, 4);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void options_reach_their_fields(void **state)
{
    (void)state;
    struct command command;
    assert_ok(parse(&command, WORDS("--config", "a.yaml", "--set", "x=1", "--set=y=2")));
    assert_string_equal(command.verb->name, "");
    assert_string_equal(command.config_path, "a.yaml");
    assert_int_equal(command.n_sets, 2);
    assert_string_equal(command.sets[1], "y=2");
    command_free(&command);
    assert_ok(parse(&command, WORDS("generate", "--config=a", "--prompt", "--hi?", "--max-new-tokens", "7")));
    assert_string_equal(command.prompt, "--hi?");
    assert_int_equal(command.max_new_tokens, 7);
    command_free(&command);
    assert_ok(parse(&command, WORDS("eval", "--config", "a", "--per-row", "--json", "--no-adapter")));
    assert_true(command.per_row && command.json && command.no_adapter);
    command_free(&command);
    assert_ok(parse(&command, WORDS("help", "lora_rank")));
    assert_string_equal(command.word, "lora_rank");
    command_free(&command);
    assert_ok(parse(&command, WORDS("--version")));
    assert_true(command.version);
    command_free(&command);
}

static void mistakes_are_named(void **state)
{
    (void)state;
    struct command command;
    assert_fails(parse(&command, WORDS("evla", "--config", "a")), LORAD_USAGE, "did you mean eval?");
    assert_fails(parse(&command, WORDS("banana")), LORAD_USAGE, "banana is not a verb");
    assert_fails(parse(&command, WORDS("--confg", "a")), LORAD_USAGE, "did you mean --config?");
    assert_fails(parse(&command, WORDS("--learning_rate", "1")), LORAD_USAGE, "--set key=value");
    assert_fails(parse(&command, WORDS("--config")), LORAD_USAGE, "needs a value: --config FILE");
    assert_fails(parse(&command, WORDS("eval")), LORAD_USAGE, "--config FILE is missing");
    assert_fails(parse(&command, WORDS("--config", "a", "--json")), LORAD_USAGE,
                 "--json does not go with lorad");
    assert_fails(parse(&command, WORDS("eval", "--config", "a", "--json=1")), LORAD_USAGE, "takes no value");
    assert_fails(parse(&command, WORDS("eval", "--config", "a", "b")), LORAD_USAGE, "one word too many");
    assert_fails(parse(&command, WORDS("--config", "a", "eval")), LORAD_USAGE,
                 "the verb comes first: lorad eval --config");
    assert_fails(parse(&command, WORDS("generate", "--config", "a")), LORAD_USAGE,
                 "--prompt TEXT is missing");
    assert_fails(
        parse(&command, WORDS("generate", "--config", "a", "--prompt", "x", "--max-new-tokens", "0")),
        LORAD_USAGE, "--max-new-tokens: a whole number above 0");
    assert_fails(parse(&command, WORDS("eval", "--config", "a", "--adapter", "b", "--no-adapter")),
                 LORAD_USAGE, "contradict");
}

static const char *near(const char *word, const char *candidate)
{
    struct nearest nearest = {.word = word};
    nearest_consider(&nearest, candidate, strlen(candidate));
    return nearest.best;
}

static void nearest_takes_slips_and_no_more(void **state)
{
    (void)state;
    assert_non_null(near("lora_rnak", "lora_rank"));
    assert_non_null(near("learning-rate", "learning_rate"));
    assert_non_null(near("LORA_RANK", "lora_rank"));
    assert_non_null(near("cutof_len", "cutoff_len"));
    assert_null(near("gpu", "cpu"));
    assert_null(near("dropout", "warmup_ratio"));
    assert_null(near("", "lora_rank"));
    char longer[200];
    memset(longer, 'x', 199);
    longer[199] = 0;
    assert_null(near(longer, longer));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_reach_their_fields),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(nearest_takes_slips_and_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
