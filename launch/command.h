/*
 * command.h: the command line: one verb, its options. Options are one table; a new option is one row and one
 * field.
 */
#ifndef LORAD_LAUNCH_COMMAND_H
#define LORAD_LAUNCH_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "base/strbuf.h"
#include "launch/config.h"

struct command;

/* What one word after `lorad` does. `start` is run_alone or run_on_ranks (ranks.h), which call `alone` or
 * `ranks`. */
struct verb {
    const char *name; /* "" for training */
    const char *summary;
    bool needs_config;
    int most_words;                              /* free arguments, as in `help KEY` */
    int (*start)(const struct command *command); /* returns the exit code */
    enum status (*alone)(const struct command *command);
    /* The configuration has no problems and is the same on all ranks. */
    enum status (*ranks)(const struct command *command, const struct config *config,
                         const struct comm_world_info *world);
};

struct command {
    const struct verb *verb;
    const char *word;   /* the first free argument; NULL: none */
    const char **words; /* [n_words], owned */
    size_t n_words;
    const char *config_path;
    const char **sets; /* [n_sets], owned */
    size_t n_sets;
    bool help, version; /* --help, --version anywhere */

    const char *adapter_dir;
    bool no_adapter, per_row, json, markdown, verify;
    const char *prompt, *system, *model_dir;
    bool decode, template; /* tokenize */
    int max_new_tokens;
    int plan_ranks;       /* 0: not given */
    const char *gpu;      /* check: to plan for; NULL: none */
    int np;               /* run: ranks; 0: not given */
    int restarts;         /* run; -1: not given */
    const char *hostfile; /* run; NULL: none */
    char *const *rest;    /* [n_rest] behind "--", for mpirun; borrowed from argv */
    size_t n_rest;
    const char *value_of; /* a key of the configuration */
    bool tensors, dry_run;
    int pin, unpin, keep; /* 0: not given */

    /* a running job */
    bool watch, now, follow;
    int at_step, lines; /* 0: not given */
    const char *redis_url, *redis_prefix;
};

/* Reads argv against `verbs` (n of them; the one named "" is the default). LORAD_USAGE names the argument,
 * what is nearest to it, and what to do. Strings are borrowed from argv. The caller frees with command_free.
 */
enum status command_parse(struct command *out, int argc, char **argv, const struct verb *verbs,
                          size_t n) LORAD_WARN_UNUSED;
void command_free(struct command *command);

/* The text of --help. */
void command_usage(struct strbuf *out, const struct verb *verbs, size_t n);

#endif
