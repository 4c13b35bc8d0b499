/*
 * Device memory through a group over host memory.
 *
 * 1. Every copy is enqueued on the compute stream, so the order of copies into and out of a slot needs no
 * waiting, and the result is there for what is enqueued next.
 * 2. The host waits for a slot's event before it touches the slot; the event is recorded behind the last copy
 * into it or out of it.
 * 3. Piece i uses slot i % SLOTS and is fetched while the host exchanges piece i - 1, behind piece i - 2 on
 * its way back.
 */
#include "comm/comm_impl.h"

#include <stdlib.h>

#include "base/memory.h"

enum { SLOTS = 2, SLOT_BYTES = 2 << 20, ALIGN = 64 };

struct slot {
    char *memory;
    struct device_event *idle;
    bool used; /* idle was recorded */
};

struct comm_stage {
    const struct comm_host *host;
    struct device *device;
    struct slot slots[SLOTS];
};

enum status comm_stage_create(struct comm_stage **out, const struct comm_host *host, struct device *device)
{
    struct comm_stage *stage = memory_new(1, sizeof *stage);
    void *block = NULL;
    if (!stage) return LORAD_NOMEM;
    stage->host = host;
    stage->device = device;
    enum status status = device_alloc_host(&block, device, (size_t)SLOTS * SLOT_BYTES);
    for (int i = 0; i < SLOTS && status == LORAD_OK; i++) {
        stage->slots[i].memory = (char *)block + (size_t)i * SLOT_BYTES;
        status = device_event_create(&stage->slots[i].idle, device);
    }
    if (status != LORAD_OK) {
        comm_stage_destroy(stage);
        return status;
    }
    *out = stage;
    return LORAD_OK;
}

void comm_stage_destroy(struct comm_stage *stage)
{
    if (!stage) return;
    for (int i = 0; i < SLOTS; i++) device_event_destroy(stage->device, stage->slots[i].idle);
    device_free_host(stage->device, stage->slots[0].memory);
    free(stage);
}

/* ---- one piece ---- */

static struct slot *slot_of(struct comm_stage *stage, int64_t piece)
{
    return &stage->slots[piece % SLOTS];
}

static enum status mark(struct comm_stage *stage, struct slot *slot)
{
    slot->used = true;
    return device_event_record(stage->device, STREAM_COMPUTE, slot->idle);
}

static enum status fetch(struct comm_stage *stage, struct slot *slot, const void *device, size_t bytes)
{
    TRY(device_copy_from(stage->device, STREAM_COMPUTE, slot->memory, device, bytes));
    return mark(stage, slot);
}

static enum status give(struct comm_stage *stage, void *device, const void *memory, size_t bytes)
{
    return device_copy_to(stage->device, STREAM_COMPUTE, device, memory, bytes);
}

static enum status wait_for(struct comm_stage *stage, struct slot *slot)
{
    return slot->used ? device_event_sync(stage->device, slot->idle) : LORAD_OK;
}

/* How a buffer of `whole` units is cut. */
struct cut {
    int64_t whole, most;
};

static int64_t pieces(struct cut cut)
{
    return (cut.whole + cut.most - 1) / cut.most;
}

static int64_t length(struct cut cut, int64_t piece)
{
    int64_t left = cut.whole - piece * cut.most;
    return left < cut.most ? left : cut.most;
}

/* Bytes are the unit from here on, cut at whole elements. */
static enum status fetch_piece(struct comm_stage *stage, const char *buffer, struct cut cut, int64_t piece)
{
    if (piece >= pieces(cut)) return LORAD_OK;
    return fetch(stage, slot_of(stage, piece), buffer + piece * cut.most, (size_t)length(cut, piece));
}

/* ---- collectives ---- */

enum status comm_stage_all_reduce(struct comm_stage *stage, void *buffer, int64_t count, enum dtype dtype,
                                  enum comm_reduction reduction)
{
    const struct comm_host *host = stage->host;
    int64_t width = (int64_t)dtype_bytes(dtype);
    struct cut cut = {count * width, SLOT_BYTES};
    TRY(fetch_piece(stage, buffer, cut, 0));
    for (int64_t i = 0; i < pieces(cut); i++) {
        struct slot *slot = slot_of(stage, i);
        TRY(fetch_piece(stage, buffer, cut, i + 1));
        TRY(wait_for(stage, slot));
        TRY(host->ops->all_reduce(host->group, slot->memory, length(cut, i) / width, dtype, reduction));
        TRY(give(stage, (char *)buffer + i * cut.most, slot->memory, (size_t)length(cut, i)));
        TRY(mark(stage, slot));
    }
    return LORAD_OK;
}

/* A slot holds this rank's piece and behind it everybody's. */
enum status comm_stage_all_gather(struct comm_stage *stage, const void *in, void *out, size_t bytes)
{
    const struct comm_host *host = stage->host;
    struct cut cut = {(int64_t)bytes, SLOT_BYTES / (host->size + 1) / ALIGN * ALIGN};
    TRY(fetch_piece(stage, in, cut, 0));
    for (int64_t i = 0; i < pieces(cut); i++) {
        struct slot *slot = slot_of(stage, i);
        size_t n = (size_t)length(cut, i);
        char *gathered = slot->memory + cut.most, *place = (char *)out + i * cut.most;
        TRY(fetch_piece(stage, in, cut, i + 1));
        TRY(wait_for(stage, slot));
        TRY(host->ops->all_gather(host->group, slot->memory, gathered, n));
        for (int r = 0; r < host->size; r++)
            TRY(give(stage, place + (size_t)r * bytes, gathered + (size_t)r * n, n));
        TRY(mark(stage, slot));
    }
    return LORAD_OK;
}

/* Piece `piece` of every block side by side. */
static enum status fetch_blocks(struct comm_stage *stage, const char *in, struct cut cut, int64_t piece)
{
    if (piece >= pieces(cut)) return LORAD_OK;
    struct slot *slot = slot_of(stage, piece);
    int64_t n = length(cut, piece);
    for (int r = 0; r < stage->host->size; r++)
        TRY(device_copy_from(stage->device, STREAM_COMPUTE, slot->memory + r * n,
                             in + r * cut.whole + piece * cut.most, (size_t)n));
    return mark(stage, slot);
}

enum status comm_stage_reduce_scatter(struct comm_stage *stage, const void *in, void *out, int64_t count,
                                      enum dtype dtype, enum comm_reduction reduction)
{
    const struct comm_host *host = stage->host;
    int64_t width = (int64_t)dtype_bytes(dtype);
    struct cut cut = {count * width, SLOT_BYTES / host->size / ALIGN * ALIGN};
    TRY(fetch_blocks(stage, in, cut, 0));
    for (int64_t i = 0; i < pieces(cut); i++) {
        struct slot *slot = slot_of(stage, i);
        int64_t n = length(cut, i);
        char *mine = slot->memory + host->rank * n;
        TRY(fetch_blocks(stage, in, cut, i + 1));
        TRY(wait_for(stage, slot));
        TRY(host->ops->reduce_scatter(host->group, slot->memory, mine, n / width, dtype, reduction));
        TRY(give(stage, (char *)out + i * cut.most, mine, (size_t)n));
        TRY(mark(stage, slot));
    }
    return LORAD_OK;
}

enum status comm_stage_broadcast(struct comm_stage *stage, void *buffer, size_t bytes, int root)
{
    const struct comm_host *host = stage->host;
    bool mine = host->rank == root;
    struct cut cut = {(int64_t)bytes, SLOT_BYTES};
    if (mine) TRY(fetch_piece(stage, buffer, cut, 0));
    for (int64_t i = 0; i < pieces(cut); i++) {
        struct slot *slot = slot_of(stage, i);
        size_t n = (size_t)length(cut, i);
        if (mine) TRY(fetch_piece(stage, buffer, cut, i + 1));
        TRY(wait_for(stage, slot));
        TRY(host->ops->broadcast(host->group, slot->memory, n, root));
        if (mine) continue;
        TRY(give(stage, (char *)buffer + i * cut.most, slot->memory, n));
        TRY(mark(stage, slot));
    }
    return LORAD_OK;
}
