/*
 * sources.h: one file of training rows read as one format: whatever the bytes, rows are slices in order, and
 * each is either whole or has one problem with its reason. The first byte of the input chooses how the entry
 * of the configuration is written.
 */
#ifndef LORAD_TESTS_FUZZ_SOURCES_H
#define LORAD_TESTS_FUZZ_SOURCES_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "dataloader/sources.h"

static void check_row(const struct parsed_row *row)
{
    size_t bad, assistants = 0;
    if (row->problem != ROW_PROBLEMS) {
        if (row->detail.length == 0 || !utf8_valid(row->detail.data, row->detail.length, &bad)) abort();
        return;
    }
    for (size_t i = 0; i < row->n; i++) {
        const struct message *message = &row->messages[i];
        if (!utf8_valid(message->content, message->length, &bad) || !(message->weight >= 0)) abort();
        assistants += message->role == ROLE_ASSISTANT;
    }
    if (assistants == 0 || row->messages[row->n - 1].role != ROLE_ASSISTANT) abort();
}

static void read_rows(const struct source_format *format, void *context, const char *text, size_t length)
{
    struct source_cursor cursor = {text, text + length, 1};
    struct parsed_row row = {0};
    struct raw_row raw;
    const char *end = text;
    int64_t line = 1;
    while (format->next(context, &cursor, &raw)) {
        if (raw.line < line || raw.text + 1 < end || raw.text < text || raw.text + raw.length > text + length)
            abort();
        end = raw.text + raw.length;
        line = raw.line;
        if (source_parse_row(format, context, &raw, &row) != LORAD_OK) abort();
        check_row(&row);
    }
    parsed_row_free(&row);
}

static int fuzz_source(const struct source_format *format, const uint8_t *bytes, size_t length)
{
    const struct dataset_source sources[] = {
        {.path = "a"},
        {.path = "a",
         .columns = {.prompt = "QUES", .query = "input", .response = "ANS", .system = "S"},
         .tags = {.role_tag = "from", .content_tag = "value", .user_tag = "u", .assistant_tag = "a"}},
        {.path = "a",
         .columns = {.messages = "m", .text = "body", .history = "h"},
         .tags = {.system_tag = "s"}},
        {.path = "a.csv"},
    };
    if (length == 0) return 0;
    const struct dataset_source *source = &sources[(*bytes >> 1) % 4];
    char *text = malloc(length > 1 ? length - 1 : 1); /* exactly, so that a read behind the end is seen */
    if (!text) abort();
    memcpy(text, bytes + 1, length - 1);
    const struct source_input input = {text, length - 1, source->path, source, *bytes & 1};
    void *context = NULL;
    bool fits = format->detect(&input);
    if (format->open(&context, &input) == LORAD_OK) {
        read_rows(format, context, text, length - 1);
        format->close(context);
    } else if (fits && format != &source_csv && format != &source_tsv) {
        abort();
    }
    free(text);
    return 0;
}

#endif
