/*
 * bpe.c: merging.
 *
 * Invariants
 *  1. The pair merged next is the one of lowest rank, the leftmost of equals, as in Hugging Face's priority
 *     queue.
 *  2. A word is first cut into stretches where no token can reach across (the joints of bpe_build.c), which
 *     changes nothing but the length of what has to be merged. An unknown character is a stretch of its own;
 *     where it is not (a collision of joints, some bytes without a token), the word is merged whole.
 *  3. Short stretches are merged by scanning their ranks, long ones with a heap: no quadratic case, no
 *     recursion.
 *  4. The cache is exact: it holds results by their text, and never text that has an unknown character.
 */
#include "dataloader/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/bpe_tables.h"

enum {
    SCAN_BITS = 7,
    SCAN_MAX = 1 << SCAN_BITS, /* longest stretch merged by scanning */
    CACHE_SLOTS = 8192,        /* a power of two */
    CACHE_TEXT = 24,           /* longest cached text in bytes */
    CACHE_TOKENS = 7,          /* most tokens of it */
    WHOLE_WORD =
        0x80, /* in a length: of a word that is looked up in the vocabulary before merging (ignore_merges) */
};

/* 64 bytes, a line of the processor's cache. */
struct cached_text {
    uint64_t key[3]; /* the text, zeros behind it */
    int32_t id[CACHE_TOKENS];
    uint8_t end[CACHE_TOKENS - 1]; /* offset behind each token but the last */
    uint8_t length, n;             /* length 0: empty */
};

struct bpe_scratch {
    /* One entry a symbol. */
    int32_t *id;
    uint32_t *end;  /* offset behind the symbol in the stretch */
    uint32_t *rank; /* of the pair (symbol, next) */
    uint32_t *next, *previous;
    size_t capacity[5];
    uint64_t *heap; /* rank << 32 | symbol */
    size_t heap_length, heap_capacity;
    struct cached_text *cache;
    uint64_t cache_serial; /* of the tokenizer whose texts are cached */
};

/* ---- working memory ---- */

enum status bpe_scratch_create(struct bpe_scratch **out)
{
    struct bpe_scratch *scratch = memory_new(1, sizeof *scratch);
    if (!scratch) return LORAD_NOMEM;
    scratch->cache = memory_new(CACHE_SLOTS, sizeof *scratch->cache);
    if (!scratch->cache) {
        free(scratch);
        return LORAD_NOMEM;
    }
    *out = scratch;
    return LORAD_OK;
}

void bpe_scratch_destroy(struct bpe_scratch *scratch)
{
    if (!scratch) return;
    free(scratch->id);
    free(scratch->end);
    free(scratch->rank);
    free(scratch->next);
    free(scratch->previous);
    free(scratch->heap);
    free(scratch->cache);
    free(scratch);
}

static enum status reserve(struct bpe_scratch *scratch, size_t n)
{
    void **block[5] = {(void **)&scratch->id, (void **)&scratch->end, (void **)&scratch->rank,
                       (void **)&scratch->next, (void **)&scratch->previous};
    for (int i = 0; i < 5; i++) TRY(memory_grow(block[i], &scratch->capacity[i], n, sizeof(uint32_t)));
    return LORAD_OK;
}

static enum status reserve_tokens(struct token_list *out, size_t n)
{
    size_t need = out->length + n;
    if (out->want_spans) {
        TRY(memory_grow((void **)&out->start, &out->start_capacity, need, sizeof *out->start));
        TRY(memory_grow((void **)&out->end, &out->end_capacity, need, sizeof *out->end));
    }
    return memory_grow((void **)&out->ids, &out->capacity, need, sizeof *out->ids);
}

/* ---- merging ---- */

/* Ranks of the pairs of n symbols. bytes: the text that they stand for, one byte each; NULL: other symbols.
 */
static void first_ranks(const struct bpe *bpe, const int32_t *id, const char *bytes, uint32_t *rank, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = bytes ? bpe->byte_rank[(unsigned char)bytes[i] << 8 | (unsigned char)bytes[i + 1]]
                        : pair_rank(bpe, id[i], id[i + 1]);
    rank[n - 1] = BPE_NO_RANK;
}

/* Rank and place in one number, so that the smallest of them is the leftmost of the lowest. */
static inline int32_t scan_key(uint32_t rank, size_t at)
{
    return rank == BPE_NO_RANK ? INT32_MAX : (int32_t)(rank << SCAN_BITS | (uint32_t)at);
}

/* Merges the first n symbols of the scratch in place by scanning; returns how many are left. n <= SCAN_MAX.
 */
static size_t merge_scanning(const struct bpe *bpe, struct bpe_scratch *scratch, size_t n)
{
    int32_t *id = scratch->id, key[SCAN_MAX + 8];
    uint32_t *end = scratch->end;
    uint8_t next[SCAN_MAX], previous[SCAN_MAX];
    size_t padded = (n + 7) & ~(size_t)7;
    for (size_t i = 0; i < padded; i++) key[i] = i < n ? scan_key(scratch->rank[i], i) : INT32_MAX;
    for (size_t i = 0; i < n; i++) {
        next[i] = (uint8_t)(i + 1);
        previous[i] = (uint8_t)(i - 1);
    }
    for (;;) {
        int32_t lowest = INT32_MAX;
        for (size_t i = 0; i < padded; i++) lowest = key[i] < lowest ? key[i] : lowest;
        if (lowest == INT32_MAX) break;
        size_t at = (size_t)lowest & ((1u << SCAN_BITS) - 1), gone = next[at], after = next[gone];
        id[at] = merge_result(bpe, (uint32_t)lowest >> SCAN_BITS);
        end[at] = end[gone];
        key[gone] = INT32_MAX;
        next[at] = (uint8_t)after;
        key[at] = INT32_MAX;
        if (after < n) {
            previous[after] = (uint8_t)at;
            key[at] = scan_key(pair_rank(bpe, id[at], id[after]), at);
        }
        if (at > 0) {
            size_t before = previous[at];
            key[before] = scan_key(pair_rank(bpe, id[before], id[at]), before);
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i = next[i], kept++) {
        id[kept] = id[i];
        end[kept] = end[i];
    }
    return kept;
}

static enum status heap_push(struct bpe_scratch *scratch, uint32_t rank, size_t symbol)
{
    if (rank == BPE_NO_RANK) return LORAD_OK;
    TRY(memory_grow((void **)&scratch->heap, &scratch->heap_capacity, scratch->heap_length + 1,
                    sizeof *scratch->heap));
    uint64_t *heap = scratch->heap, key = (uint64_t)rank << 32 | symbol;
    size_t at = scratch->heap_length++;
    for (; at > 0 && heap[(at - 1) / 2] > key; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = key;
    return LORAD_OK;
}

static uint64_t heap_pop(struct bpe_scratch *scratch)
{
    uint64_t *heap = scratch->heap, top = heap[0];
    size_t n = --scratch->heap_length;
    uint64_t key = heap[n];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= key) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = key;
    return top;
}

/* The same for any n, with a heap of candidates; entries whose pair has changed since are passed over. */
static enum status merge_with_heap(const struct bpe *bpe, struct bpe_scratch *scratch, size_t n, size_t *left)
{
    int32_t *id = scratch->id;
    uint32_t *end = scratch->end, *rank = scratch->rank, *next = scratch->next, *previous = scratch->previous;
    scratch->heap_length = 0;
    for (size_t i = 0; i < n; i++) {
        next[i] = (uint32_t)i + 1;
        previous[i] = (uint32_t)i - 1;
        TRY(heap_push(scratch, rank[i], i));
    }
    while (scratch->heap_length) {
        uint64_t top = heap_pop(scratch);
        size_t at = (size_t)(top & UINT32_MAX);
        if (rank[at] != top >> 32) continue;
        size_t gone = next[at], after = next[gone];
        id[at] = merge_result(bpe, (uint32_t)(top >> 32));
        end[at] = end[gone];
        rank[gone] = BPE_NO_RANK;
        next[at] = (uint32_t)after;
        if (after < n) previous[after] = (uint32_t)at;
        rank[at] = after < n ? pair_rank(bpe, id[at], id[after]) : BPE_NO_RANK;
        TRY(heap_push(scratch, rank[at], at));
        if (at > 0) {
            size_t before = previous[at];
            rank[before] = pair_rank(bpe, id[before], id[at]);
            TRY(heap_push(scratch, rank[before], before));
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i = next[i], kept++) {
        id[kept] = id[i];
        end[kept] = end[i];
    }
    *left = kept;
    return LORAD_OK;
}

/* ---- symbols ---- */

static inline void add_symbol(struct bpe_scratch *scratch, size_t *n, int32_t id, size_t end)
{
    scratch->id[*n] = id;
    scratch->end[*n] = (uint32_t)end;
    ++*n;
}

static inline int32_t character_symbol(const struct bpe *bpe, const char *text, size_t length)
{
    uint32_t character = 0;
    if (length == 4) return vocab_find(&bpe->vocab, text, length);
    (void)utf8_read(&character, text, length);
    return bpe->character_token[character];
}

/* Fills the symbol arrays; *unknown when the word has a character that is no symbol. Follows HF's merge_word,
 * in which a pending unknown token is written only before the next known character: byte tokens overtake it.
 */
static size_t find_word_symbols(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word,
                                size_t length, bool *unknown)
{
    size_t n = 0;
    bool pending = false;
    size_t pending_end = 0;
    *unknown = false;
    for (size_t i = 0; i < length;) {
        size_t step = bpe->byte_mode ? 1 : utf8_length(word[i]), end = i + step;
        int32_t id =
            bpe->byte_mode ? bpe->byte_token[(unsigned char)word[i]] : character_symbol(bpe, word + i, step);
        if (id >= 0) {
            if (pending) add_symbol(scratch, &n, bpe->unk, pending_end);
            pending = false;
            add_symbol(scratch, &n, id, end);
        } else {
            bool fallback = bpe->byte_fallback;
            for (size_t k = i; k < end && fallback; k++)
                fallback = bpe->byte_token[(unsigned char)word[k]] >= 0;
            if (fallback) {
                for (size_t k = i; k < end; k++)
                    add_symbol(scratch, &n, bpe->byte_token[(unsigned char)word[k]], k + 1);
            } else {
                *unknown = true;
                if (pending && !bpe->fuse_unk) add_symbol(scratch, &n, bpe->unk, pending_end);
                pending = bpe->unk >= 0;
                pending_end = end;
            }
        }
        i = end;
    }
    if (pending) add_symbol(scratch, &n, bpe->unk, pending_end);
    return n;
}

/* ---- the cache ---- */

struct text_key {
    uint64_t part[3];
};

/* The n < 8 bytes at `text` as a number. */
static inline uint64_t read_tail(const char *text, size_t n)
{
    if (n >= 4) {
        uint32_t low, high;
        memcpy(&low, text, 4);
        memcpy(&high, text + n - 4, 4);
        return low | (uint64_t)high << (8 * (n - 4));
    }
    if (n == 0) return 0;
    uint64_t first = (unsigned char)text[0], middle = (unsigned char)text[n / 2],
             last = (unsigned char)text[n - 1];
    return first | middle << (8 * (n / 2)) | last << (8 * (n - 1));
}

static inline struct text_key text_key(const char *text, size_t length)
{
    struct text_key key = {{0, 0, 0}};
    size_t i = 0;
    for (; length >= 8; i++, text += 8, length -= 8) memcpy(&key.part[i], text, 8);
    if (length) key.part[i] = read_tail(text, length);
    return key;
}

static inline struct cached_text *cache_slot(struct bpe_scratch *scratch, const struct text_key *key,
                                             size_t length)
{
    uint64_t h = (key->part[0] ^ length) * 0x9E3779B97F4A7C15u;
    h ^= h >> 32;
    if (length & (WHOLE_WORD - 1) & ~7u) {
        h = (h ^ key->part[1]) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
        h = (h ^ key->part[2]) * 0xD6E8FEB86659FD93u;
    }
    return &scratch->cache[h >> 40 & (CACHE_SLOTS - 1)];
}

static inline bool is_cached(const struct cached_text *slot, const struct text_key *key, size_t length)
{
    return slot->length == length && slot->key[0] == key->part[0] && slot->key[1] == key->part[1] &&
           slot->key[2] == key->part[2];
}

/* There is room for CACHE_TOKENS more tokens. */
static inline void emit_cached(const struct cached_text *slot, uint32_t base, struct token_list *out)
{
    memcpy(out->ids + out->length, slot->id, sizeof slot->id);
    for (size_t i = 0; out->want_spans && i < slot->n; i++) {
        out->start[out->length + i] = base + (i ? slot->end[i - 1] : 0);
        out->end[out->length + i] = base + (i + 1 < slot->n ? slot->end[i] : slot->length & (WHOLE_WORD - 1));
    }
    out->length += slot->n;
}

static void remember(struct cached_text *slot, const struct text_key *key, size_t length, const int32_t *id,
                     const uint32_t *end, size_t n)
{
    if (n > CACHE_TOKENS) return;
    memcpy(slot->key, key->part, sizeof slot->key);
    slot->length = (uint8_t)length;
    slot->n = (uint8_t)n;
    for (size_t i = 0; i < n; i++) slot->id[i] = id[i];
    for (size_t i = 0; i + 1 < n; i++) slot->end[i] = (uint8_t)end[i];
}

/* ---- stretches and words ---- */

/* Appends the first n symbols of the scratch. There is room. */
static void emit(const struct bpe_scratch *scratch, size_t n, uint32_t base, struct token_list *out)
{
    memcpy(out->ids + out->length, scratch->id, n * sizeof *out->ids);
    for (size_t i = 0; out->want_spans && i < n; i++) {
        /* An unknown token that byte tokens overtook ends before the one written ahead of it: its span is
         * empty. */
        uint32_t end = scratch->end[i], start = i ? scratch->end[i - 1] : 0;
        out->start[out->length + i] = base + (start < end ? start : end);
        out->end[out->length + i] = base + end;
    }
    out->length += n;
}

static inline size_t read_character(const char *text, uint32_t *character)
{
    const unsigned char *at = (const unsigned char *)text;
    if (at[0] < 0x80) {
        *character = at[0];
        return 1;
    }
    if (at[0] < 0xE0) {
        *character = (at[0] & 0x1Fu) << 6 | (at[1] & 0x3Fu);
        return 2;
    }
    if (at[0] < 0xF0) {
        *character = (at[0] & 0x0Fu) << 12 | (at[1] & 0x3Fu) << 6 | (at[2] & 0x3Fu);
        return 3;
    }
    *character = (at[0] & 0x07u) << 18 | (at[1] & 0x3Fu) << 12 | (at[2] & 0x3Fu) << 6 | (at[3] & 0x3Fu);
    return 4;
}

/* Whether a token may hold a part of one of two characters and something of the other. left_length: bytes of
 * the left. */
static bool is_part_joint(const struct bpe *bpe, uint32_t left, size_t left_length, uint32_t right,
                          const char *boundary)
{
    size_t right_length = utf8_length(*boundary);
    if (bit_get(bpe->parts_joint, part_bit(boundary[-1], boundary[0]))) return true;
    for (size_t n = 1; n < 3 && n < left_length; n++)
        if (bit_get(bpe->joint, joint_bit(bpe, part_code(boundary - n, n), right))) return true;
    for (size_t n = 1; n < 3 && n < right_length; n++)
        if (bit_get(bpe->joint, joint_bit(bpe, left, part_code(boundary, n)))) return true;
    return false;
}

static inline bool is_joint(const struct bpe *bpe, uint32_t left, size_t left_length, uint32_t right,
                            const char *boundary)
{
    if (left < 128 && right < 128) return bit_get(bpe->ascii_joint, left << 7 | right);
    if (bit_get(bpe->joint, joint_bit(bpe, left, right))) return true;
    return bit_get(bpe->part_joint, part_bit(boundary[-1], boundary[0])) &&
           is_part_joint(bpe, left, left_length, right, boundary);
}

/* Byte mode: fills the symbols with characters where that gives the same result as starting from bytes. Two
 * characters are merged at the rank `lowest` at the earliest, since no token holds a part of one and
 * something of its neighbour; a character whose bytes are merged before that may be taken whole. Returns the
 * number of symbols; 0: start from bytes. */
static size_t find_characters(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text,
                              size_t length)
{
    size_t n = 0, at = 0, left_length = 0;
    uint32_t left = 0;
    int32_t lowest = INT32_MAX, before = -1;
    while (at < length) {
        uint32_t character;
        size_t step = read_character(text + at, &character);
        if (at && bit_get(bpe->part_joint, part_bit(text[at - 1], text[at])) &&
            is_part_joint(bpe, left, left_length, character, text + at))
            return 0;
        at += step;
        left = character;
        left_length = step;
        int32_t token = character < 0x10000 ? bpe->character_token[character] : -1;
        int32_t rank = before < 0 || token < 0 ? INT32_MAX : (int32_t)pair_rank(bpe, before, token);
        if (rank < lowest) lowest = rank;
        before = token;
    }
    for (at = 0; at < length;) {
        uint32_t character;
        size_t end = at + read_character(text + at, &character);
        if (character < 0x10000 && bpe->character_token[character] >= 0 &&
            bpe->character_rank[character] < lowest) {
            add_symbol(scratch, &n, bpe->character_token[character], end);
            at = end;
        }
        for (; at < end; at++) {
            int32_t symbol = bpe->byte_token[(unsigned char)text[at]];
            if (symbol < 0) return 0;
            add_symbol(scratch, &n, symbol, at + 1);
        }
    }
    return n;
}

/* Merges `text` into the scratch; *n tokens. */
static enum status merge(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t length,
                         size_t *n, bool *unknown)
{
    TRY(reserve(scratch, length + 1));
    size_t count = bpe->byte_mode && bpe->cuts ? find_characters(bpe, scratch, text, length) : 0;
    if (!count) count = find_word_symbols(bpe, scratch, text, length, unknown);
    if (count > 1)
        first_ranks(bpe, scratch->id, bpe->byte_mode && count == length ? text : NULL, scratch->rank, count);
    if (count > SCAN_MAX) return merge_with_heap(bpe, scratch, count, n);
    *n = count > 1 ? merge_scanning(bpe, scratch, count) : count;
    return LORAD_OK;
}

static int32_t find_whole(const struct bpe *bpe, const char *word, size_t length)
{
    if (length > bpe->longest) return -1;
    if (!bpe->byte_mode) return vocab_find(&bpe->vocab, word, length);
    char text[2 * BPE_WHOLE_MAX];
    if (length > BPE_WHOLE_MAX) return -1;
    size_t n = 0;
    for (size_t i = 0; i < length; i++)
        n += put_small_character(text + n, bpe->byte_character[(unsigned char)word[i]]);
    return vocab_find(&bpe->vocab, text, n);
}

/* Text that is not in the cache. Sets *unknown and appends nothing when it has an unknown character. */
static enum status encode_new(const struct bpe *bpe, struct bpe_scratch *scratch, struct cached_text *slot,
                              const struct text_key *key, size_t tagged_length, const char *text,
                              size_t length, uint32_t base, struct token_list *out, bool *unknown)
{
    size_t n = 1;
    int32_t whole = tagged_length & WHOLE_WORD ? find_whole(bpe, text, length) : -1;
    if (whole >= 0) {
        TRY(reserve(scratch, 1));
        scratch->id[0] = whole;
        scratch->end[0] = (uint32_t)length;
    } else {
        TRY(merge(bpe, scratch, text, length, &n, unknown));
        if (*unknown) return LORAD_OK;
    }
    if (slot) remember(slot, key, tagged_length, scratch->id, scratch->end, n);
    emit(scratch, n, base, out);
    return LORAD_OK;
}

static inline enum status encode_stretch(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text,
                                         size_t length, uint32_t base, struct token_list *out, bool is_word,
                                         bool *unknown)
{
    size_t tagged = length | (is_word && bpe->ignore_merges ? WHOLE_WORD : 0);
    if (length > CACHE_TEXT)
        return encode_new(bpe, scratch, NULL, NULL, tagged & WHOLE_WORD, text, length, base, out, unknown);
    struct text_key key = text_key(text, length);
    struct cached_text *slot = cache_slot(scratch, &key, tagged);
    if (!is_cached(slot, &key, tagged))
        return encode_new(bpe, scratch, slot, &key, tagged, text, length, base, out, unknown);
    emit_cached(slot, base, out);
    return LORAD_OK;
}

/* A character without a token, by itself. `fused`: directly behind another one. */
static void add_unknown(const struct bpe *bpe, bool fused, uint32_t begin, uint32_t end,
                        struct token_list *out)
{
    if (bpe->unk < 0) return;
    if (fused && bpe->fuse_unk) {
        if (out->want_spans) out->end[out->length - 1] = end;
        return;
    }
    if (out->want_spans) {
        out->start[out->length] = begin;
        out->end[out->length] = end;
    }
    out->ids[out->length++] = bpe->unk;
}

/* Whether a token may hold both sides of the boundary at `at` of a stretch, given the characters beside them
 * too. */
static bool is_joint_in_context(const struct bpe *bpe, const char *text, size_t length, size_t at,
                                uint32_t before, uint32_t left, size_t left_length, uint32_t right,
                                size_t right_length)
{
    uint32_t behind;
    if (bit_get(bpe->part_joint, part_bit(text[at - 1], text[at])) &&
        is_part_joint(bpe, left, left_length, right, text + at))
        return true;
    if (bit_get(bpe->context_joint, context_before(bpe, BPE_ANY, left, right))) return true;
    if (before != BPE_ANY && bit_get(bpe->context_joint, context_before(bpe, before, left, right)))
        return true;
    if (at + right_length >= length) return false;
    (void)read_character(text + at + right_length, &behind);
    return bit_get(bpe->context_joint, context_behind(bpe, left, right, behind));
}

/* A stretch that is too long for the cache, cut further. */
static enum status encode_long_stretch(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text,
                                       size_t length, uint32_t base, struct token_list *out, bool is_word,
                                       bool *unknown)
{
    uint32_t before = BPE_ANY, left, right;
    size_t begin = 0, step = read_character(text, &left);
    for (size_t at = step, left_length; at < length && !*unknown; at += step) {
        left_length = step;
        step = read_character(text + at, &right);
        if (is_joint_in_context(bpe, text, length, at, before, left, left_length, right, step)) {
            before = left;
        } else {
            TRY(encode_stretch(bpe, scratch, text + begin, at - begin, base + (uint32_t)begin, out, false,
                               unknown));
            begin = at;
            before = BPE_ANY;
        }
        left = right;
    }
    if (*unknown) return LORAD_OK;
    return encode_stretch(bpe, scratch, text + begin, length - begin, base + (uint32_t)begin, out,
                          is_word && !begin, unknown);
}

static enum status encode_by_stretches(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word,
                                       size_t length, uint32_t base, struct token_list *out, bool *unknown)
{
    uint32_t left, right = 0;
    bool fused = false;
    for (size_t begin = 0, end; begin < length && !*unknown; begin = end) {
        size_t first = read_character(word + begin, &left), step = first;
        for (end = begin + first; end < length; end += step) {
            size_t left_length = step;
            step = read_character(word + end, &right);
            if (!is_joint(bpe, left, left_length, right, word + end)) break;
            left = right;
        }
        uint32_t start = base + (uint32_t)begin;
        if (bpe->lone_unknown && end - begin == first && left < 0x10000 && bpe->character_token[left] < 0) {
            add_unknown(bpe, fused, start, base + (uint32_t)end, out);
            fused = true;
            continue;
        }
        bool is_word = end - begin == length;
        if (end - begin > CACHE_TEXT)
            TRY(encode_long_stretch(bpe, scratch, word + begin, end - begin, start, out, is_word, unknown));
        else
            TRY(encode_stretch(bpe, scratch, word + begin, end - begin, start, out, is_word, unknown));
        fused = false;
    }
    return LORAD_OK;
}

/* Whether the word is worth looking up as a whole: those of alphabets come again, clauses of Chinese do not.
 */
static inline bool is_common(const char *word, size_t length)
{
    return length <= CACHE_TEXT && (unsigned char)word[0] < 0xE3 && (unsigned char)word[length > 1] < 0xE0;
}

enum status bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word, size_t length,
                       uint32_t base, struct token_list *out)
{
    if (scratch->cache_serial != bpe->serial) {
        memset(scratch->cache, 0, CACHE_SLOTS * sizeof *scratch->cache);
        scratch->cache_serial = bpe->serial;
    }
    size_t old = out->length;
    bool unknown = false;
    TRY(reserve_tokens(out, length + CACHE_TOKENS)); /* a token takes a byte at least */
    if (!bpe->cuts || is_common(word, length)) {
        TRY(encode_stretch(bpe, scratch, word, length, base, out, true, &unknown));
    } else {
        TRY(encode_by_stretches(bpe, scratch, word, length, base, out, &unknown));
    }
    if (!unknown) return LORAD_OK;
    size_t n;
    out->length = old;
    TRY(merge(bpe, scratch, word, length, &n, &unknown));
    emit(scratch, n, base, out);
    return LORAD_OK;
}
