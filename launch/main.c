/* main.c: the verbs, and which of them was asked for. A new verb is one row. */
#include <stdio.h>

#include "base/log.h"
#include "launch/command.h"
#include "launch/ranks.h"
#include "launch/signals.h"
#include "launch/spinning.h"
#include "launch/verbs.h"

static const struct verb verbs[] = {
    {"", "train; with mpirun on several ranks", true, false, run_on_ranks, NULL, verb_train},
    {"run", "train, supervised: restarts after a crash, stops as told", true, false, run_supervised, NULL,
     NULL},
    {"check", "look at all that a run needs without running it: no mpirun, no GPU", true, false, run_alone,
     verb_check, NULL},
    {"prepare", "turn all rows into tokens, and report on them", true, false, run_alone, verb_prepare, NULL},
    {"eval", "loss, perplexity and accuracy on the held-out rows", true, false, run_on_ranks, NULL,
     verb_eval},
    {"generate", "answer one prompt", true, false, run_on_ranks, NULL, verb_generate},
    {"tokenize", "JSON strings to token numbers, a line each; --decode: back; --template: chat rows", false,
     false, run_alone, verb_tokenize, NULL},
    {"inspect", "what is in a checkpoint: its folder or link, or an output_dir for the newest", false, true,
     run_alone, verb_inspect, NULL},
    {"checkpoints", "which checkpoints an output_dir holds; pinning them", false, true, run_alone,
     verb_checkpoints, NULL},
    {"gc", "remove from an output_dir what its run would, and what dead runs left", false, true, run_alone,
     verb_gc, NULL},
    {"help", "the configuration keys; help KEY: one of them", false, true, run_alone, verb_help, NULL},
};
enum { N_VERBS = sizeof verbs / sizeof verbs[0] };

static int print_usage(void)
{
    struct strbuf text = STRBUF_EMPTY;
    command_usage(&text, verbs, N_VERBS);
    fputs(strbuf_text(&text), stdout);
    strbuf_free(&text);
    return 0;
}

static int print_version(void)
{
    struct strbuf text = STRBUF_EMPTY;
    version_text(&text);
    fputs(strbuf_text(&text), stdout);
    strbuf_free(&text);
    return 0;
}

int main(int argc, char **argv)
{
    signals_explain_bus();
    struct command command;
    enum status status = command_parse(&command, argc, argv, verbs, N_VERBS);
    if (status != LORAD_OK) {
        log_error("%s", status_message());
        return status_exit_code(status);
    }
    if (!command.verb || command.verb->start != run_supervised) spinning_choose(argv);
    int code = command.version ? print_version()
               : command.help  ? print_usage()
                               : command.verb->start(&command);
    command_free(&command);
    return code;
}
