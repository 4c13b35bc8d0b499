/*
 * pattern.h: does a regular expression match a whole string? Perl syntax, which covers what Python's re.fullmatch accepts
 * in practice (PEFT matches target_modules that way). An owner of pcre2.h is pattern.c.
 */
#ifndef LORAD_BASE_PATTERN_H
#define LORAD_BASE_PATTERN_H

#include <stdbool.h>

#include "base/status.h"

struct pattern;

/* LORAD_CONFIG with the place of the mistake. Owns: *out. */
enum status pattern_create(struct pattern **out, const char *expression) LORAD_WARN_UNUSED;
void pattern_destroy(struct pattern *pattern); /* NULL ok */
bool pattern_matches_all(const struct pattern *pattern, const char *text);

#endif
