/*
 * sources.c: the table of formats, the files that a source names, and what every row must be whatever its
 * format.
 *
 * Invariants:
 * (1) a reader's mapping is read-only and lives until source_reader_close, and raw rows point into it.
 * (2) a row whose parsed_row has no problem is [system] user assistant ... user assistant, valid UTF-8, no
 *     answer blank.
 */
#include "dataloader/sources.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/utf8.h"

/* In the order in which `auto` asks them. */
static const struct source_format *const formats[] = {&source_messages, &source_qa_text};
enum { FORMATS = sizeof formats / sizeof *formats };

const struct source_format *source_format_find(const char *name)
{
    for (int i = 0; i < FORMATS; i++)
        if (strcmp(formats[i]->name, name) == 0) return formats[i];
    return NULL;
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
        [ROW_MANY_WEIGHTS] = "too many loss weights",
    };
    return problem >= 0 && problem < ROW_PROBLEMS ? names[problem] : "no problem";
}

/* ---- text ---- */

bool source_line(struct source_cursor *cursor, const char **line, size_t *length)
{
    if (cursor->at == cursor->end) return false;
    const char *begin = cursor->at, *end = memchr(begin, '\n', (size_t)(cursor->end - begin));
    cursor->at = end ? end + 1 : cursor->end;
    cursor->line++;
    if (!end) end = cursor->end;
    if (end > begin && end[-1] == '\r') end--;
    *line = begin;
    *length = (size_t)(end - begin);
    return true;
}

/* White_Space of Unicode, and the invisible U+200B and U+FEFF. */
static bool is_space(uint32_t c)
{
    return c == ' ' || (c >= 9 && c <= 13) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200B) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000 || c == 0xFEFF;
}

bool source_is_blank(const char *text, size_t length)
{
    uint32_t code;
    for (size_t i = 0; i < length;) {
        size_t n = utf8_read(&code, text + i, length - i);
        if (n == 0 || !is_space(code)) return false;
        i += n;
    }
    return true;
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
    row->problem = ROW_PROBLEMS;
}

enum status parsed_row_add(struct parsed_row *row, enum message_role role, const char *content, size_t length)
{
    void *block = row->messages;
    TRY(memory_grow(&block, &row->capacity, row->n + 1, sizeof *row->messages));
    row->messages = block;
    row->messages[row->n++] = (struct message){.role = role, .content = content, .length = length, .weight = 1.0f};
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
    strbuf_puts(&row->detail, text);
}

bool message_role_parse(enum message_role *out, const char *text)
{
    static const char *const names[] = {"system", "user", "assistant"};
    for (int i = 0; i < 3; i++)
        if (strcmp(names[i], text) == 0) {
            *out = (enum message_role)i;
            return true;
        }
    return false;
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

enum status source_parse_row(const struct source_format *format, const void *context,
                             const struct raw_row *row, struct parsed_row *out)
{
    clear(out);
    size_t bad_byte;
    if (row->length > SOURCE_ROW_BYTES) {
        parsed_row_reject(out, ROW_HUGE_LINE, "%zu bytes", row->length);
        return LORAD_OK;
    }
    if (!utf8_valid(row->text, row->length, &bad_byte)) {
        parsed_row_reject(out, ROW_BAD_UTF8, "byte 0x%02x at byte %zu of the row",
                          (unsigned char)row->text[bad_byte], bad_byte + 1);
        return LORAD_OK;
    }
    TRY(format->parse(context, row, out));
    if (out->problem == ROW_PROBLEMS) check_conversation(out);
    return strbuf_status(&out->detail);
}

/* ---- files ---- */

void source_list_free(struct source_list *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        free(list->file[i].path);
        free(list->file[i].name);
    }
    free(list->file);
    *list = (struct source_list){0};
}

static enum status add_file(struct source_list *list, size_t *capacity, const char *path, const char *name,
                            const struct source_format *format, int32_t source)
{
    struct source_file file = {.format = format, .source = source};
    TRY(file_stat(&file.size_bytes, &file.mtime_ns, path));
    void *block = list->file;
    TRY(memory_grow(&block, capacity, (size_t)list->n + 1, sizeof *list->file));
    list->file = block;
    file.path = memory_string(path);
    file.name = memory_string(name);
    list->file[list->n++] = file;
    return file.path && file.name ? LORAD_OK : LORAD_NOMEM;
}

static int is_data_file(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return entry->d_name[0] != '.' && dot &&
           (strcmp(dot, ".jsonl") == 0 || strcmp(dot, ".json") == 0 || strcmp(dot, ".txt") == 0);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static enum status add_folder(struct source_list *list, size_t *capacity, const struct dataset_source *source,
                              const struct source_format *format, int32_t number)
{
    struct dirent **entries;
    int n = scandir(source->path, &entries, is_data_file, by_name);
    if (n < 0) return FAIL(LORAD_NOT_FOUND, "cannot list folder %s: %s", source->path, strerror(errno));
    enum status status = LORAD_OK;
    if (n == 0) status = FAIL(LORAD_NOT_FOUND, "folder %s holds no .jsonl, .json or .txt file", source->path);
    for (int i = 0; i < n; i++) {
        if (status == LORAD_OK) {
            char *path = file_join(source->path, entries[i]->d_name);
            char *name = source->name ? file_join(source->name, entries[i]->d_name) : NULL;
            status = path && (name || !source->name) ? LORAD_OK : LORAD_NOMEM;
            if (status == LORAD_OK && !file_is_dir(path))
                status = add_file(list, capacity, path, name ? name : path, format, number);
            free(path);
            free(name);
        }
        free(entries[i]);
    }
    free(entries);
    return status;
}

static enum status add_source(struct source_list *list, size_t *capacity, const struct dataset_source *source,
                              int32_t number)
{
    const struct source_format *format = NULL;
    if (source->format && strcmp(source->format, "auto") != 0 &&
        !(format = source_format_find(source->format))) {
        struct strbuf names = STRBUF_EMPTY;
        for (int i = 0; i < FORMATS; i++) strbuf_printf(&names, ", %s", formats[i]->name);
        enum status status = FAIL(LORAD_CONFIG, "%s: unknown format \"%s\"; there are auto%s", source->path,
                                  source->format, strbuf_text(&names));
        strbuf_free(&names);
        return status;
    }
    if (!file_exists(source->path))
        return FAIL(LORAD_NOT_FOUND, "cannot find the training data %s", source->path);
    if (file_is_dir(source->path)) return add_folder(list, capacity, source, format, number);
    return add_file(list, capacity, source->path, source->name ? source->name : source->path, format, number);
}

enum status source_list_open(struct source_list *out, const struct dataset_source *sources, int32_t n)
{
    struct source_list list = {0};
    size_t capacity = 0;
    if (n < 1) return FAIL(LORAD_CONFIG, "no data is named: set train_file or dataset");
    for (int32_t i = 0; i < n; i++) {
        enum status status = add_source(&list, &capacity, &sources[i], i);
        if (status == LORAD_OK) continue;
        source_list_free(&list);
        return status;
    }
    *out = list;
    return LORAD_OK;
}

struct source_reader {
    const struct source_file *file;
    const struct source_format *format;
    void *context, *map; /* map: NULL when the file is empty */
    size_t map_bytes;
    const char *text, *end; /* behind the byte order mark */
    struct source_cursor cursor;
};

static enum status map_file(struct source_reader *reader)
{
    const char *path = reader->file->path;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return FAIL(LORAD_NOT_FOUND, "cannot open %s: %s", path, strerror(errno));
    enum status status = LORAD_OK;
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        status = FAIL(LORAD_DATA, "%s is not a regular file", path);
        goto close_file;
    }
    reader->text = reader->end = "";
    if (info.st_size == 0) goto close_file;
    void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        status = FAIL(LORAD_IO, "cannot map %s: %s", path, strerror(errno));
        goto close_file;
    }
    madvise(map, (size_t)info.st_size, MADV_SEQUENTIAL);
    reader->map = map;
    reader->map_bytes = (size_t)info.st_size;
    reader->text = map;
    reader->end = reader->text + info.st_size;
    if (info.st_size >= 3 && memcmp(reader->text, "\xEF\xBB\xBF", 3) == 0) reader->text += 3;
close_file:
    close(fd);
    return status;
}

static enum status find_format(struct source_reader *reader)
{
    size_t length = (size_t)(reader->end - reader->text);
    reader->format = reader->file->format;
    for (int i = 0; !reader->format && i < FORMATS; i++)
        if (formats[i]->detect(reader->text, length)) reader->format = formats[i];
    if (!reader->format && source_is_blank(reader->text, length)) reader->format = formats[0];
    if (!reader->format)
        return FAIL(LORAD_DATA,
                    "%s: cannot tell its format: neither JSON lines of {\"messages\": ...} nor blocks of "
                    "\"user: ...\" and "
                    "\"assistant: ...\"",
                    reader->file->path);
    return reader->format->open
               ? reader->format->open(&reader->context, reader->text, length, reader->file->path)
               : LORAD_OK;
}

enum status source_reader_open(struct source_reader **out, const struct source_file *file)
{
    struct source_reader *reader = memory_new(1, sizeof *reader);
    if (!reader) return LORAD_NOMEM;
    reader->file = file;
    enum status status = map_file(reader);
    if (status == LORAD_OK) status = find_format(reader);
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
    if (reader->map) munmap(reader->map, reader->map_bytes);
    free(reader);
}

const char *source_reader_format(const struct source_reader *reader)
{
    return reader->format->name;
}

const char *source_reader_text(const struct source_reader *reader, size_t *length)
{
    *length = (size_t)(reader->end - reader->text);
    return reader->text;
}

/* Smaller files stay as the machine has them. */
static const size_t large_file = (size_t)64 << 20;

void source_reader_will_need(const struct source_reader *reader, const struct raw_row *row)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)row->text / page * page;
    if (reader->map_bytes < large_file) return;
    madvise((void *)begin, (uintptr_t)row->text + row->length - begin, MADV_WILLNEED);
}

void source_reader_random(const struct source_reader *reader)
{
    if (reader->map_bytes >= large_file) madvise(reader->map, reader->map_bytes, MADV_RANDOM);
}

void source_reader_release(const struct source_reader *reader)
{
    if (reader->map_bytes >= large_file) madvise(reader->map, reader->map_bytes, MADV_DONTNEED);
}

void source_reader_rewind(struct source_reader *reader)
{
    reader->cursor = (struct source_cursor){reader->text, reader->end, 1};
}

bool source_reader_next(struct source_reader *reader, struct raw_row *row)
{
    return reader->format->next(reader->context, &reader->cursor, row);
}

enum status source_reader_parse(const struct source_reader *reader, const struct raw_row *row,
                                struct parsed_row *out)
{
    return source_parse_row(reader->format, reader->context, row, out);
}
