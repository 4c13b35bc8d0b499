#include "trainer/run_event.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"

void run_event_begin(struct strbuf *out, const char *event, int64_t step)
{
    char now[21];
    clock_utc(now);
    strbuf_printf(out, "{\"time\":\"%s\",\"event\":\"%s\",\"step\":%lld", now, event, (long long)step);
}

void run_event_end(struct strbuf *out, const char *format, ...)
{
    char words[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    strbuf_puts(out, ",\"text\":");
    js_write_string(out, words, strlen(words));
    strbuf_putc(out, '}');
}

void run_event_tell(struct strbuf *event, struct coord *coord)
{
    if (!event->failed) coord_tell(coord, COORD_EVENTS, strbuf_text(event));
    strbuf_free(event);
}
