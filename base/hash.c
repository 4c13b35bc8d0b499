#include "base/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

struct hash_stream {
    XXH3_state_t *state;
};

uint64_t hash64(const void *bytes, size_t length)
{
    return XXH3_64bits(bytes, length);
}

static struct hash128 from_xxh(XXH128_hash_t value)
{
    return (struct hash128){.high = value.high64, .low = value.low64};
}

struct hash128 hash128(const void *bytes, size_t length)
{
    return from_xxh(XXH3_128bits(bytes, length));
}

int hash128_equal(struct hash128 a, struct hash128 b)
{
    return a.high == b.high && a.low == b.low;
}

void hash128_hex(struct hash128 value, char text[33])
{
    snprintf(text, 33, "%016llx%016llx", (unsigned long long)value.high, (unsigned long long)value.low);
}

enum status hash128_parse(struct hash128 *out, const char *text)
{
    uint64_t half[2] = {0, 0};
    size_t i;
    for (i = 0; i < 32 && text[i]; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) break;
        half[i / 16] = half[i / 16] << 4 | (uint64_t)digit;
    }
    if (i != 32 || text[32])
        return FAIL(LORAD_DATA, "\"%.40s\" is not a hash of 32 hexadecimal digits", text);
    *out = (struct hash128){.high = half[0], .low = half[1]};
    return LORAD_OK;
}

enum status hash_stream_create(struct hash_stream **out)
{
    struct hash_stream *stream = malloc(sizeof *stream);
    if (stream && !(stream->state = XXH3_createState())) {
        free(stream);
        stream = NULL;
    }
    if (!stream) return FAIL(LORAD_NOMEM, "out of memory for a hash state");
    hash_stream_reset(stream);
    *out = stream;
    return LORAD_OK;
}

void hash_stream_destroy(struct hash_stream *stream)
{
    if (!stream) return;
    XXH3_freeState(stream->state);
    free(stream);
}

void hash_stream_reset(struct hash_stream *stream)
{
    XXH3_128bits_reset(stream->state);
}

void hash_stream_add(struct hash_stream *stream, const void *bytes, size_t length)
{
    XXH3_128bits_update(stream->state, bytes, length);
}

struct hash128 hash_stream_value(const struct hash_stream *stream)
{
    return from_xxh(XXH3_128bits_digest(stream->state));
}
