/*
 * manifest.h: MANIFEST.json, the commit record of a checkpoint. Private to checkpoint/ and the tests.
 * The format is in docs/formats/checkpoint.md.
 */
#ifndef LORAD_CHECKPOINT_MANIFEST_H
#define LORAD_CHECKPOINT_MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "checkpoint/checkpoint.h"

enum { MANIFEST_MAX_BYTES = 64 << 20, MANIFEST_MAX_WORLD = 65536, MANIFEST_MAX_FILES = 4096 };

/* A file of the folder that is no shard: the exported adapter, the configuration. */
struct manifest_file {
    const char *name;
    int64_t bytes;
    struct hash128 hash;
};

struct manifest {
    struct checkpoint_id id;
    int world;
    struct checkpoint_receipt *shards; /* world, by rank */
    struct manifest_file *files;
    size_t n_files;
    const struct json *state;
    const char *created_utc; /* "" in one without */
    int64_t bytes;           /* of MANIFEST.json */
    struct hash128 hash;
    struct json *document; /* owns names and state; NULL in one that is to be written */
};
void manifest_free(struct manifest *manifest);

/* "shard-00003-of-00008.zst" */
void manifest_shard_name(int rank, int world, char text[CHECKPOINT_NAME_BYTES]);

/* The text of a manifest; `state_json` goes in as it is, after a check that it is one object. */
enum status manifest_write(struct strbuf *text, const struct manifest *manifest,
                           const char *state_json) LORAD_WARN_UNUSED;

/* Checks hash, schema and limits; `where` names the file in messages. LORAD_DATA: damaged; LORAD_CONFIG:
 * whole, but of a version that this lorad does not read. Owns: *out. */
enum status manifest_parse(struct manifest *out, const char *text, size_t length,
                           const char *where) LORAD_WARN_UNUSED;

#endif
