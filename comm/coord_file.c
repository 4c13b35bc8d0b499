/*
 * Coordination through files of output_dir (the list is in coord.h).
 *
 * 1. An epoch belongs to whoever created its file with O_EXCL; a later epoch fences every earlier one. The
 * lock and the heartbeat only avoid that by accident: they decide whether a start is refused, never whether a
 * commit is valid.
 * 2. A .resume record is complete when its name appears: temporary file, fsync, rename, fsync of the folder.
 * It carries a hash of its own, for it says which checkpoints are void.
 * 3. The heartbeat file is written by one thread per run; a fenced run stops writing it.
 * 4. What decides (1 and 2) goes through base/fs.h; what only informs (lock, heartbeat) is never synced.
 */
#include "comm/coord_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "base/thread.h"

enum { HEARTBEAT_MS = 5000, STALE_BEATS = 12, MAX_RECORD_BYTES = 64 * 1024 };

struct owner {
    char host[128], boot[64], run[128], job[64], since[32], phase[32];
    int64_t pid, restart, step, epoch, exit_code, period_ms;
    bool known;     /* the file existed and could be read */
    int64_t age_ms; /* of the heartbeat, by the file system's clock */
};

struct coord_file {
    struct fs *fs;
    char *folder, *epochs, *lock_path, *beat_path, *beat_temporary; /* output_dir and what is in it */
    int lock_fd;                                                    /* -1: not opened */
    bool locked; /* the heartbeat thread's, while it runs */
    struct owner me;
    int64_t epoch;
    int heartbeat_ms;

    pthread_t thread;
    bool beating;
    pthread_mutex_t lock; /* guards the six below */
    pthread_cond_t wake;
    bool stop;
    int64_t step;
    char phase[32];
    int exit_code; /* < 0: not known */
    int64_t looked_ns;
    bool fenced; /* when the thread last looked, at looked_ns */

    pthread_mutex_t file_lock; /* one heartbeat is written at a time; guards the one below */
    bool said_end;             /* nothing is written after that */
};

/* ---- who ---- */

static void copy_text(char *out, size_t bytes, const char *text)
{
    snprintf(out, bytes, "%s", text ? text : "");
}

static void describe_me(struct owner *me, const struct coord_options *options)
{
    memset(me, 0, sizeof *me);
    if (gethostname(me->host, sizeof me->host - 1) != 0) copy_text(me->host, sizeof me->host, "unknown");
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, me->boot, sizeof me->boot - 1) < 0) me->boot[0] = '\0';
        me->boot[strcspn(me->boot, "\n")] = '\0';
        close(fd);
    }
    copy_text(me->run, sizeof me->run, options->run_name);
    copy_text(me->job, sizeof me->job, options->job_id);
    clock_utc(me->since);
    me->pid = (int64_t)getpid();
    me->restart = options->restart_count;
    me->exit_code = -1;
    me->known = true;
}

static void add_member(struct strbuf *out, const char *key, const char *value)
{
    strbuf_printf(out, "\"%s\": ", key);
    js_write_string(out, value, strlen(value));
    strbuf_puts(out, ", ");
}

static void owner_text(struct strbuf *out, const struct owner *owner)
{
    char now[32];
    clock_utc(now);
    strbuf_putc(out, '{');
    add_member(out, "host", owner->host);
    add_member(out, "boot", owner->boot);
    add_member(out, "run", owner->run);
    add_member(out, "job", owner->job);
    add_member(out, "since", owner->since);
    add_member(out, "phase", owner->phase);
    add_member(out, "time", now);
    if (owner->exit_code >= 0) strbuf_printf(out, "\"exit\": %lld, ", (long long)owner->exit_code);
    strbuf_printf(out,
                  "\"pid\": %lld, \"restart\": %lld, \"epoch\": %lld, \"period_ms\": %lld, \"step\": %lld}\n",
                  (long long)owner->pid, (long long)owner->restart, (long long)owner->epoch,
                  (long long)owner->period_ms, (long long)owner->step);
}

/* What cannot be read is unknown, not an error: these records inform, they do not decide. */
static void owner_read(struct owner *out, const char *path)
{
    memset(out, 0, sizeof *out);
    struct json *document;
    if (!file_exists(path) || js_read_file(&document, path, MAX_RECORD_BYTES) != LORAD_OK) {
        status_clear();
        return;
    }
    copy_text(out->host, sizeof out->host, js_string(js_get(document, "host"), NULL));
    copy_text(out->boot, sizeof out->boot, js_string(js_get(document, "boot"), NULL));
    copy_text(out->run, sizeof out->run, js_string(js_get(document, "run"), NULL));
    copy_text(out->job, sizeof out->job, js_string(js_get(document, "job"), NULL));
    copy_text(out->since, sizeof out->since, js_string(js_get(document, "since"), NULL));
    copy_text(out->phase, sizeof out->phase, js_string(js_get(document, "phase"), NULL));
    out->pid = js_int(js_get(document, "pid"), 0);
    out->restart = js_int(js_get(document, "restart"), 0);
    out->step = js_int(js_get(document, "step"), 0);
    out->epoch = js_int(js_get(document, "epoch"), 0);
    out->period_ms = js_int(js_get(document, "period_ms"), 0);
    out->known = true;
    js_destroy(document);
}

static void owner_describe(char *text, size_t bytes, const struct owner *owner)
{
    if (!owner->known || !*owner->host) {
        snprintf(text, bytes, "another run");
        return;
    }
    snprintf(text, bytes, "run \"%s\" on host %s, process %lld, since %s", owner->run, owner->host,
             (long long)owner->pid, owner->since);
}

/* ---- epochs ---- */

/* "e0000000007" -> 7, "e0000000007.resume" -> 7 with *resume; others -1. */
static int64_t epoch_of(const char *name, bool *resume)
{
    if (name[0] != 'e') return -1;
    size_t digits = strspn(name + 1, "0123456789");
    if (digits < 10 || digits > 18) return -1;
    *resume = strcmp(name + 1 + digits, ".resume") == 0;
    if (!*resume && name[1 + digits] != '\0') return -1;
    return strtoll(name + 1, NULL, 10);
}

static enum status newest_epoch(int64_t *out, const char *epochs)
{
    DIR *entries = opendir(epochs);
    if (!entries) return FAIL(LORAD_IO, "cannot list %s: %s", epochs, strerror(errno));
    int64_t newest = 0;
    bool resume;
    for (struct dirent *entry; (entry = readdir(entries));) {
        int64_t epoch = epoch_of(entry->d_name, &resume);
        if (epoch > newest) newest = epoch;
    }
    closedir(entries);
    *out = newest;
    return LORAD_OK;
}

bool coord_file_is_over(const char *output_dir, int64_t epoch)
{
    char *epochs = file_join(output_dir, "epoch"), *beat = file_join(output_dir, "heartbeat.json");
    int64_t newest = 0;
    struct owner owner = {0};
    bool listed = epochs && newest_epoch(&newest, epochs) == LORAD_OK;
    if (beat) owner_read(&owner, beat);
    status_clear();
    free(epochs);
    free(beat);
    return (listed && newest > epoch) ||
           (owner.known && owner.epoch == epoch && strcmp(owner.phase, "ended") == 0);
}

static char *epoch_path(const struct coord_file *coord, int64_t epoch, const char *suffix)
{
    char name[64];
    snprintf(name, sizeof name, "e%010lld%s", (long long)epoch, suffix);
    return file_join(coord->epochs, name);
}

/* A name that could not be made because it is there belongs to somebody else, even when it came between. */
static enum status create_epoch(const struct coord_file *coord, const char *path, bool *taken)
{
    struct strbuf text = STRBUF_EMPTY;
    struct fs_file *file;
    owner_text(&text, &coord->me);
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) status = fs_create(&file, coord->fs, path);
    *taken = status == LORAD_CANNOT_CREATE && file_exists(path);
    if (status == LORAD_OK) {
        status = fs_write(file, text.data, text.length);
        if (status == LORAD_OK) status = fs_sync(file);
        enum status closed = fs_close(file);
        if (status == LORAD_OK) status = closed;
    }
    strbuf_free(&text);
    return *taken ? LORAD_OK : status;
}

static enum status claim_epoch(struct coord_file *coord, int64_t at_least)
{
    int64_t newest;
    TRY(newest_epoch(&newest, coord->epochs));
    bool taken;
    int64_t epoch = newest > at_least ? newest : at_least;
    do {
        char *path = epoch_path(coord, ++epoch, "");
        if (!path) return LORAD_NOMEM;
        coord->me.epoch = epoch;
        enum status status = create_epoch(coord, path, &taken);
        free(path);
        if (status != LORAD_OK) return status;
    } while (taken);
    coord->epoch = epoch;
    return fs_sync_dir(coord->fs, coord->epochs);
}

static void resume_text(struct strbuf *out, int64_t base_step, int64_t base_epoch, const char *manifest)
{
    char hex[33];
    strbuf_printf(out,
                  "{\"base_step\": %lld, \"base_epoch\": %lld, \"base_manifest\": ", (long long)base_step,
                  (long long)base_epoch);
    js_write_string(out, manifest, strlen(manifest));
    hash128_hex(hash128(strbuf_text(out), out->length), hex);
    strbuf_printf(out, ", \"hash\": \"%s\"}\n", hex);
}

static enum status file_record_resume(void *state, int64_t base_step, int64_t base_epoch,
                                      const char *manifest_hash)
{
    struct coord_file *coord = state;
    struct strbuf text = STRBUF_EMPTY;
    resume_text(&text, base_step, base_epoch, manifest_hash ? manifest_hash : "");
    char *path = epoch_path(coord, coord->epoch, ".resume");
    enum status status = path ? strbuf_status(&text) : LORAD_NOMEM;
    if (status == LORAD_OK) status = fs_write_file(coord->fs, path, text.data, text.length);
    free(path);
    strbuf_free(&text);
    return status;
}

/* A record is what would be written for the same values, or it is damaged. */
static enum status read_resume(int64_t *base_step, const char *bytes, size_t length, const char *path)
{
    struct json *document = NULL;
    struct strbuf text = STRBUF_EMPTY;
    const char *manifest;
    int64_t base_epoch;
    enum status status = js_parse(&document, bytes, length, path);
    if (status == LORAD_OK) status = js_need_int(base_step, document, "base_step", path);
    if (status == LORAD_OK) status = js_need_int(&base_epoch, document, "base_epoch", path);
    if (status == LORAD_OK) status = js_need_string(&manifest, document, "base_manifest", path);
    if (status == LORAD_OK) {
        resume_text(&text, *base_step, base_epoch, manifest);
        status = strbuf_status(&text);
    }
    if (status == LORAD_OK && (text.length != length || memcmp(text.data, bytes, length) != 0))
        status = FAIL(LORAD_DATA, "%s: its hash is wrong", path);
    strbuf_free(&text);
    js_destroy(document);
    return status;
}

static enum status resumed_from(int64_t *base_step, const char *epochs, const char *name)
{
    char *path = file_join(epochs, name), *bytes = NULL;
    size_t length;
    if (!path) return LORAD_NOMEM;
    enum status status = file_read(&bytes, &length, path, MAX_RECORD_BYTES);
    if (status == LORAD_OK) status = read_resume(base_step, bytes, length, path);
    if (status == LORAD_DATA)
        status =
            FAIL(LORAD_DATA,
                 "%s is damaged, so it is not known which checkpoints of earlier starts are void; choose "
                 "one yourself: resume_from_checkpoint: <output_dir>/checkpoint-<step>",
                 path);
    free(bytes);
    free(path);
    return status;
}

static enum status file_is_fenced(bool *out, const char *output_dir, int64_t step, int64_t epoch)
{
    char *epochs = file_join(output_dir, "epoch");
    if (!epochs) return LORAD_NOMEM;
    DIR *entries = opendir(epochs);
    int error = errno;
    enum status status = LORAD_OK;
    bool fenced = false;
    if (!entries && error != ENOENT) status = FAIL(LORAD_IO, "cannot list %s: %s", epochs, strerror(error));
    for (struct dirent *entry; entries && status == LORAD_OK && (entry = readdir(entries));) {
        bool resume = false;
        int64_t later = epoch_of(entry->d_name, &resume), base_step = 0;
        if (later <= epoch || !resume) continue;
        status = resumed_from(&base_step, epochs, entry->d_name);
        if (status == LORAD_OK && base_step < step) fenced = true;
    }
    if (entries) closedir(entries);
    free(epochs);
    if (status == LORAD_OK) *out = fenced;
    return status;
}

/* ---- the lock ---- */

/* Open file description locks: they end with the process, and no other close(2) in it drops them by accident.
 * A file system without locks leaves the run unlocked; heartbeats and epochs still work. */
static void lock_try(struct coord_file *coord)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (!coord->locked) coord->locked = fcntl(coord->lock_fd, F_OFD_SETLK, &whole) == 0;
}

static bool lock_is_busy(const struct coord_file *coord)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return !coord->locked && fcntl(coord->lock_fd, F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
}

static enum status lock_open(struct coord_file *coord)
{
    coord->lock_fd = open(coord->lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (coord->lock_fd < 0)
        return FAIL(LORAD_CANNOT_CREATE, "cannot create %s: %s; output_dir must be writable",
                    coord->lock_path, strerror(errno));
    lock_try(coord);
    return LORAD_OK;
}

static void lock_sign(struct coord_file *coord)
{
    struct strbuf text = STRBUF_EMPTY;
    owner_text(&text, &coord->me);
    if (coord->locked && !text.failed && ftruncate(coord->lock_fd, 0) == 0 &&
        pwrite(coord->lock_fd, text.data, text.length, 0) != (ssize_t)text.length)
        log_debug("cannot sign %s: %s", coord->lock_path, strerror(errno));
    strbuf_free(&text);
}

/* ---- heartbeats ---- */

static void replace_beat(const struct coord_file *coord, const struct strbuf *text)
{
    int fd = open(coord->beat_temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool ok = fd >= 0 && !text->failed && write(fd, text->data, text->length) == (ssize_t)text->length;
    if (fd >= 0) ok = close(fd) == 0 && ok;
    if (!ok || rename(coord->beat_temporary, coord->beat_path) != 0)
        log_debug("cannot write %s: %s", coord->beat_path, strerror(errno));
}

static void beat(struct coord_file *coord, int64_t step, const char *phase, int64_t exit_code)
{
    struct owner now = coord->me;
    struct strbuf text = STRBUF_EMPTY;
    now.step = step;
    now.exit_code = exit_code;
    copy_text(now.phase, sizeof now.phase, phase);
    owner_text(&text, &now);
    pthread_mutex_lock(&coord->file_lock);
    if (!coord->said_end) replace_beat(coord, &text);
    coord->said_end = coord->said_end || strcmp(phase, "ended") == 0;
    pthread_mutex_unlock(&coord->file_lock);
    strbuf_free(&text);
}

static bool is_fenced_now(const struct coord_file *coord)
{
    int64_t newest = 0;
    return newest_epoch(&newest, coord->epochs) == LORAD_OK && newest > coord->epoch;
}

static void *beat_until_stopped(void *argument)
{
    struct coord_file *coord = argument;
    pthread_mutex_lock(&coord->lock);
    while (!coord->stop) {
        int64_t step = coord->step;
        char phase[sizeof coord->phase];
        memcpy(phase, coord->phase, sizeof phase);
        pthread_mutex_unlock(&coord->lock);
        int64_t looking_ns = clock_monotonic_ns(); /* before: the process may be stopped behind the look */
        bool fenced = is_fenced_now(coord);
        if (!fenced) beat(coord, step, phase, -1);
        if (!fenced && !coord->locked) { /* a run that was taken over may have let go by now */
            lock_try(coord);
            lock_sign(coord);
        }
        pthread_mutex_lock(&coord->lock);
        coord->looked_ns = looking_ns;
        coord->fenced = fenced;
        if (fenced) break;

        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        int64_t ns = until.tv_nsec + (int64_t)coord->heartbeat_ms * 1000000;
        until.tv_sec += ns / 1000000000;
        until.tv_nsec = ns % 1000000000;
        while (!coord->stop && pthread_cond_timedwait(&coord->wake, &coord->lock, &until) == 0) continue;
    }
    pthread_mutex_unlock(&coord->lock);
    return NULL;
}

static enum status beat_start(struct coord_file *coord)
{
    int code = thread_start(&coord->thread, beat_until_stopped, coord);
    if (code != 0) return FAIL(LORAD_NOMEM, "cannot start the heartbeat thread: %s", strerror(code));
    coord->beating = true;
    return LORAD_OK;
}

static void file_heartbeat(void *state, int64_t step, const char *phase)
{
    struct coord_file *coord = state;
    pthread_mutex_lock(&coord->lock);
    coord->step = step;
    copy_text(coord->phase, sizeof coord->phase, phase);
    pthread_mutex_unlock(&coord->lock);
}

static void file_note_exit(void *state, int exit_code)
{
    struct coord_file *coord = state;
    pthread_mutex_lock(&coord->lock);
    coord->exit_code = exit_code;
    pthread_mutex_unlock(&coord->lock);
}

static void file_last_beat(void *state)
{
    struct coord_file *coord = state;
    pthread_mutex_lock(&coord->lock);
    coord->stop = true; /* the thread says nothing after this */
    int64_t step = coord->step, exit_code = coord->exit_code;
    pthread_mutex_unlock(&coord->lock);
    if (!is_fenced_now(coord)) beat(coord, step, "ended", exit_code);
}

/* ---- joining and leaving ---- */

/* Touching the lock file asks the file system for its time, which is the one that heartbeats are stamped
 * with. */
static void measure_age(const struct coord_file *coord, struct owner *owner)
{
    struct stat now, then;
    owner->age_ms = 0;
    if (futimens(coord->lock_fd, NULL) != 0 || fstat(coord->lock_fd, &now) != 0 ||
        stat(coord->beat_path, &then) != 0)
        return;
    owner->age_ms = ((int64_t)now.st_mtim.tv_sec - (int64_t)then.st_mtim.tv_sec) * 1000 +
                    (now.st_mtim.tv_nsec - then.st_mtim.tv_nsec) / 1000000;
}

/* Whether the heartbeat file changes within two periods, by this host's clock. */
static bool still_beats(const struct coord_file *coord, const struct owner *owner)
{
    struct stat first, now;
    if (stat(coord->beat_path, &first) != 0) return false;
    int64_t patience_ms = 2 * owner->period_ms + owner->period_ms / 5;
    log_info("an earlier run on host %s did not end properly; watching its heartbeat for %.0f s", owner->host,
             (double)patience_ms / 1000);
    int64_t start = clock_monotonic_ns();
    while (clock_monotonic_ns() - start < patience_ms * 1000000) {
        clock_sleep_ms(patience_ms / 20 + 1);
        if (stat(coord->beat_path, &now) != 0) continue;
        if (now.st_ino != first.st_ino || now.st_mtim.tv_sec != first.st_mtim.tv_sec ||
            now.st_mtim.tv_nsec != first.st_mtim.tv_nsec)
            return true;
    }
    return false;
}

static bool is_live(struct coord_file *coord, struct owner *owner)
{
    if (lock_is_busy(coord)) return true;
    if (!owner->known || strcmp(owner->phase, "ended") == 0) return false;
    bool this_host = *owner->boot && strcmp(owner->boot, coord->me.boot) == 0;
    if (this_host && coord->locked) return false;
    /* a clock that was set back makes beats of the future; they say as little as old ones */
    bool fresh = owner->age_ms > -owner->period_ms && owner->age_ms < STALE_BEATS * owner->period_ms;
    return fresh || still_beats(coord, owner);
}

static enum status check_free(struct coord_file *coord, const struct coord_options *options)
{
    struct owner owner;
    owner_read(&owner, coord->beat_path);
    /* a holder without a heartbeat (coord_hold) has signed the lock */
    if (!owner.known || (strcmp(owner.phase, "ended") == 0 && lock_is_busy(coord)))
        owner_read(&owner, coord->lock_path);
    if (owner.period_ms <= 0) owner.period_ms = coord->heartbeat_ms;
    measure_age(coord, &owner);
    bool same_job = options->job_id && *options->job_id && strcmp(owner.job, options->job_id) == 0 &&
                    owner.restart < options->restart_count;
    char words[512];
    owner_describe(words, sizeof words, &owner);
    if (same_job || options->takeover) {
        if (owner.known && strcmp(owner.phase, "ended") != 0)
            log_info("taking %s over from %s", coord->folder, words);
        return LORAD_OK;
    }
    if (!is_live(coord, &owner)) return LORAD_OK;
    return FAIL(LORAD_CANNOT_CREATE,
                "output_dir %s is in use by %s (heartbeat %.0f s ago at step %lld); wait for that run, stop "
                "it, or choose "
                "another output_dir",
                coord->folder, words, (double)owner.age_ms / 1000, (long long)owner.step);
}

static void file_destroy(struct coord_file *coord)
{
    if (coord->lock_fd >= 0) close(coord->lock_fd); /* releases the lock */
    pthread_cond_destroy(&coord->wake);
    pthread_mutex_destroy(&coord->lock);
    pthread_mutex_destroy(&coord->file_lock);
    free(coord->folder);
    free(coord->epochs);
    free(coord->lock_path);
    free(coord->beat_path);
    free(coord->beat_temporary);
    free(coord);
}

static int choose_period(const struct coord_options *options)
{
    const char *wish = getenv("LORAD_HEARTBEAT_MS");
    if (options->heartbeat_ms > 0) return options->heartbeat_ms;
    return wish && atoi(wish) > 0 ? atoi(wish) : HEARTBEAT_MS;
}

static enum status file_new(struct coord_file **out, const struct coord_options *options)
{
    struct coord_file *coord = memory_new(1, sizeof *coord);
    if (!coord) return LORAD_NOMEM;
    char temporary[192];
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&coord->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&coord->lock, NULL);
    pthread_mutex_init(&coord->file_lock, NULL);
    coord->fs = options->fs ? options->fs : fs_posix();
    coord->lock_fd = -1;
    coord->exit_code = -1;
    describe_me(&coord->me, options);
    coord->me.period_ms = coord->heartbeat_ms = choose_period(options);
    coord->looked_ns = clock_monotonic_ns();
    snprintf(temporary, sizeof temporary, "heartbeat.json.%.100s.%lld", coord->me.host,
             (long long)coord->me.pid);
    copy_text(coord->phase, sizeof coord->phase, "starting");
    coord->folder = memory_string(options->output_dir);
    coord->epochs = file_join(options->output_dir, "epoch");
    coord->lock_path = file_join(options->output_dir, "LOCK");
    coord->beat_path = file_join(options->output_dir, "heartbeat.json");
    coord->beat_temporary = file_join(options->output_dir, temporary);
    if (!coord->folder || !coord->epochs || !coord->lock_path || !coord->beat_path ||
        !coord->beat_temporary) {
        file_destroy(coord);
        return LORAD_NOMEM;
    }
    *out = coord;
    return LORAD_OK;
}

static enum status file_join_run(void **out, int64_t *epoch, const struct coord_options *options,
                                 int64_t at_least)
{
    struct coord_file *coord;
    TRY(file_new(&coord, options));
    enum status status = lock_open(coord);
    if (status == LORAD_OK) status = check_free(coord, options);
    if (status == LORAD_OK) status = fs_mkdir(coord->fs, coord->epochs);
    if (status == LORAD_OK) status = fs_sync_dir(coord->fs, coord->folder);
    if (status == LORAD_OK) status = claim_epoch(coord, at_least);
    if (status == LORAD_OK) {
        lock_sign(coord);
        beat(coord, 0, coord->phase, -1); /* before anybody else may look */
        status = beat_start(coord);
    }
    if (status != LORAD_OK) {
        file_destroy(coord);
        return status;
    }
    *epoch = coord->epoch;
    *out = coord;
    return LORAD_OK;
}

enum status coord_hold(struct coord_hold **out, const char *output_dir, const char *who)
{
    struct coord_file *coord;
    struct coord_options options = {.output_dir = output_dir, .run_name = who};
    TRY(file_new(&coord, &options));
    enum status status = lock_open(coord);
    if (status == LORAD_OK) status = check_free(coord, &options);
    if (status != LORAD_OK) {
        file_destroy(coord);
        return status;
    }
    lock_sign(coord);
    *out = (struct coord_hold *)coord;
    return LORAD_OK;
}

void coord_release(struct coord_hold *hold)
{
    if (hold) file_destroy((struct coord_file *)hold);
}

static void file_leave(void *state)
{
    struct coord_file *coord = state;
    pthread_mutex_lock(&coord->lock);
    coord->stop = true;
    pthread_cond_signal(&coord->wake);
    pthread_mutex_unlock(&coord->lock);
    if (coord->beating) pthread_join(coord->thread, NULL);
    file_last_beat(coord);
    file_destroy(coord);
}

static enum status file_job_began(int64_t *epoch, void *state)
{
    const struct coord_file *coord = state;
    int64_t first = coord->epoch;
    DIR *entries = *coord->me.job ? opendir(coord->epochs) : NULL;
    if (*coord->me.job && !entries)
        return FAIL(LORAD_IO, "cannot list %s: %s", coord->epochs, strerror(errno));
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        bool resume = false;
        int64_t earlier = epoch_of(entry->d_name, &resume);
        char *path =
            earlier >= 0 && earlier < first && !resume ? file_join(coord->epochs, entry->d_name) : NULL;
        struct owner owner = {0};
        if (path) owner_read(&owner, path);
        if (owner.known && strcmp(owner.job, coord->me.job) == 0) first = earlier;
        free(path);
    }
    if (entries) closedir(entries);
    *epoch = first;
    return LORAD_OK;
}

static enum status file_check_owner(void *state)
{
    struct coord_file *coord = state;
    int64_t newest;
    TRY(newest_epoch(&newest, coord->epochs));
    if (newest <= coord->epoch) return LORAD_OK;
    struct owner later;
    char *path = epoch_path(coord, newest, "");
    if (!path) return LORAD_NOMEM;
    owner_read(&later, path);
    free(path);
    char words[512];
    owner_describe(words, sizeof words, &later);
    return FAIL(LORAD_FENCED,
                "%s took over %s (its epoch is %lld, ours %lld); this run commits nothing any more", words,
                coord->folder, (long long)newest, (long long)coord->epoch);
}

static bool file_in_doubt(void *state)
{
    struct coord_file *coord = state;
    pthread_mutex_lock(&coord->lock);
    int64_t silent_ns = clock_monotonic_ns() - coord->looked_ns;
    bool doubt = coord->fenced || silent_ns > 2 * (int64_t)coord->heartbeat_ms * 1000000;
    pthread_mutex_unlock(&coord->lock);
    return doubt;
}

const struct coord_ops coord_file_ops = {
    .kind = "file",
    .join = file_join_run,
    .leave = file_leave,
    .record_resume = file_record_resume,
    .is_fenced = file_is_fenced,
    .job_began = file_job_began,
    .check_owner = file_check_owner,
    .in_doubt = file_in_doubt,
    .heartbeat = file_heartbeat,
    .note_exit = file_note_exit,
    .last_beat = file_last_beat,
};
