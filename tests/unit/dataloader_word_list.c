#include "support/test.h"

#include <ctype.h>
#include <stdbool.h>

#include "base/random.h"
#include "dataloader/word_list.h"

struct hit {
    int32_t word;
    size_t offset, length;
};

struct hits {
    struct hit at[4096];
    size_t n;
};

static void note(void *context, int32_t word, size_t offset, size_t length)
{
    struct hits *hits = context;
    assert_true(hits->n < sizeof hits->at / sizeof *hits->at);
    hits->at[hits->n++] = (struct hit){word, offset, length};
}

static struct word_list *parse(const char *text)
{
    struct word_list *list;
    assert_ok(word_list_parse(&list, text, strlen(text), "words.txt"));
    return list;
}

static void the_file_is_read_as_it_says(void **state)
{
    (void)state;
    struct word_list *list = parse("\xEF\xBB\xBF# 敏感词\r\n  内幕交易 \r\n\r\n\tInsider "
                                   "Trading\n　庄家　\nINSIDER trading\n内幕\n#内幕2");
    assert_int_equal(word_list_size(list), 4);
    assert_string_equal(word_list_word(list, 0), "内幕交易");
    assert_string_equal(word_list_word(list, 1), "Insider Trading");
    assert_string_equal(word_list_word(list, 2), "庄家");
    assert_string_equal(word_list_word(list, 3), "内幕");
    struct word_list *same = parse("内幕交易\nInsider Trading\n庄家\n内幕"),
                     *other = parse("内幕交易\n庄家\n内幕");
    assert_true(hash128_equal(word_list_hash(list), word_list_hash(same)));
    assert_false(hash128_equal(word_list_hash(list), word_list_hash(other)));
    word_list_free(list);
    word_list_free(same);
    word_list_free(other);
    word_list_free(NULL);
}

static void bad_lists_are_refused_with_the_line(void **state)
{
    (void)state;
    struct word_list *list = NULL;
    char longest[1100];
    memset(longest, 'a', sizeof longest);
    memcpy(longest, "b\nc\n", 4);
    assert_fails(word_list_parse(&list, "a\nb\xFF\n", 5, "w"), LORAD_CONFIG, "w:2: byte 0xff");
    assert_fails(word_list_parse(&list, "a\n\nb\0c\n", 7, "w"), LORAD_CONFIG, "w:3: there is a NUL");
    assert_fails(word_list_parse(&list, longest, sizeof longest, "w"), LORAD_CONFIG,
                 "w:3: a word of 1096 bytes");
    assert_fails(word_list_parse(&list, "", 0, "w"), LORAD_CONFIG, "no word");
    assert_fails(word_list_parse(&list, " \n# x\n", 6, "w"), LORAD_CONFIG, "no word");
    assert_fails(word_list_read(&list, "/nowhere/words"), LORAD_NOT_FOUND, "/nowhere/words");
    assert_null(list);

    /* 5,000 words of 1,000 bytes that share nothing: more states than are allowed. */
    size_t length = 0;
    char *text = malloc(5000 * 1001);
    assert_non_null(text);
    for (int i = 0; i < 5000; i++) {
        length += (size_t)snprintf(text + length, 16, "w%08d", i);
        memset(text + length, 'z', 991);
        length += 991;
        text[length++] = '\n';
    }
    assert_fails(word_list_parse(&list, text, length, "w"), LORAD_CONFIG, "more than 2097152 states");
    free(text);
}

static void words_of_letters_match_whole(void **state)
{
    (void)state;
    struct word_list *list = parse("ass\n加杠杆\nA股\n9点");
    struct hits hits = {.n = 0};
    const char *text = "class Ass, assess; 加杠杆杆 a股 AA股 19点 9点";
    word_list_find(list, text, strlen(text), note, &hits);
    assert_int_equal(hits.n, 4);
    assert_int_equal(hits.at[0].word, 0);
    assert_memory_equal(text + hits.at[0].offset, "Ass", 3);
    assert_int_equal(hits.at[1].word, 1);
    assert_int_equal(hits.at[2].word, 2);
    assert_memory_equal(text + hits.at[2].offset, "a股", 4);
    assert_int_equal(hits.at[3].word, 3);
    word_list_free(list);
}

/* ---- against looking for each word at each place ---- */

static bool boundary(const char *text, size_t length, size_t at)
{
    return at == 0 || at == length || !isalnum((unsigned char)text[at - 1]) ||
           !isalnum((unsigned char)text[at]);
}

static size_t count_slowly(const struct word_list *list, const char *text, size_t length, int32_t word)
{
    const char *wanted = word_list_word(list, word);
    size_t n = strlen(wanted), found = 0;
    for (size_t i = 0; i + n <= length; i++) {
        size_t k = 0;
        while (k < n && tolower((unsigned char)wanted[k]) == tolower((unsigned char)text[i + k])) k++;
        found += k == n && boundary(text, length, i) && boundary(text, length, i + n);
    }
    return found;
}

static void random_text(char *to, size_t characters, uint64_t key)
{
    static const char *const alphabet[] = {"中", "丁", "丂", "-", "a", "B", "b", "é", "国"};
    size_t kinds = 2 + key % 8;
    *to = '\0';
    for (size_t i = 0; i < characters; i++) {
        const char *next = alphabet[random_philox(key, 1, i).word[0] % kinds];
        memcpy(to, next, strlen(next) + 1);
        to += strlen(next);
    }
}

static void every_occurrence_is_found(void **state)
{
    (void)state;
    struct hits *hits = malloc(sizeof *hits);
    size_t all = 0;
    assert_non_null(hits);
    for (uint64_t trial = 0; trial < 2000; trial++) {
        char text[400], words[600] = "", word[32];
        size_t n_words = 1 + random_philox(trial, 0, 0).word[0] % 20;
        for (size_t i = 0; i < n_words; i++) {
            uint64_t key = random_key(trial, i, 0, 0, 0);
            random_text(word, 1 + key / 8 % 5, key);
            strcat(strcat(words, word), "\n");
        }
        random_text(text, 60, trial);
        struct word_list *list = parse(words);
        hits->n = 0;
        word_list_find(list, text, strlen(text), note, hits);
        for (int32_t w = 0; w < word_list_size(list); w++) {
            size_t found = 0;
            for (size_t i = 0; i < hits->n; i++) found += hits->at[i].word == w;
            if (found != count_slowly(list, text, strlen(text), w))
                fail_msg("trial %d: \"%s\" in \"%s\": %zu", (int)trial, word_list_word(list, w), text, found);
        }
        for (size_t i = 1; i < hits->n; i++)
            assert_true(hits->at[i - 1].offset + hits->at[i - 1].length <=
                        hits->at[i].offset + hits->at[i].length);
        all += hits->n;
        word_list_free(list);
    }
    assert_true(all > 10000);
    free(hits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_file_is_read_as_it_says),
        cmocka_unit_test(bad_lists_are_refused_with_the_line),
        cmocka_unit_test(words_of_letters_match_whole),
        cmocka_unit_test(every_occurrence_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
