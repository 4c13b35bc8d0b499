/*
 * packing.c: best-fit decreasing with a list of packs for every amount of room left and a bit tree over those
 * lists.
 *
 * Invariants:
 * (1) head[r] is the newest pack with r tokens of room, or -1; bit r of the tree is set exactly when it is not -1.
 * (2) a bit of an upper level is set exactly when its word of the level below is not zero.
 */
#include "dataloader/packing.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { LEVELS = 6 }; /* 64^6 > 2^31 */

struct packer {
    int32_t max_rows, capacity, levels;
    uint64_t *tree[LEVELS]; /* level 0 has a bit for every room 0 .. capacity */
    int32_t *head;          /* [capacity + 1] */
    int32_t *below;         /* [max_rows]: next pack with the same room */
    int32_t *bucket;        /* [capacity + 2]: counting sort */
    int32_t *sorted;        /* [max_rows] */
    int32_t *pack_of;       /* [max_rows] */
    int32_t *number;        /* [max_rows]: final number of a pack */
    int32_t *start;         /* [max_rows + 1] */
    int32_t *item;          /* [max_rows] */
};

void packer_destroy(struct packer *packer)
{
    if (!packer) return;
    for (int level = 0; level < LEVELS; level++) free(packer->tree[level]);
    free(packer->head);
    free(packer->below);
    free(packer->bucket);
    free(packer->sorted);
    free(packer->pack_of);
    free(packer->number);
    free(packer->start);
    free(packer->item);
    free(packer);
}

enum status packer_create(struct packer **out, int32_t max_rows, int32_t capacity)
{
    ASSERT(max_rows > 0 && capacity > 0);
    struct packer *packer = memory_new(1, sizeof *packer);
    if (!packer) return LORAD_NOMEM;
    size_t rows = (size_t)max_rows, rooms = (size_t)capacity + 1;
    packer->max_rows = max_rows;
    packer->capacity = capacity;
    bool failed = false;
    for (size_t bits = rooms;; bits = (bits + 63) / 64) {
        uint64_t **level = &packer->tree[packer->levels++];
        failed |= !(*level = memory_new((bits + 63) / 64, sizeof **level));
        if (bits <= 64) break;
    }
    failed |= !(packer->head = memory_new(rooms, sizeof *packer->head));
    failed |= !(packer->below = memory_new(rows, sizeof *packer->below));
    failed |= !(packer->bucket = memory_new(rooms + 1, sizeof *packer->bucket));
    failed |= !(packer->sorted = memory_new(rows, sizeof *packer->sorted));
    failed |= !(packer->pack_of = memory_new(rows, sizeof *packer->pack_of));
    failed |= !(packer->number = memory_new(rows, sizeof *packer->number));
    failed |= !(packer->start = memory_new(rows + 1, sizeof *packer->start));
    failed |= !(packer->item = memory_new(rows, sizeof *packer->item));
    if (failed) {
        packer_destroy(packer);
        return LORAD_NOMEM;
    }
    memset(packer->head, 0xff, rooms * sizeof *packer->head);
    *out = packer;
    return LORAD_OK;
}

static void room_add(struct packer *p, int32_t pack, int32_t room)
{
    p->below[pack] = p->head[room];
    p->head[room] = pack;
    uint32_t bit = (uint32_t)room;
    for (int level = 0; level < p->levels; level++, bit >>= 6)
        p->tree[level][bit >> 6] |= (uint64_t)1 << (bit & 63);
}

static int32_t room_pop(struct packer *p, int32_t room)
{
    int32_t pack = p->head[room];
    p->head[room] = p->below[pack];
    if (p->head[room] >= 0) return pack;
    uint32_t bit = (uint32_t)room;
    for (int level = 0; level < p->levels; level++, bit >>= 6) {
        p->tree[level][bit >> 6] &= ~((uint64_t)1 << (bit & 63));
        if (p->tree[level][bit >> 6]) break;
    }
    return pack;
}

/* The smallest room >= need that some pack has; -1: none. */
static int32_t room_find(const struct packer *p, int32_t need)
{
    uint64_t bit = (uint64_t)need, last = (uint64_t)p->capacity;
    for (int level = 0; level < p->levels; level++) {
        if (bit > last) return -1;
        uint64_t word = p->tree[level][bit >> 6] & (~(uint64_t)0 << (bit & 63));
        if (word) {
            bit = (bit & ~(uint64_t)63) | (uint64_t)__builtin_ctzll(word);
            while (level-- > 0) bit = bit << 6 | (uint64_t)__builtin_ctzll(p->tree[level][bit]);
            return (int32_t)bit;
        }
        bit = (bit >> 6) + 1;
        last >>= 6;
    }
    return -1;
}

static void sort_descending(struct packer *p, const int32_t *lengths, int32_t n)
{
    int32_t *bucket = p->bucket; /* bucket[k]: where the next row of length capacity - k goes */
    memset(bucket, 0, ((size_t)p->capacity + 2) * sizeof *bucket);
    for (int32_t i = 0; i < n; i++) {
        ASSERT(lengths[i] >= 1 && lengths[i] <= p->capacity);
        bucket[p->capacity - lengths[i] + 1]++;
    }
    for (int32_t k = 0; k <= p->capacity; k++) bucket[k + 1] += bucket[k];
    for (int32_t i = 0; i < n; i++) p->sorted[bucket[p->capacity - lengths[i]]++] = i;
}

struct packing packer_run(struct packer *p, const int32_t *lengths, int32_t n)
{
    ASSERT(n >= 0 && n <= p->max_rows);
    sort_descending(p, lengths, n);
    int32_t n_packs = 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t row = p->sorted[i], length = lengths[row], room = room_find(p, length);
        int32_t pack = room >= 0 ? room_pop(p, room) : n_packs++;
        if (room < 0) room = p->capacity;
        p->pack_of[row] = pack;
        if (room > length) room_add(p, pack, room - length);
    }
    for (int32_t room; (room = room_find(p, 0)) >= 0;) room_pop(p, room);

    /* Number the packs by their lowest row, then deal the rows to them in order. */
    memset(p->number, 0xff, (size_t)n * sizeof *p->number);
    memset(p->start, 0, ((size_t)n_packs + 1) * sizeof *p->start);
    int32_t next = 0;
    for (int32_t row = 0; row < n; row++) {
        int32_t *number = &p->number[p->pack_of[row]];
        if (*number < 0) *number = next++;
        p->pack_of[row] = *number;
        p->start[*number + 1]++;
    }
    for (int32_t i = 0; i < n_packs; i++) p->start[i + 1] += p->start[i];
    for (int32_t row = n - 1; row >= 0; row--) p->item[--p->start[p->pack_of[row] + 1]] = row;
    /* Each start[i + 1] has come down to where pack i begins: shift them back. */
    for (int32_t i = 0; i < n_packs; i++) p->start[i] = p->start[i + 1];
    p->start[n_packs] = n;
    return (struct packing){.start = p->start, .item = p->item, .n_packs = n_packs};
}
