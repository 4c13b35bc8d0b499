/*
 * coord.h: coordination of a run with the world outside its ranks: who owns an output_dir, the fencing epoch
 * that keeps an old run from committing, and what a running job hears and tells. Backends: file (always), and
 * redis beside it when redis_url is set.
 *
 * The file system decides; Redis only makes it better: it is on the path of no step and no commit. Rank 0
 * calls these functions.
 *   OUT/LOCK              advisory lock (open file description) + owner text: the fast refusal
 *   OUT/epoch/e0000000007 created with O_CREAT|O_EXCL: claims an epoch; contents: the owner record
 *   OUT/epoch/e0000000007.resume
 *                         {"base_step":..,"base_epoch":..,"base_manifest":".."}: what that epoch started from
 *   OUT/heartbeat.json    replaced every few seconds by rank 0: owner, step, time
 *   OUT/control.sock      where `lorad status`, `lorad stop` and the others ask (control.h)
 *   OUT/logs/events.jsonl what coord_tell was told; one older file of it beside it
 * Thread: coord_check_owner, coord_heartbeat, coord_tell and coord_note_commit: any; the rest: the main
 * thread.
 */
#ifndef LORAD_COMM_COORD_H
#define LORAD_COMM_COORD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct coord;
struct fs;

struct coord_options {
    const char *output_dir; /* must exist */
    const char *run_name;
    const char *job_id;       /* SLURM_JOB_ID or NULL */
    int restart_count;        /* SLURM_RESTART_COUNT or 0 */
    bool takeover;            /* take over from a live owner (fencing it) */
    int heartbeat_ms;         /* 0: LORAD_HEARTBEAT_MS, else 5000; stale after twelve of the owner's */
    const char *redis_url;    /* NULL: files only. redis://, rediss:// or unix://; see redis_url.h */
    const char *redis_prefix; /* of every key; NULL: "lorad" */
    struct fs *fs;            /* for the epoch's claim and record; NULL: the real file system */
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
/* What the last heartbeat says of the end. NULL ok. */
void coord_note_exit(struct coord *coord, int exit_code);

/* Keeps runs from starting in output_dir while its files are worked on, without claiming an epoch; `who` is
 * what a run that is refused says. LORAD_CANNOT_CREATE when a live run owns it (as coord_join). Owns: *out.
 */
struct coord_hold;
enum status coord_hold(struct coord_hold **out, const char *output_dir, const char *who) LORAD_WARN_UNUSED;
void coord_release(struct coord_hold *hold); /* NULL ok */

/* Records what this epoch resumed from; before the first new checkpoint. Durable when it returns. */
enum status coord_record_resume(struct coord *coord, int64_t base_step, int64_t base_epoch,
                                const char *manifest_hash) LORAD_WARN_UNUSED;
/* Is checkpoint (step, epoch) void because a later epoch resumed from an earlier step? Reads epoch/ .resume
 * records. */
enum status coord_is_fenced(bool *out, const char *output_dir, int64_t step, int64_t epoch) LORAD_WARN_UNUSED;
/* The epoch of the first start of our job (the same job_id) in this output_dir: ours, without a job or an
 * earlier start. What was committed since then is the job's own. */
enum status coord_job_began(int64_t *epoch, struct coord *coord) LORAD_WARN_UNUSED;
/* LORAD_FENCED when a later epoch than ours exists: this run must end with exit 76 and commit nothing. */
enum status coord_check_owner(struct coord *coord) LORAD_WARN_UNUSED;
/* The same for every step: looks at the disk only once the heartbeat's thread saw a later epoch, or when that
 * has not looked for two periods, as in a run that was stopped and goes on. */
enum status coord_check_step(struct coord *coord) LORAD_WARN_UNUSED;

/* Notes progress for the next heartbeat; does not touch the disk. */
void coord_heartbeat(struct coord *coord, int64_t step, const char *phase);

/* ---- what a running job hears ---- */

enum { COMMAND_VERB_BYTES = 16, COMMAND_KEY_BYTES = 64, COMMAND_VALUE_BYTES = 192, COMMAND_ID_BYTES = 64 };

/* A request that takes effect at a step boundary, from OUT/control.sock or from Redis. Plain data: may travel
 * between ranks as bytes. */
struct coord_command {
    char id[COMMAND_ID_BYTES];       /* whom coord_answer answers */
    char verb[COMMAND_VERB_BYTES];   /* "pause", "resume", "checkpoint", "stop", "set" */
    char key[COMMAND_KEY_BYTES];     /* of "set" */
    char value[COMMAND_VALUE_BYTES]; /* of "set"; of "stop": "" or "now" */
    int64_t at_step;                 /* takes effect at the end of this step; 0: of the present one */
};

/* Requests that were not taken yet. Cheap. */
int coord_commands_waiting(struct coord *coord);
/* The oldest of them; false: there is none. Never blocks. */
bool coord_take_command(struct coord *coord, struct coord_command *out);
/* Ends a command that was taken: its sender reads `text`, and whether it was done (LORAD_OK) or why not. Each
 * is answered once; coord_leave answers the rest. Never blocks. */
void coord_answer(struct coord *coord, const struct coord_command *command, enum status status,
                  const char *text);

/* ---- what it tells: never blocks, never fails ---- */

/* What `lorad status` shows until the next call: one JSON object, copied. */
void coord_publish_status(struct coord *coord, const char *json);
enum coord_stream { COORD_EVENTS, COORD_METRICS };
/* One JSON object appended to a stream of bounded length; copied. Metrics are lines of metrics.jsonl. */
void coord_tell(struct coord *coord, enum coord_stream stream, const char *json);
/* A checkpoint was committed: its receipts [world] as JSON texts, and the commit record; copied. */
void coord_note_commit(struct coord *coord, const char *name, int64_t step, const char *record_json,
                       const char *const *receipts_json, int world);

#endif
