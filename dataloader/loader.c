/*
 * loader.c: the micro-batches of one data-parallel rank, made ahead by some threads.
 *
 * The threads share two kinds of work. Planning, one thread at a time, walks the order: for each global batch
 * it collects the packs (which gives what every rank must know, struct step_info, into one ring) and then
 * gives each slot of a second ring what it is to hold. Filling copies the tokens into a slot, any slots at
 * the same time. The caller takes from both rings.
 *
 * Invariants:
 * (1) everything after `lock` in struct loader, and slot.state, is written under it, and read under it by the
 *     side that does not write it. Slot i (at i % prefetch) is the caller's while taken <= i < planned and it
 *     is FULL; a thread's while it is FILLING; the planner's when i is not in that range.
 * (2) micro-batch i of a step holds packs [i * micro_batch_size, ...) whatever the layout; this rank makes
 *     those with i % dp_size == dp_rank.
 * (3) slots are planned, and taken, in the order of the run, so what is served does not depend on which
 *     thread fills them, or when.
 * (4) after loader_open only a step with more rows than any before it, or a window with longer texts,
 *     allocates.
 */
#include "dataloader/dataloader.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/thread.h"
#include "dataloader/order.h"
#include "dataloader/read_ahead.h"

enum { STEPS_AHEAD = 4, DEFAULT_PREFETCH = 16, MOST_THREADS = 64 };

/* A row or piece and the number of its first token in the global batch. */
struct placed_item {
    struct order_item item;
    int64_t index;
};

enum slot_state { SLOT_PLANNED, SLOT_FILLING, SLOT_FULL };

struct slot {
    enum slot_state state;
    struct placed_item *items; /* [capacity.sequences] */
    int32_t n_items;
    struct micro_batch batch;
    void *memory; /* of the batch's arrays */
    enum status failure;
    char failure_text[512];
};

struct loader {
    struct dataset *dataset;
    struct loader_options options;
    struct loader_capacity capacity;

    /* The planner's. Pack k of the step being planned holds step_items[pack_first[k]] .. [pack_first[k + 1] -
     * 1]. */
    struct order *order;
    struct read_ahead *read_ahead;
    struct placed_item *step_items;
    int64_t *pack_first;
    size_t items_capacity, packs_capacity;
    int64_t step_packs, next_batch, n_batches; /* micro-batches of the step; next_batch is this rank's */

    struct slot *slot; /* [prefetch] */
    size_t slot_bytes;
    struct step_info step[STEPS_AHEAD];

    /* The caller's. */
    int32_t left_in_step;
    bool lent; /* slot `slots_taken` */
    double waited;

    pthread_t thread[MOST_THREADS];
    int32_t n_threads;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t slots_planned, slots_begun, slots_taken, steps_made, steps_taken;
    bool planning, stop;
    enum status failure; /* of the planner; nothing more is planned */
    char failure_text[512];
};

/* ---- sizes ---- */

/* The most rows and pieces that `tokens` tokens of one epoch can hold: as many of the shortest as fit. */
static enum status items_that_fit(int64_t *out, const struct dataset *dataset, int64_t repeats,
                                  int64_t tokens, int32_t cutoff_len)
{
    int64_t *of_length = memory_new((size_t)cutoff_len + 1, sizeof *of_length);
    if (!of_length) return LORAD_NOMEM;
    int64_t n = dataset_raw_rows(dataset), items = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t length = dataset_length(dataset, i);
        of_length[cutoff_len] += length / cutoff_len;
        of_length[length % cutoff_len]++;
    }
    for (int64_t length = 1; length <= cutoff_len; length++) {
        int64_t fit = tokens / length, most = of_length[length];
        if (most < fit / repeats) fit = most * repeats;
        items += fit;
        tokens -= fit * length;
    }
    free(of_length);
    *out = items;
    return LORAD_OK;
}

static enum status find_capacity(struct loader_capacity *out, const struct dataset *dataset,
                                 const struct loader_options *options, const struct order *order)
{
    int64_t tokens = (int64_t)options->micro_batch_size * options->cutoff_len, sequences = tokens;
    if (!options->packing)
        sequences = options->micro_batch_size;
    else if (dataset_complete(dataset)) /* else one row a token is always enough */
        TRY(items_that_fit(&sequences, dataset, order_repeats(order), tokens, options->cutoff_len));
    *out = (struct loader_capacity){.tokens = (int32_t)tokens, .sequences = (int32_t)sequences};
    return LORAD_OK;
}

struct loader_capacity loader_capacity(struct dataset *dataset, const struct loader_options *options)
{
    struct loader_capacity capacity = {.tokens = options->micro_batch_size * options->cutoff_len};
    struct order *order = NULL;
    /* What is wrong here is said by loader_open. */
    if (order_create(&order, dataset, options) != LORAD_OK ||
        find_capacity(&capacity, dataset, options, order) != LORAD_OK)
        capacity.sequences = capacity.tokens;
    order_destroy(order);
    return capacity;
}

/* ---- planning ---- */

static enum status add_pack(struct loader *loader, struct step_info *info, const struct pack *pack)
{
    int64_t items = loader->pack_first[info->packs], index = info->packs * loader->options.cutoff_len;
    TRY(memory_grow((void **)&loader->step_items, &loader->items_capacity, (size_t)(items + pack->n_items),
                    sizeof *loader->step_items));
    TRY(memory_grow((void **)&loader->pack_first, &loader->packs_capacity, (size_t)info->packs + 2,
                    sizeof *loader->pack_first));
    for (int32_t i = 0; i < pack->n_items; i++) {
        loader->step_items[items++] = (struct placed_item){pack->items[i], index};
        index += pack->items[i].n_tokens;
    }
    loader->pack_first[++info->packs] = items;
    info->tokens += pack->n_tokens;
    info->supervised_tokens += pack->n_supervised;
    info->loss_weight += pack->weight;
    info->last_of_epoch = pack->last_of_epoch;
    info->last = pack->last;
    return LORAD_OK;
}

/* Collects the packs of the next global batch and what there is to know of it. */
static enum status plan_step(struct loader *loader, struct step_info *out)
{
    const struct loader_options *o = &loader->options;
    struct step_info info = {0};
    while (info.packs < o->global_batch_size && !info.last_of_epoch) {
        struct pack pack;
        TRY(order_next(loader->order, &pack));
        if (pack.first_of_window) read_ahead_window(loader->read_ahead, loader->order);
        TRY(add_pack(loader, &info, &pack));
    }
    info.micro_batches = (int32_t)((info.packs + o->micro_batch_size - 1) / o->micro_batch_size);
    info.my_micro_batches = info.micro_batches / o->dp_size + (info.micro_batches % o->dp_size > o->dp_rank);
    info.capacity_tokens = info.packs * o->cutoff_len;
    info.epoch = order_epoch(loader->order);
    info.after = order_cursor(loader->order);
    loader->step_packs = info.packs;
    loader->n_batches = info.micro_batches;
    loader->next_batch = o->dp_rank;
    *out = info;
    return LORAD_OK;
}

/* Gives a slot the rows of the next of this rank's micro-batches. */
static void plan_batch(struct loader *loader, struct slot *slot)
{
    int64_t first = loader->next_batch * loader->options.micro_batch_size;
    int64_t end = first + loader->options.micro_batch_size;
    if (end > loader->step_packs) end = loader->step_packs;
    first = loader->pack_first[first];
    end = loader->pack_first[end];
    ASSERT(end - first <= loader->capacity.sequences);
    memcpy(slot->items, loader->step_items + first, (size_t)(end - first) * sizeof *slot->items);
    slot->n_items = (int32_t)(end - first);
    loader->next_batch += loader->options.dp_size;
}

/* ---- filling ---- */

static enum status check_item(const struct dataset *dataset, const struct dataset_row *row,
                              const struct order_item *item)
{
    if (item->first_token == 0) return dataset_row_check(dataset, item->row);
    /* The whole row is checked where its first piece is served. */
    int32_t vocab = dataset_vocab_size(dataset);
    bool ok = true;
    if (!row->tokens) return dataset_row_check(dataset, item->row);
    for (int32_t t = 0; t < item->n_tokens; t++)
        ok &= (uint32_t)row->tokens[item->first_token + t] < (uint32_t)vocab;
    return ok ? LORAD_OK
              : FAIL(LORAD_DATA,
                     "the prepared data holds a token beyond its vocabulary of %d: prepare it again", vocab);
}

static void add_item(struct micro_batch *batch, const struct dataset_row *row,
                     const struct placed_item *placed)
{
    int32_t n = placed->item.n_tokens, at = batch->n_tokens, n_supervised = 0;
    const int32_t *from = row->tokens + placed->item.first_token;
    const uint8_t *codes = row->codes + placed->item.first_token;
    int32_t *labels = batch->labels + at, *positions = batch->positions + at;
    float *weights = batch->weights + at;
    int64_t *token_index = batch->token_index + at;
    memcpy(batch->tokens + at, from, (size_t)n * sizeof *from);
    for (int32_t t = 0; t + 1 < n; t++) {
        int32_t target = codes[t + 1] != 0;
        labels[t] = from[t + 1] | (target - 1); /* | -1 makes -1 of any token, | 0 keeps it */
        n_supervised += target;
    }
    for (int32_t t = 0; t + 1 < n; t++) weights[t] = codes[t + 1] ? row->weight_of[codes[t + 1]] : 0.0f;
    labels[n - 1] = -1;
    weights[n - 1] = 0;
    for (int32_t t = 0; t < n; t++) positions[t] = t;
    for (int32_t t = 0; t < n; t++) token_index[t] = placed->index + t;
    batch->seq_start[batch->n_sequences] = at;
    batch->row_ids[batch->n_sequences++] = placed->item.row;
    batch->n_tokens += n;
    batch->n_supervised += n_supervised;
    if (n > batch->longest) batch->longest = n;
}

static enum status fill_slot(const struct loader *loader, struct slot *slot)
{
    struct micro_batch *batch = &slot->batch;
    batch->n_tokens = batch->n_sequences = batch->n_supervised = batch->longest = 0;
    for (int32_t i = 0; i < slot->n_items; i++) {
        const struct placed_item *placed = &slot->items[i];
        struct dataset_row row = dataset_row(loader->dataset, placed->item.row);
        TRY(check_item(loader->dataset, &row, &placed->item));
        ASSERT(row.tokens && placed->item.first_token + placed->item.n_tokens <= row.n_tokens);
        ASSERT(batch->n_tokens + placed->item.n_tokens <= loader->capacity.tokens);
        add_item(batch, &row, placed);
    }
    batch->seq_start[batch->n_sequences] = batch->n_tokens;
    return LORAD_OK;
}

/* ---- the threads ---- */

static void keep_message(char text[512])
{
    strncpy(text, status_message(), 511);
    text[511] = 0;
}

/* Whether the planner has something to do and room for it. The lock is held. */
static bool can_plan(const struct loader *loader)
{
    if (loader->planning || loader->failure != LORAD_OK) return false;
    if (loader->next_batch < loader->n_batches)
        return loader->slots_planned - loader->slots_taken < loader->options.prefetch;
    return loader->steps_made - loader->steps_taken < STEPS_AHEAD;
}

/* The lock is held, but not while the work is done. */
static void plan(struct loader *loader)
{
    loader->planning = true;
    pthread_mutex_unlock(&loader->lock);
    enum status status = LORAD_OK;
    bool is_batch = loader->next_batch < loader->n_batches;
    struct slot *slot = &loader->slot[loader->slots_planned % loader->options.prefetch];
    struct step_info *info = &loader->step[loader->steps_made % STEPS_AHEAD];
    if (is_batch) {
        plan_batch(loader, slot);
    } else {
        loader->pack_first[0] = 0;
        status = plan_step(loader, info);
    }
    pthread_mutex_lock(&loader->lock);
    loader->planning = false;
    if (status != LORAD_OK) {
        loader->failure = status;
        keep_message(loader->failure_text);
    } else if (is_batch) {
        slot->state = SLOT_PLANNED;
        loader->slots_planned++;
    } else {
        loader->steps_made++;
    }
    pthread_cond_broadcast(&loader->changed);
}

static void fill(struct loader *loader)
{
    struct slot *slot = &loader->slot[loader->slots_begun++ % loader->options.prefetch];
    slot->state = SLOT_FILLING;
    pthread_mutex_unlock(&loader->lock);
    enum status status = fill_slot(loader, slot);
    if (status != LORAD_OK) keep_message(slot->failure_text);
    pthread_mutex_lock(&loader->lock);
    slot->failure = status;
    slot->state = SLOT_FULL;
    pthread_cond_broadcast(&loader->changed);
}

static void *run_thread(void *argument)
{
    struct loader *loader = argument;
    pthread_mutex_lock(&loader->lock);
    while (!loader->stop) {
        if (loader->slots_begun < loader->slots_planned)
            fill(loader);
        else if (can_plan(loader))
            plan(loader);
        else
            pthread_cond_wait(&loader->changed, &loader->lock);
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

/* ---- opening and closing ---- */

/* Room for `count` elements behind *used bytes of `memory`, which may be NULL to learn only how much is used.
 */
static void *take_part(char *memory, size_t *used, size_t count, size_t size)
{
    void *part = memory ? memory + *used : NULL;
    *used += (count * size + 63) / 64 * 64;
    return part;
}

/* Lays a micro-batch's arrays into `memory`; the result is how much they need. */
static size_t lay_out_batch(struct micro_batch *batch, struct loader_capacity capacity, char *memory)
{
    size_t tokens = (size_t)capacity.tokens, sequences = (size_t)capacity.sequences + 1, used = 0;
    batch->tokens = take_part(memory, &used, tokens, sizeof *batch->tokens);
    batch->positions = take_part(memory, &used, tokens, sizeof *batch->positions);
    batch->labels = take_part(memory, &used, tokens, sizeof *batch->labels);
    batch->weights = take_part(memory, &used, tokens, sizeof *batch->weights);
    batch->token_index = take_part(memory, &used, tokens, sizeof *batch->token_index);
    batch->seq_start = take_part(memory, &used, sequences, sizeof *batch->seq_start);
    batch->row_ids = take_part(memory, &used, sequences, sizeof *batch->row_ids);
    return used;
}

static enum status allocate(struct loader *loader)
{
    const struct loader_options *o = &loader->options;
    const struct host_allocator *host = o->host;
    TRY(find_capacity(&loader->capacity, loader->dataset, o, loader->order));
    TRY(read_ahead_create(&loader->read_ahead, loader->dataset));
    TRY(memory_grow((void **)&loader->pack_first, &loader->packs_capacity, 64, sizeof *loader->pack_first));
    if (!(loader->slot = memory_new((size_t)o->prefetch, sizeof *loader->slot))) return LORAD_NOMEM;
    struct micro_batch batch;
    loader->slot_bytes = lay_out_batch(&batch, loader->capacity, NULL);
    for (int32_t i = 0; i < o->prefetch; i++) {
        struct slot *slot = &loader->slot[i];
        slot->items = memory_new((size_t)loader->capacity.sequences + 1, sizeof *slot->items);
        slot->memory =
            host ? host->alloc(host->context, loader->slot_bytes) : memory_new(loader->slot_bytes, 1);
        if (!slot->items || !slot->memory)
            return FAIL(LORAD_NOMEM, "no memory for a micro-batch of %d tokens", loader->capacity.tokens);
        lay_out_batch(&slot->batch, loader->capacity, slot->memory);
    }
    return LORAD_OK;
}

static enum status start_threads(struct loader *loader)
{
    int32_t wanted = loader->options.threads;
    if (wanted < 1) wanted = 1;
    if (wanted > MOST_THREADS) wanted = MOST_THREADS;
    int error = 0;
    while (loader->n_threads < wanted && !error) {
        error = thread_start(&loader->thread[loader->n_threads], run_thread, loader);
        loader->n_threads += !error;
    }
    if (error) return FAIL(LORAD_NOMEM, "cannot start the data threads: %s", strerror(error));
    return LORAD_OK;
}

enum status loader_open(struct loader **out, struct dataset *dataset, const struct loader_options *options,
                        struct data_cursor from)
{
    struct loader *loader = memory_new(1, sizeof *loader);
    if (!loader) return LORAD_NOMEM;
    loader->dataset = dataset;
    loader->options = *options;
    if (loader->options.prefetch <= 0) loader->options.prefetch = DEFAULT_PREFETCH;
    if (loader->options.prefetch < loader->options.threads)
        loader->options.prefetch = loader->options.threads;
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->changed, NULL);
    dataset_stop_waiting(dataset, false);
    enum status status = order_create(&loader->order, dataset, options);
    if (status == LORAD_OK) status = order_seek(loader->order, from);
    if (status == LORAD_OK) status = allocate(loader);
    if (status == LORAD_OK) status = start_threads(loader);
    if (status == LORAD_OK)
        *out = loader;
    else
        loader_close(loader);
    return status;
}

static void stop_threads(struct loader *loader)
{
    pthread_mutex_lock(&loader->lock);
    loader->stop = true;
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->lock);
    dataset_stop_waiting(loader->dataset, true);
    for (int32_t i = 0; i < loader->n_threads; i++) pthread_join(loader->thread[i], NULL);
    dataset_stop_waiting(loader->dataset, false);
}

void loader_close(struct loader *loader)
{
    if (!loader) return;
    const struct host_allocator *host = loader->options.host;
    stop_threads(loader);
    pthread_cond_destroy(&loader->changed);
    pthread_mutex_destroy(&loader->lock);
    for (int32_t i = 0; loader->slot && i < loader->options.prefetch; i++) {
        struct slot *slot = &loader->slot[i];
        free(slot->items);
        if (!host)
            free(slot->memory);
        else if (slot->memory)
            host->free(host->context, slot->memory, loader->slot_bytes);
    }
    free(loader->slot);
    free(loader->step_items);
    free(loader->pack_first);
    read_ahead_destroy(loader->read_ahead);
    order_destroy(loader->order);
    free(loader);
}

/* ---- the caller's side ---- */

/* Waits until *made is above *taken; what was made before a failure is still served. The lock is held. */
static enum status wait_for_plan(struct loader *loader, const int64_t *made, const int64_t *taken)
{
    while (*made == *taken && loader->failure == LORAD_OK) pthread_cond_wait(&loader->changed, &loader->lock);
    return *made == *taken ? FAIL(loader->failure, "%s", loader->failure_text) : LORAD_OK;
}

static void take(struct loader *loader, int64_t *taken)
{
    pthread_mutex_lock(&loader->lock);
    ++*taken;
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->lock);
}

static void end_lending(struct loader *loader)
{
    if (loader->lent) take(loader, &loader->slots_taken);
    loader->lent = false;
}

enum status loader_next_step(struct loader *loader, struct step_info *out)
{
    end_lending(loader);
    if (loader->left_in_step != 0)
        return FAIL(LORAD_BUG, "%d micro-batches of the step before were not taken", loader->left_in_step);
    int64_t start = clock_monotonic_ns();
    pthread_mutex_lock(&loader->lock);
    bool waits = loader->steps_made == loader->steps_taken;
    enum status status = wait_for_plan(loader, &loader->steps_made, &loader->steps_taken);
    pthread_mutex_unlock(&loader->lock);
    if (waits) loader->waited += clock_seconds_since(start);
    TRY(status);
    *out = loader->step[loader->steps_taken % STEPS_AHEAD];
    loader->left_in_step = out->my_micro_batches;
    take(loader, &loader->steps_taken);
    return LORAD_OK;
}

/* Waits until the next slot is full. */
static enum status next_slot(struct loader *loader, struct slot **out)
{
    int64_t start = clock_monotonic_ns();
    struct slot *slot = &loader->slot[loader->slots_taken % loader->options.prefetch];
    pthread_mutex_lock(&loader->lock);
    bool waits = loader->slots_planned == loader->slots_taken || slot->state != SLOT_FULL;
    enum status status = wait_for_plan(loader, &loader->slots_planned, &loader->slots_taken);
    while (status == LORAD_OK && slot->state != SLOT_FULL) pthread_cond_wait(&loader->changed, &loader->lock);
    pthread_mutex_unlock(&loader->lock);
    if (waits) loader->waited += clock_seconds_since(start);
    TRY(status);
    if (slot->failure != LORAD_OK) return FAIL(slot->failure, "%s", slot->failure_text);
    *out = slot;
    return LORAD_OK;
}

enum status loader_next(struct loader *loader, struct micro_batch *batch)
{
    end_lending(loader);
    if (loader->left_in_step == 0) {
        *batch = (struct micro_batch){0};
        return LORAD_OK;
    }
    struct slot *slot = NULL;
    TRY(next_slot(loader, &slot));
    *batch = slot->batch;
    loader->left_in_step--;
    loader->lent = true;
    return LORAD_OK;
}

double loader_wait_seconds(const struct loader *loader)
{
    return loader->waited;
}
