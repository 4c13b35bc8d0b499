/*
 * hashed_file.h: a file that is written durably and appears whole (fs_begin, fs_finish), hashed on its way,
 * in long aligned pieces, which the file system may then take past its cache. Private to checkpoint/.
 */
#ifndef LORAD_CHECKPOINT_HASHED_FILE_H
#define LORAD_CHECKPOINT_HASHED_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/fs.h"
#include "base/hash.h"
#include "base/status.h"

struct hashed_file;

/* Owns: *out, freed by hashed_file_finish or hashed_file_discard. */
enum status hashed_file_begin(struct hashed_file **out, struct fs *fs, const char *path) LORAD_WARN_UNUSED;
enum status hashed_file_put(struct hashed_file *file, const void *bytes, size_t length) LORAD_WARN_UNUSED;
/* XXH3-128 and length of what was put. Leaves nothing behind when it fails. Blocks. */
enum status hashed_file_finish(struct hashed_file *file, struct hash128 *hash,
                               int64_t *bytes) LORAD_WARN_UNUSED;
void hashed_file_discard(struct hashed_file *file); /* NULL ok */

#endif
