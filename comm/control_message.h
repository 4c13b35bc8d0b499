/*
 * control_message.h: what is said between a running job and who asks it: one JSON object a line
 * (docs/control.md). Requests come from anywhere, replies from a lorad that may be of another version: both
 * are read with limits and refused with a reason. Private to comm/, and to its fuzz target.
 */
#ifndef LORAD_COMM_CONTROL_MESSAGE_H
#define LORAD_COMM_CONTROL_MESSAGE_H

#include "base/strbuf.h"
#include "comm/control.h"
#include "comm/coord.h"

enum { CONTROL_REQUEST_BYTES = 4096, CONTROL_REPLY_BYTES = 1 << 20 };

/* {"verb": "set", "key": "learning_rate", "value": "1e-5", "at_step": 120, "id": "7"}; no newline. */
void control_request_write(struct strbuf *out, const struct coord_command *request);
/* LORAD_USAGE says what is wrong with it; *out then has the id where there was one. */
enum status control_request_read(struct coord_command *out, const char *text,
                                 size_t length) LORAD_WARN_UNUSED;

bool control_is_status(const struct coord_command *request);
bool control_is_stop_now(const struct coord_command *request);

/* {"id": "7", "status": "ok", "text": "..."} or, run not NULL, {..., "run": {...}}; no newline. */
void control_reply_write(struct strbuf *out, const char *id, enum status status, const char *text,
                         const char *run);
/* LORAD_DATA. Owns: *out. */
enum status control_reply_read(struct control_reply *out, const char *text, size_t length) LORAD_WARN_UNUSED;

#endif
