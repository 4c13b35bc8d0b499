/*
 * charsmap.c: a double-array trie of texts to be replaced, and what replaces them.
 *
 * The bytes: the size of the trie in bytes (32 bits, little-endian), its units (32 bits each), and the
 * replacements, each with a NUL behind it. Of a unit, bits 0..7 are the label, bit 8 says that a value lies
 * below, bits 10.. are the offset to the children, shifted by 8 when bit 9 is set; a value is a unit without
 * bit 31: where the replacement begins.
 *
 * Invariants
 *  1. The map is untrusted. Everything that can be reached from the root is checked at reading: no look-up
 *     leaves the units, every value lies in the replacements at the beginning of a character. Running needs
 *     no checks.
 *  2. As in Hugging Face, a grapheme cluster shorter than six bytes is looked up as a whole, and when that
 *     finds nothing, or for longer ones, each character is. A look-up takes the shortest text that is a
 *     beginning of the key: what lies behind it in the cluster disappears.
 */
#include "dataloader/charsmap.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/normalize.h"
#include "dataloader/unicode.h"

enum { CLUSTER_MAX = 6 }; /* bytes: longer clusters are not looked up as a whole */

struct charsmap {
    uint32_t *unit; /* [n_units] */
    size_t n_units;
    char *text; /* the replacements, with a NUL behind */
    size_t text_length;
    bool ascii_alone[128]; /* whether the character, when it stands for itself alone, stays as it is */
};

static inline bool has_value(uint32_t unit)
{
    return unit >> 8 & 1;
}

static inline uint32_t value_of(uint32_t unit)
{
    return unit & 0x7FFFFFFF;
}

static inline uint32_t label_of(uint32_t unit)
{
    return unit & 0x800000FF;
}

static inline uint32_t offset_of(uint32_t unit)
{
    return unit >> 10 << ((unit & 0x200) >> 6);
}

/* ---- reading ---- */

static uint32_t read_u32(const char *bytes)
{
    const uint8_t *b = (const uint8_t *)bytes;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static bool value_is_good(const struct charsmap *map, size_t at)
{
    if (at >= map->n_units) return false;
    uint32_t value = value_of(map->unit[at]);
    return value <= map->text_length && ((uint8_t)map->text[value] & 0xC0) != 0x80;
}

/* Goes through everything that can be reached: `node` is where a unit's children and its value are found. */
static enum status check_trie(const struct charsmap *map, uint8_t *seen, uint32_t *stack, const char *where)
{
    size_t depth = 0, root = offset_of(map->unit[0]);
    stack[depth++] = (uint32_t)root;
    while (depth) {
        size_t node = stack[--depth];
        for (size_t byte = 1; byte < 256; byte++) {
            size_t at = node ^ byte;
            if (at >= map->n_units)
                return FAIL(LORAD_DATA, "%s: precompiled_charsmap: its trie points outside itself", where);
            if (seen[at] || label_of(map->unit[at]) != byte) continue;
            seen[at] = 1;
            size_t below = at ^ offset_of(map->unit[at]);
            if (has_value(map->unit[at]) && !value_is_good(map, below))
                return FAIL(LORAD_DATA, "%s: precompiled_charsmap: a replacement lies outside the map",
                            where);
            stack[depth++] = (uint32_t)below;
        }
    }
    return LORAD_OK;
}

static const char *transform(const struct charsmap *map, const char *key, size_t length);

static enum status fill(struct charsmap *map, const char *bytes, size_t length, const char *where)
{
    if (length < 8 || read_u32(bytes) / 4 == 0 || read_u32(bytes) / 4 > (length - 4) / 4)
        return FAIL(LORAD_DATA, "%s: precompiled_charsmap of %zu bytes is cut off", where, length);
    map->n_units = read_u32(bytes) / 4;
    const char *text = bytes + 4 + 4 * map->n_units;
    map->text_length = length - 4 - 4 * map->n_units;
    if (!utf8_valid(text, map->text_length, NULL))
        return FAIL(LORAD_DATA, "%s: precompiled_charsmap: its texts are not valid UTF-8", where);
    map->unit = memory_new(map->n_units, sizeof *map->unit);
    map->text = memory_string_n(text, map->text_length);
    uint8_t *seen = memory_new(map->n_units, 1);
    uint32_t *stack = memory_new(map->n_units + 1, sizeof *stack);
    enum status status = map->unit && map->text && seen && stack ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) {
        for (size_t i = 0; i < map->n_units; i++) map->unit[i] = read_u32(bytes + 4 + 4 * i);
        status = check_trie(map, seen, stack, where);
    }
    free(seen);
    free(stack);
    for (int c = 1; c < 128 && status == LORAD_OK; c++)
        map->ascii_alone[c] = !transform(map, (char[]){(char)c}, 1);
    map->ascii_alone[0] = true;
    return status;
}

enum status charsmap_create(struct charsmap **out, const char *bytes, size_t length, const char *where)
{
    struct charsmap *map = memory_new(1, sizeof *map);
    if (!map) return LORAD_NOMEM;
    enum status status = fill(map, bytes, length, where);
    if (status != LORAD_OK) {
        charsmap_destroy(map);
        return status;
    }
    *out = map;
    return LORAD_OK;
}

static int base64_digit(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

enum status charsmap_create_base64(struct charsmap **out, const char *text, size_t length, const char *where)
{
    size_t n = 0, digits = length;
    while (digits && length - digits < 2 && text[digits - 1] == '=') digits--;
    char *bytes = memory_new(length / 4 + 1, 3);
    if (!bytes) return LORAD_NOMEM;
    bool good = length % 4 == 0;
    uint32_t bits = 0;
    for (size_t i = 0; i < digits && good; i++) {
        int digit = base64_digit(text[i]);
        good = digit >= 0;
        bits = bits << 6 | (uint32_t)(digit & 63);
        if (i % 4) bytes[n++] = (char)(bits >> (6 - 2 * (i % 4)));
    }
    enum status status = good ? charsmap_create(out, bytes, n, where)
                              : FAIL(LORAD_DATA, "%s: precompiled_charsmap is not base64", where);
    free(bytes);
    return status;
}

void charsmap_destroy(struct charsmap *map)
{
    if (!map) return;
    free(map->unit);
    free(map->text);
    free(map);
}

/* ---- running ---- */

/* What replaces the key; NULL: nothing does. */
static const char *transform(const struct charsmap *map, const char *key, size_t length)
{
    size_t node = offset_of(map->unit[0]);
    for (size_t i = 0; i < length && key[i]; i++) {
        node ^= (uint8_t)key[i];
        uint32_t unit = map->unit[node];
        if (label_of(unit) != (uint8_t)key[i]) return NULL;
        node ^= offset_of(unit);
        if (has_value(unit)) return map->text + value_of(map->unit[node]);
    }
    return NULL;
}

static enum status add_replaced(struct textbuf *out, const struct textbuf *in, size_t begin, size_t end,
                                const char *replacement)
{
    return textbuf_add(out, replacement, strlen(replacement), in->want_map ? in->from[begin] : 0,
                       in->want_map ? in->to[end - 1] : 0, 0);
}

/* Whether a cluster ends before `next` whatever precedes it: characters that never extend one, below U+0300
 * and in the common CJK blocks. After them, too, but for a few before U+0300, which only a joiner keeps
 * together. */
static inline bool is_apart(uint32_t character)
{
    return character < 0x300 || (character >= 0x3400 && character < 0xA000) ||
           (character >= 0x3041 && character < 0x3097) || (character >= 0xFF01 && character < 0xFF9E);
}

/* End of the grapheme cluster that begins at i; any end behind CLUSTER_MAX bytes is as good as another. */
static size_t cluster_end(const struct textbuf *in, size_t i, uint32_t character, size_t length)
{
    size_t at = i + length;
    bool crlf = character == '\r' && at < in->length && in->data[at] == '\n';
    int32_t state = 0;
    while (at < in->length && at - i < CLUSTER_MAX) {
        uint32_t next = 0;
        size_t step = utf8_read(&next, in->data + at, in->length - at);
        if (is_apart(character) && is_apart(next) && !crlf) break;
        if (unicode_ends_cluster(character, next, &state)) break;
        character = next;
        at += step;
    }
    return at;
}

enum status charsmap_run(const struct charsmap *map, struct textbuf *out, const struct textbuf *in)
{
    size_t kept = 0; /* start of what is to be copied as it stands */
    for (size_t i = 0; i < in->length;) {
        unsigned char byte = (unsigned char)in->data[i];
        if (byte < 0x80 && map->ascii_alone[byte] && i + 1 < in->length && byte != '\r' &&
            !((unsigned char)in->data[i + 1] & 0x80)) {
            i++;
            continue;
        }
        uint32_t character = 0;
        size_t length = utf8_read(&character, in->data + i, in->length - i),
               end = cluster_end(in, i, character, length);
        const char *whole = end - i < CLUSTER_MAX ? transform(map, in->data + i, end - i) : NULL;
        for (size_t part = whole ? end - i : length; i < end; i += part) {
            if (!whole) part = utf8_length(in->data[i]);
            const char *replacement = whole ? whole : transform(map, in->data + i, part);
            if (!replacement) continue;
            TRY(textbuf_append(out, in, kept, i));
            TRY(add_replaced(out, in, i, i + part, replacement));
            kept = i + part;
        }
    }
    return textbuf_append(out, in, kept, in->length);
}
