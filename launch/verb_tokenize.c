/*
 * verb_tokenize.c: `lorad tokenize`: what a model's tokenizer makes of text, for people to look and for
 * tests.
 *
 * A JSON value a line on standard input, an answer a line on standard output:
 *   (nothing)   "text"             -> [numbers]
 *   --decode    [numbers]          -> "text"
 *   --template  {"messages": ...}  -> {"ids": [numbers], "labels": [numbers]}, -100 where nothing is learnt
 */
#include "launch/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "dataloader/chat_template.h"

static const char input[] = "standard input";

struct tokenizing {
    struct tokenizer *tokenizer;
    struct chat_template *chat; /* --template */
    struct token_list list;
    struct encoded_row row;
    struct message *messages;
    size_t message_capacity;
    struct strbuf text, answer;
    long line;
};

static void write_ids(struct strbuf *out, const struct token_list *list)
{
    strbuf_putc(out, '[');
    for (size_t i = 0; i < list->length; i++) strbuf_printf(out, "%s%d", i ? "," : "", list->ids[i]);
    strbuf_putc(out, ']');
}

static enum status answer_text(struct tokenizing *t, const struct json *value)
{
    size_t length;
    const char *text = js_string(value, &length);
    if (!text)
        return FAIL(LORAD_DATA, "%s:%ld: a JSON string is wanted, not %s%s", input, t->line,
                    js_type_name(js_type(value)),
                    js_type(value) == JS_OBJECT ? "; for rows with \"messages\" add --template" : "");
    t->list.length = 0;
    TRY(tokenizer_encode(t->tokenizer, text, length, (struct encode_options){true, true}, &t->list));
    write_ids(&t->answer, &t->list);
    return LORAD_OK;
}

static enum status answer_numbers(struct tokenizing *t, const struct json *value)
{
    if (js_type(value) != JS_ARRAY)
        return FAIL(LORAD_DATA, "%s:%ld: a list of token numbers is wanted, not %s", input, t->line,
                    js_type_name(js_type(value)));
    struct token_stream *stream;
    TRY(token_stream_create(&stream, t->tokenizer, false));
    enum status status = LORAD_OK;
    strbuf_clear(&t->text);
    for (size_t i = 0; i < js_length(value) && status == LORAD_OK; i++) {
        int64_t number = js_int(js_at(value, i), -1);
        if (number < 0 || number >= tokenizer_size(t->tokenizer))
            status = FAIL(LORAD_DATA, "%s:%ld: element %zu of the list is no token number (0 to %d)", input,
                          t->line, i + 1, tokenizer_size(t->tokenizer) - 1);
        else
            status = token_stream_add(stream, (int32_t)number, &t->text);
    }
    if (status == LORAD_OK) status = token_stream_finish(stream, &t->text);
    token_stream_destroy(stream);
    if (status == LORAD_OK) js_write_string(&t->answer, strbuf_text(&t->text), t->text.length);
    return status;
}

static enum status read_message(struct tokenizing *t, const struct json *value, size_t number,
                                struct message *out)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    const char *role = js_string(js_get(value, "role"), NULL);
    *out = (struct message){.weight = 1};
    out->content = js_string(js_get(value, "content"), &out->length);
    for (size_t i = 0; role && out->content && i < sizeof roles / sizeof *roles; i++) {
        if (strcmp(role, roles[i])) continue;
        out->role = (enum message_role)i;
        return LORAD_OK;
    }
    return FAIL(LORAD_DATA,
                "%s:%ld: message %zu needs a \"role\" (system, user or assistant) and a text as \"content\"",
                input, t->line, number);
}

static enum status answer_row(struct tokenizing *t, const struct json *value)
{
    const struct json *list = js_get(value, "messages");
    size_t n = js_length(list);
    if (js_type(value) != JS_OBJECT || js_type(list) != JS_ARRAY || n == 0)
        return FAIL(LORAD_DATA, "%s:%ld: an object with a list of \"messages\" is wanted", input, t->line);
    TRY(memory_grow((void **)&t->messages, &t->message_capacity, n, sizeof *t->messages));
    for (size_t i = 0; i < n; i++) TRY(read_message(t, js_at(list, i), i + 1, &t->messages[i]));
    enum status status = chat_template_encode(t->chat, t->messages, n,
                                              (struct chat_options){.split_special_tokens = true}, &t->row);
    if (status != LORAD_OK) return status_context(status, "%s:%ld", input, t->line);
    strbuf_puts(&t->answer, "{\"ids\":");
    write_ids(&t->answer, &t->row.tokens);
    strbuf_puts(&t->answer, ",\"labels\":[");
    for (size_t i = 0; i < t->row.tokens.length; i++)
        strbuf_printf(&t->answer, "%s%d", i ? "," : "", t->row.weights[i] > 0 ? t->row.tokens.ids[i] : -100);
    strbuf_puts(&t->answer, "]}");
    return LORAD_OK;
}

static enum status answer_line(struct tokenizing *t, const struct command *command, const char *line,
                               size_t length)
{
    struct json *value;
    char name[64];
    snprintf(name, sizeof name, "%s:%ld", input, t->line);
    TRY(js_parse(&value, line, length, name));
    strbuf_clear(&t->answer);
    enum status status = t->chat           ? answer_row(t, value)
                         : command->decode ? answer_numbers(t, value)
                                           : answer_text(t, value);
    js_destroy(value);
    strbuf_putc(&t->answer, '\n');
    if (status == LORAD_OK) status = strbuf_status(&t->answer);
    if (status == LORAD_OK && fwrite(t->answer.data, 1, t->answer.length, stdout) != t->answer.length)
        status = FAIL(LORAD_IO, "cannot write to standard output");
    return status;
}

static enum status answer_all(struct tokenizing *t, const struct command *command)
{
    if (command->decode && command->template)
        return FAIL(LORAD_USAGE, "--decode and --template exclude each other");
    TRY(tokenizer_open(&t->tokenizer, command->model_dir));
    if (command->template) TRY(chat_template_open(&t->chat, t->tokenizer, NULL));
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    enum status status = LORAD_OK;
    while (status == LORAD_OK && (length = getline(&line, &capacity, stdin)) > 0) {
        t->line++;
        if (strspn(line, " \t\r\n") < (size_t)length) status = answer_line(t, command, line, (size_t)length);
    }
    free(line);
    if (status == LORAD_OK && ferror(stdin)) status = FAIL(LORAD_IO, "cannot read standard input");
    if (fflush(stdout) != 0 && status == LORAD_OK) status = FAIL(LORAD_IO, "cannot write to standard output");
    return status;
}

enum status verb_tokenize(const struct command *command)
{
    struct tokenizing t = {.line = 0};
    enum status status = answer_all(&t, command);
    encoded_row_free(&t.row);
    token_list_free(&t.list);
    free(t.messages);
    strbuf_free(&t.text);
    strbuf_free(&t.answer);
    chat_template_close(t.chat);
    tokenizer_close(t.tokenizer);
    return status;
}
