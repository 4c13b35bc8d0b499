/*
 * sources_messages.c: rows with a list of messages, in two dialects:
 *
 *     messages    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}
 *     sharegpt    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}
 *
 * Content is text, or parts of which each is text. A message may carry "loss_weight" (or "weight"), a number,
 * and "train" (or "loss"), false when it is not to be learnt. Other members are ignored. `columns.messages`
 * names the list and `tags` the names in it.
 */
#include <stdlib.h>
#include <string.h>

#include "dataloader/sources_impl.h"

struct dialect {
    const char *list[4], *role[3], *content[3]; /* names, the usual one first */
    const char *word[3][4];                     /* by enum message_role */
};

static const struct dialect chatml = {
    .list = {"messages", "conversations"},
    .role = {"role"},
    .content = {"content"},
    .word = {{"system"}, {"user"}, {"assistant"}},
};

static const struct dialect sharegpt = {
    .list = {"conversations", "conversation", "messages"},
    .role = {"from", "role"},
    .content = {"value", "content"},
    .word = {{"system"}, {"human", "user"}, {"gpt", "assistant", "chatgpt"}},
};

static const struct dataset_source no_mapping;
enum { MOST_WEIGHT = 1000 };

/* The member under its mapped name, or under the first of the usual names that is there. */
static const struct json *member(const struct json *object, const char *mapped, const char *const *usual)
{
    if (mapped) return js_get(object, mapped);
    for (; *usual; usual++) {
        const struct json *value = js_get(object, *usual);
        if (value) return value;
    }
    return NULL;
}

static bool role_of(enum message_role *out, const char *word, const struct dialect *dialect,
                    const struct source_tags *tags)
{
    const char *const mapped[] = {tags->system_tag, tags->user_tag, tags->assistant_tag};
    for (int role = 0; role < 3; role++) {
        bool is = mapped[role] && strcmp(mapped[role], word) == 0;
        for (int i = 0; !is && !mapped[role] && dialect->word[role][i]; i++)
            is = strcmp(dialect->word[role][i], word) == 0;
        if (!is) continue;
        *out = (enum message_role)role;
        return true;
    }
    return false;
}

static void reject_role(const char *word, size_t number, struct parsed_row *out)
{
    static const char *const tools[] = {"tool",        "function",      "observation",
                                        "tool_call",   "function_call", "tool_response",
                                        "tool_result", "ipython",       NULL};
    for (int i = 0; tools[i]; i++)
        if (strcmp(tools[i], word) == 0) {
            parsed_row_reject(out, ROW_BAD_ROLE,
                              "message %zu has role \"%s\": calls of tools are not supported", number, word);
            return;
        }
    parsed_row_reject(out, ROW_BAD_ROLE, "message %zu has role \"%.40s\"", number, word);
}

/* ---- one message ---- */

/* The weight in the loss; false: the row is rejected. */
static bool weight_of(float *weight, const struct json *message, size_t number, struct parsed_row *out)
{
    static const char *const numbers[] = {"loss_weight", "weight"}, *const flags[] = {"train", "loss"};
    *weight = 1.0f;
    for (int i = 0; i < 2; i++) {
        const struct json *value = js_get(message, numbers[i]);
        if (!value || js_type(value) == JS_NULL) continue;
        double number_given = js_real(value, -1);
        if (js_type(value) != JS_INT && js_type(value) != JS_REAL)
            parsed_row_reject(out, ROW_BAD_FIELD, "\"%s\" of message %zu is %s, not a number", numbers[i],
                              number, js_type_name(js_type(value)));
        else if (!(number_given >= 0 && number_given <= MOST_WEIGHT))
            parsed_row_reject(out, ROW_BAD_FIELD, "\"%s\" of message %zu is %g; it must be from 0 to %d",
                              numbers[i], number, number_given, MOST_WEIGHT);
        else {
            *weight = (float)number_given;
            break;
        }
        return false;
    }
    for (int i = 0; i < 2; i++) {
        const struct json *value = js_get(message, flags[i]);
        if (!value || js_type(value) == JS_NULL) continue;
        if (js_type(value) != JS_BOOL) {
            parsed_row_reject(out, ROW_BAD_FIELD, "\"%s\" of message %zu is %s, not true or false", flags[i],
                              number, js_type_name(js_type(value)));
            return false;
        }
        if (!js_bool(value, true)) *weight = 0.0f;
    }
    return true;
}

/* Content in parts [{"type": "text", "text": ...}], joined in row->text. */
static enum status add_parts(const struct json *parts, enum message_role role, size_t number,
                             struct parsed_row *out)
{
    size_t start = out->text.length;
    for (size_t i = 0; i < js_length(parts); i++) {
        const struct json *part = js_at(parts, i);
        const char *type = js_string(js_get(part, "type"), NULL);
        size_t length;
        const char *text =
            js_type(part) == JS_STRING ? js_string(part, &length) : js_string(js_get(part, "text"), &length);
        if (!text || (type && strcmp(type, "text") != 0)) {
            parsed_row_reject(out, ROW_BAD_FIELD,
                              "part %zu of message %zu is of type \"%.40s\"; only parts of text can be "
                              "trained on",
                              i + 1, number, type ? type : js_type_name(js_type(part)));
            return LORAD_OK;
        }
        strbuf_add(&out->text, text, length);
    }
    return parsed_row_add(out, role, NULL, out->text.length - start);
}

static enum status parse_message(const struct json *message, size_t number, const struct dialect *dialect,
                                 const struct source_tags *tags, struct parsed_row *out)
{
    if (js_type(message) != JS_OBJECT) {
        parsed_row_reject(out, ROW_NO_MESSAGES, "message %zu is %s, not an object", number,
                          js_type_name(js_type(message)));
        return LORAD_OK;
    }
    const struct json *content = member(message, tags->content_tag, dialect->content);
    const char *word = js_string(member(message, tags->role_tag, dialect->role), NULL);
    enum message_role role;
    size_t length;
    float weight;
    const char *text = js_string(content, &length);
    if (!word)
        parsed_row_reject(out, ROW_NO_MESSAGES, "message %zu has no \"%.40s\"", number,
                          tags->role_tag ? tags->role_tag : dialect->role[0]);
    else if (!role_of(&role, word, dialect, tags))
        reject_role(word, number, out);
    else if (js_length(js_get(message, "tool_calls")) > 0 || js_length(js_get(message, "function_call")) > 0)
        parsed_row_reject(out, ROW_NO_MESSAGES, "message %zu has tool_calls, which are not supported",
                          number);
    else if (!text && (!content || js_type(content) != JS_ARRAY))
        parsed_row_reject(out, ROW_NO_MESSAGES, "the content of message %zu is %s, not a string", number,
                          content ? js_type_name(js_type(content)) : "missing");
    else if (weight_of(&weight, message, number, out)) {
        size_t n = out->n;
        TRY(text ? parsed_row_add(out, role, text, length) : add_parts(content, role, number, out));
        if (out->n > n && role == ROLE_ASSISTANT) out->messages[n].weight = weight;
    }
    return LORAD_OK;
}

/* ---- rows ---- */

/* A system message that stands beside the list. */
static enum status add_system(const struct json *row, const struct dataset_source *source,
                              struct parsed_row *out)
{
    size_t length = 0;
    const char *text =
        json_row_text(row, source->columns.system ? source->columns.system : "system", &length, out);
    if (out->problem != ROW_PROBLEMS || !text || source_is_blank(text, length)) return LORAD_OK;
    return parsed_row_put_system(out, text, length);
}

static enum status parse_dialect(const void *context, const struct raw_row *row, struct parsed_row *out,
                                 const struct dialect *dialect)
{
    const struct json_rows *rows = context;
    const struct dataset_source *source = rows && rows->source ? rows->source : &no_mapping;
    json_rows_parse(rows, row, out);
    if (out->problem != ROW_PROBLEMS) return LORAD_OK;
    const char *name = source->columns.messages;
    const struct json *list = member(out->document, name, dialect->list);
    if (!name) name = dialect->list[0];
    size_t n = js_length(list);
    if (!list || js_type(list) != JS_ARRAY)
        parsed_row_reject(out, ROW_NO_MESSAGES, list ? "\"%.40s\" is no list" : "there is no \"%.40s\"",
                          name);
    else if (n == 0)
        parsed_row_reject(out, ROW_NO_MESSAGES, "\"%.40s\" is empty", name);
    for (size_t i = 0; i < n && out->problem == ROW_PROBLEMS; i++)
        TRY(parse_message(js_at(list, i), i + 1, dialect, &source->tags, out));
    return out->problem == ROW_PROBLEMS ? add_system(out->document, source, out) : LORAD_OK;
}

static enum status parse_messages(const void *context, const struct raw_row *row, struct parsed_row *out)
{
    return parse_dialect(context, row, out, &chatml);
}

static enum status parse_sharegpt(const void *context, const struct raw_row *row, struct parsed_row *out)
{
    return parse_dialect(context, row, out, &sharegpt);
}

/* ---- which of the two ---- */

/* Whether the first message has its role under this name; a list without messages has every name. */
static bool has_role_in(const struct json *list, const char *name)
{
    if (js_type(list) != JS_ARRAY || js_length(list) == 0) return true;
    const struct json *first = js_at(list, 0);
    return js_type(first) != JS_OBJECT || js_get(first, name);
}

static bool fits_messages(const struct json *row, const struct dataset_source *source)
{
    if (source->tags.role_tag && strcmp(source->tags.role_tag, "role") != 0) return false;
    const char *name = source->columns.messages ? source->columns.messages : "messages";
    const struct json *list = js_get(row, name);
    return list && has_role_in(list, "role");
}

static bool fits_sharegpt(const struct json *row, const struct dataset_source *source)
{
    const struct json *list = member(row, source->columns.messages, sharegpt.list);
    return list && (source->tags.role_tag ? has_role_in(list, source->tags.role_tag)
                                          : has_role_in(list, "from") || has_role_in(list, "role"));
}

static bool detect_messages(const struct source_input *input)
{
    return json_rows_detect(input, fits_messages);
}

static bool detect_sharegpt(const struct source_input *input)
{
    return json_rows_detect(input, fits_sharegpt);
}

const struct source_format source_messages = {
    .name = "messages",
    .expects = "JSON rows {\"messages\": [{\"role\": ..., \"content\": ...}, ...]}",
    .detect = detect_messages,
    .open = json_rows_open,
    .close = free,
    .next = json_rows_next,
    .parse = parse_messages,
};

const struct source_format source_sharegpt = {
    .name = "sharegpt",
    .expects = "JSON rows {\"conversations\": [{\"from\": \"human\", \"value\": ...}, ...]}",
    .detect = detect_sharegpt,
    .open = json_rows_open,
    .close = free,
    .next = json_rows_next,
    .parse = parse_sharegpt,
};
