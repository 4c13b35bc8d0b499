#include "base/arena.h"

void arena_init(struct arena *arena, void *base, size_t size_bytes)
{
    *arena = (struct arena){.base = base, .size_bytes = size_bytes};
}

enum status arena_take(struct arena *arena, void **out, size_t bytes)
{
    size_t start = (arena->used_bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN, end;
    if (__builtin_add_overflow(start, bytes, &end) || (arena->base && end > arena->size_bytes))
        return FAIL(LORAD_BUG, "arena of %zu bytes cannot hold %zu more after %zu", arena->size_bytes, bytes,
                    start);
    arena->used_bytes = end;
    *out = arena->base ? arena->base + start : NULL;
    return LORAD_OK;
}
