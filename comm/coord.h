/*
 * coord.h: coordination of a run with the world outside its ranks: who owns an output_dir, and the fencing
 * epoch that keeps an old run from committing. Backends: file (always), redis (later, behind the same
 * functions).
 *
 * The file system decides; any other backend only makes it better. Rank 0 calls these functions.
 *   OUT/LOCK              advisory lock (open file description) + owner text: the fast refusal
 *   OUT/epoch/e0000000007 created with O_CREAT|O_EXCL: claims an epoch; contents: the owner record
 *   OUT/epoch/e0000000007.resume  {"base_step":..,"base_epoch":..,"base_manifest":".."}: what that epoch
 * started from OUT/heartbeat.json    replaced every few seconds by rank 0: owner, step, time Thread:
 * coord_heartbeat may run on its own thread; the rest on the main thread.
 */
#ifndef LORAD_COMM_COORD_H
#define LORAD_COMM_COORD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct coord;

struct coord_options {
    const char *output_dir; /* must exist */
    const char *run_name;
    const char *job_id; /* SLURM_JOB_ID or NULL */
    int restart_count;  /* SLURM_RESTART_COUNT or 0 */
    bool takeover;      /* take over from a live owner (fencing it) */
    int heartbeat_ms;   /* 0: 5000; a heartbeat is stale after twelve of these */
};

/*
 * Claims output_dir. LORAD_CANNOT_CREATE when another live run owns it (names its host, process, since when),
 * or when the folder is not writable. An owner counts as live when it holds the lock, or when it ran on
 * another host, did not leave, and its heartbeat is fresh; the lock alone decides about owners on this host,
 * so a run that was killed can be started again at once. A stale heartbeat of another host is watched for two
 * periods first, since clocks of hosts differ (blocks about 11 s). A live owner is fenced, not refused, when
 * it is an earlier start of the same job (same job_id, lower restart_count) or takeover is set. Then claims
 * epoch = max(existing epochs, at_least) + 1, durably, and starts the heartbeat. Owns: *out.
 */
enum status coord_join(struct coord **out, const struct coord_options *options,
                       int64_t at_least) LORAD_WARN_UNUSED;
void coord_leave(
    struct coord *coord); /* stops the heartbeat, marks the end in it, releases the lock; NULL ok */

int64_t coord_epoch(const struct coord *coord);

/* Records what this epoch resumed from; before the first new checkpoint. Durable when it returns. */
enum status coord_record_resume(struct coord *coord, int64_t base_step, int64_t base_epoch,
                                const char *manifest_hash) LORAD_WARN_UNUSED;
/* Is checkpoint (step, epoch) void because a later epoch resumed from an earlier step? Reads epoch/ .resume
 * records. */
enum status coord_is_fenced(bool *out, const char *output_dir, int64_t step, int64_t epoch) LORAD_WARN_UNUSED;
/* LORAD_FENCED when a later epoch than ours exists: this run must end with exit 76 and commit nothing. */
enum status coord_check_owner(struct coord *coord) LORAD_WARN_UNUSED;

/* Notes progress for the next heartbeat; does not touch the disk. */
void coord_heartbeat(struct coord *coord, int64_t step, const char *phase);

#endif
