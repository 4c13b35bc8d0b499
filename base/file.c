#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

enum status file_read(char **out, size_t *length, const char *path, size_t max_bytes)
{
    enum status status = LORAD_OK;
    char *text = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused, not waited for */
    if (fd < 0) {
        bool few = errno == EMFILE || errno == ENFILE || errno == EIO || errno == ENOMEM;
        return FAIL(few ? LORAD_IO : LORAD_NOT_FOUND, "cannot open %s: %s", path, strerror(errno));
    }

    struct stat info;
    if (fstat(fd, &info) != 0) {
        status = FAIL(LORAD_IO, "cannot stat %s: %s", path, strerror(errno));
        goto close_file;
    }
    if (!S_ISREG(info.st_mode)) {
        status = FAIL(LORAD_DATA, "%s is not a regular file", path);
        goto close_file;
    }
    if ((uint64_t)info.st_size > max_bytes) {
        status = FAIL(LORAD_DATA, "%s has %lld bytes; at most %zu are accepted", path,
                      (long long)info.st_size, max_bytes);
        goto close_file;
    }
    size_t size = (size_t)info.st_size, done = 0;
    if (!(text = memory_new(size + 1, 1))) {
        status = LORAD_NOMEM;
        goto close_file;
    }
    while (done < size) {
        ssize_t n = read(fd, text + done, size - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            status = FAIL(LORAD_IO, "cannot read %s: %s after %zu of %zu bytes", path,
                          n < 0 ? strerror(errno) : "the file ended", done, size);
            goto free_text;
        }
        done += (size_t)n;
    }
    text[size] = '\0';
    *out = text;
    *length = size;
    text = NULL;

free_text:
    free(text);
close_file:
    close(fd);
    return status;
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool file_is_dir(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

enum status file_stat(int64_t *size_bytes, int64_t *mtime_ns, const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) return FAIL(LORAD_NOT_FOUND, "cannot find %s: %s", path, strerror(errno));
    if (size_bytes) *size_bytes = info.st_size;
    if (mtime_ns) *mtime_ns = (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
    return LORAD_OK;
}

char *file_join(const char *folder, const char *name)
{
    if (!*folder || *name == '/') return memory_string(name);
    size_t n = strlen(folder);
    while (n > 1 && folder[n - 1] == '/') n--;
    char *path = memory_new(n + strlen(name) + 2, 1);
    if (!path) return NULL;
    memcpy(path, folder, n);
    path[n] = '/';
    strcpy(path + n + 1, name);
    return path;
}

enum status file_make_dirs(const char *path)
{
    char *copy = memory_string(path);
    if (!copy) return LORAD_NOMEM;
    enum status status = LORAD_OK;
    for (char *at = copy + 1; status == LORAD_OK; at++) {
        char c = *at;
        if (c != '/' && c != '\0') continue;
        *at = '\0';
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            status = FAIL(LORAD_CANNOT_CREATE, "cannot create folder %s: %s", copy, strerror(errno));
        *at = c;
        if (c == '\0') break;
    }
    if (status == LORAD_OK && !file_is_dir(path))
        status = FAIL(LORAD_CANNOT_CREATE, "%s exists and is not a folder", path);
    free(copy);
    return status;
}
