/*
 * decode.c: each step takes a list of pieces to another one, as Hugging Face's decode_chain does, but as they
 * come.
 *
 * Invariants
 *  1. A step passes on what no later token can change and holds back the rest: bytes that are no whole
 *     character yet, a run of <0xHH> tokens (one invalid byte makes all of it U+FFFD), the beginning of a
 *     text to be replaced.
 *  2. ByteLevel and Fuse make one piece of all; it is passed on in parts, each of whole characters.
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

/* ---- decoding ---- */

struct decoding {
    const struct decoder *decoder;
    const int16_t *character_byte;
    struct step_state {
        struct strbuf piece; /* what came of the current piece and is not passed on yet */
        struct strbuf bytes; /* bytes that are no text yet */
        struct strbuf text;  /* what is passed on */
        int64_t stripped;    /* STRIP: taken off the start of the piece */
        bool inside;         /* STRIP: the start of the piece is behind */
        size_t n_pieces;     /* ended so far */
    } state[DECODE_STEPS];
    struct strbuf *out;
    bool any, inside; /* of the output: a piece was written; one is being written */
};

enum status decoding_create(struct decoding **out, const struct decoder *decoder,
                            const int16_t *character_byte)
{
    struct decoding *decoding = memory_new(1, sizeof *decoding);
    if (!decoding) return LORAD_NOMEM;
    decoding->decoder = decoder;
    decoding->character_byte = character_byte;
    *out = decoding;
    return LORAD_OK;
}

void decoding_destroy(struct decoding *decoding)
{
    if (!decoding) return;
    for (int i = 0; i < DECODE_STEPS; i++) {
        strbuf_free(&decoding->state[i].piece);
        strbuf_free(&decoding->state[i].bytes);
        strbuf_free(&decoding->state[i].text);
    }
    free(decoding);
}

/* Number of bytes at the end that are the beginning of a character. */
static size_t unfinished_length(const char *bytes, size_t n)
{
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        unsigned char first = (unsigned char)bytes[n - k];
        if ((first & 0xC0) == 0x80) continue;
        if (first < 0xC2 || first > 0xF4 || utf8_length((char)first) <= k) return 0;
        /* Any character that begins like this: complete the bytes with the ones that fit. */
        char text[4] = {(char)first, '\x80', '\x80', '\x80'};
        if (first == 0xE0) text[1] = '\xA0';
        if (first == 0xF0) text[1] = '\x90';
        memcpy(text + 1, bytes + n - k + 1, k - 1);
        uint32_t character;
        return utf8_read(&character, text, sizeof text) ? k : 0;
    }
    return 0;
}

static void put_alphabet_bytes(struct strbuf *out, const int16_t *character_byte, const char *text, size_t n)
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

static void push(struct decoding *d, int step, const char *text, size_t n, bool ends);

/* The bytes that are certain become text; the others wait, unless the text ends. */
static void pass_bytes(struct decoding *d, int step, bool ends)
{
    struct step_state *state = &d->state[step];
    const char *bytes = strbuf_text(&state->bytes);
    size_t n = state->bytes.length, kept = ends ? 0 : unfinished_length(bytes, n);
    strbuf_clear(&state->text);
    utf8_add_lossy(&state->text, bytes, n - kept);
    if (kept) memmove(state->bytes.data, bytes + n - kept, kept);
    state->bytes.length = kept;
    if (ends || state->text.length) push(d, step + 1, strbuf_text(&state->text), state->text.length, ends);
}

static void flush_run(struct decoding *d, int step)
{
    struct step_state *state = &d->state[step];
    size_t n = state->bytes.length;
    if (n == 0) return;
    if (utf8_valid(state->bytes.data, n, NULL)) {
        push(d, step + 1, state->bytes.data, n, true);
    } else {
        for (size_t i = 0; i < n; i++) push(d, step + 1, replacement, sizeof replacement - 1, true);
    }
    strbuf_clear(&state->bytes);
}

/* A piece that came whole, for the steps that need it so. */
static void push_whole(struct decoding *d, int step, const char *text, size_t n)
{
    struct step_state *state = &d->state[step];
    if (d->decoder->step[step].kind == DECODE_BYTE_LEVEL) {
        put_alphabet_bytes(&state->bytes, d->character_byte, text, n);
        pass_bytes(d, step, false);
        return;
    }
    int byte = fallback_byte(text, n);
    if (byte >= 0) {
        strbuf_putc(&state->bytes, (char)byte);
        return;
    }
    flush_run(d, step);
    push(d, step + 1, text, n, true);
}

static void push_stripped(struct decoding *d, int step, const char *text, size_t n, bool ends)
{
    const struct decode_step *how = &d->decoder->step[step];
    struct step_state *state = &d->state[step];
    size_t unit = strlen(how->pattern);
    while (!state->inside && n) {
        if (state->stripped == how->start || n < unit || memcmp(text, how->pattern, unit) != 0) {
            state->inside = true;
            break;
        }
        state->stripped++;
        text += unit;
        n -= unit;
    }
    strbuf_add(&state->piece, text, n);
    const char *piece = strbuf_text(&state->piece);
    size_t length = state->piece.length, end = length;
    for (int64_t k = 0; k < how->stop && end >= unit && memcmp(piece + end - unit, how->pattern, unit) == 0;
         k++)
        end -= unit;
    strbuf_clear(&state->text);
    strbuf_add(&state->text, piece, end);
    if (end) memmove(state->piece.data, piece + end, length - end);
    state->piece.length = length - end;
    if (ends) {
        strbuf_clear(&state->piece);
        state->stripped = 0;
        state->inside = false;
    }
    if (ends || state->text.length) push(d, step + 1, strbuf_text(&state->text), state->text.length, ends);
}

/* Length of the longest end of the text that a pattern may begin with. */
static size_t begun_length(const char *text, size_t n, const char *pattern, size_t unit)
{
    for (size_t k = unit - 1 < n ? unit - 1 : n; k > 0; k--)
        if (memcmp(text + n - k, pattern, k) == 0) return k;
    return 0;
}

static void push_replaced(struct decoding *d, int step, const char *text, size_t n, bool ends)
{
    const struct decode_step *how = &d->decoder->step[step];
    struct step_state *state = &d->state[step];
    size_t unit = strlen(how->pattern);
    bool drop = how->kind == DECODE_METASPACE && how->start && state->n_pieces == 0;
    strbuf_add(&state->piece, text, n);
    strbuf_clear(&state->text);
    const char *at = strbuf_text(&state->piece), *end = at + state->piece.length;
    for (const char *found; (found = memmem(at, (size_t)(end - at), how->pattern, unit)); at = found + unit) {
        strbuf_add(&state->text, at, (size_t)(found - at));
        if (!drop) strbuf_puts(&state->text, how->content);
    }
    size_t kept = ends ? 0 : begun_length(at, (size_t)(end - at), how->pattern, unit);
    strbuf_add(&state->text, at, (size_t)(end - at) - kept);
    if (kept) memmove(state->piece.data, end - kept, kept);
    state->piece.length = kept;
    if (ends) state->n_pieces++;
    if (ends || state->text.length) push(d, step + 1, strbuf_text(&state->text), state->text.length, ends);
}

/* Gives a part of a piece to a step; `ends`: the last part. */
static void push(struct decoding *d, int step, const char *text, size_t n, bool ends)
{
    if (step == d->decoder->n_steps) {
        if (d->decoder->none && d->any && !d->inside) strbuf_putc(d->out, ' ');
        strbuf_add(d->out, text, n);
        d->inside = !ends;
        d->any = true;
        return;
    }
    struct step_state *state = &d->state[step];
    switch (d->decoder->step[step].kind) {
    case DECODE_BYTE_LEVEL:
    case DECODE_BYTE_FALLBACK:
        if (ends && state->piece.length == 0) {
            push_whole(d, step, text, n);
            return;
        }
        strbuf_add(&state->piece, text, n);
        if (!ends) return;
        push_whole(d, step, strbuf_text(&state->piece), state->piece.length);
        strbuf_clear(&state->piece);
        return;
    case DECODE_FUSE:
        push(d, step + 1, text, n, false);
        return;
    case DECODE_STRIP:
        push_stripped(d, step, text, n, ends);
        return;
    case DECODE_REPLACE:
    case DECODE_METASPACE:
        push_replaced(d, step, text, n, ends);
        return;
    }
}

static enum status state_status(const struct decoding *d)
{
    for (int i = 0; i < d->decoder->n_steps; i++) {
        TRY(strbuf_status(&d->state[i].piece));
        TRY(strbuf_status(&d->state[i].bytes));
        TRY(strbuf_status(&d->state[i].text));
    }
    return strbuf_status(d->out);
}

enum status decoding_add(struct decoding *decoding, const char *text, size_t length, struct strbuf *out)
{
    decoding->out = out;
    push(decoding, 0, text, length, true);
    return state_status(decoding);
}

enum status decoding_finish(struct decoding *decoding, struct strbuf *out)
{
    decoding->out = out;
    for (int i = 0; i < decoding->decoder->n_steps; i++) {
        enum decode_kind kind = decoding->decoder->step[i].kind;
        if (kind == DECODE_BYTE_LEVEL) pass_bytes(decoding, i, true);
        if (kind == DECODE_BYTE_FALLBACK) flush_run(decoding, i);
        if (kind == DECODE_FUSE) push(decoding, i + 1, "", 0, true);
        decoding->state[i].n_pieces = 0;
    }
    decoding->any = decoding->inside = false;
    return state_status(decoding);
}
