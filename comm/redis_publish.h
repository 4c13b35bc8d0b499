/*
 * redis_publish.h: the commands that write what a run tells into its keys. Private to comm/.
 * Each function appends to the batch.
 */
#ifndef LORAD_COMM_REDIS_PUBLISH_H
#define LORAD_COMM_REDIS_PUBLISH_H

#include "comm/redis_keys.h"
#include "comm/redis_outbox.h"

struct redis_beat {
    int64_t step;
    char phase[32];
};

void redis_publish_beat(struct redis_batch *batch, const struct redis_keys *keys,
                        const struct redis_beat *beat);
/* The run's record, and its place among all runs; runs without a sign of life for a week leave that. */
void redis_publish_info(struct redis_batch *batch, const struct redis_keys *keys,
                        const struct redis_owner *me, const struct redis_beat *beat);
/* The committed checkpoints as the disk has them. Reads the folder. */
void redis_publish_list(struct redis_batch *batch, const struct redis_keys *keys, const char *output_dir);
void redis_publish_entry(struct redis_batch *batch, const struct redis_keys *keys,
                         const struct outbox_entry *entry);

#endif
