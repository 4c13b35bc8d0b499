/* bpe_tables.h: looking up what bpe_build.c has built (inside bpe*.c only). */
#ifndef LORAD_DATALOADER_BPE_TABLES_H
#define LORAD_DATALOADER_BPE_TABLES_H

#include "dataloader/bpe.h"

#define BPE_NO_RANK ((uint32_t)INT32_MAX) /* not UINT32_MAX: signed numbers compare faster in vectors */

enum {
    BPE_WHOLE_MAX = 1024, /* ignore_merges: longest word that can be a token */
    BPE_JOINT_BITS = 21,  /* the joint bitmap has 2^21 bits */
};

static inline uint64_t pair_hash(uint32_t left, uint32_t right)
{
    return ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
}

enum { BPE_RANK_BITS = 20, BPE_ID_BITS = 22 };

static inline uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << BPE_ID_BITS | (uint32_t)right;
}

/* Most pairs asked for are no merge: the filter, small enough for a cache, answers those. */
static inline uint32_t pair_rank(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t hash = pair_hash((uint32_t)left, (uint32_t)right), bit = hash >> bpe->filter_shift;
    if (!(bpe->filter[bit >> 6] >> (bit & 63) & 1)) return BPE_NO_RANK;
    uint64_t key = pair_key(left, right);
    for (size_t at = (size_t)(hash >> bpe->pair_shift);; at = (at + 1) & (bpe->n_pairs - 1)) {
        uint64_t slot = bpe->pair[at];
        if (slot >> BPE_RANK_BITS == key) return slot & ((1u << BPE_RANK_BITS) - 1);
        if (slot == UINT64_MAX) return BPE_NO_RANK;
    }
}

static inline int32_t merge_result(const struct bpe *bpe, uint32_t rank)
{
    return bpe->result_offset == INT32_MIN ? bpe->merge[rank].result : (int32_t)rank + bpe->result_offset;
}

static inline bool bit_get(const uint64_t *bits, uint64_t at)
{
    return bits[at >> 6] >> (at & 63) & 1;
}

static inline void bit_set(uint64_t *bits, uint64_t at)
{
    bits[at >> 6] |= 1ull << (at & 63);
}

static inline uint64_t joint_bit(uint32_t left, uint32_t right)
{
    return pair_hash(left, right) >> (64 - BPE_JOINT_BITS);
}

static inline uint32_t part_bit(char last, char first)
{
    return (uint32_t)(unsigned char)last << 8 | (unsigned char)first;
}

/* One or two bytes that are a part of a character, as a number that is none. */
static inline uint32_t part_code(const char *bytes, size_t n)
{
    return n == 1 ? 0x200000u | (unsigned char)bytes[0]
                  : 0x400000u | (uint32_t)(unsigned char)bytes[0] << 8 | (unsigned char)bytes[1];
}

/* Writes a character below U+0800. */
static inline size_t put_small_character(char *out, uint32_t character)
{
    if (character < 0x80) {
        out[0] = (char)character;
        return 1;
    }
    out[0] = (char)(0xC0 | character >> 6);
    out[1] = (char)(0x80 | (character & 0x3F));
    return 2;
}

#endif
