/*
 * verb_logs.c: `lorad logs [-f]`: the metrics and events of a run in the order in which they came, for people
 * or, with --json, as they stand in OUT/logs.
 *
 * 1. Both files are read by their bytes and lines only; a line that is no JSON yet is left for later.
 * 2. A run that is resumed cuts metrics.jsonl and says "resumed" in events.jsonl: lines behind that step are
 *    read again. A file that was replaced is read to its end before the new one.
 * 3. An event of step s comes behind the metrics of step s.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "launch/find_run.h"
#include "launch/log_text.h"
#include "launch/verbs.h"

enum { POLL_MS = 200, LOOK_MS = 1000, REVIVAL_MS = 30000, LINE_BYTES = 1 << 20, MOST_LINES = 1000000 };

/* A file that grows, is cut, or is replaced. */
struct tail {
    char *path;
    int fd; /* -1: not there yet */
    int64_t offset;
    struct strbuf text; /* read, and not a whole line yet */
};

struct event {
    int64_t step;
    char *line; /* owned */
};

struct logs {
    struct tail metrics, events, older;
    struct event *waiting; /* [n_waiting]: for the metrics before them */
    size_t n_waiting, capacity;
    int64_t behind_step; /* metrics up to this step were shown already */
    bool json, following;
    char **last; /* [most] ring: the last lines, before following; NULL: all are printed */
    int64_t most, n;
};

/* Prints a line, or keeps it among the last ones. Takes `line` over. */
static void show(struct logs *logs, char *line)
{
    if (logs->last && !logs->following) {
        free(logs->last[logs->n % logs->most]);
        logs->last[logs->n++ % logs->most] = line;
        return;
    }
    puts(line);
    free(line);
}

static void show_json(struct logs *logs, const struct json *json, const char *line)
{
    struct strbuf text = STRBUF_EMPTY;
    if (logs->json)
        strbuf_puts(&text, line);
    else
        log_line_text(&text, json);
    char *copy = text.failed ? NULL : memory_string(strbuf_text(&text));
    if (copy) show(logs, copy);
    strbuf_free(&text);
}

/* ---- the order ---- */

/* Events of steps before `step`, in the order in which they came. */
static void show_events(struct logs *logs, int64_t step)
{
    size_t n = 0;
    for (; n < logs->n_waiting && logs->waiting[n].step < step; n++) {
        struct json *json;
        if (js_parse(&json, logs->waiting[n].line, strlen(logs->waiting[n].line), "events.jsonl") ==
            LORAD_OK) {
            show_json(logs, json, logs->waiting[n].line);
            js_destroy(json);
        }
        free(logs->waiting[n].line);
    }
    if (n == 0) return;
    logs->n_waiting -= n;
    memmove(logs->waiting, logs->waiting + n, logs->n_waiting * sizeof *logs->waiting);
}

static enum status take_event(struct logs *logs, const struct json *json, const char *line)
{
    const char *event = js_string(js_get(json, "event"), NULL);
    int64_t step = js_int(js_get(json, "step"), 0);
    TRY(memory_grow((void **)&logs->waiting, &logs->capacity, logs->n_waiting + 1, sizeof *logs->waiting));
    char *copy = memory_string(line);
    if (!copy) return LORAD_NOMEM;
    logs->waiting[logs->n_waiting++] = (struct event){step, copy};
    if (logs->following && event && strcmp(event, "resumed") == 0) { /* invariant 2 */
        logs->behind_step = step;
        logs->metrics.offset = 0;
        strbuf_clear(&logs->metrics.text);
    }
    return LORAD_OK;
}

static enum status take_metrics(struct logs *logs, const struct json *json, const char *line)
{
    int64_t step = js_int(js_get(json, "step"), 0);
    if (step <= logs->behind_step) return LORAD_OK;
    show_events(logs, step);
    show_json(logs, json, line);
    return LORAD_OK;
}

/* ---- files ---- */

typedef enum status take_line(struct logs *logs, const struct json *json, const char *line);

/* Whole lines of what was read. */
static enum status take_lines(struct logs *logs, struct tail *tail, take_line *take)
{
    char *end;
    size_t done = 0;
    enum status status = LORAD_OK;
    while (status == LORAD_OK && done < tail->text.length &&
           (end = memchr(tail->text.data + done, '\n', tail->text.length - done))) {
        const char *line = tail->text.data + done;
        struct json *json = NULL;
        *end = '\0';
        if (js_parse(&json, line, strlen(line), tail->path) == LORAD_OK) status = take(logs, json, line);
        status_clear();
        js_destroy(json);
        done = (size_t)(end - tail->text.data) + 1;
        if (tail->text.length < done) return status; /* a resume has emptied it */
    }
    if (done == 0) return status;
    memmove(tail->text.data, tail->text.data + done, tail->text.length - done + 1);
    tail->text.length -= done;
    return status;
}

static enum status read_on(struct logs *logs, struct tail *tail, take_line *take)
{
    char bytes[1 << 16];
    for (ssize_t n; tail->fd >= 0 && (n = pread(tail->fd, bytes, sizeof bytes, (off_t)tail->offset)) != 0;) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return FAIL(LORAD_IO, "cannot read %s: %s", tail->path, strerror(errno));
        tail->offset += n;
        strbuf_add(&tail->text, bytes, (size_t)n);
        TRY(strbuf_status(&tail->text));
        TRY(take_lines(logs, tail, take));
        if (tail->text.length > LINE_BYTES) strbuf_clear(&tail->text);
    }
    return LORAD_OK;
}

/* Reads what is new, also when another file has the name now. */
static enum status follow(struct logs *logs, struct tail *tail, take_line *take)
{
    struct stat mine, now;
    bool there = stat(tail->path, &now) == 0;
    if (tail->fd >= 0 && fstat(tail->fd, &mine) == 0) {
        if (mine.st_size < tail->offset) { /* cut by a resume */
            tail->offset = mine.st_size;
            strbuf_clear(&tail->text);
        }
        TRY(read_on(logs, tail, take));
        if (!there || (mine.st_ino == now.st_ino && mine.st_dev == now.st_dev)) return LORAD_OK;
        close(tail->fd);
        tail->offset = 0;
        strbuf_clear(&tail->text);
        if (tail == &logs->metrics) logs->behind_step = -1;
    }
    tail->fd = there ? open(tail->path, O_RDONLY | O_CLOEXEC) : -1;
    return read_on(logs, tail, take);
}

static enum status read_new(struct logs *logs)
{
    TRY(follow(logs, &logs->events, take_event));
    TRY(follow(logs, &logs->metrics, take_metrics));
    show_events(logs, INT64_MAX);
    fflush(stdout);
    return LORAD_OK;
}

/* ---- the verb ---- */

static enum status logs_open(struct logs *logs, const struct command *command, const char *folder)
{
    static const char *const names[] = {"logs/metrics.jsonl", "logs/events.jsonl", "logs/events.1.jsonl"};
    struct tail *tails[] = {&logs->metrics, &logs->events, &logs->older};
    *logs = (struct logs){.behind_step = -1, .json = command->json, .most = command->lines};
    for (int i = 0; i < 3; i++) tails[i]->fd = -1;
    for (int i = 0; i < 3; i++)
        if (!(tails[i]->path = file_join(folder, names[i]))) return LORAD_NOMEM;
    if (logs->most > 0 && !(logs->last = memory_new((size_t)logs->most, sizeof *logs->last)))
        return LORAD_NOMEM;
    if (!file_exists(logs->metrics.path) && !file_exists(logs->events.path) && !command->follow)
        return FAIL(LORAD_NOT_FOUND, "%s holds no logs of a run", folder);
    return LORAD_OK;
}

static void logs_close(struct logs *logs)
{
    struct tail *tails[] = {&logs->metrics, &logs->events, &logs->older};
    for (int i = 0; i < 3; i++) {
        if (tails[i]->fd >= 0) close(tails[i]->fd);
        strbuf_free(&tails[i]->text);
        free(tails[i]->path);
    }
    for (size_t i = 0; i < logs->n_waiting; i++) free(logs->waiting[i].line);
    for (int64_t i = 0; logs->last && i < logs->most; i++) free(logs->last[i]);
    free(logs->waiting);
    free(logs->last);
}

/* What there is already. */
static enum status show_past(struct logs *logs)
{
    TRY(follow(logs, &logs->older, take_event));
    TRY(read_new(logs));
    logs->following = true;
    int64_t first = logs->n > logs->most ? logs->n - logs->most : 0;
    for (int64_t i = first; logs->last && i < logs->n; i++) puts(logs->last[i % logs->most]);
    fflush(stdout);
    return LORAD_OK;
}

/* Whether to go on: the run lives, or has died so lately that somebody may be starting it again. */
static bool may_go_on(const char *folder, int64_t *dead_since_ns)
{
    struct control_sight sight;
    control_look(&sight, folder);
    if (sight.alive) *dead_since_ns = 0;
    if (sight.alive) return true;
    if (sight.ended || !sight.known) return false;
    if (*dead_since_ns == 0) *dead_since_ns = clock_monotonic_ns();
    return clock_monotonic_ns() - *dead_since_ns < (int64_t)REVIVAL_MS * 1000000;
}

static enum status show_future(struct logs *logs, const char *folder)
{
    int64_t looked_ns = 0, dead_since_ns = 0;
    for (bool goes_on = true; goes_on;) {
        if (clock_monotonic_ns() - looked_ns >= (int64_t)LOOK_MS * 1000000) {
            looked_ns = clock_monotonic_ns();
            goes_on = may_go_on(folder, &dead_since_ns);
        }
        if (goes_on) clock_sleep_ms(POLL_MS);
        TRY(read_new(logs)); /* after the look, so that the last lines are not missed */
    }
    if (dead_since_ns) log_info("the run was killed, and was not started again within 30 s");
    return LORAD_OK;
}

/* A run that is known by its name only: its streams in Redis. */
static enum status logs_from_redis(const struct command *command, const struct control_target *target)
{
    struct control_feed *feed;
    TRY(control_feed_open(&feed, target, command->lines > 0 ? command->lines : -1));
    struct logs logs = {.json = command->json, .following = true};
    enum status status;
    const char *line;
    while ((status = control_feed_next(feed, &line, command->follow ? LOOK_MS : 0)) == LORAD_OK) {
        struct json *json = NULL;
        if (line && js_parse(&json, line, strlen(line), "a line in Redis") == LORAD_OK)
            show_json(&logs, json, line);
        js_destroy(json);
        fflush(stdout);
        if (!line && !command->follow) break;
    }
    control_feed_close(feed);
    if (status == LORAD_NOT_FOUND) log_info("%s", status_message());
    return status == LORAD_NOT_FOUND ? LORAD_OK : status;
}

enum status verb_logs(const struct command *command)
{
    struct found_run found;
    struct logs logs;
    if (command->lines > MOST_LINES)
        return FAIL(LORAD_USAGE, "--lines: at most %d; without it all are shown", MOST_LINES);
    TRY(find_run(&found, command, command->word));
    const char *folder = found.target.output_dir;
    if (!folder) {
        enum status status = logs_from_redis(command, &found.target);
        found_run_free(&found);
        return status;
    }
    enum status status = logs_open(&logs, command, folder);
    if (status == LORAD_OK) status = show_past(&logs);
    if (status == LORAD_OK && command->follow) status = show_future(&logs, folder);
    logs_close(&logs);
    found_run_free(&found);
    return status;
}
