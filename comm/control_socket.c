/*
 * OUT/control.sock: a thread of rank 0 that reads requests, a line each, and writes replies
 * (control_message.h).
 *
 * 1. The socket appears under its name at once (bound under another, renamed), so a folder that is taken over
 * never is without one; who leaves removes it only while it is his own.
 * 2. "status" is answered here, from what was published last. Everything else goes into the inbox, and
 * socket_answer brings the reply back from whatever thread gave it.
 * 3. Only this thread touches clients; `lock` guards what other threads hand over.
 * 4. Nothing here ends or holds up a run, whatever a client does: lines, clients and what is owed to them are
 * bounded, and sockets never block.
 */
#include "comm/control_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "comm/control_message.h"
#include "comm/coord_impl.h"

enum {
    CLIENTS = 32,
    OWED_BYTES = 1 << 20, /* a client that does not read that much is let go */
    LAST_WORDS_MS = 1000, /* for replies, when the run ends */
    FULL_MS = 200,        /* until the next try when a client cannot be let in */
};

struct client {
    int fd; /* -1: free */
    uint64_t serial;
    struct strbuf in, out;
    bool deaf; /* it sends nothing more, but waits for answers */
    bool ends; /* when `out` is sent */
};

/* A request in the inbox: whose it is. */
struct pending {
    uint64_t serial; /* of the client; 0: free */
    char id[COMMAND_ID_BYTES], theirs[COMMAND_ID_BYTES];
};

struct answer {
    struct answer *next;
    char id[COMMAND_ID_BYTES];
    enum status status;
    char *text;
};

struct server {
    char *folder;
    int folder_fd, listener, wake; /* wake: an eventfd */
    ino_t inode;                   /* of the socket's name */
    struct coord *coord;
    pthread_t thread;
    bool running;
    int64_t full_until_ns; /* the listener is left alone so long: it would wake poll again at once */

    struct client clients[CLIENTS];
    struct pending pending[INBOX_CAPACITY];
    uint64_t last_serial, last_request;

    pthread_mutex_t lock; /* guards the three below */
    struct answer *first, **last;
    bool stop;
};

/* ---- replies ---- */

/* The channel's answer: any thread. */
static void socket_answer(void *context, const char *id, enum status status, const char *text)
{
    struct server *server = context;
    uint64_t one = 1;
    struct answer *answer = memory_new(1, sizeof *answer);
    if (answer) answer->text = memory_string(text);
    if (!answer || !answer->text) { /* the client waits until the run ends */
        free(answer);
        return;
    }
    snprintf(answer->id, sizeof answer->id, "%s", id);
    answer->status = status;
    pthread_mutex_lock(&server->lock);
    *server->last = answer;
    server->last = &answer->next;
    pthread_mutex_unlock(&server->lock);
    if (write(server->wake, &one, sizeof one) < 0) log_debug("control.sock: cannot wake its thread");
}

static void client_close(struct client *client)
{
    close(client->fd);
    strbuf_free(&client->in);
    strbuf_free(&client->out);
    *client = (struct client){.fd = -1};
}

static void client_flush(struct client *client)
{
    while (client->fd >= 0 && client->out.length > 0) {
        ssize_t n = send(client->fd, client->out.data, client->out.length, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        bool full = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
        if (full && client->out.length <= OWED_BYTES) return;
        if (n <= 0) {
            client_close(client);
            return;
        }
        memmove(client->out.data, client->out.data + n, client->out.length - (size_t)n + 1);
        client->out.length -= (size_t)n;
    }
    if (client->fd >= 0 && client->ends) client_close(client);
}

static void reply(struct client *client, const char *id, enum status status, const char *text,
                  const char *run)
{
    control_reply_write(&client->out, id, status, text, run);
    strbuf_putc(&client->out, '\n');
    if (client->out.failed) client->ends = true;
    client_flush(client);
}

static bool waits_for_answers(const struct server *server, const struct client *client)
{
    for (int i = 0; i < INBOX_CAPACITY; i++)
        if (server->pending[i].serial == client->serial) return true;
    return false;
}

static void deliver(struct server *server, const struct answer *answer)
{
    struct pending *pending = server->pending;
    while (pending < server->pending + INBOX_CAPACITY && strcmp(pending->id, answer->id) != 0) pending++;
    if (pending == server->pending + INBOX_CAPACITY) return;
    struct pending done = *pending;
    *pending = (struct pending){0};
    for (int i = 0; i < CLIENTS; i++) {
        struct client *client = &server->clients[i];
        if (client->fd < 0 || client->serial != done.serial) continue;
        client->ends = client->deaf && !waits_for_answers(server, client);
        reply(client, done.theirs, answer->status, answer->text, NULL);
    }
}

/* Returns whether the thread shall end. */
static bool deliver_all(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    struct answer *answer = server->first;
    bool stop = server->stop;
    server->first = NULL;
    server->last = &server->first;
    pthread_mutex_unlock(&server->lock);
    while (answer) {
        struct answer *next = answer->next;
        deliver(server, answer);
        free(answer->text);
        free(answer);
        answer = next;
    }
    return stop;
}

/* ---- requests ---- */

static void answer_status(struct server *server, struct client *client, const char *id)
{
    struct strbuf run = STRBUF_EMPTY;
    coord_write_status(&run, server->coord);
    if (run.failed)
        reply(client, id, LORAD_NOMEM, "out of memory", NULL);
    else
        reply(client, id, LORAD_OK, "", strbuf_text(&run));
    strbuf_free(&run);
}

static void hand_on(struct server *server, struct client *client, struct coord_command *request)
{
    struct pending *pending = server->pending;
    while (pending < server->pending + INBOX_CAPACITY && pending->serial) pending++;
    bool room = pending < server->pending + INBOX_CAPACITY;
    if (room) {
        *pending = (struct pending){.serial = client->serial};
        memcpy(pending->theirs, request->id, sizeof pending->theirs);
        snprintf(pending->id, sizeof pending->id, "socket-%llu", (unsigned long long)++server->last_request);
        memcpy(request->id, pending->id, sizeof request->id);
        room = inbox_put(coord_inbox(server->coord), request, (struct inbox_channel){socket_answer, server});
        if (room) return;
        memcpy(request->id, pending->theirs, sizeof request->id);
        *pending = (struct pending){0};
    }
    reply(client, request->id, LORAD_CANNOT_CREATE,
          "the run takes no request now: it is ending, or too many wait already", NULL);
}

static void serve(struct server *server, struct client *client, const char *line, size_t length)
{
    struct coord_command request;
    enum status status = control_request_read(&request, line, length);
    if (status != LORAD_OK) {
        reply(client, request.id, status, status_message(), NULL);
        status_clear();
    } else if (control_is_status(&request)) {
        answer_status(server, client, request.id);
    } else if (control_is_stop_now(&request)) {
        reply(client, request.id, LORAD_OK, "ended at once, nothing was saved; exit code 80", NULL);
        coord_stop_now(server->coord);
    } else {
        hand_on(server, client, &request);
    }
}

/* Serves whole lines of what came in. */
static void serve_lines(struct server *server, struct client *client)
{
    char *end;
    while (client->fd >= 0 && !client->ends && client->in.length > 0 &&
           (end = memchr(client->in.data, '\n', client->in.length))) {
        size_t length = (size_t)(end - client->in.data);
        if (strspn(client->in.data, " \t\r") < length) serve(server, client, client->in.data, length);
        if (client->fd < 0) return;
        memmove(client->in.data, end + 1, client->in.length - length);
        client->in.length -= length + 1;
    }
    if (client->fd < 0 || client->in.length <= CONTROL_REQUEST_BYTES) return;
    client->ends = true;
    reply(client, "", LORAD_USAGE, "a request is a line of at most 4096 bytes", NULL);
}

static void client_read(struct server *server, struct client *client)
{
    char bytes[4096];
    ssize_t n = recv(client->fd, bytes, sizeof bytes, 0);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    client->deaf = n == 0;
    if (n < 0 || (n == 0 && client->out.length == 0 && !waits_for_answers(server, client))) {
        client_close(client);
        return;
    }
    if (n == 0) client->ends = !waits_for_answers(server, client);
    strbuf_add(&client->in, bytes, (size_t)n);
    if (client->in.failed)
        client_close(client);
    else
        serve_lines(server, client);
}

static void client_accept(struct server *server)
{
    int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS))
        server->full_until_ns = clock_monotonic_ns() + (int64_t)FULL_MS * 1000000;
    if (fd < 0) return;
    struct client *client = server->clients;
    while (client < server->clients + CLIENTS && client->fd >= 0) client++;
    if (client < server->clients + CLIENTS) {
        *client = (struct client){.fd = fd, .serial = ++server->last_serial};
        return;
    }
    struct client many = {.fd = fd, .ends = true};
    reply(&many, "", LORAD_CANNOT_CREATE, "too many ask this run at the same time", NULL);
    if (many.fd >= 0) client_close(&many);
}

/* ---- the thread ---- */

static bool owes(const struct server *server)
{
    for (int i = 0; i < CLIENTS; i++)
        if (server->clients[i].fd >= 0 && server->clients[i].out.length > 0) return true;
    return false;
}

/* Waits for something to do and does it. `late`: only what is owed is sent. */
static void turn(struct server *server, bool late, int timeout_ms)
{
    bool full = clock_monotonic_ns() < server->full_until_ns;
    struct pollfd polls[CLIENTS + 2] = {{.fd = server->wake, .events = POLLIN},
                                        {.fd = late || full ? -1 : server->listener, .events = POLLIN}};
    if (full && !late) timeout_ms = FULL_MS;
    for (int i = 0; i < CLIENTS; i++) {
        const struct client *client = &server->clients[i];
        bool hears = !late && !client->deaf && !client->ends;
        short events = (short)((hears ? POLLIN : 0) | (client->out.length > 0 ? POLLOUT : 0));
        polls[i + 2] = (struct pollfd){.fd = client->fd, .events = events};
    }
    if (poll(polls, CLIENTS + 2, timeout_ms) <= 0) return;
    uint64_t count;
    if (polls[0].revents && read(server->wake, &count, sizeof count) < 0) return;
    for (int i = 0; i < CLIENTS; i++) {
        struct client *client = &server->clients[i];
        short events = polls[i + 2].revents;
        if (client->fd >= 0 && (events & POLLOUT)) client_flush(client);
        if (client->fd < 0 || !(events & (POLLIN | POLLHUP | POLLERR))) continue;
        if (late || client->deaf)
            client_close(client); /* it is gone */
        else
            client_read(server, client);
    }
    if (polls[1].revents) client_accept(server);
}

static void *serve_all(void *argument)
{
    struct server *server = argument;
    while (!deliver_all(server)) turn(server, false, -1);
    int64_t start = clock_monotonic_ns();
    while (owes(server) && clock_monotonic_ns() - start < (int64_t)LAST_WORDS_MS * 1000000)
        turn(server, true, 50);
    for (int i = 0; i < CLIENTS; i++)
        if (server->clients[i].fd >= 0) client_close(&server->clients[i]);
    return NULL;
}

/* ---- coming and going ---- */

/* Listens under a name of its own, readable by the user alone, and takes the place of whatever had the
 * socket's name. Returns 0 or the error number. */
static int listen_in(struct server *server)
{
    char name[64];
    struct stat now;
    snprintf(name, sizeof name, "%s.%ld", CONTROL_SOCKET, (long)getpid());
    server->folder_fd = open(server->folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (server->folder_fd < 0) return errno;
    server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->listener < 0) return errno;
    struct sockaddr_un address = control_address(server->folder_fd, name);
    unlinkat(server->folder_fd, name, 0);
    /* Linux gives the name the mode of the unbound socket, so it is never open to others. */
    if (fchmod(server->listener, 0600) != 0 ||
        bind(server->listener, (struct sockaddr *)&address, sizeof address) != 0)
        return errno;
    int error = listen(server->listener, 16) != 0 ||
                        fstatat(server->folder_fd, name, &now, AT_SYMLINK_NOFOLLOW) != 0 ||
                        renameat(server->folder_fd, name, server->folder_fd, CONTROL_SOCKET) != 0
                    ? errno
                    : 0;
    if (error)
        unlinkat(server->folder_fd, name, 0);
    else
        server->inode = now.st_ino;
    return error;
}

static void remove_name(const struct server *server)
{
    struct stat now;
    if (fstatat(server->folder_fd, CONTROL_SOCKET, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
        now.st_ino == server->inode)
        unlinkat(server->folder_fd, CONTROL_SOCKET, 0);
}

static void socket_leave(void *state)
{
    struct server *server = state;
    uint64_t one = 1;
    if (server->running) {
        remove_name(server);
        pthread_mutex_lock(&server->lock);
        server->stop = true;
        pthread_mutex_unlock(&server->lock);
        if (write(server->wake, &one, sizeof one) == (ssize_t)sizeof one) pthread_join(server->thread, NULL);
    }
    if (server->listener >= 0) close(server->listener);
    if (server->folder_fd >= 0) close(server->folder_fd);
    if (server->wake >= 0) close(server->wake);
    pthread_mutex_destroy(&server->lock);
    free(server->folder);
    free(server);
}

static enum status socket_look(void **out, const struct coord_options *options, int64_t *at_least)
{
    (void)at_least;
    struct server *server = memory_new(1, sizeof *server);
    if (!server) return LORAD_NOMEM;
    pthread_mutex_init(&server->lock, NULL);
    server->last = &server->first;
    server->folder_fd = server->listener = server->wake = -1;
    for (int i = 0; i < CLIENTS; i++) server->clients[i].fd = -1;
    server->folder = memory_string(options->output_dir);
    if (!server->folder) {
        socket_leave(server);
        return LORAD_NOMEM;
    }
    *out = server;
    return LORAD_OK;
}

/* A run that cannot be asked trains all the same. */
static enum status socket_start(void *state, struct coord *coord)
{
    struct server *server = state;
    server->coord = coord;
    server->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = server->wake < 0 ? errno : listen_in(server);
    if (error == 0) error = thread_start(&server->thread, serve_all, server);
    server->running = error == 0;
    if (error)
        log_warn("cannot listen on %s/%s: %s; `lorad status`, `lorad stop` and the others do not reach this "
                 "run, signals do",
                 server->folder, CONTROL_SOCKET, strerror(error));
    return LORAD_OK;
}

const struct coord_outlet coord_socket_outlet = {
    .kind = "socket",
    .look = socket_look,
    .start = socket_start,
    .leave = socket_leave,
};
