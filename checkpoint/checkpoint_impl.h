/* checkpoint_impl.h: names and places that the files of checkpoint/ share. Private. */
#ifndef LORAD_CHECKPOINT_CHECKPOINT_IMPL_H
#define LORAD_CHECKPOINT_CHECKPOINT_IMPL_H

#include <stdbool.h>

#include "checkpoint/checkpoint.h"

#define MANIFEST_NAME "MANIFEST.json"
#define MANIFEST_DEAD "MANIFEST.dead"

/* The inverse of checkpoint_id_name; false for any text that it would not write. */
bool checkpoint_id_parse(struct checkpoint_id *out, const char *name);

/* Joins up to four parts; parts may be NULL from the end on. Owns: the result; NULL: NOMEM. */
char *checkpoint_path(const char *a, const char *b, const char *c, const char *d);

/* XXH3-128 and size of a regular file, links not followed. LORAD_DATA when it is missing or of another kind,
 * LORAD_IO. */
enum status checkpoint_hash_file(struct hash128 *hash, int64_t *bytes, const char *path) LORAD_WARN_UNUSED;

/* Removes OUT/checkpoint-<step> when it leads to this checkpoint. The caller syncs OUT. */
enum status checkpoint_drop_link(struct fs *fs, const char *output_dir,
                                 struct checkpoint_id id) LORAD_WARN_UNUSED;

#endif
