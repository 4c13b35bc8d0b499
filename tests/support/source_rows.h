/* source_rows.h: a data file in the test's folder, its reader, and what its rows should say. */
#ifndef LORAD_TESTS_SUPPORT_SOURCE_ROWS_H
#define LORAD_TESTS_SUPPORT_SOURCE_ROWS_H

#include <stddef.h>

#include "dataloader/sources.h"

/* Writes a new file; its path is borrowed for the next 15 calls. */
const char *write_bytes(const char *name, const void *bytes, size_t length);
const char *write_text(const char *name, const char *text);

struct opened {
    struct source_list list;
    struct source_reader *reader;
    struct parsed_row row;
};

/* The one file that the source names. */
void open_source(struct opened *out, const struct dataset_source *source);
void open_one(struct opened *out, const char *path, const char *format);
void close_one(struct opened *opened);
/* Fails the test unless opening the one file does, in these words. */
void assert_unreadable(const struct dataset_source *source, enum status code, const char *words);

/* The next row is good and says this, "U:question|A:answer", S the system; or is bad with this problem and
 * words in its detail. */
void assert_row(struct opened *opened, int64_t line, const char *turns);
void assert_bad_row(struct opened *opened, int64_t line, enum row_problem problem, const char *words);
void assert_no_row(struct opened *opened);

#endif
