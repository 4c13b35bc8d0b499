/*
 * straggler_replay FILE...: what trainer/straggler.h says of runs that wrote their paces with
 * LORAD_STRAGGLER_TRACE: how often it calls a rank of them slow, and how soon after a rank was
 * made 1.3, 1.4, 1.5 or 2 times slower on paper, every rank in turn from every 7th step on.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "support/pace_trace.h"

enum { LATE = 50, EVERY = 7, FIRST = 60, TAIL = 150 };

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_delays(const struct pace_trace *trace, double factor)
{
    int64_t *delays = memory_new((size_t)trace->steps, sizeof *delays), n = 0, late = 0;
    if (!delays) abort();
    for (int64_t at = FIRST; at + TAIL < trace->steps; at += EVERY) {
        int64_t delay = pace_trace_delay(trace, (int)(at / EVERY % trace->world), at, factor);
        if (delay == 0) delay = INT64_MAX;
        late += delay > LATE;
        delays[n++] = delay;
    }
    qsort(delays, (size_t)n, sizeof *delays, ascending);
    if (n > 0)
        printf(
            "  %.1f times: median %lld, 95 of 100 within %lld, all within %lld; %lld of %lld after more than "
            "%d\n",
            factor, (long long)delays[n / 2], (long long)delays[n * 95 / 100], (long long)delays[n - 1],
            (long long)late, (long long)n, LATE);
    free(delays);
}

int main(int argc, char **argv)
{
    static const double factors[] = {1.3, 1.4, 1.5, 2};
    int64_t steps = 0, alarms = 0;
    log_set_level(LOG_ERROR);
    for (int i = 1; i < argc; i++) {
        struct pace_trace trace;
        if (pace_trace_read(&trace, argv[i]) != LORAD_OK) {
            fprintf(stderr, "straggler_replay: %s\n", status_message());
            return 1;
        }
        int found = pace_trace_alarms(&trace);
        printf("%s: %d ranks, %lld steps, %d false alarms\n", argv[i], trace.world, (long long)trace.steps,
               found);
        for (size_t k = 0; k < sizeof factors / sizeof *factors; k++) print_delays(&trace, factors[k]);
        steps += trace.steps;
        alarms += found;
        free(trace.paces);
    }
    printf("%lld false alarms in %lld steps\n", (long long)alarms, (long long)steps);
    return 0;
}
