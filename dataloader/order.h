/*
 * order.h: the fixed order of a dataset as a stream of packs. Index only: it never touches a token (but for
 * the pieces of long texts, whose targets it counts).
 *
 * An epoch is a sequence of positions that hold raw rows (mixture.h), cut into windows of ORDER_WINDOW
 * positions. Inside a window the holes are left out, a row longer than cutoff_len (a text) becomes pieces of
 * that length, and what remains is packed by itself; the packs are permuted by a key of their own. So any
 * place of any epoch is reached by packing one window. Pure function of (row lengths, groups, seed, stage,
 * shuffle, packing, cutoff_len).
 *
 * Without packing a pack is one row or piece, and the rows of a window are so arranged that those which fall
 * into one micro-batch are of similar length; then the order also depends on micro_batch_size and
 * global_batch_size, and a window on how many rows its epoch has before it, which seeking counts.
 */
#ifndef LORAD_DATALOADER_ORDER_H
#define LORAD_DATALOADER_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "dataloader/dataloader.h"

enum { ORDER_WINDOW = 4096 };

struct order;

/* Borrows dataset, which may be growing: everything that returns a status waits for the rows it needs and
 * passes on what dataset_wait says. LORAD_DATA, LORAD_CONFIG: see mixture_create. Owns: *out, which stands
 * nowhere yet. */
enum status order_create(struct order **out, struct dataset *dataset,
                         const struct loader_options *options) LORAD_WARN_UNUSED;
void order_destroy(struct order *order);

/* A row, or a piece of one. */
struct order_item {
    int64_t row;
    int32_t first_token, n_tokens;
};

struct pack {
    const struct order_item *items; /* [n_items]; borrowed until the next order_ call */
    int32_t n_items, n_tokens, n_supervised;
    double weight; /* of the targets */
    bool first_of_window;
    bool last_of_epoch;
    bool last; /* every group has reached its max_epochs: there is no further epoch */
};

/* Continues behind `from`. LORAD_DATA when the dataset has no such place. */
enum status order_seek(struct order *order, struct data_cursor from) LORAD_WARN_UNUSED;
/* The next pack, wrapping into the next epoch. LORAD_DATA behind the last one, or when a whole epoch is
 * holes. */
enum status order_next(struct order *order, struct pack *out) LORAD_WARN_UNUSED;
/* Behind the pack given last. */
struct data_cursor order_cursor(const struct order *order);
/* Share of the current epoch's positions that lie before the cursor, plus the epoch's number. */
double order_epoch(const struct order *order);
/* Raw rows of the window `ahead` windows behind the current one, for reading ahead; 0: the epoch has none, or
 * they may not be prepared yet. */
int32_t order_rows_of(const struct order *order, int64_t ahead, int64_t rows[ORDER_WINDOW]);

/* On paper, of one window alone. Afterwards the order stands nowhere. */
struct window_size {
    int64_t packs, tokens;
};
int64_t order_windows(const struct order *order, int64_t epoch); /* 0: there is no such epoch */
enum status order_measure(struct order *order, int64_t epoch, int64_t window,
                          struct window_size *out) LORAD_WARN_UNUSED;
/* See mixture_repeats. */
int64_t order_repeats(const struct order *order);

#endif
