/*
 * run_event.h: an event of a run as a line of logs/events.jsonl (docs/formats/metrics.md): begun, given
 * members of its own, ended with words for people, told.
 */
#ifndef LORAD_TRAINER_RUN_EVENT_H
#define LORAD_TRAINER_RUN_EVENT_H

#include <stdint.h>

#include "base/strbuf.h"
#include "comm/coord.h"

/* {"time":"...","event":"checkpoint","step":120; members follow as `,"name":value` */
void run_event_begin(struct strbuf *out, const char *event, int64_t step);
/* ,"text":"..."} */
void run_event_end(struct strbuf *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Tells it and frees it. coord NULL: nobody. */
void run_event_tell(struct strbuf *event, struct coord *coord);

#endif
