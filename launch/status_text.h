/* status_text.h: what a run is doing, for people: the status object of docs/control.md in words.
 * Whoever wrote it, no control character reaches the terminal. */
#ifndef LORAD_LAUNCH_STATUS_TEXT_H
#define LORAD_LAUNCH_STATUS_TEXT_H

#include "base/json.h"
#include "base/strbuf.h"
#include "comm/control.h"

/* Appends some lines about a run that answered; now: seconds since 1970. */
void status_text(struct strbuf *out, const struct json *run, double now);

/* The same for one that did not, from its files; committed_step < 0: no checkpoint. */
void sight_text(struct strbuf *out, const struct control_sight *sight, const char *output_dir,
                int64_t committed_step);
void sight_json(struct strbuf *out, const struct control_sight *sight, const char *output_dir,
                int64_t committed_step);

/* A table of the runs that Redis knows, or a JSON object a line. */
void runs_text(struct strbuf *out, const struct control_run *runs, size_t n);
void runs_json(struct strbuf *out, const struct control_run *runs, size_t n);

/* "12 s", "3 min 20 s", "2 h 5 min", "3 d 4 h" */
void age_text(char text[32], double seconds);

#endif
