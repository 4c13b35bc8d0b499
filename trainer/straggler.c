#include "trainer/straggler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "trainer/run_event.h"

enum { WARM_UP = 10, RECENT = 9 };
static const double BORDER = 1.2, MOST_RATIO = 1.6, ENOUGH_EVIDENCE = 3;

struct member {
    char host[STRAGGLER_HOST_BYTES];
    double pace;           /* seconds per work of the last step with work; 0: none yet */
    double ratios[RECENT]; /* of its pace to the others', a ring */
    int64_t n;             /* ratios so far */
    double evidence;       /* 0 to ENOUGH_EVIDENCE */
    bool flagged;
};

struct straggler {
    int world;
    double *sorted; /* [world] */
    FILE *trace;    /* NULL: not wanted */
    struct member members[];
};

double straggler_work(const struct arch *arch, const struct micro_batch *batch)
{
    double q = (double)arch->heads * arch->head_dim, kv = (double)arch->kv_heads * arch->head_dim;
    double d = arch->hidden, f = arch->intermediate;
    double linear = d * (2 * q + 2 * kv + 3 * f), pairs = 0;
    for (int32_t s = 0; s < batch->n_sequences; s++) {
        double length = batch->seq_start[s + 1] - batch->seq_start[s];
        pairs += length * length / 2;
    }
    return arch->layers * (batch->n_tokens * linear + 2 * q * pairs) +
           (double)batch->n_supervised * d * arch->vocab;
}

enum status straggler_create(struct straggler **out, int world, const char (*hosts)[STRAGGLER_HOST_BYTES])
{
    struct straggler *straggler =
        memory_new(1, sizeof *straggler + (size_t)world * sizeof *straggler->members);
    double *sorted = memory_new((size_t)world, sizeof *sorted);
    if (!straggler || !sorted) {
        free(sorted);
        free(straggler);
        return LORAD_NOMEM;
    }
    straggler->world = world;
    straggler->sorted = sorted;
    for (int r = 0; r < world; r++) memcpy(straggler->members[r].host, hosts[r], sizeof *hosts);
    *out = straggler;
    return LORAD_OK;
}

enum status straggler_open(struct straggler **out, struct comm *world)
{
    int size = comm_size(world);
    if (size == 1) return LORAD_OK;
    char mine[STRAGGLER_HOST_BYTES] = "",
         (*hosts)[STRAGGLER_HOST_BYTES] = memory_new((size_t)size, sizeof *hosts);
    gethostname(mine, sizeof mine - 1);
    enum status status = comm_agree(world, hosts ? LORAD_OK : LORAD_NOMEM);
    if (status == LORAD_OK) status = comm_host_all_gather(world, mine, hosts, sizeof mine);
    if (status == LORAD_OK && comm_rank(world) == 0)
        status = straggler_create(out, size, (const char(*)[STRAGGLER_HOST_BYTES])hosts);
    const char *trace = getenv("LORAD_STRAGGLER_TRACE");
    if (status == LORAD_OK && *out && trace && !((*out)->trace = fopen(trace, "w")))
        log_warn("cannot write %s, which LORAD_STRAGGLER_TRACE asks for", trace);
    free(hosts);
    return status;
}

void straggler_close(struct straggler *straggler)
{
    if (!straggler) return;
    if (straggler->trace) (void)fclose(straggler->trace);
    free(straggler->sorted);
    free(straggler);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* How many times as long as the others it worked lately: the median. */
static double factor_of(const struct member *member)
{
    double ratios[RECENT];
    int n = member->n < RECENT ? (int)member->n : RECENT;
    memcpy(ratios, member->ratios, sizeof ratios);
    qsort(ratios, (size_t)n, sizeof *ratios, ascending);
    return ratios[n / 2];
}

/* The lower median of n - 1 paces: of the n sorted ones without `mine`. */
static double median_of_others(const double *sorted, int n, double mine)
{
    int middle = (n - 2) / 2;
    return sorted[mine > sorted[middle] ? middle : middle + 1];
}

static void tell(const struct straggler *straggler, int rank, int64_t step, struct coord *coord)
{
    const struct member *member = &straggler->members[rank];
    struct strbuf json = STRBUF_EMPTY;
    double factor = factor_of(member);
    if (member->flagged)
        log_warn("rank %d on host %s is slow: over the steps up to %lld it worked %.2f times as long as the "
                 "others for the same work, and they wait for it; look for other programs, heat and errors "
                 "there",
                 rank, member->host, (long long)step, factor);
    else
        log_info("rank %d on host %s is as fast as the others again (step %lld)", rank, member->host,
                 (long long)step);
    run_event_begin(&json, member->flagged ? "straggler" : "straggler_over", step);
    strbuf_printf(&json, ",\"rank\":%d,\"factor\":%.3f,\"host\":", rank, factor);
    js_write_string(&json, member->host, strlen(member->host));
    run_event_end(&json,
                  member->flagged ? "rank %d on host %s works %.2f times as long as the others"
                                  : "rank %d on host %s is as fast as the others again (%.2f)",
                  rank, member->host, factor);
    run_event_tell(&json, coord);
}

static void judge(struct straggler *straggler, int rank, double others, int64_t step, struct coord *coord)
{
    struct member *member = &straggler->members[rank];
    bool was = member->flagged;
    double ratio = member->pace / others, most = log(MOST_RATIO);
    member->ratios[member->n++ % RECENT] = ratio;
    if (member->n <= WARM_UP) return;
    double gain = fmax(-most, fmin(most, log(ratio))) - log(BORDER);
    member->evidence = fmax(0, fmin(ENOUGH_EVIDENCE, member->evidence + gain));
    if (member->evidence >= ENOUGH_EVIDENCE) member->flagged = true;
    if (member->evidence <= 0) member->flagged = false;
    if (member->flagged != was) tell(straggler, rank, step, coord);
}

static bool had_work(const struct boundary_report *report)
{
    return report->own_work > 0 && report->own_seconds > 0;
}

/* "297.3 - 310.2": picoseconds per work; -: nothing to do. */
static void write_trace(const struct straggler *straggler, const struct boundary_report *reports)
{
    for (int r = 0; r < straggler->world; r++) {
        if (r > 0) fputc(' ', straggler->trace);
        if (had_work(&reports[r]))
            fprintf(straggler->trace, "%.4g", reports[r].own_seconds / reports[r].own_work * 1e12);
        else
            fputc('-', straggler->trace);
    }
    fputc('\n', straggler->trace);
    (void)fflush(straggler->trace);
}

void straggler_step(struct straggler *straggler, const struct boundary_report *reports, int64_t step,
                    struct coord *coord)
{
    if (!straggler) return;
    if (straggler->trace) write_trace(straggler, reports);
    int known = 0;
    for (int r = 0; r < straggler->world; r++) {
        struct member *member = &straggler->members[r];
        if (had_work(&reports[r])) member->pace = reports[r].own_seconds / reports[r].own_work;
        if (member->pace > 0) straggler->sorted[known++] = member->pace;
    }
    if (known < 2) return;
    qsort(straggler->sorted, (size_t)known, sizeof *straggler->sorted, ascending);
    for (int r = 0; r < straggler->world; r++) {
        if (!had_work(&reports[r])) continue;
        double others = median_of_others(straggler->sorted, known, straggler->members[r].pace);
        judge(straggler, r, others, step, coord);
    }
}

int straggler_text(const struct straggler *straggler, struct strbuf *out)
{
    int n = 0;
    for (int r = 0; straggler && r < straggler->world; r++) {
        const struct member *member = &straggler->members[r];
        if (!member->flagged) continue;
        strbuf_printf(out, "%srank %d on host %s works %.2f times as long", n++ ? ", " : "", r, member->host,
                      factor_of(member));
    }
    return n;
}
