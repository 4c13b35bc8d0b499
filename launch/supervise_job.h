/*
 * supervise_job.h: one start of the ranks: mpirun, or a rank alone, with everything that came of it.
 *
 * 1. It runs in a session of its own: what a terminal sends reaches the supervisor only, and everything that
 * is left of the job on this host is known by that session, also after mpirun was killed.
 * 2. It does not outlive the supervisor: the kernel ends it when that dies.
 * 3. The caller is a child subreaper: orphans of a killed mpirun come to it.
 */
#ifndef LORAD_LAUNCH_SUPERVISE_JOB_H
#define LORAD_LAUNCH_SUPERVISE_JOB_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/status.h"

struct job {
    pid_t pid; /* and its session; 0: none runs */
};

/* Starts argv[0], looked up in PATH, with standard input closed; alone: it is a rank, not mpirun. The
 * caller's blocked signals are open again in it. LORAD_NOT_FOUND when it cannot be executed. */
enum status job_start(struct job *out, char *const *argv, bool alone) LORAD_WARN_UNUSED;
void job_signal(const struct job *job, int number); /* to mpirun, which hands USR1 and USR2 to all ranks */

/* true: it has ended, *code is its exit code, or 128 + the signal that killed it. Its number stays its own
 * until job_sweep. Never blocks. */
bool job_ended(const struct job *job, int *code);
/* How many ranks mpirun has started on this host and that still live: its children, except those by which it
 * reaches other hosts. */
int job_ranks(const struct job *job);
void job_kill(const struct job *job); /* all of it on this host; the end is then seen by job_ended */
/* Kills what is left of the session of a job that has ended, waits until it is gone, and forgets the job. */
void job_sweep(struct job *job);

#endif
