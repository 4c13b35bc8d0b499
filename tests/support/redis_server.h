/* redis_server.h: a redis-server of the test's own, on a socket in a folder of its own; and servers that do
 * everything wrong. */
#ifndef LORAD_TESTS_SUPPORT_REDIS_SERVER_H
#define LORAD_TESTS_SUPPORT_REDIS_SERVER_H

#include <stdbool.h>
#include <sys/types.h>

struct redis_server {
    pid_t pid; /* 0: not running */
    char folder[256], url[400], socket[300];
};

/* Whether redis-server is installed. */
bool redis_server_exists(void);
/* Starts one in `folder`, which keeps its data (append-only file, synced always) between starts. `more`:
 * further arguments, NULL-terminated, or NULL. Returns once it answers. */
void redis_server_start(struct redis_server *out, const char *folder, const char *const *more);
void redis_server_kill(struct redis_server *server); /* SIGKILL */

/* What a fake server does with whoever connects. */
enum fake_redis {
    FAKE_GARBAGE,  /* answers with bytes that are no protocol */
    FAKE_LOADING,  /* -LOADING to every command */
    FAKE_OOM,      /* -OOM */
    FAKE_READONLY, /* -READONLY */
    FAKE_NOAUTH,   /* -NOAUTH */
    FAKE_ECHO,     /* an error that repeats the command with all its words */
    FAKE_HANG,     /* reads and never answers */
    FAKE_TRICKLE,  /* a byte every 50 ms, without end */
    FAKE_HUGE,     /* an array of two billion elements */
    FAKE_FLOOD,    /* a string without end, as fast as it can */
    FAKE_NESTED,   /* arrays in arrays in arrays */
    FAKE_CLOSE,    /* hangs up */
    FAKES
};
extern const char *const fake_redis_names[FAKES];

/* Serves on a socket for ever; for a process or thread of its own. */
void fake_redis_serve(const char *socket_path, enum fake_redis kind) __attribute__((noreturn));
/* Starts that in a child process, and waits until it listens. End it with kill and waitpid. */
pid_t fake_redis_start(const char *socket_path, enum fake_redis kind);

#endif
