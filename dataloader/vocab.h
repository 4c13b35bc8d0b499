/* vocab.h: token text <-> token number (inside the dataloader folder only). Numbers may have holes. */
#ifndef LORAD_DATALOADER_VOCAB_H
#define LORAD_DATALOADER_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct vocab {
    char *text; /* all texts one after another */
    size_t text_length, text_capacity;
    struct vocab_entry {
        size_t at;
        uint32_t length;
        bool present;
    } * entry; /* [size], by number */
    size_t entry_capacity;
    int32_t size;  /* largest number + 1 */
    int32_t count; /* entries */
    struct vocab_slot {
        int32_t number; /* -1: empty */
        uint32_t hash;
    } * slot; /* open addressing */
    size_t n_slots;
};

enum { VOCAB_MAX = 1 << 22 };

void vocab_free(struct vocab *vocab);
/* LORAD_DATA when the number is out of range or taken. */
enum status vocab_add(struct vocab *vocab, const char *text, size_t length, int64_t number,
                      const char *where) LORAD_WARN_UNUSED;
/* After all entries are in. LORAD_DATA when two have the same text. */
enum status vocab_index(struct vocab *vocab, const char *where) LORAD_WARN_UNUSED;

int32_t vocab_find(const struct vocab *vocab, const char *text, size_t length); /* -1: absent */
/* NULL: no such number. Not NUL-terminated. */
const char *vocab_text(const struct vocab *vocab, int32_t number, size_t *length);

#endif
