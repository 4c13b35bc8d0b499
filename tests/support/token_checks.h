/* token_checks.h: what tests of tokenizers and templates expect of a list of tokens. Each ends the test with
 * what was got and what was expected; `where` names the row in it. */
#ifndef LORAD_TESTS_TOKEN_CHECKS_H
#define LORAD_TESTS_TOKEN_CHECKS_H

#include "base/json.h"
#include "dataloader/tokenizer.h"

/* The token numbers are those of a JSON list. */
void expect_ids(const struct token_list *got, const struct json *expected, const char *where, long row);
/* Spans lie in a text of `length` bytes and never go back. */
void expect_spans(const struct token_list *list, size_t length, const char *where, long row);

#endif
