#include "launch/supervise_service.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "trainer/trainer.h"

enum { HEARTBEAT_BYTES = 64 * 1024 };

void service_open(struct service *service, const char *output_dir)
{
    *service = (struct service){.output_dir = output_dir, .step = -1};
    notify_open(&service->notify);
}

void service_close(struct service *service)
{
    notify_close(&service->notify);
}

void service_started(struct service *service)
{
    service->phase[0] = '\0';
    service->alive = true;
}

/* The heartbeat of this start; false: there is none yet. */
static bool read_heartbeat(const struct service *service, int64_t *step, char phase[32])
{
    struct run_job job = run_job();
    struct json *document = NULL;
    char *path = file_join(service->output_dir, "heartbeat.json");
    bool ours = path && file_exists(path) && js_read_file(&document, path, HEARTBEAT_BYTES) == LORAD_OK;
    const char *id = js_string(js_get(document, "job"), NULL),
               *now = js_string(js_get(document, "phase"), NULL);
    ours = ours && id && now && job.id && strcmp(id, job.id) == 0 &&
           js_int(js_get(document, "restart"), -1) == job.start;
    if (ours) {
        *step = js_int(js_get(document, "step"), -1);
        snprintf(phase, 32, "%s", now);
    }
    js_destroy(document);
    free(path);
    status_clear();
    return ours;
}

static void tell_watchdog(struct service *service)
{
    int64_t now = clock_monotonic_ns();
    if (service->notify.watchdog_ns == 0 || !service->alive) return;
    if (now - service->told_ns < service->notify.watchdog_ns / 4) return;
    notify_send(&service->notify, "WATCHDOG=1");
    service->told_ns = now;
    service->alive = false;
}

void service_look(struct service *service)
{
    int64_t step;
    char phase[32];
    if (read_heartbeat(service, &step, phase)) {
        bool moved = step != service->step || strcmp(phase, service->phase) != 0;
        bool trains = step > 0 && strcmp(phase, "starting") != 0 && strcmp(phase, "ended") != 0;
        service->alive |= moved || strcmp(phase, "paused") == 0;
        service->step = step;
        memcpy(service->phase, phase, sizeof phase);
        if (trains && !service->ready) {
            service->ready = true;
            notify_send(&service->notify, "READY=1\nSTATUS=step %lld, %s", (long long)step, phase);
        } else if (moved) {
            notify_send(&service->notify, "STATUS=step %lld, %s", (long long)step, phase);
        }
    }
    tell_watchdog(service);
}

void service_stopping(struct service *service)
{
    notify_send(&service->notify, "STOPPING=1\nSTATUS=step %lld, saving", (long long)service->step);
}

void service_extend(const struct service *service, int64_t milliseconds)
{
    notify_send(&service->notify, "EXTEND_TIMEOUT_USEC=%lld", (long long)milliseconds * 1000);
}

bool service_run_is_over(const struct service *service)
{
    return strcmp(service->phase, "ended") == 0;
}
