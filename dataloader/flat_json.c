/*
 * flat_json.c
 *
 * Invariants
 *  1. Nothing is read at or behind the end of a span.
 *  2. What is accepted is JSON: strings with their escapes, whole numbers, white space where it may stand.
 */
#include "dataloader/flat_json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/strbuf.h"

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')) at++;
    return at;
}

/* Behind the string that begins at `at`; NULL: it does not end. */
static const char *skip_string(const char *at, const char *end)
{
    for (at++; at < end; at++) {
        if (*at == '\\')
            at++;
        else if (*at == '"')
            return at + 1;
    }
    return NULL;
}

/* Behind the value that begins at `at`; NULL: it does not end. */
static const char *skip_value(const char *at, const char *end)
{
    size_t depth = 0;
    while (at < end) {
        char c = *at;
        if (c == '"') {
            if (!(at = skip_string(at, end))) return NULL;
            if (depth == 0) return at;
            continue;
        }
        if (depth == 0 && (c == ',' || c == '}' || c == ']')) return at; /* behind a number or a word */
        if (c == '{' || c == '[') depth++;
        at++;
        if ((c == '}' || c == ']') && --depth == 0) return at;
    }
    return NULL;
}

bool flat_json_member(struct json_span in, const char *key, struct json_span *value)
{
    size_t length = strlen(key);
    const char *at = skip_space(in.begin, in.end);
    if (at == in.end || *at != '{') return false;
    for (at++;; at++) {
        at = skip_space(at, in.end);
        if (at == in.end || *at != '"') return false;
        const char *name = at + 1;
        if (!(at = skip_string(at, in.end))) return false;
        bool found = (size_t)(at - 1 - name) == length && memcmp(name, key, length) == 0;
        at = skip_space(at, in.end);
        if (at == in.end || *at != ':') return false;
        value->begin = skip_space(at + 1, in.end);
        if (!(at = skip_value(value->begin, in.end))) return false;
        value->end = at;
        if (found) return true;
        at = skip_space(at, in.end);
        if (at == in.end || *at != ',') return false;
    }
}

/* ---- a cursor ---- */

struct flat {
    const char *begin, *at, *end, *where;
    struct strbuf text[2]; /* strings with escapes */
};

static enum status bad(const struct flat *flat, const char *what)
{
    return FAIL(LORAD_DATA, "%s: not valid JSON: %s expected at byte %zu of the vocabulary or the merges",
                flat->where, what, (size_t)(flat->at - flat->begin));
}

/* Moves over white space and the character; false: another one stands there. */
static bool take(struct flat *flat, char c)
{
    flat->at = skip_space(flat->at, flat->end);
    if (flat->at == flat->end || *flat->at != c) return false;
    flat->at++;
    return true;
}

static bool read_hex(const char *at, const char *end, uint32_t *value)
{
    *value = 0;
    if (end - at < 4) return false;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit == 16) return false;
        *value = *value << 4 | digit;
    }
    return true;
}

static void put_utf8(struct strbuf *out, uint32_t c)
{
    char text[4];
    size_t n = 0;
    if (c < 0x80) {
        text[n++] = (char)c;
    } else if (c < 0x800) {
        text[n++] = (char)(0xC0 | c >> 6);
    } else if (c < 0x10000) {
        text[n++] = (char)(0xE0 | c >> 12);
        text[n++] = (char)(0x80 | (c >> 6 & 0x3F));
    } else {
        text[n++] = (char)(0xF0 | c >> 18);
        text[n++] = (char)(0x80 | (c >> 12 & 0x3F));
        text[n++] = (char)(0x80 | (c >> 6 & 0x3F));
    }
    if (c >= 0x80) text[n++] = (char)(0x80 | (c & 0x3F));
    strbuf_add(out, text, n);
}

/* An escape at flat->at, behind its backslash. */
static enum status read_escape(struct flat *flat, struct strbuf *out)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    const char *letter = flat->at < flat->end && *flat->at ? strchr(letters, *flat->at) : NULL;
    uint32_t c, low;
    if (letter) {
        strbuf_putc(out, meanings[letter - letters]);
        flat->at++;
        return LORAD_OK;
    }
    if (flat->at == flat->end || *flat->at != 'u' || !read_hex(flat->at + 1, flat->end, &c))
        return bad(flat, "an escape");
    flat->at += 5;
    if (c >= 0xD800 && c < 0xDC00 && flat->end - flat->at >= 6 && flat->at[0] == '\\' && flat->at[1] == 'u' &&
        read_hex(flat->at + 2, flat->end, &low) && low >= 0xDC00 && low < 0xE000) {
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
        flat->at += 6;
    }
    if (c >= 0xD800 && c < 0xE000) return bad(flat, "the other half of a surrogate pair");
    put_utf8(out, c);
    return LORAD_OK;
}

/* A string: borrowed from the text when it has no escapes, else from flat->text[which]. */
static enum status read_string(struct flat *flat, int which, const char **text, size_t *length)
{
    if (!take(flat, '"')) return bad(flat, "a string");
    const char *begin = flat->at;
    struct strbuf *copy = NULL;
    for (;; flat->at++) {
        if (flat->at == flat->end || (unsigned char)*flat->at < 0x20) return bad(flat, "the end of a string");
        if (*flat->at == '"') break;
        if (*flat->at != '\\') {
            if (copy) strbuf_putc(copy, *flat->at);
            continue;
        }
        if (!copy) {
            copy = &flat->text[which];
            strbuf_clear(copy);
            strbuf_add(copy, begin, (size_t)(flat->at - begin));
        }
        flat->at++;
        TRY(read_escape(flat, copy));
        flat->at--; /* the loop goes on behind it */
    }
    *text = copy ? strbuf_text(copy) : begin;
    *length = copy ? copy->length : (size_t)(flat->at - begin);
    flat->at++;
    return copy ? strbuf_status(copy) : LORAD_OK;
}

static enum status read_number(struct flat *flat, int64_t *number)
{
    bool minus = take(flat, '-');
    flat->at = skip_space(flat->at, flat->end);
    const char *first = flat->at;
    *number = 0;
    while (flat->at < flat->end && *flat->at >= '0' && *flat->at <= '9' && flat->at - first < 15)
        *number = *number * 10 + (*flat->at++ - '0');
    if (flat->at == first) return bad(flat, "a whole number");
    if (minus) *number = -*number;
    return LORAD_OK;
}

static enum status read_vocab(struct flat *flat, struct vocab *vocab)
{
    if (!take(flat, '{')) return bad(flat, "{");
    for (bool first = true; !take(flat, '}'); first = false) {
        const char *text;
        size_t length;
        int64_t number;
        if (!first && !take(flat, ',')) return bad(flat, ", or }");
        TRY(read_string(flat, 0, &text, &length));
        if (!take(flat, ':')) return bad(flat, ":");
        TRY(read_number(flat, &number));
        TRY(vocab_add(vocab, text, length, number, flat->where));
    }
    return vocab_index(vocab, flat->where);
}

static enum status read_merge(struct flat *flat, struct bpe *bpe)
{
    const char *left, *right;
    size_t left_length, right_length;
    if (!take(flat, '[')) {
        if (flat->at == flat->end || *flat->at != '"')
            return FAIL(LORAD_DATA, "%s: merge %zu is neither a string nor a pair of strings", flat->where,
                        bpe->n_merges);
        TRY(read_string(flat, 0, &left, &left_length));
        return bpe_add_merge_line(bpe, left, left_length, flat->where);
    }
    TRY(read_string(flat, 0, &left, &left_length));
    if (!take(flat, ',')) return bad(flat, ",");
    TRY(read_string(flat, 1, &right, &right_length));
    if (!take(flat, ']')) return bad(flat, "]");
    return bpe_add_merge(bpe, left, left_length, right, right_length, flat->where);
}

static enum status read_merges(struct flat *flat, struct bpe *bpe)
{
    if (!take(flat, '[')) return bad(flat, "[");
    for (bool first = true; !take(flat, ']'); first = false) {
        if (!first && !take(flat, ',')) return bad(flat, ", or ]");
        flat->at = skip_space(flat->at, flat->end);
        TRY(read_merge(flat, bpe));
    }
    return LORAD_OK;
}

static void flat_free(struct flat *flat)
{
    strbuf_free(&flat->text[0]);
    strbuf_free(&flat->text[1]);
}

static enum status check_end(struct flat *flat)
{
    flat->at = skip_space(flat->at, flat->end);
    return flat->at == flat->end ? LORAD_OK : bad(flat, "the end");
}

enum status flat_json_vocab(struct vocab *vocab, struct json_span text, const char *where)
{
    struct flat flat = {text.begin, text.begin, text.end, where, {STRBUF_EMPTY, STRBUF_EMPTY}};
    enum status status = read_vocab(&flat, vocab);
    if (status == LORAD_OK) status = check_end(&flat);
    flat_free(&flat);
    return status;
}

enum status flat_json_merges(struct bpe *bpe, struct json_span text, const char *where)
{
    struct flat flat = {text.begin, text.begin, text.end, where, {STRBUF_EMPTY, STRBUF_EMPTY}};
    enum status status = read_merges(&flat, bpe);
    if (status == LORAD_OK) status = check_end(&flat);
    flat_free(&flat);
    return status;
}
