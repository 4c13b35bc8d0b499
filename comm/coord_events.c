/*
 * The events of a run in OUT/logs/events.jsonl, a line each (docs/formats/metrics.md).
 *
 * 1. The file is opened for each line: events are rare, and whoever moves the logs aside moves no open file.
 * 2. A line is one write to the end of the file, so what else appends to it never stands inside a line.
 * 3. At EVENTS_BYTES the file becomes events.1.jsonl, in the place of an older one.
 */
#include "comm/coord_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

enum { EVENTS_BYTES = 4 << 20 };

struct events {
    char *folder, *path, *older;
    pthread_mutex_t lock; /* one line at a time; guards the one below */
    bool warned;
};

static void events_leave(void *state)
{
    struct events *events = state;
    pthread_mutex_destroy(&events->lock);
    free(events->folder);
    free(events->path);
    free(events->older);
    free(events);
}

static enum status events_look(void **out, const struct coord_options *options, int64_t *at_least)
{
    (void)at_least;
    struct events *events = memory_new(1, sizeof *events);
    if (!events) return LORAD_NOMEM;
    pthread_mutex_init(&events->lock, NULL);
    events->folder = file_join(options->output_dir, "logs");
    events->path = events->folder ? file_join(events->folder, "events.jsonl") : NULL;
    events->older = events->folder ? file_join(events->folder, "events.1.jsonl") : NULL;
    if (!events->path || !events->older) {
        events_leave(events);
        return LORAD_NOMEM;
    }
    *out = events;
    return LORAD_OK;
}

/* Returns 0 or the error number. */
static int append(const struct events *events, const struct strbuf *line)
{
    struct stat now;
    if (line->failed) return ENOMEM;
    if (mkdir(events->folder, 0777) != 0 && errno != EEXIST) return errno;
    if (stat(events->path, &now) == 0 && now.st_size >= EVENTS_BYTES &&
        rename(events->path, events->older) != 0)
        return errno;
    int fd = open(events->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return errno;
    ssize_t n = write(fd, line->data, line->length);
    int error = n == (ssize_t)line->length ? 0 : n < 0 ? errno : ENOSPC;
    if (close(fd) != 0 && !error) error = errno;
    return error;
}

static void events_tell(void *state, enum coord_stream stream, const char *json)
{
    struct events *events = state;
    struct strbuf line = STRBUF_EMPTY;
    if (stream != COORD_EVENTS) return; /* metrics have a file of their own */
    strbuf_puts(&line, json);
    strbuf_putc(&line, '\n');
    pthread_mutex_lock(&events->lock);
    int error = append(events, &line);
    if (error && !events->warned)
        log_warn("cannot write %s: %s; training goes on without some of its lines", events->path,
                 strerror(error));
    events->warned = error != 0;
    pthread_mutex_unlock(&events->lock);
    strbuf_free(&line);
}

const struct coord_outlet coord_events_outlet = {
    .kind = "events",
    .look = events_look,
    .leave = events_leave,
    .tell = events_tell,
};
