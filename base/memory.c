#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void *memory_new(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - 64) {
        (void)FAIL(LORAD_NOMEM, "cannot allocate %zu x %zu bytes: the size overflows", count, size);
        return NULL;
    }
    bytes = (bytes + 63) / 64 * 64;
    void *block = aligned_alloc(64, bytes ? bytes : 64);
    if (!block) {
        (void)FAIL(LORAD_NOMEM, "out of memory: %zu bytes of host memory asked for", bytes);
        return NULL;
    }
    return memset(block, 0, bytes ? bytes : 64);
}

enum status memory_grow(void **block, size_t *capacity, size_t need, size_t size)
{
    if (need <= *capacity) return LORAD_OK;
    size_t wanted = *capacity ? *capacity : 16, bytes;
    while (wanted < need) {
        if (__builtin_mul_overflow(wanted, (size_t)2, &wanted)) wanted = need;
    }
    if (__builtin_mul_overflow(wanted, size, &bytes))
        return FAIL(LORAD_NOMEM, "cannot allocate %zu x %zu bytes: the size overflows", wanted, size);
    void *bigger = realloc(*block, bytes);
    if (!bigger) return FAIL(LORAD_NOMEM, "out of memory: %zu bytes of host memory asked for", bytes);
    *block = bigger;
    *capacity = wanted;
    return LORAD_OK;
}

char *memory_string_n(const char *text, size_t length)
{
    char *copy = memory_new(length + 1, 1);
    if (copy) memcpy(copy, text, length);
    return copy;
}

char *memory_string(const char *text)
{
    return memory_string_n(text, strlen(text));
}
