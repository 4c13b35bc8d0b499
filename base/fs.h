/*
 * fs.h: durable file operations, behind a table so that tests can fail or lose any of them. Backend: posix.
 * Every function is whole: it retries EINTR and short writes, checks close, and names the path in its error.
 * LORAD_IO, LORAD_CANNOT_CREATE, LORAD_NOT_FOUND. A failed fsync is never retried: the kernel has marked the
 * pages clean, so the file is abandoned. Blocks. Thread: safe on different files.
 */
#ifndef LORAD_BASE_FS_H
#define LORAD_BASE_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct fs;
struct fs_file;

/* The real file system; static, never freed. */
struct fs *fs_posix(void);

/* A new file, made with O_EXCL: an existing one is LORAD_CANNOT_CREATE. Owns: *out, freed by fs_close. */
enum status fs_create(struct fs_file **out, struct fs *fs, const char *path) LORAD_WARN_UNUSED;
enum status fs_write(struct fs_file *file, const void *bytes, size_t length) LORAD_WARN_UNUSED;
/* On a local disk, long writes that lie at a multiple of this in memory and in the file bypass the page
 * cache: that costs a third of the processor time, and leaves the cache to others. */
enum { FS_DIRECT_BYTES = 4096 };
enum status fs_sync(struct fs_file *file) LORAD_WARN_UNUSED;
enum status fs_close(struct fs_file *file) LORAD_WARN_UNUSED; /* always frees */

/* Writing a file that appears whole or not at all: fs_begin makes a temporary file beside `path`; fs_finish
 * syncs and closes it, renames it over `path` and syncs the folder; fs_discard removes it (NULL ok). Both
 * free; fs_finish leaves no temporary behind when it fails. */
enum status fs_begin(struct fs_file **out, struct fs *fs, const char *path) LORAD_WARN_UNUSED;
enum status fs_finish(struct fs_file *file) LORAD_WARN_UNUSED;
void fs_discard(struct fs_file *file);
/* The same in one call. Replaces `path`. */
enum status fs_write_file(struct fs *fs, const char *path, const void *bytes,
                          size_t length) LORAD_WARN_UNUSED;

enum status fs_rename(struct fs *fs, const char *from, const char *to) LORAD_WARN_UNUSED;
/* Publishes `from` as `to` without ever replacing, and removes `from`: link(2), or rename where the file
 * system has no links. LORAD_OK also when `to` already has the same bytes; LORAD_CANNOT_CREATE when it has
 * others. The caller syncs the folder. */
enum status fs_publish(struct fs *fs, const char *from, const char *to) LORAD_WARN_UNUSED;
/* Makes or replaces the symbolic link `path`, atomically. The caller syncs the folder. */
enum status fs_symlink_swap(struct fs *fs, const char *target, const char *path) LORAD_WARN_UNUSED;
enum status fs_mkdir(struct fs *fs, const char *path) LORAD_WARN_UNUSED; /* an existing folder is fine */
enum status fs_sync_dir(struct fs *fs, const char *path) LORAD_WARN_UNUSED;
/* Syncs the folder that holds `path`. */
enum status fs_sync_parent(struct fs *fs, const char *path) LORAD_WARN_UNUSED;
enum status fs_unlink(struct fs *fs, const char *path) LORAD_WARN_UNUSED; /* absent is fine */
/* Removes a folder and what is in it, links unfollowed. Absent is fine. */
enum status fs_remove_tree(struct fs *fs, const char *path) LORAD_WARN_UNUSED;
/* Space that this user can still fill in the file system of `path`. */
enum status fs_free_bytes(struct fs *fs, const char *path, int64_t *bytes) LORAD_WARN_UNUSED;

#endif
