/*
 * normalize.c: rewriting text before it is cut into words, with the way back to the input; and character
 * classes.
 *
 * Invariants
 *  1. The results are those of Hugging Face tokenizers 0.22, whose parts follow different versions of
 *     Unicode: its regex library knows Unicode 16, its normal forms an older one, its lower case Unicode 17.
 *     utf8proc knows another. The tables below hold the differences; the tests compare every character.
 *  2. A byte of the result says which range of the input it came from. The Unicode forms work on stretches
 *     between characters that can never combine with what precedes them; all bytes of a changed stretch come
 *     from the whole stretch.
 */
#include "dataloader/normalize.h"

#include <utf8proc.h>

#include "base/utf8.h"
#include "dataloader/regex_syntax.h"
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

/* Marks and digits that Unicode 15.1 and 16 added: parts of words. */
static const struct range new_in_words[] = {
    {0x00897, 0x00897}, {0x10D40, 0x10D49}, {0x10D69, 0x10D6D}, {0x10EFC, 0x10EFC}, {0x113B8, 0x113C0},
    {0x113C2, 0x113C2}, {0x113C5, 0x113C5}, {0x113C7, 0x113CA}, {0x113CC, 0x113D0}, {0x113D2, 0x113D2},
    {0x113E1, 0x113E2}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x11F5A, 0x11F5A}, {0x1611E, 0x16139},
    {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E5EE, 0x1E5EF}, {0x1E5F1, 0x1E5FA},
};

/* Combining characters younger than the NFC of Hugging Face tokenizers, which leaves them where they stand.
 */
static const struct range inert_marks[] = {
    {0x007FD, 0x007FD}, {0x00898, 0x0089F}, {0x008CA, 0x008D3}, {0x009FE, 0x009FE}, {0x00C3C, 0x00C3C},
    {0x00D3B, 0x00D3C}, {0x00EBA, 0x00EBA}, {0x01715, 0x01715}, {0x01ABF, 0x01ACE}, {0x01DF6, 0x01DFA},
    {0x0A82C, 0x0A82C}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
    {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
};

/* Characters whose decomposition is younger than that: only where the form decomposes; only in the compatible
 * forms. */
static const struct range inert_decomposed[] = {{0x11938, 0x11938}};
static const struct range inert_compatible[] = {
    {0x032FF, 0x032FF}, {0x0A7F2, 0x0A7F4}, {0x0AB69, 0x0AB69}, {0x10781, 0x10785}, {0x10787, 0x107B0},
    {0x107B2, 0x107BA}, {0x1E030, 0x1E06D}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9},
};

/* Lower case that Unicode 16 and 17 added: [first, last] has it `distance` away, every `step`-th character.
 */
static const struct {
    uint32_t first, last, step;
    int32_t distance;
} new_lower[] = {
    {0x1C89, 0x1C89, 1, 1},      {0xA7CB, 0xA7CB, 1, -0xA567}, {0xA7CC, 0xA7CE, 2, 1},
    {0xA7D2, 0xA7D4, 2, 1},      {0xA7DA, 0xA7DA, 1, 1},       {0xA7DC, 0xA7DC, 1, -0xA641},
    {0x10D50, 0x10D65, 1, 0x20}, {0x16EA0, 0x16EB8, 1, 0x1B},
};

/* Punctuation for Hugging Face's Punctuation, which knows Unicode 9, where utf8proc says otherwise. */
static const struct range old_punctuation[] = {{0x166D, 0x166D}, {0x111C9, 0x111C9}};
static const struct range new_punctuation[] = {
    {0x0061D, 0x0061D}, {0x009FD, 0x009FD}, {0x00A76, 0x00A76}, {0x00C77, 0x00C77}, {0x00C84, 0x00C84},
    {0x01B7D, 0x01B7E}, {0x02E43, 0x02E4F}, {0x02E52, 0x02E5D}, {0x10EAD, 0x10EAD}, {0x10F55, 0x10F59},
    {0x10F86, 0x10F89}, {0x1144B, 0x1144F}, {0x1145A, 0x1145B}, {0x1145D, 0x1145D}, {0x11660, 0x1166C},
    {0x116B9, 0x116B9}, {0x1183B, 0x1183B}, {0x11944, 0x11946}, {0x119E2, 0x119E2}, {0x11A3F, 0x11A46},
    {0x11A9A, 0x11A9C}, {0x11A9E, 0x11AA2}, {0x11B00, 0x11B09}, {0x11C41, 0x11C45}, {0x11C70, 0x11C71},
    {0x11EF7, 0x11EF8}, {0x11F43, 0x11F4F}, {0x11FFF, 0x11FFF}, {0x12FF1, 0x12FF2}, {0x16E97, 0x16E9A},
    {0x16FE2, 0x16FE2}, {0x1E95E, 0x1E95F},
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
               IN(character, enclosed_letters) || IN(character, new_in_words);
    }
}

bool unicode_is_punctuation(uint32_t character)
{
    if (character < 0x80)
        return character > ' ' && character < 0x7F && unicode_ascii_class[character] == UNICODE_OTHER;
    switch (utf8proc_category((utf8proc_int32_t)character)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
        return !IN(character, new_punctuation);
    default:
        return IN(character, old_punctuation);
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
    *step = (struct normalize_step){.kind = kind,
                                    .pattern = pattern_copy,
                                    .content = content_copy,
                                    .pattern_length = strlen(pattern),
                                    .content_length = strlen(content)};
    normalizer->n_steps++;
    return LORAD_OK;
}

static enum status read_replace(struct normalizer *out, const struct json *value, const char *where)
{
    const struct json *pattern;
    const char *content;
    TRY(js_need(&pattern, value, "pattern", JS_OBJECT, where));
    TRY(js_need_string(&content, value, "content", where));
    const char *text = js_string(js_get(pattern, "String"), NULL),
               *regex = js_string(js_get(pattern, "Regex"), NULL);
    if (text && *text) return normalizer_add(out, NORMALIZE_REPLACE, text, content);
    if (!regex || !*regex)
        return FAIL(LORAD_DATA, "%s: normalizer Replace without a pattern is not supported", where);
    struct strbuf perl = STRBUF_EMPTY;
    enum status status = regex_translate(&perl, regex, where);
    struct pattern *compiled = NULL;
    if (status == LORAD_OK) status = pattern_create_finder(&compiled, strbuf_text(&perl));
    strbuf_free(&perl);
    if (status == LORAD_OK) status = normalizer_add(out, NORMALIZE_REPLACE_PATTERN, regex, content);
    if (status == LORAD_OK)
        out->step[out->n_steps - 1].compiled = compiled;
    else
        pattern_destroy(compiled);
    return status;
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
    static const struct {
        const char *name;
        enum normalize_kind kind;
    } simple[] = {{"NFC", NORMALIZE_NFC},   {"NFD", NORMALIZE_NFD},     {"NFKC", NORMALIZE_NFKC},
                  {"NFKD", NORMALIZE_NFKD}, {"Strip", NORMALIZE_STRIP}, {"Lowercase", NORMALIZE_LOWERCASE}};
    const char *type, *content;
    TRY(js_need_string(&type, value, "type", where));
    for (size_t i = 0; i < sizeof simple / sizeof *simple; i++) {
        if (strcmp(type, simple[i].name)) continue;
        TRY(normalizer_add(out, simple[i].kind, "", ""));
        out->step[out->n_steps - 1].left = js_bool(js_get(value, "strip_left"), true);
        out->step[out->n_steps - 1].right = js_bool(js_get(value, "strip_right"), true);
        return LORAD_OK;
    }
    if (strcmp(type, "Replace") == 0) return read_replace(out, value, where);
    if (strcmp(type, "Prepend") == 0) {
        TRY(js_need_string(&content, value, "prepend", where));
        return normalizer_add(out, NORMALIZE_PREPEND, "", content);
    }
    if (strcmp(type, "Precompiled") == 0) return read_charsmap(out, value, where);
    return FAIL(LORAD_DATA,
                "%s: normalizer \"%s\" is not supported (supported: NFC, NFD, NFKC, NFKD, Lowercase, Strip, "
                "Prepend, Replace, Precompiled, Sequence)",
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
        pattern_destroy(normalizer->step[i].compiled);
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

enum status textbuf_replace_in(struct textbuf *out, const struct textbuf *in, size_t begin, size_t end,
                               const char *pattern, size_t pattern_length, const char *content,
                               size_t content_length)
{
    size_t kept = begin; /* start of the part not yet copied */
    while (kept < end) {
        const char *found = memmem(in->data + kept, end - kept, pattern, pattern_length);
        if (!found) break;
        size_t at = (size_t)(found - in->data);
        TRY(textbuf_append(out, in, kept, at));
        uint32_t from = in->want_map ? in->from[at] : 0,
                 to = in->want_map ? in->to[at + pattern_length - 1] : 0;
        TRY(textbuf_add(out, content, content_length, from, to, 0));
        kept = at + pattern_length;
    }
    return textbuf_append(out, in, kept, end);
}

static enum status replace_pattern(const struct normalize_step *step, struct pattern_memory *memory,
                                   struct textbuf *out, const struct textbuf *in)
{
    size_t kept = 0, last = SIZE_MAX;
    for (size_t at = 0; at <= in->length;) {
        size_t begin = SIZE_MAX, end = 0;
        TRY(pattern_find(step->compiled, memory, in->data, in->length, at, &begin, &end));
        if (begin == SIZE_MAX) break;
        at = end > begin ? end : end < in->length ? end + utf8_length(in->data[end]) : in->length + 1;
        if (begin == end && begin == last) continue;
        last = end;
        TRY(textbuf_append(out, in, kept, begin));
        uint32_t from = 0, to = 0;
        if (in->want_map) {
            from = begin < in->length ? in->from[begin] : in->to[in->length - 1];
            to = end > begin ? in->to[end - 1] : from;
        }
        TRY(textbuf_add(out, step->content, step->content_length, from, to, 0));
        kept = end;
    }
    return textbuf_append(out, in, kept, in->length);
}

/* ---- the Unicode forms ---- */

struct form {
    int options; /* utf8proc's */
    bool composes, compatible;
};

static struct form form_of(enum normalize_kind kind)
{
    bool composes = kind == NORMALIZE_NFC || kind == NORMALIZE_NFKC;
    bool compatible = kind == NORMALIZE_NFKC || kind == NORMALIZE_NFKD;
    int options = UTF8PROC_STABLE | (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
    return (struct form){options | (compatible ? UTF8PROC_COMPAT : 0), composes, compatible};
}

/* Whether the form never joins the character with what precedes it, nor moves it. False may be said of any.
 */
static inline bool starts_stretch(struct form form, uint32_t character)
{
    if (character < 0x300 || (character >= 0x4E00 && character < 0xA000) ||
        (character >= 0x3041 && character < 0x3097))
        return true;
    if (form.compatible) return false;
    return (character >= 0x2000 && character < 0x20D0) || (character >= 0x3000 && character < 0x302A) ||
           (character >= 0x30A0 && character < 0xA000) || (character >= 0xAC00 && character < 0xD7A4) ||
           (character >= 0xFF00 && character < 0xFFF0);
}

/* Whether the form leaves the character alone when it is a stretch of its own. */
static inline bool is_plain(struct form form, uint32_t character)
{
    if (character < 0xA0 || (character >= 0x4E00 && character < 0xA000)) return true;
    if (!form.composes || form.compatible) return false;
    return character < 0x300 || (character >= 0x3001 && character < 0x302A) ||
           (character >= 0x3041 && character < 0x3097) || (character >= 0x30A0 && character < 0xA000) ||
           (character >= 0xAC00 && character < 0xD7A4) || (character >= 0xFF00 && character < 0xFFF0);
}

/* Whether Hugging Face's forms do not know the character: it stays where it is. */
static bool is_inert(struct form form, uint32_t character)
{
    return character >= 0x300 &&
           (IN(character, inert_marks) || (!form.composes && IN(character, inert_decomposed)) ||
            (form.compatible && IN(character, inert_compatible)));
}

static bool is_inside(const char *bytes, size_t length, size_t at)
{
    return at < length && ((unsigned char)bytes[at] & 0xC0) == 0x80;
}

/* Appends the new text of a stretch. The characters that both texts begin and end with keep their places, so
 * that only what has changed comes from the whole of the rest. */
static enum status add_mapped(struct textbuf *out, const struct textbuf *in, size_t begin, size_t end,
                              const char *mapped, size_t length)
{
    const char *old = in->data + begin;
    size_t n = end - begin, least = n < length ? n : length, head = 0, tail = 0;
    while (head < least && old[head] == mapped[head]) head++;
    while (head > 0 && (is_inside(old, n, head) || is_inside(mapped, length, head))) head--;
    while (tail < least - head && old[n - tail - 1] == mapped[length - tail - 1]) tail++;
    while (tail > 0 && (is_inside(old, n, n - tail) || is_inside(mapped, length, length - tail))) tail--;
    if (head + tail == n) head = tail = 0;
    TRY(textbuf_append(out, in, begin, begin + head));
    TRY(textbuf_add(out, mapped + head, length - head - tail, in->want_map ? in->from[begin + head] : 0,
                    in->want_map ? in->to[end - tail - 1] : 0, 0));
    return textbuf_append(out, in, end - tail, end);
}

static enum status map_stretch(struct form form, struct textbuf *out, const struct textbuf *in, size_t begin,
                               size_t end)
{
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)in->data + begin, (utf8proc_ssize_t)(end - begin), &mapped,
                     (utf8proc_option_t)form.options);
    if (length < 0) return FAIL(LORAD_NOMEM, "Unicode normal form: %s", utf8proc_errmsg(length));
    enum status status;
    if ((size_t)length == end - begin && memcmp(mapped, in->data + begin, end - begin) == 0)
        status = textbuf_append(out, in, begin, end);
    else
        status = add_mapped(out, in, begin, end, (const char *)mapped, (size_t)length);
    free(mapped);
    return status;
}

static enum status run_form(struct form form, struct textbuf *out, const struct textbuf *in)
{
    size_t verbatim = 0; /* start of what is to be copied as it stands, up to `stretch` */
    size_t stretch = 0;  /* start of the current stretch */
    size_t characters = 0;
    bool calm = false, was_inert = false; /* of the last character read */
    for (size_t i = 0;;) {
        uint32_t character = 0;
        size_t length = i < in->length ? utf8_read(&character, in->data + i, in->length - i) : 0;
        bool inert = length && is_inert(form, character);
        if (!length || was_inert || inert || starts_stretch(form, character)) {
            if (characters > 1 || (characters == 1 && !calm)) {
                TRY(textbuf_append(out, in, verbatim, stretch));
                TRY(map_stretch(form, out, in, stretch, i));
                verbatim = i;
            }
            stretch = i;
            characters = 0;
        }
        if (!length) return textbuf_append(out, in, verbatim, in->length);
        calm = inert || is_plain(form, character);
        was_inert = inert;
        characters++;
        i += length;
    }
}

/* ---- other steps ---- */

static uint32_t lower(uint32_t character)
{
    if (character < 0x80) return character >= 'A' && character <= 'Z' ? character + 32 : character;
    for (size_t i = 0; i < sizeof new_lower / sizeof *new_lower; i++)
        if (character >= new_lower[i].first && character <= new_lower[i].last &&
            (character - new_lower[i].first) % new_lower[i].step == 0)
            return (uint32_t)((int32_t)character + new_lower[i].distance);
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)character);
}

static enum status lower_text(struct textbuf *out, const struct textbuf *in)
{
    size_t kept = 0;
    for (size_t i = 0, length; i < in->length; i += length) {
        uint32_t character = 0;
        length = utf8_read(&character, in->data + i, in->length - i);
        uint32_t small = lower(character);
        if (small == character && character != 0x130) continue;
        char text[8];
        size_t n = (size_t)utf8proc_encode_char((utf8proc_int32_t)small, (utf8proc_uint8_t *)text);
        if (character == 0x130) n += (size_t)utf8proc_encode_char(0x307, (utf8proc_uint8_t *)text + n);
        TRY(textbuf_append(out, in, kept, i));
        TRY(textbuf_add(out, text, n, in->want_map ? in->from[i] : 0,
                        in->want_map ? in->to[i + length - 1] : 0, 0));
        kept = i + length;
    }
    return textbuf_append(out, in, kept, in->length);
}

static enum status strip(const struct normalize_step *step, struct textbuf *out, const struct textbuf *in)
{
    size_t begin = step->left ? skip_spaces(in->data, 0, in->length) : 0, end = in->length;
    if (step->right) end = skip_spaces_back(in->data, end);
    return end > begin ? textbuf_append(out, in, begin, end) : LORAD_OK;
}

static enum status run_pattern(const struct normalize_step *step, struct textbuf *out,
                               const struct textbuf *in)
{
    struct pattern_memory *memory;
    TRY(pattern_memory_create(&memory));
    enum status status = replace_pattern(step, memory, out, in);
    pattern_memory_destroy(memory);
    return status;
}

static enum status run_step(const struct normalize_step *step, struct textbuf *out, const struct textbuf *in)
{
    uint32_t start = in->want_map ? in->from[0] : 0;
    switch (step->kind) {
    case NORMALIZE_PREPEND:
        TRY(textbuf_add(out, step->content, step->content_length, start, start, 0));
        return textbuf_append(out, in, 0, in->length);
    case NORMALIZE_REPLACE:
        return textbuf_replace_in(out, in, 0, in->length, step->pattern, step->pattern_length, step->content,
                                  step->content_length);
    case NORMALIZE_REPLACE_PATTERN:
        return run_pattern(step, out, in);
    case NORMALIZE_LOWERCASE:
        return lower_text(out, in);
    case NORMALIZE_STRIP:
        return strip(step, out, in);
    case NORMALIZE_CHARSMAP:
        return charsmap_run(step->charsmap, out, in);
    default:
        return run_form(form_of(step->kind), out, in);
    }
}

enum status normalizer_run(const struct normalizer *normalizer, struct textbuf buffer[2], int *current)
{
    for (int i = 0; i < normalizer->n_steps; i++) {
        struct textbuf *in = &buffer[*current], *out = &buffer[1 - *current];
        if (in->length == 0) return LORAD_OK;
        out->length = 0;
        out->want_map = in->want_map;
        TRY(run_step(&normalizer->step[i], out, in));
        *current = 1 - *current;
    }
    return LORAD_OK;
}

/* By first bytes: all characters of three bytes that begin so are plain for NFC and start a stretch. */
static inline bool is_calm_block(unsigned char first)
{
    return first >= 0xE4 && first <= 0xE9;
}

bool normalizer_leaves(const struct normalizer *normalizer, const char *text, size_t length)
{
    for (int i = 0; i < normalizer->n_steps; i++)
        if (normalizer->step[i].kind != NORMALIZE_NFC) return false;
    if (!normalizer->n_steps) return true;
    const struct form form = form_of(NORMALIZE_NFC);
    for (size_t i = 0; i < length;) {
        unsigned char first = (unsigned char)text[i];
        if (first < 0x80) {
            i++;
        } else if (is_calm_block(first)) {
            i += 3;
        } else {
            uint32_t character = 0;
            i += utf8_read(&character, text + i, length - i);
            if (!is_plain(form, character) || !starts_stretch(form, character)) return false;
        }
    }
    return true;
}
