/*
 * prepare_order.h: in which order raw rows are prepared: as training first uses them (epoch 0 of the mixture,
 * then the epochs after it), and at the end those that no epoch uses.
 */
#ifndef LORAD_DATALOADER_PREPARE_ORDER_H
#define LORAD_DATALOADER_PREPARE_ORDER_H

#include <stdint.h>

#include "base/status.h"
#include "dataloader/dataloader.h"

struct prepare_order;

/* Group g is groups[g], weighted as sources[g] says. LORAD_CONFIG: weights that make no sense. Owns: *out. */
enum status prepare_order_create(struct prepare_order **out, const struct row_range *groups,
                                 const struct dataset_source *sources, int32_t n,
                                 const struct mixture_options *options) LORAD_WARN_UNUSED;
void prepare_order_destroy(struct prepare_order *order);
/* The row was prepared before. False: it is none of the rows, or was named already. */
bool prepare_order_done(struct prepare_order *order, int64_t row);
/* The next row; -1: all are done. */
int64_t prepare_order_next(struct prepare_order *order);

#endif
