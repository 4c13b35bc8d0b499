/*
 * loader.c: the micro-batches of one data-parallel rank, made ahead by one thread.
 *
 * The thread walks the order. For each global batch it first collects the packs (which gives what every rank
 * must know, struct step_info) and then fills the micro-batches of this rank, in order, into a ring. A second
 * ring carries the step_infos. The caller takes from both.
 *
 * Invariants:
 * (1) everything after `lock` in struct loader is written under it, and read under it by the side that does
 *     not write it. Item i of a ring (at i % size) is the caller's while taken <= i < made, otherwise the
 *     thread's.
 * (2) micro-batch i of a step holds packs [i * micro_batch_size, ...) whatever the layout; this rank makes
 *     those with i % dp_size == dp_rank.
 * (3) after loader_open nothing is allocated.
 */
#include "dataloader/dataloader.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "dataloader/order.h"

enum { STEPS_AHEAD = 4, DEFAULT_PREFETCH = 4 };

struct loader {
    const struct dataset *dataset;
    struct loader_options options;
    struct loader_capacity capacity;
    struct order *order; /* the thread's */

    /* The step the thread is working on: pack k holds rows step_rows[pack_first[k]] .. [pack_first[k + 1] -
     * 1]. */
    int64_t *step_rows;
    int64_t *pack_first; /* [global_batch_size + 1] */

    struct micro_batch *slot; /* [prefetch] */
    struct step_info step[STEPS_AHEAD];

    /* The caller's. */
    int32_t left_in_step;
    double waited;

    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t slots_made, slots_taken, steps_made, steps_taken;
    bool stop;
    enum status failure; /* of the thread: it has ended; message in failure_text */
    char failure_text[512];
};

/* ---- sizes ---- */

/* The most rows that `tokens` tokens can hold: as many of the shortest rows as fit. */
static enum status rows_that_fit(int64_t *out, const struct dataset *dataset, int64_t tokens,
                                 int32_t cutoff_len)
{
    int64_t *of_length = memory_new((size_t)cutoff_len + 1, sizeof *of_length);
    if (!of_length) return LORAD_NOMEM;
    int64_t n = dataset_raw_rows(dataset), rows = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t length = dataset_length(dataset, i);
        if (length > 0) of_length[length < cutoff_len ? length : cutoff_len]++;
    }
    for (int64_t length = 1; length <= cutoff_len; length++) {
        int64_t fit = tokens / length < of_length[length] ? tokens / length : of_length[length];
        rows += fit;
        tokens -= fit * length;
        if (fit < of_length[length]) break;
    }
    free(of_length);
    *out = rows;
    return LORAD_OK;
}

static enum status find_capacity(struct loader_capacity *out, const struct dataset *dataset,
                                 const struct loader_options *options)
{
    int64_t tokens = (int64_t)options->micro_batch_size * options->cutoff_len, sequences;
    if (options->packing)
        TRY(rows_that_fit(&sequences, dataset, tokens, options->cutoff_len));
    else
        sequences = options->micro_batch_size;
    *out = (struct loader_capacity){.tokens = (int32_t)tokens, .sequences = (int32_t)sequences};
    return LORAD_OK;
}

struct loader_capacity loader_capacity(const struct dataset *dataset, const struct loader_options *options)
{
    struct loader_capacity capacity = {.tokens = options->micro_batch_size * options->cutoff_len};
    /* Without memory for a table of lengths: one row a token is always enough. */
    if (find_capacity(&capacity, dataset, options) != LORAD_OK) capacity.sequences = capacity.tokens;
    return capacity;
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

/* ---- the thread: one global batch ---- */

/* Collects the packs of the next global batch and what there is to know of it. */
static struct step_info plan_step(struct loader *loader)
{
    const struct loader_options *o = &loader->options;
    struct step_info info = {0};
    int64_t rows = 0;
    while (info.packs < o->global_batch_size && !info.last_of_epoch) {
        struct pack pack = order_next(loader->order, &info.last_of_epoch);
        loader->pack_first[info.packs++] = rows;
        memcpy(loader->step_rows + rows, pack.rows, (size_t)pack.n_rows * sizeof *pack.rows);
        rows += pack.n_rows;
        info.tokens += pack.n_tokens;
        info.supervised_tokens += pack.n_supervised;
        for (int32_t i = 0; i < pack.n_rows; i++)
            info.loss_weight += dataset_row(loader->dataset, pack.rows[i]).weight;
    }
    loader->pack_first[info.packs] = rows;
    info.micro_batches = (int32_t)((info.packs + o->micro_batch_size - 1) / o->micro_batch_size);
    info.my_micro_batches = info.micro_batches / o->dp_size + (info.micro_batches % o->dp_size > o->dp_rank);
    info.capacity_tokens = info.packs * o->cutoff_len;
    info.epoch = order_epoch(loader->order);
    info.after = order_cursor(loader->order);
    return info;
}

/* Appends row `id`; first_index is the number of its first token in the global batch. */
static void add_row(struct micro_batch *batch, const struct dataset_row *row, int64_t id, int64_t first_index)
{
    int32_t n = row->n_tokens, at = batch->n_tokens;
    int32_t *labels = batch->labels + at, *positions = batch->positions + at;
    int64_t *token_index = batch->token_index + at;
    memcpy(batch->tokens + at, row->tokens, (size_t)n * sizeof *row->tokens);
    for (int32_t t = 0; t + 1 < n; t++) labels[t] = row->codes[t + 1] ? row->tokens[t + 1] : -1;
    labels[n - 1] = -1;
    for (int32_t t = 0; t + 1 < n; t++) batch->weights[at + t] = row->weight_of[row->codes[t + 1]];
    batch->weights[at + n - 1] = 0;
    for (int32_t t = 0; t < n; t++) positions[t] = t;
    for (int32_t t = 0; t < n; t++) token_index[t] = first_index + t;
    batch->seq_start[batch->n_sequences] = at;
    batch->row_ids[batch->n_sequences++] = id;
    batch->n_tokens += n;
    batch->n_supervised += row->n_supervised;
    if (n > batch->longest) batch->longest = n;
}

/* Fills `batch` with packs [first, end) of the step. */
static enum status fill_batch(const struct loader *loader, int64_t first, int64_t end,
                              struct micro_batch *batch)
{
    batch->n_tokens = batch->n_sequences = batch->n_supervised = batch->longest = 0;
    for (int64_t pack = first; pack < end; pack++) {
        int64_t index = pack * loader->options.cutoff_len;
        for (int64_t i = loader->pack_first[pack]; i < loader->pack_first[pack + 1]; i++) {
            int64_t id = loader->step_rows[i];
            TRY(dataset_row_check(loader->dataset, id));
            struct dataset_row row = dataset_row(loader->dataset, id);
            ASSERT(batch->n_tokens + row.n_tokens <= loader->capacity.tokens &&
                   batch->n_sequences < loader->capacity.sequences);
            add_row(batch, &row, id, index);
            index += row.n_tokens;
        }
    }
    batch->seq_start[batch->n_sequences] = batch->n_tokens;
    return LORAD_OK;
}

/* ---- the thread: the rings ---- */

static bool wait_for_room(struct loader *loader, const int64_t *made, const int64_t *taken, int64_t room)
{
    pthread_mutex_lock(&loader->lock);
    while (!loader->stop && *made - *taken >= room) pthread_cond_wait(&loader->changed, &loader->lock);
    bool go_on = !loader->stop;
    pthread_mutex_unlock(&loader->lock);
    return go_on;
}

static void announce(struct loader *loader, int64_t *made)
{
    pthread_mutex_lock(&loader->lock);
    ++*made;
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->lock);
}

/* One global batch into the rings; false: asked to stop. */
static bool make_step(struct loader *loader, enum status *status)
{
    const struct loader_options *o = &loader->options;
    struct step_info info = plan_step(loader);
    if (!wait_for_room(loader, &loader->steps_made, &loader->steps_taken, STEPS_AHEAD)) return false;
    loader->step[loader->steps_made % STEPS_AHEAD] = info;
    announce(loader, &loader->steps_made);
    for (int64_t i = o->dp_rank; i < info.micro_batches; i += o->dp_size) {
        if (!wait_for_room(loader, &loader->slots_made, &loader->slots_taken, o->prefetch)) return false;
        int64_t first = i * o->micro_batch_size, end = first + o->micro_batch_size;
        *status = fill_batch(loader, first, end < info.packs ? end : info.packs,
                             &loader->slot[loader->slots_made % o->prefetch]);
        if (*status != LORAD_OK) return false;
        announce(loader, &loader->slots_made);
    }
    return true;
}

static void *run_thread(void *argument)
{
    struct loader *loader = argument;
    enum status status = LORAD_OK;
    while (make_step(loader, &status)) continue;
    if (status == LORAD_OK) return NULL;
    pthread_mutex_lock(&loader->lock);
    loader->failure = status;
    strncpy(loader->failure_text, status_message(), sizeof loader->failure_text - 1);
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

/* ---- opening and closing ---- */

static enum status make_slot(struct micro_batch *slot, struct loader_capacity capacity)
{
    size_t tokens = (size_t)capacity.tokens, sequences = (size_t)capacity.sequences;
    bool ok = (slot->tokens = memory_new(tokens, sizeof *slot->tokens)) != NULL;
    ok &= (slot->positions = memory_new(tokens, sizeof *slot->positions)) != NULL;
    ok &= (slot->labels = memory_new(tokens, sizeof *slot->labels)) != NULL;
    ok &= (slot->weights = memory_new(tokens, sizeof *slot->weights)) != NULL;
    ok &= (slot->token_index = memory_new(tokens, sizeof *slot->token_index)) != NULL;
    ok &= (slot->seq_start = memory_new(sequences + 1, sizeof *slot->seq_start)) != NULL;
    ok &= (slot->row_ids = memory_new(sequences + 1, sizeof *slot->row_ids)) != NULL;
    return ok ? LORAD_OK : LORAD_NOMEM;
}

static void free_slot(struct micro_batch *slot)
{
    free(slot->tokens);
    free(slot->positions);
    free(slot->labels);
    free(slot->weights);
    free(slot->token_index);
    free(slot->seq_start);
    free(slot->row_ids);
}

static enum status allocate(struct loader *loader)
{
    struct loader_options *o = &loader->options;
    TRY(find_capacity(&loader->capacity, loader->dataset, o));
    /* An epoch's last batch ends with the epoch, so a step never holds a row twice, nor more packs than rows.
     */
    int64_t packs = dataset_kept_rows(loader->dataset), rows = packs;
    if (o->global_batch_size < packs) packs = o->global_batch_size;
    if (!o->packing)
        rows = packs;
    else if (packs < INT64_MAX / o->cutoff_len)
        TRY(rows_that_fit(&rows, loader->dataset, packs * o->cutoff_len, o->cutoff_len));
    if (!(loader->step_rows = memory_new((size_t)rows + 1, sizeof *loader->step_rows))) return LORAD_NOMEM;
    if (!(loader->pack_first = memory_new((size_t)packs + 1, sizeof *loader->pack_first))) return LORAD_NOMEM;
    if (!(loader->slot = memory_new((size_t)o->prefetch, sizeof *loader->slot))) return LORAD_NOMEM;
    for (int32_t i = 0; i < o->prefetch; i++) TRY(make_slot(&loader->slot[i], loader->capacity));
    return LORAD_OK;
}

/* Signals are for the main thread. */
static enum status start_thread(struct loader *loader)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&loader->thread, NULL, run_thread, loader);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) return FAIL(LORAD_NOMEM, "cannot start the data thread: %s", strerror(error));
    loader->started = true;
    return LORAD_OK;
}

enum status loader_open(struct loader **out, const struct dataset *dataset,
                        const struct loader_options *options, struct data_cursor from)
{
    TRY(check_options(options));
    struct loader *loader = memory_new(1, sizeof *loader);
    if (!loader) return LORAD_NOMEM;
    loader->dataset = dataset;
    loader->options = *options;
    if (loader->options.prefetch <= 0) loader->options.prefetch = DEFAULT_PREFETCH;
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->changed, NULL);
    enum status status = order_create(&loader->order, dataset, options);
    if (status == LORAD_OK) status = order_seek(loader->order, from);
    if (status == LORAD_OK) status = allocate(loader);
    if (status == LORAD_OK) status = start_thread(loader);
    if (status == LORAD_OK)
        *out = loader;
    else
        loader_close(loader);
    return status;
}

void loader_close(struct loader *loader)
{
    if (!loader) return;
    if (loader->started) {
        pthread_mutex_lock(&loader->lock);
        loader->stop = true;
        pthread_cond_broadcast(&loader->changed);
        pthread_mutex_unlock(&loader->lock);
        pthread_join(loader->thread, NULL);
    }
    pthread_cond_destroy(&loader->changed);
    pthread_mutex_destroy(&loader->lock);
    for (int32_t i = 0; loader->slot && i < loader->options.prefetch; i++) free_slot(&loader->slot[i]);
    free(loader->slot);
    free(loader->step_rows);
    free(loader->pack_first);
    order_destroy(loader->order);
    free(loader);
}

/* ---- the caller's side ---- */

/* Waits until there is something to take; what was made before a failure is still served. */
static enum status wait_for_item(struct loader *loader, const int64_t *made, const int64_t *taken)
{
    enum status status = LORAD_OK;
    pthread_mutex_lock(&loader->lock);
    if (*made == *taken && loader->failure == LORAD_OK) {
        int64_t start = clock_monotonic_ns();
        while (*made == *taken && loader->failure == LORAD_OK)
            pthread_cond_wait(&loader->changed, &loader->lock);
        loader->waited += clock_seconds_since(start);
    }
    if (*made == *taken) status = FAIL(loader->failure, "%s", loader->failure_text);
    pthread_mutex_unlock(&loader->lock);
    return status;
}

enum status loader_next_step(struct loader *loader, struct step_info *out)
{
    if (loader->left_in_step != 0)
        return FAIL(LORAD_BUG, "%d micro-batches of the step before were not taken", loader->left_in_step);
    TRY(wait_for_item(loader, &loader->steps_made, &loader->steps_taken));
    *out = loader->step[loader->steps_taken % STEPS_AHEAD];
    loader->left_in_step = out->my_micro_batches;
    announce(loader, &loader->steps_taken);
    return LORAD_OK;
}

static void copy_batch(struct micro_batch *to, const struct micro_batch *from)
{
    size_t tokens = (size_t)from->n_tokens, sequences = (size_t)from->n_sequences;
    memcpy(to->tokens, from->tokens, tokens * sizeof *to->tokens);
    memcpy(to->positions, from->positions, tokens * sizeof *to->positions);
    memcpy(to->labels, from->labels, tokens * sizeof *to->labels);
    if (to->weights) memcpy(to->weights, from->weights, tokens * sizeof *to->weights);
    memcpy(to->token_index, from->token_index, tokens * sizeof *to->token_index);
    memcpy(to->seq_start, from->seq_start, (sequences + 1) * sizeof *to->seq_start);
    memcpy(to->row_ids, from->row_ids, sequences * sizeof *to->row_ids);
    to->n_tokens = from->n_tokens;
    to->n_sequences = from->n_sequences;
    to->n_supervised = from->n_supervised;
    to->longest = from->longest;
}

enum status loader_next(struct loader *loader, struct micro_batch *batch)
{
    if (loader->left_in_step == 0) {
        batch->n_tokens = batch->n_sequences = batch->n_supervised = batch->longest = 0;
        batch->seq_start[0] = 0;
        return LORAD_OK;
    }
    TRY(wait_for_item(loader, &loader->slots_made, &loader->slots_taken));
    copy_batch(batch, &loader->slot[loader->slots_taken % loader->options.prefetch]);
    loader->left_in_step--;
    announce(loader, &loader->slots_taken);
    return LORAD_OK;
}

double loader_wait_seconds(const struct loader *loader)
{
    return loader->waited;
}

/* ---- on paper ---- */

enum status loader_count_steps(int64_t *steps, const struct dataset *dataset,
                               const struct loader_options *options, double epochs)
{
    TRY(check_options(options));
    if (!(epochs >= 0 && epochs <= 1e9))
        return FAIL(LORAD_CONFIG, "num_train_epochs %g is out of range", epochs);
    struct order *order;
    TRY(order_create(&order, dataset, options));
    int64_t whole = (int64_t)epochs, total = 0, batch = options->global_batch_size;
    /* Without shuffling or packing all epochs have the same number of packs. */
    bool same = !options->shuffle || !options->packing;
    int64_t packs = order_packs_of_epoch(order, 0);
    for (int64_t epoch = 0; epoch <= whole; epoch++) {
        double share = epoch < whole ? 1 : epochs - (double)whole;
        if (share <= 0) break;
        if (!same && epoch > 0) packs = order_packs_of_epoch(order, epoch);
        int64_t of_epoch = (packs + batch - 1) / batch;
        total += epoch < whole ? of_epoch : (int64_t)ceil(share * (double)of_epoch);
    }
    order_destroy(order);
    *steps = total;
    return LORAD_OK;
}
