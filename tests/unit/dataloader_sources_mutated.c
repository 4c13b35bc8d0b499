/*
 * Ten thousand mutated rows of every format: bits flipped, bytes replaced, pieces lost, doubled, moved and
 * exchanged. Whatever comes of it, the rows that the boundary scan sees are slices in order, and each is
 * either kept, and then all that is promised of a good row holds, or rejected with a reason.
 */
#include "support/test.h"

#include <stdlib.h>

#include "base/file.h"
#include "base/random.h"
#include "base/utf8.h"
#include "dataloader/sources.h"

enum { MUTATED_ROWS = 10000, MOST_ROWS = 400, PIECE = 24 };

struct tally {
    int64_t mutated, seen, kept, rejected;
    int64_t by[ROW_PROBLEMS + 1];
};

/* ---- mutations ---- */

/* Changes text[from, from + *length) in place; there is room for PIECE bytes more behind *whole. */
static void mutate(char *text, size_t *whole, size_t from, size_t *length, uint64_t row, uint64_t k)
{
    struct random_block dice = random_philox(7, row, k);
    if (*length == 0) return;
    size_t at = from + dice.word[0] % *length, end = from + *length, n = 1 + dice.word[1] % PIECE;
    /* Half of them where brackets, quotes and separators are: most of the text is Chinese. */
    for (size_t i = 0; k % 2 == 0 && i < *length && text[at] & 0x80; i++) at = at + 1 < end ? at + 1 : from;
    size_t other = from + dice.word[3] % *length;
    static const char special[] = "\"\\{}[],:\n\r\0\xff\xe4\xed\t;";
    switch (dice.word[2] % 7) {
    case 0:
        text[at] = (char)(dice.word[3] % (k % 2 == 0 ? 128 : 256));
        break;
    case 1:
        text[at] ^= (char)(1 << dice.word[3] % 8);
        break;
    case 2:
        text[at] = special[dice.word[3] % (sizeof special - 1)];
        break;
    case 3: /* a piece lost */
    case 4: /* the rest lost */
        if (dice.word[2] % 7 == 4 || n > end - at) n = end - at;
        while (k % 2 == 0 && at + n < end && (text[at + n] & 0xC0) == 0x80) n++; /* whole characters */
        memmove(text + at, text + at + n, *whole - at - n);
        *whole -= n;
        *length -= n;
        break;
    case 5: /* a piece twice */
        if (n > end - at) n = end - at;
        while (k % 2 == 0 && n > 1 && at + n < end && (text[at + n] & 0xC0) == 0x80) n--;
        memmove(text + at + n, text + at, *whole - at);
        *whole += n;
        *length += n;
        break;
    case 6: /* two bytes exchanged */
        n = (unsigned char)text[at];
        text[at] = text[other];
        text[other] = (char)n;
        break;
    }
}

/* ---- reading ---- */

static void check_row(const struct parsed_row *row, struct tally *tally)
{
    size_t bad;
    assert_in_range(row->problem, 0, ROW_PROBLEMS);
    tally->by[row->problem]++;
    if (row->problem != ROW_PROBLEMS) {
        assert_true(row->detail.length > 0);
        assert_true(utf8_valid(row->detail.data, row->detail.length, &bad));
        tally->rejected++;
        return;
    }
    tally->kept++;
    assert_true(row->n >= 1 && row->messages[row->n - 1].role == ROLE_ASSISTANT);
    assert_true(row->is_text || row->n >= 2);
    for (size_t k = 0; k < row->n; k++)
        assert_true(utf8_valid(row->messages[k].content, row->messages[k].length, &bad));
}

/* `text` is exactly as large as it says, so that a sanitizer sees any read behind its end. */
static void read_all(const struct source_format *format, const struct dataset_source *source,
                     const char *text, size_t length, struct tally *tally)
{
    static struct raw_row raw[4 * MOST_ROWS];
    const struct source_input input = {text, length, "rows", source, true};
    struct source_cursor cursor = {text, text + length, 1};
    struct parsed_row row = {0};
    void *context = NULL;
    size_t n = 0, end = 0;
    int64_t line = 1;
    (void)format->detect(&input);
    assert_ok(format->open(&context, &input));
    for (; format->next(context, &cursor, &raw[n]); n++) {
        size_t begin = (size_t)(raw[n].text - text);
        assert_true(n + 1 < sizeof raw / sizeof *raw);
        assert_true(begin + 1 >= end && begin + raw[n].length <= length && raw[n].line >= line);
        end = begin + raw[n].length;
        line = raw[n].line;
    }
    assert_false(format->next(context, &cursor, &raw[n]));
    tally->seen += (int64_t)n;
    for (size_t i = n; i-- > 0;) { /* in any order */
        assert_ok(source_parse_row(format, context, &raw[i], &row));
        check_row(&row, tally);
    }
    format->close(context);
    parsed_row_free(&row);
}

/* ---- */

struct base {
    char *text;
    size_t length;
    size_t from[MOST_ROWS], size[MOST_ROWS];
    size_t n;
};

/* The rows of the file, as large as it takes. */
static void find_rows(struct base *base, const struct source_format *format,
                      const struct dataset_source *source)
{
    const struct source_input input = {base->text, base->length, source->path, source, true};
    struct source_cursor cursor = {base->text, base->text + base->length, 1};
    struct raw_row raw;
    void *context = NULL;
    assert_true(format->detect(&input));
    assert_ok(format->open(&context, &input));
    for (base->n = 0; base->n < MOST_ROWS && format->next(context, &cursor, &raw); base->n++) {
        base->from[base->n] = (size_t)(raw.text - base->text);
        base->size[base->n] = raw.length;
    }
    format->close(context);
}

static void mutate_file(const struct source_format *format, const struct dataset_source *source,
                        int64_t wanted)
{
    struct base base;
    struct tally tally = {0};
    assert_ok(file_read(&base.text, &base.length, source->path, 1 << 20));
    if (memcmp(base.text, "\xEF\xBB\xBF", 3) == 0) memmove(base.text, base.text + 3, base.length -= 3);
    find_rows(&base, format, source);
    assert_true(base.n >= 2);
    while (tally.mutated < wanted || tally.seen < wanted) {
        size_t length = base.length, grown = 0;
        char *text = malloc(length + base.n * 3 * PIECE);
        memcpy(text, base.text, length);
        for (size_t i = 0; i < base.n; i++) {
            size_t size = base.size[i], from = base.from[i] + grown;
            size_t before = size;
            for (uint64_t k = 0; k <= (uint64_t)tally.mutated % 3; k++)
                mutate(text, &length, from, &size, (uint64_t)tally.mutated, k);
            grown += size - before; /* wraps when it shrinks, and back */
            tally.mutated++;
        }
        char *exact = malloc(length);
        memcpy(exact, text, length);
        free(text);
        read_all(format, source, exact, length, &tally);
        free(exact);
    }
    free(base.text);
    assert_int_equal(tally.kept + tally.rejected, tally.seen);
    assert_true(tally.kept > 0 && tally.rejected > wanted / 200);
    printf("%-8s %s: %lld rows mutated, %lld seen, %lld kept, %lld rejected:", format->name,
           strrchr(source->path, '/') + 1, (long long)tally.mutated, (long long)tally.seen,
           (long long)tally.kept, (long long)tally.rejected);
    for (int i = 0; i < ROW_PROBLEMS; i++)
        if (tally.by[i]) printf(" %s %lld,", row_problem_name((enum row_problem)i), (long long)tally.by[i]);
    printf("\n");
}

static void ten_thousand_mutated_rows_of_every_format(void **state)
{
    (void)state;
    const struct source_columns qa = {.prompt = "QUES", .response = "ANS"};
    const struct {
        const struct source_format *format;
        struct dataset_source source;
    } files[] = {
        {&source_messages, {.path = LORAD_TEST_DATA "/bad-rows/rows.jsonl"}},
        {&source_messages, {.path = LORAD_TEST_DATA "/sources/messages.json"}},
        {&source_sharegpt, {.path = LORAD_TEST_DATA "/sources/sharegpt.json"}},
        {&source_alpaca, {.path = LORAD_TEST_DATA "/sources/alpaca.json"}},
        {&source_csv, {.path = LORAD_TEST_DATA "/sources/fintruthqa.csv", .columns = qa}},
        {&source_tsv, {.path = LORAD_TEST_DATA "/sources/qa.tsv"}},
        {&source_qa_text, {.path = LORAD_TEST_DATA "/sources/qa.txt"}},
        {&source_text, {.path = LORAD_TEST_DATA "/sources/text.jsonl"}},
        {&source_text, {.path = LORAD_TEST_DATA "/sources/documents.txt"}},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        mutate_file(files[i].format, &files[i].source, MUTATED_ROWS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ten_thousand_mutated_rows_of_every_format)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
