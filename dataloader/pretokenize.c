/*
 * pretokenize.c: cutting text into words.
 *
 * Invariants
 *  1. Words of a step cover its input without overlap, in order; a step only makes them finer.
 *  2. The two regular expressions of the byte-level families are followed by hand, alternative by
 * alternative; any other pattern is refused. The character classes are those of unicode.h.
 *  3. Time is linear in the text.
 */
#include "dataloader/pretokenize.h"

#include "base/utf8.h"
#include "dataloader/normalize.h"
#include "dataloader/unicode.h"

#define CL100K_PATTERN(digits)                                                                               \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                     \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const char pretokenizer_qwen2_pattern[] = CL100K_PATTERN("\\p{N}");
static const char llama3_pattern[] = CL100K_PATTERN("\\p{N}{1,3}");
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- reading ---- */

static enum status add_step(struct pretokenizer *out, enum pretokenize_kind kind, size_t max_digits,
                            const char *where)
{
    if (out->n_steps == PRETOKENIZE_STEPS)
        return FAIL(LORAD_DATA, "%s: pre_tokenizer has more than %d steps", where, PRETOKENIZE_STEPS);
    out->step[out->n_steps].kind = kind;
    out->step[out->n_steps++].max_digits = max_digits;
    return LORAD_OK;
}

enum status pretokenizer_add_pattern(struct pretokenizer *out, const char *pattern, const char *where)
{
    if (strcmp(pattern, pretokenizer_qwen2_pattern) == 0) return add_step(out, PRETOKENIZE_CL100K, 1, where);
    if (strcmp(pattern, llama3_pattern) == 0) return add_step(out, PRETOKENIZE_CL100K, 3, where);
    if (strcmp(pattern, gpt2_pattern) == 0) return add_step(out, PRETOKENIZE_GPT2, 0, where);
    return FAIL(
        LORAD_DATA,
        "%s: pre_tokenizer Split with the pattern \"%s\" is not supported (supported: the patterns of GPT-2, "
        "Qwen2 and Llama 3)",
        where, pattern);
}

static enum status read_byte_level(struct pretokenizer *out, const struct json *value, const char *where)
{
    out->byte_level = true;
    out->prefix_space = js_bool(js_get(value, "add_prefix_space"), true);
    if (out->prefix_space && out->n_steps)
        return FAIL(LORAD_DATA,
                    "%s: ByteLevel with add_prefix_space behind another pre_tokenizer is not supported",
                    where);
    if (!js_bool(js_get(value, "use_regex"), true)) return LORAD_OK;
    return add_step(out, PRETOKENIZE_GPT2, 0, where);
}

static enum status read_split(struct pretokenizer *out, const struct json *value, const char *where)
{
    const char *behavior, *text = js_string(js_get(js_get(value, "pattern"), "Regex"), NULL);
    TRY(js_need_string(&behavior, value, "behavior", where));
    bool invert = js_bool(js_get(value, "invert"), false);
    if (!text)
        return FAIL(LORAD_DATA, "%s: pre_tokenizer Split without a \"Regex\" pattern is not supported",
                    where);
    /* The supported patterns match every character, so that these two mean the same. */
    if (!(strcmp(behavior, "Isolated") == 0 && !invert) && !(strcmp(behavior, "Removed") == 0 && invert))
        return FAIL(LORAD_DATA, "%s: pre_tokenizer Split with behavior \"%s\"%s is not supported", where,
                    behavior, invert ? " inverted" : "");
    return pretokenizer_add_pattern(out, text, where);
}

static enum status read_metaspace(struct pretokenizer *out, const struct json *value, const char *where)
{
    if (out->n_steps)
        return FAIL(LORAD_DATA, "%s: Metaspace behind another pre_tokenizer is not supported", where);
    const char *replacement, *scheme = js_string(js_get(value, "prepend_scheme"), NULL);
    TRY(js_need_string(&replacement, value, "replacement", where));
    if (!*replacement || strlen(replacement) != utf8_length(*replacement))
        return FAIL(LORAD_DATA, "%s: Metaspace: replacement must be one character", where);
    strcpy(out->metaspace, replacement);
    if (!scheme) scheme = js_bool(js_get(value, "add_prefix_space"), true) ? "always" : "never";
    if (strcmp(scheme, "always") == 0)
        out->prepend = PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        out->prepend = PREPEND_FIRST;
    else if (strcmp(scheme, "never") == 0)
        out->prepend = PREPEND_NEVER;
    else
        return FAIL(LORAD_DATA, "%s: Metaspace with prepend_scheme \"%s\" is not supported", where, scheme);
    if (!js_bool(js_get(value, "split"), true)) return LORAD_OK;
    return add_step(out, PRETOKENIZE_METASPACE, 0, where);
}

static enum status read_one(struct pretokenizer *out, const struct json *value, const char *where)
{
    const char *type;
    TRY(js_need_string(&type, value, "type", where));
    if (out->byte_level)
        return FAIL(LORAD_DATA, "%s: pre_tokenizer %s behind ByteLevel is not supported", where, type);
    if (strcmp(type, "ByteLevel") == 0) {
        if (out->metaspace[0])
            return FAIL(LORAD_DATA, "%s: ByteLevel together with Metaspace is not supported", where);
        return read_byte_level(out, value, where);
    }
    if (strcmp(type, "Split") == 0) return read_split(out, value, where);
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(out, value, where);
    if (strcmp(type, "Digits") == 0)
        return add_step(out, PRETOKENIZE_DIGITS,
                        js_bool(js_get(value, "individual_digits"), false) ? 1 : SIZE_MAX, where);
    return FAIL(LORAD_DATA,
                "%s: pre_tokenizer \"%s\" is not supported (supported: ByteLevel, Split, Metaspace, Digits, "
                "Sequence)",
                where, type);
}

enum status pretokenizer_read(struct pretokenizer *out, const struct json *value, const char *where)
{
    if (!value || js_type(value) == JS_NULL) return LORAD_OK;
    const char *type;
    TRY(js_need_string(&type, value, "type", where));
    if (strcmp(type, "Sequence") != 0) return read_one(out, value, where);
    const struct json *list;
    TRY(js_need(&list, value, "pretokenizers", JS_ARRAY, where));
    for (size_t i = 0; i < js_length(list); i++) TRY(read_one(out, js_at(list, i), where));
    return LORAD_OK;
}

/* ---- rewriting ---- */

bool pretokenizer_rewrites(const struct pretokenizer *pretokenizer)
{
    return pretokenizer->prefix_space || pretokenizer->metaspace[0];
}

enum status pretokenizer_rewrite(const struct pretokenizer *pretokenizer, struct textbuf *out,
                                 const struct textbuf *in, bool at_start)
{
    if (in->length == 0) return LORAD_OK;
    uint32_t start = in->want_map ? in->from[0] : 0;
    if (pretokenizer->prefix_space) {
        if (in->data[0] != ' ') TRY(textbuf_add(out, " ", 1, start, start, 0));
        return textbuf_append(out, in, 0, in->length);
    }
    const char *mark = pretokenizer->metaspace;
    size_t length = strlen(mark);
    bool marked = in->data[0] == ' ' || (in->length >= length && memcmp(in->data, mark, length) == 0);
    if (!marked &&
        (pretokenizer->prepend == PREPEND_ALWAYS || (pretokenizer->prepend == PREPEND_FIRST && at_start)))
        TRY(textbuf_add(out, mark, length, start, start, 0));
    return textbuf_replace(out, in, " ", 1, mark, length);
}

/* ---- cutting ---- */

static inline enum status add_word(struct word_list *words, size_t begin, size_t end)
{
    if (words->length == words->capacity)
        TRY(memory_grow((void **)&words->range, &words->capacity, words->length + 1, sizeof *words->range));
    words->range[words->length++] = (struct word_range){(uint32_t)begin, (uint32_t)end};
    return LORAD_OK;
}

static inline enum unicode_class class_at(const char *text, size_t i, size_t n, size_t *length)
{
    unsigned char byte = (unsigned char)text[i];
    if (byte < 0x80) {
        *length = 1;
        return (enum unicode_class)unicode_ascii_class[byte];
    }
    if (byte >= 0xE5 && byte <= 0xE9) { /* U+5000..U+9FFF: letters */
        *length = 3;
        return UNICODE_LETTER;
    }
    uint32_t character = 0;
    *length = utf8_read(&character, text + i, n - i);
    return unicode_class(character);
}

/* End of the run of `wanted` that begins at i, at most `most` characters long. */
static inline size_t run_end(const char *text, size_t i, size_t n, enum unicode_class wanted, size_t most)
{
    for (size_t length; i < n && most && class_at(text, i, n, &length) == wanted; i += length) most--;
    return i;
}

/* \s+(?!\S)|\s+ at i, where a run of spaces ends at `end`: the run, but for its last character when a word
 * follows. */
static size_t spaces_end(const char *text, size_t i, size_t end, size_t n)
{
    if (end == n) return end;
    size_t last = end - 1;
    while (last > i && ((unsigned char)text[last] & 0xC0) == 0x80) last--;
    return last > i ? last : end;
}

/* Length of 's 't 'm 'd 're 've 'll behind an apostrophe at text[0], with it; 0: none. any_case: as (?i:...),
 * where the long s (U+017F) is an s too. */
static size_t contraction(const char *text, size_t n, bool any_case)
{
    if (n < 2) return 0;
    int fold = any_case ? 0x20 : 0;
    int a = text[1] | fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (n < 3) return 0;
    if (any_case && text[1] == '\xC5' && text[2] == '\xBF') return 3;
    int b = text[2] | fold;
    return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

static enum status cut_gpt2(const char *text, size_t i, size_t n, struct word_list *out)
{
    while (i < n) {
        size_t begin = i, length = 0;
        size_t short_word = text[i] == '\'' ? contraction(text + i, n - i, false) : 0;
        if (short_word) {
            i += short_word;
        } else {
            size_t word = text[i] == ' ' ? i + 1 : i; /* " ?" before each kind of run */
            enum unicode_class kind = word < n ? class_at(text, word, n, &length) : UNICODE_SPACE;
            if (kind != UNICODE_SPACE)
                i = run_end(text, word + length, n, kind, SIZE_MAX);
            else
                i = spaces_end(text, i, run_end(text, i, n, UNICODE_SPACE, SIZE_MAX), n);
        }
        TRY(add_word(out, begin, i));
    }
    return LORAD_OK;
}

/* The alternatives behind the contractions, at i. */
static size_t cl100k_end(const char *text, size_t i, size_t n, size_t max_digits)
{
    size_t length, next_length = 0;
    enum unicode_class kind = class_at(text, i, n, &length);
    if (kind == UNICODE_LETTER) return run_end(text, i + length, n, UNICODE_LETTER, SIZE_MAX);
    if (kind == UNICODE_NUMBER) return run_end(text, i, n, UNICODE_NUMBER, max_digits);
    size_t next = i + length;
    enum unicode_class next_kind = next < n ? class_at(text, next, n, &next_length) : UNICODE_SPACE;
    if (next_kind == UNICODE_LETTER && text[i] != '\r' && text[i] != '\n')
        return run_end(text, next + next_length, n, UNICODE_LETTER, SIZE_MAX);
    if (kind == UNICODE_OTHER || (text[i] == ' ' && next_kind == UNICODE_OTHER)) {
        size_t end = run_end(text, kind == UNICODE_OTHER ? i : next, n, UNICODE_OTHER, SIZE_MAX);
        while (end < n && (text[end] == '\r' || text[end] == '\n')) end++;
        return end;
    }
    size_t end = run_end(text, i, n, UNICODE_SPACE, SIZE_MAX);
    for (size_t k = end; k > i; k--)
        if (text[k - 1] == '\r' || text[k - 1] == '\n') return k;
    return spaces_end(text, i, end, n);
}

static enum status cut_cl100k(const char *text, size_t i, size_t n, size_t max_digits, struct word_list *out)
{
    while (i < n) {
        size_t short_word = text[i] == '\'' ? contraction(text + i, n - i, true) : 0;
        size_t end = short_word ? i + short_word : cl100k_end(text, i, n, max_digits);
        TRY(add_word(out, i, end));
        i = end;
    }
    return LORAD_OK;
}

static enum status cut_digits(const char *text, size_t i, size_t n, size_t most, struct word_list *out)
{
    while (i < n) {
        size_t begin = i, length;
        if (class_at(text, i, n, &length) == UNICODE_NUMBER) {
            i = run_end(text, i, n, UNICODE_NUMBER, most);
        } else {
            while (i < n && class_at(text, i, n, &length) != UNICODE_NUMBER) i += length;
        }
        TRY(add_word(out, begin, i));
    }
    return LORAD_OK;
}

static enum status cut_metaspace(const char *text, size_t i, size_t n, const char *mark,
                                 struct word_list *out)
{
    size_t length = strlen(mark);
    while (i < n) {
        const char *found = i + 1 < n ? memmem(text + i + 1, n - i - 1, mark, length) : NULL;
        size_t end = found ? (size_t)(found - text) : n;
        TRY(add_word(out, i, end));
        i = end;
    }
    return LORAD_OK;
}

enum status pretokenizer_cut(const struct pretokenizer *pretokenizer, const char *text, size_t length,
                             struct word_list *words, struct word_list *spare)
{
    words->length = 0;
    if (length) TRY(add_word(words, 0, length));
    for (int i = 0; i < pretokenizer->n_steps; i++) {
        const struct pretokenize_step *step = &pretokenizer->step[i];
        spare->length = 0;
        for (size_t k = 0; k < words->length; k++) {
            const char *word = text; /* offsets stay those of the text; a word ends where its range does */
            size_t begin = words->range[k].begin, end = words->range[k].end;
            switch (step->kind) {
            case PRETOKENIZE_GPT2:
                TRY(cut_gpt2(word, begin, end, spare));
                break;
            case PRETOKENIZE_CL100K:
                TRY(cut_cl100k(word, begin, end, step->max_digits, spare));
                break;
            case PRETOKENIZE_DIGITS:
                TRY(cut_digits(word, begin, end, step->max_digits, spare));
                break;
            case PRETOKENIZE_METASPACE:
                TRY(cut_metaspace(word, begin, end, pretokenizer->metaspace, spare));
                break;
            }
        }
        struct word_list cut = *spare;
        *spare = *words;
        *words = cut;
    }
    return LORAD_OK;
}
