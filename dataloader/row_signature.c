/*
 * row_signature.c: a row -> the hash of its text and the sketch of its shingles.
 *
 * Invariants:
 * (1) every hash is a pure function of the text, with constants of this file: signatures of two runs, hosts
 *     and versions with one SIGNATURE_VERSION can be compared.
 * (2) in round r each shingle falls into one lane with a value between r and r + 1 (in units of 2^24); a lane
 *     keeps the smallest. A lane that is filled after a round cannot change in a later one, so the rounds end
 *     as soon as all are filled. One hash serves two rounds.
 */
#include "dataloader/near_duplicates.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/unicode.h"

enum { VALUE_BITS = 24, ROUNDS = 2 * SIGNATURE_LANES };

static const uint64_t spread = 0x9E3779B97F4A7C15u; /* for characters, which are small numbers */

void signature_maker_free(struct signature_maker *maker)
{
    free(maker->shingle);
    free(maker->text);
    *maker = (struct signature_maker){0};
}

/* splitmix64's finaliser */
static inline uint64_t mix(uint64_t h)
{
    h ^= h >> 30;
    h *= 0xBF58476D1CE4E5B9u;
    h ^= h >> 27;
    h *= 0x94D049BB133111EBu;
    return h ^ h >> 31;
}

/* ---- units and shingles ---- */

struct shingler {
    uint64_t before[2]; /* the last two units */
    uint64_t word;      /* hash of the word that is being read; 0: none */
    uint64_t *shingle;
    size_t units, n;
};

static inline void add_unit(struct shingler *s, uint64_t unit)
{
    if (++s->units > 2)
        s->shingle[s->n++] = s->before[0] * 0xD6E8FEB86659FD93u + s->before[1] * 0xC2B2AE3D27D4EB4Fu + unit;
    s->before[0] = s->before[1];
    s->before[1] = unit;
}

static inline void end_word(struct shingler *s)
{
    if (s->word) add_unit(s, mix(s->word));
    s->word = 0;
}

static inline void add_to_word(struct shingler *s, uint32_t character)
{
    s->word = ((s->word ? s->word : 0x8445D61A4E774912u) ^ character) * 0x100000001B3u;
}

/* Letters of scripts without spaces between words: from Thai to Myanmar, Khmer, and from CJK on. */
static inline bool is_unit_alone(uint32_t character)
{
    return (character >= 0x0E00 && character < 0x10A0) || (character >= 0x1780 && character < 0x1800) ||
           character >= 0x2E80;
}

static inline void add_character(struct shingler *s, uint32_t character)
{
    if (character >= 0x4E00 && character <= 0x9FFF) {
        end_word(s);
        add_unit(s, character * spread);
        return;
    }
    if (character >= 0xFF01 && character <= 0xFF5E) character -= 0xFEE0; /* full-width forms */
    if (character < 0x80) {
        if (character >= 'A' && character <= 'Z') character += 32;
        if (unicode_ascii_class[character] == UNICODE_LETTER ||
            unicode_ascii_class[character] == UNICODE_NUMBER)
            add_to_word(s, character);
        else
            end_word(s);
        return;
    }
    bool counts = unicode_is_word(character) || unicode_class(character) == UNICODE_NUMBER;
    if (counts && !is_unit_alone(character)) {
        add_to_word(s, character);
        return;
    }
    end_word(s);
    if (counts) add_unit(s, character * spread);
}

static void add_text(struct shingler *s, const char *text, size_t length)
{
    uint32_t character;
    size_t step;
    for (size_t i = 0; i < length; i += step) {
        unsigned char byte = (unsigned char)text[i];
        if (byte < 0x80) {
            step = 1;
            character = byte;
        } else if (byte >= 0xE4 && byte <= 0xE9 && i + 2 < length) { /* the common CJK block, mostly */
            step = 3;
            character = (byte & 0x0Fu) << 12 | (text[i + 1] & 0x3Fu) << 6 | (text[i + 2] & 0x3Fu);
        } else if ((step = utf8_read(&character, text + i, length - i)) == 0) {
            step = 1;
            character = 0xFFFD;
        }
        add_character(s, character);
    }
    end_word(s);
}

/* ---- the sketch ---- */

static inline void keep_least(uint32_t *least, uint32_t round, uint32_t lane, uint32_t hash)
{
    uint32_t value = round << VALUE_BITS | (hash & ((1u << VALUE_BITS) - 1)), old = least[lane];
    least[lane] = value < old ? value : old;
}

static void sketch(uint32_t least[SIGNATURE_LANES], const uint64_t *shingle, size_t n)
{
    memset(least, 0xFF, SIGNATURE_LANES * sizeof *least);
    for (uint32_t round = 0; round < ROUNDS; round += 2) {
        uint64_t salt = (round + 1) * spread;
        bool chosen = round < SIGNATURE_LANES; /* by the hash; in the second half each lane has its round */
        for (size_t i = 0; i < n; i++) {
            uint64_t h = mix(shingle[i] ^ salt);
            uint32_t a = (uint32_t)(h >> 32), b = (uint32_t)h;
            keep_least(least, round, chosen ? a >> 25 : round - SIGNATURE_LANES, a);
            keep_least(least, round + 1, chosen ? b >> 25 : round + 1 - SIGNATURE_LANES, b);
        }
        bool full = true;
        for (int lane = 0; lane < SIGNATURE_LANES; lane++) full &= least[lane] != UINT32_MAX;
        if (full) return;
    }
}

static void pack(struct row_signature *out, const uint32_t least[SIGNATURE_LANES])
{
    for (int band = 0; band < SIGNATURE_BANDS; band++) {
        out->band[band] = 0;
        for (int i = 0; i < 8; i++) out->band[band] |= (uint64_t)(least[band * 8 + i] & 0xFF) << (8 * i);
    }
}

/* ---- the text ---- */

/* Bytes with which a white space character may begin: ASCII's, U+0085, U+00A0, U+1680, U+2000 ..., U+3000. */
static inline bool may_be_space(char c)
{
    unsigned char byte = (unsigned char)c;
    return byte <= ' ' || byte == 0xC2 || (byte >= 0xE1 && byte <= 0xE3);
}

/* Length of the white space at `text`; 0: none. */
static size_t space_length(const char *text, size_t n)
{
    uint32_t character;
    unsigned char byte = (unsigned char)*text;
    if (byte < 0x80) return unicode_ascii_class[byte] == UNICODE_SPACE;
    size_t length = utf8_read(&character, text, n);
    return length > 0 && unicode_class(character) == UNICODE_SPACE ? length : 0;
}

/* Appends the text with each run of white space as one space, none at its ends. Returns the new end. */
static char *add_normalised(char *to, const char *text, size_t length)
{
    char *start = to;
    bool pending = false;
    for (size_t i = 0, end; i < length; i = end) {
        size_t space = may_be_space(text[i]) ? space_length(text + i, length - i) : 0;
        end = i + space;
        pending = pending || space > 0;
        if (space > 0) continue;
        for (end = i + 1; end < length && !may_be_space(text[end]);) end++;
        if (pending && to > start) *to++ = ' ';
        pending = false;
        memcpy(to, text + i, end - i);
        to += end - i;
    }
    return to;
}

static uint64_t text_hash(char *buffer, const struct message *messages, size_t n)
{
    char *to = buffer;
    for (size_t i = 0; i < n; i++) {
        *to++ = (char)(1 + messages[i].role);
        to = add_normalised(to, messages[i].content, messages[i].length);
        *to++ = '\0';
    }
    uint64_t hash = hash64(buffer, (size_t)(to - buffer));
    return hash ? hash : 1;
}

enum status row_signature_make(struct row_signature *out, struct signature_maker *maker,
                               const struct message *messages, size_t n)
{
    uint32_t least[SIGNATURE_LANES];
    size_t bytes = 1;
    for (size_t i = 0; i < n; i++) bytes += messages[i].length + 2;
    void *shingle = maker->shingle, *text = maker->text;
    enum status status = memory_grow(&shingle, &maker->capacity, bytes, sizeof *maker->shingle);
    maker->shingle = shingle;
    if (status == LORAD_OK) status = memory_grow(&text, &maker->text_capacity, bytes, 1);
    maker->text = text;
    if (status != LORAD_OK) return status;

    out->text_hash = text_hash(maker->text, messages, n);
    struct shingler s = {.shingle = maker->shingle};
    for (size_t i = 0; i < n; i++)
        if (messages[i].role != ROLE_SYSTEM) add_text(&s, messages[i].content, messages[i].length);
    if (s.n == 0) /* fewer than three units: these; none at all: like nothing but itself */
        s.shingle[s.n++] =
            s.units > 0 ? mix(s.before[0] * 0x9E3779B97F4A7C15u + mix(s.before[1])) : out->text_hash;
    sketch(least, s.shingle, s.n);
    pack(out, least);
    return LORAD_OK;
}

double row_signature_similarity(const struct row_signature *a, const struct row_signature *b)
{
    int32_t equal = 0;
    for (int band = 0; band < SIGNATURE_BANDS; band++) {
        uint64_t differ = a->band[band] ^ b->band[band];
        /* The top bit of each byte says whether any bit of it differs. */
        differ |= (differ & 0x7F7F7F7F7F7F7F7Fu) + 0x7F7F7F7F7F7F7F7Fu;
        equal += 8 - __builtin_popcountll(differ & 0x8080808080808080u);
    }
    double chance = 1.0 / 256, share = (double)equal / SIGNATURE_LANES;
    return share > chance ? (share - chance) / (1 - chance) : 0;
}
