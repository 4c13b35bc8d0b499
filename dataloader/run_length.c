/*
 * run_length.c: how long a run is, found by packing the lengths of its windows, many at a time.
 *
 * Invariant: windows are measured in any order by any thread, and only sums over whole epochs are used.
 */
#include "dataloader/dataloader.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "base/thread.h"
#include "dataloader/order.h"

enum { MOST_THREADS = 64, WINDOWS_A_THREAD = 8 /* fewer are not worth starting one */ };

struct measuring {
    struct dataset *dataset;
    const struct loader_options *options;
    int64_t epoch, n_windows;
    _Atomic int64_t next, packs, tokens;
    pthread_mutex_t lock;
    enum status failure; /* of the first thread that failed */
    char failure_text[512];
};

static enum status measure_windows(struct measuring *m)
{
    struct order *order;
    struct window_size size, sum = {0};
    TRY(order_create(&order, m->dataset, m->options));
    enum status status = LORAD_OK;
    for (int64_t window; status == LORAD_OK && (window = atomic_fetch_add(&m->next, 1)) < m->n_windows;) {
        status = order_measure(order, m->epoch, window, &size);
        sum.packs += size.packs;
        sum.tokens += size.tokens;
    }
    order_destroy(order);
    atomic_fetch_add(&m->packs, sum.packs);
    atomic_fetch_add(&m->tokens, sum.tokens);
    return status;
}

static void *run_thread(void *argument)
{
    struct measuring *m = argument;
    enum status status = measure_windows(m);
    if (status == LORAD_OK) return NULL;
    pthread_mutex_lock(&m->lock);
    if (m->failure == LORAD_OK) {
        m->failure = status;
        strncpy(m->failure_text, status_message(), sizeof m->failure_text - 1);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

static int64_t cores_allowed(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

/* One whole epoch. The caller's thread works as well, so that it needs no other one. */
static enum status measure_epoch(struct window_size *out, struct dataset *dataset,
                                 const struct loader_options *options, int64_t epoch, int64_t n_windows)
{
    struct measuring m = {.dataset = dataset, .options = options, .epoch = epoch, .n_windows = n_windows};
    pthread_t thread[MOST_THREADS];
    int64_t wanted = n_windows / WINDOWS_A_THREAD, cores = cores_allowed();
    if (wanted > cores) wanted = cores;
    int n = 0;
    pthread_mutex_init(&m.lock, NULL);
    while (n < MOST_THREADS && n + 1 < wanted && thread_start(&thread[n], run_thread, &m) == 0) n++;
    run_thread(&m);
    for (int i = 0; i < n; i++) pthread_join(thread[i], NULL);
    pthread_mutex_destroy(&m.lock);
    if (m.failure != LORAD_OK) return FAIL(m.failure, "%s", m.failure_text);
    *out = (struct window_size){m.packs, m.tokens};
    if (out->packs == 0)
        return FAIL(LORAD_DATA, "there is nothing to train on in epoch %lld: all its rows were rejected",
                    (long long)epoch);
    return LORAD_OK;
}

static int64_t steps_of(const struct loader_options *options, int64_t packs)
{
    return (packs + options->global_batch_size - 1) / options->global_batch_size;
}

/* Adds the first steps of an epoch: `steps` of them, or as many as it takes to have `tokens` tokens in all.
 */
static enum status add_steps(struct run_length *sum, struct order *order,
                             const struct loader_options *options, int64_t epoch, int64_t steps,
                             int64_t tokens)
{
    struct pack pack = {0};
    TRY(order_seek(order, (struct data_cursor){epoch, 0, 0}));
    while (steps-- > 0 && sum->tokens < tokens && !pack.last_of_epoch) {
        pack.last_of_epoch = false;
        for (int64_t i = 0; i < options->global_batch_size && !pack.last_of_epoch; i++) {
            TRY(order_next(order, &pack));
            sum->packs++;
            sum->tokens += pack.n_tokens;
        }
        sum->steps++;
    }
    sum->epochs = order_epoch(order);
    return LORAD_OK;
}

/* Epochs until one of the two is reached, or there are no more. */
static enum status measure(struct run_length *out, struct dataset *dataset,
                           const struct loader_options *options, double epochs, int64_t tokens)
{
    struct order *order;
    ASSERT(dataset_complete(dataset));
    TRY(order_create(&order, dataset, options));
    struct run_length sum = {0};
    struct window_size size = {0};
    enum status status = LORAD_OK;
    for (int64_t epoch = 0; (double)epoch < epochs && sum.tokens < tokens; epoch++) {
        double share = epochs - (double)epoch;
        int64_t n_windows = order_windows(order, epoch);
        if (n_windows == 0) break;
        if (epoch == 0 || options->shuffle) status = measure_epoch(&size, dataset, options, epoch, n_windows);
        if (status != LORAD_OK) break;
        int64_t steps = steps_of(options, size.packs);
        if (share < 1 || sum.tokens + size.tokens >= tokens) {
            if (share < 1) steps = (int64_t)ceil(share * (double)steps);
            status = add_steps(&sum, order, options, epoch, steps, tokens);
            if (status == LORAD_OK && share < 1 && sum.tokens < tokens) sum.epochs = epochs;
            break;
        }
        sum.steps += steps;
        sum.packs += size.packs;
        sum.tokens += size.tokens;
        sum.epochs = (double)(epoch + 1);
    }
    order_destroy(order);
    if (status == LORAD_OK) *out = sum;
    return status;
}

enum status loader_measure(struct run_length *out, struct dataset *dataset,
                           const struct loader_options *options, double epochs)
{
    if (!(epochs >= 0 && epochs <= MIXTURE_MOST_EPOCHS))
        return FAIL(LORAD_CONFIG, "num_train_epochs %g is out of range: 0 to %d", epochs,
                    MIXTURE_MOST_EPOCHS);
    return measure(out, dataset, options, epochs, INT64_MAX);
}

enum status loader_measure_tokens(struct run_length *out, struct dataset *dataset,
                                  const struct loader_options *options, int64_t tokens)
{
    return measure(out, dataset, options, MIXTURE_MOST_EPOCHS, tokens);
}

enum status loader_count_steps(int64_t *steps, struct dataset *dataset, const struct loader_options *options,
                               double epochs)
{
    struct run_length length;
    TRY(loader_measure(&length, dataset, options, epochs));
    *steps = length.steps;
    return LORAD_OK;
}
