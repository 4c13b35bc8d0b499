/*
 * sources_json.c: the rows of a file that holds JSON: a value a line, the elements of one list, or values one
 * after another that are spread over lines.
 *
 * Finding a row only counts brackets outside strings; whether it is JSON is asked when it is parsed.
 *
 * Invariants, for a list:
 * (1) between rows cursor->at is the last character of what stands before: the `[` or an element. It is the
 *     end when nothing follows.
 * (2) the slice of an element begins with neither white space nor `}`, `]` or `,`. Where the list is broken,
 *     one more row is handed out, from the character before that place to the end of its line: it begins with
 *     one of those, and that is how parsing knows it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "dataloader/sources_impl.h"

enum { DETECT_ROWS = 64, DETECT_ROW_BYTES = 4 << 20, DETECT_BYTES = 8 << 20, BROKEN_BYTES = 1024 };

static bool is_json_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* ---- values ---- */

/* Behind the closing quote of the string that begins at `at`; NULL: it has none. */
static const char *string_end(const char *at, const char *end)
{
    const char *begin = at + 1;
    for (at = begin; (at = memchr(at, '"', (size_t)(end - at))); at++) {
        const char *slash = at;
        while (slash > begin && slash[-1] == '\\') slash--;
        if ((at - slash) % 2 == 0) return at + 1;
    }
    return NULL;
}

/* Behind the bracket that closes the one at `at`; NULL: there is none. */
static const char *bracket_end(const char *at, const char *end)
{
    static const signed char step[256] = {['{'] = 1, ['['] = 1, ['}'] = -1, [']'] = -1, ['"'] = 2};
    size_t depth = 0;
    while (at < end) {
        switch (step[(unsigned char)*at]) {
        case 1:
            depth++;
            break;
        case -1:
            if (--depth == 0) return at + 1;
            break;
        case 2:
            if (!(at = string_end(at, end))) return NULL;
            continue;
        }
        at++;
    }
    return NULL;
}

/* Behind an element of a list that is neither an object nor a list: up to the comma, bracket or line end. */
static const char *scalar_end(const char *at, const char *end)
{
    const char *begin = at;
    while (at < end && *at != ',' && *at != ']' && *at != '\n') {
        at = *at == '"' ? string_end(at, end) : at + 1;
        if (!at) return end;
    }
    while (at > begin + 1 && is_json_space(at[-1])) at--;
    return at;
}

/* ---- rows ---- */

static void skip_space(struct source_cursor *cursor)
{
    for (; cursor->at < cursor->end && is_json_space(*cursor->at); cursor->at++)
        cursor->line += *cursor->at == '\n';
}

/* The row [cursor->at, behind), or up to the end of the file when `behind` is NULL. */
static void take(struct source_cursor *cursor, const char *behind, struct raw_row *row)
{
    if (!behind) behind = cursor->end;
    *row = (struct raw_row){cursor->at, (size_t)(behind - cursor->at), cursor->line};
    cursor->line += source_count_lines(cursor->at, behind);
    cursor->at = behind;
}

static bool next_line(struct source_cursor *cursor, struct raw_row *row)
{
    do {
        row->line = cursor->line;
        if (!source_line(cursor, &row->text, &row->length)) return false;
    } while (row->length < 4096 && source_is_blank(row->text, row->length));
    return true;
}

static bool next_of_stream(struct source_cursor *cursor, struct raw_row *row)
{
    skip_space(cursor);
    if (cursor->at == cursor->end) return false;
    if (*cursor->at != '{' && *cursor->at != '[') return next_line(cursor, row);
    take(cursor, bracket_end(cursor->at, cursor->end), row);
    return true;
}

/* The list is broken at cursor->at: the row is that line from there on, or the start of it. */
static bool broken(struct source_cursor *cursor, struct raw_row *row)
{
    const char *begin = cursor->at - 1, *end = cursor->end;
    if (end - begin > BROKEN_BYTES)
        for (end = begin + BROKEN_BYTES; (*end & 0xC0) == 0x80 && end > begin + 1; end--) continue;
    const char *line_end = memchr(cursor->at, '\n', (size_t)(end - cursor->at));
    if (line_end) end = line_end;
    *row = (struct raw_row){begin, (size_t)(end - begin), cursor->line};
    cursor->at = cursor->end;
    return true;
}

static bool next_of_array(const struct json_rows *rows, struct source_cursor *cursor, struct raw_row *row)
{
    bool first = cursor->at == rows->begin;
    if (cursor->at == cursor->end) return false;
    if (first) skip_space(cursor); /* to the bracket */
    if (cursor->at == cursor->end) return false;
    cursor->at++;
    skip_space(cursor);
    if (cursor->at == cursor->end) return broken(cursor, row);
    if (*cursor->at == ']') {
        cursor->at++;
        skip_space(cursor);
        return cursor->at < cursor->end ? broken(cursor, row) : false;
    }
    if (!first) {
        if (*cursor->at != ',') return broken(cursor, row);
        cursor->at++;
        skip_space(cursor);
        if (cursor->at == cursor->end) return broken(cursor, row);
    }
    if (memchr(",]}", *cursor->at, 3)) return broken(cursor, row);
    bool nested = *cursor->at == '{' || *cursor->at == '[';
    const char *behind = nested ? bracket_end(cursor->at, cursor->end) : scalar_end(cursor->at, cursor->end);
    take(cursor, behind, row);
    if (behind && (nested || behind < cursor->end)) cursor->at--; /* (1) */
    return true;
}

bool json_rows_next(const void *context, struct source_cursor *cursor, struct raw_row *row)
{
    const struct json_rows *rows = context;
    switch (rows ? rows->container : JSON_LINES) {
    case JSON_ARRAY:
        return next_of_array(rows, cursor, row);
    case JSON_STREAM:
        return next_of_stream(cursor, row);
    case JSON_LINES:
        break;
    }
    return next_line(cursor, row);
}

/* ---- parsing ---- */

static void reject_outside(const struct raw_row *row, struct parsed_row *out)
{
    char snippet[SNIPPET_BYTES];
    const char *at = row->text + 1, *end = row->text + row->length;
    while (at < end && is_json_space(*at)) at++;
    if (at == end)
        parsed_row_reject(out, ROW_OUTSIDE, "the file ends here, but its list is not closed with \"]\"");
    else
        parsed_row_reject(out, ROW_OUTSIDE,
                          "the list is broken: a comma or bracket is missing or too much before \"%s\"; "
                          "nothing is read from here on",
                          source_snippet(snippet, at, (size_t)(end - at)));
}

/* ": line 1, column 9: not valid JSON: ..." with the file's line; in a row of one line only the column says
 * something. */
static void reject_json(const struct raw_row *row, struct parsed_row *out)
{
    const char *place = strstr(status_message(), "line ");
    char *behind = NULL;
    long line = place ? strtol(place + 5, &behind, 10) : 0;
    const char *column = place ? strstr(place, "column") : NULL;
    if (!column)
        parsed_row_reject(out, ROW_BAD_JSON, "%s", status_message());
    else if (line > 1)
        parsed_row_reject(out, ROW_BAD_JSON, "line %lld, %s", (long long)row->line + line - 1, column);
    else
        parsed_row_reject(out, ROW_BAD_JSON, "%s", column);
    status_clear();
}

void json_rows_parse(const struct json_rows *rows, const struct raw_row *row, struct parsed_row *out)
{
    if (rows && rows->container == JSON_ARRAY && row->length > 0 &&
        (is_json_space(*row->text) || memchr("}],", *row->text, 3)))
        reject_outside(row, out);
    else if (js_parse(&out->document, row->text, row->length, "") != LORAD_OK)
        reject_json(row, out);
    else if (js_type(out->document) != JS_OBJECT)
        parsed_row_reject(out, ROW_NO_MESSAGES, "the row is %s, not an object",
                          js_type_name(js_type(out->document)));
}

const char *json_row_text(const struct json *row, const char *name, size_t *length, struct parsed_row *out)
{
    const struct json *value = js_get(row, name);
    if (!value || js_type(value) == JS_NULL) return NULL;
    const char *text = js_string(value, length);
    if (!text)
        parsed_row_reject(out, ROW_BAD_FIELD, "\"%.40s\" is %s, not a string", name,
                          js_type_name(js_type(value)));
    return text;
}

/* ---- files ---- */

static const char *first_character(const struct source_input *input)
{
    const char *at = input->text, *end = at + input->length;
    while (at < end && is_json_space(*at)) at++;
    return at < end && (*at == '{' || *at == '[') ? at : NULL;
}

static bool is_json(const char *text, size_t length)
{
    struct json *document = NULL;
    if (js_parse(&document, text, length, "") != LORAD_OK) {
        status_clear();
        return false;
    }
    js_destroy(document);
    return true;
}

static enum json_container find_container(const struct source_input *input, const char *first)
{
    if (*first == '[') return JSON_ARRAY;
    size_t left = (size_t)(input->text + input->length - first);
    if (left > SOURCE_ROW_BYTES) left = SOURCE_ROW_BYTES;
    struct source_cursor cursor = {first, first + left, 1};
    const char *line;
    size_t length;
    if (!source_line(&cursor, &line, &length) || is_json(line, length)) return JSON_LINES;
    const char *behind = bracket_end(first, first + left);
    return behind && behind > line + length && is_json(first, (size_t)(behind - first)) ? JSON_STREAM
                                                                                        : JSON_LINES;
}

static struct json_rows rows_of(const struct source_input *input)
{
    const char *first = first_character(input);
    return (struct json_rows){.container = first ? find_container(input, first) : JSON_LINES,
                              .begin = input->text,
                              .source = input->source};
}

enum status json_rows_open(void **context, const struct source_input *input)
{
    struct json_rows *rows = memory_new(1, sizeof *rows);
    if (!rows) return LORAD_NOMEM;
    *rows = rows_of(input);
    *context = rows;
    return LORAD_OK;
}

/* The first rows that are JSON; NULL behind the last one. */
static struct json *next_document(const struct json_rows *rows, struct source_cursor *cursor, int *seen)
{
    struct raw_row row;
    while (*seen < DETECT_ROWS && cursor->at - rows->begin < DETECT_BYTES &&
           json_rows_next(rows, cursor, &row)) {
        struct json *document = NULL;
        ++*seen;
        if (row.length > DETECT_ROW_BYTES) continue;
        if (js_parse(&document, row.text, row.length, "") == LORAD_OK) return document;
        status_clear();
    }
    return NULL;
}

bool json_rows_detect(const struct source_input *input,
                      bool (*fits)(const struct json *row, const struct dataset_source *source))
{
    if (!first_character(input)) return false;
    struct json_rows rows = rows_of(input);
    struct source_cursor cursor = {input->text, input->text + input->length, 1};
    struct json *document;
    bool found = false;
    for (int seen = 0; !found && (document = next_document(&rows, &cursor, &seen)); js_destroy(document))
        found = js_type(document) == JS_OBJECT && fits(document, input->source);
    return found;
}

bool json_rows_none(const struct source_input *input)
{
    const char *first = first_character(input);
    struct json_rows rows = {.container = JSON_ARRAY, .begin = input->text, .source = input->source};
    struct source_cursor cursor = {input->text, input->text + input->length, 1};
    struct raw_row row;
    return first && *first == '[' && !json_rows_next(&rows, &cursor, &row);
}

bool json_rows_describe(struct strbuf *out, const struct source_input *input)
{
    if (!first_character(input)) return false;
    struct json_rows rows = rows_of(input);
    struct source_cursor cursor = {input->text, input->text + input->length, 1};
    int seen = 0;
    struct json *document = next_document(&rows, &cursor, &seen);
    if (!document) {
        strbuf_puts(out, "none of its first rows is valid JSON");
        return true;
    }
    if (js_type(document) != JS_OBJECT)
        strbuf_printf(out, "its first row is %s, not an object", js_type_name(js_type(document)));
    else
        strbuf_puts(out, "its first row has");
    int n = 0;
    for (void *at = js_type(document) == JS_OBJECT ? js_first(document) : NULL; at && n < 12;
         at = js_next(document, at), n++)
        strbuf_printf(out, "%s \"%.40s\"%s", n > 0 ? "," : "", js_key(at),
                      js_type(js_member(at)) == JS_ARRAY    ? " (a list)"
                      : js_type(js_member(at)) == JS_OBJECT ? " (an object)"
                                                            : "");
    js_destroy(document);
    return true;
}
