/*
 * activity.h: what the ranks of this host are doing, each as it says itself, for those who watch over a run.
 *
 * Every rank has a record that its main thread writes in passing (a few stores a collective) and that all
 * ranks of the host may read at any time, whatever its owner is stuck in: the records lie in memory that the
 * ranks of a host share. Where they cannot share (containers of their own), a rank sees its own record only.
 *
 * A collective that was enqueued on a device (comm.h, nccl) is left at once and runs later. What it waits for
 * then shows when the main thread waits for its device: it counts as inside the last collective that was
 * enqueued. Without one, a rank that waits for its device is outside any collective.
 */
#ifndef LORAD_COMM_ACTIVITY_H
#define LORAD_COMM_ACTIVITY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/device.h"

struct comm_activity {
    int rank;          /* of the world */
    int64_t pid;       /* meaningful on this host when it was shared */
    const char *what;  /* the collective, a string literal ("all_reduce"), or NULL when not inside one */
    bool on_device;    /* the main thread waits for its device; `what`, if any, is enqueued there */
    int64_t since_ns;  /* clock_monotonic_ns when it was entered, or the last one left */
    uint64_t sequence; /* collectives entered so far */
    int waits_for;     /* the rank of the world that has not come yet, when known; else -1 */
    int64_t waited_ns; /* spent so far inside collectives waiting for others */
    uint64_t signs;    /* of life: grows with every collective and every activity_sign */
    int32_t phase;     /* as activity_note left them */
    int64_t step;
    int64_t looked_ns; /* as activity_looked left them: when its watchdog last ran; 0: it has none */
    int64_t silent_ns; /* and how long it had then seen no sign of life */
};

/* This rank's own. Cheap. Thread: any. */
struct comm_activity comm_activity(void);
/* All ranks of this host that share their records, this one among them; returns how many. Thread: any. */
int activity_of_host(struct comm_activity *out, int most);
enum { ACTIVITY_MOST = 256 };

/* Seconds this rank has waited inside collectives for others so far: through shared memory what it really
 * waited; by messages all the time inside, since MPI does not tell waiting from moving bytes; of what was
 * enqueued on a device all the time it took there, once comm_settle has counted it. */
double activity_waited_seconds(void);

/* device_sync, recorded; or any other wait of the main thread for the whole compute stream, between the two.
 * Nothing is recorded for a device that is the host. */
enum status activity_device_sync(struct device *device) LORAD_WARN_UNUSED;
void activity_device_begin(const struct device *device);
void activity_device_end(const struct device *device);

/* A sign of life from the main thread. Cheap: one add. */
void activity_sign(void);
/* What the main thread does from here on; the number of a phase means what its user makes of it. Also a sign
 * of life. */
void activity_note(int32_t phase, int64_t step);
/* The watchdog of this rank ran, and its main thread has been silent for so long; -1: it runs no more.
 * Thread: the watchdog. */
void activity_looked(int64_t silent_ns);

#endif
