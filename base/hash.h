/*
 * hash.h: content hashes (XXH3) and their hexadecimal form. Against accidents, not against an adversary.
 * The owner of xxhash.h is hash.c.
 */
#ifndef LORAD_BASE_HASH_H
#define LORAD_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct hash128 {
    uint64_t high, low;
};

uint64_t hash64(const void *bytes, size_t length);
struct hash128 hash128(const void *bytes, size_t length);
int hash128_equal(struct hash128 a, struct hash128 b);

/* 32 lower-case hexadecimal digits and a NUL. */
void hash128_hex(struct hash128 value, char text[33]);
enum status hash128_parse(struct hash128 *out, const char *text) LORAD_WARN_UNUSED;

/* Streaming: the same value as hash128 over the concatenation. */
struct hash_stream;
enum status hash_stream_create(struct hash_stream **out) LORAD_WARN_UNUSED;
void hash_stream_destroy(struct hash_stream *stream);
void hash_stream_reset(struct hash_stream *stream);
void hash_stream_add(struct hash_stream *stream, const void *bytes, size_t length);
struct hash128 hash_stream_value(const struct hash_stream *stream);

#endif
