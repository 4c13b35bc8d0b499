/*
 * pace_trace.h: how long every rank of a real run worked in every step, as LORAD_STRAGGLER_TRACE wrote it,
 * and what trainer/straggler.h says of it: as it was, or with a rank made slower on paper.
 */
#ifndef LORAD_TESTS_SUPPORT_PACE_TRACE_H
#define LORAD_TESTS_SUPPORT_PACE_TRACE_H

#include <stdint.h>

#include "base/status.h"

struct pace_trace {
    int world;
    int64_t steps;
    double *paces; /* [steps, world], time per work; 0: nothing to do */
};

/* LORAD_DATA, LORAD_IO. Owns: out->paces (free). */
enum status pace_trace_read(struct pace_trace *out, const char *path) LORAD_WARN_UNUSED;

/* How often a rank was called slow. */
int pace_trace_alarms(const struct pace_trace *trace);
/* How many steps after `at`, from which on `rank` needs `factor` times as long, it is named; 0: not by the
 * end of the trace, or a rank was called slow before. */
int64_t pace_trace_delay(const struct pace_trace *trace, int rank, int64_t at, double factor);

#endif
