/* ranks.h: how a verb runs on all ranks of a job, and how their processes end. */
#ifndef LORAD_LAUNCH_RANKS_H
#define LORAD_LAUNCH_RANKS_H

#include "launch/command.h"

/* Signals, MPI, the agreed configuration, the verb, the end. Returns this process's exit code. */
int run_on_ranks(const struct command *command);

/* In this process alone: no MPI, no signal handlers. */
int run_alone(const struct command *command);

#endif
