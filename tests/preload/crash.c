/*
 * crash.c, loaded into lorad with LD_PRELOAD: kills the process with -9 right before its k-th call that
 * changes something below a folder. tests/fault/syscall_crash.sh goes through all k.
 *
 *   LORAD_CRASH_DIR    the folder
 *   LORAD_CRASH_RANK   of the process that counts (OMPI_COMM_WORLD_RANK; without it the process is rank 0)
 *   LORAD_CRASH_AT     k, from 1; 0: only count
 *   LORAD_CRASH_TORN   1: a write is done by half before
 *   LORAD_CRASH_COUNT  a file that gets the number of calls, and their names, at the end of the process
 *
 * What a killed process wrote stays in the page cache, so this shows the order of calls, not what a power cut
 * loses: that is tests/fault/checkpoint_crash.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_FILES = 4096, MOST_CALLS = 8192 };

static char folder[PATH_MAX];
static long crash_at;
static bool counts, torn;
static atomic_long calls;
static atomic_bool below[MOST_FILES]; /* by descriptor */
static const char *names[MOST_CALLS];

#define REAL(type, name, ...)                                                                                \
    static type (*real)(__VA_ARGS__);                                                                        \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void start(void)
{
    const char *dir = getenv("LORAD_CRASH_DIR"), *rank = getenv("LORAD_CRASH_RANK"),
               *mine = getenv("OMPI_COMM_WORLD_RANK"), *at = getenv("LORAD_CRASH_AT"),
               *half = getenv("LORAD_CRASH_TORN");
    if (!dir) return;
    snprintf(folder, sizeof folder, "%s", dir);
    counts = atoi(rank ? rank : "0") == atoi(mine ? mine : "0");
    crash_at = at ? atol(at) : 0;
    torn = half && *half == '1';
}

__attribute__((destructor)) static void tell(void)
{
    const char *path = getenv("LORAD_CRASH_COUNT");
    if (!counts || !path) return;
    counts = false;
    FILE *file = fopen(path, "w");
    if (!file) return;
    fprintf(file, "%ld\n", (long)calls);
    for (long i = 0; i < calls && i < MOST_CALLS; i++) fprintf(file, "%s\n", names[i]);
    fclose(file);
}

static bool is_below(const char *path)
{
    size_t n = strlen(folder);
    return counts && n && path && strncmp(path, folder, n) == 0 && (path[n] == '/' || !path[n]);
}

static bool is_below_fd(int fd)
{
    return counts && fd >= 0 && fd < MOST_FILES && below[fd];
}

static void note_fd(int fd, const char *path)
{
    if (fd >= 0 && fd < MOST_FILES) below[fd] = is_below(path);
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether this is the call before which the process dies. */
static bool is_the_one(const char *name)
{
    long n = ++calls;
    if (n <= MOST_CALLS) names[n - 1] = name;
    return n == crash_at;
}

static void call(const char *name, const char *path, const char *other)
{
    if ((is_below(path) || is_below(other)) && is_the_one(name)) die();
}

static void call_fd(const char *name, int fd)
{
    if (is_below_fd(fd) && is_the_one(name)) die();
}

int open(const char *path, int flags, ...)
{
    REAL(int, open, const char *, int, ...);
    va_list list;
    va_start(list, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;
    va_end(list);
    if (flags & (O_CREAT | O_TRUNC)) call("open", path, NULL);
    int fd = real(path, flags, mode);
    note_fd(fd, flags & (O_WRONLY | O_RDWR) ? path : NULL);
    return fd;
}

int open64(const char *path, int flags, ...)
{
    va_list list;
    va_start(list, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;
    va_end(list);
    return open(path, flags, mode);
}

ssize_t write(int fd, const void *bytes, size_t length)
{
    REAL(ssize_t, write, int, const void *, size_t);
    if (is_below_fd(fd) && is_the_one("write")) {
        if (torn) (void)!real(fd, bytes, length / 2);
        die();
    }
    return real(fd, bytes, length);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at)
{
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    if (is_below_fd(fd) && is_the_one("pwrite")) {
        if (torn) (void)!real(fd, bytes, length / 2, at);
        die();
    }
    return real(fd, bytes, length, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at)
{
    return pwrite(fd, bytes, length, at);
}

int close(int fd)
{
    REAL(int, close, int);
    call_fd("close", fd);
    note_fd(fd, NULL);
    return real(fd);
}

int fsync(int fd)
{
    REAL(int, fsync, int);
    call_fd("fsync", fd);
    return real(fd);
}

int fdatasync(int fd)
{
    REAL(int, fdatasync, int);
    call_fd("fdatasync", fd);
    return real(fd);
}

int ftruncate(int fd, off_t length)
{
    REAL(int, ftruncate, int, off_t);
    call_fd("ftruncate", fd);
    return real(fd, length);
}

int ftruncate64(int fd, off_t length)
{
    return ftruncate(fd, length);
}

int rename(const char *from, const char *to)
{
    REAL(int, rename, const char *, const char *);
    call("rename", from, to);
    return real(from, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    call("renameat2", from, to);
    return real(from_dir, from, to_dir, to, flags);
}

int link(const char *from, const char *to)
{
    REAL(int, link, const char *, const char *);
    call("link", from, to);
    return real(from, to);
}

int symlink(const char *target, const char *path)
{
    REAL(int, symlink, const char *, const char *);
    call("symlink", path, NULL);
    return real(target, path);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(int, mkdir, const char *, mode_t);
    call("mkdir", path, NULL);
    return real(path, mode);
}

int rmdir(const char *path)
{
    REAL(int, rmdir, const char *);
    call("rmdir", path, NULL);
    return real(path);
}

int unlink(const char *path)
{
    REAL(int, unlink, const char *);
    call("unlink", path, NULL);
    return real(path);
}

/* Streams write through calls of their own that cannot be caught here: their functions count instead. */
FILE *fopen(const char *path, const char *mode)
{
    REAL(FILE *, fopen, const char *, const char *);
    if (*mode != 'r') call("fopen", path, NULL);
    FILE *file = real(path, mode);
    if (file && *mode != 'r') note_fd(fileno(file), path);
    return file;
}

int fflush(FILE *file)
{
    REAL(int, fflush, FILE *);
    if (file) call_fd("fflush", fileno(file));
    return real(file);
}

int fclose(FILE *file)
{
    REAL(int, fclose, FILE *);
    call_fd("fclose", fileno(file));
    if (fileno(file) >= 0 && fileno(file) < MOST_FILES) below[fileno(file)] = false;
    return real(file);
}
