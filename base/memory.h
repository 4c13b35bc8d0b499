/*
 * memory.h: checked host allocation. Nothing here is called inside a training step: the plan sizes everything once.
 */
#ifndef LORAD_BASE_MEMORY_H
#define LORAD_BASE_MEMORY_H

#include <stddef.h>

#include "base/status.h"

/* Zeroed memory for count x size bytes, aligned to 64; NULL with the message recorded (LORAD_NOMEM). free() frees it. */
void *memory_new(size_t count, size_t size);

/* Grows *block (elements of `size` bytes) so that it holds at least `need`; doubles. *capacity is in elements. The new
 * part is not initialised. */
enum status memory_grow(void **block, size_t *capacity, size_t need, size_t size) LORAD_WARN_UNUSED;

/* Copy of a string or of `length` bytes with a NUL behind it; NULL with LORAD_NOMEM recorded. */
char *memory_string(const char *text);
char *memory_string_n(const char *text, size_t length);

#endif
