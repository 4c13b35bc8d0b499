/* pretokenize_read.c: the JSON of a pre-tokenizer -> steps. What is not understood is refused by name. */
#include <stdlib.h>

#include "base/utf8.h"
#include "dataloader/pretokenize.h"
#include "dataloader/regex_syntax.h"

#define CL100K_PATTERN(digits)                                                                               \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                     \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const char pretokenizer_qwen2_pattern[] = CL100K_PATTERN("\\p{N}");
static const char llama3_pattern[] = CL100K_PATTERN("\\p{N}{1,3}");
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static enum status add_step(struct pretokenizer *out, struct pretokenize_step step, const char *where)
{
    if (out->n_steps == PRETOKENIZE_STEPS)
        return FAIL(LORAD_DATA, "%s: pre_tokenizer has more than %d steps", where, PRETOKENIZE_STEPS);
    if (step.text && !(step.text = memory_string(step.text))) return LORAD_NOMEM;
    out->step[out->n_steps++] = step;
    return LORAD_OK;
}

void pretokenizer_set_prefix_space(struct pretokenizer *pretokenizer, bool prefix_space)
{
    struct pretokenize_step *step = pretokenizer->step;
    bool has = pretokenizer->n_steps && step[0].kind == PRETOKENIZE_PREFIX_SPACE;
    if (!pretokenizer->only_byte_level || has == prefix_space) return;
    if (prefix_space) { /* at most one step stands there */
        step[1] = step[0];
        step[0] = (struct pretokenize_step){.kind = PRETOKENIZE_PREFIX_SPACE};
        pretokenizer->n_steps++;
    } else {
        step[0] = step[1];
        pretokenizer->n_steps--;
    }
}

void pretokenizer_free(struct pretokenizer *pretokenizer)
{
    for (int i = 0; i < pretokenizer->n_steps; i++) {
        free(pretokenizer->step[i].text);
        pattern_destroy(pretokenizer->step[i].pattern);
    }
    pretokenizer->n_steps = 0;
}

static enum status add_compiled(struct pretokenizer *out, const char *pattern, struct pretokenize_step step,
                                const char *where)
{
    struct strbuf perl = STRBUF_EMPTY;
    enum status status = regex_translate(&perl, pattern, where);
    if (status == LORAD_OK) status = pattern_create_finder(&step.pattern, strbuf_text(&perl));
    if (status == LORAD_OK) {
        status = add_step(out, step, where);
        if (status != LORAD_OK) pattern_destroy(step.pattern);
    }
    strbuf_free(&perl);
    return status;
}

/* The known patterns match every character, so that these two mean the same. */
static enum status add_pattern(struct pretokenizer *out, const char *pattern, enum split_behavior behavior,
                               bool invert, const char *where)
{
    if ((behavior == SPLIT_ISOLATED && !invert) || (behavior == SPLIT_REMOVED && invert)) {
        struct pretokenize_step known = {.kind = PRETOKENIZE_CL100K, .max_digits = 1};
        if (strcmp(pattern, pretokenizer_qwen2_pattern) == 0) return add_step(out, known, where);
        known.max_digits = 3;
        if (strcmp(pattern, llama3_pattern) == 0) return add_step(out, known, where);
        known.kind = PRETOKENIZE_GPT2;
        if (strcmp(pattern, gpt2_pattern) == 0) return add_step(out, known, where);
    }
    struct pretokenize_step step = {
        .kind = PRETOKENIZE_MATCHES, .matcher = MATCH_PATTERN, .behavior = behavior, .invert = invert};
    return add_compiled(out, pattern, step, where);
}

enum status pretokenizer_add_pattern(struct pretokenizer *out, const char *pattern, const char *where)
{
    return add_pattern(out, pattern, SPLIT_ISOLATED, false, where);
}

enum status pretokenizer_add_byte_level(struct pretokenizer *out, bool prefix_space, bool use_regex,
                                        const char *where)
{
    out->byte_level = true;
    if (prefix_space) TRY(add_step(out, (struct pretokenize_step){.kind = PRETOKENIZE_PREFIX_SPACE}, where));
    if (!use_regex) return LORAD_OK;
    return add_step(out, (struct pretokenize_step){.kind = PRETOKENIZE_GPT2}, where);
}

static enum status read_behavior(enum split_behavior *out, const struct json *value, const char *type,
                                 const char *where)
{
    static const char *const name[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                       "Contiguous"};
    const char *text;
    TRY(js_need_string(&text, value, "behavior", where));
    for (int i = 0; i < 5; i++) {
        if (strcmp(text, name[i])) continue;
        *out = (enum split_behavior)i;
        return LORAD_OK;
    }
    return FAIL(LORAD_DATA, "%s: pre_tokenizer %s with behavior \"%s\" is not supported", where, type, text);
}

static enum status read_split(struct pretokenizer *out, const struct json *value, const char *where)
{
    const struct json *pattern = js_get(value, "pattern");
    const char *regex = js_string(js_get(pattern, "Regex"), NULL),
               *text = js_string(js_get(pattern, "String"), NULL);
    enum split_behavior behavior = SPLIT_ISOLATED;
    TRY(read_behavior(&behavior, value, "Split", where));
    bool invert = js_bool(js_get(value, "invert"), false);
    if (regex && *regex) return add_pattern(out, regex, behavior, invert, where);
    if (!text || !*text)
        return FAIL(LORAD_DATA, "%s: pre_tokenizer Split without a pattern is not supported", where);
    return add_step(out,
                    (struct pretokenize_step){.kind = PRETOKENIZE_MATCHES,
                                              .matcher = MATCH_TEXT,
                                              .behavior = behavior,
                                              .invert = invert,
                                              .text = (char *)text},
                    where);
}

enum status pretokenizer_add_metaspace(struct pretokenizer *out, const char *replacement,
                                       enum prepend_scheme prepend, bool split, const char *where)
{
    struct pretokenize_step step = {
        .kind = PRETOKENIZE_METASPACE, .prepend = prepend, .text = (char *)replacement};
    TRY(add_step(out, step, where));
    step.kind = PRETOKENIZE_MARK;
    return split ? add_step(out, step, where) : LORAD_OK;
}

static enum status read_metaspace(struct pretokenizer *out, const struct json *value, const char *where)
{
    const char *replacement, *scheme = js_string(js_get(value, "prepend_scheme"), NULL);
    TRY(js_need_string(&replacement, value, "replacement", where));
    if (!*replacement || strlen(replacement) != utf8_length(*replacement))
        return FAIL(LORAD_DATA, "%s: Metaspace: replacement must be one character", where);
    if (!scheme) scheme = js_bool(js_get(value, "add_prefix_space"), true) ? "always" : "never";
    enum prepend_scheme prepend = PREPEND_NEVER;
    if (strcmp(scheme, "always") == 0)
        prepend = PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        prepend = PREPEND_FIRST;
    else if (strcmp(scheme, "never") != 0)
        return FAIL(LORAD_DATA, "%s: Metaspace with prepend_scheme \"%s\" is not supported", where, scheme);
    return pretokenizer_add_metaspace(out, replacement, prepend, js_bool(js_get(value, "split"), true),
                                      where);
}

static enum status read_char_delimiter(struct pretokenizer *out, const struct json *value, const char *where)
{
    const char *delimiter;
    TRY(js_need_string(&delimiter, value, "delimiter", where));
    if (!*delimiter || strlen(delimiter) != utf8_length(*delimiter))
        return FAIL(LORAD_DATA, "%s: CharDelimiterSplit: delimiter must be one character", where);
    return add_step(out,
                    (struct pretokenize_step){.kind = PRETOKENIZE_MATCHES,
                                              .matcher = MATCH_TEXT,
                                              .behavior = SPLIT_REMOVED,
                                              .text = (char *)delimiter},
                    where);
}

static enum status read_one(struct pretokenizer *out, const struct json *value, const char *where)
{
    const char *type;
    TRY(js_need_string(&type, value, "type", where));
    struct pretokenize_step spaces = {
        .kind = PRETOKENIZE_MATCHES, .matcher = MATCH_SPACE, .behavior = SPLIT_REMOVED};
    struct pretokenize_step marks = {
        .kind = PRETOKENIZE_MATCHES, .matcher = MATCH_PUNCTUATION, .behavior = SPLIT_ISOLATED};
    if (out->byte_level)
        return FAIL(LORAD_DATA, "%s: pre_tokenizer %s behind ByteLevel is not supported", where, type);
    if (strcmp(type, "ByteLevel") == 0)
        return pretokenizer_add_byte_level(out, js_bool(js_get(value, "add_prefix_space"), true),
                                           js_bool(js_get(value, "use_regex"), true), where);
    if (strcmp(type, "Split") == 0) return read_split(out, value, where);
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(out, value, where);
    if (strcmp(type, "Digits") == 0) {
        size_t most = js_bool(js_get(value, "individual_digits"), false) ? 1 : SIZE_MAX;
        return add_step(out, (struct pretokenize_step){.kind = PRETOKENIZE_DIGITS, .max_digits = most},
                        where);
    }
    if (strcmp(type, "Punctuation") == 0) {
        if (js_get(value, "behavior")) TRY(read_behavior(&marks.behavior, value, type, where));
        return add_step(out, marks, where);
    }
    if (strcmp(type, "Whitespace") == 0)
        return add_step(out, (struct pretokenize_step){.kind = PRETOKENIZE_WHITESPACE}, where);
    if (strcmp(type, "WhitespaceSplit") == 0) return add_step(out, spaces, where);
    if (strcmp(type, "CharDelimiterSplit") == 0) return read_char_delimiter(out, value, where);
    if (strcmp(type, "BertPreTokenizer") == 0) {
        TRY(add_step(out, spaces, where));
        return add_step(out, marks, where);
    }
    return FAIL(LORAD_DATA,
                "%s: pre_tokenizer \"%s\" is not supported (supported: ByteLevel, Split, Metaspace, Digits, "
                "Punctuation, Whitespace, WhitespaceSplit, CharDelimiterSplit, BertPreTokenizer, Sequence)",
                where, type);
}

enum status pretokenizer_read(struct pretokenizer *out, const struct json *value, const char *where)
{
    if (!value || js_type(value) == JS_NULL) return LORAD_OK;
    const char *type;
    TRY(js_need_string(&type, value, "type", where));
    if (strcmp(type, "Sequence") != 0) {
        out->only_byte_level = strcmp(type, "ByteLevel") == 0;
        return read_one(out, value, where);
    }
    const struct json *list;
    TRY(js_need(&list, value, "pretokenizers", JS_ARRAY, where));
    for (size_t i = 0; i < js_length(list); i++) TRY(read_one(out, js_at(list, i), where));
    return LORAD_OK;
}
