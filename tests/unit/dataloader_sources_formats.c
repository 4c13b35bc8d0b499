/* Every format: what its rows say, which are bad and why, and what is said of a file as a whole. */
#include "support/source_rows.h"
#include "support/test.h"

#include <sys/stat.h>
#include <unistd.h>

#define SAMPLES LORAD_TEST_DATA "/sources/"

/* ---- real files ---- */

static void every_sample_is_recognised_and_read_whole(void **state)
{
    (void)state;
    const struct source_columns qa = {.prompt = "QUES", .response = "ANS"};
    const struct {
        const char *path, *format;
        struct source_columns columns;
        int rows;
        size_t messages;  /* of the last row */
        const char *says; /* of the last message of the last row */
    } samples[] = {
        {SAMPLES "alpaca.json", "alpaca", {0}, 4, 4, ""},
        {SAMPLES "alpaca.json.zst", "alpaca", {0}, 4, 4, ""},
        {SAMPLES "sharegpt.json", "sharegpt", {0}, 3, 2, ""},
        {SAMPLES "law.json", "alpaca", {0}, 2, 2, ""},
        {SAMPLES "text.jsonl", "text", {0}, 3, 1, ""},
        {SAMPLES "fintruthqa.csv", "csv", qa, 5, 2, "尊敬的"},
        {SAMPLES "fintruthqa.csv.gz", "csv", qa, 5, 2, "尊敬的"},
        {LORAD_TEST_DATA "/finance-zh/fin_heldout.jsonl", "messages", {0}, 397, 3, ""},
        {LORAD_TEST_DATA "/law-zh/train/train.txt", "qa_text", {0}, 60, 2, ""},
    };
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        const struct dataset_source source = {.path = samples[i].path, .columns = samples[i].columns};
        struct opened opened;
        struct raw_row raw;
        int rows = 0;
        open_source(&opened, &source);
        assert_string_equal(source_reader_format(opened.reader), samples[i].format);
        for (; source_reader_next(opened.reader, &raw); rows++) {
            assert_ok(source_reader_parse(opened.reader, &raw, &opened.row));
            if (opened.row.problem != ROW_PROBLEMS)
                fail_msg("%s:%d: %s", source.path, (int)raw.line, strbuf_text(&opened.row.detail));
        }
        assert_int_equal(rows, samples[i].rows);
        assert_int_equal(opened.row.n, samples[i].messages);
        const struct message *last = &opened.row.messages[opened.row.n - 1];
        assert_int_equal(last->role, ROLE_ASSISTANT);
        assert_true(last->length > 0);
        assert_memory_equal(last->content, samples[i].says, strlen(samples[i].says));
        close_one(&opened);
    }
    /* Tables with questions inside are not rows. */
    assert_unreadable(
        &(struct dataset_source){.path = SAMPLES "tatqa.json"}, LORAD_DATA,
        "its first row has \"table\" (an object), \"paragraphs\" (a list), \"questions\" (a list)");
    assert_unreadable(&(struct dataset_source){.path = SAMPLES "fintruthqa.csv"}, LORAD_DATA,
                      "its header line is: ,QUES,ANS,");
}

/* What the index of a preparer keeps of a row is enough to read it again, in any order, with another reader.
 */
static void rows_are_slices_that_can_be_read_in_any_order(void **state)
{
    (void)state;
    static const char *const paths[] = {SAMPLES "alpaca.json.zst", SAMPLES "fintruthqa.csv.gz",
                                        LORAD_TEST_DATA "/law-zh/train/train.txt"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        const struct dataset_source source = {
            .path = paths[i],
            .columns = {.prompt = i == 1 ? "QUES" : NULL, .response = i == 1 ? "ANS" : NULL}};
        struct opened one, two;
        struct raw_row raw[100];
        size_t offset[100], n = 0, length;
        open_source(&one, &source);
        open_source(&two, &source);
        const char *text = source_reader_text(one.reader, &length);
        for (; n < 100 && source_reader_next(one.reader, &raw[n]); n++)
            offset[n] = (size_t)(raw[n].text - text);
        const char *other = source_reader_text(two.reader, NULL);
        assert_true(other != text && n > 3);
        for (size_t k = n; k-- > 0;) {
            struct raw_row again = {other + offset[k], raw[k].length, raw[k].line};
            assert_ok(source_reader_parse(one.reader, &raw[k], &one.row));
            assert_ok(source_reader_parse(two.reader, &again, &two.row));
            assert_int_equal(one.row.problem, ROW_PROBLEMS);
            assert_int_equal(one.row.n, two.row.n);
            for (size_t m = 0; m < one.row.n; m++) {
                assert_int_equal(one.row.messages[m].length, two.row.messages[m].length);
                assert_memory_equal(one.row.messages[m].content, two.row.messages[m].content,
                                    one.row.messages[m].length);
            }
        }
        close_one(&one);
        close_one(&two);
    }
}

/* ---- lists of messages ---- */

#define CHAT(question, answer)                                                                               \
    "{\"messages\": [{\"role\": \"user\", \"content\": \"" question "\"}, {\"role\": \"assistant\", "        \
    "\"content\": \"" answer "\"}]}"

static void messages_stand_in_lines_lists_and_spread_out(void **state)
{
    (void)state;
    struct opened opened;
    open_one(
        &opened,
        write_text("a.json",
                   "\xEF\xBB\xBF\n[" CHAT("a", "b") ",\n\n" CHAT(
                       "c [{", "d \\\" ]") "\r\n,\t{\n\"messages\":\n[{\"role\": \"user\",\n\"content\": "
                                           "\"e\"},\n\n{\"role\": \"assistant\", \"content\": "
                                           "\"f\"}]}\n]\n\n"),
        NULL);
    assert_string_equal(source_reader_format(opened.reader), "messages");
    assert_row(&opened, 2, "U:a|A:b");
    assert_row(&opened, 4, "U:c [{|A:d \" ]");
    assert_row(&opened, 5, "U:e|A:f");
    assert_no_row(&opened);
    source_reader_rewind(opened.reader);
    assert_row(&opened, 2, "U:a|A:b");
    close_one(&opened);

    open_one(&opened,
             write_text("a.json", "{\n \"messages\": [\n  {\"role\": \"user\", \"content\": \"a\"},\n"
                                  "  {\"role\": \"assistant\", \"content\": \"b\"}]\n}\n" CHAT(
                                      "c", "d") "\n{\n \"messages\": 5\n \"x\": 1}\n"),
             NULL);
    assert_row(&opened, 1, "U:a|A:b");
    assert_row(&opened, 6, "U:c|A:d");
    assert_bad_row(&opened, 7, ROW_BAD_JSON, "line 9, column");
    assert_no_row(&opened);
    close_one(&opened);

    open_one(&opened, write_text("a.json", "[]"), NULL);
    assert_no_row(&opened);
    close_one(&opened);
}

/* A broken list: what stands before is read, the place is named once. */
static void a_broken_list_ends_with_one_problem(void **state)
{
    (void)state;
    static const struct {
        const char *behind; /* the first row, in line 1 */
        int64_t line;
        enum row_problem problem;
        const char *words;
    } broken[] = {
        {"\n", 2, ROW_OUTSIDE, "not closed with \"]\""},
        {"", 1, ROW_OUTSIDE, "not closed"},
        {"\n" CHAT("c", "d") "]", 2, ROW_OUTSIDE, "missing or too much before \"{\"messages\""},
        {CHAT("c", "d"), 1, ROW_OUTSIDE, "missing or too much before"},
        {",\n,\n" CHAT("c", "d") "]", 2, ROW_OUTSIDE, "before \",\""},
        {",\n]", 2, ROW_OUTSIDE, "before \"]\""},
        {",\n", 2, ROW_OUTSIDE, "not closed"},
        {"]\n\n" CHAT("c", "d"), 3, ROW_OUTSIDE, "before \"{"},
        {",\n}]", 2, ROW_OUTSIDE, "before \"}]\""},
        {",\n\n{\"messages\": [{\"role\": \"user\"", 3, ROW_BAD_JSON, "end of file"},
        {",\n\"messages", 2, ROW_BAD_JSON, "column"},
        {"\n\xff]", 2, ROW_BAD_UTF8, "0xff"},
    };
    struct opened opened;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        char text[1000];
        snprintf(text, sizeof text, "[%s%s", CHAT("a", "b"), broken[i].behind);
        open_one(&opened, write_text("a.json", text), "messages");
        assert_row(&opened, 1, "U:a|A:b");
        assert_bad_row(&opened, broken[i].line, broken[i].problem, broken[i].words);
        assert_no_row(&opened);
        close_one(&opened);
    }
    /* However much follows: the place is what is listed. */
    char *large = malloc(SOURCE_ROW_BYTES + 1000);
    size_t n = (size_t)sprintf(large, "[%s\n", CHAT("a", "b"));
    while (n < SOURCE_ROW_BYTES + 500) n += (size_t)sprintf(large + n, "%s", "盗窃罪");
    open_one(&opened, write_bytes("large.json", large, n), NULL);
    assert_row(&opened, 1, "U:a|A:b");
    assert_bad_row(&opened, 2, ROW_OUTSIDE, "before \"盗窃罪");
    assert_no_row(&opened);
    close_one(&opened);
    free(large);
    /* Bad elements do not end it. */
    open_one(&opened,
             write_text("a.json", "[1, \"a, ]\",\n[], nonsense here,\n" CHAT("a", "b") "\n, {\"a\"}, " CHAT(
                                      "c", "d") "]"),
             NULL);
    assert_bad_row(&opened, 1, ROW_NO_MESSAGES, "the row is a whole number");
    assert_bad_row(&opened, 1, ROW_NO_MESSAGES, "the row is a string");
    assert_bad_row(&opened, 2, ROW_NO_MESSAGES, "the row is a list");
    assert_bad_row(&opened, 2, ROW_BAD_JSON, "column");
    assert_row(&opened, 3, "U:a|A:b");
    assert_bad_row(&opened, 4, ROW_BAD_JSON, "column");
    assert_row(&opened, 4, "U:c|A:d");
    assert_no_row(&opened);
    close_one(&opened);
}

static void messages_have_parts_and_weights(void **state)
{
    (void)state;
#define Q "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", "
    struct opened opened;
    open_one(&opened,
             write_text(
                 "a.jsonl", Q
                 "\"content\": [{\"type\": \"text\", \"text\": \"one \"}, {\"type\": \"text\", \"text\": "
                 "\"two\"}]}, {\"role\": \"user\", \"content\": [\"三\"]}, {\"role\": \"assistant\", "
                 "\"content\": \"4\"}]}\n" Q
                 "\"content\": [{\"type\": \"image_url\", \"image_url\": \"x\"}]}]}\n" Q
                 "\"content\": \"a\", \"loss_weight\": 0.25}]}\n" Q
                 "\"content\": \"a\", \"weight\": 2, \"train\": null}]}\n" Q
                 "\"content\": \"a\", \"train\": false}, {\"role\": \"user\", \"content\": \"r\"}, "
                 "{\"role\": \"assistant\", \"content\": \"b\"}]}\n" Q
                 "\"content\": \"a\", \"loss\": false, \"weight\": 3}]}\n" Q
                 "\"content\": \"a\", \"weight\": -1}]}\n" Q "\"content\": \"a\", \"weight\": \"1\"}]}\n" Q
                 "\"content\": \"a\", \"weight\": 1e300}]}\n" Q "\"content\": \"a\", \"train\": 1}]}\n" Q
                 "\"content\": \"a\", \"function_call\": {\"name\": \"f\"}}]}\n"
                 "{\"system\": \"s\", \"messages\": [{\"role\": \"user\", \"content\": [\"q\"]}, {\"role\": "
                 "\"assistant\", \"content\": [\"a\"]}]}\n"),
             NULL);
    assert_row(&opened, 1, "U:q|A:one two|U:三|A:4");
    assert_bad_row(&opened, 2, ROW_BAD_FIELD, "part 1 of message 2 is of type \"image_url\"");
    assert_row(&opened, 3, "U:q|A:a");
    assert_true(opened.row.messages[1].weight == 0.25f && opened.row.messages[0].weight == 1);
    assert_row(&opened, 4, "U:q|A:a");
    assert_true(opened.row.messages[1].weight == 2);
    assert_row(&opened, 5, "U:q|A:a|U:r|A:b");
    assert_true(opened.row.messages[1].weight == 0 && opened.row.messages[3].weight == 1);
    assert_row(&opened, 6, "U:q|A:a");
    assert_true(opened.row.messages[1].weight == 0);
    assert_bad_row(&opened, 7, ROW_BAD_FIELD, "\"weight\" of message 2 is -1");
    assert_bad_row(&opened, 8, ROW_BAD_FIELD, "is a string, not a number");
    assert_bad_row(&opened, 9, ROW_BAD_FIELD, "1e+300");
    assert_bad_row(&opened, 10, ROW_BAD_FIELD, "\"train\" of message 2 is a whole number");
    assert_bad_row(&opened, 11, ROW_NO_MESSAGES, "tool_calls");
    assert_row(&opened, 12, "S:s|U:q|A:a");
    assert_no_row(&opened);
    close_one(&opened);
#undef Q
}

static void conversations_of_sharegpt(void **state)
{
    (void)state;
    struct opened opened;
    open_one(
        &opened,
        write_text(
            "a.json",
            "[{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"}, {\"from\": \"gpt\", "
            "\"value\": \"b\"}]},\n"
            "{\"conversations\": [{\"from\": \"system\", \"value\": \"s\"}, {\"from\": \"user\", "
            "\"value\": \"a\"}, {\"from\": \"chatgpt\", \"value\": \"b\"}]},\n"
            "{\"conversations\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", "
            "\"content\": \"b\"}], \"system\": \"t\"},\n"
            "{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"}, {\"from\": \"function_call\", "
            "\"value\": \"{}\"}, {\"from\": \"observation\", \"value\": \"1\"}]},\n"
            "{\"conversations\": [{\"from\": \"gpt\", \"value\": \"a\"}]},\n"
            "{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"}, {\"from\": \"human\", "
            "\"value\": \"b\"}, {\"from\": \"gpt\", \"value\": \"c\"}]},\n"
            "{\"conversations\": {}}]"),
        NULL);
    assert_string_equal(source_reader_format(opened.reader), "sharegpt");
    assert_row(&opened, 1, "U:a|A:b");
    assert_row(&opened, 2, "S:s|U:a|A:b");
    assert_row(&opened, 3, "S:t|U:a|A:b");
    assert_bad_row(&opened, 4, ROW_BAD_ROLE, "role \"function_call\": calls of tools are not supported");
    assert_bad_row(&opened, 5, ROW_ROLE_ORDER, "message 1");
    assert_bad_row(&opened, 6, ROW_ROLE_ORDER, "message 2");
    assert_bad_row(&opened, 7, ROW_NO_MESSAGES, "\"conversations\" is no list");
    assert_no_row(&opened);
    close_one(&opened);

    const struct dataset_source named = {
        .path = write_text("b.jsonl",
                           "{\"dialog\": [{\"who\": \"Q\", \"says\": \"a\"}, {\"who\": \"A\", \"says\": "
                           "\"b\"}], \"intro\": \"i\"}\n{\"dialog\": [{\"who\": \"human\", \"says\": \"a\"}, "
                           "{\"who\": \"A\", \"says\": \"b\"}]}\n{\"dialog\": [{\"says\": \"b\"}]}\n"),
        .columns = {.messages = "dialog", .system = "intro"},
        .tags = {.role_tag = "who", .content_tag = "says", .user_tag = "Q", .assistant_tag = "A"},
        .system = "unused, since the row has one",
    };
    open_source(&opened, &named);
    assert_string_equal(source_reader_format(opened.reader), "sharegpt");
    assert_row(&opened, 1, "S:i|U:a|A:b");
    assert_bad_row(&opened, 2, ROW_BAD_ROLE, "message 1 has role \"human\"");
    assert_bad_row(&opened, 3, ROW_NO_MESSAGES, "message 1 has no \"who\"");
    assert_no_row(&opened);
    close_one(&opened);
}

/* ---- questions and answers in fields ---- */

static void alpaca_rows(void **state)
{
    (void)state;
    struct opened opened;
    open_one(
        &opened,
        write_text(
            "a.jsonl",
            "{\"instruction\": \"a\", \"input\": \"\", \"output\": \"b\"}\n"
            "{\"instruction\": \"a\", \"input\": \"i\", \"output\": \"b\", \"system\": \"s\", \"history\": "
            "[[\"x\", \"y\"], [\"z\", \"w\"]]}\n"
            "{\"input\": \"i\", \"output\": \"b\", \"history\": null}\n"
            "{\"question\": \"a\", \"answer\": \"b\"}\n"
            "{\"instruction\": \"a\", \"output\": \" \"}\n"
            "{\"instruction\": \"a\"}\n"
            "{\"instruction\": \"\", \"output\": \"b\"}\n"
            "{\"output\": \"b\"}\n"
            "{\"instruction\": [\"a\"], \"output\": \"b\"}\n"
            "{\"instruction\": \"a\", \"output\": 5}\n"
            "{\"instruction\": \"a\", \"output\": \"b\", \"history\": [[\"x\"]]}\n"
            "{\"instruction\": \"a\", \"output\": \"b\", \"history\": \"x\"}\n"
            "{\"instruction\": \"a\", \"instruction\": \"b\"}\n"),
        NULL);
    assert_string_equal(source_reader_format(opened.reader), "alpaca");
    assert_row(&opened, 1, "U:a|A:b");
    assert_row(&opened, 2, "S:s|U:x|A:y|U:z|A:w|U:a\ni|A:b");
    assert_row(&opened, 3, "U:i|A:b");
    assert_row(&opened, 4, "U:a|A:b");
    assert_bad_row(&opened, 5, ROW_EMPTY_ANSWER, "message 2");
    assert_bad_row(&opened, 6, ROW_BAD_FIELD, "there is no \"output\"");
    assert_bad_row(&opened, 7, ROW_BAD_FIELD, "\"instruction\" is empty");
    assert_bad_row(&opened, 8, ROW_BAD_FIELD, "\"instruction\" is missing");
    assert_bad_row(&opened, 9, ROW_BAD_FIELD, "\"instruction\" is a list, not a string");
    assert_bad_row(&opened, 10, ROW_BAD_FIELD, "\"output\" is a whole number, not a string");
    assert_bad_row(&opened, 11, ROW_BAD_FIELD, "turn 1 of \"history\"");
    assert_bad_row(&opened, 12, ROW_BAD_FIELD, "\"history\" is a string");
    assert_bad_row(&opened, 13, ROW_BAD_JSON, "duplicate");
    assert_no_row(&opened);
    close_one(&opened);

    const struct dataset_source named = {
        .path = write_text("b.jsonl", "{\"Frage\": \"a\", \"input\": \"not read\", \"Antwort\": \"b\"}\n"),
        .columns = {.prompt = "Frage", .response = "Antwort"},
        .system = "Sei kurz.",
    };
    open_source(&opened, &named);
    assert_row(&opened, 1, "S:Sei kurz.|U:a|A:b");
    close_one(&opened);
}

static void csv_rows(void **state)
{
    (void)state;
    struct opened opened;
    struct dataset_source source = {
        .path = write_text("a.csv", "\xEF\xBB\xBFid,\"QUES\", ANS ,note\r\n"
                                    "1,a,b,\r\n"
                                    "2,\"a, \"\"b\"\"\",\"line 1\r\nline 2\n\",\"\"\r\n"
                                    "\r\n"
                                    "3,a\r\n"
                                    "4,a,b,c,d\r\n"
                                    "5,,b,\r\n"
                                    "6,a,,\r\n"
                                    "7,5\" tall,\"b\"c,\r\n"
                                    "8,a,\"b,\r\n9,a,b,\r\n"),
        .columns = {.prompt = "QUES", .response = "ANS"},
        .system = "S",
    };
    open_source(&opened, &source);
    assert_string_equal(source_reader_format(opened.reader), "csv");
    assert_row(&opened, 2, "S:S|U:a|A:b");
    assert_row(&opened, 3, "S:S|U:a, \"b\"|A:line 1\nline 2\n");
    assert_bad_row(&opened, 7, ROW_BAD_CSV, "2 cells, the header line has 4");
    assert_bad_row(&opened, 8, ROW_BAD_CSV, "5 cells");
    assert_bad_row(&opened, 9, ROW_BAD_FIELD, "\"QUES\" is empty");
    assert_bad_row(&opened, 10, ROW_EMPTY_ANSWER, "message 2");
    assert_row(&opened, 11, "S:S|U:5\" tall|A:bc");
    assert_bad_row(&opened, 12, ROW_BAD_CSV, "no closing quote: \"b, 9,a,b");
    assert_no_row(&opened);
    close_one(&opened);

    /* Usual names need no mapping, nor an ending. */
    open_one(&opened, write_text("b", "system;Question;context;Answer\ns;a;c;b\n;a;;\"b\"\n"), NULL);
    assert_string_equal(source_reader_format(opened.reader), "csv");
    assert_row(&opened, 2, "S:s|U:a\nc|A:b");
    assert_row(&opened, 3, "U:a|A:b");
    close_one(&opened);
    open_one(&opened, write_text("b.tsv", "instruction\toutput\na, b\tc\n\"\"\"\"\td"), NULL);
    assert_string_equal(source_reader_format(opened.reader), "tsv");
    assert_row(&opened, 2, "U:a, b|A:c");
    assert_row(&opened, 3, "U:\"|A:d");
    close_one(&opened);

    source.columns.response = "ANSWER";
    assert_unreadable(&source, LORAD_DATA,
                      "it has no column \"ANSWER\"; its header line is: id,\"QUES\", ANS ,note");
    source.columns = (struct source_columns){.messages = "QUES"};
    assert_unreadable(&source, LORAD_CONFIG, "a CSV has no column of messages");
    source = (struct dataset_source){.path = write_text("c.csv", "prompt,response,prompt\na,b,c\n")};
    assert_unreadable(&source, LORAD_DATA, "two of its columns have the same name");
    source.path = write_text("c.csv", "\xCE\xCA\xCC\xE2,\xB4\xF0\xB0\xB8\n1,2\n"); /* GBK */
    assert_unreadable(&source, LORAD_DATA, "iconv -f GB18030");
}

/* ---- documents ---- */

static void documents_are_learnt_whole(void **state)
{
    (void)state;
    struct opened opened;
    open_one(&opened,
             write_text("a.txt", "\nOne\r\n\r\n---\r\ntwo \r\n\f\n\f\nThree\n<|endoftext|>\n \n四\n\n"),
             "text");
    assert_row(&opened, 2, "A:One\n\n---\ntwo ");
    assert_true(opened.row.is_text);
    assert_row(&opened, 8, "A:Three");
    assert_row(&opened, 11, "A:四");
    assert_no_row(&opened);
    close_one(&opened);

    open_one(&opened,
             write_text("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\"}\n{\"text\": 1}\n{\"x\": 1}\n"), NULL);
    assert_string_equal(source_reader_format(opened.reader), "text");
    assert_row(&opened, 1, "A:a");
    assert_bad_row(&opened, 2, ROW_EMPTY_ANSWER, "the text is empty");
    assert_bad_row(&opened, 3, ROW_BAD_FIELD, "\"text\" is a whole number");
    assert_bad_row(&opened, 4, ROW_BAD_FIELD, "there is no \"text\"");
    assert_no_row(&opened);
    close_one(&opened);

    const struct dataset_source named = {.path = write_text("a.json", "[{\"body\": \"b\"}]"),
                                         .columns = {.text = "body"},
                                         .system = "not for documents"};
    open_source(&opened, &named);
    assert_row(&opened, 1, "A:b");
    close_one(&opened);
}

/* A document of 3 MiB is read in parts that are cut at blank lines, and nothing is lost. */
static void a_large_document_is_cut_at_blank_lines(void **state)
{
    (void)state;
    const size_t length = 3 << 20;
    char *text = malloc(length);
    for (size_t i = 0; i < length; i++) text[i] = i % 100 == 98 || i % 100 == 99 ? '\n' : 'a';
    struct opened opened;
    struct raw_row raw;
    size_t rows = 0, end = 0, whole;
    open_one(&opened, write_bytes("large.txt", text, length), "text");
    const char *begin = source_reader_text(opened.reader, &whole);
    while (source_reader_next(opened.reader, &raw)) {
        size_t start = (size_t)(raw.text - begin);
        assert_true(start >= end && start - end <= 2 && raw.length < (1 << 20) + 200);
        end = start + raw.length;
        rows++;
    }
    assert_int_equal(rows, 3);
    assert_true(whole - end <= 2);
    close_one(&opened);
    free(text);
}

/* ---- files as a whole ---- */

static void a_wrong_format_is_one_clear_error(void **state)
{
    (void)state;
    struct dataset_source source = {.path = SAMPLES "alpaca.json", .format = "messages"};
    assert_unreadable(&source, LORAD_DATA, "this is not in the format messages");
    assert_unreadable(&source, LORAD_DATA, "It looks like format: alpaca");
    source.format = "qa_text";
    assert_unreadable(&source, LORAD_DATA, "It looks like format: alpaca");
    source = (struct dataset_source){.path = LORAD_TEST_DATA "/law-zh/train/train.txt", .format = "alpaca"};
    assert_unreadable(&source, LORAD_DATA, "its first line is: 用户");
    source.format = "csv";
    assert_unreadable(&source, LORAD_DATA, "no columns that are known");
    source = (struct dataset_source){.path = SAMPLES "sharegpt.json", .format = "text"};
    assert_unreadable(&source, LORAD_DATA, "It looks like format: sharegpt");
    source = (struct dataset_source){.path = write_text("x.txt", "First: a line\nof prose\n")};
    assert_unreadable(&source, LORAD_DATA, "its first line is: First: a line\nThe formats are\n    messages");
    source.path = write_bytes("x.json", "\xFF\xFE{\0}\0", 6);
    assert_unreadable(&source, LORAD_DATA, "is UTF-16");
    source.path = write_bytes("x.csv", "a\0,\0b\0\n\0", 8);
    assert_unreadable(&source, LORAD_DATA, "iconv -f UTF-16LE");
    source.path = write_text("x.parquet.txt", "PAR1....PAR1");
    assert_unreadable(&source, LORAD_DATA, "pandas.read_parquet");
    source.path = write_text("x.jsonl", "{\"a\": 1\n{\"b\n");
    assert_unreadable(&source, LORAD_DATA, "none of its first rows is valid JSON");
    source.path = write_text("x.jsonl", "{\"q\": \"1\", \"a\": \"2\"}\n");
    source.columns = (struct source_columns){.prompt = "q", .response = "A"};
    assert_unreadable(&source, LORAD_DATA, "with the names that columns: gives, and none of these fits");
    source.columns = (struct source_columns){0};
    source.path = write_text("x.txt", "\xC4\xE9\n");
    assert_unreadable(&source, LORAD_DATA, "(not UTF-8; if it is GBK, convert it");
    source.path = write_text("x.fifo", "");
    assert_int_equal(unlink(source.path), 0);
    assert_int_equal(mkfifo(source.path, 0600), 0);
    assert_unreadable(&source, LORAD_DATA, "is not a regular file");
    assert_int_equal(unlink(source.path), 0);
}

/* Whatever the format, and when the header line is ASCII; a bad byte in a UTF-8 file is a matter of its row.
 */
static void a_gbk_file_is_refused_with_the_command(void **state)
{
    (void)state;
    static const char *const names[] = {"x.txt", "x.jsonl", "x.csv", "x.csv"};
    static const char *const texts[] = {
        "\xC4\xE3\xBA\xC3\xA3\xBA\n",
        "{\"instruction\": \"\xC4\xE3\", \"output\": \"\xBA\xC3\"}\n",
        "question,answer\n\xC4\xE3\xBA\xC3,"
        "\xCE\xAA\xCA\xB2\xC3\xB4\xD5\xE2\xD1\xF9\xA3\xBF\xC7\xEB\xCB\xB5\n",
        "prompt,response\n\xD0\xBB\xD0\xBB,caf\xC3\xA9 \xC4\xE3\xBA\xC3\xA3\xBA\xC4\xE3\xBA\xC3\xC4\xE3\n",
    };
    struct dataset_source source = {0};
    for (int i = 0; i < 4; i++) {
        source.path = write_text(names[i], texts[i]);
        assert_unreadable(&source, LORAD_DATA, "looks like GBK; convert it: iconv -f GB18030 -t UTF-8");
    }
    source.format = "text";
    source.path = write_text("x.txt", texts[0]);
    assert_unreadable(&source, LORAD_DATA, "looks like GBK");

    struct opened opened;
    source = (struct dataset_source){
        .path = write_text("x.csv", "prompt,response\n问题,答案\n\xC4\xE3,caf\xE9\n")};
    open_source(&opened, &source);
    assert_row(&opened, 2, "U:问题|A:答案");
    assert_bad_row(&opened, 3, ROW_BAD_UTF8, "byte 0xc4");
    close_one(&opened);
}

static void packed_files_that_are_damaged_are_refused(void **state)
{
    (void)state;
    static const char *const paths[] = {SAMPLES "fintruthqa.csv.gz", SAMPLES "alpaca.json.zst"};
    for (int i = 0; i < 2; i++) {
        char bytes[4000];
        struct dataset_source source = {.columns = {.prompt = "QUES", .response = "ANS"}};
        FILE *file = fopen(paths[i], "rb");
        assert_non_null(file);
        size_t n = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        source.path = write_bytes("cut.gz", bytes, n - 9);
        assert_unreadable(&source, LORAD_DATA, "it ends too early");
        bytes[n / 2] ^= 8;
        source.path = write_bytes("bad.gz", bytes, n);
        assert_unreadable(&source, LORAD_DATA, "damaged");
    }
    struct dataset_source source = {.path = write_text("plain.jsonl.gz", "{\"text\": \"a\"}\n")};
    assert_unreadable(&source, LORAD_DATA, "is named .gz, but is not packed that way");

    /* Where it is unpacked nothing stays behind. */
    char folder[600];
    snprintf(folder, sizeof folder, "%s/scratch", test_tmpdir());
    source = (struct dataset_source){.path = SAMPLES "alpaca.json.zst"};
    struct source_list list;
    struct source_reader *reader;
    assert_ok(source_list_open(&list, &source, 1));
    source_list_scratch(&list, folder);
    assert_fails(source_reader_open(&reader, &list.file[0]), LORAD_CANNOT_CREATE, folder);
    assert_int_equal(mkdir(folder, 0777), 0);
    assert_ok(source_reader_open(&reader, &list.file[0]));
    assert_int_equal(rmdir(folder), 0);
    source_reader_close(reader);
    source_list_free(&list);
}

static void folders_and_patterns_name_files(void **state)
{
    (void)state;
    char folder[500], inner[600], pattern[600];
    snprintf(folder, sizeof folder, "%s/files", test_tmpdir());
    snprintf(inner, sizeof inner, "%s/more", folder);
    assert_int_equal(mkdir(folder, 0777), 0);
    assert_int_equal(mkdir(inner, 0777), 0);
    static const char *const names[] = {"files/b.jsonl",     "files/a.csv.gz", "files/.hidden.jsonl",
                                        "files/notes.md",    "files/c.TXT",    "files/d.jsonl.bak",
                                        "files/more/e.jsonl"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) write_text(names[i], "x");
    struct source_list list;
    struct dataset_source source = {.path = folder, .name = "mine"};
    assert_ok(source_list_open(&list, &source, 1));
    assert_int_equal(list.n, 3);
    assert_string_equal(list.file[0].name, "mine/a.csv.gz");
    assert_string_equal(list.file[1].name, "mine/b.jsonl");
    assert_string_equal(list.file[2].name, "mine/c.TXT");
    source_list_free(&list);

    source.format = "text"; /* documents are often Markdown */
    assert_ok(source_list_open(&list, &source, 1));
    assert_int_equal(list.n, 4);
    source_list_free(&list);

    snprintf(pattern, sizeof pattern, "%s/{*,more/*}.jsonl", folder);
    source = (struct dataset_source){.path = pattern};
    assert_ok(source_list_open(&list, &source, 1));
    assert_int_equal(list.n, 2);
    assert_non_null(strstr(list.file[0].name, "files/b.jsonl"));
    assert_non_null(strstr(list.file[1].name, "more/e.jsonl"));
    source_list_free(&list);
    snprintf(pattern, sizeof pattern, "%s/*.parquet", folder);
    assert_fails(source_list_open(&list, &source, 1), LORAD_NOT_FOUND, "no file matches");
}

/* ---- metadata ---- */

static void metadata_stands_beside_rows(void **state)
{
    (void)state;
    char meta[600];
    struct opened opened;
    snprintf(
        meta, sizeof meta, "%s",
        write_text("meta.csv",
                   "id,skip,weight,system,source\r\nk1,,0.5,你是律师。,x\r\nk2,true,,,y\r\nk3,0,,,\r\n"));
    struct dataset_source source = {
        .path = write_text("train.txt", "用户：一\n律师：二\n\n用户：三\n律师：四\n\n用户：五\n律师：\n"),
        .metadata_path = meta,
        .system = "default",
    };
    open_source(&opened, &source);
    assert_row(&opened, 1, "S:你是律师。|U:一|A:二");
    assert_true(opened.row.messages[2].weight == 0.5f);
    assert_bad_row(&opened, 4, ROW_SKIPPED, "metadata row 2 (id k2)");
    assert_bad_row(&opened, 7, ROW_EMPTY_ANSWER, "message 2 (id k3)");
    assert_no_row(&opened);
    close_one(&opened);

    write_text("meta.csv", "id\n1\n2\n");
    assert_unreadable(&source, LORAD_DATA, "meta.csv has 2 rows, but ");
    write_text("meta.csv", "name\n1\n2\n3\n");
    assert_unreadable(&source, LORAD_DATA, "none of its columns is id, system, weight or skip");
    write_text("meta.csv", "id,weight\n1,1\n2,-1\n3,1\n");
    assert_unreadable(&source, LORAD_DATA, "meta.csv:3: weight is \"-1\"");
    write_text("meta.csv", "skip\nmaybe\n");
    assert_unreadable(&source, LORAD_DATA, "meta.csv:2: skip is \"maybe\"");
    write_text("meta.csv", "id,skip\n1\n");
    assert_unreadable(&source, LORAD_DATA, "meta.csv:2: 1 cells, the header line has 2");
    write_text("meta.csv", "");
    assert_unreadable(&source, LORAD_DATA, "meta.csv is empty");

    /* In the folder itself it is no data; and it belongs to one file. */
    struct source_list list;
    source.path = test_tmpdir();
    source.metadata_path = "/nowhere/m.csv";
    assert_fails(source_list_open(&list, &source, 1), LORAD_NOT_FOUND, "metadata file /nowhere/m.csv");
    source.metadata_path = meta;
    assert_fails(source_list_open(&list, &source, 1), LORAD_CONFIG, "give each file its own dataset entry");
}

static void everything_that_changes_rows_is_in_the_key(void **state)
{
    (void)state;
    const struct dataset_source sources[] = {
        {.path = SAMPLES "law.json"},
        {.path = SAMPLES "law.json", .format = "alpaca"},
        {.path = SAMPLES "law.json", .system = "s"},
        {.path = SAMPLES "law.json", .columns = {.prompt = "s"}},
        {.path = SAMPLES "law.json", .columns = {.query = "s"}},
        {.path = SAMPLES "law.json", .columns = {.system = "s"}},
        {.path = SAMPLES "law.json", .tags = {.user_tag = "s"}},
        {.path = SAMPLES "law.json", .metadata_path = SAMPLES "fintruthqa.csv"},
    };
    enum { N = sizeof sources / sizeof *sources };
    struct strbuf key[N] = {0};
    for (size_t i = 0; i < N; i++) {
        struct source_list list;
        assert_ok(source_list_open(&list, &sources[i], 1));
        source_file_key(&key[i], &list.file[0]);
        source_list_free(&list);
        for (size_t k = 0; k < i; k++) assert_string_not_equal(strbuf_text(&key[i]), strbuf_text(&key[k]));
    }
    for (size_t i = 0; i < N; i++) strbuf_free(&key[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_sample_is_recognised_and_read_whole),
        cmocka_unit_test(rows_are_slices_that_can_be_read_in_any_order),
        cmocka_unit_test(messages_stand_in_lines_lists_and_spread_out),
        cmocka_unit_test(a_broken_list_ends_with_one_problem),
        cmocka_unit_test(messages_have_parts_and_weights),
        cmocka_unit_test(conversations_of_sharegpt),
        cmocka_unit_test(alpaca_rows),
        cmocka_unit_test(csv_rows),
        cmocka_unit_test(documents_are_learnt_whole),
        cmocka_unit_test(a_large_document_is_cut_at_blank_lines),
        cmocka_unit_test(a_wrong_format_is_one_clear_error),
        cmocka_unit_test(a_gbk_file_is_refused_with_the_command),
        cmocka_unit_test(packed_files_that_are_damaged_are_refused),
        cmocka_unit_test(folders_and_patterns_name_files),
        cmocka_unit_test(metadata_stands_beside_rows),
        cmocka_unit_test(everything_that_changes_rows_is_in_the_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
