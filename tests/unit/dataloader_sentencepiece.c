/*
 * tokenizer.model and Unigram models against Hugging Face: every committed string and its numbers, and what
 * is refused. The strings and numbers are written by tests/golden/gen_sentencepiece.py.
 */
#include "support/test.h"
#include "support/token_checks.h"

#include <math.h>

#include "base/file.h"
#include "base/json.h"
#include "dataloader/charsmap.h"
#include "dataloader/tokenizer.h"

#define FOLDER LORAD_TEST_DATA "/sentencepiece/"

static const struct encode_options full = {.add_special_tokens = true, .match_special = true};
static const struct encode_options plain = {.add_special_tokens = false, .match_special = false};

static struct tokenizer *open_model(const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, FOLDER "%s", name);
    struct tokenizer *tokenizer = NULL;
    assert_ok(tokenizer_open(&tokenizer, path));
    return tokenizer;
}

/* ---- goldens ---- */

static void expect_text(const struct tokenizer *tokenizer, const struct json *row, const char *path,
                        long line)
{
    const char *decoded = js_string(js_at(row, 3), NULL);
    if (!decoded) return;
    const struct json *ids = js_at(row, 1);
    size_t n = js_length(ids), first = (line - 1) % 8 ? n / 3 : 0;
    int32_t *part = test_malloc((n + 1) * sizeof *part);
    for (size_t i = first; i < n; i++) part[i - first] = (int32_t)js_int(js_at(ids, i), -1);
    struct strbuf out = STRBUF_EMPTY;
    assert_ok(tokenizer_decode(tokenizer, part, n - first, true, &out));
    if (strcmp(strbuf_text(&out), decoded) != 0)
        fail_msg("%s:%ld: decoded \"%s\", expected \"%s\"", path, line, strbuf_text(&out), decoded);
    strbuf_free(&out);
    test_free(part);
}

static void check_row(const struct tokenizer *tokenizer, const struct json *row, struct token_list *list,
                      const char *path, long line)
{
    size_t length;
    const char *text = js_string(js_at(row, 0), &length);
    for (int k = 0; k < 2; k++) {
        list->length = 0;
        list->want_spans = line % 2;
        assert_ok(tokenizer_encode(tokenizer, text, length, k ? plain : full, list));
        const struct json *without = js_at(row, 2);
        expect_ids(list, k && js_type(without) != JS_NULL ? without : js_at(row, 1), path, line);
        if (list->want_spans) expect_spans(list, length, path, line);
    }
    expect_text(tokenizer, row, path, line);
}

/* FNV-1a of the numbers as decimal text, a space before each. */
static void digest(const struct token_list *list, char out[17])
{
    uint64_t value = 0xCBF29CE484222325u;
    for (size_t i = 0; i < list->length; i++) {
        char text[16];
        snprintf(text, sizeof text, " %d", list->ids[i]);
        for (const char *at = text; *at; at++) value = (value ^ (unsigned char)*at) * 0x100000001B3u;
    }
    snprintf(out, 17, "%016llx", (unsigned long long)value);
}

static void check_digests(const struct tokenizer *tokenizer, const struct json *row, struct token_list *list,
                          const char *path, long line)
{
    size_t length;
    const char *text = js_string(js_at(row, 0), &length);
    for (int k = 0; k < 2; k++) {
        char got[17];
        list->length = 0;
        assert_ok(tokenizer_encode(tokenizer, text, length, k ? plain : full, list));
        digest(list, got);
        if (strcmp(got, js_string(js_at(row, (size_t)k + 1), NULL)) != 0)
            fail_msg("%s:%ld: other tokens (%zu of them)", path, line, list->length);
    }
}

static long check_file(const char *model, const char *file,
                       void (*check)(const struct tokenizer *, const struct json *, struct token_list *,
                                     const char *, long))
{
    struct tokenizer *tokenizer = open_model(model);
    char path[1024], *text;
    size_t length;
    snprintf(path, sizeof path, FOLDER "%s", file);
    assert_ok(file_read(&text, &length, path, 64 << 20));
    struct token_list list = {0};
    long line = 0;
    for (char *at = text; *at;) {
        char *end = strchr(at, '\n');
        assert_non_null(end);
        struct json *row;
        assert_ok(js_parse(&row, at, (size_t)(end - at), path));
        check(tokenizer, row, &list, path, ++line);
        js_destroy(row);
        at = end + 1;
    }
    token_list_free(&list);
    free(text);
    tokenizer_close(tokenizer);
    return line;
}

static void goldens_mistral(void **state)
{
    (void)state;
    assert_int_equal(check_file("mistral-v1", "mistral-v1.jsonl", check_row), 500);
    assert_int_equal(check_file("mistral-v1", "mistral-v1.digests.jsonl", check_digests), 10000);
}

static void goldens_small(void **state)
{
    (void)state;
    static const char *const names[] = {"bpe-bytes",     "bpe-plain",    "unigram-bytes",
                                        "unigram-plain", "unigram-nfkc", "unigram-clusters"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char file[64];
        snprintf(file, sizeof file, "%s.jsonl", names[i]);
        assert_true(check_file(names[i], file, check_row) >= 500);
    }
}

static void names_and_numbers(void **state)
{
    (void)state;
    struct tokenizer *mistral = open_model("mistral-v1"), *bytes = open_model("bpe-bytes");
    assert_int_equal(tokenizer_size(mistral), 32000);
    assert_int_equal(tokenizer_bos(mistral), 1);
    assert_int_equal(tokenizer_eos(mistral), 2);
    assert_int_equal(tokenizer_special(mistral, "<unk>"), 0);
    assert_null(tokenizer_chat_template(mistral));
    assert_int_equal(tokenizer_size(bytes), 2002);
    assert_int_equal(tokenizer_special(bytes, "[INST]"), 2000);
    assert_int_equal(tokenizer_special(bytes, "公司"), -1); /* user-defined, not special */
    assert_true(tokenizer_token(bytes, "公司") > 0);
    assert_false(hash128_equal(tokenizer_hash(mistral), tokenizer_hash(bytes)));
    tokenizer_close(mistral);
    tokenizer_close(bytes);
}

/* A million characters without a place to cut. */
static void long_word(void **state)
{
    (void)state;
    enum { LENGTH = 1 << 20 };
    static const char *const names[] = {"mistral-v1", "unigram-bytes", "unigram-nfkc"};
    char *text = test_malloc(LENGTH);
    for (int i = 0; i < LENGTH; i++) text[i] = "abcdefgh"[(i * 2654435761u >> 20) & 7];
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        struct tokenizer *tokenizer = open_model(names[k]);
        struct token_list list = {0};
        struct strbuf out = STRBUF_EMPTY;
        assert_ok(tokenizer_encode(tokenizer, text, LENGTH, full, &list));
        assert_ok(tokenizer_decode(tokenizer, list.ids, list.length, true, &out));
        assert_int_equal(out.length, LENGTH);
        assert_memory_equal(out.data, text, LENGTH);
        strbuf_free(&out);
        token_list_free(&list);
        tokenizer_close(tokenizer);
    }
    test_free(text);
}

/* ---- small models written here ---- */

static void write_bytes(const char *name, const char *bytes, size_t length)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", test_tmpdir(), name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

static void write_text(const char *name, const char *text)
{
    write_bytes(name, text, strlen(text));
}

static void add_piece(struct strbuf *out, const char *text, float score, int type)
{
    size_t length = strlen(text);
    assert_true(length < 100);
    char head[4] = {0x0A, (char)(length + 9), 0x0A,
                    (char)length}; /* field 1 of the model; field 1 of the piece */
    strbuf_add(out, head, sizeof head);
    strbuf_add(out, text, length);
    strbuf_putc(out, 0x15); /* field 2, 32 bits */
    strbuf_add(out, (const char *)&score, sizeof score);
    strbuf_putc(out, 0x18); /* field 3 */
    strbuf_putc(out, (char)type);
}

static void add_kind(struct strbuf *out, int kind)
{
    strbuf_add(out, (char[]){0x12, 2, 0x18, (char)kind}, 4);
}

static struct strbuf small_model(int kind)
{
    struct strbuf out = STRBUF_EMPTY;
    add_piece(&out, "<unk>", 0, 2);
    add_piece(&out, "<s>", 0, 3);
    add_piece(&out, "</s>", 0, 3);
    add_piece(&out, "\u2581", -1, 1);
    add_piece(&out, "a", -2, 1);
    add_piece(&out, "b", -3, 1);
    add_piece(&out, "ab", -2.5f, 1);
    add_kind(&out, kind);
    return out;
}

/* ---- the files beside tokenizer.model ---- */

static void write_beside(const struct json *files)
{
    for (void *it = js_first(files); it; it = js_next(files, it)) {
        char path[1024];
        struct strbuf text = STRBUF_EMPTY;
        snprintf(path, sizeof path, "%s/%s", test_tmpdir(), js_key(it));
        remove(path);
        if (js_type(js_member(it)) == JS_NULL) continue;
        js_write_value(&text, js_member(it));
        write_text(js_key(it), strbuf_text(&text));
        strbuf_free(&text);
    }
}

static void copy_model(const char *name)
{
    char path[1024], *bytes;
    size_t length;
    snprintf(path, sizeof path, FOLDER "%s/tokenizer.model", name);
    assert_ok(file_read(&bytes, &length, path, 1 << 20));
    write_bytes("tokenizer.model", bytes, length);
    free(bytes);
}

static void configs(void **state)
{
    (void)state;
    static const char path[] = FOLDER "configs.jsonl";
    char *text;
    size_t length;
    assert_ok(file_read(&text, &length, path, 1 << 20));
    long line = 0;
    for (char *at = text, *end; (end = strchr(at, '\n')); at = end + 1) {
        struct json *row;
        assert_ok(js_parse(&row, at, (size_t)(end - at), path));
        copy_model(js_string(js_at(row, 0), NULL));
        write_beside(js_at(row, 1));
        struct tokenizer *tokenizer = NULL;
        struct token_list list = {0};
        assert_ok(tokenizer_open(&tokenizer, test_tmpdir()));
        line++;
        for (size_t i = 0; i < js_length(js_at(row, 2)); i++)
            check_row(tokenizer, js_at(js_at(row, 2), i), &list, path, line);
        token_list_free(&list);
        tokenizer_close(tokenizer);
        js_destroy(row);
    }
    free(text);
    assert_true(line >= 30);
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json"};
    for (int i = 0; i < 3; i++) write_text(files[i], "{}");
}

static void refused(const char *bytes, size_t length, const char *words)
{
    struct tokenizer *tokenizer = NULL;
    write_bytes("tokenizer.model", bytes, length);
    assert_fails(tokenizer_open(&tokenizer, test_tmpdir()), LORAD_DATA, words);
    assert_non_null(strstr(status_message(), "tokenizer.model"));
}

static void refused_model(struct strbuf model, const char *words)
{
    refused(model.data, model.length, words);
    strbuf_free(&model);
}

static void refused_with(const char *name, const char *text, const char *words)
{
    struct strbuf model = small_model(2);
    write_text(name, text);
    refused(model.data, model.length, words);
    strbuf_free(&model);
}

static void refuses_models(void **state)
{
    (void)state;
    struct strbuf model = small_model(2);
    refused(model.data, model.length - 1, "no SentencePiece model");
    refused("", 0, "0 pieces");
    refused("{\"model\":{}}", 12, "no SentencePiece model");
    add_piece(&model, "a", -9, 1);
    refused_model(model, "same text");
    model = small_model(2);
    add_piece(&model, "", -9, 1);
    refused_model(model, "piece 7 has no text");
    model = small_model(2);
    add_piece(&model, "\xFF", -9, 1);
    refused_model(model, "piece 7 is not valid UTF-8");
    model = small_model(1);
    add_piece(&model, "z", NAN, 1);
    refused_model(model, "piece 7 is not finite");
    refused_model(small_model(3), "model_type 3");
    model = (struct strbuf)STRBUF_EMPTY;
    add_piece(&model, "a", 0, 1);
    refused_model(model, "3 at least");
    model = (struct strbuf)STRBUF_EMPTY;
    for (int i = 0; i < 3; i++) add_piece(&model, (char[]){(char)('a' + i), 0}, 0, 1);
    add_kind(&model, 2);
    refused_model(model, "unknown piece \"<unk>\"");
}

static void refuses_configs(void **state)
{
    (void)state;
    refused_with("tokenizer_config.json", "{\"tokenizer_class\":\"T5Tokenizer\"}", "T5Tokenizer");
    refused_with("tokenizer_config.json", "{\"bos_token\":null}", "add_bos_token without");
    refused_with("tokenizer_config.json", "{\"add_eos_token\":true,\"eos_token\":null}",
                 "add_eos_token without");
    refused_with("tokenizer_config.json", "{\"added_tokens_decoder\":{\"x\":{}}}", "\"x\" has no number");
    refused_with("tokenizer_config.json", "{\"added_tokens_decoder\":{\"9\":{}}}", "no content");
    refused_with("tokenizer_config.json", "{\"added_tokens_decoder\":{\"9\":{\"content\":\"z\"}}}",
                 "expected 7");
    write_text("tokenizer_config.json", "{}");
    refused_with("added_tokens.json", "{\"z\":8}", "expected 7");
    write_text("added_tokens.json", "{}");
}

static void expect_small(const char *text, int n, const int32_t *ids)
{
    struct tokenizer *tokenizer = NULL;
    struct token_list list = {0};
    assert_ok(tokenizer_open(&tokenizer, test_tmpdir()));
    assert_ok(tokenizer_encode(tokenizer, text, strlen(text), full, &list));
    assert_int_equal(list.length, n);
    assert_memory_equal(list.ids, ids, (size_t)n * sizeof *ids);
    token_list_free(&list);
    tokenizer_close(tokenizer);
}

static void opens_the_smallest(void **state)
{
    (void)state;
    for (int kind = 1; kind <= 2; kind++) {
        struct strbuf model = small_model(kind);
        write_bytes("tokenizer.model", model.data, model.length);
        strbuf_free(&model);
        write_text("tokenizer_config.json", "{}");
        expect_small("ab", 3, (int32_t[]){1, 3, 6});
        expect_small("zab</s>", 5, (int32_t[]){1, 3, 0, 6, 2});
        write_text(
            "tokenizer_config.json",
            "{\"legacy\":false,\"add_prefix_space\":null,\"add_bos_token\":false,\"add_eos_token\":true,"
            "\"pad_token\":\"<pad>\"}");
        expect_small("ab ab<pad>", 5, (int32_t[]){6, 3, 6, 7, 2});
    }
}

/* ---- Unigram in tokenizer.json, and its normalizer ---- */

static void refused_json(const char *json, const char *words)
{
    struct tokenizer *tokenizer = NULL;
    write_text("tokenizer.json", json);
    assert_fails(tokenizer_open(&tokenizer, test_tmpdir()), LORAD_DATA, words);
    assert_non_null(strstr(status_message(), "tokenizer.json"));
}

static void refuses_unigram(void **state)
{
    (void)state;
    refused_json("{\"model\":{\"type\":\"Unigram\"}}", "vocab");
    refused_json("{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "empty");
    refused_json("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", "entry 0");
    refused_json("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",\"b\"]]}}", "entry 0");
    refused_json("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0],[\"a\",1]]}}", "same text");
    refused_json("{\"model\":{\"type\":\"Unigram\",\"unk_id\":1,\"vocab\":[[\"a\",0]]}}", "unknown token 1");
    refused_json("{\"model\":{\"type\":\"Unigram\",\"unk_id\":\"x\",\"vocab\":[[\"a\",0]]}}", "unk_id");
    refused_json(
        "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]},\"normalizer\":{\"type\":\"Precompiled\"}}",
        "no precompiled_charsmap");
    refused_json(
        "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]},\"normalizer\":{\"type\":\"Precompiled\","
        "\"precompiled_charsmap\":\"AA==A\"}}",
        "base64");
    write_text("tokenizer.json", "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",-1.5]]}}");
    struct tokenizer *tokenizer = NULL;
    struct token_list list = {0};
    assert_ok(tokenizer_open(&tokenizer, test_tmpdir()));
    assert_ok(tokenizer_encode(tokenizer, "aa", 2, full, &list));
    assert_int_equal(list.length, 2);
    assert_fails(tokenizer_encode(tokenizer, "ab", 2, full, &list), LORAD_DATA, "byte 1 has no token");
    assert_int_equal(list.length, 2);
    token_list_free(&list);
    tokenizer_close(tokenizer);
}

/* -11.879999999999999 is the sum of the parts, so that "ab" would win the tie; read with one rounding too
 * many it is -11.88 and loses. */
static void scores_are_read_as_hf_reads_them(void **state)
{
    (void)state;
    write_text("tokenizer.json",
               "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",-8.45],[\"b\",-3.43],[\"ab\","
               "-11.879999999999999]]}}");
    struct tokenizer *tokenizer = NULL;
    struct token_list list = {0};
    assert_ok(tokenizer_open(&tokenizer, test_tmpdir()));
    assert_ok(tokenizer_encode(tokenizer, "ab", 2, full, &list));
    assert_int_equal(list.length, 2);
    assert_memory_equal(list.ids, ((int32_t[]){0, 1}), 2 * sizeof(int32_t));
    token_list_free(&list);
    tokenizer_close(tokenizer);
}

static void refuses_charsmaps(void **state)
{
    (void)state;
    struct charsmap *map = NULL;
    /* One unit whose children would lie outside the trie. */
    assert_fails(charsmap_create(&map, "\4\0\0\0\0\0\0\0a\0", 10, "m"), LORAD_DATA, "outside itself");
    assert_fails(charsmap_create(&map, "\4\0\0\0\0\0", 6, "m"), LORAD_DATA, "cut off");
    assert_fails(charsmap_create(&map, "\0\0\0\0a\0\0\0", 8, "m"), LORAD_DATA, "cut off");
    assert_fails(charsmap_create(&map, "\377\377\377\377\0\0\0\0", 8, "m"), LORAD_DATA, "cut off");
    /* 512 units: the root's children are units 1..255; 'a' has a value in unit 256 ^ ... */
    enum { UNITS = 512 };
    uint32_t unit[UNITS + 2] = {4 * UNITS};
    unit[1 + 'a'] = 'a' | 1 << 8 | (256 ^ 'a') << 10;
    unit[1 + 256] = 0x80000000u; /* a value: replacement 0 */
    memcpy(&unit[1 + UNITS], "z\0q", 4);
    assert_ok(charsmap_create(&map, (const char *)unit, 4 * UNITS + 7, "m"));
    struct textbuf in = {0}, out = {0};
    assert_ok(textbuf_add(&in, "bab", 3, 0, 0, 1));
    assert_ok(charsmap_run(map, &out, &in));
    assert_int_equal(out.length, 3);
    assert_memory_equal(out.data, "bzb", 3);
    textbuf_free(&in);
    textbuf_free(&out);
    charsmap_destroy(map);
    unit[1 + 256] = 0x80000004u;
    assert_fails(charsmap_create(&map, (const char *)unit, 4 * UNITS + 7, "m"), LORAD_DATA,
                 "outside the map");
    memcpy(&unit[1 + UNITS], "\377\0q", 4);
    assert_fails(charsmap_create(&map, (const char *)unit, 4 * UNITS + 7, "m"), LORAD_DATA,
                 "not valid UTF-8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goldens_mistral),
        cmocka_unit_test(goldens_small),
        cmocka_unit_test(names_and_numbers),
        cmocka_unit_test(long_word),
        cmocka_unit_test(configs),
        cmocka_unit_test(refuses_models),
        cmocka_unit_test(refuses_configs),
        cmocka_unit_test(opens_the_smallest),
        cmocka_unit_test(refuses_unigram),
        cmocka_unit_test(refuses_charsmaps),
        cmocka_unit_test(scores_are_read_as_hf_reads_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
