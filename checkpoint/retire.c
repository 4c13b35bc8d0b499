/*
 * retire.c: taking checkpoints out of service: quarantine for damaged ones, collection of old ones.
 *
 * Invariants:
 * 1. A checkpoint is un-committed (MANIFEST.json -> MANIFEST.dead, synced) before any of its bytes goes: a
 * crash leaves a whole checkpoint or none, never a committed half.
 * 2. The newest good checkpoint is never touched by collection, nor are pinned ones, nor anything before one
 * good checkpoint was read back whole.
 * 3. Quarantine only renames and adds its reason.
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
#include "base/log.h"
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
 * before the old one's absence. Owns: *moved (NULL: not wanted). */
static enum status move_out(char **moved, struct fs *fs, const char *output_dir, const char *name,
                            const char *folder)
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
    if (status == LORAD_OK && moved)
        *moved = to;
    else
        free(to);
    return status;
}

enum status checkpoint_pin(struct fs *fs, const char *output_dir, const char *name, bool pinned)
{
    struct fs_file *file;
    char *dir = checkpoint_path(output_dir, "ckpt", name, NULL), *pin = dir ? file_join(dir, PIN_NAME) : NULL;
    enum status status = pin ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK && pinned && !file_exists(pin)) {
        status = fs_create(&file, fs, pin);
        if (status == LORAD_OK) status = fs_close(file);
    } else if (status == LORAD_OK && !pinned) {
        status = fs_unlink(fs, pin);
    }
    if (status == LORAD_OK) status = fs_sync_dir(fs, dir);
    free(dir);
    free(pin);
    return status;
}

/* Without it the checkpoint is as much in quarantine. */
static void leave_reason(struct fs *fs, const char *moved, const char *why)
{
    size_t room = strlen(moved) + 8;
    char *path = memory_new(room, 1);
    if (!path) return;
    snprintf(path, room, "%s.why", moved);
    if (fs_write_file(fs, path, why, strlen(why)) != LORAD_OK)
        log_debug("no reason is left beside %s: %s", moved, status_message());
    free(path);
}

enum status checkpoint_quarantine(struct fs *fs, const char *output_dir, const char *name, const char *why)
{
    struct checkpoint_id id;
    char *folder = NULL, *moved = NULL,
         *reason = why ? memory_string(why) : NULL; /* why may be status_message() */
    enum status status = LORAD_OK;
    if (!checkpoint_id_parse(&id, name))
        status = FAIL(LORAD_BUG, "\"%s\" is not the name of a checkpoint", name);
    if (status == LORAD_OK) status = checkpoint_drop_link(fs, output_dir, id);
    if (status == LORAD_OK) status = make_folder(&folder, fs, output_dir, "quarantine");
    if (status == LORAD_OK) status = move_out(&moved, fs, output_dir, name, folder);
    if (status == LORAD_OK && reason) leave_reason(fs, moved, reason);
    free(folder);
    free(moved);
    free(reason);
    return status;
}

/* ---- collection ---- */

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

static enum status empty_trash(struct fs *fs, const char *trash)
{
    struct dirent **entries = NULL;
    int n = scandir(trash, &entries, NULL, alphasort);
    if (n < 0)
        return errno == ENOENT ? LORAD_OK : FAIL(LORAD_IO, "cannot list %s: %s", trash, strerror(errno));
    enum status status = LORAD_OK;
    for (int i = 0; i < n; i++) {
        if (status == LORAD_OK && checkpoint_is_retired_name(entries[i]->d_name)) {
            char *path = file_join(trash, entries[i]->d_name);
            status = path ? fs_remove_tree(fs, path) : LORAD_NOMEM;
            free(path);
        }
        free(entries[i]);
    }
    free(entries);
    return status;
}

/* What collection knows of an entry. */
struct judged {
    struct checkpoint_entry entry;
    bool good, is_void, named; /* committed and not void; of a step that must stay */
    const char *why;           /* it goes; NULL: it stays */
};

static enum status judge(struct judged **out, const struct checkpoint_entry *entries, size_t n,
                         const struct checkpoint_retention *r)
{
    struct judged *all = memory_new(n, sizeof *all);
    if (!all) return LORAD_NOMEM;
    for (size_t i = 0; i < n; i++) {
        struct judged *one = &all[i];
        one->entry = entries[i];
        enum status status = entries[i].committed && r->is_void
                                 ? r->is_void(&one->is_void, r->context, entries[i].id)
                                 : LORAD_OK;
        if (status != LORAD_OK) {
            free(all);
            return status;
        }
        one->good = entries[i].committed && !one->is_void;
        for (int k = 0; k < 2; k++)
            if (one->good && r->steps[k] >= 0 && entries[i].id.step == r->steps[k]) one->named = true;
    }
    *out = all;
    return LORAD_OK;
}

/* Whether every file of a committed one is what was written, by the disk itself. */
static enum status read_back(const char *dir)
{
    struct checkpoint *checkpoint;
    TRY(checkpoint_open_manifest(&checkpoint, dir));
    enum status status = checkpoint_check_files(checkpoint, true);
    checkpoint_close(checkpoint);
    return status;
}

/* The first good one, from the newest on, whose files are all what was written; n: none. What stands before
 * it is marked as no good one, so that it takes no place. */
static enum status find_whole(size_t *out, const char *output_dir, struct judged *all, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!all[i].good) continue;
        char *dir = checkpoint_path(output_dir, "ckpt", all[i].entry.name, NULL);
        enum status status = dir ? read_back(dir) : LORAD_NOMEM;
        free(dir);
        if (status == LORAD_OK) {
            *out = i;
            return LORAD_OK;
        }
        if (status != LORAD_DATA && status != LORAD_CONFIG && status != LORAD_NOT_FOUND) return status;
        log_warn("%s; older checkpoints are kept for it", status_message());
        all[i].good = false;
    }
    *out = n;
    return LORAD_OK;
}

static bool stays(const struct judged *one)
{
    return one->entry.pinned || one->named;
}

/* Says of each why it goes. Those that must stay take their places first; damaged ones take none. Returns
 * whether a committed one goes. */
static bool choose_with(struct judged *all, size_t n, size_t newest, const struct checkpoint_retention *r)
{
    bool committed = false;
    int64_t room = r->keep;
    for (size_t i = 0; i < n; i++)
        if (all[i].good && (i == newest || stays(&all[i]))) room--;
    for (size_t i = 0; i < n; i++) {
        struct judged *one = &all[i];
        one->why = NULL;
        if (!one->entry.committed && (i > newest || r->alone))
            one->why = "its save did not end";
        else if (one->is_void && !one->entry.pinned)
            one->why = "void: a later start went on from before it";
        else if (one->good && i != newest && !stays(one) && r->keep > 0 && room-- <= 0)
            one->why = "older than those that are kept";
        if (one->entry.committed && one->why) committed = true;
    }
    return committed;
}

/* Decides what goes. Nothing is read back when no committed checkpoint would go; none goes when no good one
 * can be read. */
static enum status choose(struct judged *all, size_t n, const char *output_dir,
                          const struct checkpoint_retention *r)
{
    size_t newest = 0;
    while (newest < n && !all[newest].good) newest++;
    if (!choose_with(all, n, newest, r)) return LORAD_OK;
    TRY(find_whole(&newest, output_dir, all, n));
    (void)choose_with(all, n, newest, r);
    for (size_t i = 0; newest == n && i < n; i++)
        if (all[i].entry.committed) all[i].why = NULL;
    return LORAD_OK;
}

/* A pin may come while files are hashed. */
static enum status pinned_now(bool *out, const char *output_dir, const char *name)
{
    char *pin = checkpoint_path(output_dir, "ckpt", name, PIN_NAME);
    if (!pin) return LORAD_NOMEM;
    *out = file_exists(pin);
    free(pin);
    return LORAD_OK;
}

static enum status carry_out(struct fs *fs, const char *output_dir, const struct judged *all, size_t n)
{
    char *trash = NULL;
    enum status status = LORAD_OK;
    for (size_t i = n; i-- > 0 && status == LORAD_OK;) { /* the oldest first */
        bool pinned = false;
        if (!all[i].why) continue;
        if (all[i].entry.committed) status = pinned_now(&pinned, output_dir, all[i].entry.name);
        if (pinned) continue;
        if (status == LORAD_OK && !trash) status = make_folder(&trash, fs, output_dir, "trash");
        if (status == LORAD_OK && all[i].entry.committed) status = uncommit(fs, output_dir, &all[i].entry);
        if (status == LORAD_OK) status = move_out(NULL, fs, output_dir, all[i].entry.name, trash);
    }
    /* also what an earlier collection could not finish */
    if (status == LORAD_OK && !trash && !(trash = file_join(output_dir, "trash"))) status = LORAD_NOMEM;
    if (status == LORAD_OK) status = empty_trash(fs, trash);
    free(trash);
    return status;
}

enum status checkpoint_collect(struct fs *fs, const char *output_dir,
                               const struct checkpoint_retention *retention)
{
    struct checkpoint_entry *entries = NULL;
    struct judged *all = NULL;
    size_t n = 0;
    TRY(checkpoint_list(&entries, &n, output_dir));
    if (n) qsort(entries, n, sizeof *entries, newest_owner_first);
    enum status status = judge(&all, entries, n, retention);
    if (status == LORAD_OK) status = choose(all, n, output_dir, retention);
    for (size_t i = 0; status == LORAD_OK && retention->report && i < n; i++)
        if (all[i].why) strbuf_printf(retention->report, "%s\t%s\n", all[i].entry.name, all[i].why);
    if (status == LORAD_OK && !retention->dry_run) status = carry_out(fs, output_dir, all, n);
    free(all);
    free(entries);
    return status;
}

enum status checkpoint_clear_unfinished(struct fs *fs, const char *output_dir, int64_t epoch)
{
    struct checkpoint_entry *entries = NULL;
    size_t n = 0;
    TRY(checkpoint_list(&entries, &n, output_dir));
    enum status status = LORAD_OK;
    for (size_t i = 0; i < n && status == LORAD_OK; i++) {
        if (entries[i].committed || entries[i].id.epoch >= epoch) continue;
        char *dir = checkpoint_path(output_dir, "ckpt", entries[i].name, NULL);
        status = dir ? fs_remove_tree(fs, dir) : LORAD_NOMEM;
        free(dir);
    }
    free(entries);
    char *trash = file_join(output_dir, "trash");
    if (!trash && status == LORAD_OK) status = LORAD_NOMEM;
    if (status == LORAD_OK) status = empty_trash(fs, trash);
    free(trash);
    return status;
}
