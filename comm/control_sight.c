/* What is seen of a run from its files alone: heartbeat.json and LOCK (coord.h). */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "comm/control.h"

enum { RECORD_BYTES = 64 * 1024, FRESH_SECONDS = 60 };

static void copy(char *out, size_t bytes, const struct json *record, const char *key)
{
    snprintf(out, bytes, "%s",
             js_string(js_get(record, key), NULL) ? js_string(js_get(record, key), NULL) : "");
}

static bool is_this_boot(const struct json *record)
{
    char mine[64] = "";
    const char *boot = js_string(js_get(record, "boot"), NULL);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, mine, sizeof mine - 1) : 0;
    if (fd >= 0) close(fd);
    mine[n > 0 ? strcspn(mine, "\n") : 0] = '\0';
    return boot && *mine && strcmp(boot, mine) == 0;
}

/* Its process holds the lock as long as it lives. */
static bool is_locked(const char *output_dir)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char *path = file_join(output_dir, "LOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    bool locked = fd >= 0 && fcntl(fd, F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
    if (fd >= 0) close(fd);
    free(path);
    return locked;
}

static void read_record(struct control_sight *out, const struct json *record, const char *output_dir,
                        const char *path)
{
    int64_t changed_ns = 0;
    copy(out->run, sizeof out->run, record, "run");
    copy(out->host, sizeof out->host, record, "host");
    copy(out->since, sizeof out->since, record, "since");
    copy(out->time, sizeof out->time, record, "time");
    copy(out->phase, sizeof out->phase, record, "phase");
    out->pid = js_int(js_get(record, "pid"), 0);
    out->step = js_int(js_get(record, "step"), 0);
    out->epoch = js_int(js_get(record, "epoch"), 0);
    out->exit_code = (int)js_int(js_get(record, "exit"), -1);
    if (file_stat(NULL, &changed_ns, path) == LORAD_OK)
        out->age_seconds = (double)time(NULL) - (double)changed_ns * 1e-9;
    if (out->age_seconds < 0) out->age_seconds = 0;
    out->known = true;
    out->ended = strcmp(out->phase, "ended") == 0;
    out->here = is_this_boot(record);
    out->alive = !out->ended && (out->here ? is_locked(output_dir) : out->age_seconds < FRESH_SECONDS);
}

void control_look(struct control_sight *out, const char *output_dir)
{
    *out = (struct control_sight){.exit_code = -1};
    struct json *record = NULL;
    char *path = file_join(output_dir, "heartbeat.json");
    if (path && file_exists(path) && js_read_file(&record, path, RECORD_BYTES) == LORAD_OK)
        read_record(out, record, output_dir, path);
    status_clear();
    js_destroy(record);
    free(path);
}
