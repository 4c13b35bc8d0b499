#include "support/pace_trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/strbuf.h"
#include "trainer/straggler.h"

enum { MOST_RANKS = 64, LEAD_STEPS = 60 };

/* One line; *world is 0 before the first. */
static enum status read_line(struct pace_trace *trace, size_t *capacity, char *line, const char *path)
{
    int n = 0;
    double row[MOST_RANKS];
    for (char *rest, *word = strtok_r(line, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) {
        char *end = word + 1;
        if (n == MOST_RANKS) return FAIL(LORAD_DATA, "%s: too many ranks", path);
        row[n] = *word == '-' ? 0 : strtod(word, &end);
        if (*end || !(row[n++] >= 0)) return FAIL(LORAD_DATA, "%s: %s is no pace", path, word);
    }
    if (trace->steps == 0) trace->world = n;
    if (n < 2 || n != trace->world)
        return FAIL(LORAD_DATA, "%s: step %lld has %d ranks", path, (long long)trace->steps, n);
    TRY(memory_grow((void **)&trace->paces, capacity, (size_t)(trace->steps + 1) * (size_t)n, sizeof *row));
    memcpy(trace->paces + trace->steps++ * n, row, (size_t)n * sizeof *row);
    return LORAD_OK;
}

enum status pace_trace_read(struct pace_trace *out, const char *path)
{
    struct pace_trace trace = {0};
    size_t capacity = 0;
    char line[MOST_RANKS * 16];
    FILE *file = fopen(path, "r");
    if (!file) return FAIL(LORAD_IO, "cannot open %s: %s", path, strerror(errno));
    enum status status = LORAD_OK;
    while (status == LORAD_OK && fgets(line, sizeof line, file))
        status = read_line(&trace, &capacity, line, path);
    (void)fclose(file);
    if (status == LORAD_OK)
        *out = trace;
    else
        free(trace.paces);
    return status;
}

static struct straggler *begin(int world)
{
    struct straggler *straggler = NULL;
    char hosts[MOST_RANKS][STRAGGLER_HOST_BYTES] = {{0}};
    for (int r = 0; r < world; r++) snprintf(hosts[r], sizeof hosts[r], "h");
    if (straggler_create(&straggler, world, (const char(*)[STRAGGLER_HOST_BYTES])hosts) != LORAD_OK) abort();
    return straggler;
}

/* A step in which `slow` (-1: nobody) needs `factor` times as long. */
static void replay(struct straggler *straggler, const struct pace_trace *trace, int64_t step, int slow,
                   double factor)
{
    struct boundary_report reports[MOST_RANKS] = {{0}};
    for (int r = 0; r < trace->world; r++) {
        double pace = trace->paces[step * trace->world + r];
        reports[r].own_work = pace > 0;
        reports[r].own_seconds = pace * (r == slow ? factor : 1);
    }
    straggler_step(straggler, reports, step, NULL);
}

/* Whether `rank` is called slow; -1: whether any is. */
static bool is_named(const struct straggler *straggler, int rank)
{
    char words[32];
    struct strbuf text = STRBUF_EMPTY;
    bool named = straggler_text(straggler, &text) > 0;
    snprintf(words, sizeof words, "rank %d on", rank);
    if (named && rank >= 0) named = strstr(strbuf_text(&text), words) != NULL;
    strbuf_free(&text);
    return named;
}

int pace_trace_alarms(const struct pace_trace *trace)
{
    int alarms = 0;
    bool was[MOST_RANKS] = {false};
    struct straggler *straggler = begin(trace->world);
    for (int64_t step = 0; step < trace->steps; step++) {
        replay(straggler, trace, step, -1, 1);
        for (int r = 0; r < trace->world; r++) {
            bool is = is_named(straggler, r);
            alarms += is && !was[r];
            was[r] = is;
        }
    }
    straggler_close(straggler);
    return alarms;
}

int64_t pace_trace_delay(const struct pace_trace *trace, int rank, int64_t at, double factor)
{
    int64_t step = at > LEAD_STEPS ? at - LEAD_STEPS : 0;
    struct straggler *straggler = begin(trace->world);
    for (; step < at; step++) replay(straggler, trace, step, -1, 1);
    bool early = is_named(straggler, -1);
    for (; step < trace->steps && !is_named(straggler, rank); step++)
        replay(straggler, trace, step, rank, factor);
    bool named = is_named(straggler, rank) && !early;
    straggler_close(straggler);
    return named ? step - at : 0;
}
