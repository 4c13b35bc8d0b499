/*
 * shard_file.c: one shard: its check and its writer.
 *
 * Invariants of a shard that shard_view_bytes accepts:
 * (1) the sections lie inside the file, in order, aligned to SHARD_ALIGN, and the file ends where the last one
 *     does.
 * (2) rows follow each other without gaps: row i starts where row i - 1 ends, and the last ends at n_tokens.
 * (3) every row has at least one token, and at most as many targets as tokens behind the first.
 */
#include "dataloader/shard_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shards are mapped as they are: little-endian");
_Static_assert(sizeof(struct shard_header) == SHARD_HEADER_BYTES, "the header has no holes");
_Static_assert(sizeof(struct shard_row) == 40, "a row entry has no holes");

static const char magic[8] = {'L', 'O', 'R', 'A', 'D', 'T', 'O', 'K'};
static const char *const section_name[SHARD_SECTIONS] = {"tokens", "supervised", "rows"};
static const size_t header_hashed = SHARD_HEADER_BYTES - 16;

uint64_t shard_row_hash(const int32_t *tokens, const uint8_t *supervised, int32_t n)
{
    uint64_t mask = hash64(supervised, (size_t)n);
    return hash64(tokens, (size_t)n * sizeof *tokens) ^ (mask << 32 | mask >> 32);
}

/* ---- reading ---- */

static enum status check_header(const struct shard_header *header, size_t length, const char *name)
{
    if (length < SHARD_HEADER_BYTES)
        return FAIL(LORAD_DATA, "%s: %zu bytes are too few for a token shard", name, length);
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
                                         header->n_rows * sizeof(struct shard_row)};
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

static enum status check_rows(const struct shard_view *shard, const char *name)
{
    const struct shard_section_entry *section = &shard->header->section[SHARD_ROWS];
    struct hash128 hash = hash128(shard->rows, section->bytes);
    if (hash.high != section->hash_high || hash.low != section->hash_low)
        return FAIL(LORAD_DATA, "%s: section rows is damaged (wrong hash)", name);
    uint64_t at = 0;
    for (int64_t i = 0; i < shard->n_rows; i++) {
        const struct shard_row *row = &shard->rows[i];
        if (row->first_token != at || row->n_tokens < 1 || row->n_supervised < 0 || row->source < 0 ||
            row->line < 1 || row->n_supervised >= row->n_tokens)
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

enum status shard_view_bytes(struct shard_view *out, const void *bytes, size_t length, const char *name)
{
    const struct shard_header *header = bytes;
    TRY(check_header(header, length, name));
    TRY(check_sections(header, length, name));
    const char *base = bytes;
    struct shard_view view = {
        .header = header,
        .tokens = (const int32_t *)(const void *)(base + header->section[SHARD_TOKENS].offset),
        .supervised = (const uint8_t *)(base + header->section[SHARD_SUPERVISED].offset),
        .rows = (const struct shard_row *)(const void *)(base + header->section[SHARD_ROWS].offset),
        .n_rows = (int64_t)header->n_rows,
    };
    TRY(check_rows(&view, name));
    *out = view;
    return LORAD_OK;
}

enum status shard_row_check(const struct shard_view *shard, int64_t row, const char *name)
{
    const struct shard_row *entry = &shard->rows[row];
    const int32_t *tokens = shard->tokens + entry->first_token;
    const uint8_t *supervised = shard->supervised + entry->first_token;
    if (shard_row_hash(tokens, supervised, entry->n_tokens) != entry->hash)
        return FAIL(LORAD_DATA,
                    "%s: row %lld is damaged (wrong hash): delete the folder, and the next run prepares "
                    "the data again",
                    name, (long long)row);
    /* The hash protects against accidents; these protect whoever indexes tables with what the file says. */
    uint32_t largest = 0, flags = 0;
    int64_t targets = 0;
    for (int32_t i = 0; i < entry->n_tokens; i++) {
        uint32_t token = (uint32_t)tokens[i];
        largest = token > largest ? token : largest;
        flags |= supervised[i];
        targets += supervised[i];
    }
    if (largest >= shard->header->vocab_size)
        return FAIL(LORAD_DATA, "%s: row %lld has token %u of a vocabulary of %u", name, (long long)row,
                    largest, shard->header->vocab_size);
    if (flags > 1 || targets - supervised[0] != entry->n_supervised)
        return FAIL(LORAD_DATA, "%s: row %lld does not have the %d targets that its entry says", name,
                    (long long)row, entry->n_supervised);
    return LORAD_OK;
}

/* ---- writing ---- */

struct shard_writer {
    char *folder;
    int32_t vocab_size, n_shards;
    int64_t shard_bytes, total_rows;
    int32_t *tokens;
    uint8_t *supervised;
    struct shard_row *rows;
    size_t n_tokens, n_rows;
    size_t token_capacity, supervised_capacity, row_capacity;
};

enum status shard_writer_create(struct shard_writer **out, const char *folder, int32_t vocab_size,
                                int64_t shard_bytes)
{
    ASSERT(vocab_size > 0 && shard_bytes > 0);
    struct shard_writer *writer = memory_new(1, sizeof *writer);
    if (!writer) return LORAD_NOMEM;
    writer->vocab_size = vocab_size;
    writer->shard_bytes = shard_bytes;
    if (!(writer->folder = memory_string(folder))) {
        free(writer);
        return LORAD_NOMEM;
    }
    *out = writer;
    return LORAD_OK;
}

void shard_writer_destroy(struct shard_writer *writer)
{
    if (!writer) return;
    free(writer->folder);
    free(writer->tokens);
    free(writer->supervised);
    free(writer->rows);
    free(writer);
}

static enum status write_all(int fd, const void *bytes, size_t length, const char *path)
{
    const char *at = bytes;
    while (length > 0) {
        ssize_t n = write(fd, at, length);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return FAIL(LORAD_IO, "cannot write %s: %s", path, n < 0 ? strerror(errno) : "nothing written");
        at += n;
        length -= (size_t)n;
    }
    return LORAD_OK;
}

struct piece {
    const void *bytes;
    size_t length;
};

/* One file made of several pieces. */
static enum status write_pieces(const char *folder, const char *name, const struct piece *pieces, int n)
{
    char *path = file_join(folder, name);
    if (!path) return LORAD_NOMEM;
    enum status status = LORAD_OK;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        status = FAIL(LORAD_CANNOT_CREATE, "cannot create %s: %s", path, strerror(errno));
        goto free_path;
    }
    for (int i = 0; status == LORAD_OK && i < n; i++)
        status = write_all(fd, pieces[i].bytes, pieces[i].length, path);
    if (status == LORAD_OK && fsync(fd) != 0)
        status = FAIL(LORAD_IO, "cannot write %s: %s", path, strerror(errno));
    if (close(fd) != 0 && status == LORAD_OK)
        status = FAIL(LORAD_IO, "cannot close %s: %s", path, strerror(errno));
free_path:
    free(path);
    return status;
}

enum status shard_write_file(const char *folder, const char *name, const void *bytes, size_t length)
{
    return write_pieces(folder, name, &(struct piece){bytes, length}, 1);
}

enum status shard_sync_folder(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return FAIL(LORAD_IO, "cannot open folder %s: %s", folder, strerror(errno));
    /* Some file systems cannot sync a folder and say EINVAL; there is nothing more to do there. */
    enum status status = LORAD_OK;
    if (fsync(fd) != 0 && errno != EINVAL)
        status = FAIL(LORAD_IO, "cannot write folder %s: %s", folder, strerror(errno));
    close(fd);
    return status;
}

static enum status close_shard(struct shard_writer *writer)
{
    static const char padding[SHARD_ALIGN];
    struct shard_header header = {.version = SHARD_VERSION,
                                  .header_bytes = SHARD_HEADER_BYTES,
                                  .n_rows = writer->n_rows,
                                  .n_tokens = writer->n_tokens,
                                  .vocab_size = (uint32_t)writer->vocab_size};
    memcpy(header.magic, magic, sizeof magic);
    struct piece pieces[1 + 2 * SHARD_SECTIONS] = {{&header, sizeof header}};
    const void *bytes[SHARD_SECTIONS] = {writer->tokens, writer->supervised, writer->rows};
    size_t lengths[SHARD_SECTIONS] = {writer->n_tokens * sizeof *writer->tokens, writer->n_tokens,
                                      writer->n_rows * sizeof *writer->rows};
    uint64_t end = SHARD_HEADER_BYTES;
    for (int i = 0; i < SHARD_SECTIONS; i++) {
        struct hash128 hash = hash128(bytes[i], lengths[i]);
        uint64_t offset = aligned(end);
        header.section[i] = (struct shard_section_entry){offset, lengths[i], hash.high, hash.low};
        pieces[1 + 2 * i] = (struct piece){padding, (size_t)(offset - end)};
        pieces[2 + 2 * i] = (struct piece){bytes[i], lengths[i]};
        end = offset + lengths[i];
    }
    struct hash128 hash = hash128(&header, header_hashed);
    header.hash_high = hash.high;
    header.hash_low = hash.low;

    char name[32];
    snprintf(name, sizeof name, "tokens-%05d.bin", writer->n_shards);
    TRY(write_pieces(writer->folder, name, pieces, 1 + 2 * SHARD_SECTIONS));
    writer->n_shards++;
    writer->n_tokens = writer->n_rows = 0;
    return LORAD_OK;
}

static enum status grow(struct shard_writer *writer, size_t n)
{
    void *block = writer->tokens;
    TRY(memory_grow(&block, &writer->token_capacity, writer->n_tokens + n, sizeof *writer->tokens));
    writer->tokens = block;
    block = writer->supervised;
    TRY(memory_grow(&block, &writer->supervised_capacity, writer->n_tokens + n, 1));
    writer->supervised = block;
    block = writer->rows;
    TRY(memory_grow(&block, &writer->row_capacity, writer->n_rows + 1, sizeof *writer->rows));
    writer->rows = block;
    return LORAD_OK;
}

enum status shard_writer_add(struct shard_writer *writer, const int32_t *tokens, const uint8_t *supervised,
                             int32_t n, int32_t source, int64_t line)
{
    ASSERT(n >= 1 && source >= 0 && line >= 1);
    TRY(grow(writer, (size_t)n));
    int32_t targets = 0;
    for (int32_t i = 1; i < n; i++) targets += supervised[i];
    memcpy(writer->tokens + writer->n_tokens, tokens, (size_t)n * sizeof *tokens);
    memcpy(writer->supervised + writer->n_tokens, supervised, (size_t)n);
    writer->rows[writer->n_rows++] = (struct shard_row){.first_token = writer->n_tokens,
                                                        .line = line,
                                                        .hash = shard_row_hash(tokens, supervised, n),
                                                        .n_tokens = n,
                                                        .n_supervised = targets,
                                                        .source = source};
    writer->n_tokens += (size_t)n;
    writer->total_rows++;
    size_t bytes = writer->n_tokens * 5 + writer->n_rows * sizeof *writer->rows;
    return bytes >= (size_t)writer->shard_bytes ? close_shard(writer) : LORAD_OK;
}

enum status shard_writer_finish(struct shard_writer *writer, const char *const *sources, int32_t n_sources)
{
    if (writer->n_rows > 0 || writer->n_shards == 0) TRY(close_shard(writer));
    struct strbuf text = STRBUF_EMPTY;
    strbuf_printf(&text,
                  "{\"version\": %d, \"shards\": %d, \"rows\": %lld, \"vocab_size\": %d, \"sources\": [",
                  SHARD_VERSION, writer->n_shards, (long long)writer->total_rows, writer->vocab_size);
    for (int32_t i = 0; i < n_sources; i++) {
        if (i > 0) strbuf_puts(&text, ", ");
        js_write_string(&text, sources[i], strlen(sources[i]));
    }
    strbuf_puts(&text, "]}\n");
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) status = shard_write_file(writer->folder, "dataset.json", text.data, text.length);
    strbuf_free(&text);
    TRY(status);
    return shard_sync_folder(writer->folder);
}
