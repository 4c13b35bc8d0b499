/*
 * watchdog.h: ends a run that hangs. One thread per rank looks once a second whether its rank still gets on;
 * when it has not for the time that the present phase may take, it says which rank, step and collective it is
 * and ends all ranks with exit code 71. Without it a stopped or looping rank would hold the others for ever:
 * MPI does not notice.
 *
 * The rank that hangs outside a collective speaks at the limit; ranks that only wait for another speak a few
 * seconds later, and name the rank they wait for where they can know it, so that the first message names the
 * culprit.
 */
#ifndef LORAD_TRAINER_WATCHDOG_H
#define LORAD_TRAINER_WATCHDOG_H

#include <stdint.h>

#include "base/status.h"

struct watchdog;

/* Starts without a limit. Owns: *out. */
enum status watchdog_open(struct watchdog **out, int rank) LORAD_WARN_UNUSED;
void watchdog_close(struct watchdog *watchdog); /* NULL ok */

/*
 * A sign of life from the main thread, at every step and phase: starts the clock again. `phase` is a string
 * literal
 * ("train", "save"); limit_seconds is how long the rank may stay without the next sign, 0 for no limit
 * (phases whose length nobody knows, such as preparing data). Cheap. NULL ok.
 */
void watchdog_note(struct watchdog *watchdog, int64_t step, const char *phase, double limit_seconds);

#endif
