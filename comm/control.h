/*
 * control.h: asking a running job from outside: `lorad status`, `lorad stop` and the others. The ways to it:
 * OUT/control.sock on its own host, Redis from anywhere.
 *
 * Whoever asks need not know the way: control_open takes what is known of the run and picks one.
 */
#ifndef LORAD_COMM_CONTROL_H
#define LORAD_COMM_CONTROL_H

#include <stdbool.h>
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
    char *text;         /* owned: what was done, or why not */
    char *run;          /* owned: the status object as JSON; NULL: none was asked for */
};
/* *got false: none has come within timeout_ms. LORAD_PEER_LOST: the run went away. Owns: *out when *got. */
enum status control_receive(struct control *control, struct control_reply *out, int timeout_ms,
                            bool *got) LORAD_WARN_UNUSED;
void control_reply_free(struct control_reply *reply);

#endif
