/*
 * inbox.h: requests from outside that wait for a step boundary, whichever channel brought them, and the way
 * back to whoever sent them. Private to comm/.
 */
#ifndef LORAD_COMM_INBOX_H
#define LORAD_COMM_INBOX_H

#include <stdbool.h>

#include "base/status.h"
#include "comm/coord.h"

struct inbox;

/* A channel: OUT/control.sock, a Redis stream. `answer` is called once for every command that it put, on the
 * thread that answers, and must not block: it hands the text to the channel's own thread. */
struct inbox_channel {
    void (*answer)(void *context, const char *id, enum status status, const char *text);
    void *context;
};

enum { INBOX_CAPACITY = 64 };

/* Owns: *out. Thread: all functions but create and destroy are safe from any thread. */
enum status inbox_create(struct inbox **out) LORAD_WARN_UNUSED;
/* Commands still in it are answered: the run has ended. Nothing can be put into it any more. */
void inbox_close(struct inbox *inbox);
/* Closes it first. NULL ok. */
void inbox_destroy(struct inbox *inbox);

/* false: full, or closed; not taken, and the channel says so to the sender. */
bool inbox_put(struct inbox *inbox, const struct coord_command *command,
               struct inbox_channel channel) LORAD_WARN_UNUSED;
int inbox_waiting(struct inbox *inbox);
bool inbox_take(struct inbox *inbox, struct coord_command *out);
void inbox_answer(struct inbox *inbox, const char *id, enum status status, const char *text);

#endif
