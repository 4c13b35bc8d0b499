/*
 * boundary.h: what every rank tells all others at a step boundary. It rides on the exchange of the gradient
 * norm, so it costs no collective of its own; whatever is decided from it is decided alike on all ranks.
 */
#ifndef LORAD_TRAINER_BOUNDARY_H
#define LORAD_TRAINER_BOUNDARY_H

#include <stdint.h>

#include "checkpoint/checkpoint.h"

/* What a rank asks for; the union counts. */
enum { BOUNDARY_WANTS_STOP = 1, BOUNDARY_WANTS_SAVE = 2 };

/* How far a rank is with writing a checkpoint in the background; COMMITTED is rank 0's to say. */
enum save_phase { SAVE_NONE, SAVE_WRITING, SAVE_WRITTEN, SAVE_FAILED, SAVE_COMMITTED };
struct save_vote {
    int64_t step;  /* of the checkpoint */
    int32_t phase; /* enum save_phase */
    struct checkpoint_receipt receipt;
};

/* One is written while the one before it is committed. */
enum { SAVES_IN_FLIGHT = 2 };

/* Plain data: travels as bytes. */
struct boundary_report {
    uint32_t wants;     /* BOUNDARY_WANTS_* */
    int32_t commands;   /* rank 0: requests from outside that wait for this boundary (coord.h) */
    double own_seconds; /* of this step, without waiting in collectives; both filled in by step_finish */
    double own_work;    /* what there was to do in them (straggler_work), 0: nothing */
    struct save_vote saves[SAVES_IN_FLIGHT]; /* not settled yet, the oldest first: the same on all ranks */
};

#endif
