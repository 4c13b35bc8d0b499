#include "support/test.h"

#include <math.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/random.h"
#include "base/strbuf.h"

static void status_keeps_the_first_message_and_its_place(void **state)
{
    (void)state;
    enum status code = FAIL(LORAD_DATA, "row %d is bad", 7);
    assert_int_equal(code, LORAD_DATA);
    assert_string_equal(status_message(), "row 7 is bad");
    code = status_context(code, "train.jsonl");
    assert_string_equal(status_message(), "train.jsonl: row 7 is bad");
    assert_int_equal(status_exit_code(code), 65);
    code = FAIL(LORAD_IO, "after: %s", status_message());
    assert_string_equal(status_message(), "after: train.jsonl: row 7 is bad");
    assert_int_equal(status_exit_code(code), 74);
}

static void json_refuses_what_is_not_one_clean_value(void **state)
{
    (void)state;
    struct json *document = NULL;
    assert_fails(js_parse(&document, "{\"a\":1,\"a\":2}", 13, "x.json"), LORAD_DATA, "x.json: line 1");
    assert_fails(js_parse(&document, "{} {}", 5, "x.json"), LORAD_DATA, "end of file");
    assert_fails(js_parse(&document, "\"\xff\"", 3, "x.json"), LORAD_DATA, "unable to decode");
    assert_fails(js_parse(&document, "", 0, "x.json"), LORAD_DATA, NULL);
    assert_fails(js_parse(&document, "\"\\u0000\"", 8, "x.json"), LORAD_DATA, "\\u0000 is not allowed");
    assert_null(strstr(status_message(), "JSON_"));
}

static void json_numbers_read_back_to_the_same_bits(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 20000; i++) {
        struct random_block block = random_philox(1, 0, i);
        double wide;
        float narrow;
        uint64_t bits = (uint64_t)block.word[0] << 32 | block.word[1];
        memcpy(&wide, &bits, sizeof wide);
        memcpy(&narrow, &block.word[2], sizeof narrow);
        struct strbuf text = STRBUF_EMPTY;
        js_write_double(&text, wide);
        if (isfinite(wide)) assert_true(strtod(strbuf_text(&text), NULL) == wide);
        strbuf_clear(&text);
        js_write_float(&text, narrow);
        if (isfinite(narrow)) assert_true(strtof(strbuf_text(&text), NULL) == narrow);
        strbuf_free(&text);
    }
}

static void json_strings_survive_a_round_trip(void **state)
{
    (void)state;
    const char text[] = "quote \" slash \\ tab \t bell \a 中文";
    struct strbuf out = STRBUF_EMPTY;
    js_write_string(&out, text, strlen(text));
    struct json *document = NULL;
    assert_ok(js_parse(&document, strbuf_text(&out), out.length, "here"));
    assert_string_equal(js_string(document, NULL), text);
    js_destroy(document);
    strbuf_free(&out);
}

/* Known answers of Philox4x32-10 from the Random123 distribution's kat_vectors. */
static void philox_matches_the_published_vectors(void **state)
{
    (void)state;
    struct random_block zero = random_philox(0, 0, 0);
    assert_int_equal(zero.word[0], 0x6627e8d5u);
    assert_int_equal(zero.word[1], 0xe169c58du);
    assert_int_equal(zero.word[2], 0xbc57ac4cu);
    assert_int_equal(zero.word[3], 0x9b00dbd8u);
    struct random_block ones = random_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX);
    assert_int_equal(ones.word[0], 0x408f276du);
    assert_int_equal(ones.word[1], 0x41c83b0eu);
    assert_int_equal(ones.word[2], 0xa20bc7c6u);
    assert_int_equal(ones.word[3], 0x6d5451fdu);
}

static void arena_measures_what_it_hands_out(void **state)
{
    (void)state;
    struct arena plan, real;
    void *a, *b;
    arena_init(&plan, NULL, 0);
    assert_ok(arena_take(&plan, &a, 100));
    assert_ok(arena_take(&plan, &b, 1));
    char *block = aligned_alloc(ARENA_ALIGN, 512);
    arena_init(&real, block, plan.used_bytes);
    assert_ok(arena_take(&real, &a, 100));
    assert_ok(arena_take(&real, &b, 1));
    assert_ptr_equal((char *)b, block + ARENA_ALIGN);
    assert_fails(arena_take(&real, &b, 1000), LORAD_BUG, NULL);
    free(block);
}

static void hash_text_round_trips_and_streams_agree(void **state)
{
    (void)state;
    struct hash128 whole = hash128("hello, world", 12), back;
    char text[33];
    hash128_hex(whole, text);
    assert_ok(hash128_parse(&back, text));
    assert_true(hash128_equal(whole, back));
    assert_fails(hash128_parse(&back, "12"), LORAD_DATA, NULL);
    struct hash_stream *stream;
    assert_ok(hash_stream_create(&stream));
    hash_stream_add(stream, "hello, ", 7);
    hash_stream_add(stream, "world", 5);
    assert_true(hash128_equal(whole, hash_stream_value(stream)));
    hash_stream_destroy(stream);
}

static void reading_a_missing_or_large_file_says_so(void **state)
{
    (void)state;
    char *text, *path = file_join(test_tmpdir(), "f");
    size_t length;
    assert_fails(file_read(&text, &length, path, 10), LORAD_NOT_FOUND, path);
    FILE *file = fopen(path, "w");
    fputs("0123456789ab", file);
    fclose(file);
    assert_fails(file_read(&text, &length, path, 10), LORAD_DATA, "at most 10");
    assert_ok(file_read(&text, &length, path, 12));
    assert_string_equal(text, "0123456789ab");
    free(text);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_keeps_the_first_message_and_its_place),
        cmocka_unit_test(json_refuses_what_is_not_one_clean_value),
        cmocka_unit_test(json_numbers_read_back_to_the_same_bits),
        cmocka_unit_test(json_strings_survive_a_round_trip),
        cmocka_unit_test(philox_matches_the_published_vectors),
        cmocka_unit_test(arena_measures_what_it_hands_out),
        cmocka_unit_test(hash_text_round_trips_and_streams_agree),
        cmocka_unit_test(reading_a_missing_or_large_file_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
