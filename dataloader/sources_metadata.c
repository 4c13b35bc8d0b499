/*
 * sources_metadata.c: a CSV beside the rows, one of its rows for each of theirs, in the same order. Its
 * columns, each of which may be missing:
 *
 *     id       what the row is called in the list of problems
 *     system   the row's system message, where it has none of its own
 *     weight   a number from 0 up: how much the row's answers count in the loss
 *     skip     1, true or yes: leave the row out
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "dataloader/sources_impl.h"

enum column { COLUMN_ID, COLUMN_SYSTEM, COLUMN_WEIGHT, COLUMN_SKIP, COLUMNS, MOST_WEIGHT = 1000 };
static const char *const column_names[COLUMNS] = {"id", "system", "weight", "skip"};

struct entry {
    size_t id, system; /* into texts */
    float weight;
    bool skip;
};

struct source_metadata {
    struct entry *entry;
    size_t n, capacity;
    struct strbuf texts; /* strings with their NULs; "" at 0 */
};

struct table {
    const char *path;
    char delimiter;
    int32_t column[COLUMNS], n_cells;
};

/* The cells of a record as strings behind each other in `out`; *n of them, `at` for the known columns. */
static enum status read_cells(const struct table *table, const struct raw_row *row, struct strbuf *out,
                              size_t at[COLUMNS], int32_t *n)
{
    const char *from = row->text, *end = from + row->length;
    strbuf_clear(out);
    for (*n = 0;; from++) {
        struct csv_cell cell = csv_cell(from, end, table->delimiter);
        if (cell.open)
            return FAIL(LORAD_DATA, "%s:%lld: a quoted cell has no closing quote", table->path,
                        (long long)row->line);
        for (int i = 0; i < COLUMNS; i++)
            if (table->column[i] == *n) at[i] = out->length;
        csv_cell_text(out, &cell);
        strbuf_putc(out, '\0');
        ++*n;
        from = cell.end;
        if (from == end) return strbuf_status(out);
    }
}

static enum status read_header(struct table *table, const struct raw_row *row)
{
    const char *from = row->text, *end = from + row->length;
    struct strbuf text = STRBUF_EMPTY;
    int known = 0;
    for (int i = 0; i < COLUMNS; i++) table->column[i] = -1;
    for (table->n_cells = 0;; from++, table->n_cells++) {
        struct csv_cell cell = csv_cell(from, end, table->delimiter);
        strbuf_clear(&text);
        csv_cell_text(&text, &cell);
        for (int i = 0; i < COLUMNS; i++) {
            if (strcasecmp(strbuf_text(&text), column_names[i]) != 0 || table->column[i] >= 0) continue;
            table->column[i] = table->n_cells;
            known++;
        }
        from = cell.end;
        if (from == end) break;
    }
    table->n_cells++;
    strbuf_free(&text);
    char snippet[SNIPPET_BYTES];
    return known > 0 ? LORAD_OK
                     : FAIL(LORAD_DATA,
                            "%s: none of its columns is id, system, weight or skip; its header line is: %s",
                            table->path, source_snippet(snippet, row->text, row->length));
}

static enum status read_entry(struct entry *entry, const struct table *table, const struct raw_row *row,
                              const struct strbuf *cells, const size_t at[COLUMNS], struct strbuf *texts)
{
    const char *text[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) text[i] = table->column[i] >= 0 ? strbuf_text(cells) + at[i] : "";
    *entry = (struct entry){.weight = 1.0f};
    if (*text[COLUMN_WEIGHT]) {
        char *behind;
        errno = 0;
        double weight = strtod(text[COLUMN_WEIGHT], &behind);
        if (*behind || !(weight >= 0 && weight <= MOST_WEIGHT))
            return FAIL(LORAD_DATA, "%s:%lld: weight is \"%.40s\"; a number from 0 to %d is wanted",
                        table->path, (long long)row->line, text[COLUMN_WEIGHT], MOST_WEIGHT);
        entry->weight = (float)weight;
    }
    const char *skip = text[COLUMN_SKIP];
    entry->skip = strcmp(skip, "1") == 0 || strcasecmp(skip, "true") == 0 || strcasecmp(skip, "yes") == 0;
    if (!entry->skip && *skip && strcmp(skip, "0") != 0 && strcasecmp(skip, "false") != 0 &&
        strcasecmp(skip, "no") != 0)
        return FAIL(LORAD_DATA, "%s:%lld: skip is \"%.40s\"; true or false is wanted", table->path,
                    (long long)row->line, skip);
    size_t *place[] = {&entry->id, &entry->system};
    for (int i = 0; i < 2; i++) {
        if (source_is_blank(text[i], strlen(text[i]))) continue;
        *place[i] = texts->length;
        strbuf_add(texts, text[i], strlen(text[i]) + 1);
    }
    return strbuf_status(texts);
}

static enum status read_rows(struct source_metadata *metadata, struct table *table,
                             struct source_cursor *cursor)
{
    struct raw_row row;
    struct strbuf cells = STRBUF_EMPTY;
    size_t at[COLUMNS] = {0};
    int32_t n;
    enum status status = csv_next(cursor, table->delimiter, &row)
                             ? read_header(table, &row)
                             : FAIL(LORAD_DATA, "%s is empty", table->path);
    while (status == LORAD_OK && csv_next(cursor, table->delimiter, &row)) {
        void *block = metadata->entry;
        status = read_cells(table, &row, &cells, at, &n);
        if (status == LORAD_OK && n != table->n_cells)
            status = FAIL(LORAD_DATA, "%s:%lld: %d cells, the header line has %d", table->path,
                          (long long)row.line, n, table->n_cells);
        if (status != LORAD_OK) break;
        status = memory_grow(&block, &metadata->capacity, metadata->n + 1, sizeof *metadata->entry);
        if (status != LORAD_OK) break;
        metadata->entry = block;
        status = read_entry(&metadata->entry[metadata->n++], table, &row, &cells, at, &metadata->texts);
    }
    strbuf_free(&cells);
    return status;
}

static enum status read_text(struct source_metadata *metadata, const char *path, const char *text,
                             size_t length)
{
    size_t bad;
    if (length >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        length -= 3;
    }
    if (!utf8_valid(text, length, &bad))
        return FAIL(LORAD_DATA, "%s: invalid UTF-8 in line %lld", path,
                    (long long)source_count_lines(text, text + bad) + 1);
    if (memchr(text, '\0', length)) return FAIL(LORAD_DATA, "%s: a NUL byte in the text", path);
    struct table table = {.path = path, .delimiter = csv_delimiter(text, length)};
    struct source_cursor cursor = {text, text + length, 1};
    strbuf_putc(&metadata->texts, '\0');
    return read_rows(metadata, &table, &cursor);
}

enum status source_metadata_open(struct source_metadata **out, const char *path, const char *file,
                                 int64_t n_rows)
{
    char *text;
    size_t length;
    TRY(file_read(&text, &length, path, (size_t)1 << 30));
    struct source_metadata *metadata = memory_new(1, sizeof *metadata);
    enum status status = metadata ? read_text(metadata, path, text, length) : LORAD_NOMEM;
    free(text);
    if (status == LORAD_OK && (int64_t)metadata->n != n_rows)
        status = FAIL(LORAD_DATA,
                      "%s has %zu rows, but %s has %lld: there must be one for each, in the same order", path,
                      metadata->n, file, (long long)n_rows);
    if (status == LORAD_OK)
        *out = metadata;
    else
        source_metadata_close(metadata);
    return status;
}

void source_metadata_close(struct source_metadata *metadata)
{
    if (!metadata) return;
    free(metadata->entry);
    strbuf_free(&metadata->texts);
    free(metadata);
}

enum status source_metadata_apply(const struct source_metadata *metadata, int64_t number,
                                  struct parsed_row *row)
{
    const struct entry *entry = &metadata->entry[number];
    const char *system = metadata->texts.data + entry->system;
    if (entry->skip)
        parsed_row_reject(row, ROW_SKIPPED, "metadata row %lld", (long long)number + 1);
    else if (row->problem == ROW_PROBLEMS) {
        for (size_t i = 0; i < row->n; i++)
            if (row->messages[i].role == ROLE_ASSISTANT) row->messages[i].weight *= entry->weight;
        if (*system && !row->is_text) TRY(parsed_row_put_system(row, system, strlen(system)));
    }
    if (row->problem != ROW_PROBLEMS && entry->id > 0)
        strbuf_printf(&row->detail, " (id %.100s)", metadata->texts.data + entry->id);
    return strbuf_status(&row->detail);
}
