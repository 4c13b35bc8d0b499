/* One file of training rows, read as every format: whatever the bytes, each row is either whole or has one
 * problem. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "dataloader/sources.h"

static void check_row(const struct parsed_row *row)
{
    size_t bad, assistants = 0;
    if (row->problem != ROW_PROBLEMS) {
        if (row->detail.length == 0) abort();
        return;
    }
    for (size_t i = 0; i < row->n; i++) {
        const struct message *message = &row->messages[i];
        if (!utf8_valid(message->content, message->length, &bad)) abort();
        assistants += message->role == ROLE_ASSISTANT;
    }
    if (assistants == 0 || row->messages[row->n - 1].role != ROLE_ASSISTANT) abort();
}

static void read_as(const struct source_format *format, const char *text, size_t length)
{
    struct source_cursor cursor = {text, text + length, 1};
    struct parsed_row row = {0};
    struct raw_row raw;
    void *context = NULL;
    int64_t line = 0;
    (void)format->detect(text, length);
    if (format->open && format->open(&context, text, length, "fuzz") != LORAD_OK) return;
    while (format->next(context, &cursor, &raw)) {
        if (raw.line <= line || raw.text < text || raw.text + raw.length > text + length) abort();
        line = raw.line;
        if (source_parse_row(format, context, &raw, &row) != LORAD_OK) abort();
        check_row(&row);
    }
    if (format->close) format->close(context);
    parsed_row_free(&row);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    read_as(&source_messages, (const char *)bytes, length);
    read_as(&source_qa_text, (const char *)bytes, length);
    return 0;
}
