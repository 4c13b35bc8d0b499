/* fs_impl.h: the table behind fs.h. Only fs.c, the backends and the fault decorators of the tests include it.
 */
#ifndef LORAD_BASE_FS_IMPL_H
#define LORAD_BASE_FS_IMPL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/fs.h"

/* Each slot is one system call and returns its result, or -errno. All are mandatory. They may fail with EINTR
 * and write less than asked; fs.c copes. A descriptor is the backend's own and is passed back unchanged. */
struct fs_ops {
    int (*create)(void *context, const char *path); /* O_CREAT | O_EXCL | O_WRONLY */
    ssize_t (*write)(void *context, int fd, const void *bytes, size_t length);
    int (*sync)(void *context, int fd);
    int (*close)(void *context, int fd); /* the descriptor is gone whatever it returns */
    int (*rename)(void *context, const char *from, const char *to);
    int (*rename_new)(void *context, const char *from, const char *to); /* never replaces: -EEXIST */
    int (*link)(void *context, const char *from, const char *to);
    int (*symlink)(void *context, const char *target, const char *path);
    int (*mkdir)(void *context, const char *path);
    int (*unlink)(void *context, const char *path);
    int (*rmdir)(void *context, const char *path);
    int (*sync_dir)(void *context, const char *path);
    int64_t (*free_bytes)(void *context, const char *path);
};

struct fs {
    const struct fs_ops *ops;
    void *context;
};

#endif
