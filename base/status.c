#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_BYTES = 4096 };

static _Thread_local char message[MESSAGE_BYTES];
static _Thread_local char origin[256];

enum status status_fail(enum status code, const char *file, int line, const char *format, ...)
{
    /* The arguments may point into the old message, so format beside it first. */
    char text[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(message, text, sizeof message);
    const char *name = strrchr(file, '/');
    snprintf(origin, sizeof origin, "%s:%d", name ? name + 1 : file, line);
    return code;
}

enum status status_context(enum status code, const char *format, ...)
{
    char prefix[MESSAGE_BYTES], text[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    int room = (int)sizeof text - 3;
    snprintf(text, sizeof text, "%.*s: %.*s", room / 2, prefix, room / 2, message);
    memcpy(message, text, sizeof message);
    return code;
}

const char *status_message(void)
{
    return message;
}

const char *status_origin(void)
{
    return origin;
}

void status_clear(void)
{
    message[0] = origin[0] = '\0';
}

static const struct {
    const char *name;
    int exit_code;
} table[] = {
    [LORAD_OK] = {"ok", 0},
    [LORAD_USAGE] = {"usage", 64},
    [LORAD_DATA] = {"data", 65},
    [LORAD_NOT_FOUND] = {"not found", 66},
    [LORAD_BUG] = {"internal", 70},
    [LORAD_NOMEM] = {"out of memory", 70},
    [LORAD_DEVICE] = {"device", 70},
    [LORAD_PEER_LOST] = {"peer lost", 71},
    [LORAD_CANNOT_CREATE] = {"cannot create", 73},
    [LORAD_IO] = {"i/o", 74},
    [LORAD_REQUEUE] = {"requeue", 75},
    [LORAD_FENCED] = {"fenced", 76},
    [LORAD_CONFIG] = {"config", 78},
    [LORAD_NUMERIC] = {"numeric", 79},
    [LORAD_STOPPED] = {"stopped", 80},
};

const char *status_name(enum status code)
{
    return (size_t)code < sizeof table / sizeof *table ? table[code].name : "unknown";
}

int status_exit_code(enum status code)
{
    return (size_t)code < sizeof table / sizeof *table ? table[code].exit_code : 70;
}

void status_abort(const char *file, int line, const char *what)
{
    fprintf(stderr, "lorad: internal error at %s:%d: expected %s\n", file, line, what);
    abort();
}
