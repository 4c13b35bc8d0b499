/*
 * read_ahead.c: see read_ahead.h.
 *
 * Invariant: rows[0 .. n_rows) is written by the planner under `lock`, and taken by the thread under it.
 */
#include "dataloader/read_ahead.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/thread.h"

struct byte_span {
    uintptr_t begin, end; /* whole pages */
};

struct read_ahead {
    const struct dataset *dataset;
    uintptr_t page;
    bool begun;
    int64_t taken[2 * ORDER_WINDOW]; /* the thread's */
    struct byte_span span[4 * ORDER_WINDOW];

    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t rows[2 * ORDER_WINDOW];
    int32_t n_rows; /* 0: nothing to do */
    bool stop;
};

/* ---- the thread ---- */

static struct byte_span pages_of(const struct read_ahead *ahead, const void *bytes, size_t n)
{
    uintptr_t mask = ahead->page - 1, begin = (uintptr_t)bytes;
    return (struct byte_span){begin & ~mask, (begin + n + mask) & ~mask};
}

static int by_begin(const void *a, const void *b)
{
    const struct byte_span *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static void advise(struct read_ahead *ahead, int32_t n_rows)
{
    int32_t n = 0;
    for (int32_t i = 0; i < n_rows; i++) {
        struct dataset_row row = dataset_row(ahead->dataset, ahead->taken[i]);
        if (row.n_tokens == 0 || !row.tokens) continue; /* a hole, or damaged */
        size_t tokens = (size_t)row.n_tokens;
        ahead->span[n++] = pages_of(ahead, row.tokens, tokens * sizeof *row.tokens);
        ahead->span[n++] = pages_of(ahead, row.codes, tokens);
    }
    qsort(ahead->span, (size_t)n, sizeof *ahead->span, by_begin);
    for (int32_t i = 0; i < n;) {
        struct byte_span all = ahead->span[i];
        while (++i < n && ahead->span[i].begin <= all.end)
            if (ahead->span[i].end > all.end) all.end = ahead->span[i].end;
        madvise((void *)all.begin, all.end - all.begin, MADV_WILLNEED);
    }
}

static void *run_thread(void *argument)
{
    struct read_ahead *ahead = argument;
    pthread_mutex_lock(&ahead->lock);
    while (!ahead->stop) {
        int32_t n = ahead->n_rows;
        if (n == 0) {
            pthread_cond_wait(&ahead->changed, &ahead->lock);
            continue;
        }
        memcpy(ahead->taken, ahead->rows, (size_t)n * sizeof *ahead->taken);
        ahead->n_rows = 0;
        pthread_mutex_unlock(&ahead->lock);
        advise(ahead, n);
        pthread_mutex_lock(&ahead->lock);
    }
    pthread_mutex_unlock(&ahead->lock);
    return NULL;
}

/* ---- the planner's side ---- */

enum status read_ahead_create(struct read_ahead **out, const struct dataset *dataset)
{
    struct read_ahead *ahead = memory_new(1, sizeof *ahead);
    if (!ahead) return LORAD_NOMEM;
    ahead->dataset = dataset;
    ahead->page = (uintptr_t)sysconf(_SC_PAGESIZE);
    pthread_mutex_init(&ahead->lock, NULL);
    pthread_cond_init(&ahead->changed, NULL);
    ahead->started = thread_start(&ahead->thread, run_thread, ahead) == 0;
    *out = ahead;
    return LORAD_OK;
}

void read_ahead_destroy(struct read_ahead *ahead)
{
    if (!ahead) return;
    if (ahead->started) {
        pthread_mutex_lock(&ahead->lock);
        ahead->stop = true;
        pthread_cond_broadcast(&ahead->changed);
        pthread_mutex_unlock(&ahead->lock);
        pthread_join(ahead->thread, NULL);
    }
    pthread_cond_destroy(&ahead->changed);
    pthread_mutex_destroy(&ahead->lock);
    free(ahead);
}

void read_ahead_window(struct read_ahead *ahead, const struct order *order)
{
    if (!ahead->started) return;
    pthread_mutex_lock(&ahead->lock);
    ahead->n_rows = ahead->begun ? 0 : order_rows_of(order, 0, ahead->rows);
    ahead->n_rows += order_rows_of(order, 1, ahead->rows + ahead->n_rows);
    ahead->begun = true;
    pthread_cond_broadcast(&ahead->changed);
    pthread_mutex_unlock(&ahead->lock);
}
