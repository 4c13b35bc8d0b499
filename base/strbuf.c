#include "base/strbuf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

void strbuf_free(struct strbuf *buffer)
{
    if (!buffer) return;
    free(buffer->data);
    *buffer = (struct strbuf)STRBUF_EMPTY;
}

void strbuf_clear(struct strbuf *buffer)
{
    buffer->length = 0;
    buffer->failed = false;
    if (buffer->data) buffer->data[0] = '\0';
}

static bool reserve(struct strbuf *buffer, size_t more)
{
    void *block = buffer->data;
    size_t need;
    if (buffer->failed || __builtin_add_overflow(buffer->length, more, &need) || need + 1 == 0 ||
        memory_grow(&block, &buffer->capacity, need + 1, 1) != LORAD_OK) {
        buffer->failed = true;
        return false;
    }
    buffer->data = block;
    return true;
}

void strbuf_add(struct strbuf *buffer, const void *bytes, size_t length)
{
    if (!reserve(buffer, length)) return;
    if (length) memcpy(buffer->data + buffer->length, bytes, length);
    buffer->length += length;
    buffer->data[buffer->length] = '\0';
}

void strbuf_puts(struct strbuf *buffer, const char *text)
{
    strbuf_add(buffer, text, strlen(text));
}

/* U+0080 to U+009F, which terminals obey like the escapes that they abbreviate. */
static bool is_c1(const unsigned char *text)
{
    return text[0] == 0xc2 && text[1] >= 0x80 && text[1] <= 0x9f;
}

void strbuf_putc(struct strbuf *buffer, char c)
{
    strbuf_add(buffer, &c, 1);
}

void strbuf_put_shown(struct strbuf *buffer, const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    while (*at) {
        size_t plain = 0;
        while (at[plain] >= ' ' && at[plain] != 0x7f && !is_c1(at + plain)) plain++;
        strbuf_add(buffer, at, plain);
        at += plain;
        if (!*at) break;
        strbuf_putc(buffer, '?');
        at += is_c1(at) ? 2 : 1;
    }
}

void strbuf_printf(struct strbuf *buffer, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !reserve(buffer, (size_t)n)) return;
    va_start(args, format);
    vsnprintf(buffer->data + buffer->length, (size_t)n + 1, format, args);
    va_end(args);
    buffer->length += (size_t)n;
}

const char *strbuf_text(const struct strbuf *buffer)
{
    return buffer->data ? buffer->data : "";
}

enum status strbuf_status(const struct strbuf *buffer)
{
    return buffer->failed
               ? FAIL(LORAD_NOMEM, "out of memory while building a text of %zu bytes", buffer->length)
               : LORAD_OK;
}
