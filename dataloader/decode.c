/*
 * decode.c: each step takes the list of pieces to another one, as Hugging Face's decode_chain does.
 */
#include "dataloader/decode.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

enum { ALPHABET = 256 + 68 }; /* characters of GPT-2's alphabet lie below */

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

/* ---- reading ---- */

enum status decoder_add(struct decoder *decoder, enum decode_kind kind, const char *pattern,
                        const char *content, int64_t start, int64_t stop)
{
    if (decoder->n_steps == DECODE_STEPS)
        return FAIL(LORAD_DATA, "decoder: more than %d steps", DECODE_STEPS);
    char *pattern_copy = memory_string(pattern), *content_copy = memory_string(content);
    if (!pattern_copy || !content_copy) {
        free(pattern_copy);
        free(content_copy);
        return LORAD_NOMEM;
    }
    decoder->step[decoder->n_steps++] = (struct decode_step){kind, pattern_copy, content_copy, start, stop};
    return LORAD_OK;
}

static enum status read_step(struct decoder *out, const struct json *value, const char *where)
{
    const char *type, *text;
    TRY(js_need_string(&type, value, "type", where));
    if (strcmp(type, "ByteLevel") == 0) return decoder_add(out, DECODE_BYTE_LEVEL, "", "", 0, 0);
    if (strcmp(type, "ByteFallback") == 0) return decoder_add(out, DECODE_BYTE_FALLBACK, "", "", 0, 0);
    if (strcmp(type, "Fuse") == 0) return decoder_add(out, DECODE_FUSE, "", "", 0, 0);
    if (strcmp(type, "Strip") == 0) {
        TRY(js_need_string(&text, value, "content", where));
        if (!*text || strlen(text) != utf8_length(*text))
            return FAIL(LORAD_DATA, "%s: decoder Strip: content must be one character", where);
        return decoder_add(out, DECODE_STRIP, text, "", js_int(js_get(value, "start"), 0),
                           js_int(js_get(value, "stop"), 0));
    }
    if (strcmp(type, "Replace") == 0) {
        const char *pattern = js_string(js_get(js_get(value, "pattern"), "String"), NULL);
        if (!pattern || !*pattern)
            return FAIL(LORAD_DATA, "%s: decoder Replace with a regular expression is not supported", where);
        TRY(js_need_string(&text, value, "content", where));
        return decoder_add(out, DECODE_REPLACE, pattern, text, 0, 0);
    }
    if (strcmp(type, "Metaspace") == 0) {
        TRY(js_need_string(&text, value, "replacement", where));
        if (!*text) return FAIL(LORAD_DATA, "%s: decoder Metaspace: empty replacement", where);
        const char *scheme = js_string(js_get(value, "prepend_scheme"), NULL);
        bool drop = scheme ? strcmp(scheme, "never") != 0 : js_bool(js_get(value, "add_prefix_space"), true);
        return decoder_add(out, DECODE_METASPACE, text, " ", drop, 0);
    }
    return FAIL(
        LORAD_DATA,
        "%s: decoder \"%s\" is not supported (supported: ByteLevel, ByteFallback, Fuse, Strip, Replace, "
        "Metaspace, Sequence)",
        where, type);
}

enum status decoder_read(struct decoder *out, const struct json *value, const char *where)
{
    const char *type;
    out->none = !value || js_type(value) == JS_NULL;
    if (out->none) return LORAD_OK;
    TRY(js_need_string(&type, value, "type", where));
    if (strcmp(type, "Sequence") != 0) return read_step(out, value, where);
    const struct json *list;
    TRY(js_need(&list, value, "decoders", JS_ARRAY, where));
    for (size_t i = 0; i < js_length(list); i++) TRY(read_step(out, js_at(list, i), where));
    return LORAD_OK;
}

void decoder_free(struct decoder *decoder)
{
    for (int i = 0; i < decoder->n_steps; i++) {
        free(decoder->step[i].pattern);
        free(decoder->step[i].content);
    }
    decoder->n_steps = 0;
}

/* ---- pieces ---- */

void piece_list_free(struct piece_list *list)
{
    strbuf_free(&list->text);
    free(list->end);
    *list = (struct piece_list){0};
}

static enum status close_piece(struct piece_list *list)
{
    TRY(memory_grow((void **)&list->end, &list->capacity, list->length + 1, sizeof *list->end));
    list->end[list->length++] = list->text.length;
    return strbuf_status(&list->text);
}

enum status piece_list_add(struct piece_list *list, const char *text, size_t length)
{
    strbuf_add(&list->text, text, length);
    return close_piece(list);
}

static void clear_pieces(struct piece_list *list)
{
    strbuf_clear(&list->text);
    list->length = 0;
}

/* ---- steps ---- */

static void add_alphabet_bytes(struct strbuf *out, const int16_t *character_byte, const char *text, size_t n)
{
    size_t old = out->length;
    for (size_t i = 0; i < n;) {
        uint32_t character = 0;
        size_t length = utf8_read(&character, text + i, n - i);
        if (!length || character >= ALPHABET || character_byte[character] < 0) {
            out->length = old; /* not in the alphabet: the text itself */
            strbuf_add(out, text, n);
            return;
        }
        strbuf_putc(out, (char)character_byte[character]);
        i += length;
    }
}

static enum status decode_byte_level(const int16_t *character_byte, const struct piece_list *in,
                                     struct piece_list *out)
{
    struct strbuf bytes = STRBUF_EMPTY;
    size_t begin = 0;
    for (size_t i = 0; i < in->length; begin = in->end[i++])
        add_alphabet_bytes(&bytes, character_byte, in->text.data + begin, in->end[i] - begin);
    enum status status = strbuf_status(&bytes);
    if (status == LORAD_OK) {
        utf8_add_lossy(&out->text, bytes.length ? bytes.data : "", bytes.length);
        status = close_piece(out);
    }
    strbuf_free(&bytes);
    return status;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* The byte of a <0xHH> token; -1. "<0x+F>" is one too: Rust's from_str_radix takes the sign. */
static int fallback_byte(const char *text, size_t length)
{
    if (length != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = text[3] == '+' ? 0 : hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static enum status flush_bytes(struct strbuf *bytes, struct piece_list *out)
{
    if (bytes->length == 0) return LORAD_OK;
    TRY(strbuf_status(bytes));
    if (utf8_valid(bytes->data, bytes->length, NULL)) {
        TRY(piece_list_add(out, bytes->data, bytes->length));
    } else {
        for (size_t i = 0; i < bytes->length; i++)
            TRY(piece_list_add(out, replacement, sizeof replacement - 1));
    }
    strbuf_clear(bytes);
    return LORAD_OK;
}

static enum status decode_byte_fallback(const struct piece_list *in, struct piece_list *out)
{
    struct strbuf bytes = STRBUF_EMPTY;
    enum status status = LORAD_OK;
    size_t begin = 0;
    for (size_t i = 0; i < in->length && status == LORAD_OK; begin = in->end[i++]) {
        const char *text = in->text.data + begin;
        size_t length = in->end[i] - begin;
        int byte = fallback_byte(text, length);
        if (byte >= 0) {
            strbuf_putc(&bytes, (char)byte);
            continue;
        }
        status = flush_bytes(&bytes, out);
        if (status == LORAD_OK) status = piece_list_add(out, text, length);
    }
    if (status == LORAD_OK) status = flush_bytes(&bytes, out);
    strbuf_free(&bytes);
    return status;
}

static enum status decode_strip(const struct decode_step *step, const struct piece_list *in,
                                struct piece_list *out)
{
    size_t unit = strlen(step->pattern), begin = 0;
    for (size_t i = 0; i < in->length; begin = in->end[i++]) {
        size_t from = begin, to = in->end[i];
        const char *text = in->text.data;
        for (int64_t k = 0;
             k < step->start && to - from >= unit && memcmp(text + from, step->pattern, unit) == 0; k++)
            from += unit;
        for (int64_t k = 0;
             k < step->stop && to - from >= unit && memcmp(text + to - unit, step->pattern, unit) == 0; k++)
            to -= unit;
        TRY(piece_list_add(out, text + from, to - from));
    }
    return LORAD_OK;
}

static enum status decode_replace(const struct decode_step *step, const struct piece_list *in,
                                  struct piece_list *out)
{
    size_t unit = strlen(step->pattern), begin = 0;
    for (size_t i = 0; i < in->length; begin = in->end[i++]) {
        const char *text = in->text.data + begin, *end = in->text.data + in->end[i];
        bool drop = step->kind == DECODE_METASPACE && step->start && i == 0;
        for (const char *found; (found = memmem(text, (size_t)(end - text), step->pattern, unit));
             text = found + unit) {
            strbuf_add(&out->text, text, (size_t)(found - text));
            if (!drop) strbuf_puts(&out->text, step->content);
        }
        TRY(piece_list_add(out, text, (size_t)(end - text)));
    }
    return LORAD_OK;
}

static enum status run_step(const struct decode_step *step, const int16_t *character_byte,
                            const struct piece_list *in, struct piece_list *out)
{
    switch (step->kind) {
    case DECODE_BYTE_LEVEL:
        return decode_byte_level(character_byte, in, out);
    case DECODE_BYTE_FALLBACK:
        return decode_byte_fallback(in, out);
    case DECODE_FUSE:
        return piece_list_add(out, in->text.length ? in->text.data : "", in->text.length);
    case DECODE_STRIP:
        return decode_strip(step, in, out);
    case DECODE_REPLACE:
    case DECODE_METASPACE:
        return decode_replace(step, in, out);
    }
    return FAIL(LORAD_BUG, "decoder step %d", (int)step->kind);
}

enum status decoder_run(const struct decoder *decoder, const int16_t *character_byte,
                        struct piece_list *pieces, struct strbuf *out)
{
    struct piece_list other = {0};
    enum status status = strbuf_status(&pieces->text);
    for (int i = 0; i < decoder->n_steps && status == LORAD_OK; i++) {
        clear_pieces(&other);
        status = run_step(&decoder->step[i], character_byte, pieces, &other);
        struct piece_list result = other;
        other = *pieces;
        *pieces = result;
    }
    size_t begin = 0;
    for (size_t i = 0; i < pieces->length && status == LORAD_OK; begin = pieces->end[i++]) {
        if (decoder->none && i) strbuf_putc(out, ' ');
        strbuf_add(out, pieces->text.data + begin, pieces->end[i] - begin);
    }
    piece_list_free(&other);
    return status == LORAD_OK ? strbuf_status(out) : status;
}
