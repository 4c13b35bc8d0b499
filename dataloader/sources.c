/*
 * sources.c: the table of formats, what every row must be whatever its format, and the reader of one file.
 *
 * Invariants:
 * (1) a reader's text is read-only and lives until source_reader_close, and raw rows point into it.
 * (2) a row whose parsed_row has no problem is [system] user assistant ... user assistant, valid UTF-8, no
 *     answer blank; or one document (is_text) that is not blank.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/sources_impl.h"

/* In the order in which `auto` asks them. */
static const struct source_format *const formats[] = {
    &source_messages, &source_sharegpt, &source_alpaca,  &source_text,
    &source_tsv,      &source_csv,      &source_qa_text,
};
enum { FORMATS = sizeof formats / sizeof *formats };

const struct source_format *source_format_find(const char *name)
{
    for (int i = 0; i < FORMATS; i++)
        if (strcmp(formats[i]->name, name) == 0) return formats[i];
    return NULL;
}

void source_format_names(struct strbuf *out)
{
    for (int i = 0; i < FORMATS; i++) strbuf_printf(out, "%s%s", i > 0 ? ", " : "", formats[i]->name);
}

const char *row_problem_name(enum row_problem problem)
{
    static const char *const names[ROW_PROBLEMS] = {
        [ROW_BAD_JSON] = "bad JSON",
        [ROW_BAD_UTF8] = "invalid UTF-8",
        [ROW_NO_MESSAGES] = "no messages",
        [ROW_BAD_ROLE] = "unknown role",
        [ROW_ROLE_ORDER] = "roles out of order",
        [ROW_NO_ASSISTANT] = "no assistant",
        [ROW_EMPTY_ANSWER] = "empty answer",
        [ROW_TOO_LONG] = "too long",
        [ROW_TRUNCATED] = "truncated",
        [ROW_NO_LABEL] = "no label left",
        [ROW_HUGE_LINE] = "more than 64 MiB of text",
        [ROW_BAD_FIELD] = "missing or wrong field",
        [ROW_BAD_CSV] = "bad CSV",
        [ROW_OUTSIDE] = "text outside rows",
        [ROW_SKIPPED] = "skipped by metadata",
        [ROW_MANY_WEIGHTS] = "too many loss weights",
        [ROW_PRIVATE] = "personal data",
    };
    return problem >= 0 && problem < ROW_PROBLEMS ? names[problem] : "no problem";
}

/* ---- parsed rows ---- */

void parsed_row_free(struct parsed_row *row)
{
    js_destroy(row->document);
    strbuf_free(&row->text);
    strbuf_free(&row->detail);
    free(row->messages);
    *row = (struct parsed_row){0};
}

static void clear(struct parsed_row *row)
{
    js_destroy(row->document);
    row->document = NULL;
    strbuf_clear(&row->text);
    strbuf_clear(&row->detail);
    row->n = 0;
    row->is_text = false;
    row->problem = ROW_PROBLEMS;
}

enum status parsed_row_add(struct parsed_row *row, enum message_role role, const char *content, size_t length)
{
    void *block = row->messages;
    TRY(memory_grow(&block, &row->capacity, row->n + 1, sizeof *row->messages));
    row->messages = block;
    row->messages[row->n++] =
        (struct message){.role = role, .content = content, .length = length, .weight = 1.0f};
    return LORAD_OK;
}

enum status parsed_row_put_system(struct parsed_row *row, const char *text, size_t length)
{
    if (row->n == 0 || row->messages[0].role == ROLE_SYSTEM) return LORAD_OK;
    TRY(parsed_row_add(row, ROLE_SYSTEM, text, length));
    struct message system = row->messages[row->n - 1];
    memmove(row->messages + 1, row->messages, (row->n - 1) * sizeof *row->messages);
    row->messages[0] = system;
    return LORAD_OK;
}

/* Gives the messages that own a part of the text that part. */
static enum status place_contents(struct parsed_row *row)
{
    TRY(strbuf_status(&row->text));
    const char *at = strbuf_text(&row->text);
    for (size_t i = 0; i < row->n; i++) {
        struct message *message = &row->messages[i];
        if (message->content) continue;
        message->content = at;
        at += message->length;
    }
    return LORAD_OK;
}

void parsed_row_reject(struct parsed_row *row, enum row_problem problem, const char *format, ...)
{
    char text[300];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    row->problem = problem;
    strbuf_clear(&row->detail);
    utf8_add_lossy(&row->detail, text, strlen(text)); /* what was cut may have been cut inside a character */
}

/* [system] user assistant ... user assistant */
static void check_conversation(struct parsed_row *row)
{
    size_t assistants = 0;
    for (size_t i = 0; i < row->n; i++) assistants += row->messages[i].role == ROLE_ASSISTANT;
    if (assistants == 0) {
        parsed_row_reject(row, ROW_NO_ASSISTANT, "%zu messages", row->n);
        return;
    }
    size_t first = row->messages[0].role == ROLE_SYSTEM;
    for (size_t i = first; i < row->n; i++) {
        enum message_role expected = (i - first) % 2 == 0 ? ROLE_USER : ROLE_ASSISTANT;
        if (row->messages[i].role == expected) continue;
        parsed_row_reject(row, ROW_ROLE_ORDER, "message %zu should be the %s's", i + 1,
                          expected == ROLE_USER ? "user" : "assistant");
        return;
    }
    if (row->messages[row->n - 1].role != ROLE_ASSISTANT) {
        parsed_row_reject(row, ROW_ROLE_ORDER, "the last message is not the assistant's");
        return;
    }
    for (size_t i = 0; i < row->n; i++) {
        const struct message *message = &row->messages[i];
        if (message->role != ROLE_ASSISTANT || !source_is_blank(message->content, message->length)) continue;
        parsed_row_reject(row, ROW_EMPTY_ANSWER, "message %zu", i + 1);
        return;
    }
}

static void check_text(struct parsed_row *row)
{
    if (row->n == 0 || source_is_blank(row->messages[0].content, row->messages[0].length))
        parsed_row_reject(row, ROW_EMPTY_ANSWER, "the text is empty");
}

enum status source_parse_row(const struct source_format *format, const void *context,
                             const struct raw_row *row, struct parsed_row *out)
{
    clear(out);
    size_t bad_byte;
    if (row->length > SOURCE_ROW_BYTES) {
        parsed_row_reject(out, ROW_HUGE_LINE, "%zu bytes", row->length);
        return strbuf_status(&out->detail);
    }
    if (!utf8_valid(row->text, row->length, &bad_byte)) {
        parsed_row_reject(out, ROW_BAD_UTF8, "byte 0x%02x at byte %zu of the row",
                          (unsigned char)row->text[bad_byte], bad_byte + 1);
        return strbuf_status(&out->detail);
    }
    TRY(format->parse(context, row, out));
    TRY(place_contents(out));
    if (out->problem == ROW_PROBLEMS) {
        if (out->is_text)
            check_text(out);
        else
            check_conversation(out);
    }
    return strbuf_status(&out->detail);
}

/* ---- readers ---- */

struct source_reader {
    const struct source_file *file;
    const struct source_format *format;
    void *context;
    struct source_map map;
    struct source_cursor cursor;
    struct source_metadata *metadata; /* NULL: none */
    size_t *offset;                   /* of every row, when there is metadata */
    size_t n_offsets, offset_capacity;
};

/* How the file begins: "its first row has ...", "its first line is: ...". */
static void describe(struct strbuf *out, const struct source_input *input)
{
    char snippet[SNIPPET_BYTES];
    struct source_cursor cursor = {input->text, input->text + input->length, 1};
    const char *line = input->text;
    size_t length = 0, bad, looked_at = input->length < 1 << 16 ? input->length : 1 << 16;
    if (!json_rows_describe(out, input)) {
        while (source_line(&cursor, &line, &length) && source_is_blank(line, length)) continue;
        strbuf_printf(out, "its first line is: %s", source_snippet(snippet, line, length));
    }
    /* What was cut at the end of the look may be half a character. */
    if (!utf8_valid(input->text, looked_at, &bad) && (looked_at == input->length || bad + 4 <= looked_at))
        strbuf_puts(out, " (not UTF-8; if it is GBK, convert it: iconv -f GB18030 -t UTF-8 OLD > NEW)");
}

static enum status cannot_tell(const struct source_input *input)
{
    struct strbuf text = STRBUF_EMPTY;
    describe(&text, input);
    strbuf_puts(&text, "\nThe formats are");
    for (int i = 0; i < FORMATS; i++)
        strbuf_printf(&text, "\n    %-8s  %s", formats[i]->name, formats[i]->expects);
    const struct source_columns *c = &input->source->columns;
    if (source_fields_mapped(input->source) || c->messages || c->text)
        strbuf_puts(&text, "\nwith the names that columns: gives, and none of these fits");
    else
        strbuf_puts(&text, "\nOther names than these are given with columns: (see docs/data.md)");
    enum status status = FAIL(LORAD_DATA, "%s: cannot tell its format: %s", input->path, strbuf_text(&text));
    strbuf_free(&text);
    return status;
}

static enum status not_in_format(const struct source_input *input, const struct source_format *wanted)
{
    struct strbuf text = STRBUF_EMPTY;
    struct source_input free_input = *input;
    free_input.forced = false;
    describe(&text, input);
    for (int i = 0; i < FORMATS; i++) {
        if (!formats[i]->detect(&free_input)) continue;
        strbuf_printf(&text, "\nIt looks like format: %s", formats[i]->name);
        break;
    }
    enum status status = FAIL(LORAD_DATA, "%s: this is not in the format %s (%s); %s", input->path,
                              wanted->name, wanted->expects, strbuf_text(&text));
    strbuf_free(&text);
    return status;
}

static enum status find_format(struct source_reader *reader)
{
    const struct source_input input = {
        .text = reader->map.text,
        .length = (size_t)(reader->map.end - reader->map.text),
        .path = reader->file->path,
        .source = reader->file->origin,
        .forced = reader->file->format,
    };
    bool blank = source_is_blank(input.text, input.length < 1 << 20 ? input.length : 1 << 20) ||
                 json_rows_none(&input);
    reader->format = reader->file->format;
    if (reader->format && !blank && !reader->format->detect(&input))
        return not_in_format(&input, reader->format);
    for (int i = 0; !reader->format && i < FORMATS; i++)
        if (formats[i]->detect(&input)) reader->format = formats[i];
    if (!reader->format && blank) reader->format = formats[0];
    if (!reader->format) return cannot_tell(&input);
    return reader->format->open ? reader->format->open(&reader->context, &input) : LORAD_OK;
}

/* Where every row begins, so that a row is known by its place, and the metadata of all. */
static enum status open_metadata(struct source_reader *reader)
{
    const char *path = reader->file->origin->metadata_path;
    struct raw_row row;
    if (!path) return LORAD_OK;
    source_reader_rewind(reader);
    while (source_reader_next(reader, &row)) {
        void *block = reader->offset;
        TRY(memory_grow(&block, &reader->offset_capacity, reader->n_offsets + 1, sizeof *reader->offset));
        reader->offset = block;
        reader->offset[reader->n_offsets++] = (size_t)(row.text - reader->map.text);
    }
    return source_metadata_open(&reader->metadata, path, reader->file->path, (int64_t)reader->n_offsets);
}

enum status source_reader_open(struct source_reader **out, const struct source_file *file)
{
    struct source_reader *reader = memory_new(1, sizeof *reader);
    if (!reader) return LORAD_NOMEM;
    reader->file = file;
    enum status status = source_map_open(&reader->map, file);
    if (status == LORAD_OK) status = find_format(reader);
    if (status == LORAD_OK) status = open_metadata(reader);
    if (status != LORAD_OK) {
        source_reader_close(reader);
        return status;
    }
    source_reader_rewind(reader);
    *out = reader;
    return LORAD_OK;
}

void source_reader_close(struct source_reader *reader)
{
    if (!reader) return;
    if (reader->context) reader->format->close(reader->context);
    source_metadata_close(reader->metadata);
    source_map_close(&reader->map);
    free(reader->offset);
    free(reader);
}

const char *source_reader_format(const struct source_reader *reader)
{
    return reader->format->name;
}

const char *source_reader_text(const struct source_reader *reader, size_t *length)
{
    if (length) *length = (size_t)(reader->map.end - reader->map.text);
    return reader->map.text;
}

/* Smaller files stay as the machine has them. */
static const size_t large_file = (size_t)64 << 20;

void source_reader_random(const struct source_reader *reader)
{
    if (reader->map.map_bytes >= large_file) madvise(reader->map.map, reader->map.map_bytes, MADV_RANDOM);
}

void source_reader_will_need(const struct source_reader *reader, const struct raw_row *row)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)row->text / page * page;
    if (reader->map.map_bytes >= large_file)
        madvise((void *)begin, (uintptr_t)row->text + row->length - begin, MADV_WILLNEED);
}

void source_reader_release(const struct source_reader *reader)
{
    if (reader->map.map_bytes >= large_file) madvise(reader->map.map, reader->map.map_bytes, MADV_DONTNEED);
}

void source_reader_rewind(struct source_reader *reader)
{
    reader->cursor = (struct source_cursor){reader->map.text, reader->map.end, 1};
}

bool source_reader_next(struct source_reader *reader, struct raw_row *row)
{
    return reader->format->next(reader->context, &reader->cursor, row);
}

/* The number of the row among those of the file. */
static bool row_number(int64_t *out, const struct source_reader *reader, const struct raw_row *row)
{
    size_t offset = (size_t)(row->text - reader->map.text), low = 0, high = reader->n_offsets;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (reader->offset[middle] < offset)
            low = middle + 1;
        else
            high = middle;
    }
    *out = (int64_t)low;
    return low < reader->n_offsets && reader->offset[low] == offset;
}

enum status source_reader_parse(const struct source_reader *reader, const struct raw_row *row,
                                struct parsed_row *out)
{
    const char *system = reader->file->origin->system;
    int64_t number;
    TRY(source_parse_row(reader->format, reader->context, row, out));
    if (reader->metadata) {
        if (!row_number(&number, reader, row))
            return FAIL(LORAD_BUG, "%s:%lld: no row begins here", reader->file->path, (long long)row->line);
        TRY(source_metadata_apply(reader->metadata, number, out));
    }
    if (system && out->problem == ROW_PROBLEMS && !out->is_text)
        return parsed_row_put_system(out, system, strlen(system));
    return LORAD_OK;
}
