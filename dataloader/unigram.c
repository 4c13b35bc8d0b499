/*
 * unigram.c: the best path through the tokens of a word.
 *
 * Invariants
 *  1. Paths are compared as Hugging Face compares them, so that even ties end alike: sums of doubles from
 *     left to right; a path to a place is kept unless a later one is better; tokens that start at a place are
 *     tried from short to long, the unknown one last and only when no token is that single character.
 *  2. Neighbouring unknown characters are one piece. A piece that is a token all the same is that token;
 *     otherwise it is its bytes, when all of them have tokens and byte_fallback is set, or the unknown token.
 *  3. The trie is a double array: unit q is the child of unit p by the byte c exactly when q = base[p] ^ c
 *     and parent[q] = p. base is below the number of units, a multiple of 256, so that no look-up leaves the
 *     array.
 */
#include "dataloader/unigram.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

#define NO_UNIT UINT32_MAX

enum {
    TEXT_MAX = 64 << 20, /* bytes of all tokens together */
    BLOCK = 256,         /* units are allocated by blocks */
    OPEN_BLOCKS = 16,    /* the last blocks, in which free units are looked for */
    TRIES_MAX = 512,     /* places tried for a node with several children before a new block is opened */
};

struct unit {
    uint32_t base, parent;
    int32_t id; /* the token that ends here; -1 */
};

struct unigram {
    struct unit *unit; /* [n_units] */
    size_t n_units, capacity;
    double *score; /* [n_tokens] */
    double unk_score;
    int32_t unk; /* -1: none */
    bool byte_fallback;
    int32_t byte_token[256]; /* -1: none */
    bool all_bytes;          /* every byte has a token */
};

/* The best path that ends at a place. */
struct path {
    double score;
    uint32_t start; /* of its last token; after the search: the end of the next token */
    int32_t id;     /* of its last token */
};

struct unigram_scratch {
    struct path *path;
    size_t capacity;
};

/* ---- building the trie ---- */

struct builder {
    struct unigram *unigram;
    const struct vocab *vocab;
    int32_t *order;            /* token numbers, sorted by text */
    uint32_t *next, *previous; /* [n_units] list of the free units of the open blocks */
    size_t next_capacity, previous_capacity;
    uint32_t first_free, last_free; /* NO_UNIT: none */
    struct range {                  /* tokens [first, last) share `depth` bytes, which lead to the unit */
        uint32_t unit, first, last, depth;
    } * queue;
    size_t queue_length, queue_capacity;
};

static void take_unit(struct builder *builder, uint32_t unit)
{
    uint32_t next = builder->next[unit], previous = builder->previous[unit];
    if (previous == NO_UNIT)
        builder->first_free = next;
    else
        builder->next[previous] = next;
    if (next == NO_UNIT)
        builder->last_free = previous;
    else
        builder->previous[next] = previous;
}

static enum status add_block(struct builder *builder)
{
    struct unigram *unigram = builder->unigram;
    size_t old = unigram->n_units, n = old + BLOCK;
    if (n >= NO_UNIT) return FAIL(LORAD_DATA, "the vocabulary is too large");
    TRY(memory_grow((void **)&unigram->unit, &unigram->capacity, n, sizeof *unigram->unit));
    TRY(memory_grow((void **)&builder->next, &builder->next_capacity, n, sizeof *builder->next));
    TRY(memory_grow((void **)&builder->previous, &builder->previous_capacity, n, sizeof *builder->previous));
    for (size_t i = old; i < n; i++) {
        unigram->unit[i] = (struct unit){0, NO_UNIT, -1};
        builder->previous[i] = builder->last_free;
        builder->next[i] = NO_UNIT;
        if (builder->last_free == NO_UNIT)
            builder->first_free = (uint32_t)i;
        else
            builder->next[builder->last_free] = (uint32_t)i;
        builder->last_free = (uint32_t)i;
    }
    unigram->n_units = n;
    if (n > OPEN_BLOCKS * BLOCK)
        for (size_t i = n - (OPEN_BLOCKS + 1) * BLOCK; i < n - OPEN_BLOCKS * BLOCK; i++)
            if (unigram->unit[i].parent == NO_UNIT && i) take_unit(builder, (uint32_t)i);
    return LORAD_OK;
}

/* A base under which all the bytes have free units. */
static enum status find_base(struct builder *builder, const uint8_t *byte, size_t n, uint32_t *base)
{
    int tries = 0;
    for (uint32_t unit = builder->first_free; unit != NO_UNIT && tries < TRIES_MAX;
         unit = builder->next[unit], tries++) {
        size_t i = 1;
        *base = unit ^ byte[0];
        while (i < n && (*base ^ byte[i]) && builder->unigram->unit[*base ^ byte[i]].parent == NO_UNIT) i++;
        if (i == n) return LORAD_OK;
    }
    TRY(add_block(builder));
    *base = (uint32_t)(builder->unigram->n_units - BLOCK) ^ byte[0];
    return LORAD_OK;
}

static const char *text_of(const struct builder *builder, uint32_t at, size_t *length)
{
    return vocab_text(builder->vocab, builder->order[at], length);
}

/* Gives the children of a range their units and queues them. */
static enum status place_range(struct builder *builder, struct range range)
{
    struct unigram *unigram = builder->unigram;
    uint8_t byte[256];
    uint32_t begin[257], n = 0;
    for (uint32_t i = range.first; i < range.last; i++) {
        size_t length;
        const char *text = text_of(builder, i, &length);
        if (length == range.depth) { /* the shortest stands first */
            unigram->unit[range.unit].id = builder->order[i];
            continue;
        }
        if (n && byte[n - 1] == (uint8_t)text[range.depth]) continue;
        byte[n] = (uint8_t)text[range.depth];
        begin[n++] = i;
    }
    if (!n) return LORAD_OK;
    begin[n] = range.last;
    uint32_t base;
    TRY(find_base(builder, byte, n, &base));
    unigram->unit[range.unit].base = base;
    TRY(memory_grow((void **)&builder->queue, &builder->queue_capacity, builder->queue_length + n,
                    sizeof *builder->queue));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t unit = base ^ byte[i];
        take_unit(builder, unit);
        unigram->unit[unit].parent = range.unit;
        builder->queue[builder->queue_length++] =
            (struct range){unit, begin[i], begin[i + 1], range.depth + 1};
    }
    return LORAD_OK;
}

static int by_text(const void *a, const void *b, void *context)
{
    size_t n, m;
    const char *x = vocab_text(context, *(const int32_t *)a, &n),
               *y = vocab_text(context, *(const int32_t *)b, &m);
    int order = memcmp(x, y, n < m ? n : m);
    return order ? order : n < m ? -1 : n > m;
}

static enum status place_all(struct builder *builder, const char *where)
{
    const struct vocab *vocab = builder->vocab;
    size_t n = (size_t)vocab->size;
    for (size_t i = 0; i < n; i++) builder->order[i] = (int32_t)i;
    qsort_r(builder->order, n, sizeof *builder->order, by_text, (void *)vocab);
    for (size_t i = 1; i < n; i++)
        if (by_text(&builder->order[i - 1], &builder->order[i], (void *)vocab) == 0)
            return FAIL(LORAD_DATA, "%s: tokens %d and %d are the same text", where, builder->order[i - 1],
                        builder->order[i]);
    TRY(add_block(builder));
    take_unit(builder, 0); /* the root, which is nobody's child */
    TRY(memory_grow((void **)&builder->queue, &builder->queue_capacity, 1, sizeof *builder->queue));
    builder->queue[builder->queue_length++] = (struct range){0, 0, (uint32_t)n, 0};
    while (builder->queue_length) TRY(place_range(builder, builder->queue[--builder->queue_length]));
    return LORAD_OK;
}

static enum status build_trie(struct unigram *unigram, const struct vocab *vocab, const char *where)
{
    if (vocab->text_length > TEXT_MAX)
        return FAIL(LORAD_DATA, "%s: the texts of the tokens are longer than %d bytes together", where,
                    TEXT_MAX);
    struct builder builder = {
        .unigram = unigram, .vocab = vocab, .first_free = NO_UNIT, .last_free = NO_UNIT};
    builder.order = memory_new((size_t)vocab->size, sizeof *builder.order);
    enum status status = builder.order ? place_all(&builder, where) : LORAD_NOMEM;
    free(builder.order);
    free(builder.next);
    free(builder.previous);
    free(builder.queue);
    return status;
}

/* ---- building ---- */

static int32_t find_token(const struct unigram *unigram, const char *text, size_t length)
{
    uint32_t at = 0;
    for (size_t i = 0; i < length; i++) {
        uint32_t next = unigram->unit[at].base ^ (uint8_t)text[i];
        if (unigram->unit[next].parent != at) return -1;
        at = next;
    }
    return unigram->unit[at].id;
}

static void find_bytes(struct unigram *unigram)
{
    unigram->all_bytes = true;
    for (unsigned b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", b);
        unigram->byte_token[b] = find_token(unigram, text, 6);
        if (unigram->byte_token[b] < 0) unigram->all_bytes = false;
    }
}

static enum status build(struct unigram *unigram, const struct vocab *vocab, const double *score, int32_t unk,
                         bool byte_fallback, const char *where)
{
    static const double unk_penalty = 10;
    size_t n = (size_t)vocab->size;
    if (vocab->size == 0) return FAIL(LORAD_DATA, "%s: the vocabulary is empty", where);
    if (vocab->count != vocab->size) return FAIL(LORAD_DATA, "%s: the vocabulary has holes", where);
    if (unk >= vocab->size)
        return FAIL(LORAD_DATA, "%s: the unknown token %d is not in the vocabulary", where, unk);
    unigram->score = memory_new(n, sizeof *unigram->score);
    if (!unigram->score) return LORAD_NOMEM;
    memcpy(unigram->score, score, n * sizeof *score);
    double lowest = INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(score[i]))
            return FAIL(LORAD_DATA, "%s: the score of token %zu is not finite", where, i);
        if (score[i] < lowest) lowest = score[i];
    }
    unigram->unk_score = lowest - unk_penalty;
    unigram->unk = unk;
    unigram->byte_fallback = byte_fallback;
    TRY(build_trie(unigram, vocab, where));
    find_bytes(unigram);
    return LORAD_OK;
}

enum status unigram_create(struct unigram **out, const struct vocab *vocab, const double *score, int32_t unk,
                           bool byte_fallback, const char *where)
{
    struct unigram *unigram = memory_new(1, sizeof *unigram);
    if (!unigram) return LORAD_NOMEM;
    enum status status = build(unigram, vocab, score, unk, byte_fallback, where);
    if (status != LORAD_OK) {
        unigram_destroy(unigram);
        return status;
    }
    *out = unigram;
    return LORAD_OK;
}

void unigram_destroy(struct unigram *unigram)
{
    if (!unigram) return;
    free(unigram->unit);
    free(unigram->score);
    free(unigram);
}

/* ---- reading ---- */

/* Hugging Face reads decimals with one rounding too many: the digits as a double, divided by a power of ten.
 * Scores must have its bits, or ties end differently. The digits are taken to be the fewest that stand for
 * the number, which is how they are written. */
static double as_hf_reads(double exact)
{
    char text[40];
    if (exact == floor(exact) && fabs(exact) < 1e16)
        return (double)(int64_t)(10 * (int64_t)exact) / 10; /* "5.0" */
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*e", digits - 1, fabs(exact));
        if (digits == 17 || strtod(text, NULL) == fabs(exact)) break;
    }
    uint64_t digits = 0;
    int behind = 0; /* digits behind the point */
    const char *at = text;
    for (bool point = false; *at && *at != 'e'; at++) {
        if (*at >= '0' && *at <= '9') {
            digits = 10 * digits + (uint64_t)(*at - '0');
            behind += point;
        } else {
            point = true;
        }
    }
    int exponent = (int)strtol(at + 1, NULL, 10) - behind;
    for (; behind > 0 && digits % 10 == 0 && digits; behind--, exponent++) digits /= 10;
    double value = (double)digits;
    for (; exponent < -308; exponent += 308) value /= 1e308;
    char power[16];
    snprintf(power, sizeof power, "1e%d", exponent < 0 ? -exponent : exponent);
    value = exponent < 0 ? value / strtod(power, NULL) : value * strtod(power, NULL);
    return exact < 0 ? -value : value;
}

static enum status read_entries(struct vocab *vocab, double *score, const struct json *list,
                                const char *where)
{
    for (size_t i = 0; i < js_length(list); i++) {
        const struct json *entry = js_at(list, i), *value = js_at(entry, 1);
        size_t length;
        const char *text = js_string(js_at(entry, 0), &length);
        if (!text || js_length(entry) != 2 || (js_type(value) != JS_REAL && js_type(value) != JS_INT))
            return FAIL(LORAD_DATA, "%s: model.vocab: entry %zu is not a text and a score", where, i);
        TRY(vocab_add(vocab, text, length, (int64_t)i, where));
        score[i] = js_type(value) == JS_INT ? js_real(value, 0) : as_hf_reads(js_real(value, 0));
    }
    return vocab_index(vocab, where);
}

enum status unigram_read(struct unigram **out, struct vocab *vocab, const struct json *model,
                         const char *where)
{
    const struct json *list, *unk = js_get(model, "unk_id");
    TRY(js_need(&list, model, "vocab", JS_ARRAY, where));
    int64_t number = !unk || js_type(unk) == JS_NULL ? -1 : js_int(unk, INT64_MAX);
    if (number < -1 || number > VOCAB_MAX)
        return FAIL(LORAD_DATA, "%s: model.unk_id is not the number of a token", where);
    double *score = memory_new(js_length(list) + 1, sizeof *score);
    if (!score) return LORAD_NOMEM;
    enum status status = read_entries(vocab, score, list, where);
    if (status == LORAD_OK)
        status = unigram_create(out, vocab, score, (int32_t)number,
                                js_bool(js_get(model, "byte_fallback"), false), where);
    free(score);
    return status;
}

/* ---- encoding ---- */

enum status unigram_scratch_create(struct unigram_scratch **out)
{
    struct unigram_scratch *scratch = memory_new(1, sizeof *scratch);
    if (!scratch) return LORAD_NOMEM;
    *out = scratch;
    return LORAD_OK;
}

void unigram_scratch_destroy(struct unigram_scratch *scratch)
{
    if (!scratch) return;
    free(scratch->path);
    free(scratch);
}

static inline void offer(struct path *to, double score, uint32_t start, int32_t id)
{
    if (to->start != NO_UNIT && !(score > to->score)) return;
    *to = (struct path){score, start, id};
}

/* Fills path[0 .. length]. */
static enum status search(const struct unigram *unigram, struct path *path, const char *word, size_t length)
{
    const struct unit *unit = unigram->unit;
    path[0] = (struct path){0, 0, -1};
    for (size_t i = 1; i <= length; i++) path[i].start = NO_UNIT;
    for (size_t start = 0, step; start < length; start += step) {
        step = utf8_length(word[start]);
        double here = path[start].score;
        bool single = false;
        uint32_t at = 0;
        for (size_t i = start; i < length;) {
            uint32_t next = unit[at].base ^ (uint8_t)word[i++];
            if (unit[next].parent != at) break;
            at = next;
            int32_t id = unit[at].id;
            if (id < 0) continue;
            offer(&path[i], unigram->score[id] + here, (uint32_t)start, id);
            single |= i - start == step;
        }
        if (single) continue;
        if (unigram->unk < 0)
            return FAIL(LORAD_DATA,
                        "the character at byte %zu has no token, and the model has no unknown token", start);
        offer(&path[start + step], unigram->unk_score + here, (uint32_t)start, unigram->unk);
    }
    return LORAD_OK;
}

/* Turns the chain round: path[end].start becomes the end of the next token, 0 at the last one. Returns the
 * first end. */
static uint32_t turn_round(struct path *path, size_t length)
{
    uint32_t behind = 0;
    for (uint32_t end = (uint32_t)length; end;) {
        uint32_t start = path[end].start;
        path[end].start = behind;
        behind = end;
        end = start;
    }
    return behind;
}

static enum status add_token(struct token_list *out, int32_t id, uint32_t start, uint32_t end)
{
    size_t need = out->length + 1;
    if (need > out->capacity) TRY(memory_grow((void **)&out->ids, &out->capacity, need, sizeof *out->ids));
    if (out->want_spans) {
        TRY(memory_grow((void **)&out->start, &out->start_capacity, need, sizeof *out->start));
        TRY(memory_grow((void **)&out->end, &out->end_capacity, need, sizeof *out->end));
        out->start[out->length] = start;
        out->end[out->length] = end;
    }
    out->ids[out->length++] = id;
    return LORAD_OK;
}

/* Characters without tokens, one after another. */
static enum status add_unknown(const struct unigram *unigram, const char *text, uint32_t length,
                               uint32_t base, struct token_list *out)
{
    int32_t whole = find_token(unigram, text, length);
    bool bytes = whole < 0 && unigram->byte_fallback;
    for (uint32_t i = 0; i < length && bytes && !unigram->all_bytes; i++)
        bytes = unigram->byte_token[(uint8_t)text[i]] >= 0;
    if (!bytes) return add_token(out, whole >= 0 ? whole : unigram->unk, base, base + length);
    for (uint32_t i = 0; i < length; i++)
        TRY(add_token(out, unigram->byte_token[(uint8_t)text[i]], base + i, base + i + 1));
    return LORAD_OK;
}

enum status unigram_encode(const struct unigram *unigram, struct unigram_scratch *scratch, const char *word,
                           size_t length, uint32_t base, struct token_list *out)
{
    TRY(memory_grow((void **)&scratch->path, &scratch->capacity, length + 1, sizeof *scratch->path));
    struct path *path = scratch->path;
    TRY(search(unigram, path, word, length));
    uint32_t begin = 0;
    for (uint32_t end = turn_round(path, length); end;) {
        uint32_t next = path[end].start;
        if (path[end].id != unigram->unk) {
            TRY(add_token(out, path[end].id, base + begin, base + end));
        } else {
            for (; next && path[next].id == unigram->unk; next = path[end].start) end = next;
            TRY(add_unknown(unigram, word + begin, end - begin, base + begin, out));
        }
        begin = end;
        end = next;
    }
    return LORAD_OK;
}
