/*
 * order.h: the fixed order of a dataset as a stream of packs. Index only: it never touches a token.
 *
 * An epoch is a keyed permutation of the rows (file order without shuffle), cut into windows of ORDER_WINDOW
 * rows. Each window is packed by itself and its packs are permuted by a key of their own, so any place of any
 * epoch is reached by packing one window. Pure function of (row lengths, data_seed, shuffle, packing,
 * cutoff_len).
 */
#ifndef LORAD_DATALOADER_ORDER_H
#define LORAD_DATALOADER_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "dataloader/dataloader.h"

enum { ORDER_WINDOW = 4096 };

struct order;

/* Borrows dataset. LORAD_DATA: no rows, or a row longer than cutoff_len. Owns: *out. */
enum status order_create(struct order **out, const struct dataset *dataset,
                         const struct loader_options *options) LORAD_WARN_UNUSED;
void order_destroy(struct order *order);

struct pack {
    const int64_t *rows; /* [n_rows] dataset row numbers; borrowed until the next order_ call */
    int32_t n_rows, n_tokens, n_supervised;
};

/* Continues behind `from`. LORAD_DATA when the dataset has no such place. */
enum status order_seek(struct order *order, struct data_cursor from) LORAD_WARN_UNUSED;
/* The next pack, wrapping into the next epoch; *last_of_epoch says that the epoch is over with it. */
struct pack order_next(struct order *order, bool *last_of_epoch);
/* Behind the pack given last; normalised: it names a window that has packs left. */
struct data_cursor order_cursor(const struct order *order);
/* Share of the current epoch's rows that lie before the cursor, plus the epoch's number. */
double order_epoch(const struct order *order);
/* Packs of a whole epoch, found by packing every window. Keeps the place. */
int64_t order_packs_of_epoch(struct order *order, int64_t epoch);

#endif
