/*
 * sources_csv.c: comma, semicolon or tab separated cells as RFC 4180 has them, with a header line that names
 * the columns: quoted cells, in them doubled quotes and line ends.
 *
 * A quote begins a quoted cell only at the cell's start. The columns are found by the names of
 * sources_alpaca.c (whatever their case), or as `columns` says.
 *
 * Invariant: cells are cut in one place (csv_cell), so that the boundary scan and the parsing of a row agree.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/sources_impl.h"

enum { NO_COLUMN = -1, COLUMN_NAME_BYTES = 64 };

struct csv {
    const char *begin; /* of the file's text: the header stands there */
    char delimiter;
    int32_t n_cells; /* of every row */
    int32_t column[SOURCE_FIELDS];
    char name[SOURCE_FIELDS][COLUMN_NAME_BYTES];
};

/* ---- cells ---- */

struct csv_cell csv_cell(const char *at, const char *end, char delimiter)
{
    struct csv_cell cell = {.begin = at};
    if (at < end && *at == '"') {
        for (at++;; at++) {
            at = memchr(at, '"', (size_t)(end - at));
            if (!at) return (struct csv_cell){.begin = cell.begin, .end = end, .open = true};
            at++;
            if (at == end || *at != '"') break;
        }
    }
    while (at < end && *at != delimiter && *at != '\n') at++;
    cell.end = at;
    return cell;
}

void csv_cell_text(struct strbuf *out, const struct csv_cell *cell)
{
    const char *at = cell->begin, *end = cell->end;
    bool quoted = at < end && *at == '"';
    if (quoted) at++;
    while (at < end) {
        const char *special = at;
        while (special < end && *special != '\r' && !(quoted && *special == '"')) special++;
        strbuf_add(out, at, (size_t)(special - at));
        at = special;
        if (at == end) break;
        if (*at == '"') {
            if (at + 1 < end && at[1] == '"')
                strbuf_putc(out, *++at);
            else
                quoted = false;
        } else if (at + 1 == end || at[1] != '\n') {
            strbuf_putc(out, '\r');
        }
        at++;
    }
}

bool csv_next(struct source_cursor *cursor, char delimiter, struct raw_row *row)
{
    do {
        const char *begin = cursor->at, *at = begin;
        if (at == cursor->end) return false;
        for (;; at++) {
            at = csv_cell(at, cursor->end, delimiter).end;
            if (at == cursor->end || *at == '\n') break;
        }
        size_t length = (size_t)(at - begin);
        if (length > 0 && begin[length - 1] == '\r') length--;
        *row = (struct raw_row){begin, length, cursor->line};
        cursor->at = at < cursor->end ? at + 1 : at;
        cursor->line += source_count_lines(begin, cursor->at);
    } while (row->length < 4096 && source_is_blank(row->text, row->length));
    return true;
}

char csv_delimiter(const char *text, size_t length)
{
    static const char delimiters[] = ",\t;";
    size_t count[3] = {0};
    bool quoted = false;
    for (size_t i = 0; i < length && i < 1 << 16 && (quoted || text[i] != '\n'); i++) {
        if (text[i] == '"') quoted = !quoted;
        const char *found = quoted || !text[i] ? NULL : strchr(delimiters, text[i]);
        if (found) count[found - delimiters]++;
    }
    int best = 0;
    for (int i = 1; i < 3; i++)
        if (count[i] > count[best]) best = i;
    return delimiters[best];
}

/* ---- the header ---- */

/* The first line that is not blank; false: there is none. */
static bool header_of(struct raw_row *row, const char *text, size_t length, char delimiter)
{
    struct source_cursor cursor = {text, text + length, 1};
    return csv_next(&cursor, delimiter, row);
}

static void trim(const char **text, size_t *length)
{
    while (*length > 0 && strchr(" \t", **text)) ++*text, --*length;
    while (*length > 0 && strchr(" \t", (*text)[*length - 1])) --*length;
}

/* Finds the columns by their names; false: one is there twice. */
static bool find_columns(struct csv *csv, const struct raw_row *header, const struct dataset_source *source)
{
    const char *at = header->text, *end = at + header->length;
    size_t rank[SOURCE_FIELDS]; /* how far behind in the list of usual names the found one stands */
    bool once = true;
    struct strbuf text = STRBUF_EMPTY;
    for (int i = 0; i < SOURCE_FIELDS; i++) csv->column[i] = NO_COLUMN;
    for (csv->n_cells = 0;; at++) {
        struct csv_cell cell = csv_cell(at, end, csv->delimiter);
        strbuf_clear(&text);
        csv_cell_text(&text, &cell);
        const char *name = strbuf_text(&text);
        size_t length = text.length;
        trim(&name, &length);
        for (int i = 0; i < SOURCE_FIELDS; i++) {
            const char *mapped[2];
            const char *const *names = source_field_names(source, (enum source_field)i, mapped);
            for (size_t k = 0; names[k]; k++) {
                if (strlen(names[k]) != length || strncasecmp(names[k], name, length) != 0) continue;
                if (csv->column[i] != NO_COLUMN && rank[i] == k) once = false;
                if (csv->column[i] != NO_COLUMN && rank[i] <= k) break;
                csv->column[i] = csv->n_cells;
                rank[i] = k;
                snprintf(csv->name[i], COLUMN_NAME_BYTES, "%s", names[k]);
                break;
            }
        }
        csv->n_cells++;
        at = cell.end;
        if (at == end || *at == '\n') break;
    }
    strbuf_free(&text);
    return once;
}

static bool has_columns(const struct csv *csv)
{
    return csv->column[FIELD_RESPONSE] != NO_COLUMN &&
           (csv->column[FIELD_PROMPT] != NO_COLUMN || csv->column[FIELD_QUERY] != NO_COLUMN);
}

/* Whether every name that the mapping gives is in the header; *missing is one that is not. */
static bool has_mapped(const struct csv *csv, const struct dataset_source *source, const char **missing)
{
    for (int i = 0; i < SOURCE_FIELDS; i++) {
        const char *mapped[2];
        if (!source_fields_mapped(source)) break;
        *missing = source_field_names(source, (enum source_field)i, mapped)[0];
        if (*missing && csv->column[i] == NO_COLUMN) return false;
    }
    return true;
}

static enum status no_columns(const struct source_input *input, const struct raw_row *header, const char *why)
{
    char snippet[SNIPPET_BYTES];
    size_t bad;
    if (!utf8_valid(header->text, header->length, &bad))
        return FAIL(
            LORAD_DATA,
            "%s: its header line is not UTF-8; if it was saved as GBK, convert it: iconv -f GB18030 -t "
            "UTF-8 OLD > NEW",
            input->path);
    return FAIL(LORAD_DATA,
                "%s: %s; its header line is: %s\nSay which columns to read, for example: columns: {prompt: "
                "QUESTION, response: ANSWER}",
                input->path, why, source_snippet(snippet, header->text, header->length));
}

static enum status open_csv(struct csv *csv, const struct source_input *input)
{
    const char *missing;
    char why[200];
    struct raw_row header;
    csv->begin = input->text;
    for (int i = 0; i < SOURCE_FIELDS; i++) csv->column[i] = NO_COLUMN;
    if (!header_of(&header, input->text, input->length, csv->delimiter)) return LORAD_OK; /* no rows */
    const struct source_columns *c = &input->source->columns;
    if (c->messages || c->history || c->text)
        return FAIL(LORAD_CONFIG,
                    "%s: a CSV has no column of %s; its columns are prompt, query, response and system",
                    input->path,
                    c->messages  ? "messages"
                    : c->history ? "history"
                                 : "text");
    if (!find_columns(csv, &header, input->source))
        return no_columns(input, &header, "two of its columns have the same name");
    csv->column[FIELD_HISTORY] = NO_COLUMN;
    if (!has_mapped(csv, input->source, &missing)) {
        snprintf(why, sizeof why, "it has no column \"%.100s\"", missing);
        return no_columns(input, &header, why);
    }
    if (!has_columns(csv))
        return no_columns(input, &header, "it has no columns that are known to be question and answer");
    return LORAD_OK;
}

static enum status open_with(void **context, const struct source_input *input, char delimiter)
{
    struct csv *csv = memory_new(1, sizeof *csv);
    if (!csv) return LORAD_NOMEM;
    csv->delimiter = delimiter;
    enum status status = open_csv(csv, input);
    if (status == LORAD_OK)
        *context = csv;
    else
        free(csv);
    return status;
}

static enum status open_any(void **context, const struct source_input *input)
{
    return open_with(context, input, csv_delimiter(input->text, input->length));
}

static enum status open_tsv(void **context, const struct source_input *input)
{
    return open_with(context, input, '\t');
}

/* ---- which files ---- */

static bool is_table(const struct source_input *input, char delimiter)
{
    struct csv csv = {.delimiter = delimiter};
    struct raw_row header;
    size_t bad;
    const char *missing;
    return input->length > 0 && header_of(&header, input->text, input->length, delimiter) &&
           header.length < SOURCE_ROW_BYTES && utf8_valid(header.text, header.length, &bad) &&
           find_columns(&csv, &header, input->source) && csv.n_cells >= 2 && has_columns(&csv) &&
           has_mapped(&csv, input->source, &missing);
}

static bool detect_csv(const struct source_input *input)
{
    return input->forced || source_path_ends(input->path, ".csv") ||
           is_table(input, csv_delimiter(input->text, input->length));
}

static bool detect_tsv(const struct source_input *input)
{
    return input->forced || source_path_ends(input->path, ".tsv");
}

/* ---- rows ---- */

static bool next(const void *context, struct source_cursor *cursor, struct raw_row *row)
{
    const struct csv *csv = context;
    if (cursor->at == csv->begin && !csv_next(cursor, csv->delimiter, row)) return false;
    return csv_next(cursor, csv->delimiter, row);
}

/* The row's cells of the known columns; false: the row is rejected. */
static bool find_cells(struct csv_cell cells[SOURCE_FIELDS], const struct csv *csv, const struct raw_row *row,
                       struct parsed_row *out)
{
    const char *at = row->text, *end = at + row->length;
    int32_t n = 0;
    for (;; at++) {
        struct csv_cell cell = csv_cell(at, end, csv->delimiter);
        if (cell.open) {
            char snippet[SNIPPET_BYTES];
            parsed_row_reject(out, ROW_BAD_CSV, "a quoted cell has no closing quote: %s",
                              source_snippet(snippet, cell.begin, (size_t)(cell.end - cell.begin)));
            return false;
        }
        for (int i = 0; i < SOURCE_FIELDS; i++)
            if (csv->column[i] == n) cells[i] = cell;
        n++;
        at = cell.end;
        if (at == end) break;
    }
    if (n == csv->n_cells) return true;
    parsed_row_reject(out, ROW_BAD_CSV, "%d cells, the header line has %d", n, csv->n_cells);
    return false;
}

/* Appends the cell's text; false: there is none, or it is blank, and nothing was appended. */
static bool add_cell(struct strbuf *text, const struct csv *csv, const struct csv_cell *cells,
                     enum source_field field)
{
    size_t before = text->length;
    if (csv->column[field] == NO_COLUMN) return false;
    csv_cell_text(text, &cells[field]);
    if (text->failed || !source_is_blank(text->data + before, text->length - before)) return !text->failed;
    text->length = before;
    return false;
}

static enum status parse(const void *context, const struct raw_row *row, struct parsed_row *out)
{
    const struct csv *csv = context;
    struct csv_cell cells[SOURCE_FIELDS];
    struct strbuf *text = &out->text;
    if (memchr(row->text, '\0', row->length)) {
        parsed_row_reject(out, ROW_BAD_UTF8, "a NUL byte in the text");
        return LORAD_OK;
    }
    if (!find_cells(cells, csv, row, out)) return LORAD_OK;
    strbuf_add(text, "", 0);
    if (add_cell(text, csv, cells, FIELD_SYSTEM)) TRY(parsed_row_add(out, ROLE_SYSTEM, NULL, text->length));
    size_t start = text->length;
    bool asked = add_cell(text, csv, cells, FIELD_PROMPT);
    size_t behind = text->length;
    if (asked) strbuf_putc(text, '\n');
    if (add_cell(text, csv, cells, FIELD_QUERY))
        asked = true;
    else
        text->length = behind;
    if (!asked) {
        const char *prompt =
            csv->column[FIELD_PROMPT] != NO_COLUMN ? csv->name[FIELD_PROMPT] : csv->name[FIELD_QUERY];
        parsed_row_reject(out, ROW_BAD_FIELD, "\"%s\" is empty", prompt);
        return LORAD_OK;
    }
    TRY(parsed_row_add(out, ROLE_USER, NULL, text->length - start));
    start = text->length;
    add_cell(text, csv, cells, FIELD_RESPONSE); /* blank is for the rules to refuse */
    TRY(parsed_row_add(out, ROLE_ASSISTANT, NULL, text->length - start));
    return strbuf_status(text);
}

const struct source_format source_csv = {
    .name = "csv",
    .expects = "a header line that names the columns, and comma, semicolon or tab separated rows",
    .detect = detect_csv,
    .open = open_any,
    .close = free,
    .next = next,
    .parse = parse,
};

const struct source_format source_tsv = {
    .name = "tsv",
    .expects = "a header line that names the columns, and tab separated rows",
    .detect = detect_tsv,
    .open = open_tsv,
    .close = free,
    .next = next,
    .parse = parse,
};
