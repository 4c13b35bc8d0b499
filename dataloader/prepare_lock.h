/*
 * prepare_lock.h: one process prepares a folder, others know of it: <folder>.lock, held with flock while
 * preparing goes on. What preparing failed with is noted in the file for those who follow.
 */
#ifndef LORAD_DATALOADER_PREPARE_LOCK_H
#define LORAD_DATALOADER_PREPARE_LOCK_H

#include <stdbool.h>

#include "base/status.h"

struct prepare_lock {
    int fd; /* -1: not held, or no locks on this file system */
};

/* *got: held from now on. Where there are no locks, everybody gets it. Never blocks. */
enum status prepare_lock_try(struct prepare_lock *lock, const char *folder, bool *got) LORAD_WARN_UNUSED;
/* What the last holder failed with; LORAD_OK: nothing was noted. Held. */
enum status prepare_lock_noted(const struct prepare_lock *lock) LORAD_WARN_UNUSED;
/* Removes the note. */
void prepare_lock_clear(struct prepare_lock *lock);
/* Leaves the thread's last message for those who follow. */
void prepare_lock_note(struct prepare_lock *lock, enum status failure);
void prepare_lock_release(struct prepare_lock *lock);

/* Whether somebody holds it (true where that cannot be told), and what the last holder failed with. */
enum status prepare_lock_look(const char *folder, bool *busy, enum status *failure) LORAD_WARN_UNUSED;
/* Records the noted message as this thread's and returns `failure`. */
enum status prepare_lock_failure(const char *folder, enum status failure) LORAD_WARN_UNUSED;

#endif
