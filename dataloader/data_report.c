/* data_report.c: adding rows up. The rules are in data_report.h. */
#include "dataloader/data_report.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

/* File names may be any bytes; what is written and shown is UTF-8. */
static char *copy_name(const char *name)
{
    struct strbuf text = STRBUF_EMPTY;
    utf8_add_lossy(&text, name, strlen(name));
    char *copy = strbuf_status(&text) == LORAD_OK ? memory_string(strbuf_text(&text)) : NULL;
    strbuf_free(&text);
    return copy;
}

static enum status copy_names(struct data_report *report, const char *const *groups, const char *const *files,
                              const int32_t *group_of)
{
    for (int32_t i = 0; i < report->n_groups; i++)
        if (!(report->group[i].name = copy_name(groups[i]))) return LORAD_NOMEM;
    for (int32_t i = 0; i < report->n_files; i++) {
        if (!(report->file[i].name = copy_name(files[i]))) return LORAD_NOMEM;
        report->file[i].group = group_of[i];
    }
    return LORAD_OK;
}

enum status data_report_create(struct data_report **out, const char *const *groups, int32_t n_groups,
                               const char *const *files, const int32_t *group_of, int32_t n_files)
{
    struct data_report *report = memory_new(1, sizeof *report);
    if (!report) return LORAD_NOMEM;
    report->group = memory_new((size_t)n_groups, sizeof *report->group);
    report->file = memory_new((size_t)n_files, sizeof *report->file);
    report->n_groups = report->group ? n_groups : 0;
    report->n_files = report->file ? n_files : 0;
    enum status status = report->group && report->file ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) status = copy_names(report, groups, files, group_of);
    if (status != LORAD_OK) {
        data_report_destroy(report);
        return status;
    }
    *out = report;
    return LORAD_OK;
}

void data_report_destroy(struct data_report *report)
{
    if (!report) return;
    for (int32_t i = 0; i < report->n_groups; i++) free(report->group[i].name);
    for (int32_t i = 0; i < report->n_files; i++) free(report->file[i].name);
    for (size_t i = 0; i < report->n_words; i++) free(report->word[i].text);
    free(report->group);
    free(report->file);
    free(report->word);
    free(report);
}

/* ---- places and words ---- */

/* Keeps the `most` places with the smallest rows, by row. */
static void insert_place(struct report_place *first, int32_t *n, int32_t most,
                         const struct report_place *place)
{
    int32_t at = *n;
    if (at == most && place->row >= first[at - 1].row) return;
    if (at == most)
        at--;
    else
        (*n)++;
    for (; at > 0 && first[at - 1].row > place->row; at--) first[at] = first[at - 1];
    first[at] = *place;
}

static void add_place(struct report_places *places, const struct report_place *place)
{
    places->rows++;
    insert_place(places->first, &places->n, REPORT_PLACES, place);
}

/* The entry of this word, made when it is new. */
static enum status find_word(struct report_word **out, struct data_report *report, int32_t word,
                             const char *text)
{
    size_t low = 0, high = report->n_words;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (report->word[middle].word < word)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == report->n_words || report->word[low].word != word) {
        void *block = report->word;
        TRY(memory_grow(&block, &report->word_capacity, report->n_words + 1, sizeof *report->word));
        report->word = block;
        char *copy = memory_string(text);
        if (!copy) return LORAD_NOMEM;
        memmove(report->word + low + 1, report->word + low, (report->n_words - low) * sizeof *report->word);
        report->n_words++;
        report->word[low] = (struct report_word){.text = copy, .word = word};
    }
    *out = &report->word[low];
    return LORAD_OK;
}

static enum status add_findings(struct data_report *report, const struct report_row *row,
                                const struct word_list *words)
{
    bool seen[FINDINGS] = {false};
    for (size_t i = 0; i < row->n_findings; i++) {
        const struct finding *finding = &row->findings[i];
        report->finding_count[finding->kind] += finding->count;
        if (!seen[finding->kind]) add_place(&report->finding[finding->kind], &row->place);
        seen[finding->kind] = true;
        if (finding->kind != FINDING_WORD) continue;
        struct report_word *word;
        TRY(find_word(&word, report, finding->word, words ? word_list_word(words, finding->word) : ""));
        word->rows++;
        word->count += finding->count;
        insert_place(word->first, &word->n, REPORT_WORD_PLACES, &row->place);
    }
    return LORAD_OK;
}

/* ---- rows ---- */

enum status data_report_add(struct data_report *report, const struct report_row *row,
                            const struct word_list *words)
{
    struct report_group *group = &report->group[report->file[row->place.file].group];
    TRY(add_findings(report, row, words));
    report->rows_read++;
    group->rows_read++;
    report->rows_masked += row->masked;
    if (row->problem != ROW_PROBLEMS) add_place(&report->problem[row->problem], &row->place);
    if (row->n_tokens == 0) {
        report->rows_dropped++;
        return LORAD_OK;
    }
    report->rows_kept++;
    report->tokens += row->n_tokens;
    report->supervised_tokens += row->n_supervised;
    group->rows_kept++;
    group->tokens += row->n_tokens;
    group->supervised_tokens += row->n_supervised;
    length_histogram_add(&report->row_tokens, row->n_tokens);
    length_histogram_add(&report->answer_tokens, row->n_supervised);
    return LORAD_OK;
}

/* ---- duplicates ---- */

static void name_pairs(struct report_pair *out, const struct duplicate_pair *pairs, int32_t n,
                       report_place_of *place, void *context, report_place_of *of, void *of_context)
{
    for (int32_t i = 0; i < n; i++) {
        out[i].place = place(context, pairs[i].row);
        out[i].of = of(of_context, pairs[i].of_row);
        out[i].similarity = pairs[i].similarity;
    }
}

void data_report_set_duplicates(struct data_report *report, const struct duplicates *duplicates,
                                report_place_of *place, void *context)
{
    report->duplicates_known = true;
    report->duplicates = *duplicates;
    name_pairs(report->exact_pair, duplicates->exact, duplicates->n_exact, place, context, place, context);
    name_pairs(report->near_pair, duplicates->near, duplicates->n_near, place, context, place, context);
}

void data_report_set_overlap(struct data_report *eval, const struct overlap *overlap, report_place_of *place,
                             void *context, report_place_of *train_place, void *train_context)
{
    eval->overlap_known = true;
    eval->overlap = *overlap;
    name_pairs(eval->overlap_pair, overlap->pair, overlap->n_pairs, place, context, train_place,
               train_context);
}
