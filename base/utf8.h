/* utf8.h: strict UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF). */
#ifndef LORAD_BASE_UTF8_H
#define LORAD_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/strbuf.h"

/* Reads one character of the n >= 1 bytes at `text`. Returns its length, 1 to 4; 0 when the bytes are no
 * character. */
size_t utf8_read(uint32_t *character, const char *text, size_t n);

/* Length of the character that starts with this byte, in text known to be valid. */
static inline size_t utf8_length(char first)
{
    unsigned char byte = (unsigned char)first;
    return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/* Whether all n bytes are valid; otherwise *bad (may be NULL) is the offset of the first byte that is not. */
bool utf8_valid(const char *text, size_t n, size_t *bad);

/* Appends the bytes; each maximal part that cannot be a character becomes one U+FFFD (Unicode 15,
 * section 3.9, "substitution of maximal subparts"). */
void utf8_add_lossy(struct strbuf *out, const char *bytes, size_t n);

#endif
