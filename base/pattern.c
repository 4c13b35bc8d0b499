#include "base/pattern.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct pattern {
    pcre2_code *code;
    pcre2_match_data *match;
};

enum status pattern_create(struct pattern **out, const char *expression)
{
    int error;
    PCRE2_SIZE at;
    struct pattern *pattern = calloc(1, sizeof *pattern);
    if (!pattern) return FAIL(LORAD_NOMEM, "out of memory for a pattern");
    pattern->code = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED,
                                  PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF, &error, &at, NULL);
    if (!pattern->code) {
        char words[160];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)words, sizeof words);
        free(pattern);
        return FAIL(LORAD_CONFIG, "\"%s\" is not a regular expression: %s at character %zu", expression, words,
                    (size_t)at + 1);
    }
    pattern->match = pcre2_match_data_create_from_pattern(pattern->code, NULL);
    if (!pattern->match) {
        pattern_destroy(pattern);
        return FAIL(LORAD_NOMEM, "out of memory for a pattern");
    }
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
