#include "launch/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

/* "/path" or, with '@' for the leading NUL, an abstract name. */
static bool read_address(struct notify *out, const char *name)
{
    size_t length = strlen(name);
    if ((name[0] != '/' && name[0] != '@') || length < 2 || length >= sizeof out->to.sun_path) return false;
    out->to.sun_family = AF_UNIX;
    memcpy(out->to.sun_path, name, length);
    if (name[0] == '@') out->to.sun_path[0] = '\0';
    out->to_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (name[0] == '/'));
    return true;
}

static int64_t read_watchdog(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    if (!usec || (pid && strtoll(pid, NULL, 10) != (long long)getpid())) return 0;
    long long value = strtoll(usec, NULL, 10);
    return value > 0 && value < INT64_MAX / 1000 ? (int64_t)value * 1000 : 0;
}

void notify_open(struct notify *out)
{
    const char *name = getenv("NOTIFY_SOCKET");
    *out = (struct notify){.fd = -1};
    if (name && *name) {
        if (read_address(out, name)) out->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (out->fd < 0) log_warn("NOTIFY_SOCKET=%s cannot be used: the service manager hears nothing", name);
        out->watchdog_ns = out->fd < 0 ? 0 : read_watchdog();
    }
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

void notify_close(struct notify *notify)
{
    if (notify->fd >= 0) close(notify->fd);
    notify->fd = -1;
}

void notify_send(const struct notify *notify, const char *format, ...)
{
    char text[512];
    if (notify->fd < 0) return;
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (length < 0 || (size_t)length >= sizeof text) return;
    if (sendto(notify->fd, text, (size_t)length, MSG_NOSIGNAL, (const struct sockaddr *)&notify->to,
               notify->to_bytes) < 0)
        log_debug("the service manager cannot be told: %s", strerror(errno));
}
