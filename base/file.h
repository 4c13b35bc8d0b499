/* file.h: reading inputs whole, and path words. Durable writing belongs to base/fs.h. */
#ifndef LORAD_BASE_FILE_H
#define LORAD_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* The whole file with a NUL behind it. Owns: *out (free). LORAD_NOT_FOUND, LORAD_IO; LORAD_DATA when it is larger than
 * max_bytes or is no regular file. */
enum status file_read(char **out, size_t *length, const char *path, size_t max_bytes) LORAD_WARN_UNUSED;

bool file_exists(const char *path);
bool file_is_dir(const char *path);

/* Size in bytes and modification time; either may be NULL. */
enum status file_stat(int64_t *size_bytes, int64_t *mtime_ns, const char *path) LORAD_WARN_UNUSED;

/* "folder/name" ("name" when the folder is empty or the name is absolute). Owns: the result (free); NULL: NOMEM. */
char *file_join(const char *folder, const char *name);

/* mkdir -p. LORAD_CANNOT_CREATE. */
enum status file_make_dirs(const char *path) LORAD_WARN_UNUSED;

#endif
