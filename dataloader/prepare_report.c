/*
 * prepare_report.c: what preparing found, from what stands in the folder: a sum over the shards, so it does
 * not matter in how many goes, or in which order, the rows were prepared.
 *
 * Invariant: places and problems.jsonl are in the order of raw row numbers.
 */
#include "dataloader/prepare.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

static const size_t most_report_bytes = (size_t)16 << 20;
static const char problems_name[] = "problems.jsonl";

/* ---- in words and as a file ---- */

void prepare_report_text(const struct prepare_report *report, struct strbuf *out)
{
    strbuf_printf(out, "%lld rows kept of %lld", (long long)report->rows_kept, (long long)report->rows_read);
    const char *before = " (";
    for (int problem = 0; problem < ROW_PROBLEMS; problem++) {
        int64_t count = report->problem_count[problem];
        if (count == 0) continue;
        strbuf_printf(out, "%s%lld %s: ", before, (long long)count,
                      row_problem_name((enum row_problem)problem));
        for (int i = 0; i < 3 && i < count; i++) {
            const struct row_place *place = &report->place[problem][i];
            strbuf_printf(out, "%s%s:%lld", i > 0 ? ", " : "", place->file, (long long)place->line);
        }
        if (count > 3) strbuf_puts(out, ", ...");
        before = "; ";
    }
    if (*before == ';') strbuf_putc(out, ')');
    strbuf_printf(out, "; %lld tokens, %lld supervised, longest row %d", (long long)report->tokens,
                  (long long)report->supervised_tokens, report->longest_row);
}

enum status prepare_report_write(const struct prepare_report *report, const char *folder)
{
    struct strbuf text = STRBUF_EMPTY;
    strbuf_printf(
        &text,
        "{\"version\": %d, \"files\": %d, \"rows_read\": %lld, \"rows_kept\": %lld, \"rows_dropped\": %lld, "
        "\"tokens\": %lld, \"supervised_tokens\": %lld, \"longest_row\": %d, \"seconds\": ",
        PREPARE_VERSION, report->files, (long long)report->rows_read, (long long)report->rows_kept,
        (long long)report->rows_dropped, (long long)report->tokens, (long long)report->supervised_tokens,
        report->longest_row);
    js_write_double(&text, report->seconds);
    strbuf_puts(&text, ", \"problems\": {");
    const char *comma = "";
    for (int problem = 0; problem < ROW_PROBLEMS; problem++) {
        int64_t count = report->problem_count[problem];
        if (count == 0) continue;
        strbuf_printf(&text, "%s\n \"%s\": {\"count\": %lld, \"places\": [", comma,
                      row_problem_name((enum row_problem)problem), (long long)count);
        for (int i = 0; i < PREPARE_PLACES && i < count; i++) {
            const struct row_place *place = &report->place[problem][i];
            strbuf_puts(&text, i > 0 ? ", {\"file\": " : "{\"file\": ");
            js_write_string(&text, place->file, strlen(place->file));
            strbuf_printf(&text, ", \"source\": %d, \"line\": %lld}", place->source, (long long)place->line);
        }
        strbuf_puts(&text, "]}");
        comma = ",";
    }
    strbuf_puts(&text, "}}\n");
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) status = shard_write_file(folder, "report.json", text.data, text.length);
    strbuf_free(&text);
    return status;
}

static void read_problem(struct prepare_report *report, enum row_problem problem, const struct json *value)
{
    report->problem_count[problem] = js_int(js_get(value, "count"), 0);
    const struct json *places = js_get(value, "places");
    for (size_t i = 0; i < PREPARE_PLACES && i < js_length(places); i++) {
        const struct json *entry = js_at(places, i);
        const char *file = js_string(js_get(entry, "file"), NULL);
        struct row_place *place = &report->place[problem][i];
        place->problem = problem;
        place->source = (int32_t)js_int(js_get(entry, "source"), 0);
        place->line = js_int(js_get(entry, "line"), 0);
        snprintf(place->file, sizeof place->file, "%s", file ? file : "?");
    }
}

enum status prepare_report_read(struct prepare_report *report, const char *folder)
{
    char *path = file_join(folder, "report.json");
    if (!path) return LORAD_NOMEM;
    struct json *document = NULL;
    enum status status = js_read_file(&document, path, most_report_bytes);
    if (status == LORAD_OK && js_int(js_get(document, "version"), 0) != PREPARE_VERSION)
        status = FAIL(LORAD_DATA, "%s: another version", path);
    free(path);
    if (status != LORAD_OK) {
        js_destroy(document);
        return status;
    }
    memset(report, 0, sizeof *report);
    report->files = (int32_t)js_int(js_get(document, "files"), 0);
    report->rows_read = js_int(js_get(document, "rows_read"), 0);
    report->rows_kept = js_int(js_get(document, "rows_kept"), 0);
    report->rows_dropped = js_int(js_get(document, "rows_dropped"), 0);
    report->tokens = js_int(js_get(document, "tokens"), 0);
    report->supervised_tokens = js_int(js_get(document, "supervised_tokens"), 0);
    report->longest_row = (int32_t)js_int(js_get(document, "longest_row"), 0);
    report->seconds = js_real(js_get(document, "seconds"), 0);
    const struct json *problems = js_get(document, "problems");
    for (int problem = 0; problem < ROW_PROBLEMS; problem++) {
        const struct json *value = js_get(problems, row_problem_name((enum row_problem)problem));
        if (value) read_problem(report, (enum row_problem)problem, value);
    }
    report->from_cache = true;
    js_destroy(document);
    return LORAD_OK;
}

/* ---- sums over the shards ---- */

/* The name of a file, shortened from the left, and not in the middle of a character. */
static void short_name(char out[sizeof((struct row_place *)NULL)->file], const char *name)
{
    size_t bytes = sizeof((struct row_place *)NULL)->file, length = strlen(name);
    if (length < bytes) {
        memcpy(out, name, length + 1);
        return;
    }
    const char *tail = name + length - (bytes - 4);
    while ((*tail & 0xC0) == 0x80) tail++;
    snprintf(out, bytes, "...%s", tail);
}

/* Keeps the first by raw row number; `rows` are the numbers of those kept. */
static void keep_place(struct prepare_report *report, int64_t rows[PREPARE_PLACES],
                       const struct shard_row *row, const struct source_list *list)
{
    enum row_problem problem = (enum row_problem)(row->problem - 1);
    struct row_place *place = report->place[problem];
    int64_t count = report->problem_count[problem]++;
    int32_t at = count < PREPARE_PLACES ? (int32_t)count : PREPARE_PLACES;
    while (at > 0 && rows[at - 1] > row->raw_row) at--;
    if (at == PREPARE_PLACES) return;
    int32_t behind = (count < PREPARE_PLACES ? (int32_t)count : PREPARE_PLACES - 1) - at;
    memmove(rows + at + 1, rows + at, (size_t)behind * sizeof *rows);
    memmove(place + at + 1, place + at, (size_t)behind * sizeof *place);
    rows[at] = row->raw_row;
    place[at] =
        (struct row_place){.problem = problem, .source = list->file[row->source].source, .line = row->line};
    short_name(place[at].file, list->file[row->source].name);
}

static void add_row(struct prepare_report *report, const struct shard_row *row)
{
    report->rows_read++;
    if (row->n_tokens == 0) {
        report->rows_dropped++;
        return;
    }
    report->rows_kept++;
    report->tokens += row->n_tokens;
    report->supervised_tokens += row->n_supervised;
    if (row->n_tokens > report->longest_row) report->longest_row = row->n_tokens;
}

static enum status add_shard(struct prepare_report *report, int64_t (*rows)[PREPARE_PLACES],
                             const struct prepare_job *job, int32_t number)
{
    struct shard_map shard;
    TRY(shard_map_open(&shard, job->folder, number));
    enum status status = shard_check_rows(&shard.view, shard.path);
    for (int64_t i = 0; status == LORAD_OK && i < shard.view.n_rows; i++) {
        const struct shard_row *row = &shard.view.rows[i];
        if (row->problem > ROW_PROBLEMS || row->source >= job->list->n) {
            status = FAIL(LORAD_DATA, "%s: the entry of row %lld makes no sense", shard.path, (long long)i);
            break;
        }
        add_row(report, row);
        if (row->problem > 0) keep_place(report, rows[row->problem - 1], row, job->list);
    }
    shard_map_close(&shard);
    return status;
}

/* ---- problems.jsonl ---- */

void prepare_detail_name(char name[SHARD_NAME_BYTES], int32_t shard)
{
    snprintf(name, SHARD_NAME_BYTES, "details-%05d.txt", shard);
}

void prepare_detail_write(struct strbuf *out, int64_t raw_row, const char *file, int64_t line,
                          enum row_problem problem, const char *detail)
{
    strbuf_printf(out, "%lld\t{\"file\": ", (long long)raw_row);
    js_write_string(out, file, strlen(file));
    strbuf_printf(out, ", \"line\": %lld, \"problem\": \"%s\", \"detail\": ", (long long)line,
                  row_problem_name(problem));
    js_write_string(out, detail, strlen(detail));
    strbuf_puts(out, "}\n");
}

struct detail {
    int64_t row;
    const char *text; /* behind the tab, with the line end */
    size_t length;
};

struct details {
    struct detail *at;
    size_t n, capacity;
    struct detail_map {
        void *map;
        size_t length;
    } * map; /* [n_maps] */
    int32_t n_maps;
};

static void details_free(struct details *details)
{
    for (int32_t i = 0; i < details->n_maps; i++) munmap(details->map[i].map, details->map[i].length);
    free(details->map);
    free(details->at);
}

static enum status index_details(struct details *details, const char *text, size_t length, const char *path)
{
    for (const char *at = text, *end = text + length; at < end;) {
        const char *tab = memchr(at, '\t', (size_t)(end - at));
        const char *line_end = tab ? memchr(tab, '\n', (size_t)(end - tab)) : NULL;
        if (!line_end) return FAIL(LORAD_DATA, "%s is damaged: delete the folder and start again", path);
        void *block = details->at;
        TRY(memory_grow(&block, &details->capacity, details->n + 1, sizeof *details->at));
        details->at = block;
        details->at[details->n++] = (struct detail){strtoll(at, NULL, 10), tab + 1, (size_t)(line_end - tab)};
        at = line_end + 1;
    }
    return LORAD_OK;
}

/* A shard without problems has no file. */
static enum status map_details(struct details *details, const char *folder, int32_t shard)
{
    char name[SHARD_NAME_BYTES];
    prepare_detail_name(name, shard);
    char *path = file_join(folder, name);
    if (!path) return LORAD_NOMEM;
    enum status status = LORAD_OK;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT) status = FAIL(LORAD_IO, "cannot open %s: %s", path, strerror(errno));
    if (fd >= 0 && fstat(fd, &info) == 0 && info.st_size > 0) {
        void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            status = FAIL(LORAD_IO, "cannot map %s: %s", path, strerror(errno));
        } else {
            details->map[details->n_maps++] = (struct detail_map){map, (size_t)info.st_size};
            status = index_details(details, map, (size_t)info.st_size, path);
        }
    }
    if (fd >= 0) close(fd);
    free(path);
    return status;
}

static int by_row(const void *a, const void *b)
{
    const struct detail *x = a, *y = b;
    return (x->row > y->row) - (x->row < y->row);
}

static enum status write_details(const struct details *details, const char *folder)
{
    char *path = file_join(folder, problems_name), *part = file_join(folder, "problems.jsonl.part-merge");
    enum status status = path && part ? LORAD_OK : LORAD_NOMEM;
    FILE *file = NULL;
    if (status == LORAD_OK && !(file = fopen(part, "we")))
        status = FAIL(LORAD_CANNOT_CREATE, "cannot create %s: %s", part, strerror(errno));
    for (size_t i = 0; status == LORAD_OK && i < details->n; i++)
        if (fwrite(details->at[i].text, 1, details->at[i].length, file) != details->at[i].length)
            status = FAIL(LORAD_IO, "cannot write %s: %s", part, strerror(errno));
    if (status == LORAD_OK && (fflush(file) != 0 || fsync(fileno(file)) != 0))
        status = FAIL(LORAD_IO, "cannot write %s: %s", part, strerror(errno));
    if (file) fclose(file);
    if (status == LORAD_OK && rename(part, path) != 0)
        status = FAIL(LORAD_IO, "cannot rename %s to %s: %s", part, path, strerror(errno));
    free(path);
    free(part);
    return status;
}

static enum status write_problems(const struct prepare_job *job)
{
    struct details details = {0};
    enum status status = LORAD_OK;
    int32_t n = job->about.n_shards;
    if (!(details.map = memory_new((size_t)n, sizeof *details.map))) return LORAD_NOMEM;
    for (int32_t i = 0; status == LORAD_OK && i < n; i++) status = map_details(&details, job->folder, i);
    if (status == LORAD_OK && details.n > 0) {
        qsort(details.at, details.n, sizeof *details.at, by_row);
        status = write_details(&details, job->folder);
    }
    details_free(&details);
    return status;
}

enum status prepare_report_make(struct prepare_report *report, const struct prepare_job *job)
{
    int64_t(*rows)[PREPARE_PLACES] = memory_new(ROW_PROBLEMS, sizeof *rows);
    if (!rows) return LORAD_NOMEM;
    enum status status = LORAD_OK;
    memset(report, 0, sizeof *report);
    report->files = job->list->n;
    for (int32_t i = 0; status == LORAD_OK && i < job->about.n_shards; i++)
        status = add_shard(report, rows, job, i);
    free(rows);
    return status == LORAD_OK ? write_problems(job) : status;
}

void prepare_report_find_problems(struct prepare_report *report, const char *folder)
{
    char *path = file_join(folder, problems_name);
    report->problems_path[0] = '\0';
    if (path && file_exists(path)) snprintf(report->problems_path, sizeof report->problems_path, "%s", path);
    free(path);
}
