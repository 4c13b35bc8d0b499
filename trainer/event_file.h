/*
 * event_file.h: a TensorBoard event file: TFRecord framing around Event messages
 * (tensorflow/core/util/event.proto, summary.proto), encoded here because the part that scalars need is four
 * fields.
 */
#ifndef LORAD_TRAINER_EVENT_FILE_H
#define LORAD_TRAINER_EVENT_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct event_file;

struct event_value {
    const char *tag;
    double value; /* stored as f32, which is what the format holds */
};

/* Creates folder/events.out.tfevents.<seconds>.<host>.<pid>.<n>. resume_step >= 0 tells readers to drop later
 * steps of older files. LORAD_CANNOT_CREATE. Owns: *out. */
enum status event_file_open(struct event_file **out, const char *folder,
                            int64_t resume_step) LORAD_WARN_UNUSED;
void event_file_close(struct event_file *file); /* NULL ok */

/* One event; never fails the caller (a warning, once). NULL ok. */
void event_file_add(struct event_file *file, int64_t step, const struct event_value *values, int n_values);

/* CRC-32C (Castagnoli) of bytes; the masked form is what TFRecord stores. */
uint32_t event_crc32c(const void *bytes, size_t length);

#endif
