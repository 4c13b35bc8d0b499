/* The way to a running job through OUT/control.sock, and the words when it leads nowhere. */
#include "comm/control_impl.h"
#include "comm/control_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "comm/control_message.h"

enum { PATIENCE_S = 5 };

struct dial {
    int fd;
    struct strbuf in;
};

static bool socket_fits(const struct control_target *target)
{
    return target->output_dir != NULL;
}

/* Returns the connected socket, or -1 with errno. */
static int connect_in(const char *folder)
{
    int folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder_fd < 0) return -1;
    struct sockaddr_un address = control_address(folder_fd, CONTROL_SOCKET);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct timeval patience = {.tv_sec = PATIENCE_S}; /* a stopped run with a full backlog */
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        fd = -1;
    }
    int error = errno;
    close(folder_fd);
    errno = error;
    return fd;
}

/* Why nobody answers in output_dir. */
static enum status nobody(const char *folder, int error)
{
    struct control_sight sight;
    char run[192] = "the run";
    if (!file_is_dir(folder))
        return FAIL(LORAD_NOT_FOUND, "%s is no folder: name the output_dir of a run", folder);
    control_look(&sight, folder);
    if (!sight.known)
        return FAIL(LORAD_NOT_FOUND, "%s is the output_dir of no run: it holds no heartbeat.json", folder);
    if (*sight.run) snprintf(run, sizeof run, "the run \"%s\"", sight.run);
    if (sight.alive && (error == EACCES || error == EPERM))
        return FAIL(LORAD_CANNOT_CREATE, "%s/%s belongs to another user: ask as the one who started the run",
                    folder, CONTROL_SOCKET);
    if (sight.alive && !sight.here)
        return FAIL(LORAD_NOT_FOUND,
                    "%s in %s is on host %s (heartbeat %.0f s ago, step %lld): ask there, or "
                    "through Redis with --redis-url",
                    run, folder, sight.host, sight.age_seconds, (long long)sight.step);
    if (sight.alive)
        return FAIL(LORAD_NOT_FOUND,
                    "%s in %s is alive (process %lld, step %lld) but does not answer on %s: %s", run, folder,
                    (long long)sight.pid, (long long)sight.step, CONTROL_SOCKET, strerror(error));
    char code[32] = "";
    if (sight.exit_code >= 0) snprintf(code, sizeof code, ", exit code %d", sight.exit_code);
    return FAIL(LORAD_NOT_FOUND, "%s in %s is not running: it %s at step %lld (%s%s)", run, folder,
                sight.ended ? "ended" : "was killed", (long long)sight.step, sight.time, code);
}

static enum status socket_open(void **out, const struct control_target *target)
{
    struct dial *dial = memory_new(1, sizeof *dial);
    if (!dial) return LORAD_NOMEM;
    dial->fd = connect_in(target->output_dir);
    if (dial->fd < 0) {
        int error = errno;
        free(dial);
        return nobody(target->output_dir, error);
    }
    *out = dial;
    return LORAD_OK;
}

static void socket_close(void *state)
{
    struct dial *dial = state;
    close(dial->fd);
    strbuf_free(&dial->in);
    free(dial);
}

static enum status socket_send(void *state, const struct coord_command *request)
{
    struct dial *dial = state;
    struct strbuf line = STRBUF_EMPTY;
    control_request_write(&line, request);
    strbuf_putc(&line, '\n');
    enum status status = strbuf_status(&line);
    for (size_t done = 0; status == LORAD_OK && done < line.length;) {
        ssize_t n = send(dial->fd, line.data + done, line.length - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) status = FAIL(LORAD_PEER_LOST, "the run went away before it was asked");
        if (n > 0) done += (size_t)n;
    }
    strbuf_free(&line);
    return status;
}

/* A whole line that has come already; NULL: none. */
static const char *whole_line(const struct dial *dial)
{
    return dial->in.length > 0 ? memchr(dial->in.data, '\n', dial->in.length) : NULL;
}

/* More bytes, at least one, unless the deadline comes first. */
static enum status read_more(struct dial *dial, int64_t deadline_ns, bool *late)
{
    char bytes[4096];
    int64_t left_ms = (deadline_ns - clock_monotonic_ns() + 999999) / 1000000;
    struct pollfd ready = {.fd = dial->fd, .events = POLLIN};
    int n_ready = poll(&ready, 1, left_ms > 0 ? (int)left_ms : 0);
    *late = n_ready == 0;
    if (n_ready <= 0) return LORAD_OK;
    ssize_t n = recv(dial->fd, bytes, sizeof bytes, 0);
    if (n < 0 && errno == EINTR) return LORAD_OK;
    if (n <= 0) return FAIL(LORAD_PEER_LOST, "the run went away before it answered; its log says why");
    strbuf_add(&dial->in, bytes, (size_t)n);
    if (dial->in.length > CONTROL_REPLY_BYTES)
        return FAIL(LORAD_DATA, "the run's reply is longer than %d bytes", CONTROL_REPLY_BYTES);
    return strbuf_status(&dial->in);
}

static enum status socket_receive(void *state, struct control_reply *out, int timeout_ms, bool *got)
{
    struct dial *dial = state;
    int64_t deadline_ns = clock_monotonic_ns() + (int64_t)timeout_ms * 1000000;
    const char *end;
    *got = false;
    for (bool late = false; !(end = whole_line(dial));) {
        if (late) return LORAD_OK;
        TRY(read_more(dial, deadline_ns, &late));
    }
    size_t length = (size_t)(end - dial->in.data);
    TRY(control_reply_read(out, dial->in.data, length));
    memmove(dial->in.data, end + 1, dial->in.length - length);
    dial->in.length -= length + 1;
    *got = true;
    return LORAD_OK;
}

const struct control_ops control_socket_ops = {
    .kind = CONTROL_SOCKET,
    .fits = socket_fits,
    .open = socket_open,
    .close = socket_close,
    .send = socket_send,
    .receive = socket_receive,
};
