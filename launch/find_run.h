/* find_run.h: which running job a command line means. */
#ifndef LORAD_LAUNCH_FIND_RUN_H
#define LORAD_LAUNCH_FIND_RUN_H

#include "comm/control.h"
#include "launch/command.h"

struct found_run {
    struct control_target target;
    struct config *config; /* NULL: none was named */
};

/*
 * `word` is an output_dir, or the name of a run when a Redis is known; without it --config FILE says where
 * the run is, and without both it is the present folder. Redis: --redis-url, LORAD_REDIS_URL, or the
 * configuration's, with --redis-prefix or the configuration's. Borrows from `command`. Owns: *out, freed with
 * found_run_free.
 */
enum status find_run(struct found_run *out, const struct command *command,
                     const char *word) LORAD_WARN_UNUSED;
void found_run_free(struct found_run *found);

#endif
