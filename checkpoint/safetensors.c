/*
 * safetensors.c: a set of safetensors files opened together and read by slices.
 *
 * Invariants:
 * 1. Nothing reads tensor data but st_read*, st_fingerprint; opening reads headers only.
 * 2. A file's size is exactly 8 + header + data when it is opened; a file that shrinks later fails its read.
 * 3. Names are unique over the whole set.
 */
#include "checkpoint/safetensors.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "checkpoint/safetensors_header.h"

enum {
    MAX_FILES = 10000,
    INDEX_MAX_BYTES = 64 << 20,
    CUT_BUFFER_BYTES = 1 << 20,
    DIRECT_SKIP_BYTES =
        8 << 10,          /* between row pieces: from here on a call a row is cheaper than reading the gap */
    ENDS_BYTES = 1 << 20, /* what st_fingerprint reads of either end of a file */
};

struct st_file {
    char *path;
    const char *name; /* the last part of path */
    int fd;
    int64_t size_bytes, data_start;
    char *text; /* the header, overwritten by its parser */
    struct hash128 header_hash;
    struct st_header header;
};

struct st_set {
    struct st_file *files;
    int32_t n_files;
    struct st_tensor *tensors;
    size_t n_tensors;
    const struct st_tensor **by_name;
};

/* ---- one file ---- */

static enum status read_at(const struct st_file *file, int64_t offset, void *to, size_t length)
{
    char *at = to;
    while (length > 0) {
        ssize_t n = pread(file->fd, at, length, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return FAIL(LORAD_IO, "cannot read %s at byte %lld: %s", file->path, (long long)offset,
                        n < 0 ? strerror(errno) : "the file ended; was it changed?");
        at += n;
        offset += n;
        length -= (size_t)n;
    }
    return LORAD_OK;
}

static void file_close(struct st_file *file)
{
    if (file->fd >= 0) close(file->fd);
    st_header_free(&file->header);
    free(file->text);
    free(file->path);
}

/* Header length, header, and the size that the header promises. file->fd is open. */
static enum status file_load(struct st_file *file)
{
    struct stat info;
    if (fstat(file->fd, &info) != 0) return FAIL(LORAD_IO, "cannot stat %s: %s", file->path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return FAIL(LORAD_DATA, "%s is not a regular file", file->path);
    file->size_bytes = info.st_size;
    if (info.st_size < 8)
        return FAIL(LORAD_DATA, "%s has %lld bytes, which is too short for a safetensors file", file->path,
                    (long long)info.st_size);

    unsigned char prefix[8];
    TRY(read_at(file, 0, prefix, sizeof prefix));
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--) length = length << 8 | prefix[i];
    if (length > ST_MAX_HEADER_BYTES)
        return FAIL(LORAD_DATA,
                    "%s: its first 8 bytes ask for a header of %llu bytes; at most %d are accepted (not a "
                    "safetensors file?)",
                    file->path, (unsigned long long)length, ST_MAX_HEADER_BYTES);
    if ((int64_t)length > info.st_size - 8)
        return FAIL(LORAD_DATA, "%s is truncated: at least %llu bytes expected, %lld found", file->path,
                    (unsigned long long)length + 8, (long long)info.st_size);

    if (!(file->text = malloc(length + 1)))
        return FAIL(LORAD_NOMEM, "out of memory for the header of %s", file->path);
    TRY(read_at(file, 8, file->text, length));
    file->header_hash = hash128(file->text, length);
    TRY(st_header_parse(&file->header, file->text, length, file->path));

    file->data_start = 8 + (int64_t)length;
    int64_t data = info.st_size - file->data_start;
    if (data != file->header.data_bytes)
        return FAIL(LORAD_DATA, "%s %s: %lld bytes of tensor data expected, %lld found", file->path,
                    data < file->header.data_bytes ? "is truncated" : "has bytes behind its last tensor",
                    (long long)file->header.data_bytes, (long long)data);
    return LORAD_OK;
}

/* ---- names and links of a folder ---- */

static bool is_plain_name(const char *name)
{
    static const char suffix[] = ".safetensors";
    size_t n = strlen(name), m = sizeof suffix - 1;
    if (n <= m || n > 255 || strcmp(name + n - m, suffix) != 0) return false;
    for (const char *at = name; *at; at++)
        if (!isalnum((unsigned char)*at) && !strchr("._-", *at)) return false;
    return true;
}

/* A link may name a file of the same folder, or one of the blobs of a Hugging Face cache:
 * models--x/snapshots/<revision>/NAME -> ../../blobs/<hash>. */
static bool is_safe_target(const char *target)
{
    static const char blobs[] = "../../blobs/";
    if (!strncmp(target, blobs, sizeof blobs - 1)) target += sizeof blobs - 1;
    if (!*target || *target == '.') return false;
    for (; *target; target++)
        if (!isalnum((unsigned char)*target) && !strchr("._-", *target)) return false;
    return true;
}

/* O_NONBLOCK: opening a FIFO must not hang; it means nothing to a regular file. */
static int open_reading(int dir, const char *name, int more)
{
    int fd;
    do fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | more);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static enum status open_in_dir(int *out, int dir, const char *dir_path, const char *name)
{
    int fd = open_reading(dir, name, O_NOFOLLOW);
    if (fd < 0 && errno == ELOOP) {
        char target[4096];
        ssize_t n = readlinkat(dir, name, target, sizeof target - 1);
        if (n < 0) return FAIL(LORAD_IO, "cannot read the link %s/%s: %s", dir_path, name, strerror(errno));
        target[n] = '\0';
        if (!is_safe_target(target))
            return FAIL(LORAD_DATA,
                        "%s/%s is a link out of its folder, to %.200s; name the folder that holds the files",
                        dir_path, name, target);
        fd = open_reading(dir, target, O_NOFOLLOW);
        if (fd < 0 && errno == ELOOP)
            return FAIL(LORAD_DATA, "%s/%s is a link to a link; name the folder that holds the files",
                        dir_path, name);
    }
    if (fd < 0)
        return FAIL(LORAD_NOT_FOUND, "cannot open %s/%s: %s", dir_path, name,
                    errno == ENOENT ? "the file is missing" : strerror(errno));
    *out = fd;
    return LORAD_OK;
}

/* ---- the set ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(const struct st_tensor *const *)a)->name, (*(const struct st_tensor *const *)b)->name);
}

/* Gathers the tensors of all files and makes the index by name. */
static enum status set_join(struct st_set *set)
{
    size_t n = 0;
    for (int32_t f = 0; f < set->n_files; f++) n += set->files[f].header.n_tensors;
    if (n > ST_MAX_TENSORS)
        return FAIL(LORAD_DATA, "%s: more than %d tensors in all files", set->files[0].path, ST_MAX_TENSORS);
    set->tensors = memory_new(n, sizeof *set->tensors);
    set->by_name = memory_new(n, sizeof *set->by_name);
    if (!set->tensors || !set->by_name) return LORAD_NOMEM;

    for (int32_t f = 0; f < set->n_files; f++) {
        struct st_file *file = &set->files[f];
        for (size_t i = 0; i < file->header.n_tensors; i++) {
            struct st_tensor *tensor = &set->tensors[set->n_tensors];
            *tensor = file->header.tensors[i];
            tensor->file = f;
            tensor->offset_bytes += file->data_start;
            set->by_name[set->n_tensors++] = tensor;
        }
        free(file->header.tensors);
        file->header.tensors = NULL;
    }
    if (n) qsort(set->by_name, n, sizeof *set->by_name, compare_names);
    for (size_t i = 1; i < n; i++) {
        const struct st_tensor *a = set->by_name[i - 1], *b = set->by_name[i];
        if (!strcmp(a->name, b->name))
            return FAIL(LORAD_DATA, "tensor %.200s is there twice: in %s and in %s", a->name,
                        set->files[a->file].path, set->files[b->file].path);
    }
    return LORAD_OK;
}

/* Adds an open descriptor (taken over in any case) as the next file. */
static enum status set_add(struct st_set *set, int fd, char *path)
{
    struct st_file *file = &set->files[set->n_files++];
    *file = (struct st_file){.path = path, .fd = fd};
    if (!path) return LORAD_NOMEM;
    const char *slash = strrchr(path, '/');
    file->name = slash ? slash + 1 : path;
    return file_load(file);
}

static struct st_set *set_new(int32_t capacity)
{
    struct st_set *set = memory_new(1, sizeof *set);
    if (set && !(set->files = memory_new((size_t)capacity, sizeof *set->files))) {
        free(set);
        return NULL;
    }
    return set;
}

static enum status set_finish(struct st_set **out, struct st_set *set, enum status status)
{
    if (status == LORAD_OK) status = set_join(set);
    if (status == LORAD_OK)
        *out = set;
    else
        st_close(set);
    return status;
}

enum status st_open_file(struct st_set **out, const char *path)
{
    struct st_set *set = set_new(1);
    if (!set) return LORAD_NOMEM;
    int fd = open_reading(AT_FDCWD, path, 0);
    if (fd < 0) {
        st_close(set);
        return FAIL(LORAD_NOT_FOUND, "cannot open %s: %s", path, strerror(errno));
    }
    return set_finish(out, set, set_add(set, fd, memory_string(path)));
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The file names of a weight map, sorted, each once. Owns: *out (the strings are borrowed from the map). */
static enum status index_files(const char ***out, int32_t *n_out, const struct json *map, const char *where)
{
    size_t n = js_length(map), kept = 0;
    if (n == 0 || n > ST_MAX_TENSORS)
        return FAIL(LORAD_DATA, "%s: weight_map has %zu entries; 1 to %d are accepted", where, n,
                    ST_MAX_TENSORS);
    const char **names = memory_new(n, sizeof *names);
    if (!names) return LORAD_NOMEM;

    for (void *it = js_first(map); it; it = js_next(map, it)) {
        const char *name = js_string(js_member(it), NULL);
        if (!name || !is_plain_name(name)) {
            free(names);
            return FAIL(LORAD_DATA,
                        "%s: weight_map sends tensor %.200s to %s%.200s%s; a plain name of letters, digits, "
                        "'.', '_', '-' that ends in .safetensors is expected",
                        where, js_key(it), name ? "\"" : "", name ? name : "no string", name ? "\"" : "");
        }
        names[kept++] = name;
    }
    qsort(names, kept, sizeof *names, compare_strings);
    size_t unique = 0;
    for (size_t i = 0; i < kept; i++)
        if (i == 0 || strcmp(names[i], names[unique - 1]) != 0) names[unique++] = names[i];
    if (unique > MAX_FILES) {
        free(names);
        return FAIL(LORAD_DATA, "%s: weight_map names %zu files; at most %d are accepted", where, unique,
                    MAX_FILES);
    }
    *out = names;
    *n_out = (int32_t)unique;
    return LORAD_OK;
}

/* The index and the files hold the same tensors in the same places. */
static enum status check_index(const struct st_set *set, const struct json *map, const char *where)
{
    for (void *it = js_first(map); it; it = js_next(map, it)) {
        const struct st_tensor *tensor = st_find(set, js_key(it));
        const char *name = js_string(js_member(it), NULL);
        if (!tensor || strcmp(set->files[tensor->file].name, name) != 0)
            return FAIL(LORAD_DATA, "%s: tensor %.200s should be in %s, but is %s%s", where, js_key(it), name,
                        tensor ? "in " : "missing there", tensor ? set->files[tensor->file].name : "");
    }
    if (js_length(map) == set->n_tensors) return LORAD_OK;
    for (size_t i = 0; i < set->n_tensors; i++)
        if (!js_get(map, set->tensors[i].name))
            return FAIL(
                LORAD_DATA,
                "%s: tensor %.200s of %s is not in weight_map; index and files do not belong together", where,
                set->tensors[i].name, set->files[set->tensors[i].file].name);
    return FAIL(LORAD_BUG, "%s: the sizes of weight_map and of the set differ", where);
}

static enum status open_indexed(struct st_set **out, int dir, const char *dir_path, const struct json *map,
                                const char *where)
{
    const char **names = NULL;
    int32_t n = 0;
    TRY(index_files(&names, &n, map, where));
    enum status status = LORAD_OK;
    struct st_set *set = set_new(n);
    if (!set) status = LORAD_NOMEM;
    for (int32_t i = 0; status == LORAD_OK && i < n; i++) {
        int fd;
        status = open_in_dir(&fd, dir, dir_path, names[i]);
        if (status == LORAD_OK) status = set_add(set, fd, file_join(dir_path, names[i]));
    }
    if (status == LORAD_OK) status = set_join(set);
    if (status == LORAD_OK) status = check_index(set, map, where);
    if (status == LORAD_OK)
        *out = set;
    else
        st_close(set);
    free(names);
    return status;
}

static enum status open_single(struct st_set **out, int dir, const char *dir_path)
{
    static const char name[] = "model.safetensors";
    int fd;
    enum status status = open_in_dir(&fd, dir, dir_path, name);
    if (status == LORAD_NOT_FOUND)
        return FAIL(LORAD_NOT_FOUND,
                    "%s has neither %s nor %s.index.json (other weight formats are not read)", dir_path, name,
                    name);
    if (status != LORAD_OK) return status;
    struct st_set *set = set_new(1);
    if (!set) {
        close(fd);
        return LORAD_NOMEM;
    }
    return set_finish(out, set, set_add(set, fd, file_join(dir_path, name)));
}

enum status st_open_dir(struct st_set **out, const char *dir_path)
{
    int dir;
    do dir = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (dir < 0 && errno == EINTR);
    if (dir < 0) return FAIL(LORAD_NOT_FOUND, "cannot open folder %s: %s", dir_path, strerror(errno));

    enum status status;
    struct json *index = NULL;
    const struct json *map;
    char *where = file_join(dir_path, "model.safetensors.index.json");
    if (!where) {
        status = LORAD_NOMEM;
    } else if (!file_exists(where)) {
        status = open_single(out, dir, dir_path);
    } else {
        status = js_read_file(&index, where, INDEX_MAX_BYTES);
        if (status == LORAD_OK && js_type(index) != JS_OBJECT)
            status = FAIL(LORAD_DATA, "%s: an object is expected", where);
        if (status == LORAD_OK) status = js_need(&map, index, "weight_map", JS_OBJECT, where);
        if (status == LORAD_OK) status = open_indexed(out, dir, dir_path, map, where);
        js_destroy(index);
    }
    free(where);
    close(dir);
    return status;
}

void st_close(struct st_set *set)
{
    if (!set) return;
    for (int32_t f = 0; f < set->n_files; f++) file_close(&set->files[f]);
    free(set->files);
    free(set->tensors);
    free(set->by_name);
    free(set);
}

size_t st_count(const struct st_set *set)
{
    return set->n_tensors;
}

const struct st_tensor *st_at(const struct st_set *set, size_t index)
{
    ASSERT(index < set->n_tensors);
    return &set->tensors[index];
}

const struct st_tensor *st_find(const struct st_set *set, const char *name)
{
    size_t low = 0, high = set->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, set->by_name[middle]->name);
        if (order == 0) return set->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *st_file_path(const struct st_set *set, int32_t file)
{
    return set->files[file].path;
}

int32_t st_files(const struct st_set *set)
{
    return set->n_files;
}

const char *st_metadata(const struct st_set *set, int32_t file, const char *key)
{
    const struct st_header *header = &set->files[file].header;
    for (size_t i = 0; i < header->n_pairs; i++)
        if (!strcmp(header->pairs[i].key, key)) return header->pairs[i].value;
    return NULL;
}

/* ---- data ---- */

static enum status read_named(const struct st_set *set, const struct st_tensor *tensor, int64_t offset,
                              void *to, size_t length)
{
    enum status status = read_at(&set->files[tensor->file], offset, to, length);
    return status == LORAD_OK ? status : status_context(status, "tensor %.200s", tensor->name);
}

enum status st_read(const struct st_set *set, const struct st_tensor *tensor, void *to)
{
    return read_named(set, tensor, tensor->offset_bytes, to, (size_t)tensor->size_bytes);
}

/* Columns [start, start + piece) bytes of rows of `stride` bytes: reads blocks of rows, from the first wanted
 * byte of the first row to the last wanted byte of the last, and cuts. */
static enum status read_cut(const struct st_set *set, const struct st_tensor *tensor, int64_t first,
                            int64_t rows, size_t stride, size_t piece, char *to)
{
    int64_t block = CUT_BUFFER_BYTES / (int64_t)stride;
    if (block < 1) block = 1;
    if (block > rows) block = rows;
    char *buffer = malloc((size_t)(block - 1) * stride + piece);
    if (!buffer) return FAIL(LORAD_NOMEM, "out of memory while reading tensor %.200s", tensor->name);
    enum status status = LORAD_OK;
    for (int64_t row = 0; row < rows && status == LORAD_OK; row += block) {
        int64_t n = rows - row < block ? rows - row : block;
        status =
            read_named(set, tensor, first + row * (int64_t)stride, buffer, (size_t)(n - 1) * stride + piece);
        for (int64_t i = 0; i < n && status == LORAD_OK; i++, to += piece)
            memcpy(to, buffer + (size_t)i * stride, piece);
    }
    free(buffer);
    return status;
}

enum status st_read_part(const struct st_set *set, const struct st_tensor *tensor, int64_t row, int64_t rows,
                         int64_t col, int64_t cols, void *to)
{
    if (tensor->n_dims != 1 && tensor->n_dims != 2)
        return FAIL(LORAD_DATA, "%s: tensor %.200s has %d dimensions; a matrix or a vector is expected",
                    set->files[tensor->file].path, tensor->name, tensor->n_dims);
    int64_t height = tensor->n_dims == 2 ? tensor->shape[0] : 1;
    int64_t width = tensor->shape[tensor->n_dims - 1];
    if (row < 0 || rows < 0 || col < 0 || cols < 0 || row > height || rows > height - row || col > width ||
        cols > width - col)
        return FAIL(LORAD_BUG, "rows %lld+%lld, columns %lld+%lld are outside of tensor %.200s [%lld, %lld]",
                    (long long)row, (long long)rows, (long long)col, (long long)cols, tensor->name,
                    (long long)height, (long long)width);
    if (rows == 0 || cols == 0) return LORAD_OK;

    size_t item = st_dtype_bytes(tensor->dtype), stride = (size_t)width * item, piece = (size_t)cols * item;
    int64_t first = tensor->offset_bytes + row * (int64_t)stride + col * (int64_t)item;
    if (cols == width || rows == 1) return read_named(set, tensor, first, to, (size_t)rows * piece);
    if (stride - piece < DIRECT_SKIP_BYTES) return read_cut(set, tensor, first, rows, stride, piece, to);
    /* From a cold disk the gaps come along anyway: asked for as one range, they come in large reads. */
    (void)posix_fadvise(set->files[tensor->file].fd, first, (rows - 1) * (int64_t)stride + (int64_t)piece,
                        POSIX_FADV_WILLNEED);
    char *at = to;
    for (int64_t i = 0; i < rows; i++, at += piece)
        TRY(read_named(set, tensor, first + i * (int64_t)stride, at, piece));
    return LORAD_OK;
}

static enum status hash_range(struct hash_stream *hash, const struct st_file *file, char *buffer,
                              int64_t offset, int64_t length)
{
    TRY(read_at(file, offset, buffer, (size_t)length));
    hash_stream_add(hash, buffer, (size_t)length);
    return LORAD_OK;
}

enum status st_fingerprint(struct hash128 *out, const struct st_set *set)
{
    struct hash_stream *hash = NULL;
    char *buffer = malloc(ENDS_BYTES);
    if (!buffer) return FAIL(LORAD_NOMEM, "out of memory for a fingerprint");
    enum status status = hash_stream_create(&hash);
    for (int32_t f = 0; f < set->n_files && status == LORAD_OK; f++) {
        const struct st_file *file = &set->files[f];
        char line[64];
        int n =
            snprintf(line, sizeof line, ":%lld:%016llx%016llx\n", (long long)file->size_bytes,
                     (unsigned long long)file->header_hash.high, (unsigned long long)file->header_hash.low);
        hash_stream_add(hash, file->name, strlen(file->name));
        hash_stream_add(hash, line, (size_t)n);
        int64_t ends = file->size_bytes < ENDS_BYTES ? file->size_bytes : ENDS_BYTES;
        status = hash_range(hash, file, buffer, 0, ends);
        if (status == LORAD_OK) status = hash_range(hash, file, buffer, file->size_bytes - ends, ends);
    }
    if (status == LORAD_OK) *out = hash_stream_value(hash);
    hash_stream_destroy(hash);
    free(buffer);
    return status;
}
