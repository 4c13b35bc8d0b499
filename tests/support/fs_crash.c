/*
 * fs_crash.c: the model behind fs_crash.h.
 *
 * Invariants:
 * 1. `now` of a folder is what programs see, `safe` what a sync of the folder made durable; likewise a file's
 * data.
 * 2. An entry that changed since the last sync carries the number of its operation: a rename within one file
 * system is done or not, both names together, unless only one of its folders was synced.
 */
#include "support/fs_crash.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/fs_impl.h"

enum kind { KIND_FILE, KIND_DIR, KIND_LINK };
enum { MAX_ENTRIES = 64, MAX_OPEN = 1024, NAME_BYTES = 96 };

struct node;
struct entry {
    char name[NAME_BYTES];
    struct node *node;  /* NULL: removed, not synced yet */
    uint64_t operation; /* 0: synced */
};
struct folder {
    struct entry entries[MAX_ENTRIES];
    int n;
};
struct node {
    struct node *next; /* all nodes, for destroy */
    enum kind kind;
    char *data; /* of a file; a link's target */
    size_t length, capacity;
    char *synced;
    size_t synced_length;
    struct folder now, safe;
};

struct fs_crash {
    struct fs fs;
    char *root;
    struct node *top, *all;
    struct node *open[MAX_OPEN];
    enum fs_fault fault;
    int64_t countdown;
    bool stays, fired, dead;
    uint64_t operations;
};

/* ---- model ---- */

static struct node *node_new(struct fs_crash *crash, enum kind kind)
{
    struct node *node = memory_new(1, sizeof *node);
    if (!node) abort();
    node->kind = kind;
    node->next = crash->all;
    crash->all = node;
    return node;
}

static void node_append(struct node *node, const void *bytes, size_t length)
{
    void *block = node->data;
    if (memory_grow(&block, &node->capacity, node->length + length + 1, 1) != LORAD_OK) abort();
    node->data = block;
    memcpy(node->data + node->length, bytes, length);
    node->length += length;
    node->data[node->length] = '\0';
}

static void node_sync(struct node *node)
{
    free(node->synced);
    if (!(node->synced = memory_string_n(node->data ? node->data : "", node->length))) abort();
    node->synced_length = node->length;
}

static struct entry *find(struct folder *folder, const char *name)
{
    for (int i = 0; i < folder->n; i++)
        if (!strcmp(folder->entries[i].name, name)) return &folder->entries[i];
    return NULL;
}

static void set(struct folder *folder, const char *name, struct node *node, uint64_t operation)
{
    struct entry *entry = find(folder, name);
    if (!entry) {
        if (folder->n == MAX_ENTRIES || strlen(name) >= NAME_BYTES) abort();
        entry = &folder->entries[folder->n++];
        strcpy(entry->name, name);
    }
    entry->node = node;
    entry->operation = operation;
}

/* The folder of a path and, in *name, its last part. */
static struct node *parent_of(struct fs_crash *crash, const char *path, const char **name)
{
    size_t n = strlen(crash->root);
    if (strncmp(path, crash->root, n) != 0) abort();
    struct node *at = crash->top;
    for (path += n; *path == '/';) {
        while (*path == '/') path++;
        const char *end = strchrnul(path, '/');
        if (!*end) break;
        char part[NAME_BYTES];
        snprintf(part, sizeof part, "%.*s", (int)(end - path), path);
        struct entry *entry = find(&at->now, part);
        if (!entry || !entry->node) abort();
        at = entry->node;
        path = end;
    }
    *name = path;
    return at;
}

static struct node *lookup(struct fs_crash *crash, const char *path)
{
    const char *name;
    struct node *parent = parent_of(crash, path, &name);
    if (!*name) return parent;
    struct entry *entry = find(&parent->now, name);
    return entry ? entry->node : NULL;
}

static void change(struct fs_crash *crash, const char *path, struct node *node, uint64_t operation)
{
    const char *name;
    struct node *parent = parent_of(crash, path, &name);
    set(&parent->now, name, node, operation);
}

static void folder_sync(struct node *node)
{
    node->safe.n = 0;
    for (int i = 0; i < node->now.n; i++)
        if (node->now.entries[i].node)
            set(&node->safe, node->now.entries[i].name, node->now.entries[i].node, 0);
    node->now = node->safe;
}

/* ---- faults ---- */

enum need { NEEDS_SPACE = 1, CAN_INTERRUPT = 2, IS_WRITE = 4 };

/* What this call does: 0 to do it; a negative error; 1 to do it and then say EIO; 2 to write half. */
static int fate(struct fs_crash *crash, int needs)
{
    if (crash->dead) return -EIO;
    if (crash->fault == FAULT_NONE || crash->countdown-- > 0) return 0;
    if (crash->fired && !crash->stays) return 0;
    crash->fired = true;
    switch (crash->fault) {
    case FAULT_CRASH:
        crash->dead = true;
        return -EIO;
    case FAULT_EIO:
        return -EIO;
    case FAULT_ENOSPC:
        return needs & NEEDS_SPACE ? -ENOSPC : 0;
    case FAULT_EDQUOT:
        return needs & NEEDS_SPACE ? -EDQUOT : 0;
    case FAULT_SHORT:
        return needs & IS_WRITE ? 2 : 0;
    case FAULT_EINTR:
        crash->stays = false;
        return needs & CAN_INTERRUPT ? -EINTR : 0;
    case FAULT_DONE_EIO:
        return 1;
    case FAULT_NONE:
    case FAULT_KINDS:
        break;
    }
    return 0;
}

static const struct fs_ops *real(void)
{
    return fs_posix()->ops;
}

/* The result of a call that was done with `result`. */
static int told(int decided, int result)
{
    return result >= 0 && decided == 1 ? -EIO : result;
}

static int crash_create(void *context, const char *path)
{
    struct fs_crash *crash = context;
    int decided = fate(crash, NEEDS_SPACE | CAN_INTERRUPT);
    if (decided < 0) return decided;
    int fd = real()->create(NULL, path);
    if (fd < 0) return fd;
    if (fd >= MAX_OPEN) abort();
    crash->open[fd] = node_new(crash, KIND_FILE);
    change(crash, path, crash->open[fd], ++crash->operations);
    if (decided == 1) {
        crash->open[fd] = NULL;
        real()->close(NULL, fd);
        return -EIO;
    }
    return fd;
}

static ssize_t crash_write(void *context, int fd, const void *bytes, size_t length)
{
    struct fs_crash *crash = context;
    int decided = fate(crash, NEEDS_SPACE | CAN_INTERRUPT | IS_WRITE);
    if (decided < 0) return decided;
    if (decided == 2 && length > 1) length /= 2;
    ssize_t n = real()->write(NULL, fd, bytes, length);
    if (n > 0) node_append(crash->open[fd], bytes, (size_t)n);
    return decided == 1 ? -EIO : n;
}

static int crash_sync(void *context, int fd)
{
    struct fs_crash *crash = context;
    int decided = fate(crash, CAN_INTERRUPT);
    if (decided < 0) return decided;
    if (decided != 1)
        node_sync(crash->open[fd]); /* the kernel has marked the pages clean: they are lost for good */
    return told(decided, 0);
}

static int crash_close(void *context, int fd)
{
    struct fs_crash *crash = context;
    int decided = fate(crash, 0);
    crash->open[fd] = NULL;
    int result = real()->close(NULL, fd);
    return decided < 0 ? decided : told(decided, result);
}

static int do_rename(struct fs_crash *crash, const char *from, const char *to, bool replace)
{
    int decided = fate(crash, NEEDS_SPACE);
    if (decided < 0) return decided;
    int result = replace ? real()->rename(NULL, from, to) : real()->rename_new(NULL, from, to);
    if (result < 0) return result;
    struct node *node = lookup(crash, from);
    uint64_t operation = ++crash->operations;
    change(crash, to, node, operation);
    change(crash, from, NULL, operation);
    return told(decided, result);
}

static int crash_rename(void *context, const char *from, const char *to)
{
    return do_rename(context, from, to, true);
}

static int crash_rename_new(void *context, const char *from, const char *to)
{
    return do_rename(context, from, to, false);
}

static int crash_link(void *context, const char *from, const char *to)
{
    struct fs_crash *crash = context;
    int decided = fate(crash, NEEDS_SPACE);
    if (decided < 0) return decided;
    int result = real()->link(NULL, from, to);
    if (result >= 0) change(crash, to, lookup(crash, from), ++crash->operations);
    return told(decided, result);
}

static int crash_symlink(void *context, const char *target, const char *path)
{
    struct fs_crash *crash = context;
    int decided = fate(crash, NEEDS_SPACE);
    if (decided < 0) return decided;
    int result = real()->symlink(NULL, target, path);
    if (result < 0) return result;
    struct node *node = node_new(crash, KIND_LINK);
    node_append(node, target, strlen(target));
    change(crash, path, node, ++crash->operations);
    return told(decided, result);
}

static int crash_mkdir(void *context, const char *path)
{
    struct fs_crash *crash = context;
    int decided = fate(crash, NEEDS_SPACE);
    if (decided < 0) return decided;
    int result = real()->mkdir(NULL, path);
    if (result >= 0) change(crash, path, node_new(crash, KIND_DIR), ++crash->operations);
    return told(decided, result);
}

static int crash_unlink(void *context, const char *path)
{
    struct fs_crash *crash = context;
    int decided = fate(crash, 0);
    if (decided < 0) return decided;
    int result = real()->unlink(NULL, path);
    if (result >= 0) change(crash, path, NULL, ++crash->operations);
    return told(decided, result);
}

static int crash_rmdir(void *context, const char *path)
{
    struct fs_crash *crash = context;
    int decided = fate(crash, 0);
    if (decided < 0) return decided;
    int result = real()->rmdir(NULL, path);
    if (result >= 0) change(crash, path, NULL, ++crash->operations);
    return told(decided, result);
}

static int crash_sync_dir(void *context, const char *path)
{
    struct fs_crash *crash = context;
    int decided = fate(crash, CAN_INTERRUPT);
    if (decided < 0) return decided;
    struct node *node = lookup(crash, path);
    if (!node) return -ENOENT;
    if (decided != 1) folder_sync(node);
    return told(decided, 0);
}

static int64_t crash_free_bytes(void *context, const char *path)
{
    struct fs_crash *crash = context;
    int decided = fate(crash, 0);
    return decided < 0 ? decided : decided == 1 ? -EIO : real()->free_bytes(NULL, path);
}

static const struct fs_ops crash_ops = {
    .create = crash_create,
    .write = crash_write,
    .sync = crash_sync,
    .close = crash_close,
    .rename = crash_rename,
    .rename_new = crash_rename_new,
    .link = crash_link,
    .symlink = crash_symlink,
    .mkdir = crash_mkdir,
    .unlink = crash_unlink,
    .rmdir = crash_rmdir,
    .sync_dir = crash_sync_dir,
    .free_bytes = crash_free_bytes,
};

static int no_sync(void *context, int fd)
{
    (void)context, (void)fd;
    return 0;
}

static int no_sync_dir(void *context, const char *path)
{
    (void)context, (void)path;
    return 0;
}

struct fs *fs_quick(void)
{
    static struct fs_ops ops;
    static struct fs fs = {&ops, NULL};
    ops = *fs_posix()->ops;
    ops.sync = no_sync;
    ops.sync_dir = no_sync_dir;
    return &fs;
}

/* ---- life ---- */

/* Takes what is on the disk into the model, as synced. */
static void load(struct fs_crash *crash, struct node *node, const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;
    if (!dir) abort();
    while ((entry = readdir(dir))) {
        char *child = file_join(path, entry->d_name), *bytes, target[512];
        struct stat info;
        size_t length;
        if (!child || lstat(child, &info) != 0) abort();
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            struct node *made = node_new(crash, S_ISDIR(info.st_mode)   ? KIND_DIR
                                                : S_ISLNK(info.st_mode) ? KIND_LINK
                                                                        : KIND_FILE);
            set(&node->now, entry->d_name, made, 0);
            if (made->kind == KIND_DIR) {
                load(crash, made, child);
            } else if (made->kind == KIND_LINK) {
                ssize_t n = readlink(child, target, sizeof target);
                if (n < 0) abort();
                node_append(made, target, (size_t)n);
            } else {
                if (file_read(&bytes, &length, child, SIZE_MAX) != LORAD_OK) abort();
                node_append(made, bytes, length);
                free(bytes);
            }
            node_sync(made);
        }
        free(child);
    }
    closedir(dir);
    folder_sync(node);
}

enum status fs_crash_create(struct fs_crash **out, const char *root)
{
    struct fs_crash *crash = memory_new(1, sizeof *crash);
    if (!crash) return LORAD_NOMEM;
    crash->fs = (struct fs){&crash_ops, crash};
    if (!(crash->root = memory_string(root))) abort();
    crash->top = node_new(crash, KIND_DIR);
    load(crash, crash->top, root);
    *out = crash;
    return LORAD_OK;
}

void fs_crash_destroy(struct fs_crash *crash)
{
    if (!crash) return;
    for (struct node *node = crash->all, *next; node; node = next) {
        next = node->next;
        free(node->data);
        free(node->synced);
        free(node);
    }
    for (int fd = 0; fd < MAX_OPEN; fd++)
        if (crash->open[fd]) close(fd);
    free(crash->root);
    free(crash);
}

struct fs *fs_crash_fs(struct fs_crash *crash)
{
    return &crash->fs;
}

void fs_crash_arm(struct fs_crash *crash, enum fs_fault fault, int64_t at, bool stays)
{
    crash->fault = fault;
    crash->countdown = at;
    crash->stays = stays;
    crash->fired = crash->dead = false;
}

bool fs_crash_fired(const struct fs_crash *crash)
{
    return crash->fired;
}

/* ---- after the power cut ---- */

static uint32_t dice(uint64_t seed, uint64_t what)
{
    return random_philox(seed, 0, what).word[0];
}

static void rebuild_file(const struct node *node, const char *path, enum fs_loss loss, uint64_t seed,
                         uint64_t what)
{
    FILE *file = fopen(path, "wb");
    if (!file) abort();
    size_t n = node->synced_length;
    if (n) fwrite(node->synced, 1, n, file);
    if (loss == LOSS_SOME && node->length > n) { /* the length is there, a part of the bytes is zero */
        size_t whole = n + dice(seed, what) % (node->length - n + 1);
        fwrite(node->data + n, 1, whole - n, file);
        for (size_t i = whole; i < node->length; i++) fputc(0, file);
    }
    if (fclose(file) != 0) abort();
}

static void rebuild(struct node *node, const char *path, enum fs_loss loss, uint64_t seed);

static void rebuild_entry(const char *folder, const char *name, struct node *node, enum fs_loss loss,
                          uint64_t seed, uint64_t what)
{
    char *path = file_join(folder, name);
    if (!path) abort();
    if (node->kind == KIND_DIR)
        rebuild(node, path, loss, seed);
    else if (node->kind == KIND_LINK)
        (void)!symlink(node->data, path);
    else
        rebuild_file(node, path, loss, seed, what);
    free(path);
}

static void rebuild(struct node *node, const char *path, enum fs_loss loss, uint64_t seed)
{
    if (mkdir(path, 0777) != 0) abort();
    for (int i = 0; i < node->now.n; i++) {
        const struct entry *entry = &node->now.entries[i], *before = find(&node->safe, entry->name);
        bool done = !entry->operation || loss == LOSS_BYTES ||
                    (loss == LOSS_SOME && dice(seed, entry->operation) % 2);
        struct node *made = done ? entry->node : before ? before->node : NULL;
        if (made) rebuild_entry(path, entry->name, made, loss, seed, (uint64_t)i << 32 | entry->operation);
    }
}

enum status fs_crash_rebuild(struct fs_crash *crash, const char *to, enum fs_loss loss, uint64_t seed)
{
    rebuild(crash->top, to, loss, seed);
    return LORAD_OK;
}
