/*
 * read_ahead.h: asks the kernel to read the rows of the next window while the current one is trained on.
 *
 * Rows lie in their shards in another order than an epoch has them, so each is a small read at a place of its
 * own; a window's worth of them, sorted by place, is what a slow disk can do well. It only advises: nothing
 * depends on it.
 */
#ifndef LORAD_DATALOADER_READ_AHEAD_H
#define LORAD_DATALOADER_READ_AHEAD_H

#include "base/status.h"
#include "dataloader/order.h"

struct read_ahead;

/* Borrows dataset. Owns: *out. Without a thread to spare it does nothing. */
enum status read_ahead_create(struct read_ahead **out, const struct dataset *dataset) LORAD_WARN_UNUSED;
void read_ahead_destroy(struct read_ahead *ahead);
/* Advises the window behind the current one. Does nothing for a dataset that is growing: what was just
 * written is in memory. */
void read_ahead_window(struct read_ahead *ahead, const struct order *order);

#endif
