/*
 * chat_lines MODEL_DIR [TEMPLATE]: conversations as tokens, for comparing with transformers.
 *
 * Reads a JSON object a line from standard input, {"messages": [{"role", "content"}], "prompt": bool,
 * "split": bool}, and answers each with a line, {"text", "ids", "mask"} (mask: 1 where a token is learnt;
 * prompt: none) or {"error"}.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "dataloader/chat_template.h"

enum { MESSAGES = 64 };

static size_t read_messages(struct message *out, const struct json *list)
{
    size_t n = js_length(list);
    if (n > MESSAGES) n = MESSAGES;
    for (size_t i = 0; i < n; i++) {
        const char *role = js_string(js_get(js_at(list, i), "role"), NULL);
        out[i].role = role && *role == 's' ? ROLE_SYSTEM : role && *role == 'u' ? ROLE_USER : ROLE_ASSISTANT;
        out[i].content = js_string(js_get(js_at(list, i), "content"), &out[i].length);
        out[i].weight = 1;
    }
    return n;
}

static enum status answer(const struct chat_template *chat, const struct json *value, struct encoded_row *row,
                          struct strbuf *out)
{
    struct message messages[MESSAGES];
    struct strbuf text = STRBUF_EMPTY;
    size_t n = read_messages(messages, js_get(value, "messages"));
    bool prompt = js_bool(js_get(value, "prompt"), false);
    struct chat_options options = {.split_special_tokens = js_bool(js_get(value, "split"), true)};
    row->tokens.length = 0;
    enum status status = prompt ? chat_template_prompt(chat, messages, n, &row->tokens)
                                : chat_template_encode(chat, messages, n, options, row);
    if (status == LORAD_OK) status = chat_template_render(chat, messages, n, prompt, &text);
    if (status == LORAD_OK) {
        strbuf_puts(out, "{\"text\":");
        js_write_string(out, strbuf_text(&text), text.length);
        strbuf_puts(out, ",\"ids\":[");
        for (size_t i = 0; i < row->tokens.length; i++)
            strbuf_printf(out, "%s%d", i ? "," : "", row->tokens.ids[i]);
        strbuf_puts(out, "],\"mask\":[");
        for (size_t i = 0; !prompt && i < row->tokens.length; i++)
            strbuf_printf(out, "%s%d", i ? "," : "", row->weights[i] > 0);
        strbuf_puts(out, "]}");
    }
    strbuf_free(&text);
    return status;
}

static enum status answer_all(const struct chat_template *chat)
{
    char *line = NULL;
    size_t capacity = 0;
    struct encoded_row row = {0};
    struct strbuf out = STRBUF_EMPTY;
    enum status status = LORAD_OK;
    for (ssize_t n; status == LORAD_OK && (n = getline(&line, &capacity, stdin)) > 0;) {
        struct json *value;
        status = js_parse(&value, line, (size_t)n, "standard input");
        if (status != LORAD_OK) break;
        strbuf_clear(&out);
        if (answer(chat, value, &row, &out) != LORAD_OK) {
            strbuf_clear(&out);
            strbuf_puts(&out, "{\"error\":");
            js_write_string(&out, status_message(), strlen(status_message()));
            strbuf_putc(&out, '}');
        }
        puts(strbuf_text(&out));
        js_destroy(value);
    }
    free(line);
    encoded_row_free(&row);
    strbuf_free(&out);
    return status;
}

int main(int argc, char **argv)
{
    struct tokenizer *tokenizer = NULL;
    struct chat_template *chat = NULL;
    if (argc < 2) return 2;
    enum status status = tokenizer_open(&tokenizer, argv[1]);
    if (status == LORAD_OK) status = chat_template_open(&chat, tokenizer, argc > 2 ? argv[2] : NULL);
    if (status == LORAD_OK) status = answer_all(chat);
    if (status != LORAD_OK) fprintf(stderr, "%s\n", status_message());
    chat_template_close(chat);
    tokenizer_close(tokenizer);
    return status != LORAD_OK;
}
