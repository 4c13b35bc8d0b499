/*
 * normalize.c: rewriting text before it is cut into words, with the way back to the input; and character
 * classes.
 *
 * Invariants
 *  1. The results are those of Hugging Face tokenizers 0.22, whose parts follow different versions of
 * Unicode: its regex library knows Unicode 16, its NFC an older one. utf8proc knows another. The three tables
 * below hold the differences; the tests compare every character.
 *  2. A byte of the result says which range of the input it came from. NFC works on stretches between
 * characters that can never combine with what precedes them; all bytes of a changed stretch come from the
 * whole stretch.
 */
#include "dataloader/normalize.h"

#include <utf8proc.h>

#include "base/utf8.h"
#include "dataloader/added_tokens.h"
#include "dataloader/unicode.h"

struct range {
    uint32_t first, last;
};

#define S UNICODE_SPACE
#define N UNICODE_NUMBER
#define L UNICODE_LETTER
const uint8_t unicode_ascii_class[128] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, S, S, S, S, S, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, //
    S, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, N, N, N, N, N, N, N, N, N, N, 0, 0, 0, 0, 0, 0, //
    0, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, 0, 0, 0, 0, 0, //
    0, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, 0, 0, 0, 0, 0, //
};
#undef S
#undef N
#undef L

/* Letters and numbers that Unicode 15.1 and 16 added (DerivedGeneralCategory.txt): unknown to utf8proc 2.8.
 */
static const struct range new_letters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3}, {0x10D4A, 0x10D65},
    {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E},
    {0x11390, 0x113B5}, {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0},
    {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
    {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D},
};
static const struct range new_numbers[] = {
    {0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139},
    {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E5F1, 0x1E5FA},
};

/* Combining characters younger than the NFC of Hugging Face tokenizers, which leaves them where they stand.
 */
static const struct range inert_marks[] = {
    {0x07FD, 0x07FD},   {0x0899, 0x089B},   {0x08CF, 0x08D3},   {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},
    {0x0EBA, 0x0EBA},   {0x1715, 0x1715},   {0x1ABF, 0x1AC0},   {0x1AC3, 0x1AC4},   {0x1ACA, 0x1ACA},
    {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10EFD, 0x10EFF}, {0x10F46, 0x10F47}, {0x10F4B, 0x10F4B},
    {0x10F4D, 0x10F50}, {0x10F83, 0x10F83}, {0x10F85, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E4EC, 0x1E4EE},
};

static bool in_ranges(uint32_t character, const struct range *ranges, size_t n)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (character > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && character >= ranges[low].first;
}
#define IN(character, ranges) in_ranges(character, ranges, sizeof ranges / sizeof ranges[0])

enum unicode_class unicode_class_rare(uint32_t character)
{
    switch (utf8proc_category((utf8proc_int32_t)character)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return UNICODE_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return UNICODE_NUMBER;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return UNICODE_SPACE;
    case UTF8PROC_CATEGORY_CC:
        return character == 0x85 ? UNICODE_SPACE : UNICODE_OTHER;
    case UTF8PROC_CATEGORY_CN:
        if (IN(character, new_letters)) return UNICODE_LETTER;
        if (IN(character, new_numbers)) return UNICODE_NUMBER;
        return UNICODE_OTHER;
    default:
        return UNICODE_OTHER;
    }
}

/* Alphabetic, M, Nd, Pc and Join_Control (Unicode Technical Standard 18, annex C). Alphabetic beyond L, Nl
 * and marks is the circled and squared letters. */
bool unicode_is_word(uint32_t character)
{
    static const struct range enclosed_letters[] = {
        {0x24B6, 0x24E9}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};
    switch (utf8proc_category((utf8proc_int32_t)character)) {
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return true;
    default:
        return unicode_class(character) == UNICODE_LETTER || character == 0x200C || character == 0x200D ||
               IN(character, enclosed_letters);
    }
}

/* What Unicode 16 says of grapheme clusters and utf8proc 2.8 does not know: characters that extend one,
 * controls and pictographs, the last two mostly reserved. */
static const struct range new_extending[] = {
    {0x0897, 0x0897},   {0x10D69, 0x10D6D}, {0x10EFC, 0x10EFC}, {0x113B8, 0x113C0}, {0x113C2, 0x113C2},
    {0x113C5, 0x113C5}, {0x113C7, 0x113CA}, {0x113CC, 0x113D0}, {0x113D2, 0x113D2}, {0x113E1, 0x113E2},
    {0x11F5A, 0x11F5A}, {0x1611E, 0x1612F}, {0x1E5EE, 0x1E5EF},
};
static const struct range reserved_controls[] = {{0x2065, 0x2065}, {0xFFF0, 0xFFF8}};
static const struct range reserved_pictographs[] = {
    {0x1F02C, 0x1F02F}, {0x1F094, 0x1F09F}, {0x1F0AF, 0x1F0B0}, {0x1F0C0, 0x1F0C0}, {0x1F0D0, 0x1F0D0},
    {0x1F0F6, 0x1F0FF}, {0x1F1AE, 0x1F1E5}, {0x1F203, 0x1F20F}, {0x1F23C, 0x1F23F}, {0x1F249, 0x1F24F},
    {0x1F252, 0x1F25F}, {0x1F266, 0x1F2FF}, {0x1F6D8, 0x1F6DB}, {0x1F6ED, 0x1F6EF}, {0x1F6FD, 0x1F6FF},
    {0x1F777, 0x1F77A}, {0x1F7DA, 0x1F7DF}, {0x1F7EC, 0x1F7EF}, {0x1F7F1, 0x1F7FF}, {0x1F80C, 0x1F80F},
    {0x1F848, 0x1F84F}, {0x1F85A, 0x1F85F}, {0x1F888, 0x1F88F}, {0x1F8AE, 0x1F8AF}, {0x1F8B2, 0x1F8FF},
    {0x1FA54, 0x1FA5F}, {0x1FA6E, 0x1FA6F}, {0x1FA7D, 0x1FA7F}, {0x1FA89, 0x1FA8F}, {0x1FABE, 0x1FABE},
    {0x1FAC6, 0x1FACD}, {0x1FADC, 0x1FADF}, {0x1FAE9, 0x1FAEF}, {0x1FAF9, 0x1FAFF}, {0x1FC00, 0x1FFFD},
};

/* A character that utf8proc knows and that behaves alike. */
static utf8proc_int32_t known_character(uint32_t character)
{
    if (IN(character, new_extending)) return 0x300;
    if (IN(character, reserved_controls)) return 0x200B;
    if (IN(character, reserved_pictographs)) return 0x1F600;
    return (utf8proc_int32_t)character;
}

bool unicode_ends_cluster(uint32_t before, uint32_t after, int32_t *state)
{
    return utf8proc_grapheme_break_stateful(known_character(before), known_character(after), state);
}

/* ---- reading ---- */

enum status normalizer_add(struct normalizer *normalizer, enum normalize_kind kind, const char *pattern,
                           const char *content)
{
    if (normalizer->n_steps == NORMALIZE_STEPS)
        return FAIL(LORAD_DATA, "normalizer: more than %d steps", NORMALIZE_STEPS);
    struct normalize_step *step = &normalizer->step[normalizer->n_steps];
    char *pattern_copy = memory_string(pattern), *content_copy = memory_string(content);
    if (!pattern_copy || !content_copy) {
        free(pattern_copy);
        free(content_copy);
        return LORAD_NOMEM;
    }
    *step = (struct normalize_step){kind, pattern_copy, content_copy, strlen(pattern), strlen(content), NULL};
    normalizer->n_steps++;
    return LORAD_OK;
}

static enum status read_charsmap(struct normalizer *out, const struct json *value, const char *where)
{
    size_t length;
    const char *text = js_string(js_get(value, "precompiled_charsmap"), &length);
    if (!text) return FAIL(LORAD_DATA, "%s: normalizer Precompiled has no precompiled_charsmap", where);
    struct charsmap *map;
    TRY(charsmap_create_base64(&map, text, length, where));
    enum status status = normalizer_add(out, NORMALIZE_CHARSMAP, "", "");
    if (status == LORAD_OK)
        out->step[out->n_steps - 1].charsmap = map;
    else
        charsmap_destroy(map);
    return status;
}

static enum status read_step(struct normalizer *out, const struct json *value, const char *where)
{
    const char *type, *content;
    TRY(js_need_string(&type, value, "type", where));
    if (strcmp(type, "NFC") == 0) return normalizer_add(out, NORMALIZE_NFC, "", "");
    if (strcmp(type, "Prepend") == 0) {
        TRY(js_need_string(&content, value, "prepend", where));
        return normalizer_add(out, NORMALIZE_PREPEND, "", content);
    }
    if (strcmp(type, "Precompiled") == 0) return read_charsmap(out, value, where);
    if (strcmp(type, "Strip") == 0) {
        bool left = js_bool(js_get(value, "strip_left"), false),
             right = js_bool(js_get(value, "strip_right"), false);
        return normalizer_add(out, NORMALIZE_STRIP, left ? right ? "lr" : "l" : right ? "r" : "", "");
    }
    if (strcmp(type, "Replace") == 0) {
        const struct json *pattern;
        TRY(js_need(&pattern, value, "pattern", JS_OBJECT, where));
        TRY(js_need_string(&content, value, "content", where));
        const char *text = js_string(js_get(pattern, "String"), NULL);
        const char *regex = js_string(js_get(pattern, "Regex"), NULL);
        if (regex && strcmp(regex, " {2,}") == 0)
            return normalizer_add(out, NORMALIZE_REPLACE_SPACES, "", content);
        if (!text || !*text)
            return FAIL(LORAD_DATA, "%s: normalizer Replace with a regular expression is not supported",
                        where);
        return normalizer_add(out, NORMALIZE_REPLACE, text, content);
    }
    return FAIL(LORAD_DATA,
                "%s: normalizer \"%s\" is not supported (supported: NFC, Prepend, Replace, Strip, "
                "Precompiled, Sequence)",
                where, type);
}

enum status normalizer_read(struct normalizer *out, const struct json *value, const char *where)
{
    if (!value || js_type(value) == JS_NULL) return LORAD_OK;
    const char *type;
    TRY(js_need_string(&type, value, "type", where));
    if (strcmp(type, "Sequence") != 0) return read_step(out, value, where);
    const struct json *list;
    TRY(js_need(&list, value, "normalizers", JS_ARRAY, where));
    for (size_t i = 0; i < js_length(list); i++) TRY(read_step(out, js_at(list, i), where));
    return LORAD_OK;
}

void normalizer_free(struct normalizer *normalizer)
{
    for (int i = 0; i < normalizer->n_steps; i++) {
        free(normalizer->step[i].pattern);
        free(normalizer->step[i].content);
        charsmap_destroy(normalizer->step[i].charsmap);
    }
    normalizer->n_steps = 0;
}

/* ---- running ---- */

enum status textbuf_append(struct textbuf *out, const struct textbuf *in, size_t begin, size_t end)
{
    size_t at = out->length;
    TRY(textbuf_add(out, in->data + begin, end - begin, 0, 0, 0));
    if (out->want_map) {
        memcpy(out->from + at, in->from + begin, (end - begin) * sizeof *in->from);
        memcpy(out->to + at, in->to + begin, (end - begin) * sizeof *in->to);
    }
    return LORAD_OK;
}

enum status textbuf_replace(struct textbuf *out, const struct textbuf *in, const char *pattern,
                            size_t pattern_length, const char *content, size_t content_length)
{
    size_t kept = 0; /* start of the part not yet copied */
    while (kept < in->length) {
        const char *found = memmem(in->data + kept, in->length - kept, pattern, pattern_length);
        if (!found) break;
        size_t at = (size_t)(found - in->data);
        TRY(textbuf_append(out, in, kept, at));
        uint32_t from = in->want_map ? in->from[at] : 0,
                 to = in->want_map ? in->to[at + pattern_length - 1] : 0;
        TRY(textbuf_add(out, content, content_length, from, to, 0));
        kept = at + pattern_length;
    }
    return textbuf_append(out, in, kept, in->length);
}

static enum status replace_spaces(struct textbuf *out, const struct textbuf *in,
                                  const struct normalize_step *step)
{
    size_t kept = 0;
    for (size_t i = 0, end; i < in->length; i = end) {
        for (end = i; end < in->length && in->data[end] == ' ';) end++;
        if (end < i + 2) {
            const char *next = memchr(in->data + i + 1, ' ', in->length - i - 1);
            end = next ? (size_t)(next - in->data) : in->length;
            if (in->data[i] == ' ') end = i + 1;
            continue;
        }
        TRY(textbuf_append(out, in, kept, i));
        TRY(textbuf_add(out, step->content, step->content_length, in->want_map ? in->from[i] : 0,
                        in->want_map ? in->to[end - 1] : 0, 0));
        kept = end;
    }
    return textbuf_append(out, in, kept, in->length);
}

static enum status strip(struct textbuf *out, const struct textbuf *in, const struct normalize_step *step)
{
    size_t begin = strchr(step->pattern, 'l') ? skip_spaces(in->data, 0, in->length) : 0;
    size_t end = strchr(step->pattern, 'r') ? skip_spaces_back(in->data, in->length) : in->length;
    return begin < end ? textbuf_append(out, in, begin, end) : LORAD_OK;
}

/* Whether NFC never joins the character with what precedes it, nor moves it. False may be said of any
 * character. */
static bool starts_stretch(uint32_t character)
{
    return character < 0x300 || (character >= 0x2000 && character < 0x20D0) ||
           (character >= 0x3000 && character < 0x302A) || (character >= 0x3041 && character < 0x3097) ||
           (character >= 0x30A0 && character < 0xA000) || (character >= 0xAC00 && character < 0xD7A4) ||
           (character >= 0xFF00 && character < 0xFFF0);
}

/* Whether NFC leaves the character alone when it is a stretch of its own. */
static bool is_plain(uint32_t character)
{
    return character < 0x300 || (character >= 0x3001 && character < 0x302A) ||
           (character >= 0x3041 && character < 0x3097) || (character >= 0x30A0 && character < 0xA000) ||
           (character >= 0xAC00 && character < 0xD7A4) || (character >= 0xFF00 && character < 0xFFF0);
}

static enum status compose_stretch(struct textbuf *out, const struct textbuf *in, size_t begin, size_t end)
{
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)in->data + begin, (utf8proc_ssize_t)(end - begin), &composed,
                     UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (length < 0) return FAIL(LORAD_NOMEM, "NFC: %s", utf8proc_errmsg(length));
    enum status status;
    if ((size_t)length == end - begin && memcmp(composed, in->data + begin, end - begin) == 0)
        status = textbuf_append(out, in, begin, end);
    else
        status = textbuf_add(out, (const char *)composed, (size_t)length, in->want_map ? in->from[begin] : 0,
                             in->want_map ? in->to[end - 1] : 0, 0);
    free(composed);
    return status;
}

static enum status compose(struct textbuf *out, const struct textbuf *in)
{
    size_t verbatim = 0; /* start of what is to be copied as it stands, up to `stretch` */
    size_t stretch = 0;  /* start of the current stretch */
    size_t characters = 0;
    bool calm = false, inert = false; /* of the last character read */
    for (size_t i = 0;;) {
        uint32_t character = 0;
        size_t length = i < in->length ? utf8_read(&character, in->data + i, in->length - i) : 0;
        bool is_inert = length && character >= 0x300 && IN(character, inert_marks);
        if (!length || inert || is_inert || starts_stretch(character)) {
            if (characters > 1 || (characters == 1 && !calm)) {
                TRY(textbuf_append(out, in, verbatim, stretch));
                TRY(compose_stretch(out, in, stretch, i));
                verbatim = i;
            }
            stretch = i;
            characters = 0;
        }
        if (!length) return textbuf_append(out, in, verbatim, in->length);
        calm = is_inert || is_plain(character);
        inert = is_inert;
        characters++;
        i += length;
    }
}

enum status normalizer_run(const struct normalizer *normalizer, struct textbuf buffer[2], int *current)
{
    for (int i = 0; i < normalizer->n_steps; i++) {
        const struct normalize_step *step = &normalizer->step[i];
        struct textbuf *in = &buffer[*current], *out = &buffer[1 - *current];
        if (in->length == 0) return LORAD_OK;
        out->length = 0;
        out->want_map = in->want_map;
        switch (step->kind) {
        case NORMALIZE_PREPEND: {
            uint32_t start = in->want_map ? in->from[0] : 0;
            TRY(textbuf_add(out, step->content, step->content_length, start, start, 0));
            TRY(textbuf_append(out, in, 0, in->length));
            break;
        }
        case NORMALIZE_REPLACE:
            TRY(textbuf_replace(out, in, step->pattern, step->pattern_length, step->content,
                                step->content_length));
            break;
        case NORMALIZE_REPLACE_SPACES:
            TRY(replace_spaces(out, in, step));
            break;
        case NORMALIZE_STRIP:
            TRY(strip(out, in, step));
            break;
        case NORMALIZE_CHARSMAP:
            TRY(charsmap_run(step->charsmap, out, in));
            break;
        case NORMALIZE_NFC:
            TRY(compose(out, in));
            break;
        }
        *current = 1 - *current;
    }
    return LORAD_OK;
}
