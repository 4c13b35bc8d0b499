/*
 * sources_map.c: a file's contents in memory: mapped, or unpacked into a file without a name and mapped from
 * there, so that a row can be read again at any place without unpacking what stands before it.
 *
 * Invariant: the unpacked file has no name from the start (or from the moment after it was made), so that no
 * way to die leaves it behind; its space goes back with the map.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/unpack.h"
#include "base/utf8.h"
#include "dataloader/sources_impl.h"

struct scratch {
    int fd;
    const char *folder, *path;
};

static enum status open_scratch(struct scratch *scratch)
{
    scratch->fd = open(scratch->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (scratch->fd >= 0) return LORAD_OK;
    char *path = file_join(scratch->folder, "unpacked-XXXXXX");
    if (!path) return LORAD_NOMEM;
    scratch->fd = mkostemp(path, O_CLOEXEC);
    enum status status = LORAD_OK;
    if (scratch->fd >= 0)
        unlink(path);
    else
        status = FAIL(LORAD_CANNOT_CREATE, "%s: cannot create a file in %s to unpack it into: %s",
                      scratch->path, scratch->folder, strerror(errno));
    free(path);
    return status;
}

static enum status write_scratch(void *to, const void *bytes, size_t length)
{
    const struct scratch *scratch = to;
    for (size_t done = 0; done < length;) {
        ssize_t n = write(scratch->fd, (const char *)bytes + done, length - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return FAIL(LORAD_IO, "%s: cannot unpack it into %s: %s", scratch->path, scratch->folder,
                        strerror(errno));
        done += (size_t)n;
    }
    return LORAD_OK;
}

static enum status map_fd(struct source_map *out, int fd, const char *path)
{
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return FAIL(LORAD_DATA, "%s is not a regular file", path);
    *out = (struct source_map){.text = "", .end = ""};
    if (info.st_size == 0) return LORAD_OK;
    void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) return FAIL(LORAD_IO, "cannot map %s: %s", path, strerror(errno));
    madvise(map, (size_t)info.st_size, MADV_SEQUENTIAL);
    out->map = map;
    out->map_bytes = (size_t)info.st_size;
    out->text = map;
    out->end = out->text + info.st_size;
    return LORAD_OK;
}

/* Puts the unpacked contents in the place of the packed ones. */
static enum status unpack_map(struct source_map *map, enum packing kind, const struct source_file *file)
{
    const char *temporary = getenv("TMPDIR");
    struct scratch scratch = {.fd = -1, .folder = file->scratch_dir, .path = file->path};
    if (!scratch.folder) scratch.folder = temporary && *temporary ? temporary : "/tmp";
    struct source_map unpacked = {0};
    TRY(open_scratch(&scratch));
    enum status status = unpack(kind, map->map, map->map_bytes, unpack_limit(map->map_bytes), write_scratch,
                                &scratch, file->path);
    if (status == LORAD_OK) status = map_fd(&unpacked, scratch.fd, file->path);
    close(scratch.fd);
    if (status != LORAD_OK) return status;
    source_map_close(map);
    *map = unpacked;
    return LORAD_OK;
}

/* Whether the first 64 KiB are Chinese in GBK rather than UTF-8 with a few bad bytes: of what is not ASCII,
 * more than two thirds are pairs of bytes from 0xA1 on that are not UTF-8. */
static bool looks_like_gbk(const char *text, size_t length)
{
    size_t n = length < 1 << 16 ? length : 1 << 16, pairs = 0, others = 0, step;
    for (size_t i = 0; i < n; i += step) {
        const unsigned char *at = (const unsigned char *)text + i;
        uint32_t character;
        step = utf8_read(&character, text + i, n - i);
        if (step == 1) continue;
        bool pair = step == 0 && i + 1 < n && at[0] >= 0xA1 && at[0] < 0xFF && at[1] >= 0xA1 && at[1] < 0xFF;
        if (pair)
            pairs++;
        else
            others++;
        if (step == 0) step = pair ? 2 : 1;
    }
    return pairs >= 2 && pairs > others;
}

/* "LE", "BE" or, with a byte order mark, ""; NULL: it begins neither with a mark nor with two ASCII
 * characters. */
static const char *utf16_kind(const char *text, size_t length)
{
    if (length < 4) return NULL;
    if (memcmp(text, "\xFF\xFE", 2) == 0 || memcmp(text, "\xFE\xFF", 2) == 0) return "";
    if (text[0] && !text[1] && text[2] && !text[3]) return "LE";
    return !text[0] && text[1] && !text[2] && text[3] ? "BE" : NULL;
}

/* What a file should not be, said before its rows are. */
static enum status check_kind(const struct source_map *map, bool packed, const struct source_file *file)
{
    size_t length = (size_t)(map->end - map->text);
    const char *ending = file->path + source_path_stem(file->path);
    if (*ending && !packed && length > 0)
        return FAIL(LORAD_DATA, "%s is named %s, but is not packed that way; rename it, or pack it again",
                    file->path, ending);
    const char *utf16 = utf16_kind(map->text, length);
    if (utf16)
        return FAIL(LORAD_DATA, "%s is UTF-16; convert it: iconv -f UTF-16%s -t UTF-8 OLD > NEW", file->path,
                    utf16);
    if (looks_like_gbk(map->text, length))
        return FAIL(LORAD_DATA,
                    "%s is not UTF-8 and looks like GBK; convert it: iconv -f GB18030 -t UTF-8 OLD > NEW",
                    file->path);
    if (length >= 4 && memcmp(map->text, "PAR1", 4) == 0)
        return FAIL(LORAD_DATA,
                    "%s is Parquet, which is not read; convert it: python3 -c \"import pandas; "
                    "pandas.read_parquet('%s').to_json('rows.jsonl', orient='records', lines=True, "
                    "force_ascii=False)\"",
                    file->path, file->path);
    return LORAD_OK;
}

enum status source_map_open(struct source_map *out, const struct source_file *file)
{
    int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused, not waited for */
    if (fd < 0) return FAIL(LORAD_NOT_FOUND, "cannot open %s: %s", file->path, strerror(errno));
    struct source_map map = {0};
    enum status status = map_fd(&map, fd, file->path);
    close(fd);
    if (status != LORAD_OK) return status;
    enum packing kind = map.map ? unpack_kind(map.map, map.map_bytes) : PACKED_NOT;
    if (kind != PACKED_NOT) status = unpack_map(&map, kind, file);
    if (status == LORAD_OK) status = check_kind(&map, kind != PACKED_NOT, file);
    if (status != LORAD_OK) {
        source_map_close(&map);
        return status;
    }
    if (map.end - map.text >= 3 && memcmp(map.text, "\xEF\xBB\xBF", 3) == 0) map.text += 3;
    *out = map;
    return LORAD_OK;
}

void source_map_close(struct source_map *map)
{
    if (map->map) munmap(map->map, map->map_bytes);
    *map = (struct source_map){0};
}
