#include "support/test.h"

#include "base/random.h"
#include "base/utf8.h"
#include "dataloader/report_html.h"

static const char *const groups[] = {"stage <1> & \"co\"", "二"};
static const char *const files[] = {"a.jsonl", "目录/b.jsonl", "bad\xFF<script>.txt"};
static const int32_t group_of[] = {0, 1, 1};

enum { ROWS = 3000 };

static struct data_report *fresh(void)
{
    struct data_report *report;
    assert_ok(data_report_create(&report, groups, 2, files, group_of, 3));
    return report;
}

/* Row number -> everything about it. */
static void add_row(struct data_report *report, int64_t row, const struct word_list *words)
{
    struct random_block dice = random_philox(21, 0, (uint64_t)row);
    struct finding findings[3];
    struct report_row r = {.place = {row, row / 3 + 1, (int32_t)(row % 3)}, .problem = ROW_PROBLEMS};
    if (dice.word[0] % 5 == 0) r.problem = (enum row_problem)(dice.word[1] % ROW_PROBLEMS);
    bool kept = r.problem == ROW_PROBLEMS || r.problem == ROW_TRUNCATED;
    r.n_tokens = kept ? (int32_t)(2 + dice.word[2] % 900) : 0;
    r.n_supervised = r.n_tokens / 3;
    if (dice.word[3] % 7 == 0)
        findings[r.n_findings++] = (struct finding){.kind = FINDING_MOBILE, .count = 2};
    for (int32_t w = 0; w < 2; w++)
        if (dice.word[3] % 11 == (uint32_t)w || dice.word[3] % 13 == (uint32_t)w)
            findings[r.n_findings++] = (struct finding){.kind = FINDING_WORD, .word = w * 3, .count = 1 + w};
    r.masked = dice.word[3] % 7 == 0;
    r.findings = findings;
    assert_ok(data_report_add(report, &r, words));
}

static struct word_list *some_words(void)
{
    struct word_list *words;
    const char *text = "内幕\n乙\n丙\n<b>\n";
    assert_ok(word_list_parse(&words, text, strlen(text), "words"));
    return words;
}

static char *written(const struct data_report *report)
{
    struct strbuf text = STRBUF_EMPTY;
    data_report_write(report, &text);
    assert_ok(strbuf_status(&text));
    return text.data;
}

static struct data_report *filled(void)
{
    struct data_report *report = fresh();
    struct word_list *words = some_words();
    for (int64_t row = 0; row < ROWS; row++) add_row(report, row, words);
    word_list_free(words);
    return report;
}

static struct report_place place_of(void *context, int64_t row)
{
    (void)context;
    return (struct report_place){row, row / 3 + 1, (int32_t)(row % 3)};
}

static void set_duplicates(struct data_report *report, struct data_report *eval)
{
    struct duplicates duplicates = {
        .rows = 2400, .exact_rows = 3, .exact_groups = 2, .near_rows = 1, .near_groups = 1};
    duplicates.n_exact = 2;
    duplicates.exact[0] = (struct duplicate_pair){7, 5, 1};
    duplicates.exact[1] = (struct duplicate_pair){9, 5, 1};
    duplicates.n_near = 1;
    duplicates.near[0] = (struct duplicate_pair){11, 2, 0.8437254901960785};
    data_report_set_duplicates(report, &duplicates, place_of, NULL);
    struct overlap overlap = {
        .rows = 100, .exact_rows = 1, .near_rows = 0, .n_pairs = 1, .pair = {{4, 2000, 1}}};
    if (eval) data_report_set_overlap(eval, &overlap, place_of, NULL, place_of, NULL);
}

static void the_order_of_rows_is_nothing(void **state)
{
    (void)state;
    struct word_list *words = some_words();
    struct data_report *straight = filled(), *mixed = fresh();
    for (int64_t i = 0; i < ROWS; i++) add_row(mixed, (i * 1999 + 5) % ROWS, words); /* 1999: prime to ROWS */
    char *a = written(straight), *b = written(mixed);
    assert_string_equal(a, b);
    assert_int_equal(straight->rows_read, ROWS);
    assert_int_equal(straight->rows_read, straight->rows_kept + straight->rows_dropped);
    assert_int_equal(straight->group[0].rows_read + straight->group[1].rows_read, ROWS);
    assert_int_equal(straight->group[0].rows_read, ROWS / 3);
    assert_int_equal(straight->group[0].tokens + straight->group[1].tokens, straight->tokens);
    assert_int_equal(straight->finding_count[FINDING_MOBILE], 2 * straight->finding[FINDING_MOBILE].rows);
    assert_int_equal(straight->finding[FINDING_MOBILE].n, REPORT_PLACES);
    assert_int_equal(straight->n_words, 2);
    assert_string_equal(straight->word[1].text, "<b>");
    assert_int_equal(straight->word[1].count, 2 * straight->word[1].rows);
    free(a);
    free(b);
    data_report_destroy(straight);
    data_report_destroy(mixed);
    data_report_destroy(NULL);
    word_list_free(words);
}

static void interrupted_at_any_row_it_goes_on_the_same(void **state)
{
    (void)state;
    struct word_list *words = some_words();
    struct data_report *straight = filled(), *report = fresh();
    for (int64_t row = 0; row < ROWS; row++) {
        if (row % 487 == 0) { /* written, read, and on */
            char *text = written(report);
            data_report_destroy(report);
            assert_ok(data_report_read(&report, text, strlen(text), "report.json"));
            free(text);
        }
        add_row(report, row, words);
    }
    straight->seconds = report->seconds = 0.1 + 0.2;
    set_duplicates(straight, straight);
    set_duplicates(report, report);
    char *a = written(straight), *b = written(report);
    assert_string_equal(a, b);
    struct data_report *again;
    assert_ok(data_report_read(&again, a, strlen(a), "report.json"));
    char *c = written(again);
    assert_string_equal(a, c);
    assert_true(again->duplicates_known && again->overlap_known);
    assert_memory_equal(&again->duplicates, &straight->duplicates, sizeof again->duplicates);
    assert_memory_equal(&again->overlap, &straight->overlap, sizeof again->overlap);
    free(a);
    free(b);
    free(c);
    data_report_destroy(straight);
    data_report_destroy(report);
    data_report_destroy(again);
    word_list_free(words);
}

static void damaged_reports_are_refused(void **state)
{
    (void)state;
    struct data_report *report = filled(), *read = NULL;
    set_duplicates(report, report);
    char *text = written(report);
    size_t length = strlen(text);
    int refused = 0;
    assert_fails(data_report_read(&read, "{}", 2, "r"), LORAD_DATA, "r: no report of version");
    for (uint64_t i = 0; i < 3000; i++) {
        struct random_block dice = random_philox(6, 0, i);
        size_t at = dice.word[0] % length;
        char before = text[at];
        text[at] = "0123456789-,[]{}\"x"[dice.word[1] % 18];
        if (data_report_read(&read, text, length, "r") == LORAD_OK)
            data_report_destroy(read); /* another number, or a letter of a name */
        else
            refused++;
        text[at] = before;
        if (i % 10 == 0) assert_fails(data_report_read(&read, text, at, "r"), LORAD_DATA, "r");
    }
    assert_true(refused > 1000);
    free(text);
    data_report_destroy(report);
}

static void the_terminal_text_says_it_all(void **state)
{
    (void)state;
    struct data_report *report = filled();
    struct strbuf out = STRBUF_EMPTY;
    set_duplicates(report, report);
    data_report_text(report, report, 80, true, &out);
    const char *text = strbuf_text(&out);
    assert_non_null(strstr(text, "3,000  rows read\n"));
    assert_non_null(strstr(text, "  truncated: "));
    assert_non_null(strstr(text, "mobile phone numbers in "));
    assert_non_null(strstr(text, "  <b>: "));
    assert_non_null(strstr(text, "目录/b.jsonl:"));
    assert_non_null(strstr(text, "rows repeat an earlier one exactly (2 groups)"));
    assert_non_null(strstr(text, "bad\xEF\xBF\xBD<script>.txt:4 ~ bad\xEF\xBF\xBD<script>.txt:1 (0.84)"));
    assert_non_null(strstr(text, "Tokens of a row: median "));
    assert_true(utf8_valid(text, out.length, NULL));
    strbuf_free(&out);
    data_report_destroy(report);
}

/* Every < starts one of the page's own tags, and every tag that must be closed is. */
static void check_markup(const char *html)
{
    static const char *const known[] = {"!doctype html>",
                                        "html ",
                                        "head>",
                                        "meta ",
                                        "title>",
                                        "style>",
                                        "body>",
                                        "main>",
                                        "h1>",
                                        "h2>",
                                        "h3>",
                                        "p>",
                                        "p ",
                                        "div ",
                                        "b>",
                                        "span>",
                                        "table>",
                                        "tr>",
                                        "th>",
                                        "th ",
                                        "td ",
                                        "td>",
                                        "i ",
                                        "svg ",
                                        "line ",
                                        "g>",
                                        "rect ",
                                        "text ",
                                        "details>",
                                        "summary>",
                                        "section ",
                                        "footer>"};
    static const char *const closed[] = {"table",   "tr", "svg", "div", "details", "summary",
                                         "section", "p",  "td",  "g",   "main"};
    for (const char *at = html; (at = strchr(at, '<')) != NULL; at++) {
        const char *name = at[1] == '/' ? at + 2 : at + 1;
        bool ok = at[1] == '/';
        for (size_t i = 0; i < sizeof known / sizeof *known && !ok; i++)
            ok = strncmp(name, known[i], strlen(known[i])) == 0;
        if (!ok) fail_msg("an unknown tag: %.40s", at);
    }
    for (size_t i = 0; i < sizeof closed / sizeof *closed; i++) {
        int depth = 0;
        for (const char *at = html; (at = strchr(at, '<')) != NULL; at++) {
            bool end = at[1] == '/';
            const char *name = at + 1 + end;
            size_t n = strlen(closed[i]);
            if (strncmp(name, closed[i], n) == 0 && (name[n] == '>' || name[n] == ' ')) depth += end ? -1 : 1;
            assert_true(depth >= 0);
        }
        if (depth != 0) fail_msg("<%s> is not closed", closed[i]);
    }
}

static void the_page_is_whole_and_escaped(void **state)
{
    (void)state;
    struct data_report *report = filled(), *eval = filled(), *empty = fresh();
    struct strbuf out = STRBUF_EMPTY;
    set_duplicates(report, eval);
    const struct report_html_options options = {"a <title> & 'more'", "m\"odel", "chatml", 2048};
    report_html(&out, report, eval, &options);
    const char *html = strbuf_text(&out);
    check_markup(html);
    assert_true(utf8_valid(html, out.length, NULL));
    assert_null(strstr(html, "<script"));
    assert_non_null(strstr(html, "bad\xEF\xBF\xBD&lt;script&gt;.txt"));
    assert_non_null(strstr(html, "stage &lt;1&gt; &amp; &quot;co&quot;"));
    assert_non_null(strstr(html, "<td class=what>&lt;b&gt;</td>"));
    assert_non_null(strstr(html, "prefers-color-scheme:dark"));
    assert_null(strstr(html, "http"));
    assert_null(strstr(html, "src="));
    assert_true(out.length < 200000);
    strbuf_clear(&out);
    report_html(&out, empty, NULL, &(struct report_html_options){.title = NULL});
    check_markup(strbuf_text(&out));
    assert_non_null(strstr(strbuf_text(&out), "every row is kept as it is"));
    strbuf_free(&out);
    data_report_destroy(report);
    data_report_destroy(eval);
    data_report_destroy(empty);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_order_of_rows_is_nothing),
        cmocka_unit_test(interrupted_at_any_row_it_goes_on_the_same),
        cmocka_unit_test(damaged_reports_are_refused),
        cmocka_unit_test(the_terminal_text_says_it_all),
        cmocka_unit_test(the_page_is_whole_and_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
