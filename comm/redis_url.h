/*
 * redis_url.h: where a Redis server is, as people write it:
 *
 *   redis://[[user]:password@]host[:port][/database]
 *   rediss://...                                      the same through TLS, when hiredis has it
 *   unix:///path/to.sock[?db=N&user=U&password=P]
 *
 * User, password and path may be percent-encoded; [::1] is an IPv6 host. A password that is not in the URL is
 * taken from the environment variable REDISCLI_AUTH, as redis-cli does. No message repeats a password.
 */
#ifndef LORAD_COMM_REDIS_URL_H
#define LORAD_COMM_REDIS_URL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

enum { REDIS_HOST_BYTES = 256, REDIS_SECRET_BYTES = 512, REDIS_PATH_BYTES = 108, REDIS_PLACE_BYTES = 512 };

struct redis_address {
    bool tls;
    int port, database;
    char host[REDIS_HOST_BYTES];       /* "" with a path */
    char path[REDIS_PATH_BYTES];       /* of a socket; "" with a host */
    char user[REDIS_SECRET_BYTES];     /* "": none */
    char password[REDIS_SECRET_BYTES]; /* "": none */
    char place[REDIS_PLACE_BYTES];     /* for people: the URL without user and password */
};

/* LORAD_CONFIG says what is wrong with it, but not the URL, which may hold a password; also for rediss when
 * hiredis was built without TLS. */
enum status redis_url_parse(struct redis_address *out, const char *url) LORAD_WARN_UNUSED;

/* The URL with *** for the password, whatever else is wrong with it. */
void redis_url_mask(char *out, size_t bytes, const char *url);

/* LORAD_CONFIG unless `prefix` can stand before keys: 1 to 64 letters, digits and -_.:/ */
enum status redis_prefix_check(const char *prefix) LORAD_WARN_UNUSED;

#endif
