/*
 * order.c: see order.h.
 *
 * Invariants:
 * (1) while `loaded`, the window that `at` names is in item, slot and first; at.pack is at most its number of
 *     packs. When it is equal, `next` names the next window of the epoch that holds a row, or the next epoch.
 * (2) pack k of the window holds slot[first[k]] .. slot[first[k + 1] - 1].
 * (3) without packing, `phase` is the number of rows that the epoch has before the window.
 */
#include "dataloader/order.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "dataloader/packing.h"
#include "dataloader/sampler.h"

enum { ROWS_AT_A_TIME = 256 }; /* when looking for one that is no hole */

struct order {
    struct dataset *dataset;
    struct mixture *mixture;
    struct packer *packer; /* NULL without packing */
    uint64_t seed, stage;
    bool shuffle;
    int32_t cutoff_len, micro_batch_size;
    int64_t global_batch_size;

    struct data_cursor at, next;
    bool loaded, ended;
    int64_t positions; /* of the epoch */
    int64_t phase;
    int32_t n_positions; /* of the window */
    int32_t n_items, n_packs;
    int64_t row[ORDER_WINDOW];
    size_t items_capacity, slots_capacity, lengths_capacity, firsts_capacity;
    struct order_item *item; /* [n_items] in the order of the positions */
    struct order_item *slot; /* [n_items] pack by pack, as they are served */
    int32_t *length;         /* [n_items] */
    int32_t *first;          /* [n_packs + 1] */
};

/* ---- making one ---- */

static enum status make_mixture(struct order *order, const struct loader_options *options)
{
    int32_t n = dataset_groups(order->dataset);
    struct mixture_group *groups = memory_new((size_t)n, sizeof *groups);
    if (!groups) return LORAD_NOMEM;
    for (int32_t g = 0; g < n; g++) {
        struct row_range range = dataset_group(order->dataset, g);
        groups[g] = (struct mixture_group){
            .first_row = range.first,
            .n_rows = range.n,
            .weight = options->group_weights ? options->group_weights[g] : 1,
            .max_epochs = options->group_max_epochs ? options->group_max_epochs[g] : 0,
        };
    }
    const struct mixture_options mix = {.strategy = options->mix_strategy,
                                        .seed = options->data_seed,
                                        .stage = options->stage,
                                        .shuffle = options->shuffle,
                                        .appends = options->appends,
                                        .n_appends = options->n_appends};
    enum status status = mixture_create(&order->mixture, groups, n, &mix);
    free(groups);
    return status;
}

static enum status check_options(const struct loader_options *o)
{
    if (o->cutoff_len < 2)
        return FAIL(LORAD_CONFIG, "cutoff_len is %d; it must be at least 2", o->cutoff_len);
    if (o->micro_batch_size < 1)
        return FAIL(LORAD_CONFIG, "per_device_train_batch_size is %d; it must be at least 1",
                    o->micro_batch_size);
    if ((int64_t)o->micro_batch_size * o->cutoff_len > INT32_MAX)
        return FAIL(LORAD_CONFIG, "per_device_train_batch_size %d x cutoff_len %d is more than 2^31 tokens",
                    o->micro_batch_size, o->cutoff_len);
    if (o->global_batch_size < 1)
        return FAIL(LORAD_CONFIG, "global_batch_size is %lld; it must be at least 1",
                    (long long)o->global_batch_size);
    if (o->global_batch_size / o->micro_batch_size >= INT32_MAX)
        return FAIL(LORAD_CONFIG, "global_batch_size %lld is too large", (long long)o->global_batch_size);
    ASSERT(o->dp_size >= 1 && o->dp_rank >= 0 && o->dp_rank < o->dp_size);
    return LORAD_OK;
}

enum status order_create(struct order **out, struct dataset *dataset, const struct loader_options *options)
{
    TRY(check_options(options));
    struct order *order = memory_new(1, sizeof *order);
    if (!order) return LORAD_NOMEM;
    order->dataset = dataset;
    order->seed = options->data_seed;
    order->stage = options->stage;
    order->shuffle = options->shuffle;
    order->cutoff_len = options->cutoff_len;
    order->micro_batch_size = options->micro_batch_size;
    order->global_batch_size = options->global_batch_size;
    enum status status = make_mixture(order, options);
    if (status == LORAD_OK && options->packing)
        status = packer_create(&order->packer, ORDER_WINDOW, options->cutoff_len);
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
    mixture_destroy(order->mixture);
    free(order->item);
    free(order->slot);
    free(order->length);
    free(order->first);
    free(order);
}

int64_t order_repeats(const struct order *order)
{
    return mixture_repeats(order->mixture);
}

/* ---- one window ---- */

/* A complete dataset is not asked, so that several orders may be measured at once. */
static enum status wait_rows(struct order *order, const int64_t *rows, int32_t n)
{
    return dataset_complete(order->dataset) ? LORAD_OK : dataset_wait(order->dataset, rows, n);
}

int64_t order_windows(const struct order *order, int64_t epoch)
{
    return (mixture_positions(order->mixture, epoch) + ORDER_WINDOW - 1) / ORDER_WINDOW;
}

/* The raw rows of a window, prepared. */
static enum status window_rows(struct order *order, int64_t epoch, int64_t window, int32_t *n)
{
    int64_t begin = window * ORDER_WINDOW, left = mixture_positions(order->mixture, epoch) - begin;
    *n = left < ORDER_WINDOW ? (int32_t)left : ORDER_WINDOW;
    mixture_rows(order->mixture, epoch, begin, *n, order->row);
    return wait_rows(order, order->row, *n);
}

static int64_t pieces_of(const struct order *order, int32_t n_tokens)
{
    return n_tokens <= order->cutoff_len ? n_tokens > 0
                                         : ((int64_t)n_tokens + order->cutoff_len - 1) / order->cutoff_len;
}

static enum status reserve(struct order *order, int64_t items)
{
    size_t n = (size_t)items;
    if (items > INT32_MAX / 2) return FAIL(LORAD_DATA, "%d rows hold more than 2^30 pieces", ORDER_WINDOW);
    TRY(memory_grow((void **)&order->item, &order->items_capacity, n, sizeof *order->item));
    TRY(memory_grow((void **)&order->slot, &order->slots_capacity, n, sizeof *order->slot));
    TRY(memory_grow((void **)&order->length, &order->lengths_capacity, n, sizeof *order->length));
    TRY(memory_grow((void **)&order->first, &order->firsts_capacity, n + 1, sizeof *order->first));
    return order->packer ? packer_reserve(order->packer, (int32_t)items) : LORAD_OK;
}

/* What a window holds: holes left out, texts in pieces. */
static enum status load_items(struct order *order, int64_t epoch, int64_t window)
{
    order->loaded = false;
    TRY(window_rows(order, epoch, window, &order->n_positions));
    int64_t items = 0;
    for (int32_t i = 0; i < order->n_positions; i++)
        items += pieces_of(order, dataset_length(order->dataset, order->row[i]));
    TRY(reserve(order, items));
    int32_t n = 0;
    for (int32_t i = 0; i < order->n_positions; i++) {
        int32_t left = dataset_length(order->dataset, order->row[i]);
        for (int32_t at = 0; left > 0; n++) {
            int32_t length = left < order->cutoff_len ? left : order->cutoff_len;
            order->item[n] = (struct order_item){order->row[i], at, length};
            order->length[n] = length;
            at += length;
            left -= length;
        }
    }
    order->n_items = n;
    return LORAD_OK;
}

static uint64_t window_key(const struct order *order, struct data_cursor at)
{
    return random_key(order->seed, RANDOM_PACK_ORDER, (uint64_t)at.epoch, (uint64_t)at.window, order->stage);
}

/* Best-fit packs, permuted. */
static void lay_out_packs(struct order *order, struct data_cursor at)
{
    struct packing packing = packer_run(order->packer, order->length, order->n_items);
    struct permutation mixed;
    if (order->shuffle && packing.n_packs > 0)
        permutation_init(&mixed, (uint64_t)packing.n_packs, window_key(order, at));
    int32_t filled = 0;
    for (int32_t k = 0; k < packing.n_packs; k++) {
        int32_t pack = order->shuffle ? (int32_t)permutation_at(&mixed, (uint64_t)k) : k;
        order->first[k] = filled;
        for (int32_t i = packing.start[pack]; i < packing.start[pack + 1]; i++)
            order->slot[filled++] = order->item[packing.item[i]];
    }
    order->first[packing.n_packs] = filled;
    order->n_packs = packing.n_packs;
}

static int by_length(const void *a, const void *b)
{
    const struct order_item *x = a,
                            *y = b; /* equal lengths: the order of memory, which is that of the positions */
    if (x->n_tokens != y->n_tokens) return x->n_tokens < y->n_tokens ? -1 : 1;
    return x->row != y->row ? (x->row < y->row ? -1 : 1)
                            : (x->first_token > y->first_token) - (x->first_token < y->first_token);
}

/* Rows of the window from its item `begin` on that fall into one micro-batch of the step they belong to. */
static int32_t stretch_of(const struct order *order, int32_t begin)
{
    int64_t in_step = (order->phase + begin) % order->global_batch_size;
    int64_t n = order->micro_batch_size - in_step % order->micro_batch_size;
    if (n > order->global_batch_size - in_step) n = order->global_batch_size - in_step;
    return n < order->n_items - begin ? (int32_t)n : order->n_items - begin;
}

/* Rows one by one, those of a micro-batch of similar length: the sorted rows are dealt in stretches to the
 * window's micro-batches in the order of a permutation. A micro-batch that the window shares with the one
 * before gets the shortest rows, and so does then the one shared with the window behind: both halves of it
 * match. */
static void lay_out_rows(struct order *order, struct data_cursor at)
{
    int32_t n = order->n_items;
    order->n_packs = n;
    for (int32_t i = 0; i <= n; i++) order->first[i] = i;
    if (!order->shuffle || order->micro_batch_size == 1 || n == 0) {
        if (n > 0) memcpy(order->slot, order->item, (size_t)n * sizeof *order->slot);
        return;
    }
    qsort(order->item, (size_t)n, sizeof *order->item, by_length);
    int32_t head =
        order->phase % order->global_batch_size % order->micro_batch_size ? stretch_of(order, 0) : 0;
    int32_t *begin =
        order->length; /* where the whole micro-batches begin; the lengths are not needed any more */
    int32_t n_whole = 0, tail = head;
    while (tail < n) {
        int32_t size = stretch_of(order, tail);
        int64_t end = (order->phase + tail + size) % order->global_batch_size;
        if (tail + size == n && end % order->micro_batch_size != 0) break;
        begin[n_whole++] = tail;
        tail += size;
    }
    memcpy(order->slot, order->item, (size_t)head * sizeof *order->slot);
    memcpy(order->slot + tail, order->item + head, (size_t)(n - tail) * sizeof *order->slot);
    int32_t dealt = head + n - tail;
    struct permutation mixed;
    if (n_whole > 0) permutation_init(&mixed, (uint64_t)n_whole, window_key(order, at));
    for (int32_t k = 0; k < n_whole; k++) {
        int32_t to = begin[permutation_at(&mixed, (uint64_t)k)], size = stretch_of(order, to);
        memcpy(order->slot + to, order->item + dealt, (size_t)size * sizeof *order->slot);
        dealt += size;
    }
}

static enum status load_window(struct order *order, struct data_cursor at)
{
    TRY(load_items(order, at.epoch, at.window));
    order->positions = mixture_positions(order->mixture, at.epoch);
    if (order->packer)
        lay_out_packs(order, at);
    else
        lay_out_rows(order, at);
    order->at = at;
    order->loaded = true;
    return LORAD_OK;
}

enum status order_measure(struct order *order, int64_t epoch, int64_t window, struct window_size *out)
{
    TRY(load_items(order, epoch, window));
    *out = (struct window_size){.packs = order->n_items};
    for (int32_t i = 0; i < order->n_items; i++) out->tokens += order->length[i];
    if (order->packer) out->packs = packer_run(order->packer, order->length, order->n_items).n_packs;
    return LORAD_OK;
}

/* ---- from window to window ---- */

static enum status window_has_rows(struct order *order, int64_t epoch, int64_t window, bool *yes)
{
    int64_t rows[ROWS_AT_A_TIME], end = mixture_positions(order->mixture, epoch), at = window * ORDER_WINDOW;
    if (end > at + ORDER_WINDOW) end = at + ORDER_WINDOW;
    *yes = false;
    for (; at < end && !*yes; at += ROWS_AT_A_TIME) {
        int32_t n = end - at < ROWS_AT_A_TIME ? (int32_t)(end - at) : ROWS_AT_A_TIME;
        mixture_rows(order->mixture, epoch, at, n, rows);
        TRY(wait_rows(order, rows, n));
        for (int32_t i = 0; i < n; i++) *yes |= dataset_length(order->dataset, rows[i]) > 0;
    }
    return LORAD_OK;
}

/* The first window from `from` on that holds a row; the beginning of the next epoch when there is none. */
static enum status find_window(struct order *order, struct data_cursor from, struct data_cursor *out)
{
    int64_t n = order_windows(order, from.epoch);
    for (int64_t window = from.window; window < n; window++) {
        bool yes;
        TRY(window_has_rows(order, from.epoch, window, &yes));
        if (!yes) continue;
        *out = (struct data_cursor){from.epoch, window, 0};
        return LORAD_OK;
    }
    *out = (struct data_cursor){from.epoch + 1, 0, 0};
    return LORAD_OK;
}

/* The cursor behind the last pack of the loaded window. */
static enum status find_next(struct order *order)
{
    return find_window(order, (struct data_cursor){order->at.epoch, order->at.window + 1, 0}, &order->next);
}

/* Loads the first window of an epoch that holds a row, or finds that there are no more epochs. */
static enum status begin_epoch(struct order *order, int64_t epoch)
{
    struct data_cursor at;
    order->phase = 0;
    if (order_windows(order, epoch) == 0) {
        order->at = order->next = (struct data_cursor){epoch, 0, 0};
        order->loaded = false;
        order->ended = true;
        return LORAD_OK;
    }
    TRY(find_window(order, (struct data_cursor){epoch, 0, 0}, &at));
    if (at.epoch != epoch)
        return FAIL(LORAD_DATA, "there is nothing to train on in epoch %lld: all its rows were rejected",
                    (long long)epoch);
    return load_window(order, at);
}

static enum status advance(struct order *order)
{
    struct data_cursor next = order->next;
    if (next.epoch != order->at.epoch) return begin_epoch(order, next.epoch);
    order->phase += order->n_items; /* windows in between are empty */
    return load_window(order, next);
}

static enum status count_phase(struct order *order, struct data_cursor at)
{
    order->phase = 0;
    if (order->packer || !order->shuffle || order->micro_batch_size == 1) return LORAD_OK;
    for (int64_t window = 0; window < at.window; window++) {
        int32_t n;
        TRY(window_rows(order, at.epoch, window, &n));
        for (int32_t i = 0; i < n; i++)
            order->phase += pieces_of(order, dataset_length(order->dataset, order->row[i]));
    }
    return LORAD_OK;
}

static enum status no_such_place(const struct order *order, struct data_cursor from)
{
    return FAIL(
        LORAD_DATA,
        "the data has no place epoch %lld, window %lld, pack %lld (%lld windows): it is not the data that "
        "this position was saved for",
        (long long)from.epoch, (long long)from.window, (long long)from.pack,
        (long long)order_windows(order, from.epoch));
}

enum status order_seek(struct order *order, struct data_cursor from)
{
    int64_t n_windows = order_windows(order, from.epoch);
    order->loaded = order->ended = false;
    if (from.window == 0 && from.pack == 0 && (n_windows > 0 || order_windows(order, from.epoch - 1) > 0))
        return begin_epoch(order, from.epoch);
    if (from.window < 0 || from.window >= n_windows || from.pack < 0) return no_such_place(order, from);
    TRY(count_phase(order, from));
    TRY(load_window(order, (struct data_cursor){from.epoch, from.window, 0}));
    if (from.pack > order->n_packs) return no_such_place(order, from);
    order->at.pack = (int32_t)from.pack;
    if (order->at.pack < order->n_packs) return LORAD_OK;
    TRY(find_next(order));
    return advance(order);
}

/* ---- packs ---- */

/* A piece begins anew, so its first token is no target. */
static void count_piece(const struct dataset_row *row, const struct order_item *item, struct pack *pack)
{
    for (int32_t t = item->first_token + 1; t < item->first_token + item->n_tokens; t++) {
        pack->n_supervised += row->codes[t] != 0;
        pack->weight += (double)row->weight_of[row->codes[t]];
    }
}

static void describe_pack(const struct order *order, struct pack *pack)
{
    for (int32_t i = 0; i < pack->n_items; i++) {
        const struct order_item *item = &pack->items[i];
        struct dataset_row row = dataset_row(order->dataset, item->row);
        pack->n_tokens += item->n_tokens;
        if (item->n_tokens < row.n_tokens && row.codes) {
            count_piece(&row, item, pack);
        } else {
            pack->n_supervised += row.n_supervised;
            pack->weight += row.weight;
        }
    }
}

enum status order_next(struct order *order, struct pack *out)
{
    /* A window is left only when its successor is asked for, so that the items lent out stay valid. */
    if (order->loaded && order->at.pack == order->n_packs) TRY(advance(order));
    if (order->ended)
        return FAIL(
            LORAD_DATA,
            "the data ends with epoch %lld: every dataset has been drawn as often as its epochs allow",
            (long long)order->at.epoch);
    ASSERT(order->loaded);
    int32_t begin = order->first[order->at.pack], end = order->first[order->at.pack + 1];
    struct pack pack = {
        .items = order->slot + begin, .n_items = end - begin, .first_of_window = order->at.pack == 0};
    describe_pack(order, &pack);
    if (order->at.pack + 1 == order->n_packs) {
        TRY(find_next(order));
        pack.last_of_epoch = order->next.epoch != order->at.epoch;
        pack.last = pack.last_of_epoch && order_windows(order, order->next.epoch) == 0;
    }
    order->at.pack++;
    *out = pack;
    return LORAD_OK;
}

struct data_cursor order_cursor(const struct order *order)
{
    return order->loaded && order->at.pack == order->n_packs ? order->next : order->at;
}

double order_epoch(const struct order *order)
{
    struct data_cursor at = order_cursor(order);
    if (!order->loaded || at.epoch != order->at.epoch) return (double)at.epoch;
    double before =
        (double)order->first[order->at.pack] / (double)order->n_items * (double)order->n_positions;
    return (double)at.epoch + ((double)(order->at.window * ORDER_WINDOW) + before) / (double)order->positions;
}

int32_t order_rows_of(const struct order *order, int64_t ahead, int64_t rows[ORDER_WINDOW])
{
    if (!order->loaded || !dataset_complete(order->dataset)) return 0;
    int64_t begin = (order->at.window + ahead) * ORDER_WINDOW, left = order->positions - begin;
    if (left <= 0) return 0;
    int32_t n = left < ORDER_WINDOW ? (int32_t)left : ORDER_WINDOW;
    mixture_rows(order->mixture, order->at.epoch, begin, n, rows);
    return n;
}

int64_t data_cursor_append_epoch(struct data_cursor at)
{
    return at.epoch + (at.window > 0 || at.pack > 0);
}
