/* main.c: the verbs, and which of them was asked for. A new verb is one row. */
#include <stdio.h>

#include "base/log.h"
#include "launch/command.h"
#include "launch/ranks.h"
#include "launch/signals.h"
#include "launch/spinning.h"
#include "launch/verbs.h"

static const struct verb verbs[] = {
    {"", "train; with mpirun on several ranks", true, 0, run_on_ranks, NULL, verb_train},
    {"run", "train, supervised: restarts after a crash, stops as told", true, 0, run_supervised, NULL, NULL},
    {"check", "look at all that a run needs without running it: no mpirun, no GPU", true, 0, run_alone,
     verb_check, NULL},
    {"prepare", "turn all rows into tokens, and report on them", true, 0, run_alone, verb_prepare, NULL},
    {"eval", "loss, perplexity and accuracy on the held-out rows", true, 0, run_on_ranks, NULL, verb_eval},
    {"generate", "answer one prompt", true, 0, run_on_ranks, NULL, verb_generate},
    {"tokenize", "JSON strings to token numbers, a line each; --decode: back; --template: chat rows", false,
     0, run_alone, verb_tokenize, NULL},
    {"inspect", "what is in a checkpoint: its folder or link, or an output_dir for the newest", false, 1,
     run_alone, verb_inspect, NULL},
    {"checkpoints", "which checkpoints an output_dir holds; pinning them", false, 1, run_alone,
     verb_checkpoints, NULL},
    {"gc", "remove from an output_dir what its run would, and what dead runs left", false, 1, run_alone,
     verb_gc, NULL},
    {"status", "what a running job is doing", false, 1, run_alone, verb_status, NULL},
    {"pause", "let it stand at the end of its step", false, 1, run_alone, verb_ask, NULL},
    {"resume", "let it go on", false, 1, run_alone, verb_ask, NULL},
    {"checkpoint", "save it, and wait for the commit", false, 1, run_alone, verb_ask, NULL},
    {"stop", "end it for good after its step, with a checkpoint (exit 80)", false, 1, run_alone, verb_ask,
     NULL},
    {"set", "change it while it goes on: set [NAME|DIR] KEY=VALUE ...", false, 32, run_alone, verb_set, NULL},
    {"logs", "its metrics and events; -f follows them", false, 1, run_alone, verb_logs, NULL},
    {"help", "the configuration keys; help KEY: one of them", false, 1, run_alone, verb_help, NULL},
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
