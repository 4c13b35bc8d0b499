#include "base/pattern.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum {
    STEPS_MAX = 10 * 1000 * 1000, /* of one attempt to match */
    STACK_MIN = 32 << 10,
    STACK_MAX = 8 << 20, /* of machine code, bytes */
    HEAP_MAX = 64 << 10, /* of the interpreter, KiB */
};

struct pattern {
    pcre2_code *code;
    pcre2_match_data *match; /* of pattern_matches_all */
};

struct pattern_memory {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static enum status compile(struct pattern *pattern, const char *expression, uint32_t options,
                           enum status code)
{
    int error = 0;
    PCRE2_SIZE at = 0;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return FAIL(LORAD_NOMEM, "out of memory for a pattern");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pattern->code = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, options | PCRE2_UTF, &error,
                                  &at, context);
    pcre2_compile_context_free(context);
    if (pattern->code) return LORAD_OK;
    char words[160];
    pcre2_get_error_message(error, (PCRE2_UCHAR *)words, sizeof words);
    return FAIL(code, "\"%s\" is not a regular expression: %s at character %zu", expression, words,
                (size_t)at + 1);
}

static enum status create(struct pattern **out, const char *expression, uint32_t options, enum status code)
{
    struct pattern *pattern = calloc(1, sizeof *pattern);
    if (!pattern) return FAIL(LORAD_NOMEM, "out of memory for a pattern");
    enum status status = compile(pattern, expression, options, code);
    if (status == LORAD_OK && !(pattern->match = pcre2_match_data_create_from_pattern(pattern->code, NULL)))
        status = FAIL(LORAD_NOMEM, "out of memory for a pattern");
    if (status != LORAD_OK) {
        pattern_destroy(pattern);
        return status;
    }
    *out = pattern;
    return LORAD_OK;
}

enum status pattern_create(struct pattern **out, const char *expression)
{
    return create(out, expression, PCRE2_ANCHORED | PCRE2_ENDANCHORED, LORAD_CONFIG);
}

enum status pattern_create_finder(struct pattern **out, const char *expression)
{
    struct pattern *pattern;
    TRY(create(&pattern, expression, PCRE2_MULTILINE, LORAD_DATA));
    (void)pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE); /* without it the interpreter matches */
    *out = pattern;
    return LORAD_OK;
}

void pattern_destroy(struct pattern *pattern)
{
    if (!pattern) return;
    pcre2_match_data_free(pattern->match);
    pcre2_code_free(pattern->code);
    free(pattern);
}

bool pattern_matches_all(const struct pattern *pattern, const char *text)
{
    return pcre2_match(pattern->code, (PCRE2_SPTR)text, strlen(text), 0, 0, pattern->match, NULL) > 0;
}

/* ---- finding ---- */

enum status pattern_memory_create(struct pattern_memory **out)
{
    struct pattern_memory *memory = calloc(1, sizeof *memory);
    if (memory) {
        memory->match = pcre2_match_data_create(1, NULL);
        memory->context = pcre2_match_context_create(NULL);
        memory->stack = pcre2_jit_stack_create(STACK_MIN, STACK_MAX, NULL); /* NULL without machine code */
    }
    if (!memory || !memory->match || !memory->context) {
        pattern_memory_destroy(memory);
        return FAIL(LORAD_NOMEM, "out of memory for matching patterns");
    }
    pcre2_set_match_limit(memory->context, STEPS_MAX);
    pcre2_set_heap_limit(memory->context, HEAP_MAX);
    if (memory->stack) pcre2_jit_stack_assign(memory->context, NULL, memory->stack);
    *out = memory;
    return LORAD_OK;
}

void pattern_memory_destroy(struct pattern_memory *memory)
{
    if (!memory) return;
    pcre2_match_data_free(memory->match);
    pcre2_match_context_free(memory->context);
    pcre2_jit_stack_free(memory->stack);
    free(memory);
}

enum status pattern_find(const struct pattern *pattern, struct pattern_memory *memory, const char *text,
                         size_t length, size_t at, size_t *begin, size_t *end)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int found =
        pcre2_match(pattern->code, subject, length, at, PCRE2_NO_UTF_CHECK, memory->match, memory->context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(pattern->code, subject, length, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                            memory->match, memory->context);
    if (found == PCRE2_ERROR_NOMATCH) {
        *begin = SIZE_MAX;
        return LORAD_OK;
    }
    if (found < 0) {
        char words[160];
        pcre2_get_error_message(found, (PCRE2_UCHAR *)words, sizeof words);
        return FAIL(LORAD_DATA, "a pattern of the tokenizer cannot be matched at byte %zu of the text: %s",
                    at, words);
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(memory->match);
    *begin = range[0];
    *end = range[1];
    return LORAD_OK;
}
