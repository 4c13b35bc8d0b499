/*
 * request.h: what signals ask of a run, where it looks for that, and how much time it has then.
 *
 * A handler sets flags of its own rank (run_request in trainer.h). A branch that all ranks must take together
 * depends on request_agree, or on what the ranks report at a step boundary (boundary.h).
 */
#ifndef LORAD_TRAINER_REQUEST_H
#define LORAD_TRAINER_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"
#include "trainer/trainer.h"

/* Whether this rank was asked to stop. Stays so. Thread: any. */
bool request_wants_stop(void);
/* BOUNDARY_WANTS_* of this rank; the wish for a checkpoint is taken by asking. */
uint32_t request_wants(void);
/* Whether any rank was asked to stop. Collective. */
enum status request_agree(bool *stop, struct comm *world) LORAD_WARN_UNUSED;
/* LORAD_REQUEUE on all ranks when any was asked to stop: for the time before the first step. Collective. */
enum status request_check(struct comm *world) LORAD_WARN_UNUSED;

/* For loops whose rounds are the same on all ranks: asks all ranks about four times a second. */
struct request_poll {
    int64_t start_ns, rounds, next; /* starts zeroed */
};
/* Once a round. *stop is agreed; it is left alone when it is not yet time to ask. Collective. */
enum status request_poll(struct request_poll *poll, struct comm *world, bool *stop) LORAD_WARN_UNUSED;

/* The time that a run has from being asked to stop until it is killed, and who says so; 0: nobody does.
 * LORAD_GRACE_SECONDS (set by `lorad run` and by batch scripts), else stop_grace_seconds, else the two
 * seconds of a mpirun that nobody supervises. */
double request_grace_seconds(const struct run_options *options, const char **who);
/* Warns, once in a process, when a step and a checkpoint take longer than that. */
void request_compare_grace(const struct run_options *options, double step_seconds, double save_seconds);

#endif
