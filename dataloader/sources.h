/*
 * sources.h: raw files -> raw rows with their line numbers -> messages.
 *
 * A format is one file (sources_<name>.c) with a const struct source_format, and one line in the table of
 * sources.c. Finding where rows begin and end is cheap and done by one thread; parsing a row is done by many,
 * in any order: a row is a slice of the file's text, and what it says depends on that slice, its line and
 * what open() read, and on nothing else. So (offset, length, line) is all that has to be kept of a row.
 */
#ifndef LORAD_DATALOADER_SOURCES_H
#define LORAD_DATALOADER_SOURCES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "dataloader/dataloader.h"

enum { SOURCE_ROW_BYTES = 64 << 20 }; /* longer rows are bad rows */

/* ---- rows ---- */

struct raw_row {
    const char *text; /* borrowed from the reader's text; without the line end */
    size_t length;
    int64_t line; /* 1-based, of its first line */
};

/* What is left of a file. */
struct source_cursor {
    const char *at, *end;
    int64_t line;
};

/* The next line without its end (LF or CRLF); false: none left. */
bool source_line(struct source_cursor *cursor, const char **line, size_t *length);
/* White space only, Unicode's too; false when it is not valid UTF-8. */
bool source_is_blank(const char *text, size_t length);

/* A row as messages. Used again and again by one thread; starts zeroed. */
struct parsed_row {
    struct message *messages;
    size_t n, capacity;
    bool is_text;             /* messages[0] is a document to learn whole, without a template */
    enum row_problem problem; /* ROW_PROBLEMS: none */
    struct strbuf detail;     /* for people; "" when there is nothing to add to the problem's name */
    struct json *document;    /* what the contents are borrowed from, or */
    struct strbuf text;
};
void parsed_row_free(struct parsed_row *row);
enum status parsed_row_add(struct parsed_row *row, enum message_role role, const char *content,
                           size_t length) LORAD_WARN_UNUSED;
/* Sets the problem and its detail. */
void parsed_row_reject(struct parsed_row *row, enum row_problem problem, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- formats ---- */

/* What a format is known by. */
struct source_input {
    const char *text;
    size_t length;
    const char *path;                    /* "data/a.csv.gz" */
    const struct dataset_source *source; /* the mapping of names; never NULL */
    bool forced;                         /* the user named the format */
};

struct source_format {
    const char *name;
    const char *expects; /* for people: what such a file holds */
    /* Whether the contents look like this format. */
    bool (*detect)(const struct source_input *input);
    /* Reads what all rows of the file need to know (a header line, role names). NULL: nothing. Borrows the
     * text and the source. */
    enum status (*open)(void **context, const struct source_input *input);
    void (*close)(void *context);
    /* Moves to the next row; false: none left. */
    bool (*next)(const void *context, struct source_cursor *cursor, struct raw_row *row);
    /* Fills `out` (empty on entry) or rejects the row; a failure is LORAD_NOMEM. Thread: any number at once.
     */
    enum status (*parse)(const void *context, const struct raw_row *row, struct parsed_row *out);
};

extern const struct source_format source_messages, source_sharegpt, source_alpaca, source_csv, source_tsv,
    source_qa_text, source_text;
const struct source_format *source_format_find(const char *name); /* NULL: unknown */
/* "messages, sharegpt, ..." */
void source_format_names(struct strbuf *out);

/* ---- files ---- */

struct source_file {
    char *path;
    char *name;                         /* for reports */
    const struct source_format *format; /* NULL: by its contents */
    int64_t size_bytes, mtime_ns;
    int32_t source;                      /* which of the dataset_sources named it */
    const struct dataset_source *origin; /* that one, borrowed */
    const char *scratch_dir; /* where a compressed file is unpacked (borrowed); NULL: $TMPDIR, else /tmp */
};

struct source_list {
    struct source_file *file;
    int32_t n;
};

/* The files that the sources name, folders and patterns expanded. Borrows sources until source_list_free.
 * LORAD_CONFIG, LORAD_NOT_FOUND, LORAD_DATA. */
enum status source_list_open(struct source_list *out, const struct dataset_source *sources,
                             int32_t n) LORAD_WARN_UNUSED;
void source_list_free(struct source_list *list);
/* Where compressed files are unpacked, for all files; the space is taken while a reader is open. Borrowed. */
void source_list_scratch(struct source_list *list, const char *folder);
/* Appends everything besides the file itself that decides what its rows say: names, tags, system message, the
 * metadata file's size and time. For the key of a cache. */
void source_file_key(struct strbuf *out, const struct source_file *file);

struct source_reader;
/* Maps the file (unpacked when it is gzip or zstd) and finds its format. LORAD_DATA when auto cannot tell,
 * when it is not in the format that was named, or is damaged or too large once unpacked. Borrows file. Owns:
 * *out. */
enum status source_reader_open(struct source_reader **out, const struct source_file *file) LORAD_WARN_UNUSED;
void source_reader_close(struct source_reader *reader);
const char *source_reader_format(const struct source_reader *reader);
/* The text that the offsets of rows count from: the file behind its byte order mark, unpacked. The same bytes
 * in every reader of the same file. */
const char *source_reader_text(const struct source_reader *reader, size_t *length);
/* For files too large to stay in memory: rows will be read in any order; this row soon; none for a while (the
 * process gives back what it has mapped in; the rows stay readable). Thread: any. */
void source_reader_random(const struct source_reader *reader);
void source_reader_will_need(const struct source_reader *reader, const struct raw_row *row);
void source_reader_release(const struct source_reader *reader);
void source_reader_rewind(struct source_reader *reader);
bool source_reader_next(struct source_reader *reader, struct raw_row *row);
/* Messages of the row, checked for everything that needs no tokens (out->problem). Thread: any number at
 * once. */
enum status source_reader_parse(const struct source_reader *reader, const struct raw_row *row,
                                struct parsed_row *out) LORAD_WARN_UNUSED;
/* The same for text from anywhere, as a row of `format`, without system message and metadata. */
enum status source_parse_row(const struct source_format *format, const void *context,
                             const struct raw_row *row, struct parsed_row *out) LORAD_WARN_UNUSED;

#endif
