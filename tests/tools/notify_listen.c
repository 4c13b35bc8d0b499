/* notify_listen SOCKET [SECONDS]: a service manager's end of sd_notify: prints each datagram, its lines
 * joined by blanks, behind the seconds since the start. SOCKET as in NOTIFY_SOCKET: a path, or @name. */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"

int main(int argc, char **argv)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    if (argc < 2 || strlen(argv[1]) >= sizeof name.sun_path) return 2;
    memcpy(name.sun_path, argv[1], strlen(argv[1]));
    bool hidden = argv[1][0] == '@';
    if (hidden) name.sun_path[0] = '\0';
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(argv[1]) + !hidden);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (!hidden) unlink(argv[1]);
    if (fd < 0 || bind(fd, (struct sockaddr *)&name, bytes) != 0) {
        perror(argv[1]);
        return 1;
    }
    if (argc > 2) alarm((unsigned)atoi(argv[2]));
    int64_t start = clock_monotonic_ns();
    char text[4096];
    for (ssize_t n; (n = recv(fd, text, sizeof text - 1, 0)) >= 0;) {
        text[n] = '\0';
        for (char *at = text; *at; at++)
            if (*at == '\n') *at = ' ';
        printf("%.3f %s\n", clock_seconds_since(start), text);
        fflush(stdout);
    }
    return 0;
}
