/*
 * bpe.c: merging.
 *
 * Invariants
 *  1. The pair merged next is the one of lowest rank, the leftmost of equals, as in Hugging Face's priority
 * queue.
 *  2. A boundary that no token can cover is cut before merging (the `joint` bitmap), which changes nothing
 * but the length of what has to be merged: every token is built from merges, so the symbols beside each other
 * inside tokens are known when the merges are. A collision in the bitmap only loses a cut.
 *  3. Short stretches are merged by scanning their ranks, long ones with a heap: no quadratic case, no
 * recursion.
 *  4. The cache is exact: it holds results by their text, and never a word that has an unknown symbol.
 */
#include "dataloader/bpe.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/utf8.h"

#define NO_RANK ((uint32_t)INT32_MAX) /* not UINT32_MAX: signed numbers compare faster in vectors */

enum {
    SCAN_MAX = 96,      /* longest stretch merged by scanning */
    JOINT_BITS = 20,    /* the joint bitmap has 2^20 bits */
    FILTER_BITS = 2,    /* the filter has 2^2 bits a slot of the pair table, which is at most half full */
    CACHE_SLOTS = 4096, /* a power of two */
    CACHE_TEXT = 44,    /* longest cached word in bytes */
    CACHE_TOKENS = 12,  /* most tokens of a cached word */
    WHOLE_MAX = 1024,   /* ignore_merges: longest word that can be a token */
};

struct cached_word {
    uint64_t hash; /* 0: empty */
    int32_t id[CACHE_TOKENS];
    uint8_t end[16]; /* offset behind each token */
    uint8_t length, n;
    char text[CACHE_TEXT];
};

struct bpe_scratch {
    /* One entry a symbol. */
    int32_t *id;
    uint32_t *end;  /* offset behind the symbol in the word */
    uint32_t *rank; /* of the pair (symbol, next) */
    uint32_t *next, *previous;
    size_t capacity[5];
    uint64_t *heap; /* rank << 32 | symbol */
    size_t heap_length, heap_capacity;
    struct cached_word *cache;
    uint64_t cache_serial; /* of the tokenizer whose words are cached */
};

/* ---- the GPT-2 alphabet ---- */

static bool is_printable_byte(unsigned byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/* The bytes that are not printable are written as the characters from U+0100 on, in their order. */
static void fill_alphabet(struct bpe *bpe)
{
    uint16_t next = 256;
    memset(bpe->character_byte, 0xFF, sizeof bpe->character_byte);
    for (unsigned b = 0; b < 256; b++) {
        bpe->byte_character[b] = is_printable_byte(b) ? (uint16_t)b : next++;
        bpe->character_byte[bpe->byte_character[b]] = (int16_t)b;
    }
}

static size_t put_character(char *out, uint32_t character) /* below U+0800 */
{
    if (character < 0x80) {
        out[0] = (char)character;
        return 1;
    }
    out[0] = (char)(0xC0 | character >> 6);
    out[1] = (char)(0x80 | (character & 0x3F));
    return 2;
}

/* ---- building ---- */

void bpe_free(struct bpe *bpe)
{
    vocab_free(&bpe->vocab);
    free(bpe->merge);
    free(bpe->pair);
    free(bpe->filter);
    free(bpe->byte_rank);
    free(bpe->joint);
    *bpe = (struct bpe){0};
}

enum status bpe_add_merge(struct bpe *bpe, const char *left, size_t left_length, const char *right,
                          size_t right_length, const char *where)
{
    char small[256];
    size_t length = left_length + right_length;
    char *joined = length <= sizeof small ? small : memory_new(length, 1);
    if (!joined) return LORAD_NOMEM;
    memcpy(joined, left, left_length);
    memcpy(joined + left_length, right, right_length);
    int32_t l = vocab_find(&bpe->vocab, left, left_length), r = vocab_find(&bpe->vocab, right, right_length);
    int32_t result = vocab_find(&bpe->vocab, joined, length);
    if (joined != small) free(joined);
    if (l < 0 || r < 0 || result < 0)
        return FAIL(LORAD_DATA,
                    "%s: merge %zu (\"%.*s\" \"%.*s\") names a token that is not in the vocabulary", where,
                    bpe->n_merges, (int)(left_length < 40 ? left_length : 40), left,
                    (int)(right_length < 40 ? right_length : 40), right);
    TRY(memory_grow((void **)&bpe->merge, &bpe->merge_capacity, bpe->n_merges + 1, sizeof *bpe->merge));
    bpe->merge[bpe->n_merges++] = (struct bpe_merge){l, r, result};
    return LORAD_OK;
}

static inline uint64_t pair_hash(int32_t left, int32_t right)
{
    return ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
}

static inline const struct bpe_pair *find_pair(const struct bpe *bpe, int32_t left, int32_t right)
{
    size_t at = (size_t)(pair_hash(left, right) >> bpe->pair_shift);
    for (;; at = (at + 1) & (bpe->n_pairs - 1)) {
        const struct bpe_pair *pair = &bpe->pair[at];
        if (pair->left == left && pair->right == right) return pair;
        if (pair->left < 0) return NULL;
    }
}

/* Most pairs asked for are no merge: the filter, small enough for a cache, answers those. */
static inline uint32_t pair_rank(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t bit = pair_hash(left, right) >> bpe->filter_shift;
    if (!(bpe->filter[bit >> 6] >> (bit & 63) & 1)) return NO_RANK;
    const struct bpe_pair *pair = find_pair(bpe, left, right);
    return pair ? pair->rank : NO_RANK;
}

static enum status build_pairs(struct bpe *bpe)
{
    int bits = 4;
    while ((size_t)1 << bits < 2 * bpe->n_merges) bits++;
    bpe->n_pairs = (size_t)1 << bits;
    bpe->pair_shift = 64 - bits;
    bpe->filter_shift = 64 - bits - FILTER_BITS;
    bpe->pair = memory_new(bpe->n_pairs, sizeof *bpe->pair);
    bpe->filter = memory_new(bpe->n_pairs << FILTER_BITS >> 6, sizeof *bpe->filter);
    if (!bpe->pair || !bpe->filter) return LORAD_NOMEM;
    for (size_t i = 0; i < bpe->n_pairs; i++) bpe->pair[i].left = -1;
    for (size_t i = 0; i < bpe->n_merges; i++) {
        const struct bpe_merge *merge = &bpe->merge[i];
        size_t at = (size_t)(pair_hash(merge->left, merge->right) >> bpe->pair_shift);
        while (bpe->pair[at].left >= 0 &&
               (bpe->pair[at].left != merge->left || bpe->pair[at].right != merge->right))
            at = (at + 1) & (bpe->n_pairs - 1);
        uint64_t bit = pair_hash(merge->left, merge->right) >> bpe->filter_shift;
        bpe->filter[bit >> 6] |= 1ull << (bit & 63);
        /* Of equal merges the last one counts, as in HF's map. */
        bpe->pair[at] = (struct bpe_pair){merge->left, merge->right, (uint32_t)i, merge->result};
    }
    return LORAD_OK;
}

/* Byte mode: ranks of the pairs of bytes, which every word starts with, by their bytes. */
static enum status build_byte_ranks(struct bpe *bpe)
{
    bpe->byte_rank = memory_new(256 * 256, sizeof *bpe->byte_rank);
    if (!bpe->byte_rank) return LORAD_NOMEM;
    for (unsigned pair = 0; pair < 256 * 256; pair++) {
        int32_t left = bpe->byte_token[pair >> 8], right = bpe->byte_token[pair & 255];
        bpe->byte_rank[pair] = left < 0 || right < 0 ? NO_RANK : pair_rank(bpe, left, right);
    }
    return LORAD_OK;
}

static void find_symbols(struct bpe *bpe)
{
    char text[8];
    for (unsigned b = 0; b < 256; b++) {
        size_t length;
        if (bpe->byte_mode) {
            length = put_character(text, bpe->byte_character[b]);
        } else {
            static const char digits[] = "0123456789ABCDEF";
            memcpy(text, (char[]){'<', '0', 'x', digits[b >> 4], digits[b & 15], '>'}, 6);
            length = 6;
        }
        bpe->byte_token[b] = vocab_find(&bpe->vocab, text, length);
        if (b < 128) bpe->ascii_token[b] = vocab_find(&bpe->vocab, (char[]){(char)b}, 1);
    }
}

/* Marks which tokens words may start from: single characters, byte tokens, the unknown token. */
static void mark_symbols(const struct bpe *bpe, uint8_t *is_symbol)
{
    for (unsigned b = 0; b < 256; b++)
        if (bpe->byte_token[b] >= 0 && (bpe->byte_mode || bpe->byte_fallback))
            is_symbol[bpe->byte_token[b]] = 1;
    if (bpe->unk >= 0) is_symbol[bpe->unk] = 1;
    for (int32_t i = 0; i < bpe->vocab.size && !bpe->byte_mode; i++) {
        size_t length;
        const char *text = vocab_text(&bpe->vocab, i, &length);
        if (text && length && utf8_length(*text) == length) is_symbol[i] = 1;
    }
}

static inline uint64_t joint_bit(int32_t left, int32_t right)
{
    return pair_hash(left, right) >> (64 - JOINT_BITS);
}

static inline bool is_joint(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t bit = joint_bit(left, right);
    return bpe->joint[bit >> 6] >> (bit & 63) & 1;
}

static int by_result_length(const void *a, const void *b, void *context)
{
    const struct bpe *bpe = context;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    uint32_t n = bpe->vocab.entry[bpe->merge[x].result].length,
             m = bpe->vocab.entry[bpe->merge[y].result].length;
    return n != m ? (n < m ? -1 : 1) : x < y ? -1 : x > y;
}

/* Finds each token's first and last symbol and with them the pairs of symbols that stand side by side inside
 * a token. The merges are gone through by the length of what they build, so that the parts come first; a
 * merge whose parts nothing builds never happens. Where two merges build a token from different symbols,
 * every pair counts as joint and nothing is ever cut. */
static enum status build_joint(struct bpe *bpe)
{
    size_t n = (size_t)bpe->vocab.size, n_words = ((size_t)1 << JOINT_BITS) / 64;
    bpe->joint = memory_new(n_words, sizeof *bpe->joint);
    uint8_t *is_symbol = memory_new(n + 1, 1);
    int32_t *first = memory_new(n + 1, sizeof *first), *last = memory_new(n + 1, sizeof *last);
    uint32_t *order = memory_new(bpe->n_merges + 1, sizeof *order);
    enum status status = LORAD_NOMEM;
    if (!bpe->joint || !is_symbol || !first || !last || !order) goto free_all;
    for (size_t i = 0; i < bpe->n_merges; i++) order[i] = (uint32_t)i;
    qsort_r(order, bpe->n_merges, sizeof *order, by_result_length, bpe);
    mark_symbols(bpe, is_symbol);
    for (size_t i = 0; i < n; i++) first[i] = last[i] = is_symbol[i] ? (int32_t)i : -1;
    bool known = true;
    for (size_t i = 0; i < bpe->n_merges && known; i++) {
        const struct bpe_merge *merge = &bpe->merge[order[i]];
        int32_t f = first[merge->left], l = last[merge->right];
        if (f < 0 || l < 0) continue;
        known = first[merge->result] < 0 || (first[merge->result] == f && last[merge->result] == l);
        if (!known) break;
        first[merge->result] = f;
        last[merge->result] = l;
        uint64_t bit = joint_bit(last[merge->left], first[merge->right]);
        bpe->joint[bit >> 6] |= 1ull << (bit & 63);
    }
    if (!known) memset(bpe->joint, 0xFF, n_words * sizeof *bpe->joint);
    status = LORAD_OK;
free_all:
    free(is_symbol);
    free(first);
    free(last);
    free(order);
    return status;
}

enum status bpe_seal(struct bpe *bpe, const char *where)
{
    static atomic_uint_fast64_t serials;
    if (bpe->byte_mode && bpe->byte_fallback)
        return FAIL(LORAD_DATA, "%s: byte_fallback together with ByteLevel is not supported", where);
    if (bpe->ignore_merges)
        for (int32_t i = 0; i < bpe->vocab.size; i++)
            if (bpe->vocab.entry[i].length > 2 * WHOLE_MAX)
                return FAIL(LORAD_DATA, "%s: token %d is longer than %d bytes", where, i, 2 * WHOLE_MAX);
    fill_alphabet(bpe);
    find_symbols(bpe);
    TRY(build_pairs(bpe));
    if (bpe->byte_mode) TRY(build_byte_ranks(bpe));
    TRY(build_joint(bpe));
    bpe->serial = atomic_fetch_add(&serials, 1) + 1;
    return LORAD_OK;
}

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
    rank[n - 1] = NO_RANK;
}

/* Merges symbols [0, n) of `id` and `end` in place by scanning; returns how many are left. n <= SCAN_MAX. */
static size_t merge_scanning(const struct bpe *bpe, int32_t *id, uint32_t *end, uint32_t *rank, size_t n)
{
    while (n > 1) {
        int32_t minimum = (int32_t)NO_RANK;
        for (size_t i = 0; i + 1 < n; i++) minimum = (int32_t)rank[i] < minimum ? (int32_t)rank[i] : minimum;
        uint32_t lowest = (uint32_t)minimum;
        if (lowest == NO_RANK) break;
        size_t at = 0;
        while (rank[at] != lowest) at++;
        id[at] = bpe->merge[lowest].result;
        n--;
        memmove(id + at + 1, id + at + 2, (n - at - 1) * sizeof *id);
        memmove(end + at, end + at + 1, (n - at) * sizeof *end);
        memmove(rank + at, rank + at + 1, (n - at) * sizeof *rank);
        if (at + 1 < n) rank[at] = pair_rank(bpe, id[at], id[at + 1]);
        if (at > 0) rank[at - 1] = pair_rank(bpe, id[at - 1], id[at]);
    }
    return n;
}

static enum status heap_push(struct bpe_scratch *scratch, uint32_t rank, size_t symbol)
{
    if (rank == NO_RANK) return LORAD_OK;
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
static enum status merge_with_heap(const struct bpe *bpe, struct bpe_scratch *scratch, size_t first, size_t n,
                                   size_t *left)
{
    int32_t *id = scratch->id + first;
    uint32_t *end = scratch->end + first, *rank = scratch->rank + first;
    uint32_t *next = scratch->next + first, *previous = scratch->previous + first;
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
        id[at] = bpe->merge[top >> 32].result;
        end[at] = end[gone];
        rank[gone] = NO_RANK;
        next[at] = (uint32_t)after;
        if (after < n) previous[after] = (uint32_t)at;
        rank[at] = after < n ? pair_rank(bpe, id[at], id[after]) : NO_RANK;
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
        int32_t id = bpe->byte_mode ? bpe->byte_token[(unsigned char)word[i]]
                     : step == 1    ? bpe->ascii_token[(unsigned char)word[i]]
                                    : vocab_find(&bpe->vocab, word + i, step);
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

static inline uint64_t word_hash(const char *text, size_t length)
{
    uint64_t h = length * 0x9E3779B97F4A7C15u;
    for (; length >= 8; text += 8, length -= 8) {
        uint64_t part;
        memcpy(&part, text, 8);
        h = (h ^ part) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    uint64_t part = 0;
    memcpy(&part, text, length);
    h = (h ^ part) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    return h | 1;
}

static enum status emit_cached(const struct cached_word *cached, uint32_t base, struct token_list *out)
{
    if (cached->n == 0) return LORAD_OK;
    TRY(reserve_tokens(out, cached->n));
    memcpy(out->ids + out->length, cached->id, cached->n * sizeof *cached->id);
    for (size_t i = 0; out->want_spans && i < cached->n; i++) {
        out->start[out->length + i] = base + (i ? cached->end[i - 1] : 0);
        out->end[out->length + i] = base + cached->end[i];
    }
    out->length += cached->n;
    return LORAD_OK;
}

static struct cached_word *cache_slot(struct bpe_scratch *scratch, uint64_t hash)
{
    return &scratch->cache[hash >> 32 & (CACHE_SLOTS - 1)];
}

static inline bool is_cached(const struct cached_word *slot, uint64_t hash, const char *text, size_t length)
{
    return slot->hash == hash && slot->length == length && memcmp(slot->text, text, length) == 0;
}

static void remember(struct cached_word *slot, uint64_t hash, const char *text, size_t length,
                     const int32_t *id, const uint32_t *end, uint32_t base, size_t n)
{
    if (n > CACHE_TOKENS) return;
    slot->hash = hash;
    slot->length = (uint8_t)length;
    slot->n = (uint8_t)n;
    memcpy(slot->text, text, length);
    for (size_t i = 0; i < n; i++) {
        slot->id[i] = id[i];
        slot->end[i] = (uint8_t)(end[i] - base);
    }
}

/* Merges symbols [first, last), which start at byte `from` of the word, and moves the tokens to [*kept, ...).
 */
static enum status encode_stretch(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word,
                                  size_t first, size_t last, uint32_t from, bool cacheable, size_t *kept)
{
    size_t n = last - first;
    int32_t *id = scratch->id + first, *kept_id = scratch->id + *kept;
    uint32_t *end = scratch->end + first, *kept_end = scratch->end + *kept;
    size_t length = end[n - 1] - from;
    struct cached_word *slot = NULL;
    uint64_t hash = 0;
    if (cacheable && n > 1 && length <= CACHE_TEXT) {
        hash = word_hash(word + from, length);
        slot = cache_slot(scratch, hash);
        if (is_cached(slot, hash, word + from, length)) {
            for (size_t i = 0; i < slot->n; i++) {
                kept_id[i] = slot->id[i];
                kept_end[i] = from + slot->end[i];
            }
            *kept += slot->n;
            return LORAD_OK;
        }
    }
    if (n > 1)
        first_ranks(bpe, id, bpe->byte_mode && n == length ? word + from : NULL, scratch->rank + first, n);
    if (n > SCAN_MAX)
        TRY(merge_with_heap(bpe, scratch, first, n, &n));
    else if (n > 1)
        n = merge_scanning(bpe, id, end, scratch->rank + first, n);
    if (slot) remember(slot, hash, word + from, length, id, end, from, n);
    if (kept_id != id) {
        memmove(kept_id, id, n * sizeof *id);
        memmove(kept_end, end, n * sizeof *end);
    }
    *kept += n;
    return LORAD_OK;
}

static int32_t find_whole(const struct bpe *bpe, const char *word, size_t length)
{
    if (!bpe->byte_mode) return vocab_find(&bpe->vocab, word, length);
    char text[2 * WHOLE_MAX];
    if (length > WHOLE_MAX) return -1;
    size_t n = 0;
    for (size_t i = 0; i < length; i++)
        n += put_character(text + n, bpe->byte_character[(unsigned char)word[i]]);
    return vocab_find(&bpe->vocab, text, n);
}

/* Fills scratch id and end with the tokens of the word; *n of them. */
static enum status encode_word(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word,
                               size_t length, size_t *n, bool *unknown)
{
    TRY(reserve(scratch, length + 1));
    int32_t whole = bpe->ignore_merges ? find_whole(bpe, word, length) : -1;
    if (whole >= 0) {
        scratch->id[0] = whole;
        scratch->end[0] = (uint32_t)length;
        *n = 1;
        return LORAD_OK;
    }
    size_t n_symbols = find_word_symbols(bpe, scratch, word, length, unknown), first = 0, kept = 0;
    uint32_t from = 0;
    for (size_t i = 1; i <= n_symbols; i++) {
        if (i < n_symbols && is_joint(bpe, scratch->id[i - 1], scratch->id[i])) continue;
        uint32_t to = scratch->end[i - 1];
        /* The whole word has its own place in the cache; a part may not use it when whole words have own
         * rules. */
        bool cacheable = !*unknown && !bpe->ignore_merges && to - from < length;
        TRY(encode_stretch(bpe, scratch, word, first, i, from, cacheable, &kept));
        first = i;
        from = to;
    }
    *n = kept;
    return LORAD_OK;
}

enum status bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word, size_t length,
                       uint32_t base, struct token_list *out)
{
    if (scratch->cache_serial != bpe->serial) {
        memset(scratch->cache, 0, CACHE_SLOTS * sizeof *scratch->cache);
        scratch->cache_serial = bpe->serial;
    }
    struct cached_word *slot = NULL;
    uint64_t hash = 0;
    if (length <= CACHE_TEXT) {
        hash = word_hash(word, length);
        slot = cache_slot(scratch, hash);
        if (is_cached(slot, hash, word, length)) return emit_cached(slot, base, out);
    }
    size_t n;
    bool unknown = false;
    TRY(encode_word(bpe, scratch, word, length, &n, &unknown));
    if (slot && !unknown) remember(slot, hash, word, length, scratch->id, scratch->end, 0, n);
    if (n == 0) return LORAD_OK;
    TRY(reserve_tokens(out, n));
    memcpy(out->ids + out->length, scratch->id, n * sizeof *out->ids);
    for (size_t i = 0; out->want_spans && i < n; i++) {
        /* An unknown token that byte tokens overtook ends before the one written ahead of it: its span is
         * empty. */
        uint32_t end = scratch->end[i], start = i ? scratch->end[i - 1] : 0;
        out->start[out->length + i] = base + (start < end ? start : end);
        out->end[out->length + i] = base + end;
    }
    out->length += n;
    return LORAD_OK;
}
