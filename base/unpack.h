/*
 * unpack.h: gzip and zstd streams, unpacked piece by piece. An owner of zlib.h and zstd.h is unpack.c.
 *
 * Several members (gzip) or frames (zstd) behind each other are one text, as their own programs have it.
 * Checksums are checked. Memory does not grow with the file: a zstd window is at most 128 MiB.
 */
#ifndef LORAD_BASE_UNPACK_H
#define LORAD_BASE_UNPACK_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum packing { PACKED_NOT, PACKED_GZIP, PACKED_ZSTD };

/* By the first bytes. */
enum packing unpack_kind(const void *bytes, size_t length);

/* Takes the next piece of the unpacked text. */
typedef enum status unpack_sink(void *to, const void *bytes, size_t length);

/* The most that `length` packed bytes may unpack to: 200 times as much, and at least 256 MiB. Text packs 3 to
 * 30 times; what says it is more is made to fill disks. */
int64_t unpack_limit(size_t length);

/* Hands the unpacked text to `sink`. `name` is what messages call the file. LORAD_DATA when it is damaged,
 * cut short or larger than `most` bytes unpacked; whatever the sink returns. */
enum status unpack(enum packing kind, const void *bytes, size_t length, int64_t most, unpack_sink *sink,
                   void *to, const char *name) LORAD_WARN_UNUSED;

#endif
