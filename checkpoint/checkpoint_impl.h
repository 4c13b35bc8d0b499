/* checkpoint_impl.h: names and places that the files of checkpoint/ share. Private. */
#ifndef LORAD_CHECKPOINT_CHECKPOINT_IMPL_H
#define LORAD_CHECKPOINT_CHECKPOINT_IMPL_H

#include <stdbool.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "checkpoint/shard.h"

#define MANIFEST_NAME "MANIFEST.json"
#define MANIFEST_DEAD "MANIFEST.dead"
#define PIN_NAME      "PINNED" /* an empty file beside the manifest */

struct piece_ref {
    int shard;
    size_t index;
    const struct shard_piece *piece;
};

struct checkpoint {
    char *dir;
    struct manifest manifest;
    struct shard **shards;  /* world */
    struct piece_ref *refs; /* by name, then by rank */
    size_t n_refs;
    struct shard_codec *codec;
    const struct shard_piece *cached; /* the piece that `raw` holds; NULL: none */
    void *raw;
    size_t raw_capacity;
};

/* Only the folder and its manifest: no shard is opened, no file looked at. Owns: *out. */
enum status checkpoint_open_manifest(struct checkpoint **out, const char *dir) LORAD_WARN_UNUSED;

/* The inverse of checkpoint_id_name; false for any text that it would not write. */
bool checkpoint_id_parse(struct checkpoint_id *out, const char *name);

/* "<id>" or "<id>.<n>", as in trash and quarantine: other things there were put by somebody else. */
bool checkpoint_is_retired_name(const char *name);

/* Joins up to four parts; parts may be NULL from the end on. Owns: the result; NULL: NOMEM. */
char *checkpoint_path(const char *a, const char *b, const char *c, const char *d);

/* XXH3-128 and size of a regular file, links not followed; from_disk: past the page cache where that can be
 * done, so that it is the disk that is asked, and nothing of it stays in memory. LORAD_DATA when it is
 * missing or of another kind, LORAD_IO. */
enum status checkpoint_hash_file(struct hash128 *hash, int64_t *bytes, const char *path,
                                 bool from_disk) LORAD_WARN_UNUSED;

/* LORAD_DATA unless the file has this size and hash. */
enum status checkpoint_check_file(const char *path, int64_t bytes, struct hash128 hash,
                                  bool from_disk) LORAD_WARN_UNUSED;
/* The same for every file of one whose manifest is read. */
enum status checkpoint_check_files(const struct checkpoint *checkpoint, bool from_disk) LORAD_WARN_UNUSED;

/* Removes OUT/checkpoint-<step> when it leads to this checkpoint. The caller syncs OUT. */
enum status checkpoint_drop_link(struct fs *fs, const char *output_dir,
                                 struct checkpoint_id id) LORAD_WARN_UNUSED;

#endif
