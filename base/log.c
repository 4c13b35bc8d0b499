#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static atomic_int threshold = LOG_INFO;
static atomic_int log_rank = 0, log_world = 1;
typedef void hook_fn(void);
static _Atomic(hook_fn *) hook_before, hook_after;

void log_set_level(enum log_level level)
{
    threshold = (int)level;
}

void log_set_rank(int rank, int world)
{
    log_rank = rank;
    log_world = world;
}

void log_set_hooks(void (*before)(void), void (*after)(void))
{
    hook_before = before;
    hook_after = after;
}

void log_line(enum log_level level, const char *format, ...)
{
    if ((int)level < threshold) return;
    if (level < LOG_WARN && log_rank != 0) return;

    static const char *const tag[] = {"debug: ", "", "warning: ", "error: "};
    char line[8192];
    int n = log_world > 1 && level >= LOG_WARN
                ? snprintf(line, sizeof line, "lorad[%d]: %s", log_rank, tag[level])
                : snprintf(line, sizeof line, "lorad: %s", tag[level]);
    va_list args;
    va_start(args, format);
    int room = (int)sizeof line - n - 1;
    int m = vsnprintf(line + n, (size_t)room, format, args);
    va_end(args);
    n += m < room ? m : room - 1;
    line[n++] = '\n';

    hook_fn *before = hook_before, *after = hook_after;
    if (before) before();
    for (char *at = line; n > 0;) {
        ssize_t wrote = write(STDERR_FILENO, at, (size_t)n);
        if (wrote <= 0) break; /* nowhere left to complain to */
        at += wrote;
        n -= (int)wrote;
    }
    if (after) after();
}
