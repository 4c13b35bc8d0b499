#include "trainer/request.h"

#include <signal.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "trainer/boundary.h"

static const double POLL_SECONDS = 0.25;
static const double MPIRUN_SECONDS = 2; /* from TERM to KILL in Open MPI 4 */

static volatile sig_atomic_t wants_checkpoint, wants_stop;

void run_request(bool checkpoint, bool stop)
{
    if (checkpoint) wants_checkpoint = 1;
    if (stop) wants_stop = 1;
}

bool request_wants_stop(void)
{
    return wants_stop;
}

uint32_t request_wants(void)
{
    uint32_t wants = wants_stop ? BOUNDARY_WANTS_STOP : 0u;
    if (!wants_checkpoint) return wants;
    wants_checkpoint = 0; /* only what was seen: a signal may come at any line */
    return wants | BOUNDARY_WANTS_SAVE;
}

enum status request_agree(bool *stop, struct comm *world)
{
    int32_t any = wants_stop;
    TRY(comm_host_all_reduce(world, &any, 1, DTYPE_I32, COMM_MAX));
    *stop = any;
    return LORAD_OK;
}

enum status request_check(struct comm *world)
{
    bool stop;
    TRY(request_agree(&stop, world));
    return stop ? FAIL(LORAD_REQUEUE, "stopped on request") : LORAD_OK;
}

enum status request_poll(struct request_poll *poll, struct comm *world, bool *stop)
{
    if (!poll->start_ns) { /* the first round opens files and warms up */
        poll->start_ns = clock_monotonic_ns();
        return LORAD_OK;
    }
    if (++poll->rounds < poll->next) return LORAD_OK;
    double all[2] = {wants_stop ? 1 : 0, clock_seconds_since(poll->start_ns) / (double)poll->rounds};
    TRY(comm_host_all_reduce(world, all, 2, DTYPE_F64, COMM_MAX));
    *stop = all[0] > 0;
    poll->next = poll->rounds + (all[1] * 1000 > POLL_SECONDS ? (int64_t)(POLL_SECONDS / all[1]) : 1000);
    return LORAD_OK;
}

double request_grace_seconds(const struct run_options *options, const char **who)
{
    const char *announced = getenv("LORAD_GRACE_SECONDS");
    double seconds = announced ? atof(announced) : 0;
    *who = "LORAD_GRACE_SECONDS";
    if (seconds > 0) return seconds;
    *who = "stop_grace_seconds";
    if (options->stop_grace_seconds > 0) return options->stop_grace_seconds;
    *who = "mpirun";
    return getenv("OMPI_COMM_WORLD_SIZE") ? MPIRUN_SECONDS : 0;
}

void request_compare_grace(const struct run_options *options, double step_seconds, double save_seconds)
{
    static bool told;
    const char *who;
    double given = request_grace_seconds(options, &who), needed = step_seconds + save_seconds;
    if (told || given <= 0 || needed <= given) return;
    told = true;
    log_warn(
        "to stop takes up to %.1f s (a step %.1f s, a checkpoint %.1f s), but %s leaves %.0f s from TERM to "
        "the end: the work since the last checkpoint would be lost. Start with `lorad run`, announce more "
        "time, or save more often",
        needed, step_seconds, save_seconds, who, given);
}
