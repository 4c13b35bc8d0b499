/* processor_time.h: time that this process has used, on all its threads: what a busy machine leaves
 * comparable. */
#ifndef LORAD_TESTS_SUPPORT_PROCESSOR_TIME_H
#define LORAD_TESTS_SUPPORT_PROCESSOR_TIME_H

double processor_seconds(void);

#endif
