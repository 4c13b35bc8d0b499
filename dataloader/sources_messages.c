/* sources_messages.c: JSON lines of {"messages": [{"role": ..., "content": ...}, ...]}; other members are
 * ignored. */
#include <string.h>

#include "dataloader/sources.h"

static bool detect(const char *text, size_t length)
{
    size_t i = 0;
    while (i < length && memchr(" \t\r\n", text[i], 4)) i++;
    return i < length && text[i] == '{';
}

static bool next(const void *context, struct source_cursor *cursor, struct raw_row *row)
{
    (void)context;
    do {
        row->line = cursor->line;
        if (!source_line(cursor, &row->text, &row->length)) return false;
    } while (row->length < 4096 && source_is_blank(row->text, row->length));
    return true;
}

static enum status parse_message(const struct json *message, size_t number, struct parsed_row *out)
{
    if (js_type(message) != JS_OBJECT) {
        parsed_row_reject(out, ROW_NO_MESSAGES, "message %zu is %s, not an object", number,
                          js_type_name(js_type(message)));
        return LORAD_OK;
    }
    const struct json *content = js_get(message, "content");
    const char *role_text = js_string(js_get(message, "role"), NULL);
    enum message_role role;
    size_t length;
    const char *text = js_string(content, &length);
    if (!role_text)
        parsed_row_reject(out, ROW_NO_MESSAGES, "message %zu has no \"role\"", number);
    else if (!message_role_parse(&role, role_text))
        parsed_row_reject(out, ROW_BAD_ROLE, "message %zu has role \"%.40s\"", number, role_text);
    else if (js_length(js_get(message, "tool_calls")) > 0)
        parsed_row_reject(out, ROW_NO_MESSAGES, "message %zu has tool_calls, which are not supported",
                          number);
    else if (!text)
        parsed_row_reject(out, ROW_NO_MESSAGES, "the content of message %zu is %s, not a string", number,
                          content ? js_type_name(js_type(content)) : "missing");
    else
        return parsed_row_add(out, role, text, length);
    return LORAD_OK;
}

static enum status parse(const void *context, const struct raw_row *row, struct parsed_row *out)
{
    (void)context;
    if (js_parse(&out->document, row->text, row->length, "") != LORAD_OK) {
        /* ": line 1, column 9: not valid JSON: ...": a row is a line, so only the column says something. */
        const char *column = strstr(status_message(), "column");
        parsed_row_reject(out, ROW_BAD_JSON, "%s", column ? column : status_message());
        status_clear();
        return LORAD_OK;
    }
    const struct json *messages = js_get(out->document, "messages");
    if (!messages || js_type(messages) != JS_ARRAY) {
        parsed_row_reject(out, ROW_NO_MESSAGES,
                          messages ? "\"messages\" is no list" : "there is no \"messages\"");
        return LORAD_OK;
    }
    size_t n = js_length(messages);
    for (size_t i = 0; i < n && out->problem == ROW_PROBLEMS; i++)
        TRY(parse_message(js_at(messages, i), i + 1, out));
    if (n == 0) parsed_row_reject(out, ROW_NO_MESSAGES, "\"messages\" is empty");
    return LORAD_OK;
}

const struct source_format source_messages = {
    .name = "messages", .detect = detect, .next = next, .parse = parse};
