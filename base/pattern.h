/*
 * pattern.h: regular expressions in Perl syntax. An owner of pcre2.h is pattern.c.
 *
 * Two uses: does a pattern match a whole string (what Python's re.fullmatch accepts in practice: PEFT matches
 * target_modules that way), and where in a text does it match next.
 *
 * Thread: a pattern is read only once created; pattern_find wants a struct pattern_memory of the calling
 * thread.
 */
#ifndef LORAD_BASE_PATTERN_H
#define LORAD_BASE_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

struct pattern;

/* LORAD_CONFIG with the place of the mistake. Owns: *out. */
enum status pattern_create(struct pattern **out, const char *expression) LORAD_WARN_UNUSED;
void pattern_destroy(struct pattern *pattern); /* NULL ok */
bool pattern_matches_all(const struct pattern *pattern, const char *text);

/* For finding: ^ matches at every line, a dot everything but \n; compiled to machine code where that is
 * possible. LORAD_DATA with the place of the mistake. Owns: *out. */
enum status pattern_create_finder(struct pattern **out, const char *expression) LORAD_WARN_UNUSED;

/* Working memory of one thread, for any number of patterns. */
struct pattern_memory;
enum status pattern_memory_create(struct pattern_memory **out) LORAD_WARN_UNUSED;
void pattern_memory_destroy(struct pattern_memory *memory); /* NULL ok */

/* The first match at or behind `at` of the text, which must be valid UTF-8; *begin == SIZE_MAX: none.
 * LORAD_DATA when the pattern needs more steps or memory than allowed. */
enum status pattern_find(const struct pattern *pattern, struct pattern_memory *memory, const char *text, size_t length,
                         size_t at, size_t *begin, size_t *end) LORAD_WARN_UNUSED;

#endif
