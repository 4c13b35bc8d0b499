#include "launch/supervise_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

/* ---- scratch ---- */

enum {
    YOUNG_SECONDS = 60, /* its owner may not have locked it yet */
    PREFIX_BYTES = HOST_NAME_MAX + 16,
    RANDOM = 6, /* letters that follow it */
};

/* "lorad-run-HOST-": where hosts share the folder, a lock may be seen on its own host alone. */
static void name_prefix(char out[PREFIX_BYTES])
{
    char host[HOST_NAME_MAX + 1] = "";
    if (gethostname(host, sizeof host - 1) != 0) log_debug("the host has no name: %s", strerror(errno));
    for (char *at = host; *at; at++)
        if (*at == '/') *at = '_';
    snprintf(out, PREFIX_BYTES, "lorad-run-%s-", host);
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *at)
{
    (void)info;
    if (at->level == 0) return 0;
    if (kind == FTW_DP)
        rmdir(path);
    else
        unlink(path);
    return 0;
}

static void empty(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *temporary_folder(void)
{
    const char *folder = getenv("TMPDIR");
    return folder && *folder ? folder : "/tmp";
}

static void remove_if_left(const char *path, int young_seconds)
{
    struct stat info;
    if (lstat(path, &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != geteuid()) return;
    if (time(NULL) - info.st_ctime < young_seconds) return;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        empty(path);
        rmdir(path);
    }
    close(fd);
}

void scratch_clear(int young_seconds)
{
    char prefix[PREFIX_BYTES];
    DIR *entries = opendir(temporary_folder());
    if (!entries) return;
    name_prefix(prefix);
    size_t length = strlen(prefix);
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (strncmp(entry->d_name, prefix, length) != 0) continue;
        if (strlen(entry->d_name) != length + RANDOM) continue; /* of a host with a longer name */
        char *path = file_join(temporary_folder(), entry->d_name);
        if (path) remove_if_left(path, young_seconds);
        free(path);
    }
    closedir(entries);
}

enum status scratch_open(struct scratch *out)
{
    char prefix[PREFIX_BYTES], name[PREFIX_BYTES + RANDOM];
    name_prefix(prefix);
    snprintf(name, sizeof name, "%s%.*s", prefix, RANDOM, "XXXXXX");
    scratch_clear(YOUNG_SECONDS);
    char *path = file_join(temporary_folder(), name);
    if (!path) return LORAD_NOMEM;
    int fd = mkdtemp(path) ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0) {
        enum status status = FAIL(LORAD_CANNOT_CREATE,
                                  "cannot create a folder in %s: %s; set TMPDIR to one "
                                  "that can be written",
                                  temporary_folder(), strerror(errno));
        free(path);
        return status;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) log_debug("cannot lock %s: %s", path, strerror(errno));
    *out = (struct scratch){.path = path, .fd = fd};
    return LORAD_OK;
}

void scratch_empty(const struct scratch *scratch)
{
    empty(scratch->path);
}

void scratch_close(struct scratch *scratch)
{
    if (!scratch->path) return;
    empty(scratch->path);
    rmdir(scratch->path);
    close(scratch->fd);
    free(scratch->path);
    scratch->path = NULL;
}

/* ---- claim ---- */

enum { CLAIM_BYTES = 4096, CLAIM_TEXT_BYTES = 192 };

static void name_job(struct claim *claim)
{
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        random = (uint64_t)time(NULL) << 32 | (uint64_t)getpid();
    snprintf(claim->job, sizeof claim->job, "run-%016llx", (unsigned long long)random);
    claim->start = 0;
    claim->first_epoch = -1;
}

/* Goes on as the job of a supervisor that was killed. */
static bool adopt(struct claim *claim)
{
    char text[CLAIM_BYTES];
    struct json *document = NULL;
    ssize_t n = pread(claim->fd, text, sizeof text, 0);
    bool found = n > 0 && js_parse(&document, text, (size_t)n, claim->path) == LORAD_OK;
    const char *job = js_string(js_get(document, "job"), NULL);
    int64_t start = js_int(js_get(document, "start"), -1);
    found = found && job && strlen(job) < sizeof claim->job && *job && start >= 0 && start < INT32_MAX;
    if (found) {
        snprintf(claim->job, sizeof claim->job, "%s", job);
        claim->start = (int)start + 1;
        claim->first_epoch = js_int(js_get(document, "first_epoch"), -1);
        log_info("an earlier supervisor of this folder was killed: going on as its job");
    }
    js_destroy(document);
    status_clear();
    return found;
}

static enum status in_use(const struct claim *claim, const char *output_dir)
{
    char text[CLAIM_BYTES];
    struct json *document = NULL;
    ssize_t n = pread(claim->fd, text, sizeof text, 0);
    long long pid = 0;
    if (n > 0 && js_parse(&document, text, (size_t)n, claim->path) == LORAD_OK)
        pid = (long long)js_int(js_get(document, "pid"), 0);
    js_destroy(document);
    return FAIL(LORAD_CANNOT_CREATE,
                "output_dir %s is supervised by another `lorad run` (process %lld); stop that one (TERM), or "
                "choose another output_dir",
                output_dir, pid);
}

enum status claim_open(struct claim *out, const char *output_dir)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct claim claim = {.fd = -1};
    TRY(file_make_dirs(output_dir));
    if (!(claim.path = file_join(output_dir, "SUPERVISOR"))) return LORAD_NOMEM;
    claim.fd = open(claim.path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    enum status status = LORAD_OK;
    if (claim.fd < 0)
        status = FAIL(LORAD_CANNOT_CREATE, "cannot create %s: %s; output_dir must be writable", claim.path,
                      strerror(errno));
    bool locked = status == LORAD_OK && fcntl(claim.fd, F_OFD_SETLK, &whole) == 0;
    if (status == LORAD_OK && !locked && (errno == EAGAIN || errno == EACCES))
        status = in_use(&claim, output_dir);
    if (status != LORAD_OK) {
        if (claim.fd >= 0) close(claim.fd);
        free(claim.path);
        return status;
    }
    if (!locked || !adopt(&claim)) name_job(&claim); /* a file system without locks tells nothing */
    *out = claim;
    return LORAD_OK;
}

/* Over the old text and as long: nothing that a full disk or a kill could spoil. */
enum status claim_write(const struct claim *claim)
{
    char text[CLAIM_TEXT_BYTES + 1];
    int n =
        snprintf(text, sizeof text, "{\"job\": \"%s\", \"start\": %d, \"pid\": %lld, \"first_epoch\": %lld}",
                 claim->job, claim->start, (long long)getpid(), (long long)claim->first_epoch);
    memset(text + n, ' ', (size_t)(CLAIM_TEXT_BYTES - 1 - n));
    text[CLAIM_TEXT_BYTES - 1] = '\n';
    if (pwrite(claim->fd, text, CLAIM_TEXT_BYTES, 0) != CLAIM_TEXT_BYTES)
        return FAIL(LORAD_IO, "cannot write %s: %s", claim->path, strerror(errno));
    return LORAD_OK;
}

void claim_close(struct claim *claim)
{
    if (!claim->path) return;
    if (ftruncate(claim->fd, 0) != 0) log_debug("cannot empty %s: %s", claim->path, strerror(errno));
    close(claim->fd);
    free(claim->path);
    claim->path = NULL;
}
