/* log_text.h: a line of metrics.jsonl or events.jsonl (docs/formats/metrics.md) for people. */
#ifndef LORAD_LAUNCH_LOG_TEXT_H
#define LORAD_LAUNCH_LOG_TEXT_H

#include "base/json.h"
#include "base/strbuf.h"

/* Appends it in words; no newline, and no control character whoever wrote it. */
void log_line_text(struct strbuf *out, const struct json *line);

#endif
