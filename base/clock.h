/* clock.h: time. Monotonic for durations and deadlines, UTC only for people. */
#ifndef LORAD_BASE_CLOCK_H
#define LORAD_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

int64_t clock_monotonic_ns(void);
double clock_seconds_since(int64_t start_ns);
double clock_unix_seconds(void);
void clock_sleep_ms(int64_t milliseconds);

/* "2026-01-31T09:05:07Z" into text[21]. */
void clock_utc(char text[21]);

#endif
