/* data_report_text.c: a data report for a terminal. Names come last in a line: they may be wide, and of any
 * length. */
#include "dataloader/data_report.h"

#include <stdlib.h>
#include <string.h>

enum { SHOWN_PLACES = 3, SHOWN_PAIRS = 5, SHOWN_WORDS = 10, COUNT_COLUMNS = 13 };

static void put_count(struct strbuf *out, int64_t count)
{
    struct strbuf number = STRBUF_EMPTY;
    length_histogram_number(&number, count);
    strbuf_printf(out, "%*s", COUNT_COLUMNS, strbuf_text(&number));
    strbuf_free(&number);
}

static void put_place(struct strbuf *out, const struct data_report *report, const struct report_place *place)
{
    bool known = report && place->file >= 0 && place->file < report->n_files;
    strbuf_printf(out, "%s:%lld", known ? report->file[place->file].name : "?", (long long)place->line);
}

/* a.jsonl:3, 17, b.jsonl:2, ... */
static void put_places(struct strbuf *out, const struct data_report *report, const struct report_place *first,
                       int32_t n, int64_t rows)
{
    for (int32_t i = 0; i < n && i < SHOWN_PLACES; i++) {
        strbuf_puts(out, i > 0 ? ", " : "");
        if (i > 0 && first[i].file == first[i - 1].file)
            strbuf_printf(out, "%lld", (long long)first[i].line);
        else
            put_place(out, report, &first[i]);
    }
    if (rows > SHOWN_PLACES) strbuf_puts(out, ", ...");
    strbuf_putc(out, '\n');
}

static double percent(int64_t part, int64_t whole)
{
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0;
}

static void put_totals(struct strbuf *out, const struct data_report *report)
{
    put_count(out, report->rows_read);
    strbuf_puts(out, "  rows read\n");
    put_count(out, report->rows_kept);
    strbuf_printf(out, "  kept (%.1f %%)", percent(report->rows_kept, report->rows_read));
    if (report->rows_masked > 0) {
        strbuf_puts(out, ", of which ");
        length_histogram_number(out, report->rows_masked);
        strbuf_puts(out, " with placeholders for personal data");
    }
    strbuf_putc(out, '\n');
    put_count(out, report->tokens);
    strbuf_puts(out, "  tokens\n");
    put_count(out, report->supervised_tokens);
    strbuf_printf(out, "  supervised (%.1f %%)\n", percent(report->supervised_tokens, report->tokens));
}

static void put_problems(struct strbuf *out, const struct data_report *report)
{
    const char *title = "\nRows dropped or changed\n";
    for (int i = 0; i < ROW_PROBLEMS; i++) {
        const struct report_places *places = &report->problem[i];
        if (places->rows == 0) continue;
        strbuf_puts(out, title);
        title = "";
        put_count(out, places->rows);
        strbuf_printf(out, "  %s: ", row_problem_name((enum row_problem)i));
        put_places(out, report, places->first, places->n, places->rows);
    }
}

static void put_findings(struct strbuf *out, const struct data_report *report)
{
    const char *title = "\nFound in rows\n";
    for (int i = 0; i < FINDINGS; i++) {
        const struct report_places *places = &report->finding[i];
        if (places->rows == 0) continue;
        strbuf_puts(out, title);
        title = "";
        put_count(out, report->finding_count[i]);
        enum finding_kind kind = (enum finding_kind)i;
        strbuf_printf(out, "  %s in ",
                      report->finding_count[i] == 1 ? finding_name(kind) : finding_names(kind));
        length_histogram_number(out, places->rows);
        strbuf_puts(out, places->rows == 1 ? " row: " : " rows: ");
        put_places(out, report, places->first, places->n, places->rows);
    }
}

static int by_count(const void *a, const void *b)
{
    const struct report_word *x = *(const struct report_word *const *)a,
                             *y = *(const struct report_word *const *)b;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    return x->word < y->word ? -1 : 1;
}

const struct report_word **data_report_words(const struct data_report *report)
{
    const struct report_word **sorted = calloc(report->n_words + 1, sizeof *sorted);
    if (!sorted) return NULL;
    for (size_t i = 0; i < report->n_words; i++) sorted[i] = &report->word[i];
    qsort(sorted, report->n_words, sizeof *sorted, by_count);
    return sorted;
}

static void put_words(struct strbuf *out, const struct data_report *report)
{
    const struct report_word **sorted = data_report_words(report);
    for (size_t i = 0; sorted && i < report->n_words && i < SHOWN_WORDS; i++) {
        const struct report_word *word = sorted[i];
        if (i == 0) strbuf_puts(out, "\nListed words\n");
        put_count(out, word->count);
        strbuf_printf(out, "  %s: ", word->text);
        put_places(out, report, word->first, word->n, word->rows);
    }
    if (sorted && report->n_words > SHOWN_WORDS)
        strbuf_printf(out, "%*s  and %zu more words\n", COUNT_COLUMNS, "", report->n_words - SHOWN_WORDS);
    free(sorted);
}

static void put_pairs(struct strbuf *out, const struct data_report *report, const struct data_report *other,
                      const struct report_pair *pairs, int32_t n, bool exact)
{
    for (int32_t i = 0; i < n && i < SHOWN_PAIRS; i++) {
        strbuf_printf(out, "%*s  ", COUNT_COLUMNS, "");
        put_place(out, report, &pairs[i].place);
        strbuf_puts(out, exact ? " = " : " ~ ");
        put_place(out, other, &pairs[i].of);
        if (!exact) strbuf_printf(out, " (%.2f)", pairs[i].similarity);
        strbuf_putc(out, '\n');
    }
}

static void put_duplicates(struct strbuf *out, const struct data_report *report,
                           const struct data_report *train)
{
    const struct duplicates *d = &report->duplicates;
    const struct overlap *o = &report->overlap;
    if (report->duplicates_known && d->exact_rows + d->near_rows > 0) {
        strbuf_puts(out, "\nDuplicates\n");
        put_count(out, d->exact_rows);
        strbuf_printf(out, "  rows repeat an earlier one exactly (%lld groups)\n",
                      (long long)d->exact_groups);
        put_pairs(out, report, report, report->exact_pair, d->n_exact, true);
        put_count(out, d->near_rows);
        strbuf_printf(out, "  more repeat one nearly (%lld groups; similarity in brackets)\n",
                      (long long)d->near_groups);
        put_pairs(out, report, report, report->near_pair, d->n_near, false);
    }
    if (report->overlap_known && o->exact_rows + o->near_rows > 0) {
        strbuf_puts(out, "\nEvaluation rows that are in the training data\n");
        put_count(out, o->exact_rows);
        strbuf_puts(out, "  exactly\n");
        put_count(out, o->near_rows);
        strbuf_puts(out, "  nearly\n");
        put_pairs(out, report, train, report->overlap_pair, o->n_pairs, false);
    }
}

static void put_groups(struct strbuf *out, const struct data_report *report)
{
    if (report->n_groups < 2) return;
    strbuf_printf(out, "\nSources\n%*s  %*s  share  supervised\n", COUNT_COLUMNS, "rows", COUNT_COLUMNS,
                  "tokens");
    for (int32_t i = 0; i < report->n_groups; i++) {
        const struct report_group *group = &report->group[i];
        put_count(out, group->rows_kept);
        strbuf_puts(out, "  ");
        put_count(out, group->tokens);
        strbuf_printf(out, " %4.1f %%      %4.1f %%  %s\n", percent(group->tokens, report->tokens),
                      percent(group->supervised_tokens, group->tokens), group->name);
    }
}

void data_report_text(const struct data_report *report, const struct data_report *train, int32_t columns,
                      bool utf8, struct strbuf *out)
{
    put_totals(out, report);
    put_groups(out, report);
    put_problems(out, report);
    put_findings(out, report);
    put_words(out, report);
    put_duplicates(out, report, train);
    strbuf_putc(out, '\n');
    length_histogram_draw(&report->row_tokens, "Tokens of a row", columns, utf8, out);
    strbuf_putc(out, '\n');
    length_histogram_draw(&report->answer_tokens, "Supervised tokens of a row", columns, utf8, out);
}
