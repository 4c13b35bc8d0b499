#include "trainer/straggler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "trainer/run_event.h"

enum { WINDOW = 30, ENOUGH = 20, CONFIRM = 15 };
static const double FLAGGED_BELOW = 0.7, CLEARED_ABOVE = 0.8;

struct member {
    char host[STRAGGLER_HOST_BYTES];
    double paces[WINDOW]; /* seconds per work, a ring */
    int64_t n;            /* steps with work so far */
    double score;         /* 1: as fast as the others */
    int low;              /* steps in a row below FLAGGED_BELOW */
    bool flagged;
};

struct straggler {
    int world;
    double *sorted; /* [world] */
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
    free(hosts);
    return status;
}

void straggler_close(struct straggler *straggler)
{
    if (!straggler) return;
    free(straggler->sorted);
    free(straggler);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double lower_median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return values[(n - 1) / 2];
}

static double pace_of(const struct member *member)
{
    double paces[WINDOW];
    memcpy(paces, member->paces, sizeof paces);
    return lower_median(paces, member->n < WINDOW ? (int)member->n : WINDOW);
}

static void tell(const struct straggler *straggler, int rank, int64_t step, struct coord *coord)
{
    const struct member *member = &straggler->members[rank];
    struct strbuf json = STRBUF_EMPTY;
    double factor = 1 / member->score;
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

static void judge(struct straggler *straggler, int rank, double reference, int64_t step, struct coord *coord)
{
    struct member *member = &straggler->members[rank];
    bool was = member->flagged;
    member->score = reference / pace_of(member);
    member->low = member->score < FLAGGED_BELOW ? member->low + 1 : 0;
    if (member->low >= CONFIRM) member->flagged = true;
    if (member->score > CLEARED_ABOVE) member->flagged = false;
    if (member->flagged != was) tell(straggler, rank, step, coord);
}

void straggler_step(struct straggler *straggler, const struct boundary_report *reports, int64_t step,
                    struct coord *coord)
{
    if (!straggler) return;
    int known = 0;
    for (int r = 0; r < straggler->world; r++) {
        struct member *member = &straggler->members[r];
        if (reports[r].own_work > 0 && reports[r].own_seconds > 0)
            member->paces[member->n++ % WINDOW] = reports[r].own_seconds / reports[r].own_work;
        if (member->n >= ENOUGH) straggler->sorted[known++] = pace_of(member);
    }
    if (known < straggler->world) return;
    double reference = lower_median(straggler->sorted, known);
    for (int r = 0; r < straggler->world; r++) judge(straggler, r, reference, step, coord);
}

int straggler_text(const struct straggler *straggler, struct strbuf *out)
{
    int n = 0;
    for (int r = 0; straggler && r < straggler->world; r++) {
        const struct member *member = &straggler->members[r];
        if (!member->flagged) continue;
        strbuf_printf(out, "%srank %d on host %s works %.2f times as long", n++ ? ", " : "", r, member->host,
                      1 / member->score);
    }
    return n;
}
