/* control_impl.h: what a way to a running job fills in. Only files of this folder include it. Contracts:
 * control.h. */
#ifndef LORAD_COMM_CONTROL_IMPL_H
#define LORAD_COMM_CONTROL_IMPL_H

#include "comm/control.h"

struct control_ops {
    const char *kind;                                  /* in messages: "control.sock" */
    bool (*fits)(const struct control_target *target); /* knows enough of the run to try */
    enum status (*open)(void **out, const struct control_target *target);
    void (*close)(void *state);
    enum status (*send)(void *state, const struct coord_command *request);
    enum status (*receive)(void *state, struct control_reply *out, int timeout_ms, bool *got);
};

extern const struct control_ops control_socket_ops; /* control_dial.c */
extern const struct control_ops control_redis_ops;  /* control_redis.c */

#endif
