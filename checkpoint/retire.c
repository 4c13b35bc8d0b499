/*
 * retire.c: taking checkpoints out of service: quarantine for damaged ones, collection of old ones.
 *
 * Invariants:
 * 1. A checkpoint is un-committed (MANIFEST.json -> MANIFEST.dead, synced) before any of its bytes goes: a
 * crash leaves a whole checkpoint or none, never a committed half.
 * 2. The newest commit of the newest epoch is never touched by collection, nor are pinned ones.
 * 3. Quarantine only renames.
 */
#include "checkpoint/checkpoint_impl.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

enum { QUARANTINE_TRIES = 1000 };

enum status checkpoint_drop_link(struct fs *fs, const char *output_dir, struct checkpoint_id id)
{
    char name[CHECKPOINT_NAME_BYTES], expected[CHECKPOINT_NAME_BYTES + 8], link[CHECKPOINT_NAME_BYTES],
        target[PATH_MAX];
    checkpoint_id_name(id, name);
    snprintf(expected, sizeof expected, "ckpt/%s", name);
    snprintf(link, sizeof link, "checkpoint-%lld", (long long)id.step);
    char *path = file_join(output_dir, link);
    if (!path) return LORAD_NOMEM;
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n < 0 ? 0 : n] = '\0';
    enum status status = strcmp(target, expected) == 0 ? fs_unlink(fs, path) : LORAD_OK;
    free(path);
    return status;
}

/* OUT/<folder>, there and durable. Owns: *out. */
static enum status make_folder(char **out, struct fs *fs, const char *output_dir, const char *folder)
{
    char *path = file_join(output_dir, folder);
    enum status status = path ? fs_mkdir(fs, path) : LORAD_NOMEM;
    if (status == LORAD_OK) status = fs_sync_dir(fs, output_dir);
    if (status == LORAD_OK)
        *out = path;
    else
        free(path);
    return status;
}

/* Renames OUT/ckpt/<name> to <folder>/<name>, or <name>.2, ... when that is taken. The new name is synced
 * before the old one's absence. */
static enum status move_out(struct fs *fs, const char *output_dir, const char *name, const char *folder)
{
    char *parent = file_join(output_dir, "ckpt"), *from = checkpoint_path(output_dir, "ckpt", name, NULL);
    size_t room = strlen(folder) + strlen(name) + 16;
    char *to = memory_new(room, 1);
    enum status status = parent && from && to ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) {
        snprintf(to, room, "%s/%s", folder, name);
        for (int i = 2; file_exists(to) && i < QUARANTINE_TRIES; i++)
            snprintf(to, room, "%s/%s.%d", folder, name, i);
        status = file_exists(to) ? FAIL(LORAD_CANNOT_CREATE, "%s exists", to) : fs_rename(fs, from, to);
    }
    if (status == LORAD_OK) status = fs_sync_dir(fs, folder);
    if (status == LORAD_OK) status = fs_sync_dir(fs, parent);
    free(parent);
    free(from);
    free(to);
    return status;
}

enum status checkpoint_quarantine(struct fs *fs, const char *output_dir, const char *name)
{
    struct checkpoint_id id;
    char *folder = NULL;
    if (!checkpoint_id_parse(&id, name))
        return FAIL(LORAD_BUG, "\"%s\" is not the name of a checkpoint", name);
    TRY(checkpoint_drop_link(fs, output_dir, id));
    TRY(make_folder(&folder, fs, output_dir, "quarantine"));
    enum status status = move_out(fs, output_dir, name, folder);
    free(folder);
    return status;
}

/* ---- collection ---- */

static bool is_same(struct checkpoint_id a, struct checkpoint_id b)
{
    return a.step == b.step && a.epoch == b.epoch && a.attempt == b.attempt;
}

/* Epoch first: a run that was fenced off may have committed later steps, which nobody will load. */
static int newest_owner_first(const void *a, const void *b)
{
    const struct checkpoint_id *x = &((const struct checkpoint_entry *)a)->id;
    const struct checkpoint_id *y = &((const struct checkpoint_entry *)b)->id;
    if (x->epoch != y->epoch) return x->epoch > y->epoch ? -1 : 1;
    if (x->step != y->step) return x->step > y->step ? -1 : 1;
    return x->attempt > y->attempt ? -1 : x->attempt < y->attempt;
}

static enum status uncommit(struct fs *fs, const char *output_dir, const struct checkpoint_entry *entry)
{
    char *dir = checkpoint_path(output_dir, "ckpt", entry->name, NULL);
    char *manifest = dir ? file_join(dir, MANIFEST_NAME) : NULL,
         *dead = dir ? file_join(dir, MANIFEST_DEAD) : NULL;
    enum status status = manifest && dead ? checkpoint_drop_link(fs, output_dir, entry->id) : LORAD_NOMEM;
    if (status == LORAD_OK) status = fs_rename(fs, manifest, dead);
    if (status == LORAD_OK) status = fs_sync_dir(fs, dir);
    free(dir);
    free(manifest);
    free(dead);
    return status;
}

/* "<id>" or "<id>.<n>": other things in the trash were put there by somebody else. */
static bool is_ours(const char *name)
{
    char text[CHECKPOINT_NAME_BYTES];
    struct checkpoint_id id;
    if (strlen(name) >= sizeof text) return false;
    strcpy(text, name);
    if (checkpoint_id_parse(&id, text)) return true;
    char *dot = strrchr(text, '.');
    if (!dot) return false;
    *dot = '\0';
    return checkpoint_id_parse(&id, text);
}

static enum status empty_trash(struct fs *fs, const char *trash)
{
    struct dirent **entries = NULL;
    int n = scandir(trash, &entries, NULL, alphasort);
    if (n < 0)
        return errno == ENOENT ? LORAD_OK : FAIL(LORAD_IO, "cannot list %s: %s", trash, strerror(errno));
    enum status status = LORAD_OK;
    for (int i = 0; i < n; i++) {
        if (status == LORAD_OK && is_ours(entries[i]->d_name)) {
            char *path = file_join(trash, entries[i]->d_name);
            status = path ? fs_remove_tree(fs, path) : LORAD_NOMEM;
            free(path);
        }
        free(entries[i]);
    }
    free(entries);
    return status;
}

static bool must_stay(const struct checkpoint_entry *entries, size_t i, size_t newest,
                      const struct checkpoint_id *pinned, size_t n_pinned)
{
    if (i == newest) return true;
    for (size_t k = 0; k < n_pinned; k++)
        if (is_same(entries[i].id, pinned[k])) return true;
    return false;
}

/* Marks in `drop` what goes and returns how many. `entries` are sorted by newest_owner_first; what stands
 * before the newest commit may be in progress. Those that must stay take their places first. */
static size_t choose(bool *drop, const struct checkpoint_entry *entries, size_t n, int32_t keep,
                     const struct checkpoint_id *pinned, size_t n_pinned)
{
    size_t newest = 0, dropped = 0;
    int64_t room = keep;
    while (newest < n && !entries[newest].committed) newest++;
    for (size_t i = newest; i < n; i++)
        if (entries[i].committed && must_stay(entries, i, newest, pinned, n_pinned)) room--;
    for (size_t i = newest; i < n; i++) {
        if (must_stay(entries, i, newest, pinned, n_pinned)) continue;
        drop[i] = !entries[i].committed || room-- <= 0;
        dropped += drop[i];
    }
    return dropped;
}

static enum status collect(struct fs *fs, const char *output_dir, const char *trash,
                           const struct checkpoint_entry *entries, const bool *drop, size_t n)
{
    for (size_t i = n; i-- > 0;) { /* the oldest first */
        if (!drop[i]) continue;
        if (entries[i].committed) TRY(uncommit(fs, output_dir, &entries[i]));
        TRY(move_out(fs, output_dir, entries[i].name, trash));
    }
    return empty_trash(fs, trash);
}

enum status checkpoint_collect(struct fs *fs, const char *output_dir, int32_t keep,
                               const struct checkpoint_id *pinned, size_t n_pinned)
{
    struct checkpoint_entry *entries = NULL;
    char *trash = NULL;
    size_t n = 0;
    if (keep <= 0) return LORAD_OK;
    TRY(checkpoint_list(&entries, &n, output_dir));
    if (n) qsort(entries, n, sizeof *entries, newest_owner_first);
    bool *drop = memory_new(n, sizeof *drop);
    enum status status = drop ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK && choose(drop, entries, n, keep, pinned, n_pinned) > 0) {
        status = make_folder(&trash, fs, output_dir, "trash");
        if (status == LORAD_OK) status = collect(fs, output_dir, trash, entries, drop, n);
    } else if (status == LORAD_OK) {
        /* What an earlier collection could not finish. */
        if (!(trash = file_join(output_dir, "trash"))) status = LORAD_NOMEM;
        if (status == LORAD_OK) status = empty_trash(fs, trash);
    }
    free(trash);
    free(drop);
    free(entries);
    return status;
}
