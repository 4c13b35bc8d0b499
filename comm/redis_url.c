#include "comm/redis_url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/redis_link.h"

/* What is left of the URL while it is read. */
struct rest {
    const char *at, *end;
};

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Copies [from, end) with %XX decoded. */
static enum status decode(char *out, size_t bytes, const char *from, const char *end, const char *what)
{
    size_t n = 0;
    for (const char *at = from; at < end; at++) {
        int c = (unsigned char)*at;
        if (c == '%') {
            int high = end - at > 2 ? hex_digit(at[1]) : -1, low = high < 0 ? -1 : hex_digit(at[2]);
            if (low < 0)
                return FAIL(LORAD_CONFIG, "%% in the %s must be followed by two hexadecimal digits", what);
            c = high * 16 + low;
            at += 2;
        }
        if (c < 0x20 || c == 0x7f) return FAIL(LORAD_CONFIG, "the %s holds a control character", what);
        if (n + 1 >= bytes) return FAIL(LORAD_CONFIG, "the %s is longer than %zu bytes", what, bytes - 1);
        out[n++] = (char)c;
    }
    out[n] = '\0';
    return LORAD_OK;
}

static enum status read_number(int *out, const char *from, const char *end, int least, int most,
                               const char *what)
{
    int64_t value = 0;
    bool ok = from < end && end - from <= 6;
    for (const char *at = from; ok && at < end; at++) {
        ok = *at >= '0' && *at <= '9';
        value = value * 10 + (*at - '0');
    }
    if (!ok || value < least || value > most)
        return FAIL(LORAD_CONFIG, "the %s must be a number from %d to %d", what, least, most);
    *out = (int)value;
    return LORAD_OK;
}

static const char *find(const char *from, const char *end, char c)
{
    return from < end ? memchr(from, c, (size_t)(end - from)) : NULL;
}

/* The last one: a password may hold an @ that was not encoded. */
static const char *find_last(const char *from, const char *end, char c)
{
    return from < end ? memrchr(from, c, (size_t)(end - from)) : NULL;
}

static enum status read_login(struct redis_address *out, struct rest *rest, const char *end)
{
    const char *at = find_last(rest->at, end, '@');
    if (!at) return LORAD_OK;
    const char *colon = find(rest->at, at, ':');
    TRY(decode(out->user, sizeof out->user, rest->at, colon ? colon : at, "user"));
    if (colon) TRY(decode(out->password, sizeof out->password, colon + 1, at, "password"));
    rest->at = at + 1;
    return LORAD_OK;
}

static enum status read_host(struct redis_address *out, const struct rest *rest, const char *end)
{
    const char *from = rest->at, *stop, *after;
    if (from < end && *from == '[') {
        stop = find(++from, end, ']');
        if (!stop) return FAIL(LORAD_CONFIG, "the ] behind the IPv6 address is missing");
        after = stop + 1;
    } else {
        stop = after = find(from, end, ':') ? find(from, end, ':') : end;
    }
    if (from == stop) return FAIL(LORAD_CONFIG, "the host is missing, as in redis://localhost:6379/0");
    TRY(decode(out->host, sizeof out->host, from, stop, "host"));
    out->port = 6379;
    if (after == end) return LORAD_OK;
    if (*after != ':') return FAIL(LORAD_CONFIG, "behind the host comes :port or /database");
    return read_number(&out->port, after + 1, end, 1, 65535, "port");
}

static enum status read_network(struct redis_address *out, struct rest rest)
{
    /* a slash in a password that was not encoded belongs to the password */
    const char *login = find_last(rest.at, rest.end, '@'), *from = login ? login : rest.at;
    const char *slash = find(from, rest.end, '/'), *end = slash ? slash : rest.end;
    if (find(from, rest.end, '?') || find(from, rest.end, '#'))
        return FAIL(LORAD_CONFIG, "behind the host comes :port and /database, no ? and no #");
    TRY(read_login(out, &rest, end));
    TRY(read_host(out, &rest, end));
    if (slash && slash + 1 < rest.end)
        TRY(read_number(&out->database, slash + 1, rest.end, 0, 65535, "database"));
    char brackets = strchr(out->host, ':') ? '[' : '\0';
    snprintf(out->place, sizeof out->place, "%s://%.*s%s%.*s:%d/%d", out->tls ? "rediss" : "redis",
             brackets != 0, "[", out->host, brackets != 0, "]", out->port, out->database);
    return LORAD_OK;
}

static enum status read_setting(struct redis_address *out, const char *from, const char *end)
{
    const char *equals = find(from, end, '=');
    size_t length = equals ? (size_t)(equals - from) : 0;
    if (length == 2 && memcmp(from, "db", 2) == 0)
        return read_number(&out->database, equals + 1, end, 0, 65535, "database");
    if (length == 4 && memcmp(from, "user", 4) == 0)
        return decode(out->user, sizeof out->user, equals + 1, end, "user");
    if (length == 8 && memcmp(from, "password", 8) == 0)
        return decode(out->password, sizeof out->password, equals + 1, end, "password");
    return FAIL(LORAD_CONFIG, "behind ? come db=N, user=NAME and password=WORD, joined by &");
}

static enum status read_socket(struct redis_address *out, struct rest rest)
{
    const char *question = find(rest.at, rest.end, '?'), *end = question ? question : rest.end;
    if (rest.at == end || *rest.at != '/')
        return FAIL(LORAD_CONFIG, "unix:// wants an absolute path: unix:///run/redis.sock");
    TRY(decode(out->path, sizeof out->path, rest.at, end, "path"));
    for (const char *from = question ? question + 1 : rest.end; from < rest.end;) {
        const char *stop = find(from, rest.end, '&') ? find(from, rest.end, '&') : rest.end;
        TRY(read_setting(out, from, stop));
        from = stop + 1;
    }
    snprintf(out->place, sizeof out->place, "unix://%s", out->path);
    return LORAD_OK;
}

static const char *after(const char *text, const char *start)
{
    size_t n = strlen(start);
    return strncmp(text, start, n) == 0 ? text + n : NULL;
}

enum status redis_url_parse(struct redis_address *out, const char *url)
{
    struct redis_address address = {0};
    const char *end = url + strlen(url), *at;
    enum status status;
    if ((at = after(url, "redis://")) || (address.tls = true, at = after(url, "rediss://"))) {
        status = read_network(&address, (struct rest){at, end});
    } else if ((address.tls = false, at = after(url, "unix://"))) {
        status = read_socket(&address, (struct rest){at, end});
    } else {
        status = FAIL(LORAD_CONFIG, "it must begin with redis://, rediss:// or unix://");
    }
    if (status == LORAD_OK && address.tls && !redis_link_has_tls())
        status =
            FAIL(LORAD_CONFIG, "rediss:// (TLS) is not in this build: hiredis here has none (it comes with "
                               "hiredis 1.0); use redis:// or unix://, through a tunnel where needed");
    if (status != LORAD_OK) return status;
    const char *secret = getenv("REDISCLI_AUTH");
    if (!*address.password && secret) {
        if (strlen(secret) >= sizeof address.password)
            return FAIL(LORAD_CONFIG, "REDISCLI_AUTH is longer than %zu bytes", sizeof address.password - 1);
        memcpy(address.password, secret, strlen(secret) + 1);
    }
    if (*address.user && !*address.password)
        return FAIL(LORAD_CONFIG, "there is a user but no password; REDISCLI_AUTH may hold it");
    *out = address;
    return LORAD_OK;
}

/* From the first of what may be a password on, up to what is certainly none. */
void redis_url_mask(char *out, size_t bytes, const char *url)
{
    const char *end = url + strlen(url), *colons = strstr(url, "://");
    const char *from = colons ? colons + 3 : url,
               *at = after(url, "unix://") ? NULL : find_last(from, end, '@');
    const char *colon = at ? find(from, at, ':') : NULL, *setting = strstr(from, "password=");
    if (colon && (!setting || colon < setting))
        snprintf(out, bytes, "%.*s***%s", (int)(colon + 1 - url), url, setting && setting > at ? "" : at);
    else if (setting)
        snprintf(out, bytes, "%.*s***", (int)(setting + 9 - url), url);
    else
        snprintf(out, bytes, "%s", url);
}

enum status redis_prefix_check(const char *prefix)
{
    size_t length = strlen(prefix);
    size_t good = strspn(prefix, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/");
    if (length == 0 || length > 64 || good != length)
        return FAIL(LORAD_CONFIG, "it must be 1 to 64 letters, digits and -_.:/");
    return LORAD_OK;
}
