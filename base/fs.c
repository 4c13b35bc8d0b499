/*
 * fs.c: what callers use of a file system, over the table of a backend.
 *
 * Invariants:
 * 1. A path becomes visible under its final name only after its bytes are synced.
 * 2. After a failed write, fsync or close a file is never used again.
 * 3. Nothing here replaces a file except fs_rename, fs_finish and fs_symlink_swap, whose callers say so.
 */
#include "base/fs.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/fs_impl.h"

struct fs_file {
    struct fs *fs;
    int fd;
    bool open;
    char *path;  /* where the bytes go */
    char *final; /* the name that fs_finish gives; NULL after fs_create */
};

enum { TEMPORARY_TRIES = 100, COMPARE_MAX_BYTES = 256 << 20 };

static void file_free(struct fs_file *file)
{
    free(file->path);
    free(file->final);
    free(file);
}

static int create_retrying(struct fs *fs, const char *path)
{
    int fd;
    do fd = fs->ops->create(fs->context, path);
    while (fd == -EINTR);
    return fd;
}

static enum status cannot_create(const char *path, int error)
{
    return FAIL(error == ENOSPC || error == EDQUOT || error == EIO ? LORAD_IO : LORAD_CANNOT_CREATE,
                "cannot create %s: %s%s", path, strerror(error),
                error == ENOSPC ? ", or no inodes (df -h, df -i)" : "");
}

enum status fs_create(struct fs_file **out, struct fs *fs, const char *path)
{
    struct fs_file *file = memory_new(1, sizeof *file);
    if (!file) return LORAD_NOMEM;
    file->fs = fs;
    if (!(file->path = memory_string(path))) {
        file_free(file);
        return LORAD_NOMEM;
    }
    file->fd = create_retrying(fs, path);
    if (file->fd < 0) {
        int error = -file->fd;
        file_free(file);
        return cannot_create(path, error);
    }
    file->open = true;
    *out = file;
    return LORAD_OK;
}

enum status fs_begin(struct fs_file **out, struct fs *fs, const char *path)
{
    struct fs_file *file = memory_new(1, sizeof *file);
    size_t room = strlen(path) + 48;
    if (!file) return LORAD_NOMEM;
    file->fs = fs;
    file->path = memory_new(room, 1);
    file->final = memory_string(path);
    if (!file->path || !file->final) {
        file_free(file);
        return LORAD_NOMEM;
    }
    /* A crash may have left a temporary of the same number; it is somebody else's, so take the next one. */
    int fd = -EEXIST;
    for (int i = 0; fd == -EEXIST && i < TEMPORARY_TRIES; i++) {
        snprintf(file->path, room, "%s.tmp-%ld-%d", path, (long)getpid(), i);
        fd = create_retrying(fs, file->path);
    }
    if (fd < 0) {
        file_free(file);
        return cannot_create(path, -fd);
    }
    file->fd = fd;
    file->open = true;
    *out = file;
    return LORAD_OK;
}

enum status fs_write(struct fs_file *file, const void *bytes, size_t length)
{
    const char *at = bytes;
    for (size_t left = length; left > 0;) {
        ssize_t n = file->fs->ops->write(file->fs->context, file->fd, at, left);
        if (n == -EINTR) continue;
        if (n <= 0)
            return FAIL(LORAD_IO, "cannot write %s: %s", file->path,
                        n < 0 ? strerror((int)-n) : "nothing is written");
        at += n;
        left -= (size_t)n;
    }
    return LORAD_OK;
}

enum status fs_sync(struct fs_file *file)
{
    int error;
    do error = -file->fs->ops->sync(file->fs->context, file->fd);
    while (error == EINTR);
    return error ? FAIL(LORAD_IO, "cannot sync %s: %s", file->path, strerror(error)) : LORAD_OK;
}

/* EINTR is no retry here: on Linux the descriptor is closed, and another thread may already have its number.
 */
static enum status close_checked(struct fs_file *file)
{
    if (!file->open) return LORAD_OK;
    file->open = false;
    int error = -file->fs->ops->close(file->fs->context, file->fd);
    return error && error != EINTR ? FAIL(LORAD_IO, "cannot close %s: %s", file->path, strerror(error))
                                   : LORAD_OK;
}

enum status fs_close(struct fs_file *file)
{
    enum status status = close_checked(file);
    file_free(file);
    return status;
}

/* Removes the temporary without touching the recorded message, which says why. */
static void remove_temporary(struct fs_file *file)
{
    if (file->open) {
        file->open = false;
        (void)file->fs->ops->close(file->fs->context, file->fd);
    }
    (void)file->fs->ops->unlink(file->fs->context, file->path);
}

void fs_discard(struct fs_file *file)
{
    if (!file) return;
    remove_temporary(file);
    file_free(file);
}

/* The folder of a path, "." when it names none. Owns: the result. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) return memory_string(".");
    return slash == path ? memory_string("/") : memory_string_n(path, (size_t)(slash - path));
}

enum status fs_finish(struct fs_file *file)
{
    ASSERT(file->final);
    enum status status = fs_sync(file);
    if (status == LORAD_OK) status = close_checked(file);
    if (status == LORAD_OK) status = fs_rename(file->fs, file->path, file->final);
    if (status != LORAD_OK) {
        fs_discard(file);
        return status;
    }
    status = fs_sync_parent(file->fs, file->final);
    file_free(file);
    return status;
}

enum status fs_write_file(struct fs *fs, const char *path, const void *bytes, size_t length)
{
    struct fs_file *file;
    TRY(fs_begin(&file, fs, path));
    enum status status = fs_write(file, bytes, length);
    if (status != LORAD_OK) {
        fs_discard(file);
        return status;
    }
    return fs_finish(file);
}

enum status fs_rename(struct fs *fs, const char *from, const char *to)
{
    int error = -fs->ops->rename(fs->context, from, to);
    return error ? FAIL(error == ENOENT ? LORAD_NOT_FOUND : LORAD_IO, "cannot rename %s to %s: %s", from, to,
                        strerror(error))
                 : LORAD_OK;
}

static bool same_bytes(const char *a, const char *b)
{
    char *bytes_a = NULL, *bytes_b = NULL;
    size_t n_a = 0, n_b = 0;
    bool same = file_read(&bytes_a, &n_a, a, COMPARE_MAX_BYTES) == LORAD_OK &&
                file_read(&bytes_b, &n_b, b, COMPARE_MAX_BYTES) == LORAD_OK && n_a == n_b &&
                memcmp(bytes_a, bytes_b, n_a) == 0;
    free(bytes_a);
    free(bytes_b);
    return same;
}

enum status fs_publish(struct fs *fs, const char *from, const char *to)
{
    int error = -fs->ops->link(fs->context, from, to);
    if (error == EPERM || error == EOPNOTSUPP || error == ENOSYS || error == EMLINK) {
        error = -fs->ops->rename_new(fs->context, from, to);
        if (!error) return LORAD_OK;
    }
    /* Over a network the call may have been done and its answer lost, so the bytes decide, not the error. */
    if (error && !same_bytes(from, to))
        return FAIL(error == EEXIST ? LORAD_CANNOT_CREATE : LORAD_IO, "cannot publish %s: %s", to,
                    strerror(error));
    (void)fs->ops->unlink(fs->context, from); /* a leftover name of the same file harms nobody */
    return LORAD_OK;
}

enum status fs_symlink_swap(struct fs *fs, const char *target, const char *path)
{
    size_t room = strlen(path) + 48;
    char *temporary = memory_new(room, 1);
    if (!temporary) return LORAD_NOMEM;
    int error = EEXIST;
    for (int i = 0; error == EEXIST && i < TEMPORARY_TRIES; i++) {
        snprintf(temporary, room, "%s.tmp-%ld-%d", path, (long)getpid(), i);
        error = -fs->ops->symlink(fs->context, target, temporary);
    }
    enum status status;
    if (error) {
        status = FAIL(LORAD_IO, "cannot link %s to %s: %s", path, target, strerror(error));
    } else {
        status = fs_rename(fs, temporary, path);
        if (status != LORAD_OK) (void)fs->ops->unlink(fs->context, temporary);
    }
    free(temporary);
    return status;
}

enum status fs_mkdir(struct fs *fs, const char *path)
{
    int error = -fs->ops->mkdir(fs->context, path);
    if (error == EEXIST && file_is_dir(path)) return LORAD_OK;
    return error ? cannot_create(path, error) : LORAD_OK;
}

enum status fs_sync_dir(struct fs *fs, const char *path)
{
    int error;
    do error = -fs->ops->sync_dir(fs->context, path);
    while (error == EINTR);
    return error ? FAIL(LORAD_IO, "cannot sync folder %s: %s", path, strerror(error)) : LORAD_OK;
}

enum status fs_sync_parent(struct fs *fs, const char *path)
{
    char *folder = folder_of(path);
    enum status status = folder ? fs_sync_dir(fs, folder) : LORAD_NOMEM;
    free(folder);
    return status;
}

enum status fs_unlink(struct fs *fs, const char *path)
{
    int error = -fs->ops->unlink(fs->context, path);
    return error && error != ENOENT ? FAIL(LORAD_IO, "cannot remove %s: %s", path, strerror(error))
                                    : LORAD_OK;
}

enum status fs_remove_tree(struct fs *fs, const char *path)
{
    struct stat info;
    if (lstat(path, &info) != 0)
        return errno == ENOENT ? LORAD_OK : FAIL(LORAD_IO, "cannot stat %s: %s", path, strerror(errno));
    if (!S_ISDIR(info.st_mode)) return fs_unlink(fs, path);

    DIR *dir = opendir(path);
    if (!dir) return FAIL(LORAD_IO, "cannot list %s: %s", path, strerror(errno));
    enum status status = LORAD_OK;
    struct dirent *entry;
    while (status == LORAD_OK && (entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        char *child = file_join(path, entry->d_name);
        status = child ? fs_remove_tree(fs, child) : LORAD_NOMEM;
        free(child);
    }
    closedir(dir);
    if (status != LORAD_OK) return status;
    int error = -fs->ops->rmdir(fs->context, path);
    return error && error != ENOENT ? FAIL(LORAD_IO, "cannot remove folder %s: %s", path, strerror(error))
                                    : LORAD_OK;
}

enum status fs_free_bytes(struct fs *fs, const char *path, int64_t *bytes)
{
    int64_t n = fs->ops->free_bytes(fs->context, path);
    if (n < 0) return FAIL(LORAD_IO, "cannot ask for the free space of %s: %s", path, strerror((int)-n));
    *bytes = n;
    return LORAD_OK;
}
