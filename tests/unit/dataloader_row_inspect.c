#include "support/test.h"

#include "base/random.h"
#include "base/utf8.h"
#include "dataloader/personal_data.h"
#include "dataloader/row_inspect.h"

struct expected {
    const char *text;
    const char *masked; /* NULL: nothing is found */
};

static struct message say(enum message_role role, const char *text)
{
    return (struct message){role, text, strlen(text), role == ROLE_ASSISTANT};
}

static void check_masked(const struct expected *expected, size_t n)
{
    const struct inspect_options options = {.pii = PII_MASK};
    struct inspection inspection = {0};
    struct finding_list list = {0};
    for (size_t i = 0; i < n; i++) {
        struct message message = say(ROLE_USER, expected[i].text);
        enum inspect_verdict verdict;
        const char *wanted = expected[i].masked ? expected[i].masked : expected[i].text;
        list.n = 0;
        assert_ok(row_inspect(&options, &inspection, &message, 1, &list, &verdict));
        if (message.length != strlen(wanted) || memcmp(message.content, wanted, message.length) != 0)
            fail_msg("%s: became %.*s", expected[i].text, (int)message.length, message.content);
        assert_int_equal(verdict, expected[i].masked ? INSPECT_MASKED : INSPECT_KEEP);
        assert_int_equal(list.n > 0, expected[i].masked != NULL);
    }
    inspection_free(&inspection);
    finding_list_free(&list);
}

#define CHECK_MASKED(...)                                                                                    \
    do {                                                                                                     \
        const struct expected expected_[] = {__VA_ARGS__};                                                   \
        check_masked(expected_, sizeof expected_ / sizeof *expected_);                                       \
    } while (0)

static void resident_id_numbers(void **state)
{
    (void)state;
    CHECK_MASKED({"身份证号11010519491231002X，请核对", "身份证号[ID]，请核对"},
                 {"11010519491231002x", "[ID]"}, {"ID: 310101199003077739.", "ID: [ID]."},
                 {"３１０１０１１９９００３０７７７３９号", "[ID]号"},
                 {"１１０１０５１９４９１２３１００２Ｘ", "[ID]"}, {"(440307200002290013)", "([ID])"},
                 {"310101199003077739,11010519491231002X", "[ID],[ID]"},
                 {"310101199003077738", NULL},  /* check digit */
                 {"110105194912310021", NULL},  /* and again */
                 {"440307190002290017", NULL},  /* 1900 had no 29 February */
                 {"990105194912310023", NULL},  /* no such region */
                 {"110105194913310021", NULL},  /* month 13 */
                 {"110105189912310023", NULL},  /* 1899 */
                 {"3101011990030777391", NULL}, /* inside a longer string of digits */
                 {"1310101199003077739", NULL}, {"a310101199003077739", NULL}, {"310101199003077739b", NULL},
                 {"11010519491231002Xyz", NULL}, {"310101199003077739.25", NULL},
                 {"0.310101199003077739", NULL}, {"310101199003077739元", NULL});
}

static void mobile_numbers(void **state)
{
    (void)state;
    CHECK_MASKED(
        {"请拨打13812345678咨询", "请拨打[PHONE]咨询"}, {"手机：１３８１２３４５６７８。", "手机：[PHONE]。"},
        {"138-1234-5678", "[PHONE]"}, {"电话 138 1234 5678", "电话 [PHONE]"}, {"+86 13812345678", "[PHONE]"},
        {"+86-138-1234-5678", "[PHONE]"}, {"+8613812345678", "[PHONE]"}, {"008613812345678", "[PHONE]"},
        {"Tel13812345678", "Tel[PHONE]"}, {"13812345678、19912345678", "[PHONE]、[PHONE]"},
        {"13812345678,13912345678", "[PHONE],[PHONE]"}, {"13812345678 13912345678", "[PHONE] [PHONE]"},
        {"13812345678/13912345678", "[PHONE]/[PHONE]"}, {"联系人13812345678手机", "联系人[PHONE]手机"},
        {"13812345678.", "[PHONE]."}, {"12812345678", NULL}, /* no such prefix */
        {"15412345678", NULL}, {"1381234567", NULL},         /* ten digits */
        {"138123456789", NULL}, {"913812345678", NULL}, {"13812345678元", NULL}, {"13812345678 股", NULL},
        {"13812345678.90", NULL}, {"0.13812345678", NULL}, {"13812345678,000", NULL}, {"￥13812345678", NULL},
        {"$13812345678", NULL}, {"人民币13812345678", NULL}, {"13812345678%", NULL}, {"13812345678万", NULL},
        {"x13812345678", NULL}, {"id_13812345678", NULL}, {"13812345678a", NULL},
        {"2019-13812345678-01", NULL}, {"http://a.cn/s13812345678", NULL}, {"b/13812345678.html", NULL},
        {"150 2018 2019", NULL}, {"138 1234 5678 9012", NULL}, {"12 138 1234 5678", NULL},
        {"138 1234-5678", NULL}, {"13,812,345,678", NULL}, {"2019123113812345678", NULL});
}

static void landline_numbers(void **state)
{
    (void)state;
    CHECK_MASKED({"热线0755-82960167。", "热线[PHONE]。"}, {"（010）65185898", "[PHONE]"},
                 {"(010) 6518 5898", "[PHONE]"}, {"０２１－６８８８８８８８", "[PHONE]"},
                 {"021—68888888", "[PHONE]"}, {"+86-755-82960167", "[PHONE]"}, {"86 10 65185898", "[PHONE]"},
                 {"0755-82960167-801", "[PHONE]"}, {"0571-8765432", "[PHONE]"}, {"0755-8296-0167", "[PHONE]"},
                 {"电话：010 65185898", "电话：[PHONE]"}, {"010-65185898转801", "[PHONE]转801"},
                 {"021--68864621", "[PHONE]"}, {"热线：8610-66638188；", "热线：[PHONE]；"},
                 {"电话043188912969.", "电话[PHONE]."}, {"电话为02584418888-888122/1", "电话为[PHONE]/1"},
                 {"043188912969", NULL}, {"电话026844188881", NULL}, {"电话0258441888", NULL},
                 {"8610-1234567", NULL}, {"010 65185898", NULL}, /* nothing says what it is */
                 {"026-65185898", NULL},                         /* no such area */
                 {"010-6518589", NULL},                          /* 8 digits behind 010 */
                 {"0755-12960167", NULL}, {"0755-829601678", NULL}, {"400-820-8820", NULL},
                 {"0755-829601", NULL}, {"2019-82960167", NULL}, {"临0755-20190101号", NULL},
                 {"A0755-82960167", NULL}, {"0755-2019-0101", NULL}, {"600519-82960167", NULL},
                 {"10-65185898", NULL});
}

static void bank_cards(void **state)
{
    (void)state;
    CHECK_MASKED({"卡号6222021234567890128", "卡号[CARD]"}, {"6225881234567898。", "[CARD]。"},
                 {"6225 8812 3456 7898", "[CARD]"}, {"6222-0212-3456-7890-128", "[CARD]"},
                 {"622202 1234567890128", "[CARD]"}, {"６２２５８８１２３４５６７８９８", "[CARD]"},
                 {"621700123456789011", "[CARD]"}, {"visa 4111111111111111", "visa [CARD]"},
                 {"信用卡：5123456789012346", "信用卡：[CARD]"}, {"4111-1111-1111-1111", "[CARD]"},
                 {"3782-822463-10005", "[CARD]"}, {"card 3566002020360505", "card [CARD]"},
                 {"4111111111111111", NULL},     /* nothing says that it is a card */
                 {"4111 1111 1111 1111", NULL},  /* a row of a table, perhaps */
                 {"卡号4111111111111112", NULL}, /* Luhn */
                 {"6222021234567890129", NULL}, {"62220212345678901281", NULL}, {"162220212345678901", NULL},
                 {"卡号9111111111111111", NULL}, {"622588123456789", NULL}, {"6225881234567898.50", NULL},
                 {"6225881234567898元", NULL}, {"6225 8812 3456 7898 1234", NULL},
                 {"1 6225 8812 3456 7898", NULL}, {"order_6225881234567898", NULL});
}

static void mail_addresses(void **state)
{
    (void)state;
    CHECK_MASKED({"邮箱ir@example.com.cn，欢迎来信", "邮箱[EMAIL]，欢迎来信"},
                 {"a.b-c+d_e@x-y.org.", "[EMAIL]."}, {"13812345678@163.com", "[EMAIL]"},
                 {"ｉｒ＠ｅｘａｍｐｌｅ．ｃｏｍ", "[EMAIL]"}, {"<a@b.cn>;c@d.com", "<[EMAIL]>;[EMAIL]"},
                 {"mailto:x_1@q.io?s=1", "mailto:[EMAIL]?s=1"}, {"a@b.com.2019", "[EMAIL].2019"},
                 {"a@b", NULL}, {"@b.com", NULL}, {"a@.com", NULL}, {"icon@2x.png", NULL},
                 {"pkg@1.2.3", NULL}, {"a@b.c", NULL}, {"a@@b.com", NULL}, {"微博@财经.com", NULL},
                 {"a.@b.com", NULL}, {"a@-b.com", NULL});
}

static void what_finance_texts_are_full_of(void **state)
{
    (void)state;
    CHECK_MASKED({"贵州茅台(600519.SH)2019年营业收入88,854,337,488.76元", NULL},
                 {"公告编号：2020-045，证券代码：002594", NULL}, {"债券代码122212.SH，发行日20190930", NULL},
                 {"净利润13587654321.45元，同比增长12.34%", NULL}, {"合同编号HT20190930123456789012", NULL},
                 {"统一社会信用代码911100007109250324", NULL}, {"统一社会信用代码91440300708461136T", NULL},
                 {"专利ZL201310123456.7", NULL}, {"时间戳20190930153000123", NULL},
                 {"2016 2017 2018 2019", NULL}, {"1.23 4.56 7.89", NULL}, {"2019-09-30 15:30:00", NULL},
                 {"客服热线400-820-8820或95588", NULL}, {"ISBN 978-7-5049-1234-5", NULL},
                 {"成交量 18600000000 股", NULL}, {"总股本14,000,000,000股", NULL});
}

static void pieces_keep_apart_and_places_are_exact(void **state)
{
    (void)state;
    const char *text = "张三，身份证310101199003077739，手机13812345678，邮箱z3@qq.com，又13912345678";
    struct message messages[] = {say(ROLE_SYSTEM, "无"), say(ROLE_USER, text),
                                 say(ROLE_ASSISTANT, "13812345678")};
    const struct inspect_options options = {.pii = PII_WARN};
    struct inspection inspection = {0};
    struct finding_list list = {0};
    enum inspect_verdict verdict;
    assert_ok(row_inspect(&options, &inspection, messages, 3, &list, &verdict));
    assert_int_equal(verdict, INSPECT_KEEP);
    assert_ptr_equal(messages[1].content, text);
    assert_int_equal(list.n, 3);
    assert_int_equal(list.at[0].kind, FINDING_ID);
    assert_int_equal(list.at[1].kind, FINDING_MOBILE);
    assert_int_equal(list.at[1].count, 3);
    assert_int_equal(list.at[1].message, 1);
    assert_memory_equal(text + list.at[1].offset, "13812345678", list.at[1].length);
    assert_int_equal(list.at[2].kind, FINDING_EMAIL);
    struct strbuf words = STRBUF_EMPTY;
    finding_text(&words, list.at, list.n, NULL);
    assert_string_equal(strbuf_text(&words),
                        "1 resident ID number, 3 mobile phone numbers, 1 e-mail address");
    strbuf_free(&words);

    const struct inspect_options drop = {.pii = PII_DROP}, mask = {.pii = PII_MASK}, off = {0};
    list.n = 0;
    assert_ok(row_inspect(&drop, &inspection, messages, 3, &list, &verdict));
    assert_int_equal(verdict, INSPECT_DROP);
    list.n = 0;
    assert_ok(row_inspect(&off, &inspection, messages, 3, &list, &verdict));
    assert_int_equal(list.n, 0);
    assert_ok(row_inspect(&mask, &inspection, messages, 3, &list, &verdict));
    assert_int_equal(verdict, INSPECT_MASKED);
    assert_string_equal(messages[0].content, "无");
    assert_int_equal(messages[2].length, 7);
    assert_memory_equal(messages[2].content, "[PHONE]", 7);
    list.n = 0;
    assert_ok(row_inspect(&drop, &inspection, messages, 1, &list, &verdict));
    assert_int_equal(verdict, INSPECT_KEEP);
    inspection_free(&inspection);
    finding_list_free(&list);
}

/* The masked text is the text with each piece that is found replaced by its placeholder, whatever stands side
 * by side. */
static void masked_text_is_the_text_less_the_pieces(void **state)
{
    (void)state;
    static const char *const parts[] = {"13812345678",
                                        "138 1234 5678",
                                        "0755-82960167",
                                        "6225881234567898",
                                        "@",
                                        "310101199003077739",
                                        "a",
                                        "q.com",
                                        " ",
                                        "-",
                                        "(",
                                        ")",
                                        "+86",
                                        "元",
                                        "，",
                                        "１２",
                                        ".",
                                        "7",
                                        "卡",
                                        "86"};
    const struct inspect_options options = {.pii = PII_MASK};
    struct inspection inspection = {0};
    struct finding_list list = {0};
    int found = 0;
    for (uint64_t i = 0; i < 20000; i++) {
        char text[400] = "", wanted[600] = "";
        for (uint64_t k = 0; k < 8; k++)
            strcat(text, parts[random_philox(5, i, k).word[0] % (sizeof parts / sizeof *parts)]);
        size_t length = strlen(text), at = 0;
        struct personal_data piece;
        while (personal_data_find(&piece, text, length, at)) {
            assert_true(piece.offset >= at && piece.length >= 6 && piece.offset + piece.length <= length);
            strncat(wanted, text + at, piece.offset - at);
            strcat(wanted, finding_placeholder(piece.kind));
            at = piece.offset + piece.length;
        }
        strcat(wanted, text + at);
        struct message message = say(ROLE_USER, text);
        enum inspect_verdict verdict;
        list.n = 0;
        assert_ok(row_inspect(&options, &inspection, &message, 1, &list, &verdict));
        assert_int_equal(message.length, strlen(wanted));
        assert_memory_equal(message.content, wanted, message.length);
        assert_int_equal(verdict == INSPECT_MASKED, at > 0);
        found += at > 0;
    }
    assert_true(found > 2000 && found < 18000);
    inspection_free(&inspection);
    finding_list_free(&list);
}

static void long_strings_of_digits_cost_little(void **state)
{
    (void)state;
    enum { LENGTH = 4 << 20 };
    char *text = malloc(LENGTH);
    struct personal_data piece;
    assert_non_null(text);
    for (size_t i = 0; i < LENGTH; i++) text[i] = (char)('0' + i % 10);
    assert_false(personal_data_find(&piece, text, LENGTH, 0));
    for (size_t i = 0; i < LENGTH; i++) text[i] = i % 2 ? ' ' : '1';
    assert_false(personal_data_find(&piece, text, LENGTH, 0));
    memset(text, '@', LENGTH);
    assert_false(personal_data_find(&piece, text, LENGTH, 0));
    for (size_t i = 0; i < LENGTH; i++) text[i] = i % 100 ? 'a' : '@';
    assert_false(personal_data_find(&piece, text, LENGTH, 0));
    for (size_t i = 0; i < LENGTH; i++) text[i] = i % 3 == 0 ? 'a' : i % 3 == 1 ? '@' : '.';
    assert_false(personal_data_find(&piece, text, LENGTH, 0));
    free(text);
}

static void words_and_short_answers(void **state)
{
    (void)state;
    struct word_list *words;
    const char *list_text = "内幕\n# 注释\n保证收益\nPonzi\n";
    assert_ok(word_list_parse(&words, list_text, strlen(list_text), "words.txt"));
    struct message messages[] = {say(ROLE_USER, "内幕消息？ponzi 骗局与 Ponzification"),
                                 say(ROLE_ASSISTANT, "　内幕。 \n"), say(ROLE_USER, "内幕"),
                                 say(ROLE_ASSISTANT, "没有保证收益")};
    const struct inspect_options options = {.min_answer_chars = 4, .words = words};
    struct inspection inspection = {0};
    struct finding_list list = {0};
    enum inspect_verdict verdict;
    for (int again = 0; again < 2; again++) {
        list.n = 0;
        assert_ok(row_inspect(&options, &inspection, messages, 4, &list, &verdict));
        assert_int_equal(verdict, INSPECT_KEEP);
        assert_int_equal(list.n, 4);
        assert_int_equal(list.at[0].kind, FINDING_SHORT_ANSWER);
        assert_int_equal(list.at[0].count, 1);
        assert_int_equal(list.at[0].message, 1);
        assert_int_equal(list.at[1].word, 0);
        assert_int_equal(list.at[1].count, 3);
        assert_int_equal(list.at[1].offset, 0);
        assert_int_equal(list.at[2].word, 2);
        assert_int_equal(list.at[2].count, 1);
        assert_int_equal(list.at[3].word, 1);
        assert_int_equal(list.at[3].message, 3);
    }
    const struct inspect_options three = {.min_answer_chars = 3};
    list.n = 0;
    assert_ok(row_inspect(&three, &inspection, messages, 4, &list, &verdict));
    assert_int_equal(list.n, 0);
    const struct inspect_options seven = {.min_answer_chars = 7};
    messages[3].weight = 0; /* not learnt */
    assert_ok(row_inspect(&seven, &inspection, messages, 4, &list, &verdict));
    assert_int_equal(list.at[0].count, 1);
    inspection_free(&inspection);
    finding_list_free(&list);
    word_list_free(words);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resident_id_numbers),
        cmocka_unit_test(mobile_numbers),
        cmocka_unit_test(landline_numbers),
        cmocka_unit_test(bank_cards),
        cmocka_unit_test(mail_addresses),
        cmocka_unit_test(what_finance_texts_are_full_of),
        cmocka_unit_test(pieces_keep_apart_and_places_are_exact),
        cmocka_unit_test(masked_text_is_the_text_less_the_pieces),
        cmocka_unit_test(long_strings_of_digits_cost_little),
        cmocka_unit_test(words_and_short_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
