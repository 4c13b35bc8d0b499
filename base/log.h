/*
 * log.h: one line = one event, on standard error, stamped with the rank.
 *
 * Only rank 0 prints below WARN, so a message that every rank would say is said once.
 * Thread: safe; a line is written with one write(2), so lines of several ranks do not mix.
 */
#ifndef LORAD_BASE_LOG_H
#define LORAD_BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

void log_set_level(enum log_level level);
void log_set_rank(int rank, int world); /* before this: rank 0 of 1 */

/* Called before a line is written and after it, so that a progress bar can clear and redraw itself. NULL: none. */
void log_set_hooks(void (*before)(void), void (*after)(void));

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)

#endif
