/*
 * arena.h: a bump allocator over one caller-owned block: named pieces, one allocation, freed together.
 *
 * Used twice with the same code: with base == NULL it only measures (the plan), with a block it hands out
 * pointers. Invariants: pieces are aligned to ARENA_ALIGN and never overlap.
 */
#ifndef LORAD_BASE_ARENA_H
#define LORAD_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

enum { ARENA_ALIGN = 256 };

struct arena {
    char *base;        /* NULL: measuring */
    size_t size_bytes; /* of the block; ignored while measuring */
    size_t used_bytes;
};

void arena_init(struct arena *arena, void *base, size_t size_bytes);

/* A piece of `bytes`. While measuring *out is NULL. LORAD_BUG when the block is too small. */
enum status arena_take(struct arena *arena, void **out, size_t bytes) LORAD_WARN_UNUSED;

#endif
