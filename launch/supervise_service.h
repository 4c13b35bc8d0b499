/*
 * supervise_service.h: how the job gets on, from OUT/heartbeat.json, and what a service manager hears of it.
 *
 * READY=1 after the first step of a start. WATCHDOG=1 only while steps are made: a run that looks alive but
 * trains no step must not look healthy. A change of phase, a pause that was asked for and a new start count
 * as getting on.
 */
#ifndef LORAD_LAUNCH_SUPERVISE_SERVICE_H
#define LORAD_LAUNCH_SUPERVISE_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "launch/notify.h"

struct service {
    struct notify notify;
    const char *output_dir; /* borrowed */
    int64_t step;           /* of the run as last seen */
    char phase[32];         /* "" before the first heartbeat of this start */
    bool ready, alive;      /* alive: since the watchdog was last told */
    int64_t told_ns;
};

void service_open(struct service *service, const char *output_dir);
void service_close(struct service *service);
void service_started(struct service *service); /* the ranks were started: LORAD_JOB_ID and so on are theirs */
void service_look(struct service *service);    /* from time to time */
void service_stopping(struct service *service);
void service_extend(const struct service *service, int64_t milliseconds); /* of the time to stop */
/* Whether rank 0 has left the folder: the run is over, its processes end. */
bool service_run_is_over(const struct service *service);

#endif
