#include "dataloader/prepare_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/log.h"

enum { NOTE_BYTES = 2048, PATH_BYTES = 4200 };

static void lock_path(char path[PATH_BYTES], const char *folder)
{
    snprintf(path, PATH_BYTES, "%s.lock", folder);
}

enum status prepare_lock_try(struct prepare_lock *lock, const char *folder, bool *got)
{
    char path[PATH_BYTES];
    lock_path(path, folder);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return FAIL(LORAD_CANNOT_CREATE, "cannot create %s: %s", path, strerror(errno));
    int result;
    while ((result = flock(fd, LOCK_EX | LOCK_NB)) != 0 && errno == EINTR) continue;
    *got = true;
    lock->fd = fd;
    if (result == 0) return LORAD_OK;
    *got = errno != EWOULDBLOCK;
    if (*got) log_debug("%s: no file locks here (%s)", path, strerror(errno));
    close(fd);
    lock->fd = -1;
    return LORAD_OK;
}

void prepare_lock_clear(struct prepare_lock *lock)
{
    if (lock->fd >= 0 && ftruncate(lock->fd, 0) != 0) log_debug("cannot clear a note: %s", strerror(errno));
}

void prepare_lock_note(struct prepare_lock *lock, enum status failure)
{
    char note[NOTE_BYTES];
    if (lock->fd < 0) return;
    int n = snprintf(note, sizeof note, "%d\n%s", (int)failure, status_message());
    size_t length = n < (int)sizeof note ? (size_t)n : sizeof note - 1;
    if (pwrite(lock->fd, note, length, 0) < 0) log_debug("cannot note a failure: %s", strerror(errno));
}

void prepare_lock_release(struct prepare_lock *lock)
{
    if (lock->fd >= 0) close(lock->fd);
    lock->fd = -1;
}

/* "" when there is none. */
static void read_note(char note[NOTE_BYTES], int fd)
{
    ssize_t n = pread(fd, note, NOTE_BYTES - 1, 0);
    note[n > 0 ? n : 0] = '\0';
}

static enum status noted_status(const char *note)
{
    char *end;
    long value = strtol(note, &end, 10);
    return end != note && *end == '\n' && value > LORAD_OK && value <= LORAD_NUMERIC ? (enum status)value
                                                                                     : LORAD_OK;
}

enum status prepare_lock_noted(const struct prepare_lock *lock)
{
    char note[NOTE_BYTES];
    if (lock->fd < 0) return LORAD_OK;
    read_note(note, lock->fd);
    return noted_status(note);
}

enum status prepare_lock_look(const char *folder, bool *busy, enum status *failure)
{
    char path[PATH_BYTES], note[NOTE_BYTES];
    lock_path(path, folder);
    *busy = false;
    *failure = LORAD_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return LORAD_OK;
    if (flock(fd, LOCK_SH | LOCK_NB) != 0)
        *busy = true;
    else {
        read_note(note, fd);
        *failure = noted_status(note);
    }
    close(fd);
    return LORAD_OK;
}

enum status prepare_lock_failure(const char *folder, enum status failure)
{
    char path[PATH_BYTES], note[NOTE_BYTES] = "";
    lock_path(path, folder);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        read_note(note, fd);
        close(fd);
    }
    const char *words = strchr(note, '\n');
    return FAIL(failure, "%s", words && words[1] ? words + 1 : "preparing the data failed");
}
