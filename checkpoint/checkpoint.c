/*
 * checkpoint.c: finding, opening and reading checkpoints.
 *
 * A logical tensor is whatever pieces of all shards cover it. Replicated pieces overlap; the lowest rank's is
 * used.
 *
 * Invariants:
 * 1. Nothing of a folder is believed before MANIFEST.json's own hash, nor of a shard before its index's hash.
 * 2. checkpoint_read fills its whole destination from pieces whose hash was checked, or fails.
 */
#include "checkpoint/checkpoint_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

enum { HASH_BLOCK_BYTES = 1 << 20, MAX_UNCOVERED = 4096 };

/* ---- names ---- */

void checkpoint_id_name(struct checkpoint_id id, char text[CHECKPOINT_NAME_BYTES])
{
    snprintf(text, CHECKPOINT_NAME_BYTES, "s%09lld.e%07lld.a%d", (long long)id.step, (long long)id.epoch,
             id.attempt);
}

bool checkpoint_id_parse(struct checkpoint_id *out, const char *name)
{
    char text[CHECKPOINT_NAME_BYTES];
    long long step, epoch;
    int attempt;
    if (sscanf(name, "s%18lld.e%18lld.a%9d", &step, &epoch, &attempt) != 3 || step < 0 || epoch < 0 ||
        attempt < 0)
        return false;
    struct checkpoint_id id = {step, epoch, attempt};
    checkpoint_id_name(id, text);
    if (strcmp(text, name) != 0) return false;
    *out = id;
    return true;
}

char *checkpoint_path(const char *a, const char *b, const char *c, const char *d)
{
    const char *parts[] = {b, c, d};
    char *path = memory_string(a);
    for (int i = 0; i < 3 && parts[i] && path; i++) {
        char *longer = file_join(path, parts[i]);
        free(path);
        path = longer;
    }
    return path;
}

/* Past the page cache when asked, where that can be done. */
static int open_for_hash(const char *path, bool from_disk)
{
    int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    int fd = open(path, flags | (from_disk ? O_DIRECT : 0));
    return fd < 0 && errno == EINVAL && from_disk ? open(path, flags) : fd;
}

/* A file system may say only at a read that it cannot bypass its cache. False: this one did not. */
static bool stop_bypassing(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_DIRECT) && fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0;
}

static ssize_t read_some(int fd, void *block, size_t length)
{
    ssize_t n;
    do n = read(fd, block, length);
    while (n < 0 && (errno == EINTR || (errno == EINVAL && stop_bypassing(fd))));
    return n;
}

static enum status hash_all(struct hash_stream *stream, int64_t *bytes, int fd, const char *path)
{
    struct stat info;
    ssize_t n;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return FAIL(LORAD_DATA, "%s is not a regular file", path);
    char *block = aligned_alloc(FS_DIRECT_BYTES, HASH_BLOCK_BYTES);
    if (!block) return FAIL(LORAD_NOMEM, "out of memory while reading %s", path);
    while ((n = read_some(fd, block, HASH_BLOCK_BYTES)) > 0) {
        hash_stream_add(stream, block, (size_t)n);
        *bytes += n;
    }
    free(block);
    return n < 0 ? FAIL(LORAD_IO, "cannot read %s: %s", path, strerror(errno)) : LORAD_OK;
}

enum status checkpoint_hash_file(struct hash128 *hash, int64_t *bytes, const char *path, bool from_disk)
{
    struct hash_stream *stream = NULL;
    int64_t total = 0;
    int fd = open_for_hash(path, from_disk);
    if (fd < 0) return FAIL(LORAD_DATA, "cannot open %s: %s", path, strerror(errno));
    enum status status = hash_stream_create(&stream);
    if (status == LORAD_OK) status = hash_all(stream, &total, fd, path);
    if (status == LORAD_OK) {
        *hash = hash_stream_value(stream);
        *bytes = total;
    }
    hash_stream_destroy(stream);
    close(fd);
    return status;
}

/* ---- finding ---- */

static int newest_first(const void *a, const void *b)
{
    const struct checkpoint_id *x = &((const struct checkpoint_entry *)a)->id;
    const struct checkpoint_id *y = &((const struct checkpoint_entry *)b)->id;
    if (x->step != y->step) return x->step > y->step ? -1 : 1;
    if (x->epoch != y->epoch) return x->epoch > y->epoch ? -1 : 1;
    return x->attempt > y->attempt ? -1 : x->attempt < y->attempt;
}

enum status checkpoint_list(struct checkpoint_entry **out, size_t *n_out, const char *output_dir)
{
    void *entries = NULL;
    size_t n = 0, capacity = 0;
    enum status status = LORAD_OK;
    char *parent = checkpoint_path(output_dir, "ckpt", NULL, NULL);
    if (!parent) return LORAD_NOMEM;
    DIR *dir = opendir(parent);
    if (!dir && errno != ENOENT) status = FAIL(LORAD_IO, "cannot list %s: %s", parent, strerror(errno));

    const struct dirent *found;
    while (dir && status == LORAD_OK && (found = readdir(dir))) {
        struct checkpoint_entry entry = {0};
        if (!checkpoint_id_parse(&entry.id, found->d_name)) continue;
        checkpoint_id_name(entry.id, entry.name);
        char *manifest = checkpoint_path(parent, entry.name, MANIFEST_NAME, NULL),
             *pin = checkpoint_path(parent, entry.name, PIN_NAME, NULL);
        status = manifest && pin ? memory_grow(&entries, &capacity, n + 1, sizeof entry) : LORAD_NOMEM;
        if (status == LORAD_OK) {
            entry.committed = file_exists(manifest);
            entry.pinned = file_exists(pin);
            ((struct checkpoint_entry *)entries)[n++] = entry;
        }
        free(manifest);
        free(pin);
    }
    if (dir) closedir(dir);
    free(parent);
    if (status != LORAD_OK) {
        free(entries);
        return status;
    }
    if (n) qsort(entries, n, sizeof(struct checkpoint_entry), newest_first);
    *out = entries;
    *n_out = n;
    return LORAD_OK;
}

/* ---- opening ---- */

void checkpoint_close(struct checkpoint *checkpoint)
{
    if (!checkpoint) return;
    for (int i = 0; checkpoint->shards && i < checkpoint->manifest.world; i++)
        shard_close(checkpoint->shards[i]);
    free(checkpoint->shards);
    free(checkpoint->refs);
    shard_codec_destroy(checkpoint->codec);
    free(checkpoint->raw);
    manifest_free(&checkpoint->manifest);
    free(checkpoint->dir);
    free(checkpoint);
}

struct checkpoint_id checkpoint_id_of(const struct checkpoint *checkpoint)
{
    return checkpoint->manifest.id;
}

const struct json *checkpoint_state(const struct checkpoint *checkpoint)
{
    return checkpoint->manifest.state;
}

struct hash128 checkpoint_manifest_hash(const struct checkpoint *checkpoint)
{
    return checkpoint->manifest.hash;
}

static enum status read_manifest(struct checkpoint *checkpoint)
{
    char *path = file_join(checkpoint->dir, MANIFEST_NAME), *text = NULL;
    size_t length = 0;
    if (!path) return LORAD_NOMEM;
    enum status status;
    if (!file_exists(path))
        status =
            FAIL(LORAD_NOT_FOUND, "%s has no %s: it was never committed", checkpoint->dir, MANIFEST_NAME);
    else
        status = file_read(&text, &length, path, MANIFEST_MAX_BYTES);
    if (status == LORAD_OK) status = manifest_parse(&checkpoint->manifest, text, length, path);
    free(text);
    free(path);
    return status;
}

/* A folder with the name of a checkpoint must be that one; a copy under another name is fine. */
static enum status check_name(const struct checkpoint *checkpoint)
{
    const char *slash = strrchr(checkpoint->dir, '/');
    struct checkpoint_id named, id = checkpoint->manifest.id;
    if (checkpoint_id_parse(&named, slash ? slash + 1 : checkpoint->dir) &&
        (named.step != id.step || named.epoch != id.epoch || named.attempt != id.attempt))
        return FAIL(LORAD_DATA, "%s holds the manifest of another checkpoint (step %lld)", checkpoint->dir,
                    (long long)id.step);
    return LORAD_OK;
}

enum status checkpoint_check_file(const char *path, int64_t bytes, struct hash128 hash, bool from_disk)
{
    struct hash128 found;
    int64_t size;
    TRY(checkpoint_hash_file(&found, &size, path, from_disk));
    if (size != bytes || !hash128_equal(found, hash))
        return FAIL(LORAD_DATA, "%s is damaged: its %s is not what the manifest says", path,
                    size != bytes ? "size" : "hash");
    return LORAD_OK;
}

static enum status check_named(const struct checkpoint *checkpoint, const char *name, int64_t bytes,
                               struct hash128 hash, bool from_disk)
{
    char *path = file_join(checkpoint->dir, name);
    enum status status = path ? checkpoint_check_file(path, bytes, hash, from_disk) : LORAD_NOMEM;
    free(path);
    return status;
}

enum status checkpoint_check_files(const struct checkpoint *checkpoint, bool from_disk)
{
    const struct manifest *manifest = &checkpoint->manifest;
    for (int i = 0; i < manifest->world; i++) {
        const struct checkpoint_receipt *receipt = &manifest->shards[i];
        char name[CHECKPOINT_NAME_BYTES];
        manifest_shard_name(i, manifest->world, name);
        TRY(check_named(checkpoint, name, receipt->file_bytes, receipt->file_hash, from_disk));
    }
    for (size_t i = 0; i < manifest->n_files; i++) {
        const struct manifest_file *file = &manifest->files[i];
        TRY(check_named(checkpoint, file->name, file->bytes, file->hash, from_disk));
    }
    return LORAD_OK;
}

static enum status open_shards(struct checkpoint *checkpoint)
{
    int world = checkpoint->manifest.world;
    if (!(checkpoint->shards = memory_new((size_t)world, sizeof *checkpoint->shards))) return LORAD_NOMEM;
    for (int i = 0; i < world; i++) {
        const struct checkpoint_receipt *receipt = &checkpoint->manifest.shards[i];
        char name[CHECKPOINT_NAME_BYTES];
        manifest_shard_name(i, world, name);
        char *path = file_join(checkpoint->dir, name);
        enum status status = path ? shard_open(&checkpoint->shards[i], path, receipt) : LORAD_NOMEM;
        free(path);
        TRY(status);
    }
    return LORAD_OK;
}

/* Whether the files beside the shards are there, by their lengths alone. */
static enum status check_lengths(const struct checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint->manifest.n_files; i++) {
        const struct manifest_file *file = &checkpoint->manifest.files[i];
        char *path = file_join(checkpoint->dir, file->name);
        int64_t bytes = -1;
        enum status status = path ? LORAD_OK : LORAD_NOMEM;
        if (path && (file_stat(&bytes, NULL, path) != LORAD_OK || bytes != file->bytes))
            status = FAIL(LORAD_DATA, "%s is missing or damaged: %lld bytes expected", path,
                          (long long)file->bytes);
        free(path);
        TRY(status);
    }
    return LORAD_OK;
}

static int by_name_and_rank(const void *a, const void *b)
{
    const struct piece_ref *x = a, *y = b;
    int order = strcmp(x->piece->name, y->piece->name);
    if (order) return order;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static enum status join_pieces(struct checkpoint *checkpoint)
{
    size_t n = 0;
    for (int i = 0; i < checkpoint->manifest.world; i++) n += shard_count(checkpoint->shards[i]);
    if (!(checkpoint->refs = memory_new(n, sizeof *checkpoint->refs))) return LORAD_NOMEM;
    for (int i = 0; i < checkpoint->manifest.world; i++)
        for (size_t k = 0; k < shard_count(checkpoint->shards[i]); k++)
            checkpoint->refs[checkpoint->n_refs++] =
                (struct piece_ref){i, k, shard_at(checkpoint->shards[i], k)};
    if (n) qsort(checkpoint->refs, n, sizeof *checkpoint->refs, by_name_and_rank);
    return LORAD_OK;
}

enum status checkpoint_open_manifest(struct checkpoint **out, const char *dir)
{
    /* The link may be swapped while this one is read. */
    char *resolved = realpath(dir, NULL);
    if (!resolved)
        return FAIL(errno == ENOMEM ? LORAD_NOMEM : LORAD_NOT_FOUND, "cannot open checkpoint %s: %s", dir,
                    strerror(errno));
    struct checkpoint *checkpoint = memory_new(1, sizeof *checkpoint);
    if (!checkpoint) {
        free(resolved);
        return LORAD_NOMEM;
    }
    checkpoint->dir = resolved;
    enum status status = read_manifest(checkpoint);
    if (status == LORAD_OK) status = check_name(checkpoint);
    if (status == LORAD_OK)
        *out = checkpoint;
    else
        checkpoint_close(checkpoint);
    return status;
}

/* The end of opening one that has come so far with `status`: *out, or closed. */
static enum status finish_opening(struct checkpoint **out, struct checkpoint *checkpoint, enum status status)
{
    if (status == LORAD_OK) status = join_pieces(checkpoint);
    if (status == LORAD_OK) status = shard_codec_create(&checkpoint->codec);
    if (status == LORAD_OK)
        *out = checkpoint;
    else
        checkpoint_close(checkpoint);
    return status;
}

enum status checkpoint_open(struct checkpoint **out, const char *dir, bool verify)
{
    struct checkpoint *checkpoint;
    TRY(checkpoint_open_manifest(&checkpoint, dir));
    enum status status = open_shards(checkpoint);
    if (status == LORAD_OK)
        status = verify ? checkpoint_check_files(checkpoint, false) : check_lengths(checkpoint);
    return finish_opening(out, checkpoint, status);
}

enum status checkpoint_open_written(struct checkpoint **out, const struct checkpoint_writer *writer,
                                    const struct checkpoint_receipt *receipts, int world)
{
    size_t bytes = (size_t)world * sizeof *receipts;
    struct checkpoint *checkpoint = memory_new(1, sizeof *checkpoint);
    if (!checkpoint) return LORAD_NOMEM;
    checkpoint->dir = memory_string(checkpoint_writer_dir(writer));
    checkpoint->manifest.world = world;
    checkpoint->manifest.shards = memory_new(1, bytes);
    enum status status = checkpoint->dir && checkpoint->manifest.shards ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) {
        memcpy(checkpoint->manifest.shards, receipts, bytes);
        status = open_shards(checkpoint);
    }
    return finish_opening(out, checkpoint, status);
}

/* ---- reading ---- */

struct area {
    int64_t row, rows, col, cols;
};

struct gather {
    struct area want;
    size_t item_bytes;
    char *to;
    struct area open[MAX_UNCOVERED]; /* what no piece has covered yet; the areas do not overlap */
    size_t n;
};

static struct area overlap_of(struct area a, const struct shard_piece *piece)
{
    int64_t row = a.row > piece->row ? a.row : piece->row, col = a.col > piece->col ? a.col : piece->col;
    int64_t row_end = a.row + a.rows, col_end = a.col + a.cols;
    if (piece->row + piece->rows < row_end) row_end = piece->row + piece->rows;
    if (piece->col + piece->cols < col_end) col_end = piece->col + piece->cols;
    if (row >= row_end || col >= col_end) return (struct area){0};
    return (struct area){row, row_end - row, col, col_end - col};
}

static enum status load_piece(struct checkpoint *checkpoint, const struct piece_ref *ref)
{
    if (checkpoint->cached == ref->piece) return LORAD_OK;
    checkpoint->cached = NULL;
    TRY(memory_grow(&checkpoint->raw, &checkpoint->raw_capacity, (size_t)ref->piece->raw_bytes, 1));
    TRY(shard_read(checkpoint->shards[ref->shard], ref->index, checkpoint->codec, checkpoint->raw));
    checkpoint->cached = ref->piece;
    return LORAD_OK;
}

static void copy_area(const struct checkpoint *checkpoint, struct gather *gather, struct area area)
{
    const struct shard_piece *piece = checkpoint->cached;
    size_t item = gather->item_bytes, n = (size_t)area.cols * item;
    for (int64_t i = 0; i < area.rows; i++) {
        int64_t row = area.row + i;
        const char *from = (const char *)checkpoint->raw +
                           (size_t)((row - piece->row) * piece->cols + area.col - piece->col) * item;
        char *to =
            gather->to +
            (size_t)((row - gather->want.row) * gather->want.cols + area.col - gather->want.col) * item;
        memcpy(to, from, n);
    }
}

static bool keep_open(struct gather *gather, int64_t row, int64_t rows, int64_t col, int64_t cols)
{
    if (rows == 0 || cols == 0) return true;
    if (gather->n == MAX_UNCOVERED) return false;
    gather->open[gather->n++] = (struct area){row, rows, col, cols};
    return true;
}

/* Copies what the piece has of every open area and puts the up to four strips around it back. */
static enum status gather_piece(struct checkpoint *checkpoint, struct gather *gather,
                                const struct piece_ref *ref)
{
    for (size_t i = 0; i < gather->n;) {
        struct area open = gather->open[i], got = overlap_of(open, ref->piece);
        if (got.rows == 0) {
            i++;
            continue;
        }
        TRY(load_piece(checkpoint, ref));
        copy_area(checkpoint, gather, got);
        gather->open[i] =
            gather->open[--gather->n]; /* the strips are put behind and do not overlap this piece */
        int64_t below = got.row + got.rows, right = got.col + got.cols;
        if (!keep_open(gather, open.row, got.row - open.row, open.col, open.cols) ||
            !keep_open(gather, below, open.row + open.rows - below, open.col, open.cols) ||
            !keep_open(gather, got.row, got.rows, open.col, got.col - open.col) ||
            !keep_open(gather, got.row, got.rows, right, open.col + open.cols - right))
            return FAIL(LORAD_DATA, "%s: tensor %.200s is cut into too many pieces", checkpoint->dir,
                        ref->piece->name);
    }
    return LORAD_OK;
}

/* The first reference with this name, or n_refs. */
static size_t find_first(const struct checkpoint *checkpoint, const char *name)
{
    size_t low = 0, high = checkpoint->n_refs;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(checkpoint->refs[middle].piece->name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < checkpoint->n_refs && !strcmp(checkpoint->refs[low].piece->name, name) ? low
                                                                                        : checkpoint->n_refs;
}

static enum status check_kind(const struct checkpoint *checkpoint, const struct shard_piece *piece,
                              const char *dtype, const int64_t shape[2])
{
    if (!strcmp(st_dtype_name(piece->dtype), dtype) && piece->shape[0] == shape[0] &&
        piece->shape[1] == shape[1])
        return LORAD_OK;
    return FAIL(LORAD_DATA, "%s: tensor %.200s is %s [%lld, %lld]; %s [%lld, %lld] is expected",
                checkpoint->dir, piece->name, st_dtype_name(piece->dtype), (long long)piece->shape[0],
                (long long)piece->shape[1], dtype, (long long)shape[0], (long long)shape[1]);
}

enum status checkpoint_read(struct checkpoint *checkpoint, const char *name, const char *dtype,
                            const int64_t shape[2], int64_t row, int64_t rows, int64_t col, int64_t cols,
                            void *to)
{
    enum st_dtype kind;
    if (!st_dtype_find(&kind, dtype) || row < 0 || rows < 0 || col < 0 || cols < 0 || row > shape[0] ||
        rows > shape[0] - row || col > shape[1] || cols > shape[1] - col)
        return FAIL(LORAD_BUG, "the slice asked of tensor %s lies outside of it", name);
    size_t first = find_first(checkpoint, name);
    if (first == checkpoint->n_refs)
        return FAIL(LORAD_DATA, "%s has no tensor %.200s", checkpoint->dir, name);

    struct gather *gather = malloc(sizeof *gather);
    if (!gather) return FAIL(LORAD_NOMEM, "out of memory while reading tensor %s", name);
    gather->want = (struct area){row, rows, col, cols};
    gather->item_bytes = st_dtype_bytes(kind);
    gather->to = to;
    gather->n = 0;
    (void)keep_open(gather, row, rows, col, cols);

    enum status status = LORAD_OK;
    for (size_t i = first; status == LORAD_OK && i < checkpoint->n_refs; i++) {
        const struct piece_ref *ref = &checkpoint->refs[i];
        if (strcmp(ref->piece->name, name) != 0) break;
        status = check_kind(checkpoint, ref->piece, dtype, shape);
        if (status == LORAD_OK) status = gather_piece(checkpoint, gather, ref);
    }
    if (status == LORAD_OK && gather->n > 0)
        status = FAIL(LORAD_DATA, "%s: no shard holds row %lld, column %lld of tensor %.200s",
                      checkpoint->dir, (long long)gather->open[0].row, (long long)gather->open[0].col, name);
    free(gather);
    return status;
}
