/*
 * shard.c: one rank's shard: pieces as byte planes in zstd frames, and an index behind them.
 *
 * Byte k of every item of a piece goes into plane k, and each plane into a zstd frame of its own: exponents
 * compress, mantissas do not, and mixed in one block they would spoil each other's statistics. The index is
 * the last frame, a skippable one, so that the file is a valid .zst stream.
 *
 * Invariants:
 * 1. Pieces' frames touch, from byte 0 to the index; the index frame ends with the file.
 * 2. No size is believed before it is bounded: frames by the file, raw bytes by the piece's rows x cols x
 * item, the destination of zstd by the raw bytes.
 * 3. Bytes leave shard_read only after their hash was compared.
 */
#include "checkpoint/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zstd.h>
#include <zstd_errors.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "base/thread.h"
#include "checkpoint/hashed_file.h"

enum {
    SAMPLES = 1024,
    INDEX_MAGIC = 0x184D2A5E, /* a skippable frame */
    INDEX_MAX_BYTES = 256 << 20,
    FRAME_HEADER_BYTES = 8,
    TRAILER_BYTES = 16, /* length of the JSON text, then the mark */
};
static const char mark[8] = {'L', 'o', 'r', 'a', 'S', 'h', 'd', '1'};

/* ---- codec ---- */

/* What this machine is short of is neither damage nor a mistake of ours. */
static bool is_memory(size_t result)
{
    return ZSTD_isError(result) && ZSTD_getErrorCode(result) == ZSTD_error_memory_allocation;
}

struct shard_codec {
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
    void *planes, *packed;
    size_t planes_bytes, packed_bytes;
};

enum status shard_codec_create(struct shard_codec **out)
{
    struct shard_codec *codec = memory_new(1, sizeof *codec);
    if (!codec) return LORAD_NOMEM;
    codec->compress = ZSTD_createCCtx();
    codec->decompress = ZSTD_createDCtx();
    if (!codec->compress || !codec->decompress ||
        ZSTD_isError(ZSTD_CCtx_setParameter(codec->compress, ZSTD_c_checksumFlag, 1))) {
        shard_codec_destroy(codec);
        return FAIL(LORAD_NOMEM, "out of memory for zstd");
    }
    *out = codec;
    return LORAD_OK;
}

void shard_codec_destroy(struct shard_codec *codec)
{
    if (!codec) return;
    ZSTD_freeCCtx(codec->compress);
    ZSTD_freeDCtx(codec->decompress);
    free(codec->planes);
    free(codec->packed);
    free(codec);
}

/* Constant widths, so that the compiler makes shuffles of the inner loops. */
#define FOR_WIDTH(name, ...)                                                                                 \
    switch (width) {                                                                                         \
    case 1:                                                                                                  \
        name(__VA_ARGS__, 1);                                                                                \
        break;                                                                                               \
    case 2:                                                                                                  \
        name(__VA_ARGS__, 2);                                                                                \
        break;                                                                                               \
    case 4:                                                                                                  \
        name(__VA_ARGS__, 4);                                                                                \
        break;                                                                                               \
    default:                                                                                                 \
        name(__VA_ARGS__, 8);                                                                                \
        break;                                                                                               \
    }

static inline __attribute__((always_inline)) void split_width(uint8_t *restrict planes,
                                                              const uint8_t *restrict items, size_t n,
                                                              size_t width)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < width; k++) planes[k * n + i] = items[i * width + k];
}

static inline __attribute__((always_inline)) void join_width(uint8_t *restrict items,
                                                             const uint8_t *restrict planes, size_t n,
                                                             size_t width)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < width; k++) items[i * width + k] = planes[k * n + i];
}

static void split_planes(uint8_t *planes, const uint8_t *items, size_t n, size_t width)
{
    FOR_WIDTH(split_width, planes, items, n)
}

static void join_planes(uint8_t *items, const uint8_t *planes, size_t n, size_t width)
{
    FOR_WIDTH(join_width, items, planes, n)
}

/* ---- writing ---- */

/* Whether a plane looks like noise to a byte-wise coder. The sum of squares of byte counts of a sample is
 * smallest for equal counts; noise of m samples has about m^2 / 256 + m, and a plane that an entropy coder
 * shrinks by 1 % a tenth more. */
static bool is_noise(const uint8_t *plane, size_t n)
{
    if (n < SAMPLES) return false;
    uint32_t counts[256] = {0}, squares = 0;
    for (size_t i = 0; i < SAMPLES; i++) counts[plane[i * (n / SAMPLES)]]++;
    for (int i = 0; i < 256; i++) squares += counts[i] * counts[i];
    return squares < SAMPLES * SAMPLES / 256 + SAMPLES + SAMPLES * SAMPLES / 256 / 10;
}

struct shard_output {
    struct hashed_file *file;
    struct hash_stream *raw_hash;
    struct strbuf index;
    int64_t raw_bytes;
};

static enum status check_piece(const struct checkpoint_piece *piece, size_t *n, size_t *width)
{
    enum st_dtype dtype;
    int64_t items;
    if (!st_dtype_find(&dtype, piece->dtype) || (int64_t)st_dtype_bytes(dtype) != piece->item_bytes)
        return FAIL(LORAD_BUG, "piece %s: %d bytes are not the size of dtype %s", piece->name,
                    piece->item_bytes, piece->dtype);
    if (piece->row < 0 || piece->rows < 0 || piece->col < 0 || piece->cols < 0 ||
        piece->row > piece->shape[0] || piece->rows > piece->shape[0] - piece->row ||
        piece->col > piece->shape[1] || piece->cols > piece->shape[1] - piece->col ||
        __builtin_mul_overflow(piece->rows, piece->cols, &items) || items > INT64_MAX / 8)
        return FAIL(LORAD_BUG, "piece %s lies outside of its tensor [%lld, %lld]", piece->name,
                    (long long)piece->shape[0], (long long)piece->shape[1]);
    *n = (size_t)items;
    *width = (size_t)piece->item_bytes;
    return LORAD_OK;
}

/* Bytes of exponents match each other everywhere, but shortly: level 1 spends its time on that for nothing.
 * Longer matches from a smaller table leave more to the entropy coder: 1.7 times the speed, no larger. */
static void tune(struct shard_codec *codec, int32_t level)
{
    enum { MATCH_BYTES = 7, HASH_LOG = 6 };
    if (level != 1) return;
    ZSTD_CCtx_setParameter(codec->compress, ZSTD_c_minMatch, MATCH_BYTES);
    ZSTD_CCtx_setParameter(codec->compress, ZSTD_c_hashLog, HASH_LOG);
}

/* A piece whose frames lie in a codec's `packed`. */
struct packed_piece {
    size_t raw, bytes;
    struct hash128 hash;
};

static enum status pack_piece(struct packed_piece *out, struct shard_codec *codec,
                              const struct checkpoint_piece *piece, int32_t level)
{
    size_t n = 0, width = 0, bytes = 0;
    TRY(check_piece(piece, &n, &width));
    size_t raw = n * width, bound = ZSTD_compressBound(n);
    TRY(memory_grow(&codec->planes, &codec->planes_bytes, raw, 1));
    TRY(memory_grow(&codec->packed, &codec->packed_bytes, bound * width, 1));
    *out = (struct packed_piece){.raw = raw, .hash = hash128(piece->data, raw)};
    split_planes(codec->planes, piece->data, n, width);
    for (size_t k = 0; k < width && n > 0; k++) {
        const uint8_t *plane = (const uint8_t *)codec->planes + k * n;
        /* The lowest level hardly looks and stores: four times the speed on mantissas, for the same size. */
        size_t packed = ZSTD_CCtx_setParameter(codec->compress, ZSTD_c_compressionLevel,
                                               is_noise(plane, n) ? ZSTD_minCLevel() : level);
        if (!ZSTD_isError(packed))
            packed = ZSTD_compress2(codec->compress, (char *)codec->packed + bytes,
                                    codec->packed_bytes - bytes, plane, n);
        if (ZSTD_isError(packed))
            return FAIL(is_memory(packed) ? LORAD_NOMEM : LORAD_BUG, "cannot compress piece %s: %s",
                        piece->name, ZSTD_getErrorName(packed));
        bytes += packed;
    }
    out->bytes = bytes;
    return LORAD_OK;
}

static enum status put_piece(struct shard_output *output, const struct checkpoint_piece *piece,
                             const struct packed_piece *packed, const void *frames)
{
    struct strbuf *text = &output->index;
    char hex[33];
    TRY(hashed_file_put(output->file, frames, packed->bytes));
    hash_stream_add(output->raw_hash, &packed->hash, sizeof packed->hash);
    output->raw_bytes += (int64_t)packed->raw;
    hash128_hex(packed->hash, hex);
    strbuf_puts(text, text->length > 1 ? ",\n{\"name\":" : "\n{\"name\":");
    js_write_string(text, piece->name, strlen(piece->name));
    strbuf_printf(text,
                  ",\"dtype\":\"%s\",\"shape\":[%lld,%lld],\"rows\":[%lld,%lld],\"cols\":[%lld,%lld],"
                  "\"bytes\":%lld,\"hash\":\"%s\"}",
                  piece->dtype, (long long)piece->shape[0], (long long)piece->shape[1], (long long)piece->row,
                  (long long)piece->rows, (long long)piece->col, (long long)piece->cols,
                  (long long)packed->bytes, hex);
    return LORAD_OK;
}

/* Threads take pieces in turn, pack them side by side, and put them one after the other. */
struct pack_team {
    struct shard_output *output; /* of whose turn it is */
    const struct checkpoint_piece *pieces;
    size_t n;
    int32_t level;
    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t changed;
    size_t taken, turn;
    enum status status; /* of the first that failed, and its words */
    char message[512];
};

static void fail_team(struct pack_team *team, enum status status)
{
    if (status == LORAD_OK || team->status != LORAD_OK) return;
    team->status = status;
    snprintf(team->message, sizeof team->message, "%s", status_message());
}

static void *pack_pieces(void *argument)
{
    struct pack_team *team = argument;
    struct shard_codec *codec = NULL;
    enum status status = shard_codec_create(&codec);
    if (status == LORAD_OK) tune(codec, team->level);
    pthread_mutex_lock(&team->lock);
    fail_team(team, status);
    while (team->status == LORAD_OK && team->taken < team->n) {
        size_t i = team->taken++;
        struct packed_piece packed;
        pthread_mutex_unlock(&team->lock);
        status = pack_piece(&packed, codec, &team->pieces[i], team->level);
        pthread_mutex_lock(&team->lock);
        while (team->turn != i && team->status == LORAD_OK) pthread_cond_wait(&team->changed, &team->lock);
        if (team->status != LORAD_OK) break;
        pthread_mutex_unlock(&team->lock);
        if (status == LORAD_OK) status = put_piece(team->output, &team->pieces[i], &packed, codec->packed);
        pthread_mutex_lock(&team->lock);
        fail_team(team, status);
        team->turn++;
        pthread_cond_broadcast(&team->changed);
    }
    pthread_cond_broadcast(&team->changed);
    pthread_mutex_unlock(&team->lock);
    shard_codec_destroy(codec);
    return NULL;
}

/* A thread that does not start is not missed. */
static enum status put_pieces(struct shard_output *output, const struct checkpoint_piece *pieces, size_t n,
                              struct shard_packing packing)
{
    struct pack_team team = {.output = output, .pieces = pieces, .n = n, .level = packing.level};
    pthread_t others[SHARD_MOST_THREADS];
    int started = 0;
    pthread_mutex_init(&team.lock, NULL);
    pthread_cond_init(&team.changed, NULL);
    while (started + 1 < packing.threads && started < SHARD_MOST_THREADS &&
           thread_start(&others[started], pack_pieces, &team) == 0)
        started++;
    (void)pack_pieces(&team);
    while (started > 0) pthread_join(others[--started], NULL);
    pthread_cond_destroy(&team.changed);
    pthread_mutex_destroy(&team.lock);
    return team.status == LORAD_OK ? LORAD_OK : FAIL(team.status, "%s", team.message);
}

static void put_le(unsigned char *to, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(value >> (8 * i));
}

static enum status put_index(struct shard_output *output)
{
    unsigned char head[FRAME_HEADER_BYTES], trailer[TRAILER_BYTES];
    strbuf_puts(&output->index, "\n]\n");
    TRY(strbuf_status(&output->index));
    size_t length = output->index.length;
    if (length > INDEX_MAX_BYTES - TRAILER_BYTES)
        return FAIL(LORAD_BUG, "the index of a shard has %zu bytes, which is too much", length);
    put_le(head, INDEX_MAGIC, 4);
    put_le(head + 4, length + TRAILER_BYTES, 4);
    put_le(trailer, length, 8);
    memcpy(trailer + 8, mark, sizeof mark);
    TRY(hashed_file_put(output->file, head, sizeof head));
    TRY(hashed_file_put(output->file, output->index.data, length));
    return hashed_file_put(output->file, trailer, sizeof trailer);
}

static enum status put_all(struct shard_output *output, const struct checkpoint_piece *pieces, size_t n,
                           struct shard_packing packing)
{
    TRY(hash_stream_create(&output->raw_hash));
    strbuf_putc(&output->index, '[');
    TRY(put_pieces(output, pieces, n, packing));
    return put_index(output);
}

enum status shard_write(struct fs *fs, const char *path, const struct checkpoint_piece *pieces, size_t n,
                        struct shard_packing packing, struct checkpoint_receipt *receipt)
{
    struct shard_output output = {.index = STRBUF_EMPTY};
    struct checkpoint_receipt written = *receipt;
    TRY(hashed_file_begin(&output.file, fs, path));
    enum status status = put_all(&output, pieces, n, packing);
    if (status != LORAD_OK) {
        hashed_file_discard(output.file);
    } else if ((status = hashed_file_finish(output.file, &written.file_hash, &written.file_bytes)) ==
               LORAD_OK) {
        written.raw_bytes = output.raw_bytes;
        written.raw_hash = hash_stream_value(output.raw_hash);
        written.index_hash = hash128(output.index.data, output.index.length);
        *receipt = written;
    }
    hash_stream_destroy(output.raw_hash);
    strbuf_free(&output.index);
    return status;
}

/* ---- reading ---- */

struct shard {
    char *path;
    int fd;
    int64_t size_bytes;
    struct json *index; /* owns the names */
    struct shard_piece *pieces;
    size_t n;
};

static enum status read_at(const struct shard *shard, int64_t offset, void *to, size_t length)
{
    char *at = to;
    while (length > 0) {
        ssize_t n = pread(shard->fd, at, length, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return FAIL(LORAD_IO, "cannot read %s: %s", shard->path, strerror(errno));
        if (n == 0) return FAIL(LORAD_DATA, "%s is truncated at byte %lld", shard->path, (long long)offset);
        at += n;
        offset += n;
        length -= (size_t)n;
    }
    return LORAD_OK;
}

static uint64_t get_le(const unsigned char *from, int bytes)
{
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--) value = value << 8 | from[i];
    return value;
}

static enum status damaged(const struct shard *shard, const char *what)
{
    return FAIL(LORAD_DATA, "%s is damaged: %s", shard->path, what);
}

/* Finds the index frame from the end of the file. Owns: *text. */
static enum status load_index(const struct shard *shard, char **text, size_t *length)
{
    unsigned char trailer[TRAILER_BYTES], head[FRAME_HEADER_BYTES];
    if (shard->size_bytes < FRAME_HEADER_BYTES + TRAILER_BYTES) return damaged(shard, "it is too short");
    TRY(read_at(shard, shard->size_bytes - TRAILER_BYTES, trailer, sizeof trailer));
    uint64_t n = get_le(trailer, 8);
    if (memcmp(trailer + 8, mark, sizeof mark) != 0) return damaged(shard, "it does not end with an index");
    if (n > INDEX_MAX_BYTES || (int64_t)n > shard->size_bytes - FRAME_HEADER_BYTES - TRAILER_BYTES)
        return damaged(shard, "its index is longer than the file");
    int64_t start = shard->size_bytes - TRAILER_BYTES - (int64_t)n;
    TRY(read_at(shard, start - FRAME_HEADER_BYTES, head, sizeof head));
    if (get_le(head, 4) != INDEX_MAGIC || get_le(head + 4, 4) != n + TRAILER_BYTES)
        return damaged(shard, "its index has no frame");
    char *bytes = malloc(n + 1);
    if (!bytes) return FAIL(LORAD_NOMEM, "out of memory for the index of %s", shard->path);
    enum status status = read_at(shard, start, bytes, n);
    if (status != LORAD_OK) {
        free(bytes);
        return status;
    }
    bytes[n] = '\0';
    *text = bytes;
    *length = n;
    return LORAD_OK;
}

static enum status get_pair(int64_t out[2], const struct json *entry, const char *key,
                            const struct shard *shard)
{
    const struct json *list = js_get(entry, key);
    if (js_type(list) != JS_ARRAY || js_length(list) != 2)
        return damaged(shard, "a pair is missing in its index");
    for (size_t i = 0; i < 2; i++)
        if ((out[i] = js_int(js_at(list, i), -1)) < 0)
            return damaged(shard, "a negative number in its index");
    return LORAD_OK;
}

static enum status parse_piece(struct shard_piece *piece, const struct json *entry, int64_t *offset,
                               const struct shard *shard)
{
    int64_t rows[2], cols[2];
    const char *name = js_string(js_get(entry, "name"), NULL),
               *dtype = js_string(js_get(entry, "dtype"), NULL);
    const char *hash = js_string(js_get(entry, "hash"), NULL);
    int64_t bytes = js_int(js_get(entry, "bytes"), -1);
    if (!name || !*name || !dtype || !hash || !st_dtype_find(&piece->dtype, dtype) || bytes < 0)
        return damaged(shard, "an entry of its index lacks name, dtype, bytes or hash");
    TRY(get_pair(piece->shape, entry, "shape", shard));
    TRY(get_pair(rows, entry, "rows", shard));
    TRY(get_pair(cols, entry, "cols", shard));
    TRY(hash128_parse(&piece->raw_hash, hash));
    piece->name = name;
    piece->row = rows[0], piece->rows = rows[1];
    piece->col = cols[0], piece->cols = cols[1];
    if (rows[0] > piece->shape[0] || rows[1] > piece->shape[0] - rows[0] || cols[0] > piece->shape[1] ||
        cols[1] > piece->shape[1] - cols[0])
        return damaged(shard, "a piece lies outside of its tensor");
    piece->raw_bytes = (int64_t)st_dtype_bytes(piece->dtype);
    if (__builtin_mul_overflow(piece->raw_bytes, rows[1], &piece->raw_bytes) ||
        __builtin_mul_overflow(piece->raw_bytes, cols[1], &piece->raw_bytes))
        return damaged(shard, "a piece is too large");
    piece->offset_bytes = *offset;
    piece->file_bytes = bytes;
    if (__builtin_add_overflow(*offset, bytes, offset) || *offset > shard->size_bytes)
        return damaged(shard, "a piece ends behind the file");
    return LORAD_OK;
}

static enum status parse_index(struct shard *shard, const char *text, size_t length,
                               const struct checkpoint_receipt *expected)
{
    TRY(js_parse(&shard->index, text, length, shard->path));
    if (js_type(shard->index) != JS_ARRAY) return damaged(shard, "its index is not a list");
    shard->n = js_length(shard->index);
    if (!(shard->pieces = memory_new(shard->n, sizeof *shard->pieces))) return LORAD_NOMEM;
    int64_t offset = 0, raw = 0;
    for (size_t i = 0; i < shard->n; i++) {
        TRY(parse_piece(&shard->pieces[i], js_at(shard->index, i), &offset, shard));
        if (__builtin_add_overflow(raw, shard->pieces[i].raw_bytes, &raw))
            return damaged(shard, "it is too large");
    }
    if (offset != shard->size_bytes - FRAME_HEADER_BYTES - TRAILER_BYTES - (int64_t)length)
        return damaged(shard, "its pieces do not fill it");
    if (!expected) return LORAD_OK;

    struct hash_stream *stream;
    TRY(hash_stream_create(&stream));
    for (size_t i = 0; i < shard->n; i++)
        hash_stream_add(stream, &shard->pieces[i].raw_hash, sizeof(struct hash128));
    bool same = raw == expected->raw_bytes && hash128_equal(hash_stream_value(stream), expected->raw_hash);
    hash_stream_destroy(stream);
    return same ? LORAD_OK : damaged(shard, "its index does not belong to this checkpoint");
}

static enum status shard_load(struct shard *shard, const struct checkpoint_receipt *expected)
{
    shard->fd = open(shard->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (shard->fd < 0)
        return FAIL(errno == EMFILE || errno == EIO ? LORAD_IO : LORAD_DATA, "cannot open %s: %s",
                    shard->path, strerror(errno));
    struct stat info;
    if (fstat(shard->fd, &info) != 0)
        return FAIL(LORAD_IO, "cannot stat %s: %s", shard->path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return damaged(shard, "it is not a regular file");
    shard->size_bytes = info.st_size;
    if (expected && info.st_size != expected->file_bytes)
        return FAIL(LORAD_DATA, "%s is damaged: %lld bytes expected, %lld found", shard->path,
                    (long long)expected->file_bytes, (long long)info.st_size);
    char *text = NULL;
    size_t length = 0;
    TRY(load_index(shard, &text, &length));
    enum status status = LORAD_OK;
    if (expected && !hash128_equal(hash128(text, length), expected->index_hash))
        status = damaged(shard, "its index has another hash than the manifest says");
    if (status == LORAD_OK) status = parse_index(shard, text, length, expected);
    free(text);
    return status;
}

enum status shard_open(struct shard **out, const char *path, const struct checkpoint_receipt *expected)
{
    struct shard *shard = memory_new(1, sizeof *shard);
    if (!shard) return LORAD_NOMEM;
    shard->fd = -1;
    shard->path = memory_string(path);
    enum status status = shard->path ? shard_load(shard, expected) : LORAD_NOMEM;
    if (status == LORAD_OK)
        *out = shard;
    else
        shard_close(shard);
    return status;
}

void shard_close(struct shard *shard)
{
    if (!shard) return;
    if (shard->fd >= 0) close(shard->fd);
    js_destroy(shard->index);
    free(shard->pieces);
    free(shard->path);
    free(shard);
}

size_t shard_count(const struct shard *shard)
{
    return shard->n;
}

const struct shard_piece *shard_at(const struct shard *shard, size_t index)
{
    ASSERT(index < shard->n);
    return &shard->pieces[index];
}

enum status shard_read(struct shard *shard, size_t index, struct shard_codec *codec, void *to)
{
    const struct shard_piece *piece = shard_at(shard, index);
    size_t raw = (size_t)piece->raw_bytes, packed = (size_t)piece->file_bytes,
           width = st_dtype_bytes(piece->dtype);
    TRY(memory_grow(&codec->planes, &codec->planes_bytes, raw, 1));
    TRY(memory_grow(&codec->packed, &codec->packed_bytes, packed, 1));
    TRY(read_at(shard, piece->offset_bytes, codec->packed, packed));
    size_t got = ZSTD_decompressDCtx(codec->decompress, codec->planes, raw, codec->packed, packed);
    if (is_memory(got)) return FAIL(LORAD_NOMEM, "out of memory while decompressing %s", shard->path);
    if (ZSTD_isError(got) || got != raw)
        return FAIL(LORAD_DATA, "%s is damaged: piece %.200s does not decompress: %s", shard->path,
                    piece->name, ZSTD_isError(got) ? ZSTD_getErrorName(got) : "it is too short");
    join_planes(to, codec->planes, raw / width, width);
    if (!hash128_equal(hash128(to, raw), piece->raw_hash))
        return FAIL(LORAD_DATA, "%s is damaged: piece %.200s has another hash than its index says",
                    shard->path, piece->name);
    return LORAD_OK;
}
