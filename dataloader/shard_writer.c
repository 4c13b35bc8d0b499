/*
 * shard_writer.c: the writing half of shard_file.h.
 *
 * Invariants:
 * (1) a file appears under its name complete and on the disk, or not at all.
 * (2) what a shard holds, and where the next begins, is a function of the rows and of shard_bytes alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "dataloader/shard_file.h"

static const char leftover_mark[] = ".part-";

struct shard_writer {
    struct shard_writer_options options;
    int32_t number;
    int64_t rows_before;
    int32_t *tokens;
    uint8_t *codes;
    struct shard_row *rows;
    size_t n_tokens, n_rows;
    size_t token_capacity, code_capacity, row_capacity;
    float weight_of[SHARD_CODES_MOST];
    int n_codes;
};

static void begin_shard(struct shard_writer *writer)
{
    writer->n_tokens = writer->n_rows = 0;
    memset(writer->weight_of, 0, sizeof writer->weight_of);
    writer->weight_of[1] = 1;
    writer->n_codes = 2;
}

enum status shard_writer_create(struct shard_writer **out, const struct shard_writer_options *options)
{
    ASSERT(options->vocab_size > 0 && options->shard_bytes > 0);
    struct shard_writer *writer = memory_new(1, sizeof *writer);
    if (!writer) return LORAD_NOMEM;
    writer->options = *options;
    writer->number = options->first_shard;
    writer->rows_before = options->rows_before;
    begin_shard(writer);
    *out = writer;
    return LORAD_OK;
}

void shard_writer_destroy(struct shard_writer *writer)
{
    if (!writer) return;
    free(writer->tokens);
    free(writer->codes);
    free(writer->rows);
    free(writer);
}

/* ---- rows ---- */

/* Codes are few and rows have runs of equal weights, so the last one found is tried first. */
static int find_code(const float *weight_of, int n_codes, float weight)
{
    if (weight == 0) return 0;
    for (int code = 1; code < n_codes; code++)
        if (weight_of[code] == weight) return code;
    return -1;
}

bool shard_writer_takes(const struct shard_writer *writer, const float *weights, int32_t n)
{
    float weight_of[SHARD_CODES_MOST];
    int n_codes = writer->n_codes;
    memcpy(weight_of, writer->weight_of, sizeof weight_of);
    float last = 0;
    for (int32_t i = 0; i < n; i++) {
        if (weights[i] == last) continue;
        last = weights[i];
        if (find_code(weight_of, n_codes, last) >= 0) continue;
        if (n_codes == SHARD_CODES_MOST) return false;
        weight_of[n_codes++] = last;
    }
    return true;
}

static void write_codes(struct shard_writer *writer, uint8_t *codes, const float *weights, int32_t n)
{
    float last = 0;
    int code = 0;
    for (int32_t i = 0; i < n; i++) {
        if (weights[i] != last) {
            last = weights[i];
            code = find_code(writer->weight_of, writer->n_codes, last);
            if (code < 0) {
                ASSERT(writer->n_codes < SHARD_CODES_MOST);
                code = writer->n_codes++;
                writer->weight_of[code] = last;
            }
        }
        codes[i] = (uint8_t)code;
    }
}

enum status shard_writer_add(struct shard_writer *writer, const struct shard_entry *row)
{
    size_t n = (size_t)row->n;
    void *block = writer->tokens;
    TRY(memory_grow(&block, &writer->token_capacity, writer->n_tokens + n + 1, sizeof *writer->tokens));
    writer->tokens = block;
    block = writer->codes;
    TRY(memory_grow(&block, &writer->code_capacity, writer->n_tokens + n + 1, 1));
    writer->codes = block;
    block = writer->rows;
    TRY(memory_grow(&block, &writer->row_capacity, writer->n_rows + 1, sizeof *writer->rows));
    writer->rows = block;
    struct shard_row *entry = &writer->rows[writer->n_rows];
    *entry = (struct shard_row){.first_token = writer->n_tokens,
                                .raw_row = row->raw_row,
                                .line = row->line,
                                .n_tokens = row->n,
                                .source = row->source,
                                .problem = row->problem};
    if (row->n > 0) {
        int32_t *tokens = writer->tokens + writer->n_tokens;
        uint8_t *codes = writer->codes + writer->n_tokens;
        memcpy(tokens, row->tokens, n * sizeof *tokens);
        write_codes(writer, codes, row->weights, row->n);
        entry->hash = shard_row_hash(tokens, codes, writer->weight_of, row->n);
        for (int32_t i = 1; i < row->n; i++) {
            entry->n_supervised += codes[i] != 0;
            entry->weight += (double)row->weights[i];
        }
    }
    writer->n_rows++;
    writer->n_tokens += n;
    return LORAD_OK;
}

bool shard_writer_full(const struct shard_writer *writer)
{
    int doublings = writer->number < 24 ? writer->number : 24;
    size_t bytes = writer->n_tokens * (sizeof *writer->tokens + 1) + writer->n_rows * sizeof *writer->rows;
    return writer->n_rows >= (size_t)SHARD_FIRST_ROWS << doublings ||
           bytes >= (size_t)writer->options.shard_bytes;
}

int64_t shard_writer_rows(const struct shard_writer *writer)
{
    return (int64_t)writer->n_rows;
}

int32_t shard_writer_number(const struct shard_writer *writer)
{
    return writer->number;
}

/* ---- files ---- */

struct piece {
    const void *bytes;
    size_t length;
};

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

static enum status write_new(const char *path, const struct piece *pieces, int n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return FAIL(LORAD_CANNOT_CREATE, "cannot create %s: %s", path, strerror(errno));
    enum status status = LORAD_OK;
    for (int i = 0; status == LORAD_OK && i < n; i++)
        status = write_all(fd, pieces[i].bytes, pieces[i].length, path);
    if (status == LORAD_OK && fsync(fd) != 0)
        status = FAIL(LORAD_IO, "cannot write %s: %s", path, strerror(errno));
    if (close(fd) != 0 && status == LORAD_OK)
        status = FAIL(LORAD_IO, "cannot close %s: %s", path, strerror(errno));
    return status;
}

/* One file made of several pieces. */
static enum status write_pieces(const char *folder, const char *name, const struct piece *pieces, int n)
{
    char host[64] = "", other[160];
    gethostname(host, sizeof host - 1);
    snprintf(other, sizeof other, "%.60s%s%s-%ld", name, leftover_mark, host, (long)getpid());
    char *path = file_join(folder, name), *part = file_join(folder, other);
    enum status status = path && part ? write_new(part, pieces, n) : LORAD_NOMEM;
    if (status == LORAD_OK && rename(part, path) != 0)
        status = FAIL(LORAD_IO, "cannot rename %s to %s: %s", part, path, strerror(errno));
    if (status != LORAD_OK && part) unlink(part);
    free(path);
    free(part);
    return status;
}

bool shard_is_leftover(const char *name)
{
    return strstr(name, leftover_mark) != NULL;
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

static uint64_t aligned(uint64_t offset)
{
    return (offset + SHARD_ALIGN - 1) / SHARD_ALIGN * SHARD_ALIGN;
}

enum status shard_writer_close(struct shard_writer *writer)
{
    static const char padding[SHARD_ALIGN];
    struct shard_header header = {.magic = {'L', 'O', 'R', 'A', 'D', 'T', 'O', 'K'},
                                  .version = SHARD_VERSION,
                                  .header_bytes = SHARD_HEADER_BYTES,
                                  .n_rows = writer->n_rows,
                                  .n_tokens = writer->n_tokens,
                                  .rows_before = (uint64_t)writer->rows_before,
                                  .vocab_size = (uint32_t)writer->options.vocab_size};
    const struct piece sections[SHARD_SECTIONS] = {
        {writer->tokens, writer->n_tokens * sizeof *writer->tokens},
        {writer->codes, writer->n_tokens},
        {writer->rows, writer->n_rows * sizeof *writer->rows},
        {writer->weight_of, sizeof writer->weight_of}};
    struct piece pieces[1 + 2 * SHARD_SECTIONS] = {{&header, sizeof header}};
    uint64_t end = sizeof header;
    int n = 1;
    for (int i = 0; i < SHARD_SECTIONS; i++) {
        struct hash128 hash = hash128(sections[i].bytes, sections[i].length);
        header.section[i] =
            (struct shard_section_entry){aligned(end), sections[i].length, hash.high, hash.low};
        pieces[n++] = (struct piece){padding, (size_t)(aligned(end) - end)};
        pieces[n++] = sections[i];
        end = aligned(end) + sections[i].length;
    }
    struct hash128 hash = hash128(&header, SHARD_HEADER_BYTES - 16);
    header.hash_high = hash.high;
    header.hash_low = hash.low;
    char name[SHARD_NAME_BYTES];
    shard_name(name, writer->number);
    TRY(write_pieces(writer->options.folder, name, pieces, n));
    TRY(shard_sync_folder(writer->options.folder));
    writer->number++;
    writer->rows_before += (int64_t)writer->n_rows;
    begin_shard(writer);
    return LORAD_OK;
}
