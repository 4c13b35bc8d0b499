/*
 * notify.h: tells a service manager how the job is: datagrams to the socket that NOTIFY_SOCKET names, as
 * sd_notify(3) describes them. Nothing is said, and nothing fails, where there is no such socket.
 */
#ifndef LORAD_LAUNCH_NOTIFY_H
#define LORAD_LAUNCH_NOTIFY_H

#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

struct notify {
    int fd; /* -1: nobody listens */
    struct sockaddr_un to;
    socklen_t to_bytes;
    int64_t watchdog_ns; /* WATCHDOG_USEC, when it is meant for this process; 0: no watchdog */
};

/* Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID and takes them from the environment: they are for this
 * process, not for those that it starts. */
void notify_open(struct notify *out);
void notify_close(struct notify *notify);

/* One datagram of "KEY=value" lines, printf-like. Never blocks. */
void notify_send(const struct notify *notify, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
