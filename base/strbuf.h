/*
 * strbuf.h: a growing byte string.
 *
 * Invariants: data[length] == '\0' whenever data != NULL; a failed append leaves the old contents and sets `failed`,
 * which every later append keeps, so a writer may check once at the end (strbuf_status).
 */
#ifndef LORAD_BASE_STRBUF_H
#define LORAD_BASE_STRBUF_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

struct strbuf {
    char *data;
    size_t length, capacity;
    bool failed;
};

#define STRBUF_EMPTY {NULL, 0, 0, false}

void strbuf_free(struct strbuf *buffer); /* empties it; NULL ok */
void strbuf_clear(struct strbuf *buffer); /* length 0, memory kept */
void strbuf_add(struct strbuf *buffer, const void *bytes, size_t length);
void strbuf_puts(struct strbuf *buffer, const char *text);
void strbuf_putc(struct strbuf *buffer, char c);
/* Text of others, for terminals: a ? stands for each control character, those of UTF-8 beyond ASCII too. */
void strbuf_put_shown(struct strbuf *buffer, const char *text);
void strbuf_printf(struct strbuf *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The contents as a C string, "" when empty. Borrowed until the next append. */
const char *strbuf_text(const struct strbuf *buffer);

/* LORAD_NOMEM when any append failed. */
enum status strbuf_status(const struct strbuf *buffer) LORAD_WARN_UNUSED;

#endif
