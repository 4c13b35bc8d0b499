/* fs_posix.c: the file system table over system calls. */
#include "base/fs_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { DIRECT_LEAST_BYTES = 64 << 10 };

static int result(int value)
{
    return value < 0 ? -errno : value;
}

static int posix_create(void *context, const char *path)
{
    (void)context;
    return result(open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666));
}

/* Where O_DIRECT is known to pay: over a network the cache lets many requests be under way at once. */
static bool is_local_disk(int fd)
{
    struct statfs info;
    return fstatfs(fd, &info) == 0 && (info.f_type == EXT4_SUPER_MAGIC || info.f_type == XFS_SUPER_MAGIC);
}

static bool may_bypass_cache(int fd, const void *bytes, size_t length)
{
    off_t at;
    return length >= DIRECT_LEAST_BYTES && (uintptr_t)bytes % FS_DIRECT_BYTES == 0 &&
           (at = lseek(fd, 0, SEEK_CUR)) >= 0 && at % FS_DIRECT_BYTES == 0 && is_local_disk(fd);
}

/* As much as can be; EINVAL where it cannot be after all. */
static ssize_t write_past_cache(int fd, const void *bytes, size_t length)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) < 0) return -EINVAL;
    ssize_t n = write(fd, bytes, length - length % FS_DIRECT_BYTES);
    if (n < 0) n = -errno;
    return fcntl(fd, F_SETFL, flags) < 0 ? -errno : n;
}

static ssize_t posix_write(void *context, int fd, const void *bytes, size_t length)
{
    (void)context;
    ssize_t n = may_bypass_cache(fd, bytes, length) ? write_past_cache(fd, bytes, length) : -EINVAL;
    if (n != -EINVAL) return n;
    n = write(fd, bytes, length);
    return n < 0 ? -errno : n;
}

static int posix_sync(void *context, int fd)
{
    (void)context;
    return result(fsync(fd));
}

static int posix_close(void *context, int fd)
{
    (void)context;
    return result(close(fd));
}

static int posix_rename(void *context, const char *from, const char *to)
{
    (void)context;
    return result(rename(from, to));
}

/* Where the file system does not know the flag, a look before the rename has to do: every path that lorad
 * publishes this way has one writer (the folder's name carries the fencing epoch). */
static int posix_rename_new(void *context, const char *from, const char *to)
{
    (void)context;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return -errno;
    struct stat info;
    if (lstat(to, &info) == 0) return -EEXIST;
    return result(rename(from, to));
}

static int posix_link(void *context, const char *from, const char *to)
{
    (void)context;
    return result(link(from, to));
}

static int posix_symlink(void *context, const char *target, const char *path)
{
    (void)context;
    return result(symlink(target, path));
}

static int posix_mkdir(void *context, const char *path)
{
    (void)context;
    return result(mkdir(path, 0777));
}

static int posix_unlink(void *context, const char *path)
{
    (void)context;
    return result(unlink(path));
}

static int posix_rmdir(void *context, const char *path)
{
    (void)context;
    return result(rmdir(path));
}

/* Some file systems cannot sync a folder and say EINVAL; their folders are then as durable as they get. */
static int posix_sync_dir(void *context, const char *path)
{
    (void)context;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int error = fsync(fd) == 0 || errno == EINVAL ? 0 : errno;
    if (close(fd) != 0 && !error) error = errno;
    return -error;
}

static int64_t posix_free_bytes(void *context, const char *path)
{
    (void)context;
    struct statvfs info;
    if (statvfs(path, &info) != 0) return -errno;
    return (int64_t)info.f_bavail * (int64_t)info.f_frsize;
}

static const struct fs_ops posix_ops = {
    .create = posix_create,
    .write = posix_write,
    .sync = posix_sync,
    .close = posix_close,
    .rename = posix_rename,
    .rename_new = posix_rename_new,
    .link = posix_link,
    .symlink = posix_symlink,
    .mkdir = posix_mkdir,
    .unlink = posix_unlink,
    .rmdir = posix_rmdir,
    .sync_dir = posix_sync_dir,
    .free_bytes = posix_free_bytes,
};

struct fs *fs_posix(void)
{
    static struct fs fs = {&posix_ops, NULL};
    return &fs;
}
