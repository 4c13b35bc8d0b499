/*
 * replay.h: whether a run replays the work of micro-batches it has recorded (cuda_graphs). Both ways compute
 * the same bits, so which is faster here, with this model and these batches, is measured: steps go one way
 * and the other in turn until each has been timed REPLAY_TRIALS times, and the smaller median stays. It is
 * told of the step of all ranks, which so decide alike.
 */
#ifndef LORAD_TRAINER_REPLAY_H
#define LORAD_TRAINER_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "trainer/trainer.h"

enum { REPLAY_TRIALS = 8, REPLAY_PATIENCE = 64 /* steps, after which batches differ too much */ };

struct replay {
    enum cuda_graphs wish;
    bool decided, chosen;
    bool now;                      /* the step in progress replays */
    bool told;                     /* that it replays, as was wished */
    int32_t steps;                 /* of the trial */
    int32_t n[2];                  /* timed: without, with */
    double pace[2][REPLAY_TRIALS]; /* seconds a token */
};

/* can: the model can replay (model_can_replay); else it never does. */
void replay_init(struct replay *replay, bool can, enum cuda_graphs wish);
/* Before the first micro-batch of a step: whether its passes ask for a replay. */
bool replay_begin(struct replay *replay);

struct replay_step {
    double seconds; /* of the slowest rank, without waiting for others */
    int64_t tokens;
    int64_t passes, replayed; /* of the passes, how many were */
};
/* The step of one more rank. */
void replay_join(struct replay_step *all, const struct replay_step *one);
/* After the last, of all ranks: whether it was decided now, against recordings. */
bool replay_end(struct replay *replay, const struct replay_step *step);

#endif
