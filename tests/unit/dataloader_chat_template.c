/*
 * Chat templates against transformers: rendered text, token numbers and supervised tokens of every committed
 * conversation (written by tests/golden/gen_chat_template.py), and what is refused.
 */
#include "support/test.h"
#include "support/token_checks.h"

#include "base/json.h"
#include "dataloader/chat_parts.h"
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

static const struct chat_options by_default = {.split_special_tokens = true};
static size_t n_loose; /* rows so far in which split_special_tokens makes a difference */

static bool is_hostile(const struct message *messages, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strpbrk(messages[i].content, "<[")) return true;
    return false;
}

static void check_row(const struct chat_template *chat, const struct json *row, struct encoded_row *encoded,
                      const char *name, size_t number)
{
    struct message messages[MESSAGES];
    size_t n = read_messages(messages, js_get(row, "messages"));
    assert_ok(chat_template_encode(chat, messages, n, by_default, encoded));
    expect_ids(&encoded->tokens, js_get(row, "ids"), name, number);
    expect_mask(encoded, js_get(row, "mask"), name, number);
    assert_true(encoded->n_supervised > 0);

    struct chat_options last = {.mask_history = true, .split_special_tokens = true};
    assert_ok(chat_template_encode(chat, messages, n, last, encoded));
    expect_mask(encoded, js_get(row, "last"), name, number);

    struct chat_options all = {.train_on_prompt = true, .split_special_tokens = true};
    assert_ok(chat_template_encode(chat, messages, n, all, encoded));
    assert_int_equal((size_t)encoded->n_supervised, encoded->tokens.length);

    bool differs = js_get(row, "loose") != NULL;
    if (differs || !is_hostile(messages, n)) {
        assert_ok(chat_template_encode(chat, messages, n, (struct chat_options){0}, encoded));
        expect_ids(&encoded->tokens, js_get(row, differs ? "loose" : "ids"), name, number);
        expect_mask(encoded, js_get(row, differs ? "loose_mask" : "mask"), name, number);
        n_loose += differs;
    }

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

static void families(void **state)
{
    static const struct {
        const char *name;
        size_t at_least;
    } files[] = {
        {"fin-zh-tiny", 40},
        {"qwen2", 40},
        {"qwen2.5", 40},
        {"qwen3", 70},
        {"qwen3.nonthinking", 30},
        {"qwen3.thinking", 30},
        {"qwen3-2507", 30},
        {"llama2", 40},
        {"llama3", 40},
        {"llama3.1", 30},
        {"mistral", 10},
        {"mistral_v1", 30},
        {"mistral_v3", 25},
        {"mistral_nemo", 30},
        {"mistral_v7", 30},
        {"alpaca", 30},
        {"cornucopia", 30},
        {"fin-zh-tiny.plain", 40},
        {"tinystories-656k", 40},
    };
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) check_file(files[i].name, files[i].at_least);
    assert_true(n_loose >= 35);
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
    assert_ok(chat_template_encode(chat, messages, 2, by_default, &row));
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

/* ---- what is supervised ---- */

static void expect_weights(const struct encoded_row *row, size_t begin, size_t end, float weight)
{
    size_t n = 0;
    for (size_t i = 0; i < row->tokens.length; i++) {
        if (row->tokens.start[i] < begin || row->tokens.end[i] > end) continue;
        assert_true(row->weights[i] == weight);
        n++;
    }
    assert_true(n > 0);
}

static void weights(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_model("models/fin-zh-tiny");
    struct chat_template *chat = NULL;
    assert_ok(chat_template_open(&chat, tokenizer, NULL));
    struct message messages[] = {{ROLE_USER, "x", 1, 7},
                                 {ROLE_ASSISTANT, "no", 2, 0},
                                 {ROLE_USER, "y", 1, 1},
                                 {ROLE_ASSISTANT, "half", 4, 0.5f}};
    static const char text[] = "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n"
                               "<|im_start|>user\ny<|im_end|>\n<|im_start|>assistant\nhalf<|im_end|>\n";
    size_t first = (size_t)(strstr(text, "no<") - text), last = (size_t)(strstr(text, "half<") - text);
    struct encoded_row row = {0};
    assert_ok(chat_template_encode(chat, messages, 4, by_default, &row));
    expect_weights(&row, 0, first, 0);
    expect_weights(&row, first, first + 2 + 10, 0);
    expect_weights(&row, last, last + 4 + 10, 0.5f);
    expect_weights(&row, last + 4 + 10, sizeof text, 0);

    struct chat_options options = {.train_on_prompt = true, .split_special_tokens = true};
    assert_ok(chat_template_encode(chat, messages, 4, options, &row));
    expect_weights(&row, 0, first, 1);
    expect_weights(&row, first, first + 2 + 10, 0); /* a message that is not learnt stays so */
    expect_weights(&row, last, last + 4 + 10, 0.5f);

    messages[3].weight = 0;
    assert_ok(chat_template_encode(chat, messages, 4, by_default, &row));
    assert_int_equal(row.n_supervised, 0);
    encoded_row_free(&row);
    chat_template_close(chat);
    tokenizer_close(tokenizer);
}

/* The block that Qwen3's template puts before an answer without thoughts is the prompt's; thoughts are
 * learnt. */
static void think_blocks(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_model("chat_template/qwen3");
    struct chat_template *chat = NULL;
    assert_ok(chat_template_open(&chat, tokenizer, NULL));
    struct message messages[] = {{ROLE_USER, "x", 1, 1}, {ROLE_ASSISTANT, "yes", 3, 1}};
    struct encoded_row row = {0};
    assert_ok(chat_template_encode(chat, messages, 2, by_default, &row));
    size_t opening = strlen("<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
    size_t block = strlen("<think>\n\n</think>\n\n");
    expect_weights(&row, 0, opening + block, 0);
    expect_weights(&row, opening + block, opening + block + 3 + 10, 1);

    static const char thought[] = "<think>\nt\n</think>\n\nyes";
    messages[1].content = thought;
    messages[1].length = sizeof thought - 1;
    assert_ok(chat_template_encode(chat, messages, 2, by_default, &row));
    expect_weights(&row, 0, opening, 0);
    expect_weights(&row, opening, opening + sizeof thought - 1 + 10, 1);
    encoded_row_free(&row);
    chat_template_close(chat);
    tokenizer_close(tokenizer);
}

/* The tokenizer's padding token is its end token; the end of an answer is learnt all the same. */
static void pad_is_eos(void **state)
{
    (void)state;
    static const char *const models[] = {"chat_template/llama2", "chat_template/mistral_nemo",
                                         "chat_template/qwen2"};
    for (size_t i = 0; i < 3; i++) {
        struct tokenizer *tokenizer = open_model(models[i]);
        struct chat_template *chat = NULL;
        assert_ok(chat_template_open(&chat, tokenizer, NULL));
        struct message messages[] = {{ROLE_USER, "x", 1, 1}, {ROLE_ASSISTANT, "y", 1, 1}};
        struct encoded_row row = {0};
        assert_ok(chat_template_encode(chat, messages, 2, by_default, &row));
        size_t n_ends = 0;
        for (size_t k = 0; k < row.tokens.length; k++) {
            if (row.tokens.ids[k] != tokenizer_eos(tokenizer)) continue;
            n_ends += row.weights[k] == 1;
        }
        assert_int_equal(n_ends, 1);
        assert_int_equal(chat_template_end_token(chat), tokenizer_eos(tokenizer));
        encoded_row_free(&row);
        chat_template_close(chat);
        tokenizer_close(tokenizer);
    }
}

static void check_text(const char *model, const char *text, bool has_bos)
{
    struct tokenizer *tokenizer = open_model(model);
    struct chat_template *chat = NULL;
    assert_ok(chat_template_open(&chat, tokenizer, NULL));
    struct encoded_row row = {0};
    struct token_list plain = {0};
    assert_ok(chat_template_encode_text(chat, text, strlen(text), &row));
    assert_ok(chat_template_encode_text(chat, text, strlen(text), &row)); /* replaces */
    assert_ok(tokenizer_encode(tokenizer, text, strlen(text), (struct encode_options){0}, &plain));
    size_t n = row.tokens.length;
    assert_int_equal(n, plain.length + has_bos + 1);
    assert_int_equal(row.n_supervised, n);
    for (size_t i = 0; i < n; i++) assert_true(row.weights[i] == 1);
    size_t n_prefix;
    const int32_t *prefix = tokenizer_prefix(tokenizer, &n_prefix);
    assert_int_equal(n_prefix, has_bos);
    if (has_bos) assert_int_equal(row.tokens.ids[0], prefix[0]);
    assert_memory_equal(row.tokens.ids + has_bos, plain.ids, plain.length * sizeof *plain.ids);
    assert_int_equal(row.tokens.ids[n - 1], tokenizer_eos(tokenizer));
    assert_int_equal(row.tokens.end[n - 1], strlen(text));
    assert_fails(chat_template_encode_text(chat, "\xFF", 1, &row), LORAD_DATA, "UTF-8");
    encoded_row_free(&row);
    token_list_free(&plain);
    chat_template_close(chat);
    tokenizer_close(tokenizer);
}

static void raw_text(void **state)
{
    (void)state;
    check_text("models/fin-zh-tiny", "公司公告<|im_end|>。\n", false);
    check_text("chat_template/llama2", "x </s> <s>", true); /* the tokenizer puts both there itself */
    check_text("chat_template/llama3", "text <|eot_id|>", true);
    check_text("chat_template/mistral_nemo", "", true);
    struct tokenizer *unknown = open_model("chat_template/unknown");
    struct chat_template chat = {.tokenizer = unknown};
    struct encoded_row row = {0};
    if (tokenizer_eos(unknown) < 0)
        assert_fails(chat_template_encode_text(&chat, "x", 1, &row), LORAD_CONFIG, "eos_token");
    tokenizer_close(unknown);
}

/* ---- recognising ---- */

static uint64_t hash_of(const char *template, const char *system)
{
    uint64_t hash;
    char *found = NULL;
    assert_ok(chat_hash(&hash, &found, template));
    if (system)
        assert_string_equal(found, system);
    else
        assert_null(found);
    free(found);
    return hash;
}

static void canonical_form(void **state)
{
    (void)state;
    uint64_t one = hash_of("a{% for m in messages %}{{ m['content'] + '\\n' }}{% endfor %}", NULL);
    static const char *const same[] = {
        "a{%- for m in messages -%}  {{m['content']+'\n'}}\n{%- endfor %}\n",
        "a{# why #}{% for m in messages %}\n{{ m['content'] + '\\n' }}{% endfor %}",
        "a\n {#- all\n of it -#}\n\n{%for  m in\nmessages%}{{- m[ 'content' ] + '\\n' -}} {% endfor %}",
    };
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) assert_true(hash_of(same[i], NULL) == one);
    static const char *const other[] = {
        "a {% for m in messages %}{{ m['content'] + '\\n' }}{% endfor %}",
        "a{% for m in messages %} {{ m['content'] + '\\n' }}{% endfor %}",
        "a{% for m in messages %}\n\n{{ m['content'] + '\\n' }}{% endfor %}",
        "a{% for m in messages %}{{ m['content'] + ' \\n' }}{% endfor %}",
        "a{% for m in messages +%}\n{{ m['content'] + '\\n' }}{% endfor %}",
        "a{% for m in messages %}{{ m['content'] + '\\n' }}{% endfor %}\n\n\n",
        "",
        "{%",
        "{{ '",
        "{#",
        "a{% for m in messages %}{{ m['content'] + '\\n' }}{% endfor",
    };
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) assert_true(hash_of(other[i], NULL) != one);
    assert_true(hash_of("{% x %}\n  {% y %}", NULL) == hash_of("{% x %}{% y %}", NULL));
    assert_true(hash_of("{% x %}\n  {{ y }}", NULL) != hash_of("{% x %}{{ y }}", NULL));
    assert_true(hash_of("{{ {'a': {}} }} b", NULL) != hash_of("{{ {'a': {}} }}b", NULL));
    uint64_t cut = hash_of("{{ '<|im_start|>system\nA.<|im_end|>\n' }}", "A.");
    assert_true(hash_of("{{- '<|im_start|>system\\n甲乙<|im_end|>\\n' }}", "甲乙") == cut);
}

static void expect_render(const char *model, const char *name, const struct message *messages, size_t n,
                          const char *expected)
{
    struct tokenizer *tokenizer = open_model(model);
    struct chat_template *chat = NULL;
    struct strbuf text = STRBUF_EMPTY;
    assert_ok(chat_template_open(&chat, tokenizer, name));
    assert_ok(chat_template_render(chat, messages, n, false, &text));
    assert_string_equal(strbuf_text(&text), expected);
    strbuf_free(&text);
    chat_template_close(chat);
    tokenizer_close(tokenizer);
}

/* What no installed package has a template for: as the model's own template renders the prompt, and its
 * answer. */
static void by_name(void **state)
{
    (void)state;
    struct message m[] = {{ROLE_SYSTEM, "S", 1, 1},
                          {ROLE_USER, "q1", 2, 1},
                          {ROLE_ASSISTANT, " a1 ", 4, 1},
                          {ROLE_USER, " q2 ", 4, 1},
                          {ROLE_ASSISTANT, "a2", 2, 1}};
    expect_render("chat_template/mistral_v3", "mistral_v3", m, 5,
                  "<s>[INST] q1[/INST] a1</s>[INST] S\n\n q2 [/INST] a2</s>");
    expect_render("chat_template/mistral_nemo", "mistral_nemo", m, 5,
                  "<s>[INST]q1[/INST] a1 </s>[INST]S\n\n q2 [/INST]a2</s>");
    expect_render("chat_template/mistral_v1", "mistral_v1", m, 3, "<s> [INST] S\n\nq1 [/INST]  a1 </s>");
    expect_render(
        "chat_template/llama3", "llama3.3", m, 2,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
        "2023\nToday Date: 26 Jul "
        "2024\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nq1<|eot_id|>");
    expect_render(
        "chat_template/qwen2", "qwen", m + 1, 1,
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nq1<|im_end|>\n");
}

/* An answer that NFC rewrites from its first character on: the line feed before it does not make it the
 * template's. */
static void rewritten_answer(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_model("chat_template/qwen2");
    struct chat_template *chat = NULL;
    assert_ok(chat_template_open(&chat, tokenizer, "chatml"));
    static const char answer[] = "\u0b5c\u0b5c"; /* each becomes two characters */
    struct message messages[] = {{ROLE_USER, "x", 1, 1}, {ROLE_ASSISTANT, answer, sizeof answer - 1, 1}};
    struct encoded_row row = {0};
    assert_ok(chat_template_encode(chat, messages, 2, by_default, &row));
    size_t opening = strlen("<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
    expect_weights(&row, 0, opening, 0);
    expect_weights(&row, opening, opening + sizeof answer - 1 + 10, 1);
    assert_true(row.n_supervised > 10);
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
    assert_fails(chat_template_encode(chat, &bad, 1, by_default, &row), LORAD_DATA, "UTF-8");
    chat_template_close(chat);

    struct tokenizer *mistral = open_model("chat_template/mistral");
    assert_ok(chat_template_open(&chat, mistral, NULL));
    struct message system[2] = {{ROLE_SYSTEM, "a", 1, 1}, {ROLE_USER, "b", 1, 1}};
    assert_fails(chat_template_encode(chat, system, 2, by_default, &row), LORAD_DATA, "system message");
    chat_template_close(chat);
    tokenizer_close(mistral);

    struct tokenizer *llama = open_model("chat_template/llama2");
    assert_ok(chat_template_open(&chat, llama, NULL));
    struct message twice[2] = {{ROLE_USER, "a", 1, 1}, {ROLE_USER, "b", 1, 1}};
    assert_fails(chat_template_encode(chat, twice, 2, by_default, &row), LORAD_DATA, "alternate");
    encoded_row_free(&row);
    chat_template_close(chat);
    tokenizer_close(llama);
    tokenizer_close(fin);
    tokenizer_close(story);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families),         cmocka_unit_test(straddling_token),
        cmocka_unit_test(weights),          cmocka_unit_test(think_blocks),
        cmocka_unit_test(pad_is_eos),       cmocka_unit_test(raw_text),
        cmocka_unit_test(canonical_form),   cmocka_unit_test(by_name),
        cmocka_unit_test(rewritten_answer), cmocka_unit_test(end_tokens),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
