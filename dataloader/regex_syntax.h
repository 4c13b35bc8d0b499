/*
 * regex_syntax.h: the regular expressions of tokenizer.json (Oniguruma's, in Ruby syntax) -> the same in Perl
 * syntax (inside the dataloader folder only). What might mean something else is refused by name.
 */
#ifndef LORAD_DATALOADER_REGEX_SYNTAX_H
#define LORAD_DATALOADER_REGEX_SYNTAX_H

#include "base/status.h"
#include "base/strbuf.h"

/* Appends the translation. LORAD_DATA names the construct that is not supported. */
enum status regex_translate(struct strbuf *out, const char *expression, const char *where) LORAD_WARN_UNUSED;

#endif
