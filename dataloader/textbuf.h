/*
 * textbuf.h: text that remembers which bytes of the input it came from (inside the dataloader folder only).
 *
 * Invariants: with want_map, from[i] <= to[i] are offsets of the input for every byte i; both arrays are as
 * long as data.
 */
#ifndef LORAD_DATALOADER_TEXTBUF_H
#define LORAD_DATALOADER_TEXTBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"

struct textbuf {
    char *data;
    uint32_t *from, *to;
    size_t length;
    size_t data_capacity, from_capacity, to_capacity;
    bool want_map;
};

static inline void textbuf_free(struct textbuf *text)
{
    free(text->data);
    free(text->from);
    free(text->to);
    *text = (struct textbuf){0};
}

/* Appends `length` bytes. step 1: byte i came from [from + i, from + i + 1); step 0: every byte from [from,
 * to). */
static inline enum status textbuf_add(struct textbuf *text, const char *bytes, size_t length, uint32_t from,
                                      uint32_t to, uint32_t step)
{
    size_t end = text->length + length;
    TRY(memory_grow((void **)&text->data, &text->data_capacity, end + 1, 1));
    memcpy(text->data + text->length, bytes, length);
    if (text->want_map) {
        TRY(memory_grow((void **)&text->from, &text->from_capacity, end + 1, sizeof *text->from));
        TRY(memory_grow((void **)&text->to, &text->to_capacity, end + 1, sizeof *text->to));
        for (size_t i = 0; i < length; i++) {
            text->from[text->length + i] = step ? from + (uint32_t)i : from;
            text->to[text->length + i] = step ? from + (uint32_t)i + 1 : to;
        }
    }
    text->length = end;
    return LORAD_OK;
}

#endif
