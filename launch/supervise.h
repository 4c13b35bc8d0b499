/*
 * supervise.h: `lorad run`: starts the ranks, and starts them again from the newest good checkpoint when they
 * crash or hang. It is outside MPI, so nothing that ends the ranks ends it.
 *
 * - TERM, HUP, USR1: asks the ranks to stop (USR1), waits as the grace allows, then TERM, then KILL; code 75.
 * - INT: the same; a second one ends everything at once with code 130.
 * - USR2: handed on: a checkpoint.
 */
#ifndef LORAD_LAUNCH_SUPERVISE_H
#define LORAD_LAUNCH_SUPERVISE_H

#include <stdbool.h>

#include "base/status.h"

/* What to start, and how often. Borrowed strings. */
struct supervise_plan {
    const char *output_dir;
    char *const *argv;  /* of the first start, NULL-terminated */
    char *const *again; /* of a start that goes on with this job's own checkpoints */
    bool alone;         /* argv is a rank, not mpirun */
    int local_ranks;    /* that argv starts on this host; 0: not known */
    int restarts;       /* at most */
    double grace_seconds;
};

struct claim;
struct scratch;
/* Until the run is over for good. Returns the exit code of the program. Blocks. */
int supervise(const struct supervise_plan *plan, struct claim *claim, const struct scratch *scratch);

/* Whether ranks that ended with this code are started again when nobody asked them to stop. */
bool supervise_starts_again(int code);

#endif
