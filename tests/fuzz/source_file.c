/* A file of training rows as a user has it: packed or not, of whatever format, with metadata beside it. The
 * first byte chooses what stands in the configuration. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dataloader/sources.h"

static void write_file(char path[64], const uint8_t *bytes, size_t length)
{
    snprintf(path, 64, "/tmp/fuzz-source-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0 || write(fd, bytes, length) != (ssize_t)length) abort();
    close(fd);
}

static void read_file(const struct dataset_source *source)
{
    struct source_list list;
    struct source_reader *reader;
    struct parsed_row row = {0};
    struct raw_row raw;
    if (source_list_open(&list, source, 1) != LORAD_OK) return;
    if (source_reader_open(&reader, &list.file[0]) == LORAD_OK) {
        while (source_reader_next(reader, &raw)) {
            if (source_reader_parse(reader, &raw, &row) != LORAD_OK) abort();
            if (row.problem == ROW_PROBLEMS && row.n == 0) abort();
        }
        source_reader_close(reader);
    }
    parsed_row_free(&row);
    source_list_free(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const char *const formats[] = {"auto", "auto",    "messages", "alpaca",
                                          "csv",  "qa_text", "text",     "sharegpt"};
    char data[64], metadata[64] = "";
    if (length == 0) return 0;
    size_t rest = length - 1, first = rest;
    struct dataset_source source = {
        .path = data, .format = formats[*bytes & 7], .system = *bytes & 8 ? "system" : NULL};
    if (*bytes & 16) { /* what is behind the mark is the metadata */
        const uint8_t *mark = memmem(bytes + 1, rest, "\n==\n", 4);
        if (mark) first = (size_t)(mark - bytes - 1);
        write_file(metadata, mark ? mark + 4 : bytes, mark ? rest - first - 4 : 0);
        source.metadata_path = metadata;
    }
    write_file(data, bytes + 1, first);
    read_file(&source);
    unlink(data);
    if (*metadata) unlink(metadata);
    return 0;
}
