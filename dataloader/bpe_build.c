/*
 * bpe_build.c: the tables of a BPE model.
 *
 * Invariants
 *  1. Of equal merges the last one counts, as in Hugging Face's map.
 *  2. Two characters are joint when some merge makes a token in which they stand side by side, or a part of
 *     the one beside the other or a part of it. A collision in the bitmap only loses a cut.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/bpe_tables.h"

enum {
    BMP = 0x10000,
    FILTER_BITS = 2, /* the filter has 2^2 bits a slot of the pair table, which is at most half full */
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

/* ---- building ---- */

void bpe_free(struct bpe *bpe)
{
    vocab_free(&bpe->vocab);
    free(bpe->merge);
    free(bpe->pair);
    free(bpe->filter);
    free(bpe->byte_rank);
    free(bpe->joint);
    free(bpe->context_joint);
    free(bpe->character_token);
    free(bpe->character_rank);
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
    /* As a rule the results follow each other. */
    int32_t result = bpe->n_merges ? bpe->merge[bpe->n_merges - 1].result + 1 : -1;
    size_t guess_length;
    const char *guess = vocab_text(&bpe->vocab, result, &guess_length);
    if (!guess || guess_length != length || memcmp(guess, joined, length) != 0)
        result = vocab_find(&bpe->vocab, joined, length);
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

enum status bpe_add_merge_line(struct bpe *bpe, const char *line, size_t length, const char *where)
{
    const char *space = memchr(line, ' ', length);
    size_t left = space ? (size_t)(space - line) : 0;
    if (!space || memchr(space + 1, ' ', length - left - 1))
        return FAIL(LORAD_DATA, "%s: merge %zu (\"%.*s\") is not two tokens with a space between", where,
                    bpe->n_merges, (int)(length < 60 ? length : 60), line);
    return bpe_add_merge(bpe, line, left, space + 1, length - left - 1, where);
}

enum status bpe_add_merge_lines(struct bpe *bpe, const char *text, size_t length, bool gpt2,
                                const char *where)
{
    static const char header[] = "#version:";
    for (const char *line = text, *end = text + length; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop && gpt2) break;
        if (!stop) stop = end;
        size_t n = (size_t)(stop - line);
        if (n && line[n - 1] == '\r') n--;
        bool head = line == text &&
                    (gpt2 || (n >= sizeof header - 1 && memcmp(line, header, sizeof header - 1) == 0));
        if (n && !head) TRY(bpe_add_merge_line(bpe, line, n, where));
        line = stop + 1;
    }
    return LORAD_OK;
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
    memset(bpe->pair, 0xFF, bpe->n_pairs * sizeof *bpe->pair);
    bpe->result_offset = bpe->n_merges ? bpe->merge[0].result : 0;
    for (size_t i = 0; i < bpe->n_merges; i++) {
        const struct bpe_merge *merge = &bpe->merge[i];
        uint64_t hash = pair_hash((uint32_t)merge->left, (uint32_t)merge->right),
                 bit = hash >> bpe->filter_shift;
        uint64_t key = pair_key(merge->left, merge->right);
        size_t at = (size_t)(hash >> bpe->pair_shift);
        while (bpe->pair[at] != UINT64_MAX && bpe->pair[at] >> BPE_RANK_BITS != key)
            at = (at + 1) & (bpe->n_pairs - 1);
        bit_set(bpe->filter, bit);
        bpe->pair[at] = key << BPE_RANK_BITS | i;
        if (bpe->result_offset != INT32_MIN && merge->result != (int32_t)i + bpe->result_offset)
            bpe->result_offset = INT32_MIN;
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
        bpe->byte_rank[pair] = left < 0 || right < 0 ? BPE_NO_RANK : pair_rank(bpe, left, right);
    }
    return LORAD_OK;
}

static enum status find_symbols(struct bpe *bpe)
{
    char text[8];
    for (unsigned b = 0; b < 256; b++) {
        size_t length;
        if (bpe->byte_mode) {
            length = put_small_character(text, bpe->byte_character[b]);
        } else {
            static const char digits[] = "0123456789ABCDEF";
            memcpy(text, (char[]){'<', '0', 'x', digits[b >> 4], digits[b & 15], '>'}, 6);
            length = 6;
        }
        bpe->byte_token[b] = vocab_find(&bpe->vocab, text, length);
    }
    for (int32_t i = 0; i < bpe->vocab.size; i++)
        if (bpe->vocab.entry[i].length > bpe->longest) bpe->longest = bpe->vocab.entry[i].length;
    int n_bytes = 0;
    for (unsigned b = 0; b < 256; b++) n_bytes += bpe->byte_token[b] >= 0;
    bpe->lone_unknown = !bpe->byte_mode && !(bpe->byte_fallback && n_bytes);
    bpe->character_token = memory_new(BMP, sizeof *bpe->character_token);
    if (!bpe->character_token) return LORAD_NOMEM;
    memset(bpe->character_token, 0xFF, BMP * sizeof *bpe->character_token);
    for (int32_t i = 0; i < bpe->vocab.size && !bpe->byte_mode; i++) {
        size_t length;
        uint32_t character = 0;
        const char *token = vocab_text(&bpe->vocab, i, &length);
        if (token && length && utf8_read(&character, token, length) == length && character < BMP)
            bpe->character_token[character] = i;
    }
    return LORAD_OK;
}

/* ---- joints ---- */

/* The text that a token stands for. Byte mode: its bytes, in `bytes` (at least as long as the token); *length
 * 0 when it is not written in the alphabet. */
static const char *token_bytes(const struct bpe *bpe, int32_t number, char *bytes, size_t *length)
{
    size_t n;
    const char *text = vocab_text(&bpe->vocab, number, &n);
    *length = n;
    if (!bpe->byte_mode) return text;
    *length = 0;
    for (size_t i = 0, step, used = 0; i < n; i += step) {
        uint32_t character = 0;
        step = utf8_read(&character, text + i, n - i);
        if (!step || character >= 256 + 68 || bpe->character_byte[character] < 0) return bytes;
        bytes[used++] = (char)bpe->character_byte[character];
        if (i + step == n) *length = used;
    }
    return bytes;
}

static bool is_continuation(char byte)
{
    return ((unsigned char)byte & 0xC0) == 0x80;
}

/* Marks what else the token that ends at `at`, where the character `left` begins at `begin`, or the one that
 * begins there holds. */
static void mark_context(struct bpe *bpe, const char *text, size_t length, size_t begin, size_t at,
                         uint32_t left, uint32_t right)
{
    uint32_t other = 0;
    size_t before = begin, behind = at + utf8_length(text[at]);
    uint64_t bit = context_before(bpe, BPE_ANY, left, right);
    if (begin > 0) {
        do before--;
        while (before > 0 && is_continuation(text[before]));
        if (utf8_read(&other, text + before, begin - before) == begin - before)
            bit = context_before(bpe, other, left, right);
    } else if (behind < length) {
        if (utf8_read(&other, text + behind, length - behind)) bit = context_behind(bpe, left, right, other);
    }
    bit_set(bpe->context_joint, bit);
}

/* Marks the boundary at `at` between two characters of a token's text, of which the first and the last may be
 * parts. */
static void mark_joint(struct bpe *bpe, const char *text, size_t length, size_t at)
{
    size_t begin = at - 1;
    while (begin > 0 && is_continuation(text[begin])) begin--;
    uint32_t left = 0, right = 0;
    size_t left_part = utf8_read(&left, text + begin, at - begin) == at - begin ? 0 : at - begin;
    size_t right_part =
        utf8_read(&right, text + at, length - at) ? 0 : length - at; /* less than a character */
    uint32_t bit = part_bit(text[at - 1], text[at]);
    if (left_part || right_part) bit_set(bpe->part_joint, bit);
    if ((left_part && right_part) || left_part > 2 || right_part > 2) {
        bit_set(bpe->parts_joint, bit);
        return;
    }
    if (!left_part && !right_part) mark_context(bpe, text, length, begin, at, left, right);
    if (left_part) left = part_code(text + begin, left_part);
    if (right_part) right = part_code(text + at, right_part);
    bit_set(bpe->joint, joint_bit(bpe, left, right));
    if (left < 128 && right < 128) bit_set(bpe->ascii_joint, left << 7 | right);
}

/* Byte mode: what becomes of the two or three bytes of a character when they are merged by themselves. */
static void merge_character(struct bpe *bpe, uint32_t character, const char *bytes, size_t n)
{
    int32_t id[3], highest = -1;
    for (size_t i = 0; i < n; i++)
        if ((id[i] = bpe->byte_token[(unsigned char)bytes[i]]) < 0) return;
    while (n > 1) {
        uint32_t first = pair_rank(bpe, id[0], id[1]),
                 second = n > 2 ? pair_rank(bpe, id[1], id[2]) : BPE_NO_RANK;
        uint32_t rank = second < first ? second : first;
        if (rank == BPE_NO_RANK) return;
        if ((int32_t)rank > highest) highest = (int32_t)rank;
        if (second < first)
            id[1] = merge_result(bpe, rank);
        else
            id[0] = merge_result(bpe, rank);
        if (second >= first && n > 2) id[1] = id[2];
        n--;
    }
    bpe->character_token[character] = id[0];
    bpe->character_rank[character] = highest;
}

static enum status build_characters(struct bpe *bpe)
{
    bpe->character_rank = memory_new(BMP, sizeof *bpe->character_rank);
    if (!bpe->character_rank) return LORAD_NOMEM;
    for (int32_t i = 0; i < bpe->vocab.size; i++) {
        char bytes[8];
        size_t length = bpe->vocab.entry[i].length, n;
        uint32_t character = 0;
        if (!bpe->vocab.entry[i].present || length > 6) continue;
        (void)token_bytes(bpe, i, bytes, &n);
        if (n && utf8_read(&character, bytes, n) == n && character < BMP)
            merge_character(bpe, character, bytes, n);
    }
    return LORAD_OK;
}

/* Finds the pairs of characters that stand side by side inside a token that merging can make. Nothing is
 * known, and words stay whole, when a merge takes a byte or the unknown token for what its name says. */
static enum status build_joint(struct bpe *bpe)
{
    int bits = 12; /* few bits set: few collisions; few bits: the bitmaps stay in the processor's cache */
    while (bits < 21 && (size_t)1 << bits < 32 * bpe->n_merges) bits++;
    bpe->joint_shift = 64 - bits;
    bpe->joint = memory_new(((size_t)1 << bits) / 64, sizeof *bpe->joint);
    bpe->context_joint = memory_new(((size_t)1 << bits) / 64, sizeof *bpe->context_joint);
    char *bytes = memory_new(bpe->longest + 1, 1);
    uint8_t *is_named = memory_new((size_t)bpe->vocab.size + 1, 1);
    bpe->cuts = bpe->joint && bpe->context_joint && bytes && is_named;
    enum status status = bpe->cuts ? LORAD_OK : LORAD_NOMEM;
    for (unsigned b = 0; bpe->cuts && b < 256 && !bpe->byte_mode && bpe->byte_fallback; b++)
        if (bpe->byte_token[b] >= 0) is_named[bpe->byte_token[b]] = 1;
    if (bpe->cuts && bpe->unk >= 0) is_named[bpe->unk] = 1;
    for (size_t i = 0; i < bpe->n_merges && bpe->cuts; i++) {
        const struct bpe_merge *merge = &bpe->merge[i];
        bpe->cuts = !is_named[merge->left] && !is_named[merge->right] && !is_named[merge->result];
        size_t length, left_length;
        (void)token_bytes(bpe, merge->left, bytes, &left_length);
        const char *text = token_bytes(bpe, merge->result, bytes, &length);
        if (left_length == 0 || left_length >= length || is_continuation(text[left_length])) continue;
        mark_joint(bpe, text, length, left_length);
    }
    /* A word that is a token becomes it without merges: it must come in one stretch. */
    for (int32_t i = 0; i < bpe->vocab.size && bpe->cuts && bpe->ignore_merges; i++) {
        size_t length = 0;
        const char *text = bpe->vocab.entry[i].present ? token_bytes(bpe, i, bytes, &length) : NULL;
        for (size_t at = 1; at < length; at++)
            if (!is_continuation(text[at])) mark_joint(bpe, text, length, at);
    }
    free(bytes);
    free(is_named);
    return status;
}

enum status bpe_seal(struct bpe *bpe, const char *where)
{
    static atomic_uint_fast64_t serials;
    if (bpe->byte_mode && bpe->byte_fallback)
        return FAIL(LORAD_DATA, "%s: byte_fallback together with ByteLevel is not supported", where);
    if (bpe->n_merges >= 1u << BPE_RANK_BITS)
        return FAIL(LORAD_DATA, "%s: %zu merges are more than %d", where, bpe->n_merges, 1 << BPE_RANK_BITS);
    if (bpe->ignore_merges)
        for (int32_t i = 0; i < bpe->vocab.size; i++)
            if (bpe->vocab.entry[i].length > 2 * BPE_WHOLE_MAX)
                return FAIL(LORAD_DATA, "%s: token %d is longer than %d bytes", where, i, 2 * BPE_WHOLE_MAX);
    fill_alphabet(bpe);
    TRY(find_symbols(bpe));
    TRY(build_pairs(bpe));
    if (bpe->byte_mode) {
        TRY(build_byte_ranks(bpe));
        TRY(build_characters(bpe));
    }
    TRY(build_joint(bpe));
    bpe->serial = atomic_fetch_add(&serials, 1) + 1;
    return LORAD_OK;
}
