/*
 * Chat templates against transformers: rendered text, token numbers and supervised tokens of every committed
 * conversation (written by tests/golden/gen_chat_template.py), and what is refused.
 */
#include "support/test.h"

#include "base/json.h"
#include "dataloader/chat_template.h"

enum { MESSAGES = 8 };

static struct tokenizer *open_model(const char *path)
{
    char full[1024];
    snprintf(full, sizeof full, "%s/%s", LORAD_TEST_DATA, path);
    struct tokenizer *tokenizer = NULL;
    assert_ok(tokenizer_open(&tokenizer, full));
    return tokenizer;
}

static size_t read_messages(struct message *out, const struct json *list)
{
    size_t n = js_length(list);
    assert_true(n <= MESSAGES);
    for (size_t i = 0; i < n; i++) {
        const char *role = js_string(js_get(js_at(list, i), "role"), NULL);
        out[i].weight = 1;
        out[i].role = *role == 's' ? ROLE_SYSTEM : *role == 'u' ? ROLE_USER : ROLE_ASSISTANT;
        out[i].content = js_string(js_get(js_at(list, i), "content"), &out[i].length);
    }
    return n;
}

static void expect_ids(const struct token_list *got, const struct json *expected, const char *name,
                       size_t row)
{
    bool same = got->length == js_length(expected);
    for (size_t i = 0; same && i < got->length; i++) same = got->ids[i] == js_int(js_at(expected, i), -1);
    if (same) return;
    struct strbuf text = STRBUF_EMPTY;
    for (size_t i = 0; i < got->length; i++) strbuf_printf(&text, "%d ", got->ids[i]);
    strbuf_puts(&text, "expected ");
    js_write_value(&text, expected);
    fail_msg("%s row %zu: got %s", name, row, strbuf_text(&text));
}

static void expect_mask(const struct encoded_row *got, const struct json *expected, const char *name,
                        size_t row)
{
    assert_int_equal(got->tokens.length, js_length(expected));
    int32_t n = 0;
    for (size_t i = 0; i < got->tokens.length; i++) {
        if (got->weights[i] != (float)js_int(js_at(expected, i), -1))
            fail_msg("%s row %zu: token %zu (%d) weight %g", name, row, i, got->tokens.ids[i],
                     (double)got->weights[i]);
        n += got->weights[i] > 0;
    }
    assert_int_equal(n, got->n_supervised);
}

static void check_row(const struct chat_template *chat, const struct json *row, struct encoded_row *encoded,
                      const char *name, size_t number)
{
    struct message messages[MESSAGES];
    size_t n = read_messages(messages, js_get(row, "messages"));
    assert_ok(chat_template_encode(chat, messages, n, (struct chat_options){0}, encoded));
    expect_ids(&encoded->tokens, js_get(row, "ids"), name, number);
    expect_mask(encoded, js_get(row, "mask"), name, number);
    assert_true(encoded->n_supervised > 0);

    assert_ok(chat_template_encode(chat, messages, n, (struct chat_options){.mask_history = true}, encoded));
    expect_mask(encoded, js_get(row, "last"), name, number);

    assert_ok(
        chat_template_encode(chat, messages, n, (struct chat_options){.train_on_prompt = true}, encoded));
    assert_int_equal((size_t)encoded->n_supervised, encoded->tokens.length);

    struct token_list prompt = {0};
    assert_ok(chat_template_prompt(chat, messages, n - 1, &prompt));
    expect_ids(&prompt, js_get(row, "prompt"), name, number);
    token_list_free(&prompt);

    struct strbuf text = STRBUF_EMPTY;
    assert_ok(chat_template_render(chat, messages, n, false, &text));
    const char *expected = js_string(js_get(row, "text"), NULL);
    const char *got = strbuf_text(&text); /* plain: the tokenizer's prefix stands before it */
    size_t prefix = strlen(got) - strlen(expected);
    if (strcmp(got + prefix, expected) != 0 || (prefix && strcmp(chat_template_name(chat), "plain") != 0))
        fail_msg("%s row %zu: rendered \"%s\", expected \"%s\"", name, number, got, expected);
    strbuf_free(&text);
}

static void check_file(const char *name, size_t at_least)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/chat_template/%s.json", LORAD_TEST_DATA, name);
    struct json *root;
    assert_ok(js_read_file(&root, path, 16 << 20));
    struct tokenizer *tokenizer = open_model(js_string(js_get(root, "model"), NULL));
    struct chat_template *chat = NULL;
    assert_ok(chat_template_open(&chat, tokenizer, js_string(js_get(root, "template"), NULL)));
    assert_string_equal(chat_template_name(chat), js_string(js_get(root, "expect"), NULL));
    const struct json *rows = js_get(root, "rows");
    assert_true(js_length(rows) >= at_least);
    struct encoded_row encoded = {0};
    for (size_t i = 0; i < js_length(rows); i++) check_row(chat, js_at(rows, i), &encoded, name, i);
    encoded_row_free(&encoded);
    chat_template_close(chat);
    tokenizer_close(tokenizer);
    js_destroy(root);
}

static void chatml(void **state)
{
    (void)state;
    check_file("fin-zh-tiny", 40);
}

static void qwen(void **state)
{
    (void)state;
    check_file("qwen2", 40);
    check_file("qwen2.5", 40);
}

static void llama3(void **state)
{
    (void)state;
    check_file("llama3", 40);
}

static void llama2(void **state)
{
    (void)state;
    check_file("llama2", 40);
}

static void mistral(void **state)
{
    (void)state;
    check_file("mistral", 10);
}

static void plain(void **state)
{
    (void)state;
    check_file("fin-zh-tiny.plain", 40);
    check_file("tinystories-656k", 40);
}

/* A token that holds the end of the template's text and the start of the answer is no target. */
static void straddling_token(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_model("models/fin-zh-tiny");
    struct chat_template *chat = NULL;
    assert_ok(chat_template_open(&chat, tokenizer, NULL));
    struct message messages[2] = {{ROLE_USER, "x", 1, 1}, {ROLE_ASSISTANT, "   line", 7, 1}};
    struct encoded_row row = {0};
    assert_ok(chat_template_encode(chat, messages, 2, (struct chat_options){0}, &row));
    size_t answer = strlen("<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"), straddling = 0;
    for (size_t i = 0; i < row.tokens.length; i++) {
        if (row.tokens.start[i] >= answer || row.tokens.end[i] <= answer) continue;
        straddling++;
        assert_true(row.weights[i] == 0);
    }
    assert_int_equal(straddling, 1);
    assert_true(row.weights[row.tokens.length - 2] == 1); /* <|im_end|> */
    assert_true(row.weights[row.tokens.length - 1] == 0); /* the line feed behind it */
    encoded_row_free(&row);
    chat_template_close(chat);
    tokenizer_close(tokenizer);
}

static void end_tokens(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_model("models/fin-zh-tiny");
    struct chat_template *chat = NULL;
    assert_ok(chat_template_open(&chat, tokenizer, "auto"));
    assert_int_equal(chat_template_end_token(chat), 2);
    chat_template_close(chat);
    tokenizer_close(tokenizer);
}

static void refusals(void **state)
{
    (void)state;
    struct tokenizer *fin = open_model("models/fin-zh-tiny"), *story = open_model("models/tinystories-656k");
    struct chat_template *chat = NULL;
    assert_fails(chat_template_open(&chat, fin, "vicuna"), LORAD_CONFIG, "chatml, qwen");
    assert_fails(chat_template_open(&chat, story, "chatml"), LORAD_CONFIG, "<|im_start|>");
    assert_fails(chat_template_open(&chat, fin, "llama3"), LORAD_CONFIG, "<|start_header_id|>");
    assert_null(chat);

    struct tokenizer *unknown = open_model("chat_template/unknown");
    assert_fails(chat_template_open(&chat, unknown, NULL), LORAD_CONFIG, "template: ");
    assert_ok(chat_template_open(&chat, unknown, "plain"));
    chat_template_close(chat);
    tokenizer_close(unknown);

    assert_ok(chat_template_open(&chat, fin, "chatml"));
    struct encoded_row row = {0};
    struct message bad = {ROLE_USER, "\xFF", 1, 1};
    assert_fails(chat_template_encode(chat, &bad, 1, (struct chat_options){0}, &row), LORAD_DATA, "UTF-8");
    chat_template_close(chat);

    struct tokenizer *llama = open_model("chat_template/llama2");
    assert_ok(chat_template_open(&chat, llama, NULL));
    struct message twice[2] = {{ROLE_USER, "a", 1, 1}, {ROLE_USER, "b", 1, 1}};
    assert_fails(chat_template_encode(chat, twice, 2, (struct chat_options){0}, &row), LORAD_DATA,
                 "alternate");
    encoded_row_free(&row);
    chat_template_close(chat);
    tokenizer_close(llama);
    tokenizer_close(fin);
    tokenizer_close(story);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chatml),     cmocka_unit_test(qwen),
        cmocka_unit_test(llama3),     cmocka_unit_test(llama2),
        cmocka_unit_test(mistral),    cmocka_unit_test(plain),
        cmocka_unit_test(end_tokens), cmocka_unit_test(straddling_token),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
