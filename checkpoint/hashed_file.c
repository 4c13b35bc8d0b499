#include "checkpoint/hashed_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* A block is one write, a part of it is hashed while it lies in the nearest cache. */
enum { BLOCK_BYTES = 1 << 20, PART_BYTES = 64 << 10 };

struct hashed_file {
    struct fs_file *file;
    struct hash_stream *hash;
    char *block; /* [BLOCK_BYTES] */
    size_t held; /* in it, not written yet */
    int64_t bytes;
};

static void file_free(struct hashed_file *file)
{
    hash_stream_destroy(file->hash);
    free(file->block);
    free(file);
}

enum status hashed_file_begin(struct hashed_file **out, struct fs *fs, const char *path)
{
    struct hashed_file *file = memory_new(1, sizeof *file);
    if (!file) return LORAD_NOMEM;
    file->block = aligned_alloc(FS_DIRECT_BYTES, BLOCK_BYTES);
    enum status status = file->block ? LORAD_OK : FAIL(LORAD_NOMEM, "out of memory for writing %s", path);
    if (status == LORAD_OK) status = hash_stream_create(&file->hash);
    if (status == LORAD_OK) status = fs_begin(&file->file, fs, path);
    if (status == LORAD_OK)
        *out = file;
    else
        file_free(file);
    return status;
}

static enum status flush(struct hashed_file *file)
{
    size_t held = file->held;
    file->held = 0;
    return fs_write(file->file, file->block, held);
}

enum status hashed_file_put(struct hashed_file *file, const void *bytes, size_t length)
{
    const char *from = bytes;
    while (length > 0) {
        size_t n = BLOCK_BYTES - file->held;
        if (n > PART_BYTES) n = PART_BYTES;
        if (n > length) n = length;
        char *to = file->block + file->held;
        memcpy(to, from, n);
        hash_stream_add(file->hash, to, n);
        from += n;
        length -= n;
        file->held += n;
        file->bytes += (int64_t)n;
        if (file->held == BLOCK_BYTES) TRY(flush(file));
    }
    return LORAD_OK;
}

enum status hashed_file_finish(struct hashed_file *file, struct hash128 *hash, int64_t *bytes)
{
    enum status status = flush(file);
    if (status != LORAD_OK) {
        hashed_file_discard(file);
        return status;
    }
    status = fs_finish(file->file);
    if (status == LORAD_OK) {
        *hash = hash_stream_value(file->hash);
        *bytes = file->bytes;
    }
    file_free(file);
    return status;
}

void hashed_file_discard(struct hashed_file *file)
{
    if (!file) return;
    fs_discard(file->file);
    file_free(file);
}
