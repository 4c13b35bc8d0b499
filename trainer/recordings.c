#include "trainer/recordings.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"

enum { MOST_RECORDINGS = 32 }; /* a few MiB each for a large model; beyond them the one unused longest goes */

struct recorded {
    struct recording_shape shape;
    struct device_recording *recording; /* NULL: the shape was met once */
    int64_t used;                       /* when, by the clock below */
};

struct recordings {
    struct device *device;
    struct recorded entry[MOST_RECORDINGS];
    int32_t n;
    int64_t clock, replays;
    bool refused;
};

_Static_assert(sizeof(struct recording_shape) == 6 * 4 + sizeof(void *),
               "shapes are compared by their bytes");

enum status recordings_create(struct recordings **out, struct device *device)
{
    struct recordings *recordings = memory_new(1, sizeof *recordings);
    if (!recordings) return LORAD_NOMEM;
    recordings->device = device;
    *out = recordings;
    return LORAD_OK;
}

void recordings_forget(struct recordings *recordings)
{
    for (int32_t i = 0; i < recordings->n; i++)
        device_recording_destroy(recordings->device, recordings->entry[i].recording);
    recordings->n = 0;
}

void recordings_destroy(struct recordings *recordings)
{
    if (!recordings) return;
    recordings_forget(recordings);
    free(recordings);
}

int64_t recordings_replays(const struct recordings *recordings)
{
    return recordings->replays;
}

static struct recorded *find(struct recordings *recordings, const struct recording_shape *shape)
{
    for (int32_t i = 0; i < recordings->n; i++)
        if (memcmp(&recordings->entry[i].shape, shape, sizeof *shape) == 0) return &recordings->entry[i];
    return NULL;
}

static struct recorded *take(struct recordings *recordings, const struct recording_shape *shape)
{
    struct recorded *entry = &recordings->entry[0];
    if (recordings->n < MOST_RECORDINGS) {
        entry = &recordings->entry[recordings->n++];
    } else {
        for (int32_t i = 1; i < recordings->n; i++)
            if (recordings->entry[i].used < entry->used) entry = &recordings->entry[i];
        device_recording_destroy(recordings->device, entry->recording);
    }
    *entry = (struct recorded){.shape = *shape};
    return entry;
}

static enum status record(struct recordings *recordings, struct recorded *entry,
                          enum status (*enqueue)(void *context), void *context)
{
    TRY(device_record_begin(recordings->device));
    enum status status = enqueue(context);
    struct device_recording *recording = NULL;
    enum status end = device_record_end(&recording, recordings->device, status == LORAD_OK);
    if (status == LORAD_OK) status = end;
    entry->recording = recording;
    return status;
}

enum status recordings_run(struct recordings *recordings, const struct recording_shape *shape,
                           enum status (*enqueue)(void *context), void *context)
{
    if (recordings->refused) return enqueue(context);
    struct recorded *entry = find(recordings, shape);
    bool known = entry;
    if (!known) entry = take(recordings, shape);
    entry->used = ++recordings->clock;
    if (!known) return enqueue(context);
    bool recorded = entry->recording;
    if (!recorded && record(recordings, entry, enqueue, context) != LORAD_OK) {
        log_warn("cuda_graphs: off, since the device refuses to record: %s", status_message());
        status_clear();
        recordings_forget(recordings); /* it may have been for want of memory */
        recordings->refused = true;
        return enqueue(context);
    }
    recordings->replays += recorded;
    return device_replay(recordings->device, entry->recording);
}
