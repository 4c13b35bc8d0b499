/* bpe_tables.h: looking up what bpe_build.c has built (inside bpe*.c only). */
#ifndef LORAD_DATALOADER_BPE_TABLES_H
#define LORAD_DATALOADER_BPE_TABLES_H

#include "dataloader/bpe.h"

#define BPE_NO_RANK ((uint32_t)INT32_MAX) /* not UINT32_MAX: signed numbers compare faster in vectors */

enum {
    BPE_WHOLE_MAX = 1024, /* ignore_merges: longest word that can be a token */
    BPE_JOINT_BITS = 20,  /* the joint bitmap has 2^20 bits */
};

static inline uint64_t pair_hash(uint32_t left, uint32_t right)
{
    return ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
}

static inline const struct bpe_pair *find_pair(const struct bpe *bpe, int32_t left, int32_t right)
{
    size_t at = (size_t)(pair_hash((uint32_t)left, (uint32_t)right) >> bpe->pair_shift);
    for (;; at = (at + 1) & (bpe->n_pairs - 1)) {
        const struct bpe_pair *pair = &bpe->pair[at];
        if (pair->left == left && pair->right == right) return pair;
        if (pair->left < 0) return NULL;
    }
}

/* Most pairs asked for are no merge: the filter, small enough for a cache, answers those. */
static inline uint32_t pair_rank(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t bit = pair_hash((uint32_t)left, (uint32_t)right) >> bpe->filter_shift;
    if (!(bpe->filter[bit >> 6] >> (bit & 63) & 1)) return BPE_NO_RANK;
    const struct bpe_pair *pair = find_pair(bpe, left, right);
    return pair ? pair->rank : BPE_NO_RANK;
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
