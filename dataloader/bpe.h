/*
 * bpe.h: one word -> token numbers by merging pairs in rank order (Sennrich et al., "Neural Machine
 * Translation of Rare Words with Subword Units", ACL 2016), as Hugging Face's BPE model does it (inside the
 * dataloader folder only).
 *
 * In byte mode a symbol is a byte and the vocabulary is written in the printable alphabet of GPT-2, one
 * character a byte; otherwise a symbol is a character, or its bytes as <0xHH> tokens (byte fallback), or the
 * unknown token.
 */
#ifndef LORAD_DATALOADER_BPE_H
#define LORAD_DATALOADER_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "dataloader/tokenizer.h"
#include "dataloader/vocab.h"

struct bpe {
    struct vocab vocab;
    bool byte_mode, byte_fallback, fuse_unk, ignore_merges;
    int32_t unk; /* -1: characters without a token disappear, as in HF */

    struct bpe_merge {
        int32_t left, right, result;
    } * merge; /* [n_merges], by rank */
    size_t n_merges, merge_capacity;
    /* Open addressing: left << 42 | right << 20 | rank of a merge; UINT64_MAX: empty. */
    uint64_t *pair;
    size_t n_pairs; /* slots, a power of two */
    int32_t result_offset; /* result of a merge - its rank, when that is the same for all; otherwise INT32_MIN */
    int pair_shift, filter_shift;
    uint64_t *filter; /* bitmap: no bit, no pair */

    int32_t byte_token[256];      /* byte mode: the symbol of a byte; otherwise its <0xHH> token; -1: none */
    /* [65536] The token of a character of the BMP, -1: none. Byte mode: only where merging its bytes by themselves gives
     * one, and the highest rank of those merges; -1: ASCII. */
    int32_t *character_token, *character_rank;
    uint16_t byte_character[256]; /* the GPT-2 alphabet and its inverse (-1: none) */
    int16_t character_byte[256 + 68];
    uint32_t *byte_rank; /* byte mode: [256 * 256] rank of a pair of bytes */
    /* May two characters stand side by side inside a token? Bitmaps: by hash; by code in ASCII; by the last byte of the one
     * and the first of the other, where a token holds only a part of one of them, of both of them. */
    uint64_t *joint, ascii_joint[128 * 128 / 64], part_joint[256 * 256 / 64], parts_joint[256 * 256 / 64];
    bool lone_unknown;   /* characters without a token are unknown: no bytes stand for them */
    bool cuts;           /* false: nothing is known about that, words stay whole */
    size_t longest;      /* token, in bytes as the vocabulary writes it */
    uint64_t serial;     /* tells caches of different tokenizers apart */
};

void bpe_free(struct bpe *bpe);
/* Appends a merge (rank = order). LORAD_DATA when a part or the result is not in the vocabulary. */
enum status bpe_add_merge(struct bpe *bpe, const char *left, size_t left_length, const char *right,
                          size_t right_length, const char *where) LORAD_WARN_UNUSED;
/* The same, with a space between the parts. LORAD_DATA when they are not two. */
enum status bpe_add_merge_line(struct bpe *bpe, const char *line, size_t length, const char *where) LORAD_WARN_UNUSED;
/* After the vocabulary, the flags and the merges are in. */
enum status bpe_seal(struct bpe *bpe, const char *where) LORAD_WARN_UNUSED;

/* Working memory of one thread: symbol arrays and a cache of recent stretches of text. */
struct bpe_scratch;
enum status bpe_scratch_create(struct bpe_scratch **out) LORAD_WARN_UNUSED;
void bpe_scratch_destroy(struct bpe_scratch *scratch);

/* Appends the tokens of a word (valid UTF-8). Spans are offsets in the word + base. */
enum status bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word, size_t length,
                       uint32_t base, struct token_list *out) LORAD_WARN_UNUSED;

#endif
