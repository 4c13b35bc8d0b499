/*
 * 1. Data-parallel replicas hold the same bits: the first of them writes; of replicated factors the first
 * tensor-parallel rank.
 * 2. A chunk is taken by one thread, under `lock`, and counted when its copy is done (on the host) or
 * enqueued.
 * 3. On the host the gate opens with the last chunk; elsewhere when `copied` is recorded behind it.
 */
#include "trainer/snapshot.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"

enum { CHUNK_FLOATS = 1 << 18 };

struct snapshot {
    struct adapter *adapter;
    float *host; /* [SNAPSHOT_VECTORS][count]; NULL: this rank writes nothing */
    struct checkpoint_piece *pieces;
    char (*names)[SNAPSHOT_NAME_BYTES];
    size_t n;
    struct device_event *ready, *copied;
    int64_t chunk_floats, per_vector, chunks;

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t changed;
    int64_t taken, done; /* chunks */
    bool recorded;
    enum status status; /* of the first copy that failed */
};

void snapshot_name(char name[SNAPSHOT_NAME_BYTES], int vector, const struct lora_tensor *tensor)
{
    static const char *const prefix[SNAPSHOT_VECTORS] = {
        [ADAPTER_PARAM] = "master", [ADAPTER_M] = "adam.m", [ADAPTER_V] = "adam.v"};
    snprintf(name, SNAPSHOT_NAME_BYTES, "%s.%s", prefix[vector], tensor->name);
}

static void list_pieces(struct snapshot *s, const struct session *session)
{
    const struct lora *lora = session->lora;
    for (int v = 0; v < SNAPSHOT_VECTORS; v++)
        for (int32_t i = 0; i < lora->n_tensors; i++) {
            const struct lora_tensor *t = &lora->tensors[i];
            if (t->replicated && session->part.tp_rank != 0) continue;
            snapshot_name(s->names[s->n], v, t);
            s->pieces[s->n] = (struct checkpoint_piece){.name = s->names[s->n],
                                                        .item_bytes = sizeof(float),
                                                        .dtype = "F32",
                                                        .shape = {t->shape[0], t->shape[1]},
                                                        .row = t->row,
                                                        .rows = t->rows,
                                                        .col = t->col,
                                                        .cols = t->cols,
                                                        .data = s->host + v * lora->count + t->offset};
            s->n++;
        }
}

size_t snapshot_bytes(const struct lora *lora, const struct partition *partition)
{
    return partition->dp_rank == 0 ? (size_t)lora->count * SNAPSHOT_VECTORS * sizeof(float) : 0;
}

static enum status take_memory(struct snapshot *s, const struct session *session)
{
    struct device *device = s->adapter->device;
    int64_t count = session->lora->count;
    size_t most = (size_t)session->lora->n_tensors * SNAPSHOT_VECTORS;
    TRY(device_event_create(&s->ready, device));
    TRY(device_event_create(&s->copied, device));
    if (session->part.dp_rank != 0) return LORAD_OK;
    void *host;
    TRY(device_alloc_host(&host, device, snapshot_bytes(session->lora, &session->part)));
    s->host = host;
    s->pieces = memory_new(most, sizeof *s->pieces);
    s->names = memory_new(most, sizeof *s->names);
    if (!s->pieces || !s->names) return LORAD_NOMEM;
    list_pieces(s, session);
    s->chunk_floats = device_is_host(device) ? CHUNK_FLOATS : count;
    s->per_vector = count > 0 ? (count + s->chunk_floats - 1) / s->chunk_floats : 0;
    s->chunks = s->per_vector * SNAPSHOT_VECTORS;
    return LORAD_OK;
}

enum status snapshot_create(struct snapshot **out, const struct session *session)
{
    struct snapshot *s = memory_new(1, sizeof *s);
    if (!s) return LORAD_NOMEM;
    s->adapter = session->adapter;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    enum status status = take_memory(s, session);
    if (status == LORAD_OK)
        *out = s;
    else
        snapshot_destroy(s);
    return status;
}

void snapshot_destroy(struct snapshot *s)
{
    if (!s) return;
    struct device *device = s->adapter->device;
    if (s->ready) device_event_destroy(device, s->ready);
    if (s->copied) device_event_destroy(device, s->copied);
    device_free_host(device, s->host);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s->pieces);
    free(s->names);
    free(s);
}

enum status snapshot_begin(struct snapshot *s)
{
    struct device *device = s->adapter->device;
    pthread_mutex_lock(&s->lock);
    s->taken = s->done = 0;
    s->recorded = false;
    s->status = LORAD_OK;
    pthread_mutex_unlock(&s->lock);
    TRY(device_event_record(device, STREAM_COMPUTE, s->ready));
    return device_stream_wait(device, STREAM_COPY, s->ready);
}

static enum status copy_chunk(const struct snapshot *s, int64_t chunk)
{
    int64_t count = s->adapter->lora->count, vector = chunk / s->per_vector,
            first = chunk % s->per_vector * s->chunk_floats,
            n = first + s->chunk_floats < count ? s->chunk_floats : count - first;
    return device_copy_from(s->adapter->device, STREAM_COPY, s->host + vector * count + first,
                            adapter_vector(s->adapter, (enum adapter_vector)vector) + first,
                            (size_t)n * sizeof(float));
}

/* Copies chunks that nobody has taken. Called with the lock, which is free during a copy. */
static void copy_chunks(struct snapshot *s)
{
    while (s->taken < s->chunks) {
        int64_t chunk = s->taken++;
        pthread_mutex_unlock(&s->lock);
        enum status status = copy_chunk(s, chunk);
        pthread_mutex_lock(&s->lock);
        if (s->status == LORAD_OK) s->status = status;
        if (++s->done == s->chunks) pthread_cond_broadcast(&s->changed);
    }
}

enum status snapshot_copy(struct snapshot *s)
{
    struct device *device = s->adapter->device;
    pthread_mutex_lock(&s->lock);
    copy_chunks(s);
    while (s->done < s->chunks) pthread_cond_wait(&s->changed, &s->lock);
    enum status status = s->status;
    pthread_mutex_unlock(&s->lock);
    if (status != LORAD_OK) status = FAIL(status, "cannot copy the adapter to host memory");

    enum status mark = device_event_record(device, STREAM_COPY, s->copied);
    pthread_mutex_lock(&s->lock);
    s->recorded = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (status == LORAD_OK) status = mark;
    return status == LORAD_OK ? device_event_sync(device, s->copied) : status;
}

enum status snapshot_gate(struct snapshot *s)
{
    bool host = device_is_host(s->adapter->device);
    pthread_mutex_lock(&s->lock);
    if (host) copy_chunks(s);
    while (host ? s->done < s->chunks : !s->recorded) pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return device_stream_wait(s->adapter->device, STREAM_COMPUTE, s->copied);
}

const struct checkpoint_piece *snapshot_pieces(const struct snapshot *s, size_t *n)
{
    *n = s->n;
    return s->pieces;
}

const float *snapshot_masters(const struct snapshot *s)
{
    return s->host ? s->host + ADAPTER_PARAM * s->adapter->lora->count : NULL;
}
