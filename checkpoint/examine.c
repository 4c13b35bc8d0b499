/* examine.c: what is in a checkpoint, for people, and whether all of it is what it was. */
#include "checkpoint/checkpoint_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

void checkpoint_describe(const struct checkpoint *checkpoint, struct checkpoint_contents *out)
{
    const struct manifest *manifest = &checkpoint->manifest;
    *out = (struct checkpoint_contents){.world = manifest->world,
                                        .n_files = (size_t)manifest->world + manifest->n_files + 1};
    snprintf(out->created_utc, sizeof out->created_utc, "%s", manifest->created_utc);
    for (int i = 0; i < manifest->world; i++) {
        out->raw_bytes += manifest->shards[i].raw_bytes;
        out->shard_bytes += manifest->shards[i].file_bytes;
    }
    for (size_t i = 0; i < manifest->n_files; i++) out->other_bytes += manifest->files[i].bytes;
    out->total_bytes = out->shard_bytes + out->other_bytes + manifest->bytes;
}

bool checkpoint_next_tensor(const struct checkpoint *checkpoint, size_t *at, struct checkpoint_tensor *out)
{
    size_t i = *at;
    if (i >= checkpoint->n_refs) return false;
    const struct shard_piece *first = checkpoint->refs[i].piece;
    *out = (struct checkpoint_tensor){.name = first->name,
                                      .dtype = st_dtype_name(first->dtype),
                                      .shape = {first->shape[0], first->shape[1]}};
    for (; i < checkpoint->n_refs && strcmp(checkpoint->refs[i].piece->name, first->name) == 0; i++) {
        out->pieces++;
        out->raw_bytes += checkpoint->refs[i].piece->raw_bytes;
        out->packed_bytes += checkpoint->refs[i].piece->file_bytes;
    }
    *at = i;
    return true;
}

/* ---- reading all of it ---- */

/* Only damage is a problem to note; what this machine cannot do ends the examination. */
static enum status note(struct strbuf *problems, enum status status, size_t *n)
{
    if (status != LORAD_DATA) return status;
    strbuf_printf(problems, "%s\n", status_message());
    ++*n;
    return LORAD_OK;
}

static enum status read_pieces(struct shard *shard, struct shard_codec *codec)
{
    void *raw = NULL;
    size_t capacity = 0;
    enum status status = LORAD_OK;
    for (size_t i = 0; i < shard_count(shard) && status == LORAD_OK; i++) {
        status = memory_grow(&raw, &capacity, (size_t)shard_at(shard, i)->raw_bytes, 1);
        if (status == LORAD_OK) status = shard_read(shard, i, codec, raw);
    }
    free(raw);
    return status;
}

static enum status examine_shard(const char *path, const struct checkpoint_receipt *receipt,
                                 struct shard_codec *codec)
{
    struct shard *shard;
    TRY(checkpoint_check_file(path, receipt->file_bytes, receipt->file_hash, false));
    TRY(shard_open(&shard, path, receipt));
    enum status status = read_pieces(shard, codec);
    shard_close(shard);
    return status;
}

static enum status examine_files(struct strbuf *problems, const struct checkpoint *checkpoint,
                                 struct shard_codec *codec, size_t *wrong)
{
    const struct manifest *manifest = &checkpoint->manifest;
    for (int i = 0; i < manifest->world; i++) {
        char name[CHECKPOINT_NAME_BYTES];
        manifest_shard_name(i, manifest->world, name);
        char *path = file_join(checkpoint->dir, name);
        enum status status = path ? examine_shard(path, &manifest->shards[i], codec) : LORAD_NOMEM;
        free(path);
        TRY(note(problems, status, wrong));
    }
    for (size_t i = 0; i < manifest->n_files; i++) {
        const struct manifest_file *file = &manifest->files[i];
        char *path = file_join(checkpoint->dir, file->name);
        enum status status = path ? checkpoint_check_file(path, file->bytes, file->hash, false) : LORAD_NOMEM;
        free(path);
        TRY(note(problems, status, wrong));
    }
    return strbuf_status(problems);
}

enum status checkpoint_examine(struct strbuf *problems, const char *dir)
{
    struct checkpoint *checkpoint;
    struct shard_codec *codec;
    size_t wrong = 0;
    enum status status = checkpoint_open_manifest(&checkpoint, dir);
    if (status == LORAD_DATA) strbuf_printf(problems, "%s\n", status_message());
    TRY(status);
    status = shard_codec_create(&codec);
    if (status == LORAD_OK) {
        status = examine_files(problems, checkpoint, codec, &wrong);
        shard_codec_destroy(codec);
    }
    checkpoint_close(checkpoint);
    if (status == LORAD_OK && wrong > 0)
        status = FAIL(LORAD_DATA, "%s is damaged: %zu of its files are not what was written", dir, wrong);
    return status;
}
