/*
 * unicode.h: the character classes that pre-tokenizers ask for: \p{L}, \p{N}, \s and \w as Hugging Face's
 * regex libraries define them (inside the dataloader folder only). The owner of utf8proc.h is normalize.c,
 * where this lives.
 */
#ifndef LORAD_DATALOADER_UNICODE_H
#define LORAD_DATALOADER_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum unicode_class { UNICODE_OTHER, UNICODE_LETTER, UNICODE_NUMBER, UNICODE_SPACE };

/* The class of a character outside ASCII and the common CJK block; use unicode_class. */
enum unicode_class unicode_class_rare(uint32_t character);

extern const uint8_t unicode_ascii_class[128];

static inline enum unicode_class unicode_class(uint32_t character)
{
    if (character < 0x80) return (enum unicode_class)unicode_ascii_class[character];
    if (character >= 0x4E00 && character <= 0x9FFF) return UNICODE_LETTER;
    return unicode_class_rare(character);
}

/* Whether an extended grapheme cluster (Unicode Standard Annex 29) that holds `before` ends between it and
 * `after`. *state is 0 at the beginning of a cluster. */
bool unicode_ends_cluster(uint32_t before, uint32_t after, int32_t *state);

/* What Hugging Face's Punctuation and BertPreTokenizer cut at. */
bool unicode_is_punctuation(uint32_t character);

/* Start of the white space that ends at `at`; end of the white space that starts there. The text is valid
 * UTF-8. */
size_t skip_spaces_back(const char *text, size_t at);
size_t skip_spaces(const char *text, size_t at, size_t length);

/* \w of Rust's regex: letters, marks, decimal digits, connectors, joiners. */
bool unicode_is_word(uint32_t character);

#endif
