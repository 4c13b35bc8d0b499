/*
 * shard_file.c: one shard: its mapping and its checks. The writer: shard_writer.c.
 *
 * Invariants of a shard that shard_view_bytes accepts:
 * (1) the sections lie inside the file, in order, aligned to SHARD_ALIGN, and the file ends where the last
 *     one does.
 * (2) the table of weights has 0 for code 0 and 1 for code 1; all others are finite and not negative.
 *
 * And of one that shard_check_rows accepts:
 * (3) rows follow each other without gaps: row i starts where row i - 1 ends, and the last ends at n_tokens.
 * (4) a row has no tokens and a problem, or tokens and fewer targets than these.
 */
#include "dataloader/shard_file.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shards are mapped as they are: little-endian");
_Static_assert(sizeof(struct shard_header) == SHARD_HEADER_BYTES, "the header has no holes");
_Static_assert(sizeof(struct shard_row) == 56, "a row entry has no holes");

static const char magic[8] = {'L', 'O', 'R', 'A', 'D', 'T', 'O', 'K'};
static const char *const section_name[SHARD_SECTIONS] = {"tokens", "codes", "rows", "weights"};
static const size_t header_hashed = SHARD_HEADER_BYTES - 16;

void shard_name(char name[SHARD_NAME_BYTES], int32_t number)
{
    snprintf(name, SHARD_NAME_BYTES, "tokens-%05d.bin", number);
}

/* ---- hashes ---- */

/* Codes 0 and 1 mean the same in every shard and are hashed as they are; others as the weights they stand
 * for. */
static uint64_t weights_hash(const uint8_t *codes, const float *weight_of, int32_t n)
{
    enum { CHUNK = 1024 };
    float weights[CHUNK];
    uint8_t all = 0;
    for (int32_t i = 0; i < n; i++) all |= codes[i];
    if (all <= 1) return hash64(codes, (size_t)n);
    uint64_t hash = 1;
    for (int32_t at = 0; at < n; at += CHUNK) {
        int32_t count = n - at < CHUNK ? n - at : CHUNK;
        for (int32_t i = 0; i < count; i++) weights[i] = weight_of[codes[at + i]];
        hash =
            (hash << 7 | hash >> 57) * 0x9E3779B97F4A7C15u ^ hash64(weights, (size_t)count * sizeof *weights);
    }
    return hash;
}

uint64_t shard_row_hash(const int32_t *tokens, const uint8_t *codes, const float *weight_of, int32_t n)
{
    uint64_t weights = weights_hash(codes, weight_of, n);
    return hash64(tokens, (size_t)n * sizeof *tokens) ^ (weights << 32 | weights >> 32);
}

/* ---- checks ---- */

static enum status check_header(const struct shard_header *header, size_t length, const char *name)
{
    if (length < SHARD_HEADER_BYTES)
        return FAIL(LORAD_DATA, "%s: %zu bytes are too few for a token shard: it is cut off", name, length);
    if (memcmp(header->magic, magic, sizeof magic) != 0)
        return FAIL(LORAD_DATA, "%s is not a token shard (wrong first bytes)", name);
    if (header->version != SHARD_VERSION || header->header_bytes != SHARD_HEADER_BYTES)
        return FAIL(LORAD_DATA,
                    "%s: token shard version %u; this program reads version %d: prepare the data again", name,
                    header->version, SHARD_VERSION);
    struct hash128 hash = hash128(header, header_hashed);
    if (hash.high != header->hash_high || hash.low != header->hash_low)
        return FAIL(LORAD_DATA, "%s: the header is damaged (wrong hash)", name);
    if (header->vocab_size < 1 || header->vocab_size > INT32_MAX)
        return FAIL(LORAD_DATA, "%s: a vocabulary of %u tokens", name, header->vocab_size);
    if (header->rows_before > INT64_MAX / 2)
        return FAIL(LORAD_DATA, "%s: %llu rows before it", name, (unsigned long long)header->rows_before);
    return LORAD_OK;
}

static uint64_t aligned(uint64_t offset)
{
    return (offset + SHARD_ALIGN - 1) / SHARD_ALIGN * SHARD_ALIGN;
}

static enum status check_sections(const struct shard_header *header, size_t length, const char *name)
{
    /* Also keeps the products below from overflowing. */
    if (header->n_tokens > length || header->n_rows > length)
        return FAIL(LORAD_DATA, "%s: the file is shorter than its header says", name);
    uint64_t expected[SHARD_SECTIONS] = {header->n_tokens * sizeof(int32_t), header->n_tokens,
                                         header->n_rows * sizeof(struct shard_row),
                                         SHARD_CODES_MOST * sizeof(float)};
    uint64_t end = SHARD_HEADER_BYTES;
    for (int i = 0; i < SHARD_SECTIONS; i++) {
        const struct shard_section_entry *section = &header->section[i];
        if (section->offset != aligned(end) || section->bytes != expected[i])
            return FAIL(LORAD_DATA, "%s: section %s is not where it should be", name, section_name[i]);
        end = section->offset + section->bytes;
        if (end > length)
            return FAIL(LORAD_DATA, "%s: the file ends inside section %s: it is cut off", name,
                        section_name[i]);
    }
    if (end != length)
        return FAIL(LORAD_DATA, "%s: %zu bytes behind the last section", name, length - (size_t)end);
    return LORAD_OK;
}

static enum status check_hash(const struct shard_view *shard, enum shard_section which, const char *name)
{
    const struct shard_section_entry *section = &shard->header->section[which];
    struct hash128 hash = hash128((const char *)shard->header + section->offset, section->bytes);
    if (hash.high != section->hash_high || hash.low != section->hash_low)
        return FAIL(LORAD_DATA, "%s: section %s is damaged (wrong hash)", name, section_name[which]);
    return LORAD_OK;
}

static enum status check_weights(const struct shard_view *shard, const char *name)
{
    TRY(check_hash(shard, SHARD_WEIGHTS, name));
    bool good = shard->weight_of[0] == 0 && shard->weight_of[1] == 1;
    for (int i = 2; i < SHARD_CODES_MOST; i++)
        good &= isfinite(shard->weight_of[i]) && shard->weight_of[i] >= 0;
    return good ? LORAD_OK : FAIL(LORAD_DATA, "%s: the table of weights makes no sense", name);
}

enum status shard_view_bytes(struct shard_view *out, const void *bytes, size_t length, const char *name)
{
    const struct shard_header *header = bytes;
    TRY(check_header(header, length, name));
    TRY(check_sections(header, length, name));
    const char *base = bytes;
    struct shard_view view = {
        .header = header,
        .tokens = (const int32_t *)(const void *)(base + header->section[SHARD_TOKENS].offset),
        .codes = (const uint8_t *)(base + header->section[SHARD_CODES].offset),
        .weight_of = (const float *)(const void *)(base + header->section[SHARD_WEIGHTS].offset),
        .rows = (const struct shard_row *)(const void *)(base + header->section[SHARD_ROWS].offset),
        .n_rows = (int64_t)header->n_rows,
    };
    TRY(check_weights(&view, name));
    *out = view;
    return LORAD_OK;
}

static bool row_makes_sense(const struct shard_row *row)
{
    if (row->raw_row < 0 || row->line < 1 || row->source < 0) return false;
    if (row->n_tokens == 0)
        return row->n_supervised == 0 && row->problem != 0 && row->hash == 0 && row->weight == 0;
    return row->n_tokens > 0 && row->n_supervised >= 0 && row->n_supervised < row->n_tokens &&
           isfinite(row->weight) && row->weight >= 0;
}

enum status shard_check_rows(const struct shard_view *shard, const char *name)
{
    TRY(check_hash(shard, SHARD_ROWS, name));
    uint64_t at = 0;
    for (int64_t i = 0; i < shard->n_rows; i++) {
        const struct shard_row *row = &shard->rows[i];
        if (row->first_token != at || !row_makes_sense(row))
            return FAIL(LORAD_DATA, "%s: the entry of row %lld makes no sense", name, (long long)i);
        at += (uint64_t)row->n_tokens;
        if (at > shard->header->n_tokens)
            return FAIL(LORAD_DATA, "%s: row %lld lies behind the last token", name, (long long)i);
    }
    if (at != shard->header->n_tokens)
        return FAIL(LORAD_DATA, "%s: the rows hold %llu of %llu tokens", name, (unsigned long long)at,
                    (unsigned long long)shard->header->n_tokens);
    return LORAD_OK;
}

enum status shard_row_check(const struct shard_view *shard, int64_t row, const char *name)
{
    const struct shard_row *entry = &shard->rows[row];
    const int32_t *tokens = shard->tokens + entry->first_token;
    const uint8_t *codes = shard->codes + entry->first_token;
    if (entry->n_tokens == 0) return LORAD_OK;
    if (shard_row_hash(tokens, codes, shard->weight_of, entry->n_tokens) != entry->hash)
        return FAIL(LORAD_DATA,
                    "%s: row %lld is damaged (wrong hash): delete the folder, and the next run prepares "
                    "the data again",
                    name, (long long)row);
    /* The hash protects against accidents; these protect whoever indexes tables with what the file says. */
    uint32_t largest = 0;
    int64_t targets = 0;
    double weight = 0;
    bool known = true;
    for (int32_t i = 0; i < entry->n_tokens; i++) {
        uint32_t token = (uint32_t)tokens[i];
        largest = token > largest ? token : largest;
        known &= codes[i] == 0 || shard->weight_of[codes[i]] > 0;
        if (i == 0) continue;
        targets += codes[i] != 0;
        weight += (double)shard->weight_of[codes[i]];
    }
    if (largest >= shard->header->vocab_size)
        return FAIL(LORAD_DATA, "%s: row %lld has token %u of a vocabulary of %u", name, (long long)row,
                    largest, shard->header->vocab_size);
    if (!known || targets != entry->n_supervised || weight != entry->weight)
        return FAIL(LORAD_DATA, "%s: row %lld does not have the %d targets that its entry says", name,
                    (long long)row, entry->n_supervised);
    return LORAD_OK;
}

enum status shard_check_all(const struct shard_view *shard, const char *name)
{
    TRY(check_hash(shard, SHARD_TOKENS, name));
    TRY(check_hash(shard, SHARD_CODES, name));
    TRY(shard_check_rows(shard, name));
    for (int64_t i = 0; i < shard->n_rows; i++) TRY(shard_row_check(shard, i, name));
    return LORAD_OK;
}

/* ---- mapping ---- */

static enum status map_file(struct shard_map *shard)
{
    int fd = open(shard->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return FAIL(errno == ENOENT ? LORAD_NOT_FOUND : LORAD_IO, "cannot open %s: %s", shard->path,
                    strerror(errno));
    enum status status = LORAD_OK;
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        status = FAIL(LORAD_DATA, "%s is not a regular file", shard->path);
        goto close_file;
    }
    if (info.st_size < SHARD_HEADER_BYTES) {
        status = FAIL(LORAD_DATA, "%s: %lld bytes are too few for a token shard: it is cut off", shard->path,
                      (long long)info.st_size);
        goto close_file;
    }
    void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        status = FAIL(LORAD_IO, "cannot map %s: %s", shard->path, strerror(errno));
        goto close_file;
    }
    shard->map = map;
    shard->length = (size_t)info.st_size;
close_file:
    close(fd);
    return status;
}

/* Rows are served in another order than they lie in, and read_ahead.h fetches what is needed: the kernel
 * shall not read what is around each of them, which would be most of the file for a few rows of it. */
static void expect_random_reads(const struct shard_map *shard)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), map = (uintptr_t)shard->map;
    for (int k = SHARD_TOKENS; k <= SHARD_CODES; k++) {
        const struct shard_section_entry *section = &shard->view.header->section[k];
        uintptr_t begin = (map + section->offset + page - 1) / page * page;
        uintptr_t end = (map + section->offset + section->bytes) / page * page;
        if (begin < end) madvise((void *)begin, end - begin, MADV_RANDOM);
    }
}

enum status shard_map_open(struct shard_map *out, const char *folder, int32_t number)
{
    char name[SHARD_NAME_BYTES];
    struct shard_map shard = {0};
    shard_name(name, number);
    if (!(shard.path = file_join(folder, name))) return LORAD_NOMEM;
    enum status status = map_file(&shard);
    if (status == LORAD_OK) status = shard_view_bytes(&shard.view, shard.map, shard.length, shard.path);
    if (status == LORAD_OK) {
        expect_random_reads(&shard);
        *out = shard;
    } else {
        shard_map_close(&shard);
    }
    return status;
}

void shard_map_close(struct shard_map *shard)
{
    if (shard->map) munmap(shard->map, shard->length);
    free(shard->path);
    *shard = (struct shard_map){0};
}
