/*
 * commands.h: carries out what is asked of a running job (comm/coord.h): pause, resume, checkpoint, stop,
 * set.
 *
 * 1. Rank 0 hears requests and refuses those that cannot be done. How many are due at a step boundary rides
 *    on its report (boundary.h); only then are they handed to all ranks, which carry them out alike.
 * 2. What a request is for is done by run.c: COMMANDS_* says what.
 * 3. A request is answered when it is done: one that needs a checkpoint when that is committed.
 */
#ifndef LORAD_TRAINER_COMMANDS_H
#define LORAD_TRAINER_COMMANDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"
#include "comm/coord.h"
#include "trainer/overrides.h"
#include "trainer/teller.h"

enum {
    COMMANDS_SAVE = 1,
    COMMANDS_STOP = 2,
    COMMANDS_RATES = 4
};                           /* RATES: options of the optimizer changed */
enum { COMMANDS_MOST = 64 }; /* requests at a time: those of an inbox */

struct owed; /* done, but for its checkpoint */

struct commands {
    struct coord *coord;     /* rank 0; borrowed */
    struct comm *world;      /* borrowed */
    struct teller *teller;   /* borrowed */
    struct run_state *state; /* borrowed */
    struct override_place place;
    bool paused;                   /* on every rank */
    bool stop;                     /* `lorad stop` was heard, on every rank */
    bool in_hold;                  /* of a pause */
    struct coord_command *waiting; /* [n_waiting] rank 0: heard, for this boundary or a later one */
    struct owed *owed;             /* [n_owed] rank 0 */
    struct coord_command *due;     /* [COMMANDS_MOST] scratch */
    int n_waiting, n_owed;
};

/* The fields above `paused` are filled. commands_close frees what it took. */
enum status commands_open(struct commands *commands) LORAD_WARN_UNUSED;
void commands_close(struct commands *commands);

/* Rank 0: how many requests are due at the boundary after `step`; 0 on other ranks. Cheap when there are
 * none. */
int32_t commands_due(struct commands *commands, int64_t step);
/* Carries out `n` requests, as rank 0 reported, at the boundary after state->step; *asked: COMMANDS_*.
 * Collective when n > 0, and n is the same on all ranks. */
enum status commands_take(struct commands *commands, int32_t n, uint32_t *asked) LORAD_WARN_UNUSED;
/* Answers whose checkpoint is committed or has failed: steps of the last that did; < 0: none. Rank 0. */
void commands_settle(struct commands *commands, int64_t committed_step, int64_t failed_step);

/* While paused, ten times a second: waits, and tells all ranks what came in. `wants`: BOUNDARY_WANTS_* of
 * this rank, then of all. *n: for commands_take. Blocks. Collective. */
enum status commands_wait(struct commands *commands, uint32_t *wants, int32_t *n) LORAD_WARN_UNUSED;
/* The pause has begun: answers who asked for it. It is over. */
void commands_holds(struct commands *commands);
void commands_goes_on(struct commands *commands);

#endif
