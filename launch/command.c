#include "launch/command.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "launch/nearest.h"

enum option_kind { OPTION_FLAG, OPTION_TEXT, OPTION_COUNT, OPTION_COUNT_OR_ZERO, OPTION_SET };

struct option {
    const char *name;
    enum option_kind kind;
    size_t offset;
    const char *verbs; /* "|train|eval|" ...; NULL: all */
    const char *metavar;
    const char *help;
};

#define FIELD(name) offsetof(struct command, name)
#define RUNS        "||run|check|eval|generate|prepare|inspect|"
#define FOLDERS     "|inspect|checkpoints|gc|" /* what they look at has to be named */
#define ASKS        "status|pause|resume|checkpoint|stop|set|logs|"

static const struct option options[] = {
    {"--config", OPTION_TEXT, FIELD(config_path), RUNS ASKS, "FILE",
     "the configuration (YAML; docs/config.md)"},
    {"--set", OPTION_SET, 0, RUNS, "KEY=VALUE", "override one key; may be repeated, the last one wins"},
    {"-np", OPTION_COUNT, FIELD(np), "|run|", "N",
     "ranks to start (default: Slurm's tasks, else tensor_parallel_size)"},
    {"--restarts", OPTION_COUNT_OR_ZERO, FIELD(restarts), "|run|", "N",
     "start again after a crash at most N times (default 100)"},
    {"--hostfile", OPTION_TEXT, FIELD(hostfile), "|run|", "FILE", "the hosts, as mpirun reads them"},
    {"--", OPTION_FLAG, FIELD(n_rest), "|run|", "ARGUMENTS", "the rest goes to mpirun as it is"},
    {"--ranks", OPTION_COUNT, FIELD(plan_ranks), "|check|", "N",
     "plan for N ranks (default: tensor_parallel_size)"},
    {"--gpu", OPTION_TEXT, FIELD(gpu), "|check|", "NAME",
     "plan for this GPU, which need not be here: h200, a100-80gb, l40s, ... or 24GiB"},
    {"--value", OPTION_TEXT, FIELD(value_of), "|check|", "KEY",
     "print the value of one key, as it is understood, and nothing else"},
    {"--adapter", OPTION_TEXT, FIELD(adapter_dir), "|eval|generate|", "DIR",
     "use this adapter (default: output_dir)"},
    {"--no-adapter", OPTION_FLAG, FIELD(no_adapter), "|eval|generate|", NULL,
     "use the frozen base model alone"},
    {"--per-row", OPTION_FLAG, FIELD(per_row), "|eval|", NULL, "print the loss of every row"},
    {"--json", OPTION_FLAG, FIELD(json), "|eval|prepare|inspect|checkpoints|status|logs|", NULL,
     "print JSON"},
    {"--verify", OPTION_FLAG, FIELD(verify), "|check|prepare|inspect|checkpoints|", NULL,
     "read all prepared data, or all of the checkpoints, again and compare it with its hashes"},
    {"--tensors", OPTION_FLAG, FIELD(tensors), "|inspect|", NULL, "list the tensors"},
    {"--pin", OPTION_COUNT, FIELD(pin), "|checkpoints|", "STEP", "never remove the checkpoint of this step"},
    {"--unpin", OPTION_COUNT, FIELD(unpin), "|checkpoints|", "STEP", "take the pin away"},
    {"--keep", OPTION_COUNT, FIELD(keep), "|gc|", "N",
     "keep N checkpoints (default: the run's save_total_limit)"},
    {"--dry-run", OPTION_FLAG, FIELD(dry_run), "|gc|", NULL, "only say what would be removed"},
    {"--prompt", OPTION_TEXT, FIELD(prompt), "|generate|", "TEXT", "the question"},
    {"--system", OPTION_TEXT, FIELD(system), "|generate|", "TEXT", "the system message"},
    {"--max-new-tokens", OPTION_COUNT, FIELD(max_new_tokens), "|generate|", "N",
     "longest answer (default 128)"},
    {"--model", OPTION_TEXT, FIELD(model_dir), "|tokenize|", "DIR", "the model's folder"},
    {"--decode", OPTION_FLAG, FIELD(decode), "|tokenize|", NULL, "lists of token numbers to text"},
    {"--template", OPTION_FLAG, FIELD(template), "|tokenize|", NULL,
     "rows with \"messages\" through the chat template"},
    {"--watch", OPTION_FLAG, FIELD(watch), "|status|", NULL, "show it again each second"},
    {"--now", OPTION_FLAG, FIELD(now), "|stop|", NULL, "end at once: no step is finished, nothing is saved"},
    {"--at-step", OPTION_COUNT, FIELD(at_step), "|pause|checkpoint|stop|set|", "N",
     "at the end of step N (default: of the present one)"},
    {"--follow", OPTION_FLAG, FIELD(follow), "|logs|", NULL, "go on until the run ends; also -f"},
    {"-f", OPTION_FLAG, FIELD(follow), "|logs|", NULL, NULL},
    {"--lines", OPTION_COUNT, FIELD(lines), "|logs|", "N", "only the last N; also -n"},
    {"-n", OPTION_COUNT, FIELD(lines), "|logs|", "N", NULL},
    {"--redis-url", OPTION_TEXT, FIELD(redis_url), "|" ASKS, "URL",
     "the Redis that knows the run (default: LORAD_REDIS_URL)"},
    {"--redis-prefix", OPTION_TEXT, FIELD(redis_prefix), "|" ASKS, "TEXT",
     "its redis_prefix (default: lorad)"},
    {"--markdown", OPTION_FLAG, FIELD(markdown), "|help|", NULL,
     NULL}, /* for docs/config.md; not for people */
    {"--help", OPTION_FLAG, FIELD(help), NULL, NULL, "this text"},
    {"--version", OPTION_FLAG, FIELD(version), NULL, NULL, "version and what is compiled in"},
};
enum { N_OPTIONS = sizeof options / sizeof options[0] };

static const struct option *option_find(const char *word, size_t length)
{
    for (int i = 0; i < N_OPTIONS; i++)
        if (strlen(options[i].name) == length && memcmp(options[i].name, word, length) == 0)
            return &options[i];
    return NULL;
}

static enum status unknown_option(const char *word, size_t length)
{
    char name[128];
    snprintf(name, sizeof name, "%.*s", (int)length, word);
    struct nearest nearest = {.word = name};
    for (int i = 0; i < N_OPTIONS; i++) nearest_consider(&nearest, options[i].name, strlen(options[i].name));
    if (nearest.best) return FAIL(LORAD_USAGE, "%s is not an option; did you mean %s?", name, nearest.best);
    return FAIL(LORAD_USAGE,
                "%s is not an option; see lorad --help (keys of the configuration: --set key=value)", name);
}

static enum status read_count(const char *name, const char *text, int least, int *out)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end || value < least || value > INT_MAX)
        return FAIL(LORAD_USAGE, "%s: a whole number %s is wanted, not \"%s\"", name,
                    least > 0 ? "above 0" : "of 0 or more", text);
    *out = (int)value;
    return LORAD_OK;
}

/* Reads the option at argv[*at], moving *at over its value. */
static enum status read_option(struct command *command, int argc, char **argv, int *at)
{
    const char *word = argv[*at];
    size_t length = strcspn(word, "=");
    const struct option *option = option_find(word, length);
    if (!option) return unknown_option(word, length);
    if (option->verbs) {
        char wrapped[64];
        snprintf(wrapped, sizeof wrapped, "|%s|", command->verb->name);
        if (!strstr(option->verbs, wrapped))
            return FAIL(LORAD_USAGE, "%s does not go with lorad%s%s; see lorad --help", option->name,
                        command->verb->name[0] ? " " : "", command->verb->name);
    }
    void *field = (char *)command + option->offset;
    if (option->kind == OPTION_FLAG) {
        if (word[length]) return FAIL(LORAD_USAGE, "%s takes no value", option->name);
        *(bool *)field = true;
        return LORAD_OK;
    }
    const char *value = word[length] ? word + length + 1 : ++*at < argc ? argv[*at] : NULL;
    if (!value)
        return FAIL(LORAD_USAGE, "%s needs a value: %s %s", option->name, option->name, option->metavar);
    if (option->kind == OPTION_TEXT)
        *(const char **)field = value;
    else if (option->kind == OPTION_SET)
        command->sets[command->n_sets++] = value; /* room for argc of them */
    else
        return read_count(option->name, value, option->kind == OPTION_COUNT, field);
    return LORAD_OK;
}

static const struct verb *verb_find(const char *name, const struct verb *verbs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(verbs[i].name, name) == 0) return &verbs[i];
    return NULL;
}

static enum status unknown_verb(const char *word, const struct verb *verbs, size_t n)
{
    struct nearest nearest = {.word = word};
    for (size_t i = 0; i < n; i++) nearest_consider(&nearest, verbs[i].name, strlen(verbs[i].name));
    if (nearest.best) return FAIL(LORAD_USAGE, "%s is not a verb; did you mean %s?", word, nearest.best);
    return FAIL(LORAD_USAGE, "%s is not a verb; to train: lorad --config FILE (see lorad --help)", word);
}

static enum status check_complete(const struct command *command)
{
    char wrapped[64];
    snprintf(wrapped, sizeof wrapped, "|%s|", command->verb->name);
    if (command->help || command->version) return LORAD_OK;
    if (!command->verb->start) return FAIL(LORAD_USAGE, "a verb is missing; see lorad --help");
    if (command->verb->needs_config && !command->config_path)
        return FAIL(LORAD_USAGE, "--config FILE is missing (see lorad --help)");
    if (command->no_adapter && command->adapter_dir)
        return FAIL(LORAD_USAGE, "--adapter and --no-adapter contradict each other: remove one");
    if (strcmp(command->verb->name, "generate") == 0 && !command->prompt)
        return FAIL(LORAD_USAGE, "--prompt TEXT is missing (see lorad --help)");
    if (strcmp(command->verb->name, "tokenize") == 0 && !command->model_dir)
        return FAIL(LORAD_USAGE, "--model DIR is missing (see lorad --help)");
    if (strstr(FOLDERS, wrapped) && !command->word)
        return FAIL(LORAD_USAGE, "a folder is missing: lorad %s FOLDER (see lorad --help)",
                    command->verb->name);
    if (command->pin && command->unpin)
        return FAIL(LORAD_USAGE, "--pin and --unpin do not go together: call twice");
    return LORAD_OK;
}

enum status command_parse(struct command *out, int argc, char **argv, const struct verb *verbs, size_t n)
{
    static const struct verb no_verb = {.name = ""};
    struct command command = {.verb = verb_find("", verbs, n), .max_new_tokens = 128, .restarts = -1};
    if (!command.verb) command.verb = &no_verb;
    int at = 1;
    if (argc > 1 && argv[1][0] != '-') {
        command.verb = verb_find(argv[1], verbs, n);
        if (!command.verb || !argv[1][0]) return unknown_verb(argv[1], verbs, n);
        at = 2;
    }
    command.sets = memory_new((size_t)argc, sizeof *command.sets);
    command.words = memory_new((size_t)argc, sizeof *command.words);
    enum status status = command.sets && command.words ? LORAD_OK : LORAD_NOMEM;
    for (; at < argc && status == LORAD_OK; at++) {
        if (strcmp(argv[at], "--") == 0 && strcmp(command.verb->name, "run") == 0) {
            command.rest = argv + at + 1;
            command.n_rest = (size_t)(argc - at - 1);
            break;
        }
        if (argv[at][0] == '-' && argv[at][1])
            status = read_option(&command, argc, argv, &at);
        else if (command.n_words < (size_t)command.verb->most_words)
            command.words[command.n_words++] = argv[at];
        else if (!command.verb->name[0] && verb_find(argv[at], verbs, n))
            status = FAIL(LORAD_USAGE, "the verb comes first: lorad %s --config FILE ...", argv[at]);
        else
            status = FAIL(LORAD_USAGE, "\"%s\" is one word too many; see lorad --help", argv[at]);
    }
    if (status == LORAD_OK && command.n_words > 0) command.word = command.words[0];
    if (status == LORAD_OK) status = check_complete(&command);
    if (status != LORAD_OK) {
        command_free(&command);
        return status;
    }
    *out = command;
    return LORAD_OK;
}

void command_free(struct command *command)
{
    free(command->sets);
    free(command->words);
}

/* "--adapter DIR" with the verbs it belongs to when they are not all the runs. */
static void write_option(struct strbuf *out, const struct option *option)
{
    char left[64];
    snprintf(left, sizeof left, "%s%s%s", option->name, option->metavar ? " " : "",
             option->metavar ? option->metavar : "");
    strbuf_printf(out, "  %-22s %s", left, option->help);
    if (option->verbs && strcmp(option->verbs, "|" ASKS) == 0) {
        strbuf_puts(out, " [a running job]");
    } else if (option->verbs && strncmp(option->verbs, RUNS, strlen(RUNS)) != 0) {
        strbuf_puts(out, " [");
        for (const char *at = option->verbs + 1; *at; at += strcspn(at, "|") + 1) {
            if (at != option->verbs + 1) strbuf_puts(out, ", ");
            strbuf_add(out, at, strcspn(at, "|"));
        }
        strbuf_putc(out, ']');
    }
    strbuf_putc(out, '\n');
}

void command_usage(struct strbuf *out, const struct verb *verbs, size_t n)
{
    strbuf_puts(out,
                "lorad: LoRA fine-tuning of Llama- and Qwen-family models, one process per rank\n\n"
                "  lorad run --config FILE [-np N] [--set key=value ...]\n"
                "  mpirun -np N lorad --config FILE [--set key=value ...]\n"
                "  lorad VERB --config FILE [options]\n"
                "  lorad status|pause|resume|checkpoint|stop|set|logs [NAME|DIR] [options]   a running job, "
                "found by\n"
                "      its output_dir, with Redis also by its name, or by --config FILE\n\n"
                "Verbs\n");
    for (size_t i = 0; i < n; i++)
        strbuf_printf(out, "  %-22s %s\n", verbs[i].name[0] ? verbs[i].name : "(none)", verbs[i].summary);
    strbuf_puts(out, "\nOptions\n");
    for (int i = 0; i < N_OPTIONS; i++)
        if (options[i].help) write_option(out, &options[i]);
    strbuf_puts(out, "\nConfiguration keys, by section (`lorad help KEY` says more)\n\n");
    config_help_all(out);
    strbuf_puts(
        out, "\nSignals: USR1, TERM, HUP and INT checkpoint and end (exit 75), USR2 checkpoints and goes on; "
             "see docs/supervision.md.\n"
             "Exit codes: 0 done, 64 usage, 65 data, 66 missing input, 70 internal, 71 hang or lost "
             "rank, 73 cannot "
             "create,\n74 input/output, 75 checkpointed and wants to be started again, 76 replaced "
             "by a newer run, "
             "78 configuration, 79 numeric, 80 stopped by `lorad stop`.\n");
}
