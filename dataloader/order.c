/*
 * order.c: see order.h.
 *
 * Invariants:
 * (1) the window that `at` names is loaded; at.pack is at most its number of packs, and when it is equal the next
 *     call moves on. rows_before is first[at.pack].
 * (2) pack k of the window holds rows slot[first[k]] .. slot[first[k + 1] - 1].
 */
#include "dataloader/order.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "dataloader/packing.h"
#include "dataloader/sampler.h"

struct order {
    const struct dataset *dataset;
    struct packer *packer; /* NULL without packing */
    uint64_t seed;
    bool shuffle;
    int64_t n_rows, n_windows;

    struct data_cursor at;
    int64_t rows_before;  /* rows of this window in packs before `at` */
    int64_t loaded_epoch; /* of `permutation`; -1: none */
    struct permutation permutation;
    int32_t n_packs;
    int32_t first[ORDER_WINDOW + 1]; /* [n_packs + 1] */
    int64_t slot[ORDER_WINDOW];      /* dataset rows, pack by pack */
    int64_t row[ORDER_WINDOW];       /* dataset rows in the order of the permutation */
    int32_t length[ORDER_WINDOW];
};

static enum status check_lengths(const struct dataset *dataset, int32_t cutoff_len)
{
    int64_t n = dataset_raw_rows(dataset);
    if (n == 0) return FAIL(LORAD_DATA, "the prepared data holds no rows");
    for (int64_t i = 0; i < n; i++) {
        struct dataset_row row = dataset_row(dataset, i);
        if (row.n_tokens > cutoff_len)
            return FAIL(LORAD_DATA,
                        "%s:%lld has %d tokens, more than cutoff_len %d: prepare the data for this length",
                        dataset_source_name(dataset, row.source), (long long)row.line, row.n_tokens,
                        cutoff_len);
    }
    return LORAD_OK;
}

enum status order_create(struct order **out, const struct dataset *dataset,
                         const struct loader_options *options)
{
    TRY(check_lengths(dataset, options->cutoff_len));
    struct order *order = memory_new(1, sizeof *order);
    if (!order) return LORAD_NOMEM;
    order->dataset = dataset;
    order->seed = options->data_seed;
    order->shuffle = options->shuffle;
    order->n_rows = dataset_raw_rows(dataset);
    order->n_windows = (order->n_rows + ORDER_WINDOW - 1) / ORDER_WINDOW;
    order->loaded_epoch = -1;
    enum status status = LORAD_OK;
    if (options->packing) status = packer_create(&order->packer, ORDER_WINDOW, options->cutoff_len);
    if (status == LORAD_OK) status = order_seek(order, (struct data_cursor){0});
    if (status == LORAD_OK)
        *out = order;
    else
        order_destroy(order);
    return status;
}

void order_destroy(struct order *order)
{
    if (!order) return;
    packer_destroy(order->packer);
    free(order);
}

/* Cuts the window into packs and lays them out in the order in which they are served. */
static void load_packs(struct order *order, int32_t n)
{
    if (!order->packer) {
        order->n_packs = n;
        for (int32_t i = 0; i <= n; i++) order->first[i] = i;
        memcpy(order->slot, order->row, (size_t)n * sizeof *order->slot);
        return;
    }
    for (int32_t i = 0; i < n; i++) order->length[i] = dataset_row(order->dataset, order->row[i]).n_tokens;
    struct packing packing = packer_run(order->packer, order->length, n);
    struct permutation mixed;
    if (order->shuffle)
        permutation_init(&mixed, (uint64_t)packing.n_packs,
                         random_key(order->seed, RANDOM_PACK_ORDER, (uint64_t)order->at.epoch,
                                    (uint64_t)order->at.window, 0));
    int32_t filled = 0;
    for (int32_t k = 0; k < packing.n_packs; k++) {
        int32_t pack = order->shuffle ? (int32_t)permutation_at(&mixed, (uint64_t)k) : k;
        order->first[k] = filled;
        for (int32_t i = packing.start[pack]; i < packing.start[pack + 1]; i++)
            order->slot[filled++] = order->row[packing.item[i]];
    }
    order->first[packing.n_packs] = filled;
    order->n_packs = packing.n_packs;
}

static void load_window(struct order *order)
{
    if (order->shuffle && order->loaded_epoch != order->at.epoch) {
        permutation_init(&order->permutation, (uint64_t)order->n_rows,
                         random_key(order->seed, RANDOM_ROW_ORDER, (uint64_t)order->at.epoch, 0, 0));
        order->loaded_epoch = order->at.epoch;
    }
    int64_t begin = order->at.window * ORDER_WINDOW, left = order->n_rows - begin;
    int32_t n = left < ORDER_WINDOW ? (int32_t)left : ORDER_WINDOW;
    int32_t kept = 0; /* rows that were rejected are holes in the order */
    for (int32_t i = 0; i < n; i++) {
        int64_t row =
            order->shuffle ? (int64_t)permutation_at(&order->permutation, (uint64_t)(begin + i)) : begin + i;
        if (dataset_length(order->dataset, row) > 0) order->row[kept++] = row;
    }
    load_packs(order, kept);
}

/* Past the end of a window: to the next one that has packs (every window has some). */
static void normalise(struct order *order)
{
    while (order->at.pack >= order->n_packs) {
        order->at.pack = 0;
        order->rows_before = 0;
        if (++order->at.window == order->n_windows) {
            order->at.window = 0;
            order->at.epoch++;
        }
        load_window(order);
    }
}

enum status order_seek(struct order *order, struct data_cursor from)
{
    if (from.epoch < 0 || from.window < 0 || from.window >= order->n_windows || from.pack < 0)
        goto no_such_place;
    order->at = from;
    load_window(order);
    if (from.pack > order->n_packs) goto no_such_place;
    order->rows_before = order->first[from.pack];
    normalise(order);
    return LORAD_OK;
no_such_place:
    return FAIL(LORAD_DATA,
                "the data has no place epoch %lld, window %lld, pack %lld (%lld windows): it is not the data "
                "that this "
                "position was saved for",
                (long long)from.epoch, (long long)from.window, (long long)from.pack,
                (long long)order->n_windows);
}

struct pack order_next(struct order *order, bool *last_of_epoch)
{
    /* A window is left only when its successor is asked for, so that the rows lent out stay valid. */
    normalise(order);
    int32_t begin = order->first[order->at.pack], end = order->first[order->at.pack + 1];
    struct pack pack = {.rows = order->slot + begin, .n_rows = end - begin};
    for (int32_t i = 0; i < pack.n_rows; i++) {
        struct dataset_row row = dataset_row(order->dataset, pack.rows[i]);
        pack.n_tokens += row.n_tokens;
        pack.n_supervised += row.n_supervised;
    }
    order->at.pack++;
    order->rows_before = end;
    *last_of_epoch = order->at.pack == order->n_packs && order->at.window + 1 == order->n_windows;
    return pack;
}

struct data_cursor order_cursor(const struct order *order)
{
    struct data_cursor at = order->at;
    if (at.pack < order->n_packs) return at;
    if (at.window + 1 < order->n_windows) return (struct data_cursor){at.epoch, at.window + 1, 0};
    return (struct data_cursor){at.epoch + 1, 0, 0};
}

double order_epoch(const struct order *order)
{
    int64_t before = order->at.window * ORDER_WINDOW + order->rows_before;
    return (double)order->at.epoch + (double)before / (double)order->n_rows;
}

int64_t order_packs_of_epoch(struct order *order, int64_t epoch)
{
    if (!order->packer) return dataset_kept_rows(order->dataset);
    struct data_cursor saved = order->at;
    int64_t saved_rows = order->rows_before, packs = 0;
    for (int64_t window = 0; window < order->n_windows; window++) {
        order->at = (struct data_cursor){epoch, window, 0};
        load_window(order);
        packs += order->n_packs;
    }
    order->at = saved;
    order->rows_before = saved_rows;
    load_window(order);
    return packs;
}
