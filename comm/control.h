/*
 * control.h: asking a running job from outside: `lorad status`, `lorad stop` and the others. The ways to it:
 * OUT/control.sock on its own host, Redis from anywhere.
 *
 * Whoever asks need not know the way: control_open takes what is known of the run and picks one.
 */
#ifndef LORAD_COMM_CONTROL_H
#define LORAD_COMM_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/coord.h"

/* What the files of output_dir say of the last run in it, without asking it. */
struct control_sight {
    bool known; /* there was one */
    bool here;  /* on this machine, since it was started */
    bool alive; /* here: for certain; elsewhere: its heartbeat is fresh */
    bool ended; /* by itself */
    char run[128], host[128], since[32], time[32], phase[32]; /* time: of the last heartbeat */
    int64_t pid, step, epoch;
    int exit_code;      /* of a run that ended; < 0: not known */
    double age_seconds; /* of the last heartbeat, by this machine's clock */
};
void control_look(struct control_sight *out, const char *output_dir);

/* A run, as far as it is known. Strings are borrowed for the call of control_open. */
struct control_target {
    const char *output_dir; /* NULL: not known, or not to be reached from here */
    const char *run_name;   /* NULL: not known */
    const char *redis_url;  /* NULL: no Redis */
    const char *redis_prefix;
};

/* An open way to a run that was there a moment ago. Thread: one. */
struct control;

/* LORAD_NOT_FOUND: no run answers; says what is known of it and what to do. Owns: *out. */
enum status control_open(struct control **out, const struct control_target *target) LORAD_WARN_UNUSED;
void control_close(struct control *control); /* what was sent stays asked for; NULL ok */

/* The id of the request is the caller's, and different for each that is not answered yet. */
enum status control_send(struct control *control, const struct coord_command *request) LORAD_WARN_UNUSED;

struct control_reply {
    char id[COMMAND_ID_BYTES];
    enum status status; /* LORAD_OK: done */
    char *text;         /* owned: what was done, or why not; without control characters */
    char *run;          /* owned: the status object as JSON; NULL: none was asked for */
};
/* *got false: none has come within timeout_ms. LORAD_PEER_LOST: the run went away. Owns: *out when *got. */
enum status control_receive(struct control *control, struct control_reply *out, int timeout_ms,
                            bool *got) LORAD_WARN_UNUSED;
void control_reply_free(struct control_reply *reply);

/* ---- what Redis tells without asking a run ---- */

struct control_run {
    char name[128], output_dir[1024], host[128], state[32], since[32],
        time[32]; /* time: of its last sign of life */
    int64_t pid, step, epoch;
    bool alive; /* it holds its lease */
};
/* The runs that the Redis of `target` knows, the latest sign of life first, at most 1,000. Owns: *out (free).
 */
enum status control_list(struct control_run **out, size_t *n,
                         const struct control_target *target) LORAD_WARN_UNUSED;

/* The metrics and events of a run in the order in which they came. Thread: one. */
struct control_feed;
/* Begins with the last `past` lines; < 0: with all that Redis has kept. LORAD_NOT_FOUND: it has none, and
 * there is no such run. Owns: *out. */
enum status control_feed_open(struct control_feed **out, const struct control_target *target,
                              int64_t past) LORAD_WARN_UNUSED;
void control_feed_close(struct control_feed *feed); /* NULL ok */
/* The next line, one JSON object. NULL: there is none after timeout_ms (0: of the past). LORAD_NOT_FOUND: the
 * run has ended, and all its lines were read. Borrowed until the next call. */
enum status control_feed_next(struct control_feed *feed, const char **json, int timeout_ms) LORAD_WARN_UNUSED;

#endif
