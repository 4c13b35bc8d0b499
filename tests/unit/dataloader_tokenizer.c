/*
 * The tokenizer against Hugging Face tokenizers: every committed string and its numbers, and what is refused.
 * The strings and numbers are written by tests/golden/gen_tokenizer.py.
 */
#include "support/test.h"
#include "support/token_checks.h"

#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "dataloader/tokenizer.h"

static const struct encode_options full = {.add_special_tokens = true, .match_special = true};
static const struct encode_options plain = {.add_special_tokens = false, .match_special = false};

static struct tokenizer *open_model(const char *path)
{
    char full_path[1024];
    snprintf(full_path, sizeof full_path, "%s/%s", LORAD_TEST_DATA, path);
    struct tokenizer *tokenizer = NULL;
    assert_ok(tokenizer_open(&tokenizer, full_path));
    return tokenizer;
}

/* ---- goldens ---- */

static void check_row(const struct tokenizer *tokenizer, const struct json *row, struct token_list *list,
                      const char *file, long line)
{
    size_t length;
    const char *text = js_string(js_at(row, 0), &length);
    list->length = 0;
    assert_ok(tokenizer_encode(tokenizer, text, length, full, list));
    expect_ids(list, js_at(row, 1), file, line);
    if (list->want_spans) expect_spans(list, length, file, line);
    list->length = 0;
    assert_ok(tokenizer_encode(tokenizer, text, length, plain, list));
    const struct json *without = js_at(row, 2);
    expect_ids(list, js_type(without) == JS_NULL ? js_at(row, 1) : without, file, line);

    const char *decoded = js_string(js_at(row, 3), NULL);
    if (!decoded) return;
    const struct json *ids = js_at(row, 1);
    size_t n = js_length(ids), first = (line - 1) % 8 ? n / 3 : 0;
    int32_t *part = test_malloc((n + 1) * sizeof *part);
    for (size_t i = first; i < n; i++) part[i - first] = (int32_t)js_int(js_at(ids, i), -1);
    struct strbuf out = STRBUF_EMPTY;
    assert_ok(tokenizer_decode(tokenizer, part, n - first, true, &out));
    if (strcmp(strbuf_text(&out), decoded) != 0)
        fail_msg("%s:%ld: decoded \"%s\", expected \"%s\"", file, line, strbuf_text(&out), decoded);
    strbuf_free(&out);
    test_free(part);
}

static long check_goldens(const char *model, const char *name)
{
    struct tokenizer *tokenizer = open_model(model);
    char path[1024];
    snprintf(path, sizeof path, "%s/tokenizer/%s.jsonl", LORAD_TEST_DATA, name);
    char *text;
    size_t length;
    assert_ok(file_read(&text, &length, path, 64 << 20));
    struct token_list list = {0}, spans = {.want_spans = true};
    long line = 0;
    for (char *at = text; *at;) {
        char *end = strchr(at, '\n');
        assert_non_null(end);
        struct json *row;
        line++;
        assert_ok(js_parse(&row, at, (size_t)(end - at), path));
        check_row(tokenizer, row, &list, path, line);
        check_row(tokenizer, row, &spans, path, line);
        js_destroy(row);
        at = end + 1;
    }
    token_list_free(&list);
    token_list_free(&spans);
    free(text);
    tokenizer_close(tokenizer);
    return line;
}

static void goldens_fin_zh_tiny(void **state)
{
    (void)state;
    assert_true(check_goldens("models/fin-zh-tiny", "fin-zh-tiny") >= 2000);
}

static void goldens_tinystories(void **state)
{
    (void)state;
    assert_true(check_goldens("models/tinystories-656k", "tinystories-656k") >= 2000);
}

static void goldens_small(void **state)
{
    (void)state;
    static const char *const names[] = {"qwen2",  "llama3",  "mistral", "metaspace", "digits",
                                        "prefix", "regexes", "o200k",   "normal",    "spaces"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char model[64];
        snprintf(model, sizeof model, "tokenizer/%s", names[i]);
        assert_true(check_goldens(model, names[i]) >= 400);
    }
}

/* ---- many strings by the hash of their numbers ---- */

static uint32_t hash_ids(const struct token_list *list)
{
    uint64_t value = 0xCBF29CE484222325u;
    for (size_t i = 0; i < list->length; i++)
        for (int shift = 0; shift < 32; shift += 8)
            value = (value ^ ((uint32_t)list->ids[i] >> shift & 255)) * 0x100000001B3u;
    return (uint32_t)(value >> 32);
}

static char *read_data(const char *name)
{
    char path[1024], *text;
    size_t length;
    snprintf(path, sizeof path, "%s/tokenizer/%s", LORAD_TEST_DATA, name);
    assert_ok(file_read(&text, &length, path, 64 << 20));
    return text;
}

static void check_many(const char *model, const char *name)
{
    char answers_name[64];
    snprintf(answers_name, sizeof answers_name, "%s.many", name);
    char *rows = read_data("many.jsonl"), *answers = read_data(answers_name), *expected = answers;
    struct tokenizer *tokenizer = open_model(model);
    struct token_list list = {0};
    long line = 0;
    for (char *at = rows, *end; *at; at = end + 1, line++) {
        end = strchr(at, '\n');
        assert_non_null(end);
        struct json *row;
        size_t length;
        assert_ok(js_parse(&row, at, (size_t)(end - at), "many.jsonl"));
        const char *text = js_string(row, &length);
        list.length = 0;
        assert_ok(tokenizer_encode(tokenizer, text, length, full, &list));
        if (hash_ids(&list) != strtoul(expected, &expected, 16))
            fail_msg("%s: many.jsonl:%ld: other numbers for %.*s", name, line + 1, (int)(end - at), at);
        js_destroy(row);
    }
    assert_int_equal(line, 10000);
    token_list_free(&list);
    tokenizer_close(tokenizer);
    free(rows);
    free(answers);
}

static void many_strings(void **state)
{
    (void)state;
    static const char *const names[] = {"qwen2",  "llama3",  "mistral", "metaspace", "digits",
                                        "prefix", "regexes", "o200k",   "normal",    "spaces"};
    check_many("models/fin-zh-tiny", "fin-zh-tiny");
    check_many("models/tinystories-656k", "tinystories-656k");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char model[64];
        snprintf(model, sizeof model, "tokenizer/%s", names[i]);
        check_many(model, names[i]);
    }
}

/* llama.cpp's cases for Qwen2. */
static void qwen2_vectors(void **state)
{
    (void)state;
    char *rows = read_data("qwen2-vectors.jsonl");
    struct tokenizer *tokenizer = open_model("tokenizer/qwen2-vectors");
    struct token_list list = {0};
    long line = 0;
    for (char *at = rows, *end; *at; at = end + 1) {
        end = strchr(at, '\n');
        struct json *row;
        size_t length;
        assert_ok(js_parse(&row, at, (size_t)(end - at), "qwen2-vectors.jsonl"));
        const char *text = js_string(js_at(row, 0), &length);
        list.length = 0;
        assert_ok(tokenizer_encode(tokenizer, text, length, plain, &list));
        expect_ids(&list, js_at(row, 1), "qwen2-vectors.jsonl", ++line);
        js_destroy(row);
    }
    assert_true(line >= 40);
    token_list_free(&list);
    tokenizer_close(tokenizer);
    free(rows);
}

/* ---- decoding token by token ---- */

/* What comes out early is whole UTF-8 and a beginning of what all tokens give; at the end it is all of it. */
static void check_stream(const struct tokenizer *tokenizer, const int32_t *ids, size_t n, bool skip_special)
{
    struct strbuf whole = STRBUF_EMPTY, part = STRBUF_EMPTY;
    struct token_stream *stream;
    assert_ok(tokenizer_decode(tokenizer, ids, n, skip_special, &whole));
    assert_ok(token_stream_create(&stream, tokenizer, skip_special));
    for (int twice = 0; twice < 2; twice++) {
        strbuf_clear(&part);
        for (size_t i = 0; i < n; i++) {
            assert_ok(token_stream_add(stream, ids[i], &part));
            assert_true(part.length <= whole.length);
            assert_true(utf8_valid(strbuf_text(&part), part.length, NULL));
            assert_memory_equal(strbuf_text(&part), strbuf_text(&whole), part.length);
        }
        assert_ok(token_stream_finish(stream, &part));
        assert_int_equal(part.length, whole.length);
        assert_memory_equal(strbuf_text(&part), strbuf_text(&whole), part.length);
    }
    token_stream_destroy(stream);
    strbuf_free(&whole);
    strbuf_free(&part);
}

static void streams_give_the_whole(void **state)
{
    (void)state;
    static const char *const models[] = {"models/fin-zh-tiny", "models/tinystories-656k", "tokenizer/mistral",
                                         "tokenizer/normal",   "tokenizer/metaspace",     "tokenizer/prefix"};
    uint32_t random = 1;
    for (size_t m = 0; m < sizeof models / sizeof models[0]; m++) {
        struct tokenizer *tokenizer = open_model(models[m]);
        for (int round = 0; round < 300; round++) {
            int32_t ids[24];
            size_t n = 0;
            for (; n < (size_t)(round % 24); n++) {
                random = random * 1664525u + 1013904223u;
                /* often the byte tokens, which stand at the beginning */
                ids[n] = (int32_t)((random >> 8) % (uint32_t)(round % 2 ? 300 : tokenizer_size(tokenizer)));
            }
            check_stream(tokenizer, ids, n, round % 3 == 0);
        }
        tokenizer_close(tokenizer);
    }
}

/* Text comes out with the token that completes it, not later. */
static void streams_do_not_lag(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_model("models/fin-zh-tiny");
    struct token_list list = {0};
    assert_ok(tokenizer_encode(tokenizer, "a\xF0\x9F\x98\x80", 5, plain, &list));
    assert_true(list.length >= 3); /* the face takes several tokens */
    struct token_stream *stream;
    struct strbuf text = STRBUF_EMPTY;
    assert_ok(token_stream_create(&stream, tokenizer, true));
    assert_ok(token_stream_add(stream, list.ids[0], &text));
    assert_string_equal(strbuf_text(&text), "a");
    for (size_t i = 1; i < list.length; i++) {
        assert_int_equal(text.length, 1);
        assert_ok(token_stream_add(stream, list.ids[i], &text));
    }
    assert_string_equal(strbuf_text(&text), "a\xF0\x9F\x98\x80");
    token_stream_destroy(stream);
    strbuf_free(&text);
    token_list_free(&list);
    tokenizer_close(tokenizer);
}

static void oracle_cases(void **state)
{
    (void)state;
    struct json *root;
    assert_ok(js_read_file(&root, LORAD_TEST_DATA "/models/fin-zh-tiny.oracle.json", 1 << 20));
    const struct json *cases = js_get(root, "tokenizer_cases");
    assert_true(js_length(cases) >= 1);
    struct tokenizer *tokenizer = open_model("models/fin-zh-tiny");
    struct token_list list = {0};
    for (size_t i = 0; i < js_length(cases); i++) {
        size_t length;
        const char *text = js_string(js_get(js_at(cases, i), "text"), &length);
        list.length = 0;
        assert_ok(tokenizer_encode(tokenizer, text, length, full, &list));
        expect_ids(&list, js_get(js_at(cases, i), "ids"), "oracle", (long)i);
    }
    token_list_free(&list);
    tokenizer_close(tokenizer);
    js_destroy(root);
}

/* ---- the interface ---- */

static void names_and_numbers(void **state)
{
    (void)state;
    struct tokenizer *fin = open_model("models/fin-zh-tiny"), *story = open_model("models/tinystories-656k");
    assert_int_equal(tokenizer_size(fin), 6400);
    assert_int_equal(tokenizer_token(fin, "<|im_end|>"), 2);
    assert_int_equal(tokenizer_bos(fin), 1);
    assert_int_equal(tokenizer_eos(fin), 2);
    assert_int_equal(tokenizer_token(fin, "no such token"), -1);
    assert_non_null(strstr(tokenizer_chat_template(fin), "<|im_start|>"));
    assert_int_equal(tokenizer_size(story), 2048);
    assert_int_equal(tokenizer_bos(story), 1);
    assert_null(tokenizer_chat_template(story));
    assert_false(hash128_equal(tokenizer_hash(fin), tokenizer_hash(story)));
    tokenizer_close(fin);
    tokenizer_close(story);
}

static void appends_and_keeps_on_failure(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_model("models/fin-zh-tiny");
    struct token_list list = {0};
    assert_ok(tokenizer_encode(tokenizer, "公司", 6, full, &list));
    size_t first = list.length;
    assert_ok(tokenizer_encode(tokenizer, "公司", 6, full, &list));
    assert_int_equal(list.length, 2 * first);
    assert_memory_equal(list.ids, list.ids + first, first * sizeof *list.ids);
    assert_fails(tokenizer_encode(tokenizer, "abc\xFFz", 5, full, &list), LORAD_DATA, "byte 3");
    assert_fails(tokenizer_encode(tokenizer, "\xED\xA0\x80", 3, full, &list), LORAD_DATA, "byte 0");
    assert_int_equal(list.length, 2 * first);
    list.want_spans = true; /* asked for later */
    list.length = 0;
    assert_ok(tokenizer_encode(tokenizer, "公司<|im_end|>\n", 17, full, &list));
    assert_int_equal(list.ids[list.length - 2], 2);
    assert_int_equal(list.start[list.length - 2], 6);
    assert_int_equal(list.end[list.length - 2], 16);
    token_list_free(&list);
    tokenizer_close(tokenizer);
}

static void nul_is_a_character(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_model("models/fin-zh-tiny");
    struct token_list list = {0};
    assert_ok(tokenizer_encode(tokenizer, "a\0b", 3, full, &list));
    struct strbuf text = STRBUF_EMPTY;
    assert_ok(tokenizer_decode(tokenizer, list.ids, list.length, true, &text));
    assert_int_equal(text.length, 3);
    assert_memory_equal(text.data, "a\0b", 3);
    strbuf_free(&text);
    token_list_free(&list);
    tokenizer_close(tokenizer);
}

/* A million characters without a place to cut: ends at once unless merging is quadratic. */
static void long_word(void **state)
{
    (void)state;
    enum { LENGTH = 1 << 20 };
    struct tokenizer *tokenizer = open_model("models/fin-zh-tiny");
    char *text = test_malloc(LENGTH);
    for (int i = 0; i < LENGTH; i++) text[i] = "abcdefgh"[(i * 2654435761u >> 20) & 7];
    struct token_list list = {0};
    assert_ok(tokenizer_encode(tokenizer, text, LENGTH, full, &list));
    struct strbuf out = STRBUF_EMPTY;
    assert_ok(tokenizer_decode(tokenizer, list.ids, list.length, true, &out));
    assert_int_equal(out.length, LENGTH);
    assert_memory_equal(out.data, text, LENGTH);
    strbuf_free(&out);
    token_list_free(&list);
    test_free(text);
    tokenizer_close(tokenizer);
}

static void unknown_numbers_say_nothing(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_model("models/fin-zh-tiny");
    struct strbuf text = STRBUF_EMPTY;
    assert_ok(tokenizer_decode(tokenizer, (int32_t[]){-1, 1 << 30, 2, 6400}, 4, false, &text));
    assert_string_equal(strbuf_text(&text), "<|im_end|>");
    strbuf_free(&text);
    tokenizer_close(tokenizer);
}

/* ---- refusals ---- */

static void write_file(const char *name, const char *text)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", test_tmpdir(), name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\",\"b\"]]}"

static void refused(const char *json, const char *words)
{
    write_file("tokenizer.json", json);
    struct tokenizer *tokenizer = NULL;
    assert_fails(tokenizer_open(&tokenizer, test_tmpdir()), LORAD_DATA, words);
    assert_non_null(strstr(status_message(), "tokenizer.json"));
    assert_null(tokenizer);
}

static void refuses_by_name(void **state)
{
    (void)state;
    refused("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece");
    refused("{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{},\"merges\":[]}}", "dropout");
    refused("{\"model\":{\"type\":\"BPE\",\"continuing_subword_prefix\":\"##\",\"vocab\":{},\"merges\":[]}}",
            "continuing_subword_prefix");
    refused("{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",\"vocab\":{},\"merges\":[]}}",
            "end_of_word_suffix");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"b\"]]}}", "merge 0");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", "merge 0");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]}}", "merge 0");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "number 0");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":999999999},\"merges\":[]}}", "999999999");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-5},\"merges\":[]}}", "-5");
    refused("{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"a\":0},\"merges\":[]}}",
            "unk_token");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", "same text");
    refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\\uD800\":0},\"merges\":[]}}", "surrogate");
    refused("{" MODEL ",\"normalizer\":{\"type\":\"StripAccents\"}}", "StripAccents");
    refused("{" MODEL ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}", "UnicodeScripts");
    refused("{" MODEL ",\"post_processor\":{\"type\":\"PairProcessing\"}}", "PairProcessing");
    refused("{" MODEL ",\"decoder\":{\"type\":\"WordPiece\"}}", "WordPiece");
    refused("{" MODEL ",\"added_tokens\":[{\"id\":7,\"content\":\"x\"}]}", "expected 3");
    refused("{" MODEL ",\"added_tokens\":[{\"id\":0,\"content\":\"\"}]}", "no content");
    refused("{}", "model");
    refused("[1", "tokenizer.json");
}

/* Regular expressions that would mean something else to PCRE2, or nothing. */
static void refuses_patterns(void **state)
{
    (void)state;
    static const char *const pattern[][2] = {
        {"(a)\\\\1", "\\1"},    {"[[:alpha:]]", "[:"},       {"[a&&b]", "&&"},
        {"\\\\p{Mn}", "p{Mn}"}, {"(?i:ss)", "ss"},           {"(?<x>a)", "(?<"},
        {"a{3}?", "{3}?"},      {"\\\\bx", "\\b"},           {"[^\\\\P{L}]", "\\P{L}"},
        {"(a", "open group"},   {"a)", "no group"},          {"+", "nothing to repeat"},
        {"[", "open class"},    {"(?i:\\\\p{Lu})", "p{Lu}"}, {"\\\\x{D800}", "\\x{"},
        {"a{9999}", "{9999}"},
    };
    for (size_t i = 0; i < sizeof pattern / sizeof pattern[0]; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},"
                 "\"behavior\":\"Isolated\",\"invert\":false}}",
                 pattern[i][0]);
        refused(text, pattern[i][1]);
    }
}

/* A digit of Unicode 16, younger than the tables of utf8proc, is a part of a word: unknown characters fuse
 * inside one. */
static void young_digit_in_word(void **state)
{
    (void)state;
    write_file("tokenizer.json",
               "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"fuse_unk\":true,\"vocab\":{\"?\":0},"
               "\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Whitespace\"}}");
    struct tokenizer *tokenizer = NULL;
    struct token_list list = {0};
    assert_ok(tokenizer_open(&tokenizer, test_tmpdir()));
    assert_ok(tokenizer_encode(tokenizer,
                               "a\xF0\x91\x9B\x91"
                               "a",
                               6, full, &list));
    assert_int_equal(list.length, 1);
    list.length = 0;
    assert_ok(tokenizer_encode(tokenizer,
                               "a\xE2\x82\xAC"
                               "a",
                               5, full, &list)); /* the euro sign is none */
    assert_int_equal(list.length, 3);
    token_list_free(&list);
    tokenizer_close(tokenizer);
}

/* Hugging Face's library counts six numbers of Latin-1 as \\w, but not inside brackets. */
static void word_class_in_brackets(void **state)
{
    (void)state;
    static const char *const pattern[2] = {"\\\\w+", "[\\\\w]+"};
    for (int i = 0; i < 2; i++) {
        char text[512];
        snprintf(
            text, sizeof text,
            "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\xC2\xB2\":0,\"a\":1,\"\xC2\xB2"
            "a\":2},\"merges\":[[\"\xC2\xB2\",\"a\"]]},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":"
            "{\"Regex\":\"%s\"},\"behavior\":\"Isolated\",\"invert\":false}}",
            pattern[i]);
        write_file("tokenizer.json", text);
        struct tokenizer *tokenizer = NULL;
        struct token_list list = {0};
        assert_ok(tokenizer_open(&tokenizer, test_tmpdir()));
        assert_ok(tokenizer_encode(tokenizer,
                                   "\xC2\xB2"
                                   "a",
                                   3, full, &list));
        assert_int_equal(list.length, i + 1);
        assert_int_equal(list.ids[0], i ? 0 : 2);
        token_list_free(&list);
        tokenizer_close(tokenizer);
    }
}

static void opens_the_smallest(void **state)
{
    (void)state;
    write_file("tokenizer.json", "{" MODEL "}");
    struct tokenizer *tokenizer = NULL;
    assert_ok(tokenizer_open(&tokenizer, test_tmpdir()));
    struct token_list list = {0};
    assert_ok(tokenizer_encode(tokenizer, "abxba", 5, full, &list));
    assert_int_equal(list.length, 3); /* no unknown token: x disappears */
    assert_memory_equal(list.ids, ((int32_t[]){2, 1, 0}), 3 * sizeof(int32_t));
    token_list_free(&list);
    tokenizer_close(tokenizer);
}

static void reads_vocab_and_merges(void **state)
{
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s/tokenizer.json", test_tmpdir());
    remove(path);
    struct tokenizer *tokenizer = NULL;
    assert_fails(tokenizer_open(&tokenizer, test_tmpdir()), LORAD_NOT_FOUND, "tokenizer.json");
    write_file("vocab.json", "{\"a\":0,\"b\":1,\"ab\":2,\"\u0120\":3,\"1\":4}");
    write_file("merges.txt", "#version: 0.2\na b\n");
    write_file("tokenizer_config.json", "{\"tokenizer_class\":\"BertTokenizer\"}");
    assert_fails(tokenizer_open(&tokenizer, test_tmpdir()), LORAD_DATA, "BertTokenizer");
    write_file("tokenizer_config.json",
               "{\"tokenizer_class\":\"Qwen2Tokenizer\",\"model_max_length\":1000000000000000019884624838656,"
               "\"added_tokens_decoder\":{\"6\":{\"content\":\"<z>\",\"special\":true},"
               "\"5\":{\"content\":\"<y>\",\"special\":true}},\"eos_token\":{\"content\":\"<z>\"}}");
    assert_ok(tokenizer_open(&tokenizer, test_tmpdir()));
    assert_int_equal(tokenizer_eos(tokenizer), 6);
    struct token_list list = {0};
    assert_ok(tokenizer_encode(tokenizer, "ab 11<y>", 8, full, &list));
    assert_int_equal(list.length, 5);
    assert_memory_equal(list.ids, ((int32_t[]){2, 3, 4, 4, 5}), 5 * sizeof(int32_t));
    token_list_free(&list);
    tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goldens_fin_zh_tiny),
        cmocka_unit_test(goldens_tinystories),
        cmocka_unit_test(goldens_small),
        cmocka_unit_test(many_strings),
        cmocka_unit_test(qwen2_vectors),
        cmocka_unit_test(streams_give_the_whole),
        cmocka_unit_test(streams_do_not_lag),
        cmocka_unit_test(oracle_cases),
        cmocka_unit_test(names_and_numbers),
        cmocka_unit_test(appends_and_keeps_on_failure),
        cmocka_unit_test(nul_is_a_character),
        cmocka_unit_test(long_word),
        cmocka_unit_test(unknown_numbers_say_nothing),
        cmocka_unit_test(refuses_by_name),
        cmocka_unit_test(refuses_patterns),
        cmocka_unit_test(word_class_in_brackets),
        cmocka_unit_test(young_digit_in_word),
        cmocka_unit_test(opens_the_smallest),
        cmocka_unit_test(reads_vocab_and_merges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
