/*
 * watchdog.h: ends a run in which a rank hangs. One thread per rank looks at this rank and, through the
 * records of comm/activity.h, at the others of its host. Without it a stopped or looping rank would hold the
 * others for ever: MPI does not notice.
 *
 * The rules, for a limit L that depends on the phase (hang_timeout F, and five times the learned step time):
 *  1. A sign of life is a micro-batch, a collective entered or left, a new phase, or activity_sign.
 *  2. A rank outside any collective that shows none for L hangs, and says so itself at 80 % of L. Time in
 *     which a thread of it wanted a processor and got none counts a tenth: a starved rank is slow, not hung.
 *  3. A process whose own watchdog has not run for F is stopped, whatever the phase; a peer that has waited
 *     as long names it at 90 % of F.
 *  4. A rank that waits in a collective blames nobody who still works. When all ranks it can see wait, for L,
 *     they wait for each other or for another host.
 *  5. Time in which this watchdog did not run itself (the machine was suspended) counts for nobody.
 *  6. A device that waits for peers inside an enqueued collective is a rank that waits; a connection that the
 *     collectives' library knows to be broken ends the run after 3 s.
 *  7. The first to speak ends all ranks with exit code 71.
 */
#ifndef LORAD_TRAINER_WATCHDOG_H
#define LORAD_TRAINER_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Before the first step, in the time for preparing, and for saves the lengths are not known: how many F a
 * rank may stay silent then stands in watchdog.c. */
enum watch_phase {
    WATCH_START,
    WATCH_TRAIN,
    WATCH_WAIT_ROWS,
    WATCH_EVALUATE,
    WATCH_SAVE,
    WATCH_PAUSE,
    WATCH_END
};

struct watchdog;

/* `world` ranks on all hosts. hang_timeout in seconds is F; 0: *out is NULL, nobody watches. In the thread
 * that is watched. Owns: *out. */
enum status watchdog_open(struct watchdog **out, int world, double hang_timeout) LORAD_WARN_UNUSED;
void watchdog_close(struct watchdog *watchdog); /* NULL ok */

/* A phase begins. Cheap: no lock. NULL ok. */
void watchdog_note(struct watchdog *watchdog, enum watch_phase phase, int64_t step);
/* A step took so long: what the limit is learned from. The second longest of the last 20 counts, so that one
 * slow step (the first, as a rule) makes nobody blind. NULL ok. */
void watchdog_learn(struct watchdog *watchdog, double step_seconds);

#endif
