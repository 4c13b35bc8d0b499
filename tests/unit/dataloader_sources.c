#include "support/test.h"

#include "base/file.h"
#include "base/random.h"
#include "base/utf8.h"
#include "dataloader/sources.h"

/* Writes `length` bytes to a new file; its path is borrowed until the next call. */
static const char *write_bytes(const char *name, const void *bytes, size_t length)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", test_tmpdir(), name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    return path;
}

static const char *write_text(const char *name, const char *text)
{
    return write_bytes(name, text, strlen(text));
}

struct opened {
    struct source_list list;
    struct source_reader *reader;
};

static void open_one(struct opened *out, const char *path, const char *format)
{
    struct dataset_source source = {.path = path, .format = format};
    assert_ok(source_list_open(&out->list, &source, 1));
    assert_int_equal(out->list.n, 1);
    assert_ok(source_reader_open(&out->reader, &out->list.file[0]));
}

static void close_one(struct opened *opened)
{
    source_reader_close(opened->reader);
    source_list_free(&opened->list);
}

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
        {8, ROW_NO_MESSAGES, "there is no \"messages\""},
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
    assert_fails(source_list_open(&list, &source, 1), LORAD_CONFIG, "auto, messages, qa_text");
    source.format = "auto";
    source.weight = 2;
    assert_fails(source_list_open(&list, &source, 1), LORAD_CONFIG, "weight 2");
    source.weight = 1;
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
    assert_fails(source_reader_open(&reader, &list.file[0]), LORAD_DATA, "no questions and answers");
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

/* Each mutated row is either good, and then all that is promised of a good row holds, or has one problem. */
static void mutated_rows_are_counted_and_do_not_crash(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "{\"messages\": [{\"role\": \"user\", \"content\": \"什么是可转债？\"}, {\"role\": \"assistant\", "
        "\"content\": "
        "\"可以转换为股票的债券。\"}]}",
        "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": "
        "\"\\u4f60\"}, "
        "{\"role\": \"assistant\", \"content\": \"a\"}, {\"role\": \"user\", \"content\": \"b\"}, {\"role\": "
        "\"assistant\", \"content\": \"\\ud83d\\ude00\"}], \"id\": 1.5e3}"};
    int count[ROW_PROBLEMS + 1] = {0};
    struct parsed_row row = {0};
    for (uint64_t i = 0; i < 10000; i++) {
        char text[600];
        const char *original = rows[i % 2];
        size_t length = strlen(original);
        memcpy(text, original, length);
        for (uint64_t k = 0; k <= i % 3; k++) {
            struct random_block dice = random_philox(1, i, k);
            size_t at = dice.word[0] % length, n = dice.word[1] % 12;
            switch (dice.word[2] % 5) {
            case 0:
                text[at] = (char)dice.word[3];
                break;
            case 1:
                length = at + 1;
                break;
            case 2:
                text[at] ^= (char)(1 << dice.word[3] % 8);
                break;
            case 3: /* a piece lost */
                n = n < length - at ? n : length - at - 1;
                memmove(text + at, text + at + n, length - at - n);
                length -= n;
                break;
            case 4: /* a piece twice */
                n = n < length - at ? n : length - at;
                if (length + n > sizeof text) break;
                memmove(text + at + n, text + at, length - at);
                length += n;
                break;
            }
        }
        char *exact = malloc(length); /* so that a sanitizer sees any read behind the end */
        memcpy(exact, text, length);
        struct raw_row raw = {.text = exact, .length = length, .line = (int64_t)i + 1};
        assert_ok(source_parse_row(&source_messages, NULL, &raw, &row));
        assert_in_range(row.problem, 0, ROW_PROBLEMS);
        count[row.problem]++;
        if (row.problem == ROW_PROBLEMS) {
            size_t bad;
            assert_true(row.n >= 2 && row.messages[row.n - 1].role == ROLE_ASSISTANT);
            for (size_t k = 0; k < row.n; k++)
                assert_true(utf8_valid(row.messages[k].content, row.messages[k].length, &bad));
        } else {
            assert_true(row.detail.length > 0);
        }
        free(exact);
    }
    int total = 0;
    for (int problem = 0; problem <= ROW_PROBLEMS; problem++) total += count[problem];
    assert_int_equal(total, 10000);
    assert_true(count[ROW_PROBLEMS] > 100 && count[ROW_BAD_JSON] > 1000 && count[ROW_BAD_UTF8] > 100 &&
                count[ROW_NO_MESSAGES] > 10 && count[ROW_BAD_ROLE] > 10);
    parsed_row_free(&row);
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
        cmocka_unit_test(mutated_rows_are_counted_and_do_not_crash),
        cmocka_unit_test(blank_is_unicode_blank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
