/*
 * writer.c: saving a checkpoint: begin, shard, commit or abandon.
 *
 * Invariants:
 * 1. Every path that is written carries (step, epoch, attempt, rank): no two writers share one.
 * 2. MANIFEST.json appears last, after every byte and name that it speaks of is synced. Its appearance is the
 * commit.
 * 3. Nothing is removed from a folder that has a MANIFEST.json.
 * 4. OUT/checkpoint-<step> is a convenience: it changes after the commit, and its failure does not undo the
 * commit.
 */
#include "checkpoint/checkpoint_impl.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "checkpoint/manifest.h"
#include "checkpoint/shard.h"

struct checkpoint_writer {
    struct fs *fs;
    char *output_dir, *parent, *dir; /* OUT, OUT/ckpt, OUT/ckpt/<id> */
    struct checkpoint_id id;
    int rank, world;
    struct shard_packing packing;
    struct known_file { /* checkpoint_note_file; bytes < 0: none */
        char name[CHECKPOINT_NAME_BYTES];
        struct hash128 hash;
        int64_t bytes;
    } known;
};

void checkpoint_finish(struct checkpoint_writer *writer)
{
    if (!writer) return;
    free(writer->output_dir);
    free(writer->parent);
    free(writer->dir);
    free(writer);
}

const char *checkpoint_writer_dir(const struct checkpoint_writer *writer)
{
    return writer->dir;
}

void checkpoint_note_file(struct checkpoint_writer *writer, const char *name, struct hash128 hash,
                          int64_t bytes)
{
    writer->known = (struct known_file){.hash = hash, .bytes = bytes};
    snprintf(writer->known.name, sizeof writer->known.name, "%s", name);
}

static enum status find_commit(bool *found, const struct checkpoint_writer *writer)
{
    char *path = file_join(writer->dir, MANIFEST_NAME);
    if (!path) return LORAD_NOMEM;
    *found = file_exists(path);
    free(path);
    return LORAD_OK;
}

/* In doubt it is, and nothing is removed. */
static bool is_committed(const struct checkpoint_writer *writer)
{
    bool found;
    return find_commit(&found, writer) != LORAD_OK || found;
}

static enum status make_folders(const struct checkpoint_writer *writer)
{
    struct fs *fs = writer->fs;
    TRY(fs_mkdir(fs, writer->output_dir));
    TRY(fs_mkdir(fs, writer->parent));
    TRY(fs_mkdir(fs, writer->dir));
    /* A folder of a peer is as durable as one of ours once its parent is synced. */
    TRY(fs_sync_dir(fs, writer->output_dir));
    return fs_sync_dir(fs, writer->parent);
}

static enum status check_space(const struct checkpoint_writer *writer, int64_t need_bytes)
{
    int64_t free_bytes = 0;
    if (need_bytes <= 0 || !file_is_dir(writer->output_dir)) return LORAD_OK;
    TRY(fs_free_bytes(writer->fs, writer->output_dir, &free_bytes));
    if (free_bytes < need_bytes)
        return FAIL(LORAD_IO, "no space for a checkpoint in %s: %lld MB are needed, %lld MB are free",
                    writer->output_dir, (long long)(need_bytes >> 20) + 1, (long long)(free_bytes >> 20));
    return LORAD_OK;
}

enum status checkpoint_begin(struct checkpoint_writer **out, struct fs *fs, const char *output_dir,
                             struct checkpoint_id id, int rank, int world, int64_t need_bytes)
{
    char name[CHECKPOINT_NAME_BYTES];
    bool committed;
    ASSERT(world >= 1 && world <= MANIFEST_MAX_WORLD && rank >= 0 && rank < world && id.step >= 0 &&
           id.epoch >= 0 && id.attempt >= 0);
    struct checkpoint_writer *writer = memory_new(1, sizeof *writer);
    if (!writer) return LORAD_NOMEM;
    checkpoint_id_name(id, name);
    *writer = (struct checkpoint_writer){.fs = fs,
                                         .id = id,
                                         .rank = rank,
                                         .world = world,
                                         .packing = SHARD_PACKING_DEFAULT,
                                         .known.bytes = -1};
    writer->output_dir = memory_string(output_dir);
    writer->parent = checkpoint_path(output_dir, "ckpt", NULL, NULL);
    writer->dir = checkpoint_path(output_dir, "ckpt", name, NULL);
    enum status status = writer->output_dir && writer->parent && writer->dir ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) status = check_space(writer, need_bytes);
    if (status == LORAD_OK) status = make_folders(writer);
    if (status == LORAD_OK) status = find_commit(&committed, writer);
    if (status == LORAD_OK && committed)
        status = FAIL(LORAD_CANNOT_CREATE, "checkpoint %s is already committed", writer->dir);
    if (status == LORAD_OK)
        *out = writer;
    else
        checkpoint_finish(writer);
    return status;
}

void checkpoint_writer_pack(struct checkpoint_writer *writer, int32_t level, int32_t threads)
{
    writer->packing = (struct shard_packing){.level = level, .threads = threads};
}

static char *shard_path(const struct checkpoint_writer *writer, int rank)
{
    char name[CHECKPOINT_NAME_BYTES];
    manifest_shard_name(rank, writer->world, name);
    return file_join(writer->dir, name);
}

enum status checkpoint_write_shard(struct checkpoint_writer *writer, const struct checkpoint_piece *pieces,
                                   size_t n, struct checkpoint_receipt *receipt)
{
    *receipt = (struct checkpoint_receipt){.rank = writer->rank};
    char *path = shard_path(writer, writer->rank);
    if (!path) return LORAD_NOMEM;
    enum status status = file_exists(path)
                             ? FAIL(LORAD_CANNOT_CREATE, "%s exists; each save needs its own attempt", path)
                             : shard_write(writer->fs, path, pieces, n, writer->packing, receipt);
    receipt->ok = status == LORAD_OK;
    free(path);
    return status;
}

/* The message that made the caller give up must survive this. */
void checkpoint_abandon(struct checkpoint_writer *writer)
{
    if (!writer) return;
    char *message = memory_string(status_message());
    if (!is_committed(writer)) {
        char *path = shard_path(writer, writer->rank);
        enum status status = path ? fs_unlink(writer->fs, path) : LORAD_NOMEM;
        if (writer->rank == 0) {
            enum status tree = fs_remove_tree(writer->fs, writer->dir);
            if (status == LORAD_OK) status = tree;
        }
        if (status != LORAD_OK) log_warn("an unfinished checkpoint is left behind: %s", status_message());
        free(path);
    }
    if (message && *message) (void)FAIL(LORAD_IO, "%s", message);
    free(message);
    checkpoint_finish(writer);
}

void checkpoint_discard(struct fs *fs, const char *output_dir, struct checkpoint_id id)
{
    char name[CHECKPOINT_NAME_BYTES];
    checkpoint_id_name(id, name);
    char *dir = checkpoint_path(output_dir, "ckpt", name, NULL);
    char *manifest = dir ? file_join(dir, MANIFEST_NAME) : NULL;
    if (manifest && !file_exists(manifest) && fs_remove_tree(fs, dir) != LORAD_OK)
        log_warn("an unfinished checkpoint is left behind: %s", status_message());
    free(manifest);
    free(dir);
}

/* ---- commit ---- */

static enum status check_receipts(const struct checkpoint_writer *writer,
                                  const struct checkpoint_receipt *receipts)
{
    for (int i = 0; i < writer->world; i++) {
        int64_t bytes = -1;
        if (receipts[i].rank != i) return FAIL(LORAD_BUG, "receipt %d is of rank %d", i, receipts[i].rank);
        if (!receipts[i].ok) return FAIL(LORAD_IO, "rank %d could not write its shard of %s", i, writer->dir);
        char *path = shard_path(writer, i);
        enum status status = path ? file_stat(&bytes, NULL, path) : LORAD_NOMEM;
        if (status == LORAD_OK && bytes != receipts[i].file_bytes)
            status = FAIL(LORAD_IO, "%s has %lld bytes, but rank %d wrote %lld", path, (long long)bytes, i,
                          (long long)receipts[i].file_bytes);
        free(path);
        TRY(status);
    }
    return LORAD_OK;
}

/* Shards have entries of their own; temporaries, hidden files and the manifest have none. */
static int is_extra(const struct dirent *entry)
{
    const char *name = entry->d_name;
    return *name != '.' && strncmp(name, "shard-", 6) != 0 && strncmp(name, "MANIFEST.", 9) != 0 &&
           !strstr(name, ".tmp-");
}

/* What its writer said, when it still has that length, else what is read. */
static enum status hash_extra_file(struct manifest_file *file, const struct known_file *known,
                                   const char *path)
{
    int64_t bytes = -1;
    if (strcmp(known->name, file->name) == 0) TRY(file_stat(&bytes, NULL, path));
    if (bytes < 0 || bytes != known->bytes)
        return checkpoint_hash_file(&file->hash, &file->bytes, path, false);
    file->hash = known->hash;
    file->bytes = bytes;
    return LORAD_OK;
}

static enum status list_extra_files(struct manifest *manifest, const struct checkpoint_writer *writer,
                                    struct dirent **entries, int n)
{
    const char *dir = writer->dir;
    if (n > MANIFEST_MAX_FILES) return FAIL(LORAD_BUG, "%s has %d files, which is too many", dir, n);
    if (!(manifest->files = memory_new((size_t)n, sizeof *manifest->files))) return LORAD_NOMEM;
    for (int i = 0; i < n; i++) {
        struct manifest_file *file = &manifest->files[manifest->n_files];
        char *path = file_join(dir, entries[i]->d_name);
        file->name = entries[i]->d_name;
        enum status status = path ? hash_extra_file(file, &writer->known, path) : LORAD_NOMEM;
        free(path);
        TRY(status);
        manifest->n_files++;
    }
    return LORAD_OK;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static enum status make_manifest(struct strbuf *text, const struct checkpoint_writer *writer,
                                 const struct checkpoint_receipt *receipts, const char *state_json)
{
    struct manifest manifest = {.id = writer->id, .world = writer->world};
    struct dirent **entries = NULL;
    int n = scandir(writer->dir, &entries, is_extra, by_name);
    if (n < 0) return FAIL(LORAD_IO, "cannot list %s: %s", writer->dir, strerror(errno));
    enum status status = LORAD_OK;
    if (!(manifest.shards = memory_new((size_t)writer->world, sizeof *receipts))) status = LORAD_NOMEM;
    if (status == LORAD_OK) {
        memcpy(manifest.shards, receipts, (size_t)writer->world * sizeof *receipts);
        status = list_extra_files(&manifest, writer, entries, n);
    }
    if (status == LORAD_OK) status = manifest_write(text, &manifest, state_json);
    for (int i = 0; i < n; i++) free(entries[i]);
    free(entries);
    manifest_free(&manifest);
    return status;
}

static enum status write_durable(struct fs *fs, const char *path, const struct strbuf *text)
{
    struct fs_file *file;
    TRY(fs_create(&file, fs, path));
    enum status status = fs_write(file, text->data, text->length);
    if (status == LORAD_OK) status = fs_sync(file);
    enum status closed = fs_close(file);
    return status == LORAD_OK ? closed : status;
}

/* MANIFEST.tmp -> MANIFEST.json, asking for ownership as late as possible. */
static enum status publish(const struct checkpoint_writer *writer, const struct strbuf *text,
                           enum status (*is_owner)(void *context), void *context)
{
    char *temporary = file_join(writer->dir, "MANIFEST.tmp"), *path = file_join(writer->dir, MANIFEST_NAME);
    enum status status = temporary && path ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) status = write_durable(writer->fs, temporary, text);
    if (status == LORAD_OK) status = fs_sync_dir(writer->fs, writer->dir); /* the names of all other files */
    if (status == LORAD_OK && is_owner) status = is_owner(context);
    if (status == LORAD_OK) status = fs_publish(writer->fs, temporary, path);
    /* Stopped between the two and taken over, it is void by its epoch; who reads the link must not meet it.
     */
    if (status == LORAD_OK && is_owner) status = is_owner(context);
    if (status == LORAD_OK) status = fs_sync_dir(writer->fs, writer->dir);
    free(temporary);
    free(path);
    return status;
}

/* Failure is told and forgotten: the commit stands without the link. */
static void swap_link(const struct checkpoint_writer *writer)
{
    char name[CHECKPOINT_NAME_BYTES], target[CHECKPOINT_NAME_BYTES + 8], link[CHECKPOINT_NAME_BYTES];
    checkpoint_id_name(writer->id, name);
    snprintf(target, sizeof target, "ckpt/%s", name);
    snprintf(link, sizeof link, "checkpoint-%lld", (long long)writer->id.step);
    char *path = file_join(writer->output_dir, link);
    enum status status = path ? fs_symlink_swap(writer->fs, target, path) : LORAD_NOMEM;
    if (status == LORAD_OK) status = fs_sync_dir(writer->fs, writer->output_dir);
    if (status != LORAD_OK)
        log_warn("checkpoint %s is committed, but its link is not: %s", writer->dir, status_message());
    free(path);
}

enum status checkpoint_commit(struct checkpoint_writer *writer, const struct checkpoint_receipt *receipts,
                              int world, const char *state_json, enum status (*is_owner)(void *context),
                              void *context)
{
    ASSERT(writer->rank == 0 && world == writer->world);
    struct strbuf text = STRBUF_EMPTY;
    enum status status = check_receipts(writer, receipts);
    if (status == LORAD_OK) status = make_manifest(&text, writer, receipts, state_json);
    if (status == LORAD_OK) status = publish(writer, &text, is_owner, context);
    strbuf_free(&text);
    if (status != LORAD_OK) {
        checkpoint_abandon(writer); /* at once: what it holds may be what a full disk needs */
        return status;
    }
    swap_link(writer);
    checkpoint_finish(writer);
    return LORAD_OK;
}
