/*
 * sources_text.c: documents to be learnt whole (continued pretraining), without a template: JSON rows
 * {"text": ...} (`columns.text` gives another name), or plain text, which is read so only when `format: text`
 * says it.
 *
 * A plain file is one document, or several with a line between them that holds a form feed or <|endoftext|>.
 * A document is cut at the first blank line behind each MiB, so that no row is too large to be worked on.
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "dataloader/sources_impl.h"

enum { PART_BYTES = 1 << 20 };

struct documents {
    struct json_rows rows;
    bool json;
};

static const char *name_of(const struct dataset_source *source)
{
    return source->columns.text ? source->columns.text : "text";
}

static bool fits(const struct json *row, const struct dataset_source *source)
{
    return js_string(js_get(row, name_of(source)), NULL);
}

/* Whatever is called JSON has to be it. */
static bool is_json(const struct source_input *input)
{
    return source_path_ends(input->path, ".json") || source_path_ends(input->path, ".jsonl") ||
           source_path_ends(input->path, ".ndjson");
}

static bool detect(const struct source_input *input)
{
    if (json_rows_detect(input, fits)) return true;
    return input->forced && !is_json(input);
}

static enum status open_documents(void **context, const struct source_input *input)
{
    struct documents *documents = memory_new(1, sizeof *documents);
    void *rows = NULL;
    enum status status = documents ? json_rows_open(&rows, input) : LORAD_NOMEM;
    if (status != LORAD_OK) {
        free(documents);
        return status;
    }
    documents->rows = *(struct json_rows *)rows;
    documents->json = is_json(input) || json_rows_detect(input, fits);
    free(rows);
    *context = documents;
    return LORAD_OK;
}

static bool is_border(const char *line, size_t length)
{
    return (length == 1 && *line == '\f') || (length == 13 && memcmp(line, "<|endoftext|>", 13) == 0);
}

static bool next_document(struct source_cursor *cursor, struct raw_row *row)
{
    const char *line, *end = NULL;
    size_t length;
    for (;;) {
        struct source_cursor before = *cursor;
        if (!source_line(cursor, &line, &length)) break;
        bool blank = length < 4096 && source_is_blank(line, length);
        if (is_border(line, length) || (blank && end && end - row->text >= PART_BYTES)) {
            if (end) break;
            continue;
        }
        if (blank) continue;
        if (!end) {
            row->text = line;
            row->line = before.line;
        }
        end = line + length;
    }
    if (!end) return false;
    row->length = (size_t)(end - row->text);
    return true;
}

static bool next(const void *context, struct source_cursor *cursor, struct raw_row *row)
{
    const struct documents *documents = context;
    return documents->json ? json_rows_next(&documents->rows, cursor, row) : next_document(cursor, row);
}

/* With line ends LF. */
static enum status parse_plain(const struct raw_row *row, struct parsed_row *out)
{
    struct source_cursor cursor = {row->text, row->text + row->length, row->line};
    const char *line;
    size_t length;
    if (memchr(row->text, '\0', row->length)) {
        parsed_row_reject(out, ROW_BAD_UTF8, "a NUL byte in the text");
        return LORAD_OK;
    }
    if (!memchr(row->text, '\r', row->length))
        return parsed_row_add(out, ROLE_ASSISTANT, row->text, row->length);
    while (source_line(&cursor, &line, &length)) {
        if (line != row->text) strbuf_putc(&out->text, '\n');
        strbuf_add(&out->text, line, length);
    }
    return parsed_row_add(out, ROLE_ASSISTANT, NULL, out->text.length);
}

static enum status parse(const void *context, const struct raw_row *row, struct parsed_row *out)
{
    const struct documents *documents = context;
    out->is_text = true;
    if (!documents->json) return parse_plain(row, out);
    json_rows_parse(&documents->rows, row, out);
    if (out->problem != ROW_PROBLEMS) return LORAD_OK;
    size_t length = 0;
    const char *name = name_of(documents->rows.source),
               *text = json_row_text(out->document, name, &length, out);
    if (text) return parsed_row_add(out, ROLE_ASSISTANT, text, length);
    if (out->problem == ROW_PROBLEMS) parsed_row_reject(out, ROW_BAD_FIELD, "there is no \"%.40s\"", name);
    return LORAD_OK;
}

const struct source_format source_text = {
    .name = "text",
    .expects = "JSON rows {\"text\": ...}, or plain text when format: text asks for it",
    .detect = detect,
    .open = open_documents,
    .close = free,
    .next = next,
    .parse = parse,
};
