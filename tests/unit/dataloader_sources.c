#include "support/source_rows.h"
#include "support/test.h"

#include "dataloader/sources_impl.h"

static void assert_message(const struct parsed_row *row, size_t i, enum message_role role,
                           const char *content)
{
    assert_true(i < row->n);
    assert_int_equal(row->messages[i].role, role);
    assert_int_equal(row->messages[i].length, strlen(content));
    assert_memory_equal(row->messages[i].content, content, strlen(content));
}

static void every_kind_of_bad_row_is_named(void **state)
{
    (void)state;
    static const struct {
        int64_t line;
        enum row_problem problem;
        const char *detail;
    } expected[] = {
        {1, ROW_PROBLEMS, ""},
        {2, ROW_BAD_JSON, "column"},
        {3, ROW_BAD_JSON, "end of file"},
        {5, ROW_NO_MESSAGES, "there is no \"messages\""},
        {6, ROW_NO_MESSAGES, "no list"},
        {7, ROW_NO_MESSAGES, "empty"},
        {8, ROW_NO_MESSAGES, "the row is "},
        {9, ROW_NO_MESSAGES, "message 1 is a string"},
        {10, ROW_NO_MESSAGES, "content of message 1 is missing"},
        {11, ROW_NO_MESSAGES, "content of message 1 is null"},
        {12, ROW_NO_MESSAGES, "message 1 has no \"role\""},
        {13, ROW_BAD_ROLE, "\"tool\""},
        {14, ROW_BAD_ROLE, "\"User\""},
        {15, ROW_ROLE_ORDER, "message 1 should be the user's"},
        {16, ROW_ROLE_ORDER, "message 2 should be the assistant's"},
        {17, ROW_ROLE_ORDER, "message 2"},
        {18, ROW_ROLE_ORDER, "last message"},
        {19, ROW_NO_ASSISTANT, "2 messages"},
        {20, ROW_EMPTY_ANSWER, "message 2"},
        {21, ROW_EMPTY_ANSWER, "message 2"},
        {22, ROW_EMPTY_ANSWER, "message 4"},
        {23, ROW_BAD_JSON, "duplicate"},
        {24, ROW_BAD_JSON, "invalid Unicode"},
        {25, ROW_BAD_JSON, "0000"},
        {26, ROW_NO_MESSAGES, "tool_calls"},
        {27, ROW_BAD_JSON, "column"},
        {28, ROW_BAD_UTF8, "0xff"},
        {29, ROW_BAD_UTF8, "0xed"},
        {30, ROW_BAD_UTF8, "0xc0"},
        {31, ROW_PROBLEMS, ""},
    };
    struct opened opened;
    struct parsed_row row = {0};
    struct raw_row raw;
    open_one(&opened, LORAD_TEST_DATA "/bad-rows/rows.jsonl", "messages");
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_true(source_reader_next(opened.reader, &raw));
        assert_int_equal(raw.line, expected[i].line);
        assert_ok(source_reader_parse(opened.reader, &raw, &row));
        if (row.problem != expected[i].problem || !strstr(strbuf_text(&row.detail), expected[i].detail))
            fail_msg("line %d: %s: %s", (int)raw.line, row_problem_name(row.problem),
                     strbuf_text(&row.detail));
    }
    assert_message(&row, 0, ROLE_USER, "最后一行");
    assert_message(&row, 1, ROLE_ASSISTANT, "没有换行符");
    assert_false(source_reader_next(opened.reader, &raw));
    source_reader_rewind(opened.reader);
    assert_true(source_reader_next(opened.reader, &raw));
    assert_int_equal(raw.line, 1);
    parsed_row_free(&row);
    close_one(&opened);
}

struct turns {
    int64_t line;
    enum row_problem problem;
    size_t n;
    const char *content[4]; /* user, assistant, ... */
};

static void check_turns(const char *text, const struct turns *expected, size_t n)
{
    struct opened opened;
    struct parsed_row row = {0};
    struct raw_row raw;
    open_one(&opened, write_text("qa.txt", text), "auto");
    assert_string_equal(source_reader_format(opened.reader), "qa_text");
    for (size_t i = 0; i < n; i++) {
        assert_true(source_reader_next(opened.reader, &raw));
        assert_int_equal(raw.line, expected[i].line);
        assert_ok(source_reader_parse(opened.reader, &raw, &row));
        assert_int_equal(row.problem, expected[i].problem);
        if (row.problem != ROW_PROBLEMS) continue;
        assert_int_equal(row.n, expected[i].n);
        for (size_t k = 0; k < row.n; k++)
            assert_message(&row, k, k % 2 ? ROLE_ASSISTANT : ROLE_USER, expected[i].content[k]);
    }
    assert_false(source_reader_next(opened.reader, &raw));
    parsed_row_free(&row);
    close_one(&opened);
}

static void questions_and_answers(void **state)
{
    (void)state;
    const struct turns expected[] = {
        {1, ROW_PROBLEMS, 2, {"盗窃罪怎么判？", "三年以下。\n注意：数额较大的除外。"}},
        {5, ROW_PROBLEMS, 4, {"一", "二", "三", "四"}},
        {11, ROW_PROBLEMS, 2, {"问题在这里 \n两行", "隔了空行的回答"}},
    };
    check_turns("\xEF\xBB\xBF用户：盗窃罪怎么判？\r\n律师：三年以下。\r\n注意：数额较大的除外。\r\n\r\n"
                "用户：一\n律师：二\n用户：三\n律师：四\n \t\n\n"
                "用户：  问题在这里 \n两行\n\n律师：隔了空行的回答\n",
                expected, 3);
}

static void bad_blocks(void **state)
{
    (void)state;
    const struct turns expected[] = {
        {1, ROW_PROBLEMS, 2, {"q", "a"}},    {4, ROW_BAD_ROLE, 0, {NULL}},
        {6, ROW_ROLE_ORDER, 0, {NULL}},      {8, ROW_NO_ASSISTANT, 0, {NULL}},
        {10, ROW_EMPTY_ANSWER, 0, {NULL}},   {13, ROW_ROLE_ORDER, 0, {NULL}},
        {17, ROW_PROBLEMS, 2, {"a", "b:c"}},
    };
    check_turns("问：q\n答：a\n\n孤立的一段。\n\n答：没有问题。\n\n问：没有回答。\n\n问：空的\n答：　\n\n"
                "问：q\n答：a\n答：a\n\n问: a\n答: b:c",
                expected, sizeof expected / sizeof *expected);
}

static void any_two_names_are_roles(void **state)
{
    (void)state;
    /* "Note" comes second in the first block, but most blocks have "A" there. */
    const struct turns expected[] = {{1, ROW_PROBLEMS, 2, {"what?\nNote: see http://x", "this"}},
                                     {5, ROW_PROBLEMS, 2, {"why", "so"}},
                                     {8, ROW_PROBLEMS, 2, {"how", "like: this"}}};
    check_turns("Q: what?\nNote: see http://x\nA: this\n\nQ: why\nA: so\n\nQ: how\nA: like: this\n", expected,
                3);
}

static void the_law_rows_are_read_whole(void **state)
{
    (void)state;
    struct opened opened;
    struct parsed_row row = {0};
    struct raw_row raw;
    int n = 0;
    open_one(&opened, LORAD_TEST_DATA "/law-zh/train", "auto"); /* a folder with train.txt in it */
    while (source_reader_next(opened.reader, &raw)) {
        assert_ok(source_reader_parse(opened.reader, &raw, &row));
        assert_int_equal(row.problem, ROW_PROBLEMS);
        assert_int_equal(row.n, 2);
        n++;
    }
    assert_int_equal(n, 60);
    parsed_row_free(&row);
    close_one(&opened);
}

static void formats_and_files_are_found_or_refused(void **state)
{
    (void)state;
    struct source_list list;
    struct opened opened;
    struct source_reader *reader;
    struct raw_row raw;
    struct dataset_source source = {.path = "/nowhere/x.jsonl"};
    assert_fails(source_list_open(&list, &source, 1), LORAD_NOT_FOUND, "/nowhere/x.jsonl");
    assert_fails(source_list_open(&list, &source, 0), LORAD_CONFIG, "train_file");
    source.path = LORAD_SOURCE_DIR "/dataloader";
    assert_fails(source_list_open(&list, &source, 1), LORAD_NOT_FOUND, "holds no .jsonl");
    source.path = LORAD_TEST_DATA "/finance-zh";
    source.format = "parquet";
    assert_fails(source_list_open(&list, &source, 1), LORAD_CONFIG, "auto, messages, sharegpt");
    source.format = "auto";
    assert_ok(source_list_open(&list, &source, 1));
    assert_int_equal(list.n, 3);
    assert_non_null(strstr(list.file[0].name, "fin_heldout.jsonl"));
    assert_non_null(strstr(list.file[2].name, "fin_stage2_company.jsonl"));
    source_list_free(&list);

    source.path = write_text("prose.txt", "Once upon a time\nthere was no format\n");
    assert_ok(source_list_open(&list, &source, 1));
    assert_fails(source_reader_open(&reader, &list.file[0]), LORAD_DATA, "cannot tell its format");
    source_list_free(&list);
    source.format = "qa_text";
    assert_ok(source_list_open(&list, &source, 1));
    assert_fails(source_reader_open(&reader, &list.file[0]), LORAD_DATA, "this is not in the format qa_text");
    source_list_free(&list);

    open_one(&opened, write_text("empty.jsonl", ""), NULL);
    assert_false(source_reader_next(opened.reader, &raw));
    close_one(&opened);
    open_one(&opened, write_text("blank.jsonl", "\xEF\xBB\xBF\n \r\n\t\n"), "auto");
    assert_false(source_reader_next(opened.reader, &raw));
    close_one(&opened);
    open_one(&opened, write_text("any.txt", "\n\n{\"messages\": []}"), "auto");
    assert_string_equal(source_reader_format(opened.reader), "messages");
    assert_true(source_reader_next(opened.reader, &raw));
    assert_int_equal(raw.line, 3);
    close_one(&opened);
}

static void a_huge_line_is_a_bad_row(void **state)
{
    (void)state;
    struct raw_row raw = {.length = SOURCE_ROW_BYTES + 1, .line = 1};
    char *text = malloc(raw.length);
    memset(text, 'a', raw.length);
    raw.text = text;
    struct parsed_row row = {0};
    assert_ok(source_parse_row(&source_messages, NULL, &raw, &row));
    assert_int_equal(row.problem, ROW_HUGE_LINE);
    raw.length--;
    assert_ok(source_parse_row(&source_messages, NULL, &raw, &row));
    assert_int_equal(row.problem, ROW_BAD_JSON);
    parsed_row_free(&row);
    free(text);
}

static void blank_is_unicode_blank(void **state)
{
    (void)state;
    assert_true(source_is_blank("", 0));
    assert_true(source_is_blank(" \xE3\x80\x80\xC2\xA0\xE2\x80\x8B", 9));
    assert_false(source_is_blank("\xE3\x80\x81", 3)); /* a comma */
    assert_false(source_is_blank(" \xE3\x80", 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_bad_row_is_named),
        cmocka_unit_test(questions_and_answers),
        cmocka_unit_test(bad_blocks),
        cmocka_unit_test(any_two_names_are_roles),
        cmocka_unit_test(the_law_rows_are_read_whole),
        cmocka_unit_test(formats_and_files_are_found_or_refused),
        cmocka_unit_test(a_huge_line_is_a_bad_row),
        cmocka_unit_test(blank_is_unicode_blank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
