#include "support/token_checks.h"

#include "support/test.h"

void expect_ids(const struct token_list *got, const struct json *expected, const char *where, long row)
{
    bool same = got->length == js_length(expected);
    for (size_t i = 0; same && i < got->length; i++) same = got->ids[i] == js_int(js_at(expected, i), -1);
    if (same) return;
    struct strbuf text = STRBUF_EMPTY;
    for (size_t i = 0; i < got->length; i++) strbuf_printf(&text, "%d ", got->ids[i]);
    strbuf_puts(&text, "expected ");
    js_write_value(&text, expected);
    fail_msg("%s:%ld: got %s", where, row, strbuf_text(&text));
}

void expect_spans(const struct token_list *list, size_t length, const char *where, long row)
{
    uint32_t before = 0;
    for (size_t i = 0; i < list->length; i++) {
        if (list->start[i] > list->end[i] || list->end[i] > length || list->start[i] < before)
            fail_msg("%s:%ld: token %zu has the span %u..%u of %zu", where, row, i, list->start[i],
                     list->end[i], length);
        before = list->start[i];
    }
}
