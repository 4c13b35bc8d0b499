/*
 * load.c: see load.h.
 *
 * A chunk of rows is copied into a pinned block by several threads (one thread copies at a third of what the
 * bus takes) and then leaves for the GPU while the next block is filled.
 *
 * 1. A block is filled again when the event behind its last use is done.
 * 2. The threads read what the caller of cuda_load_rows lent only while it is inside that call.
 */
#include "kernels/cuda/load.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/thread.h"

enum { BLOCKS = 4, BLOCK_BYTES = 16 << 20, MOST_HELPERS = 3 };

/* Rows to gather into a block; cut among the threads. */
struct gather {
    struct matrix host;
    char *to;
};

struct cuda_loader {
    char *block[BLOCKS]; /* pinned */
    cudaEvent_t done[BLOCKS];
    int next;

    pthread_t thread[MOST_HELPERS];
    int helpers;
    pthread_mutex_t mutex;
    pthread_cond_t go, ready;
    struct gather work;
    uint64_t round; /* counts the chunks: a helper does its part of each once */
    int busy;
    bool closing;
};

struct helper {
    struct cuda_loader *loader;
    int number;
};

/* Part `number` of loader->helpers + 1 of the rows' bytes. */
static void gather_part(const struct gather *work, int number, int parts)
{
    int64_t first = work->host.rows * number / parts, end = work->host.rows * (number + 1) / parts;
    size_t size = dtype_bytes(work->host.dtype), row = (size_t)work->host.cols * size;
    const char *from = (const char *)work->host.data;
    if (work->host.stride == work->host.cols) {
        memcpy(work->to + (size_t)first * row, from + (size_t)first * row, (size_t)(end - first) * row);
        return;
    }
    for (int64_t i = first; i < end; i++)
        memcpy(work->to + (size_t)i * row, from + (size_t)(i * work->host.stride) * size, row);
}

static void *help(void *argument)
{
    struct helper own = *(struct helper *)argument;
    struct cuda_loader *loader = own.loader;
    free(argument);
    uint64_t round = 0;
    pthread_mutex_lock(&loader->mutex);
    for (;;) {
        while (!loader->closing && loader->round == round) pthread_cond_wait(&loader->go, &loader->mutex);
        if (loader->closing) break;
        round = loader->round;
        pthread_mutex_unlock(&loader->mutex);
        gather_part(&loader->work, own.number + 1, loader->helpers + 1);
        pthread_mutex_lock(&loader->mutex);
        if (--loader->busy == 0) pthread_cond_signal(&loader->ready);
    }
    pthread_mutex_unlock(&loader->mutex);
    return NULL;
}

static void gather(struct cuda_loader *loader, struct matrix host, char *to)
{
    pthread_mutex_lock(&loader->mutex);
    loader->work = (struct gather){.host = host, .to = to};
    loader->busy = loader->helpers;
    loader->round++;
    pthread_cond_broadcast(&loader->go);
    pthread_mutex_unlock(&loader->mutex);
    gather_part(&loader->work, 0, loader->helpers + 1);
    pthread_mutex_lock(&loader->mutex);
    while (loader->busy > 0) pthread_cond_wait(&loader->ready, &loader->mutex);
    pthread_mutex_unlock(&loader->mutex);
}

/* Fewer threads than wished for are fine. */
static enum status start_helpers(struct cuda_loader *loader)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int wanted = cores > MOST_HELPERS ? MOST_HELPERS : (int)cores - 1;
    struct helper *argument[MOST_HELPERS] = {NULL};
    pthread_mutex_lock(&loader->mutex); /* `helpers` is final before any of them reads it */
    while (loader->helpers < wanted) {
        struct helper *helper = memory_new(1, sizeof *helper);
        if (!helper) break;
        *helper = (struct helper){.loader = loader, .number = loader->helpers};
        argument[loader->helpers] = helper;
        if (thread_start(&loader->thread[loader->helpers], help, helper) != 0) {
            free(argument[loader->helpers]);
            break;
        }
        loader->helpers++;
    }
    pthread_mutex_unlock(&loader->mutex);
    return LORAD_OK;
}

static enum status loader_fill(struct cuda_loader *loader)
{
    for (int i = 0; i < BLOCKS; i++) {
        CUDA_TRY(cudaHostAlloc((void **)&loader->block[i], BLOCK_BYTES, cudaHostAllocDefault));
        CUDA_TRY(cudaEventCreateWithFlags(&loader->done[i], cudaEventDisableTiming));
    }
    return start_helpers(loader);
}

static enum status loader_of(struct cuda_loader **out, struct cuda_device *device)
{
    if (!device->loader) {
        struct cuda_loader *loader = memory_new(1, sizeof *loader);
        if (!loader) return LORAD_NOMEM;
        pthread_mutex_init(&loader->mutex, NULL);
        pthread_cond_init(&loader->go, NULL);
        pthread_cond_init(&loader->ready, NULL);
        enum status status = loader_fill(loader);
        if (status != LORAD_OK) {
            cuda_loader_destroy(loader);
            return status;
        }
        device->loader = loader;
    }
    *out = device->loader;
    return LORAD_OK;
}

void cuda_loader_destroy(struct cuda_loader *loader)
{
    if (!loader) return;
    pthread_mutex_lock(&loader->mutex);
    loader->closing = true;
    pthread_cond_broadcast(&loader->go);
    pthread_mutex_unlock(&loader->mutex);
    for (int i = 0; i < loader->helpers; i++) pthread_join(loader->thread[i], NULL);
    for (int i = 0; i < BLOCKS; i++) {
        if (loader->done[i]) {
            cudaEventSynchronize(loader->done[i]);
            cudaEventDestroy(loader->done[i]);
        }
        if (loader->block[i]) cudaFreeHost(loader->block[i]);
    }
    pthread_mutex_destroy(&loader->mutex);
    pthread_cond_destroy(&loader->go);
    pthread_cond_destroy(&loader->ready);
    free(loader);
}

enum status cuda_load_rows(struct cuda_device *device, struct matrix to, struct matrix host)
{
    struct cuda_loader *loader;
    cudaStream_t stream = device->stream[STREAM_COPY];
    TRY(loader_of(&loader, device));
    int64_t step = BLOCK_BYTES / (host.cols * (int64_t)dtype_bytes(host.dtype));
    if (step < 1) return FAIL(LORAD_BUG, "a row of %lld columns is too long to load", (long long)host.cols);
    for (int64_t row = 0; row < host.rows; row += step) {
        int64_t n = host.rows - row < step ? host.rows - row : step;
        int number = loader->next;
        loader->next = (number + 1) % BLOCKS;
        CUDA_TRY(cudaEventSynchronize(loader->done[number]));
        gather(loader, matrix_part(host, row, n, 0, host.cols), loader->block[number]);
        TRY(cuda_put_rows(stream, matrix_part(to, row, n, 0, to.cols), loader->block[number], host.dtype));
        CUDA_TRY(cudaEventRecord(loader->done[number], stream));
    }
    return LORAD_OK;
}

enum status cuda_load_join(struct cuda_device *device)
{
    struct cuda_loader *loader = device->loader;
    if (!loader) return LORAD_OK;
    int last = (loader->next + BLOCKS - 1) % BLOCKS;
    CUDA_TRY(cudaStreamWaitEvent(device->stream[STREAM_COMPUTE], loader->done[last], 0));
    return LORAD_OK;
}
