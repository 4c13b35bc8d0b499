/*
 * fs.h: durable file operations, behind a table so that tests can fail or lose any of them. Backend: posix.
 * Every function is whole: it retries EINTR and short writes, checks close, and names the path in its error.
 * LORAD_IO, LORAD_CANNOT_CREATE, LORAD_NOT_FOUND. A failed fsync is never retried: the file is abandoned.
 */
#ifndef LORAD_CHECKPOINT_FS_H
#define LORAD_CHECKPOINT_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct fs;
struct fs_file;

/* The real file system; static, never freed. */
struct fs *fs_posix(void);

enum status fs_create(struct fs_file **out, struct fs *fs, const char *path) LORAD_WARN_UNUSED; /* O_EXCL */
enum status fs_write(struct fs_file *file, const void *bytes, size_t length) LORAD_WARN_UNUSED;
enum status fs_sync(struct fs_file *file) LORAD_WARN_UNUSED;
enum status fs_close(struct fs_file *file) LORAD_WARN_UNUSED; /* always frees */
enum status fs_rename(struct fs *fs, const char *from, const char *to) LORAD_WARN_UNUSED;
/* Publishes `from` as `to` without ever replacing: link(2), or rename where links are not supported (probed). LORAD_OK
 * also when `to` already has the same bytes. */
enum status fs_publish(struct fs *fs, const char *from, const char *to) LORAD_WARN_UNUSED;
enum status fs_symlink_swap(struct fs *fs, const char *target, const char *path) LORAD_WARN_UNUSED;
enum status fs_mkdir(struct fs *fs, const char *path) LORAD_WARN_UNUSED; /* an existing folder is fine */
enum status fs_sync_dir(struct fs *fs, const char *path) LORAD_WARN_UNUSED;
enum status fs_unlink(struct fs *fs, const char *path) LORAD_WARN_UNUSED; /* absent is fine */
enum status fs_remove_tree(struct fs *fs, const char *path) LORAD_WARN_UNUSED;
enum status fs_free_bytes(struct fs *fs, const char *path, int64_t *bytes) LORAD_WARN_UNUSED;
/* Temporary file, write, fsync, close, rename, fsync of the folder. Replaces `path`. */
enum status fs_write_file(struct fs *fs, const char *path, const void *bytes, size_t length) LORAD_WARN_UNUSED;

#endif
