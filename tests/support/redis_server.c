#include "support/redis_server.h"

#include "support/test.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

/* ---- a real one ---- */

bool redis_server_exists(void)
{
    return system("command -v redis-server >/dev/null 2>&1") == 0;
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%.107s", path);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

static bool answers(const char *path)
{
    char reply[64] = "";
    int fd = connect_to(path);
    if (fd < 0) return false;
    bool sent = write(fd, "PING\r\n", 6) == 6 && read(fd, reply, sizeof reply - 1) > 0;
    close(fd);
    return sent && (strncmp(reply, "+PONG", 5) == 0 || strncmp(reply, "-NOAUTH", 7) == 0);
}

void redis_server_start(struct redis_server *out, const char *folder, const char *const *more)
{
    const char *words[48] = {
        "redis-server", "--port",        "0",      "--save",           "",    "--appendonly",
        "yes",          "--appendfsync", "always", "--unixsocketperm", "700", "--loglevel",
        "warning",      "--dir",         folder,   "--unixsocket"};
    size_t n = 0;
    if (folder != out->folder) snprintf(out->folder, sizeof out->folder, "%s", folder);
    snprintf(out->socket, sizeof out->socket, "%.256s/redis.sock", folder);
    snprintf(out->url, sizeof out->url, "unix://%.300s", out->socket);
    while (words[n]) n++;
    words[n++] = out->socket;
    for (; more && *more && n + 1 < sizeof words / sizeof words[0]; more++) words[n++] = *more;
    unlink(out->socket);
    out->pid = fork();
    assert_true(out->pid >= 0);
    if (out->pid == 0) {
        char log[320];
        snprintf(log, sizeof log, "%.256s/redis.log", folder);
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0666);
        dup2(fd, 1);
        dup2(fd, 2);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(words[0], (char *const *)(const void *)words);
        _exit(127);
    }
    int64_t start = clock_monotonic_ns();
    while (!answers(out->socket)) {
        if (clock_seconds_since(start) > 20)
            fail_msg("redis-server does not answer; see %s/redis.log", folder);
        clock_sleep_ms(5);
    }
}

void redis_server_kill(struct redis_server *server)
{
    if (server->pid <= 0) return;
    kill(server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
    server->pid = 0;
}

/* ---- fakes ---- */

const char *const fake_redis_names[FAKES] = {"garbage", "loading", "oom",  "readonly", "noauth", "echo",
                                             "hang",    "trickle", "huge", "flood",    "nested", "close"};

/* Of the commands at the front of `bytes`: how many are whole; *used: their length. */
static int whole_commands(const char *bytes, size_t length, size_t *used)
{
    int commands = 0;
    size_t at = 0;
    *used = 0;
    while (at < length && bytes[at] == '*') {
        long words = strtol(bytes + at + 1, NULL, 10);
        const char *line = memchr(bytes + at, '\n', length - at);
        for (; line && words > 0; words--) {
            at = (size_t)(line - bytes) + 1;
            long size = at < length && bytes[at] == '$' ? strtol(bytes + at + 1, NULL, 10) : -1;
            line = size < 0 ? NULL : memchr(bytes + at, '\n', length - at);
            if (!line || (size_t)(line - bytes) + 1 + (size_t)size + 2 > length) return commands;
            line += size + 2;
        }
        if (!line) return commands;
        at = (size_t)(line - bytes) + 1;
        *used = at;
        commands++;
    }
    return commands;
}

static bool say(int fd, const char *bytes, size_t length)
{
    return send(fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length;
}

static bool say_text(int fd, const char *text)
{
    return say(fd, text, strlen(text));
}

static const char *const errors[FAKES] = {
    [FAKE_LOADING] = "-LOADING Redis is loading the dataset in memory\r\n",
    [FAKE_OOM] = "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    [FAKE_READONLY] = "-READONLY You can't write against a read only replica.\r\n",
    [FAKE_NOAUTH] = "-NOAUTH Authentication required.\r\n",
};

static bool say_echo(int fd, const char *bytes, size_t length)
{
    char text[2048];
    size_t n = (size_t)snprintf(text, sizeof text, "-ERR unknown command ");
    for (size_t i = 0; i < length && n < sizeof text - 4; i++)
        text[n++] = isprint((unsigned char)bytes[i]) ? bytes[i] : ' ';
    text[n++] = '\r';
    text[n++] = '\n';
    return say(fd, text, n);
}

/* Answers `commands` commands of `length` bytes; false: hang up. */
static bool misbehave(int fd, enum fake_redis kind, const char *bytes, size_t length, int commands)
{
    static const char garbage[] = "\x7f\0HTTP/1.1 400 Bad Request\r\n\xff\xfe*-7\r\n:9x\r\n";
    static char block[65536];
    switch (kind) {
    case FAKE_GARBAGE: return say(fd, garbage, sizeof garbage - 1);
    case FAKE_TRICKLE:
        if (!say_text(fd, "$1000000000\r\n")) return false;
        while (say_text(fd, "x")) clock_sleep_ms(50);
        return false;
    case FAKE_HUGE:
        return say_text(fd, "*2000000000\r\n:1\r\n");
    case FAKE_FLOOD:
        if (!say_text(fd, "$1000000000\r\n")) return false;
        memset(block, 'x', sizeof block);
        while (send(fd, block, sizeof block, MSG_NOSIGNAL) > 0) continue;
        return false;
    case FAKE_NESTED:
        while (say_text(fd, "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n"))
            continue;
        return false;
    case FAKE_CLOSE:
        return false;
    case FAKE_HANG:
        return true;
    default:
        break;
    }
    for (int i = 0; i < commands; i++)
        if (!(kind == FAKE_ECHO ? say_echo(fd, bytes, length) : say_text(fd, errors[kind]))) return false;
    return true;
}

static void serve_one(int fd, enum fake_redis kind)
{
    static char bytes[1 << 20];
    size_t length = 0;
    for (ssize_t n; (n = read(fd, bytes + length, sizeof bytes - length)) > 0;) {
        size_t used;
        length += (size_t)n;
        int commands = whole_commands(bytes, length, &used);
        if (commands > 0 && !misbehave(fd, kind, bytes, used, commands)) break;
        memmove(bytes, bytes + used, length - used);
        length -= used;
    }
    close(fd);
}

static int listen_at(const char *socket_path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%.107s", socket_path);
    unlink(socket_path);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 16) != 0) {
        fprintf(stderr, "cannot listen at %s: %s\n", socket_path, strerror(errno));
        exit(1);
    }
    return listener;
}

void fake_redis_serve(const char *socket_path, enum fake_redis kind)
{
    int listener = listen_at(socket_path);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) continue;
        if (fork() == 0) { /* so that one that never ends does not keep the next one waiting */
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            serve_one(fd, kind);
            _exit(0);
        }
        close(fd);
    }
}

pid_t fake_redis_start(const char *socket_path, enum fake_redis kind)
{
    unlink(socket_path);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        fake_redis_serve(socket_path, kind);
    }
    for (int i = 0; i < 2000; i++) {
        int fd = connect_to(socket_path);
        if (fd >= 0) {
            close(fd);
            return pid;
        }
        clock_sleep_ms(5);
    }
    fail_msg("the fake server does not listen");
    return pid;
}
