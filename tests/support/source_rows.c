#include "support/source_rows.h"

#include "support/test.h"

const char *write_bytes(const char *name, const void *bytes, size_t length)
{
    static char paths[16][600];
    static int calls;
    char *path = paths[calls++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", test_tmpdir(), name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    return path;
}

const char *write_text(const char *name, const char *text)
{
    return write_bytes(name, text, strlen(text));
}

void open_source(struct opened *out, const struct dataset_source *source)
{
    memset(out, 0, sizeof *out);
    assert_ok(source_list_open(&out->list, source, 1));
    assert_int_equal(out->list.n, 1);
    assert_ok(source_reader_open(&out->reader, &out->list.file[0]));
}

void open_one(struct opened *out, const char *path, const char *format)
{
    /* The list borrows its source. */
    static struct dataset_source source;
    source = (struct dataset_source){.path = path, .format = format};
    open_source(out, &source);
}

void close_one(struct opened *opened)
{
    source_reader_close(opened->reader);
    source_list_free(&opened->list);
    parsed_row_free(&opened->row);
}

void assert_unreadable(const struct dataset_source *source, enum status code, const char *words)
{
    struct source_list list;
    struct source_reader *reader;
    assert_ok(source_list_open(&list, source, 1));
    assert_fails(source_reader_open(&reader, &list.file[0]), code, words);
    source_list_free(&list);
}

/* Parses the next row after checking that it is a slice of the reader's text. */
static void parse_next(struct opened *opened, int64_t line)
{
    struct raw_row raw;
    size_t length;
    const char *text = source_reader_text(opened->reader, &length);
    if (!source_reader_next(opened->reader, &raw)) fail_msg("there is no row in line %d", (int)line);
    assert_true(raw.text >= text && raw.text + raw.length <= text + length);
    assert_int_equal(raw.line, line);
    assert_ok(source_reader_parse(opened->reader, &raw, &opened->row));
}

void assert_row(struct opened *opened, int64_t line, const char *turns)
{
    char found[4000] = "";
    size_t n = 0;
    parse_next(opened, line);
    const struct parsed_row *row = &opened->row;
    if (row->problem != ROW_PROBLEMS)
        fail_msg("line %d: %s: %s", (int)line, row_problem_name(row->problem), strbuf_text(&row->detail));
    for (size_t i = 0; i < row->n; i++)
        n += (size_t)snprintf(found + n, sizeof found - n, "%s%c:%.*s", i > 0 ? "|" : "",
                              "SUA"[row->messages[i].role], (int)row -> messages[i].length,
                              row->messages[i].content);
    assert_string_equal(found, turns);
}

void assert_bad_row(struct opened *opened, int64_t line, enum row_problem problem, const char *words)
{
    parse_next(opened, line);
    if (opened->row.problem != problem || !strstr(strbuf_text(&opened->row.detail), words))
        fail_msg("line %d: expected %s with \"%s\", but it is %s: %s", (int)line, row_problem_name(problem),
                 words, row_problem_name(opened->row.problem), strbuf_text(&opened->row.detail));
}

void assert_no_row(struct opened *opened)
{
    struct raw_row raw;
    if (source_reader_next(opened->reader, &raw)) fail_msg("one more row in line %d", (int)raw.line);
    assert_false(source_reader_next(opened->reader, &raw));
}
