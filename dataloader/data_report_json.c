/*
 * data_report_json.c: report.json, written and read back.
 *
 * A place is [row, line, file number]; a pair is [place, place, similarity]; histogram bins are [bin, count]
 * where count is not 0. Counts that must agree with each other are checked on reading, so that a damaged file
 * is refused.
 */
#include "dataloader/data_report.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

static const int64_t most_count = (int64_t)1 << 56; /* so that sums of some reports do not overflow */

/* ---- writing ---- */

static void put_string(struct strbuf *out, const char *text)
{
    js_write_string(out, text, strlen(text));
}

static void put_place(struct strbuf *out, const struct report_place *place)
{
    strbuf_printf(out, "[%lld, %lld, %d]", (long long)place->row, (long long)place->line, place->file);
}

static void put_places(struct strbuf *out, const struct report_place *first, int32_t n)
{
    strbuf_putc(out, '[');
    for (int32_t i = 0; i < n; i++) {
        if (i > 0) strbuf_puts(out, ", ");
        put_place(out, &first[i]);
    }
    strbuf_putc(out, ']');
}

static void put_pairs(struct strbuf *out, const char *key, const struct report_pair *pairs, int32_t n)
{
    strbuf_printf(out, ", \"%s\": [", key);
    for (int32_t i = 0; i < n; i++) {
        strbuf_puts(out, i > 0 ? ", [" : "[");
        put_place(out, &pairs[i].place);
        strbuf_puts(out, ", ");
        put_place(out, &pairs[i].of);
        strbuf_puts(out, ", ");
        js_write_double(out, pairs[i].similarity);
        strbuf_putc(out, ']');
    }
    strbuf_putc(out, ']');
}

static void put_histogram(struct strbuf *out, const char *key, const struct length_histogram *h)
{
    strbuf_printf(
        out, ",\n \"%s\": {\"rows\": %lld, \"sum\": %lld, \"shortest\": %d, \"longest\": %d, \"bins\": [",
        key, (long long)h->n, (long long)h->sum, h->shortest, h->longest);
    const char *comma = "";
    for (int32_t bin = 0; bin < HISTOGRAM_BINS; bin++) {
        if (h->count[bin] == 0) continue;
        strbuf_printf(out, "%s[%d, %lld]", comma, bin, (long long)h->count[bin]);
        comma = ", ";
    }
    strbuf_puts(out, "]}");
}

static void put_sources(struct strbuf *out, const struct data_report *report)
{
    strbuf_puts(out, ",\n \"groups\": [");
    for (int32_t i = 0; i < report->n_groups; i++) {
        const struct report_group *group = &report->group[i];
        strbuf_puts(out, i > 0 ? ",\n  {\"name\": " : "\n  {\"name\": ");
        put_string(out, group->name);
        strbuf_printf(
            out, ", \"rows_read\": %lld, \"rows_kept\": %lld, \"tokens\": %lld, \"supervised_tokens\": %lld}",
            (long long)group->rows_read, (long long)group->rows_kept, (long long)group->tokens,
            (long long)group->supervised_tokens);
    }
    strbuf_puts(out, "],\n \"files\": [");
    for (int32_t i = 0; i < report->n_files; i++) {
        strbuf_puts(out, i > 0 ? ",\n  {\"name\": " : "\n  {\"name\": ");
        put_string(out, report->file[i].name);
        strbuf_printf(out, ", \"group\": %d}", report->file[i].group);
    }
    strbuf_putc(out, ']');
}

static void put_problems(struct strbuf *out, const struct data_report *report)
{
    const char *comma = "";
    strbuf_puts(out, ",\n \"problems\": {");
    for (int i = 0; i < ROW_PROBLEMS; i++) {
        const struct report_places *places = &report->problem[i];
        if (places->rows == 0) continue;
        strbuf_printf(out, "%s\n  \"%s\": {\"rows\": %lld, \"places\": ", comma,
                      row_problem_name((enum row_problem)i), (long long)places->rows);
        put_places(out, places->first, places->n);
        strbuf_putc(out, '}');
        comma = ",";
    }
    comma = "";
    strbuf_puts(out, "},\n \"findings\": {");
    for (int i = 0; i < FINDINGS; i++) {
        const struct report_places *places = &report->finding[i];
        if (places->rows == 0) continue;
        strbuf_printf(out, "%s\n  \"%s\": {\"count\": %lld, \"rows\": %lld, \"places\": ", comma,
                      finding_key((enum finding_kind)i), (long long)report->finding_count[i],
                      (long long)places->rows);
        put_places(out, places->first, places->n);
        strbuf_putc(out, '}');
        comma = ",";
    }
    strbuf_puts(out, "},\n \"words\": [");
    for (size_t i = 0; i < report->n_words; i++) {
        const struct report_word *word = &report->word[i];
        strbuf_printf(out, "%s\n  {\"number\": %d, \"text\": ", i > 0 ? "," : "", word->word);
        put_string(out, word->text);
        strbuf_printf(out, ", \"count\": %lld, \"rows\": %lld, \"places\": ", (long long)word->count,
                      (long long)word->rows);
        put_places(out, word->first, word->n);
        strbuf_putc(out, '}');
    }
    strbuf_putc(out, ']');
}

void data_report_write(const struct data_report *report, struct strbuf *out)
{
    strbuf_printf(out,
                  "{\"version\": %d, \"rows_read\": %lld, \"rows_kept\": %lld, \"rows_dropped\": %lld, "
                  "\"rows_masked\": %lld, \"tokens\": %lld, \"supervised_tokens\": %lld, \"seconds\": ",
                  DATA_REPORT_VERSION, (long long)report->rows_read, (long long)report->rows_kept,
                  (long long)report->rows_dropped, (long long)report->rows_masked, (long long)report->tokens,
                  (long long)report->supervised_tokens);
    js_write_double(out, report->seconds);
    put_sources(out, report);
    put_problems(out, report);
    put_histogram(out, "row_tokens", &report->row_tokens);
    put_histogram(out, "answer_tokens", &report->answer_tokens);
    if (report->duplicates_known) {
        const struct duplicates *d = &report->duplicates;
        strbuf_printf(out,
                      ",\n \"duplicates\": {\"rows\": %lld, \"exact_rows\": %lld, \"exact_groups\": %lld, "
                      "\"near_rows\": %lld, \"near_groups\": %lld",
                      (long long)d->rows, (long long)d->exact_rows, (long long)d->exact_groups,
                      (long long)d->near_rows, (long long)d->near_groups);
        put_pairs(out, "exact", report->exact_pair, d->n_exact);
        put_pairs(out, "near", report->near_pair, d->n_near);
        strbuf_putc(out, '}');
    }
    if (report->overlap_known) {
        const struct overlap *o = &report->overlap;
        strbuf_printf(out, ",\n \"overlap\": {\"rows\": %lld, \"exact_rows\": %lld, \"near_rows\": %lld",
                      (long long)o->rows, (long long)o->exact_rows, (long long)o->near_rows);
        put_pairs(out, "pairs", report->overlap_pair, o->n_pairs);
        strbuf_putc(out, '}');
    }
    strbuf_puts(out, "}\n");
}

/* ---- reading ---- */

struct reader {
    const char *name; /* of the text, for messages */
    struct data_report *report;
};

static enum status bad(const struct reader *reader, const char *what)
{
    return FAIL(LORAD_DATA, "%s: %s is damaged: remove it, and the data is prepared again", reader->name,
                what);
}

/* Numbers by key; the table keeps the names beside the fields. */
struct number_field {
    const char *key;
    int64_t *to;
};

static enum status get_numbers(const struct reader *reader, const struct json *object,
                               const struct number_field *field, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        TRY(js_need_int(field[i].to, object, field[i].key, reader->name));
        if (*field[i].to < 0 || *field[i].to > most_count) return bad(reader, field[i].key);
    }
    return LORAD_OK;
}

#define GET_NUMBERS(reader, object, ...)                                                                     \
    get_numbers((reader), (object), (const struct number_field[]){__VA_ARGS__},                              \
                sizeof((const struct number_field[]){__VA_ARGS__}) / sizeof(struct number_field))

/* In which files a place may lie: of the report itself, or (files < 0) of another one. */
static enum status get_place(const struct reader *reader, struct report_place *out, const struct json *value,
                             int32_t files)
{
    int64_t file = js_int(js_at(value, 2), -1);
    out->row = js_int(js_at(value, 0), -1);
    out->line = js_int(js_at(value, 1), -1);
    if (js_length(value) != 3 || out->row < 0 || out->line < 0 || file < 0 || file > INT32_MAX ||
        (files >= 0 && file >= files))
        return bad(reader, "a place");
    out->file = (int32_t)file;
    return LORAD_OK;
}

static enum status get_places(const struct reader *reader, struct report_place *first, int32_t *n,
                              int32_t most, const struct json *array, int64_t rows)
{
    size_t length = js_length(array);
    if (!array || js_type(array) != JS_ARRAY || length > (size_t)most || (int64_t)length > rows)
        return bad(reader, "a list of places");
    for (size_t i = 0; i < length; i++) {
        TRY(get_place(reader, &first[i], js_at(array, i), reader->report->n_files));
        if (i > 0 && first[i].row < first[i - 1].row) return bad(reader, "the order of places");
    }
    *n = (int32_t)length;
    return LORAD_OK;
}

static enum status get_pairs(const struct reader *reader, struct report_pair *pairs, int32_t *n,
                             const struct json *object, const char *key, int32_t files)
{
    const struct json *array;
    TRY(js_need(&array, object, key, JS_ARRAY, reader->name));
    size_t length = js_length(array);
    if (length > DUPLICATE_PAIRS) return bad(reader, key);
    for (size_t i = 0; i < length; i++) {
        const struct json *pair = js_at(array, i);
        if (js_length(pair) != 3) return bad(reader, key);
        TRY(get_place(reader, &pairs[i].place, js_at(pair, 0), reader->report->n_files));
        TRY(get_place(reader, &pairs[i].of, js_at(pair, 1), files));
        pairs[i].similarity = js_real(js_at(pair, 2), -1);
        if (!(pairs[i].similarity >= 0 && pairs[i].similarity <= 1)) return bad(reader, key);
    }
    *n = (int32_t)length;
    return LORAD_OK;
}

static enum status get_histogram(const struct reader *reader, struct length_histogram *h,
                                 const struct json *document, const char *key)
{
    const struct json *object, *bins;
    int64_t shortest, longest, rows = 0, before = -1;
    TRY(js_need(&object, document, key, JS_OBJECT, reader->name));
    TRY(GET_NUMBERS(reader, object, {"rows", &h->n}, {"sum", &h->sum}, {"shortest", &shortest},
                    {"longest", &longest}));
    TRY(js_need(&bins, object, "bins", JS_ARRAY, reader->name));
    for (size_t i = 0; i < js_length(bins); i++) {
        int64_t bin = js_int(js_at(js_at(bins, i), 0), -1), count = js_int(js_at(js_at(bins, i), 1), -1);
        if (bin <= before || bin >= HISTOGRAM_BINS || count < 0 || count > h->n - rows)
            return bad(reader, key);
        before = bin;
        h->count[bin] = count;
        rows += count;
    }
    if (rows != h->n || shortest > longest || longest > INT32_MAX) return bad(reader, key);
    h->shortest = (int32_t)shortest;
    h->longest = (int32_t)longest;
    return LORAD_OK;
}

static enum status get_groups(const struct reader *reader, const struct json *groups,
                              const struct json *files)
{
    struct data_report *report = reader->report;
    int64_t group;
    const char *name;
    report->group = memory_new(js_length(groups), sizeof *report->group);
    report->file = memory_new(js_length(files), sizeof *report->file);
    if (!report->group || !report->file) return LORAD_NOMEM;
    for (size_t i = 0; i < js_length(groups); i++) {
        const struct json *entry = js_at(groups, i);
        struct report_group *g = &report->group[i];
        TRY(js_need_string(&name, entry, "name", reader->name));
        TRY(GET_NUMBERS(reader, entry, {"rows_read", &g->rows_read}, {"rows_kept", &g->rows_kept},
                        {"tokens", &g->tokens}, {"supervised_tokens", &g->supervised_tokens}));
        if (!(g->name = memory_string(name))) return LORAD_NOMEM;
        report->n_groups++;
    }
    for (size_t i = 0; i < js_length(files); i++) {
        const struct json *entry = js_at(files, i);
        TRY(js_need_string(&name, entry, "name", reader->name));
        TRY(js_need_int(&group, entry, "group", reader->name));
        if (group < 0 || group >= report->n_groups) return bad(reader, "files");
        report->file[i].group = (int32_t)group;
        if (!(report->file[i].name = memory_string(name))) return LORAD_NOMEM;
        report->n_files++;
    }
    return LORAD_OK;
}

static enum status get_problems(const struct reader *reader, const struct json *problems,
                                const struct json *findings)
{
    struct data_report *report = reader->report;
    for (int i = 0; i < ROW_PROBLEMS; i++) {
        const struct json *entry = js_get(problems, row_problem_name((enum row_problem)i));
        struct report_places *places = &report->problem[i];
        if (!entry) continue;
        TRY(GET_NUMBERS(reader, entry, {"rows", &places->rows}));
        TRY(get_places(reader, places->first, &places->n, REPORT_PLACES, js_get(entry, "places"),
                       places->rows));
    }
    for (int i = 0; i < FINDINGS; i++) {
        const struct json *entry = js_get(findings, finding_key((enum finding_kind)i));
        struct report_places *places = &report->finding[i];
        if (!entry) continue;
        TRY(GET_NUMBERS(reader, entry, {"rows", &places->rows}, {"count", &report->finding_count[i]}));
        TRY(get_places(reader, places->first, &places->n, REPORT_PLACES, js_get(entry, "places"),
                       places->rows));
    }
    return LORAD_OK;
}

static enum status get_words(const struct reader *reader, const struct json *words)
{
    struct data_report *report = reader->report;
    size_t n = js_length(words);
    int64_t number;
    const char *text;
    void *block = NULL;
    TRY(memory_grow(&block, &report->word_capacity, n + 1, sizeof *report->word));
    report->word = block;
    for (size_t i = 0; i < n; i++) {
        const struct json *entry = js_at(words, i);
        struct report_word *word = &report->word[i];
        *word = (struct report_word){0};
        TRY(js_need_string(&text, entry, "text", reader->name));
        TRY(GET_NUMBERS(reader, entry, {"number", &number}, {"rows", &word->rows}, {"count", &word->count}));
        if (number > INT32_MAX || (i > 0 && number <= word[-1].word)) return bad(reader, "words");
        word->word = (int32_t)number;
        TRY(get_places(reader, word->first, &word->n, REPORT_WORD_PLACES, js_get(entry, "places"),
                       word->rows));
        if (!(word->text = memory_string(text))) return LORAD_NOMEM;
        report->n_words++;
    }
    return LORAD_OK;
}

static enum status get_duplicates(const struct reader *reader, const struct json *document)
{
    struct data_report *report = reader->report;
    const struct json *value = js_get(document, "duplicates");
    if (value) {
        struct duplicates *d = &report->duplicates;
        report->duplicates_known = true;
        TRY(GET_NUMBERS(reader, value, {"rows", &d->rows}, {"exact_rows", &d->exact_rows},
                        {"exact_groups", &d->exact_groups}, {"near_rows", &d->near_rows},
                        {"near_groups", &d->near_groups}));
        TRY(get_pairs(reader, report->exact_pair, &d->n_exact, value, "exact", report->n_files));
        TRY(get_pairs(reader, report->near_pair, &d->n_near, value, "near", report->n_files));
    }
    if (!(value = js_get(document, "overlap"))) return LORAD_OK;
    struct overlap *o = &report->overlap;
    report->overlap_known = true;
    TRY(GET_NUMBERS(reader, value, {"rows", &o->rows}, {"exact_rows", &o->exact_rows},
                    {"near_rows", &o->near_rows}));
    return get_pairs(reader, report->overlap_pair, &o->n_pairs, value, "pairs", -1);
}

/* The raw numbers of the pairs stand in their places. */
static void number_pairs(struct duplicate_pair *to, const struct report_pair *from, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        to[i] = (struct duplicate_pair){from[i].place.row, from[i].of.row, from[i].similarity};
}

static enum status get_report(const struct reader *reader, const struct json *document)
{
    struct data_report *report = reader->report;
    const struct json *groups, *files, *problems, *findings, *words;
    if (js_int(js_get(document, "version"), 0) != DATA_REPORT_VERSION)
        return FAIL(LORAD_DATA, "%s: no report of version %d", reader->name, DATA_REPORT_VERSION);
    TRY(GET_NUMBERS(reader, document, {"rows_read", &report->rows_read}, {"rows_kept", &report->rows_kept},
                    {"rows_dropped", &report->rows_dropped}, {"rows_masked", &report->rows_masked},
                    {"tokens", &report->tokens}, {"supervised_tokens", &report->supervised_tokens}));
    TRY(js_need_real(&report->seconds, document, "seconds", reader->name));
    TRY(js_need(&groups, document, "groups", JS_ARRAY, reader->name));
    TRY(js_need(&files, document, "files", JS_ARRAY, reader->name));
    TRY(js_need(&problems, document, "problems", JS_OBJECT, reader->name));
    TRY(js_need(&findings, document, "findings", JS_OBJECT, reader->name));
    TRY(js_need(&words, document, "words", JS_ARRAY, reader->name));
    TRY(get_groups(reader, groups, files));
    TRY(get_problems(reader, problems, findings));
    TRY(get_words(reader, words));
    TRY(get_histogram(reader, &report->row_tokens, document, "row_tokens"));
    TRY(get_histogram(reader, &report->answer_tokens, document, "answer_tokens"));
    TRY(get_duplicates(reader, document));
    if (report->rows_read - report->rows_kept != report->rows_dropped ||
        report->row_tokens.n != report->rows_kept || report->row_tokens.sum != report->tokens)
        return bad(reader, "the sum of the rows");
    number_pairs(report->duplicates.exact, report->exact_pair, report->duplicates.n_exact);
    number_pairs(report->duplicates.near, report->near_pair, report->duplicates.n_near);
    number_pairs(report->overlap.pair, report->overlap_pair, report->overlap.n_pairs);
    return LORAD_OK;
}

enum status data_report_read(struct data_report **out, const char *text, size_t length, const char *name)
{
    struct json *document;
    struct data_report *report = memory_new(1, sizeof *report);
    if (!report) return LORAD_NOMEM;
    enum status status = js_parse(&document, text, length, name);
    if (status == LORAD_OK) {
        struct reader reader = {name, report};
        status = get_report(&reader, document);
        js_destroy(document);
    }
    if (status == LORAD_OK)
        *out = report;
    else
        data_report_destroy(report);
    return status;
}
