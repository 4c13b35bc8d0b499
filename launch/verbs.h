/* verbs.h: what each verb does; main.c lists them. */
#ifndef LORAD_LAUNCH_VERBS_H
#define LORAD_LAUNCH_VERBS_H

#include "launch/command.h"

enum status verb_train(const struct command *command, const struct config *config,
                       const struct comm_world_info *world) LORAD_WARN_UNUSED;
enum status verb_eval(const struct command *command, const struct config *config,
                      const struct comm_world_info *world) LORAD_WARN_UNUSED;
enum status verb_generate(const struct command *command, const struct config *config,
                          const struct comm_world_info *world) LORAD_WARN_UNUSED;

/* `lorad check`: preflight.c. Prints every problem itself and returns the first one's code. */
enum status verb_check(const struct command *command) LORAD_WARN_UNUSED;

/* `lorad tokenize`: standard input to standard output. */
enum status verb_tokenize(const struct command *command) LORAD_WARN_UNUSED;
/* `lorad prepare`: verb_prepare.c. */
enum status verb_prepare(const struct command *command) LORAD_WARN_UNUSED;

/* `lorad inspect`, `lorad checkpoints`, `lorad gc`: verb_checkpoints.c. */
enum status verb_inspect(const struct command *command) LORAD_WARN_UNUSED;
enum status verb_checkpoints(const struct command *command) LORAD_WARN_UNUSED;
enum status verb_gc(const struct command *command) LORAD_WARN_UNUSED;
/* `lorad run`: verb_supervise.c. Returns the exit code. */
int run_supervised(const struct command *command);
/* A running job (verb_control.c): pause, resume, checkpoint and stop; set; status. */
enum status verb_ask(const struct command *command) LORAD_WARN_UNUSED;
enum status verb_set(const struct command *command) LORAD_WARN_UNUSED;
enum status verb_status(const struct command *command) LORAD_WARN_UNUSED;
/* `lorad logs`: verb_logs.c. */
enum status verb_logs(const struct command *command) LORAD_WARN_UNUSED;

enum status verb_help(const struct command *command) LORAD_WARN_UNUSED;
/* Appends what --version prints. */
void version_text(struct strbuf *out);

#endif
