/*
 * fs_crash.h: a file system that fails, or loses power, at a chosen call.
 *
 * A decorator over the posix backend, after SQLite's crash VFS and LevelDB's fault environment: every call is
 * done for real, so that the code under test reads what it wrote, and followed in a model that knows which
 * bytes and which names have been synced. After a "power cut" the model writes what a disk may hold then into
 * another folder. fsync is not done for real.
 */
#ifndef LORAD_TESTS_SUPPORT_FS_CRASH_H
#define LORAD_TESTS_SUPPORT_FS_CRASH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/fs.h"

enum fs_fault {
    FAULT_NONE,
    FAULT_CRASH,    /* this call and all later ones fail and do nothing */
    FAULT_EIO,      /* a failed fsync also loses what it should have synced */
    FAULT_ENOSPC,   /* of a call that needs space; others are done */
    FAULT_EDQUOT,   /* the same for a quota */
    FAULT_SHORT,    /* a write stops half-way without an error; others are done */
    FAULT_EINTR,    /* a create, write or sync is interrupted; others are done */
    FAULT_DONE_EIO, /* the call is done, but its answer is lost */
    FAULT_KINDS
};

enum fs_loss {
    LOSS_ALL,   /* only what was synced is left */
    LOSS_BYTES, /* all names are there, but unsynced bytes are not */
    LOSS_SOME,  /* each unsynced operation on a folder was done or not, unsynced files are torn */
    LOSS_KINDS
};

struct fs_crash;

/* The real file system without syncs, for what a test prepares in great numbers. Static. */
struct fs *fs_quick(void);

/* What lies under `root` already is taken to be synced. Owns: *out. */
enum status fs_crash_create(struct fs_crash **out, const char *root) LORAD_WARN_UNUSED;
void fs_crash_destroy(struct fs_crash *crash);

struct fs *fs_crash_fs(struct fs_crash *crash); /* borrowed */

/* The fault happens at call number `at` from now (0: the next one), and at every later one when `stays`. */
void fs_crash_arm(struct fs_crash *crash, enum fs_fault fault, int64_t at, bool stays);
bool fs_crash_fired(const struct fs_crash *crash);

/* Writes what the disk may hold after a power cut into the new folder `to`; `seed` chooses for LOSS_SOME. */
enum status fs_crash_rebuild(struct fs_crash *crash, const char *to, enum fs_loss loss,
                             uint64_t seed) LORAD_WARN_UNUSED;

#endif
