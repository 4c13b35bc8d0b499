/*
 * packing.c: see packing.h.
 *
 * Both ways of packing need the same question answered: which is the next number that is in a set? The set is
 * a bit tree. For best fit its numbers are amounts of room that packs have; for tight fit they are lengths
 * that rows still to be packed have, counted from the longest (capacity - length).
 *
 * Invariants:
 * (1) head[r] is the newest pack with r tokens of room, or -1; bit r of the tree is set exactly when it is
 *     not -1.
 * (2) a bit of an upper level is set exactly when its word of the level below is not zero.
 * (3) between runs the tree is empty and every head is -1.
 */
#include "dataloader/packing.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { LEVELS = 6 };  /* 64^6 > 2^31 */
enum { TRIES = 300 }; /* rows tried for one pack in a tight fit */

struct packer {
    int32_t capacity, levels;
    uint64_t *tree[LEVELS]; /* level 0 has a bit for every number 0 .. capacity */
    int32_t *head;          /* [capacity + 1] */
    int32_t *bucket; /* [capacity + 2]: bucket[k] .. bucket[k + 1] - 1 are the rows of length capacity - k */
    int32_t *taken;  /* [capacity + 1]: rows of that bucket that are in packs */

    int32_t max_rows;
    int32_t *below;         /* [max_rows]: next pack with the same room */
    int32_t *sorted;        /* [max_rows] */
    int32_t *pack_of;       /* [max_rows] */
    int32_t *tight_pack_of; /* [max_rows] */
    int32_t *path;          /* [max_rows]: buckets of the rows tried */
    int32_t *best;          /* [max_rows]: of the fullest try */
    int32_t *number;        /* [max_rows]: final number of a pack */
    int32_t *start;         /* [max_rows + 1] */
    int32_t *item;          /* [max_rows] */
};

static void free_rows(struct packer *packer)
{
    free(packer->below);
    free(packer->sorted);
    free(packer->pack_of);
    free(packer->tight_pack_of);
    free(packer->path);
    free(packer->best);
    free(packer->number);
    free(packer->start);
    free(packer->item);
}

void packer_destroy(struct packer *packer)
{
    if (!packer) return;
    for (int level = 0; level < LEVELS; level++) free(packer->tree[level]);
    free(packer->head);
    free(packer->bucket);
    free(packer->taken);
    free_rows(packer);
    free(packer);
}

enum status packer_reserve(struct packer *packer, int32_t max_rows)
{
    if (max_rows <= packer->max_rows) return LORAD_OK;
    free_rows(packer);
    packer->max_rows = 0;
    int32_t **arrays[] = {&packer->below,         &packer->sorted, &packer->pack_of,
                          &packer->tight_pack_of, &packer->path,   &packer->best,
                          &packer->number,        &packer->start,  &packer->item};
    bool failed = false;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        failed |= !(*arrays[i] = memory_new((size_t)max_rows + 1, sizeof(int32_t)));
    if (failed) return LORAD_NOMEM;
    packer->max_rows = max_rows;
    return LORAD_OK;
}

enum status packer_create(struct packer **out, int32_t max_rows, int32_t capacity)
{
    ASSERT(max_rows > 0 && capacity > 0);
    struct packer *packer = memory_new(1, sizeof *packer);
    if (!packer) return LORAD_NOMEM;
    size_t rooms = (size_t)capacity + 1;
    packer->capacity = capacity;
    bool failed = false;
    for (size_t bits = rooms;; bits = (bits + 63) / 64) {
        uint64_t **level = &packer->tree[packer->levels++];
        failed |= !(*level = memory_new((bits + 63) / 64, sizeof **level));
        if (bits <= 64) break;
    }
    failed |= !(packer->head = memory_new(rooms, sizeof *packer->head));
    failed |= !(packer->bucket = memory_new(rooms + 1, sizeof *packer->bucket));
    failed |= !(packer->taken = memory_new(rooms, sizeof *packer->taken));
    if (failed || packer_reserve(packer, max_rows) != LORAD_OK) {
        packer_destroy(packer);
        return LORAD_NOMEM;
    }
    memset(packer->head, 0xff, rooms * sizeof *packer->head);
    *out = packer;
    return LORAD_OK;
}

/* ---- the set ---- */

static void set_add(struct packer *p, int32_t number)
{
    uint32_t bit = (uint32_t)number;
    for (int level = 0; level < p->levels; level++, bit >>= 6)
        p->tree[level][bit >> 6] |= (uint64_t)1 << (bit & 63);
}

static void set_remove(struct packer *p, int32_t number)
{
    uint32_t bit = (uint32_t)number;
    for (int level = 0; level < p->levels; level++, bit >>= 6) {
        p->tree[level][bit >> 6] &= ~((uint64_t)1 << (bit & 63));
        if (p->tree[level][bit >> 6]) break;
    }
}

/* The smallest number of the set that is >= from; -1: none. */
static int32_t set_find(const struct packer *p, int32_t from)
{
    uint64_t bit = (uint64_t)from, last = (uint64_t)p->capacity;
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

/* ---- best fit decreasing ---- */

static void sort_descending(struct packer *p, const int32_t *lengths, int32_t n)
{
    int32_t *bucket = p->bucket;
    memset(bucket, 0, ((size_t)p->capacity + 2) * sizeof *bucket);
    for (int32_t i = 0; i < n; i++) {
        ASSERT(lengths[i] >= 1 && lengths[i] <= p->capacity);
        bucket[p->capacity - lengths[i] + 1]++;
    }
    for (int32_t k = 0; k <= p->capacity; k++) bucket[k + 1] += bucket[k];
    for (int32_t i = 0; i < n; i++) p->sorted[bucket[p->capacity - lengths[i]]++] = i;
    /* Each bucket[k] has gone up to where the next one begins: shift them back. */
    memmove(bucket + 1, bucket, ((size_t)p->capacity + 1) * sizeof *bucket);
    bucket[0] = 0;
}

static void room_add(struct packer *p, int32_t pack, int32_t room)
{
    p->below[pack] = p->head[room];
    p->head[room] = pack;
    set_add(p, room);
}

static int32_t room_pop(struct packer *p, int32_t room)
{
    int32_t pack = p->head[room];
    p->head[room] = p->below[pack];
    if (p->head[room] < 0) set_remove(p, room);
    return pack;
}

static int32_t best_fit(struct packer *p, const int32_t *lengths, int32_t n)
{
    int32_t n_packs = 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t row = p->sorted[i], length = lengths[row], room = set_find(p, length);
        int32_t pack = room >= 0 ? room_pop(p, room) : n_packs++;
        if (room < 0) room = p->capacity;
        p->pack_of[row] = pack;
        if (room > length) room_add(p, pack, room - length);
    }
    for (int32_t room; (room = set_find(p, 0)) >= 0;) room_pop(p, room);
    return n_packs;
}

/* ---- tight fit ---- */

static int32_t rows_left(const struct packer *p, int32_t k)
{
    return p->bucket[k + 1] - p->bucket[k] - p->taken[k];
}

static void take(struct packer *p, int32_t k)
{
    p->taken[k]++;
    if (rows_left(p, k) == 0) set_remove(p, k);
}

static void give_back(struct packer *p, int32_t k)
{
    if (rows_left(p, k) == 0) set_add(p, k);
    p->taken[k]--;
}

/* Looks for rows that fill `room` best, longer ones first; their buckets go to best[], the result is their
 * number. A depth-first search that is given up after TRIES rows. */
static int32_t fill_room(struct packer *p, int32_t room, int32_t shortest)
{
    int32_t depth = 0, n_best = 0, least = room, k = set_find(p, p->capacity - room);
    for (int tries = TRIES; tries > 0 && least > 0;) {
        if (k >= 0) {
            take(p, k);
            room -= p->capacity - k;
            p->path[depth++] = k;
            tries--;
            if (room < least) {
                least = room;
                n_best = depth;
                memcpy(p->best, p->path, (size_t)depth * sizeof *p->best);
            }
            int32_t fits = p->capacity - room;
            k = room >= shortest ? set_find(p, fits > k ? fits : k) : -1;
        } else {
            if (depth == 0) break;
            int32_t last = p->path[--depth];
            give_back(p, last);
            room += p->capacity - last;
            /* Another row in its place is shorter and helps only when a further one fits behind it. */
            int32_t next = p->capacity - (room - shortest);
            k = next <= p->capacity ? set_find(p, next > last + 1 ? next : last + 1) : -1;
        }
    }
    while (depth > 0) give_back(p, p->path[--depth]);
    return n_best;
}

static void put(struct packer *p, int32_t k, int32_t pack)
{
    p->tight_pack_of[p->sorted[p->bucket[k] + p->taken[k]]] = pack;
    take(p, k);
}

/* Pack by pack: the longest row that is left, and the rows that fill the rest best. Gives up, and returns
 * `most`, when it needs that many. */
static int32_t tight_fit(struct packer *p, int32_t most)
{
    memset(p->taken, 0, ((size_t)p->capacity + 1) * sizeof *p->taken);
    int32_t n_packs = 0, shortest = p->capacity;
    for (int32_t k = 0; k <= p->capacity; k++)
        if (rows_left(p, k) > 0) {
            set_add(p, k);
            shortest = p->capacity - k;
        }
    for (int32_t longest; n_packs < most && (longest = set_find(p, 0)) >= 0; n_packs++) {
        put(p, longest, n_packs);
        while (shortest < p->capacity && rows_left(p, p->capacity - shortest) == 0) shortest++;
        int32_t n = longest > 0 ? fill_room(p, longest, shortest) : 0;
        for (int32_t i = 0; i < n; i++) put(p, p->best[i], n_packs);
    }
    for (int32_t k; (k = set_find(p, 0)) >= 0;) set_remove(p, k);
    return n_packs;
}

struct packing packer_run(struct packer *p, const int32_t *lengths, int32_t n)
{
    ASSERT(n >= 0 && n <= p->max_rows);
    sort_descending(p, lengths, n);
    int64_t tokens = 0;
    for (int32_t i = 0; i < n; i++) tokens += lengths[i];
    int32_t n_packs = best_fit(p, lengths, n), *pack_of = p->pack_of;
    if (n_packs > (tokens + p->capacity - 1) / p->capacity) {
        int32_t n_tight = tight_fit(p, n_packs);
        if (n_tight < n_packs) {
            n_packs = n_tight;
            pack_of = p->tight_pack_of;
        }
    }

    /* Number the packs by their lowest row, then deal the rows to them in order. */
    memset(p->number, 0xff, (size_t)n * sizeof *p->number);
    memset(p->start, 0, ((size_t)n_packs + 1) * sizeof *p->start);
    int32_t next = 0;
    for (int32_t row = 0; row < n; row++) {
        int32_t *number = &p->number[pack_of[row]];
        if (*number < 0) *number = next++;
        pack_of[row] = *number;
        p->start[*number + 1]++;
    }
    for (int32_t i = 0; i < n_packs; i++) p->start[i + 1] += p->start[i];
    for (int32_t row = n - 1; row >= 0; row--) p->item[--p->start[pack_of[row] + 1]] = row;
    /* Each start[i + 1] has come down to where pack i begins: shift them back. */
    for (int32_t i = 0; i < n_packs; i++) p->start[i] = p->start[i + 1];
    p->start[n_packs] = n;
    return (struct packing){.start = p->start, .item = p->item, .n_packs = n_packs};
}
