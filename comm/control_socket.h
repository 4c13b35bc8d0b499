/*
 * control_socket.h: the name of OUT/control.sock as an address, for both ends. A socket's address holds 107
 * bytes of path, an output_dir may be longer: the folder is opened, and the address goes through its
 * descriptor. Private to comm/.
 */
#ifndef LORAD_COMM_CONTROL_SOCKET_H
#define LORAD_COMM_CONTROL_SOCKET_H

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CONTROL_SOCKET "control.sock"

/* `name` in the folder that was opened as folder_fd. */
static inline struct sockaddr_un control_address(int folder_fd, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", folder_fd, name);
    return address;
}

#endif
