/*
 * recordings.h: the work of a micro-batch, kept as a recording of the device (kernels/device.h) for every
 * shape that is met again. A replay costs the host one call where the operations cost hundreds, and the
 * device less between them; the bits are the same. Inside trainer/ only.
 */
#ifndef LORAD_TRAINER_RECORDINGS_H
#define LORAD_TRAINER_RECORDINGS_H

#include "base/status.h"
#include "kernels/device.h"
#include "trainer/adapter.h"

struct recordings;

/* All that a micro-batch's operations depend on beside what is in the device's memory. No bytes between the
 * fields. */
struct recording_shape {
    int32_t n_tokens, n_supervised; /* padded: model_batch.c */
    int32_t sequences, longest;
    float gradient_scale, dropout;
    const struct adapter *adapter;
};

/* Borrows the device, which records. Owns: *out. */
enum status recordings_create(struct recordings **out, struct device *device) LORAD_WARN_UNUSED;
void recordings_destroy(struct recordings *recordings);

/* Enqueues what enqueue(context) does: by that call when the shape is new, else by a replay. When the device
 * refuses to record it says so once and goes on without. */
enum status recordings_run(struct recordings *recordings, const struct recording_shape *shape,
                           enum status (*enqueue)(void *context), void *context) LORAD_WARN_UNUSED;
/* How often it replayed so far what had been recorded before that call. */
int64_t recordings_replays(const struct recordings *recordings);
/* Gives back what the recordings hold. Blocks. */
void recordings_forget(struct recordings *recordings);

#endif
