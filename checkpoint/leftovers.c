/*
 * leftovers.c: what lies about in an output_dir besides checkpoints: temporaries of processes that died,
 * trash, quarantine.
 *
 * Invariant: a name that lorad does not give is somebody else's and is not listed, so that nobody removes it.
 */
#include "checkpoint/checkpoint_impl.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"

enum { MOST_REASON_BYTES = 4096 };

struct search {
    const char *output_dir;
    void *found; /* struct checkpoint_leftover [n] */
    size_t n, capacity;
};

/* Of a file, or of all files below a folder; what cannot be looked at counts nothing. */
static int64_t size_of(const char *path)
{
    struct stat info;
    struct dirent **entries;
    if (lstat(path, &info) != 0) return 0;
    if (!S_ISDIR(info.st_mode)) return (int64_t)info.st_size;
    int64_t bytes = 0;
    int n = scandir(path, &entries, NULL, NULL);
    for (int i = 0; i < n; i++) {
        bool real = strcmp(entries[i]->d_name, ".") != 0 && strcmp(entries[i]->d_name, "..") != 0;
        char *child = real ? file_join(path, entries[i]->d_name) : NULL;
        if (child) bytes += size_of(child);
        free(child);
        free(entries[i]);
    }
    if (n >= 0) free(entries);
    return bytes;
}

static enum status add(struct search *search, enum checkpoint_leftover_kind kind, const char *folder,
                       const char *name, const char *why)
{
    TRY(memory_grow(&search->found, &search->capacity, search->n + 1, sizeof(struct checkpoint_leftover)));
    struct checkpoint_leftover *one = (struct checkpoint_leftover *)search->found + search->n;
    char *path = file_join(folder, name), *whole = path ? file_join(search->output_dir, path) : NULL;
    *one = (struct checkpoint_leftover){.kind = kind, .path = path, .why = memory_string(why)};
    if (whole) one->bytes = size_of(whole);
    search->n++; /* whatever there is of it is freed with the others */
    bool complete = whole && one->why;
    free(whole);
    return complete ? LORAD_OK : LORAD_NOMEM;
}

/* ---- names ---- */

/* "<anything>.tmp-<process>-<number>": fs_begin, fs_symlink_swap. */
static bool is_temporary(const char *name)
{
    const char *mark = NULL, *at = name;
    while ((at = strstr(at, ".tmp-"))) mark = at, at += 5;
    if (!mark || mark == name) return false;
    size_t process = strspn(mark + 5, "0123456789");
    const char *number = mark + 5 + process;
    if (process == 0 || *number++ != '-') return false;
    size_t digits = strspn(number, "0123456789");
    return digits > 0 && number[digits] == '\0';
}

/* "heartbeat.json.<host>.<process>" */
static bool is_heartbeat(const char *name)
{
    static const char start[] = "heartbeat.json.";
    const char *dot = strrchr(name, '.');
    if (strncmp(name, start, sizeof start - 1) != 0 || dot < name + sizeof start) return false;
    return dot[1] && strspn(dot + 1, "0123456789") == strlen(dot + 1);
}

static bool is_temporary_of_output(const char *name)
{
    return is_temporary(name) || is_heartbeat(name);
}

static bool is_temporary_of_checkpoint(const char *name)
{
    return is_temporary(name) || strcmp(name, "MANIFEST.tmp") == 0;
}

bool checkpoint_is_retired_name(const char *name)
{
    char text[CHECKPOINT_NAME_BYTES];
    struct checkpoint_id id;
    if (strlen(name) >= sizeof text) return false;
    strcpy(text, name);
    if (checkpoint_id_parse(&id, text)) return true;
    char *dot = strrchr(text, '.');
    if (!dot || !dot[1] || dot[1 + strspn(dot + 1, "0123456789")]) return false;
    *dot = '\0';
    return checkpoint_id_parse(&id, text);
}

/* "2026-01-31T09:05:07Z-ckpt": what overwrite_output_dir moved away. */
static bool is_overwritten(const char *name)
{
    static const char form[] = "dddd-dd-ddTdd:dd:ddZ-";
    for (size_t i = 0; i < sizeof form - 1; i++)
        if (form[i] == 'd' ? !isdigit((unsigned char)name[i]) : name[i] != form[i]) return false;
    return name[sizeof form - 1] != '\0';
}

/* ---- places ---- */

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* Calls `one` for each name of OUT/<folder> in order; a folder that is not there has none. */
static enum status each(struct search *search, const char *folder,
                        enum status (*one)(struct search *search, const char *folder, const char *name))
{
    struct dirent **entries;
    char *path = file_join(search->output_dir, folder);
    if (!path) return LORAD_NOMEM;
    int n = scandir(*folder ? path : search->output_dir, &entries, is_visible, alphasort);
    enum status status =
        n < 0 && errno != ENOENT ? FAIL(LORAD_IO, "cannot list %s: %s", path, strerror(errno)) : LORAD_OK;
    for (int i = 0; i < n; i++) {
        if (status == LORAD_OK) status = one(search, folder, entries[i]->d_name);
        free(entries[i]);
    }
    if (n >= 0) free(entries);
    free(path);
    return status;
}

static const char died[] = "its writer died";

static enum status temporary_of_output(struct search *search, const char *folder, const char *name)
{
    return is_temporary_of_output(name) ? add(search, LEFTOVER_TEMPORARY, folder, name, died) : LORAD_OK;
}

static enum status temporary_of_checkpoint(struct search *search, const char *folder, const char *name)
{
    return is_temporary_of_checkpoint(name) ? add(search, LEFTOVER_TEMPORARY, folder, name, died) : LORAD_OK;
}

/* Only in committed ones: a folder without a manifest goes as a whole. */
static enum status inside_checkpoint(struct search *search, const char *folder, const char *name)
{
    struct checkpoint_id id;
    if (!checkpoint_id_parse(&id, name)) return LORAD_OK;
    char *path = file_join(folder, name),
         *manifest = checkpoint_path(search->output_dir, folder, name, MANIFEST_NAME);
    enum status status = path && manifest ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK && file_exists(manifest)) status = each(search, path, temporary_of_checkpoint);
    free(path);
    free(manifest);
    return status;
}

static enum status in_trash(struct search *search, const char *folder, const char *name)
{
    if (is_overwritten(name))
        return add(search, LEFTOVER_TRASH, folder, name, "of a run that overwrite_output_dir moved away");
    if (!checkpoint_is_retired_name(name)) return LORAD_OK;
    char *dead = checkpoint_path(search->output_dir, folder, name, MANIFEST_DEAD);
    if (!dead) return LORAD_NOMEM;
    bool was_committed = file_exists(dead);
    free(dead);
    return add(search, LEFTOVER_TRASH, folder, name,
               was_committed ? "collected, but not yet deleted" : "its save did not end");
}

static enum status in_quarantine(struct search *search, const char *folder, const char *name)
{
    char file[300], *why = NULL; /* room for any name */
    size_t length;
    if (!checkpoint_is_retired_name(name)) return LORAD_OK;
    snprintf(file, sizeof file, "%s.why", name);
    char *path = checkpoint_path(search->output_dir, folder, file, NULL);
    if (!path) return LORAD_NOMEM;
    bool said = file_exists(path) && file_read(&why, &length, path, MOST_REASON_BYTES) == LORAD_OK;
    free(path);
    if (said) why[strcspn(why, "\n")] = '\0';
    enum status status =
        add(search, LEFTOVER_QUARANTINE, folder, name, said ? why : "damaged; how is not known");
    free(why);
    return status;
}

enum status checkpoint_leftovers(struct checkpoint_leftover **out, size_t *n, const char *output_dir)
{
    struct search search = {.output_dir = output_dir};
    enum status status = each(&search, "", temporary_of_output);
    if (status == LORAD_OK) status = each(&search, "epoch", temporary_of_output);
    if (status == LORAD_OK) status = each(&search, "ckpt", inside_checkpoint);
    if (status == LORAD_OK) status = each(&search, "trash", in_trash);
    if (status == LORAD_OK) status = each(&search, "quarantine", in_quarantine);
    if (status != LORAD_OK) {
        checkpoint_leftovers_free(search.found, search.n);
        return status;
    }
    *out = search.found;
    *n = search.n;
    return LORAD_OK;
}

void checkpoint_leftovers_free(struct checkpoint_leftover *leftovers, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(leftovers[i].path);
        free(leftovers[i].why);
    }
    free(leftovers);
}
