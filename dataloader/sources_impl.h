/*
 * sources_impl.h: what the formats share.
 *
 * A message that is added with content NULL owns the next `length` bytes of row->text; its content is filled
 * in when the row is whole, since adding to the text may move it.
 */
#ifndef LORAD_DATALOADER_SOURCES_IMPL_H
#define LORAD_DATALOADER_SOURCES_IMPL_H

#include "dataloader/sources.h"

/* ---- text (sources_line.c) ---- */

/* Line ends in [from, to). */
int64_t source_count_lines(const char *from, const char *to);
/* The start of a text on one line, for messages. */
enum { SNIPPET_BYTES = 84 };
const char *source_snippet(char out[SNIPPET_BYTES], const char *text, size_t length);
/* Whether the path ends in this (".csv"), compression (".gz", ".zst") left out, whatever its case. */
bool source_path_ends(const char *path, const char *ending);
/* Length of the path without its compression ending. */
size_t source_path_stem(const char *path);

/* ---- rows (sources.c) ---- */

/* Puts a system message in front of a row that has none. Borrows the text. */
enum status parsed_row_put_system(struct parsed_row *row, const char *text, size_t length) LORAD_WARN_UNUSED;

/* ---- the parts of a row that has no list of messages (sources_alpaca.c) ---- */

enum source_field { FIELD_PROMPT, FIELD_QUERY, FIELD_RESPONSE, FIELD_SYSTEM, FIELD_HISTORY, SOURCE_FIELDS };

/* Names under which the field is looked for, NULL behind the last one: the mapped one, or the usual ones. */
const char *const *source_field_names(const struct dataset_source *source, enum source_field field,
                                      const char *mapped[2]);
/* prompt, query and response are known by name in a mapping. */
bool source_fields_mapped(const struct dataset_source *source);

/* ---- files that hold JSON (sources_json.c) ---- */

enum json_container {
    JSON_LINES,  /* a value a line */
    JSON_ARRAY,  /* one list, its elements the rows */
    JSON_STREAM, /* values one after another, each over several lines */
};

/* The context of a format whose rows are JSON objects; NULL stands for lines without a mapping. */
struct json_rows {
    enum json_container container;
    const char *begin; /* of the file's text */
    const struct dataset_source *source;
};

/* Whether the first rows are JSON and `fits` knows one of them. */
bool json_rows_detect(const struct source_input *input,
                      bool (*fits)(const struct json *row, const struct dataset_source *source));
/* Whether the file is an empty list. */
bool json_rows_none(const struct source_input *input);
enum status json_rows_open(void **context, const struct source_input *input);
bool json_rows_next(const void *context, struct source_cursor *cursor, struct raw_row *row);
/* Parses the row into out->document; when it cannot, the row is rejected. */
void json_rows_parse(const struct json_rows *rows, const struct raw_row *row, struct parsed_row *out);
/* "an object with "table", "paragraphs"" for a message; false: the text does not begin with JSON. */
bool json_rows_describe(struct strbuf *out, const struct source_input *input);
/* Member of the row as text; NULL: it is missing or null, or no string, and then the row is rejected. */
const char *json_row_text(const struct json *row, const char *name, size_t *length, struct parsed_row *out);

/* ---- CSV (sources_csv.c) ---- */

/* One cell with its quotes, as it stands in the file. */
struct csv_cell {
    const char *begin, *end;
    bool open; /* a quote without an end */
};

/* The cell that begins at `at`; it ends at a delimiter, a line end or `end`. */
struct csv_cell csv_cell(const char *at, const char *end, char delimiter);
/* Appends what the cell says: without quotes, doubled quotes single, line ends LF. */
void csv_cell_text(struct strbuf *out, const struct csv_cell *cell);
/* The next record that is not blank; its line end is not in it. */
bool csv_next(struct source_cursor *cursor, char delimiter, struct raw_row *row);
/* The delimiter that the header line has most of. */
char csv_delimiter(const char *text, size_t length);

/* ---- metadata (sources_metadata.c) ---- */

struct source_metadata;
/* Reads the CSV, which must have a row for each of the n_rows rows of `file`. Owns: *out. */
enum status source_metadata_open(struct source_metadata **out, const char *path, const char *file,
                                 int64_t n_rows) LORAD_WARN_UNUSED;
void source_metadata_close(struct source_metadata *metadata);
/* Applies the metadata row `number` (0-based) to the parsed row. */
enum status source_metadata_apply(const struct source_metadata *metadata, int64_t number,
                                  struct parsed_row *row) LORAD_WARN_UNUSED;

/* ---- mapping (sources_map.c) ---- */

/* A file's contents, unpacked; text and end are behind the byte order mark. */
struct source_map {
    const char *text, *end;
    void *map; /* NULL when there is nothing */
    size_t map_bytes;
};
enum status source_map_open(struct source_map *out, const struct source_file *file) LORAD_WARN_UNUSED;
void source_map_close(struct source_map *map);

#endif
