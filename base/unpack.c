#include "base/unpack.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>
#include <zstd.h>

#include "base/memory.h"

enum { PIECE_BYTES = 1 << 20, LIMIT_RATIO = 200 };

enum packing unpack_kind(const void *bytes, size_t length)
{
    const unsigned char *b = bytes;
    if (length >= 3 && b[0] == 0x1F && b[1] == 0x8B && b[2] == 8) return PACKED_GZIP;
    if (length >= 4 && memcmp(b, "\x28\xB5\x2F\xFD", 4) == 0) return PACKED_ZSTD;
    /* pzstd begins with a skippable frame */
    if (length >= 4 && (b[0] & 0xF0) == 0x50 && memcmp(b + 1, "\x2A\x4D\x18", 3) == 0) return PACKED_ZSTD;
    return PACKED_NOT;
}

int64_t unpack_limit(size_t length)
{
    int64_t least = (int64_t)256 << 20, most;
    if (__builtin_mul_overflow((int64_t)length, (int64_t)LIMIT_RATIO, &most)) return INT64_MAX;
    return most > least ? most : least;
}

struct output {
    unpack_sink *sink;
    void *to;
    int64_t done, most;
    const char *name;
    size_t packed;
};

static enum status put(struct output *out, const void *bytes, size_t length)
{
    if ((int64_t)length > out->most - out->done)
        return FAIL(
            LORAD_DATA,
            "%s: its %zu bytes unpack to more than %lld MiB, which is refused as a mistake or an attack; "
            "unpack it yourself if it is meant so",
            out->name, out->packed, (long long)(out->most >> 20));
    out->done += (int64_t)length;
    return length > 0 ? out->sink(out->to, bytes, length) : LORAD_OK;
}

static enum status damaged(const struct output *out, const char *kind, const char *why)
{
    return FAIL(LORAD_DATA, "%s: damaged %s file after %lld unpacked bytes: %s", out->name, kind,
                (long long)out->done, why);
}

/* One member; *used of the bytes were its. */
static enum status gzip_member(z_stream *stream, struct output *out, const unsigned char *bytes,
                               size_t length, size_t *used, unsigned char *piece)
{
    size_t at = 0;
    int result = Z_OK;
    stream->avail_in = 0;
    while (result != Z_STREAM_END) {
        if (stream->avail_in == 0 && at < length) {
            size_t n = length - at < (size_t)1 << 30 ? length - at : (size_t)1 << 30;
            stream->next_in = (unsigned char *)(uintptr_t)(bytes + at); /* zlib does not write to it */
            stream->avail_in = (uInt)n;
            at += n;
        }
        stream->next_out = piece;
        stream->avail_out = PIECE_BYTES;
        result = inflate(stream, Z_NO_FLUSH);
        if (result == Z_MEM_ERROR) return FAIL(LORAD_NOMEM, "out of memory for zlib");
        if (result == Z_BUF_ERROR ||
            (result == Z_OK && stream->avail_in == 0 && at == length && stream->avail_out > 0))
            return damaged(out, "gzip", "it ends too early");
        if (result != Z_OK && result != Z_STREAM_END)
            return damaged(out, "gzip", stream->msg ? stream->msg : "its contents make no sense");
        TRY(put(out, piece, PIECE_BYTES - stream->avail_out));
    }
    *used = at - stream->avail_in;
    return LORAD_OK;
}

static enum status unpack_gzip(const unsigned char *bytes, size_t length, struct output *out,
                               unsigned char *piece)
{
    z_stream stream = {0};
    if (inflateInit2(&stream, 15 + 16) != Z_OK) return FAIL(LORAD_NOMEM, "out of memory for zlib");
    enum status status = LORAD_OK;
    while (status == LORAD_OK && length > 0) {
        size_t used = 0;
        if (unpack_kind(bytes, length) != PACKED_GZIP) {
            while (used < length && bytes[used] == 0) used++; /* tapes and some tools pad with zeros */
            if (used < length) status = damaged(out, "gzip", "something else follows");
            break;
        }
        status = gzip_member(&stream, out, bytes, length, &used, piece);
        bytes += used;
        length -= used;
        if (status == LORAD_OK && inflateReset(&stream) != Z_OK)
            status = FAIL(LORAD_BUG, "zlib cannot start again");
    }
    inflateEnd(&stream);
    return status;
}

static enum status unpack_zstd(const unsigned char *bytes, size_t length, struct output *out,
                               unsigned char *piece)
{
    ZSTD_DStream *stream = ZSTD_createDStream();
    if (!stream) return FAIL(LORAD_NOMEM, "out of memory for zstd");
    ZSTD_inBuffer in = {.src = bytes, .size = length};
    enum status status = LORAD_OK;
    size_t result = 0;
    for (bool more = length > 0; status == LORAD_OK && more;) {
        ZSTD_outBuffer piece_out = {.dst = piece, .size = PIECE_BYTES};
        result = ZSTD_decompressStream(stream, &piece_out, &in);
        if (ZSTD_isError(result)) {
            status = damaged(out, "zstd", ZSTD_getErrorName(result));
            break;
        }
        status = put(out, piece, piece_out.pos);
        more = in.pos < in.size || piece_out.pos == piece_out.size;
    }
    if (status == LORAD_OK && result != 0) status = damaged(out, "zstd", "it ends too early");
    ZSTD_freeDStream(stream);
    return status;
}

enum status unpack(enum packing kind, const void *bytes, size_t length, int64_t most, unpack_sink *sink,
                   void *to, const char *name)
{
    struct output out = {.sink = sink, .to = to, .most = most, .name = name, .packed = length};
    if (kind == PACKED_NOT) return put(&out, bytes, length);
    unsigned char *piece = memory_new(PIECE_BYTES, 1);
    if (!piece) return LORAD_NOMEM;
    enum status status = kind == PACKED_GZIP ? unpack_gzip(bytes, length, &out, piece)
                                             : unpack_zstd(bytes, length, &out, piece);
    free(piece);
    return status;
}
