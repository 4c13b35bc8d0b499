/* job.c: what a run knows of the job that it is a start of, and what an output_dir holds already. */
#include <stdlib.h>

#include "checkpoint/checkpoint.h"
#include "trainer/trainer.h"

enum { MOST_RESTARTS = 100000 }; /* of one supervisor: a requeue counts for more than all of them */

static int count_of(const char *name)
{
    const char *text = getenv(name);
    int count = text ? atoi(text) : 0;
    return count > 0 ? count : 0;
}

struct run_job run_job(void)
{
    const char *slurm = getenv("SLURM_JOB_ID"), *own = getenv("LORAD_JOB_ID");
    int requeues = slurm ? count_of("SLURM_RESTART_COUNT") : 0, restarts = count_of("LORAD_RESTART_COUNT");
    if (requeues >= MOST_RESTARTS / 10) requeues = MOST_RESTARTS / 10 - 1;
    if (restarts >= MOST_RESTARTS) restarts = MOST_RESTARTS - 1;
    return (struct run_job){
        .id = slurm ? slurm : own, .start = requeues * MOST_RESTARTS + restarts, .requeued = requeues > 0};
}

struct run_committed run_committed(const char *output_dir)
{
    struct run_committed found = {.step = -1};
    struct checkpoint_entry *entries;
    size_t n;
    if (checkpoint_list(&entries, &n, output_dir) != LORAD_OK) {
        status_clear();
        return found;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t step = entries[i].id.step, epoch = entries[i].id.epoch;
        if (!entries[i].committed || epoch < found.epoch) continue;
        found.step = epoch > found.epoch || step > found.step ? step : found.step;
        found.epoch = epoch;
    }
    free(entries);
    return found;
}
