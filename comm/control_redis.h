/* control_redis.h: what those who ask through Redis share. Private to comm/. */
#ifndef LORAD_COMM_CONTROL_REDIS_H
#define LORAD_COMM_CONTROL_REDIS_H

#include "comm/control.h"
#include "comm/redis_keys.h"

enum { CONTROL_REDIS_MS = 5000 }; /* for an exchange */

/* LORAD_CONFIG: the URL or the prefix is wrong. Connects to nothing yet. Owns: *out. */
enum status control_redis_link(struct redis_link **out,
                               const struct control_target *target) LORAD_WARN_UNUSED;
/* LORAD_NOT_FOUND unless the run holds its lease; says what is known of it. */
enum status control_redis_need_live(struct redis_link *link, const struct redis_keys *keys) LORAD_WARN_UNUSED;

#endif
