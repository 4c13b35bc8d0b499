/*
 * sources_alpaca.c: JSON rows of one question and its answer:
 *
 *     {"instruction": ..., "input": ..., "output": ..., "system": ...,
 *      "history": [["question", "answer"], ...]}
 *
 * instruction and input, where both are there, are the user's words with a line end between them. The same
 * parts go by other usual names (prompt, question, response, answer, ...); `columns` gives any others.
 */
#include <stdlib.h>
#include <string.h>

#include "dataloader/sources_impl.h"

bool source_fields_mapped(const struct dataset_source *source)
{
    const struct source_columns *c = &source->columns;
    return c->prompt || c->query || c->response;
}

const char *const *source_field_names(const struct dataset_source *source, enum source_field field,
                                      const char *mapped[2])
{
    static const char *const usual[SOURCE_FIELDS][8] = {
        [FIELD_PROMPT] = {"instruction", "prompt", "question", "问题"},
        [FIELD_QUERY] = {"input", "query", "context"},
        [FIELD_RESPONSE] = {"output", "response", "completion", "answer", "回答", "答案"},
        [FIELD_SYSTEM] = {"system"},
        [FIELD_HISTORY] = {"history"},
    };
    const struct source_columns *c = &source->columns;
    const char *const given[SOURCE_FIELDS] = {c->prompt, c->query, c->response, c->system, c->history};
    if (!given[field] && !source_fields_mapped(source)) return usual[field];
    mapped[0] = given[field];
    mapped[1] = NULL;
    return mapped;
}

/* ---- fields of JSON rows ---- */

struct field {
    const struct json *value; /* NULL: not there, or null */
    const char *name;
};

static struct field find_field(const struct json *row, const struct dataset_source *source,
                               enum source_field which)
{
    const char *mapped[2];
    const char *const *names = source_field_names(source, which, mapped);
    struct field field = {.name = names[0]};
    for (; *names && !field.value; names++) {
        const struct json *value = js_get(row, *names);
        if (!value || js_type(value) == JS_NULL) continue;
        field = (struct field){value, *names};
    }
    return field;
}

struct piece {
    const char *text; /* NULL: not there, or blank */
    size_t length;
};

/* False: the row is rejected. */
static bool piece_of(struct piece *piece, const struct field *field, struct parsed_row *out)
{
    *piece = (struct piece){0};
    if (!field->value) return true;
    piece->text = json_row_text(out->document, field->name, &piece->length, out);
    if (piece->text && source_is_blank(piece->text, piece->length)) piece->text = NULL;
    return out->problem == ROW_PROBLEMS;
}

/* ---- rows ---- */

static enum status add_history(const struct field *field, struct parsed_row *out)
{
    if (!field->value) return LORAD_OK;
    if (js_type(field->value) != JS_ARRAY) {
        parsed_row_reject(out, ROW_BAD_FIELD, "\"%.40s\" is %s, not a list of [question, answer]",
                          field->name, js_type_name(js_type(field->value)));
        return LORAD_OK;
    }
    for (size_t i = 0; i < js_length(field->value); i++) {
        const struct json *turn = js_at(field->value, i);
        for (size_t k = 0; k < 2; k++) {
            size_t length;
            const char *text = js_string(js_type(turn) == JS_ARRAY ? js_at(turn, k) : NULL, &length);
            if (!text || js_length(turn) != 2) {
                parsed_row_reject(out, ROW_BAD_FIELD, "turn %zu of \"%.40s\" is not [question, answer]",
                                  i + 1, field->name);
                return LORAD_OK;
            }
            TRY(parsed_row_add(out, k == 0 ? ROLE_USER : ROLE_ASSISTANT, text, length));
        }
    }
    return LORAD_OK;
}

static enum status add_question(const struct piece *prompt, const struct piece *query, struct parsed_row *out)
{
    if (!prompt->text || !query->text) {
        const struct piece *only = prompt->text ? prompt : query;
        return parsed_row_add(out, ROLE_USER, only->text, only->length);
    }
    strbuf_add(&out->text, prompt->text, prompt->length);
    strbuf_putc(&out->text, '\n');
    strbuf_add(&out->text, query->text, query->length);
    return parsed_row_add(out, ROLE_USER, NULL, prompt->length + 1 + query->length);
}

static enum status parse(const void *context, const struct raw_row *row, struct parsed_row *out)
{
    static const struct dataset_source no_mapping;
    const struct json_rows *rows = context;
    const struct dataset_source *source = rows && rows->source ? rows->source : &no_mapping;
    struct field field[SOURCE_FIELDS];
    struct piece piece[SOURCE_FIELDS];
    json_rows_parse(rows, row, out);
    if (out->problem != ROW_PROBLEMS) return LORAD_OK;
    for (int i = 0; i < SOURCE_FIELDS; i++) {
        field[i] = find_field(out->document, source, (enum source_field)i);
        if (i != FIELD_HISTORY && !piece_of(&piece[i], &field[i], out)) return LORAD_OK;
    }
    if (!field[FIELD_RESPONSE].value) {
        parsed_row_reject(out, ROW_BAD_FIELD, "there is no \"%.40s\"", field[FIELD_RESPONSE].name);
        return LORAD_OK;
    }
    if (!piece[FIELD_PROMPT].text && !piece[FIELD_QUERY].text) {
        const struct field *asked = field[FIELD_PROMPT].name ? &field[FIELD_PROMPT] : &field[FIELD_QUERY];
        parsed_row_reject(out, ROW_BAD_FIELD, "\"%.40s\" is %s", asked->name,
                          asked->value ? "empty" : "missing");
        return LORAD_OK;
    }
    if (piece[FIELD_SYSTEM].text)
        TRY(parsed_row_add(out, ROLE_SYSTEM, piece[FIELD_SYSTEM].text, piece[FIELD_SYSTEM].length));
    TRY(add_history(&field[FIELD_HISTORY], out));
    if (out->problem != ROW_PROBLEMS) return LORAD_OK;
    TRY(add_question(&piece[FIELD_PROMPT], &piece[FIELD_QUERY], out));
    const char *answer = js_string(field[FIELD_RESPONSE].value, NULL); /* blank is for the rules to refuse */
    return parsed_row_add(out, ROLE_ASSISTANT, answer, strlen(answer));
}

static bool fits(const struct json *row, const struct dataset_source *source)
{
    struct field prompt = find_field(row, source, FIELD_PROMPT), query = find_field(row, source, FIELD_QUERY),
                 response = find_field(row, source, FIELD_RESPONSE);
    return js_string(response.value, NULL) && (js_string(prompt.value, NULL) || js_string(query.value, NULL));
}

static bool detect(const struct source_input *input)
{
    return json_rows_detect(input, fits);
}

const struct source_format source_alpaca = {
    .name = "alpaca",
    .expects = "JSON rows {\"instruction\": ..., \"input\": ..., \"output\": ...}",
    .detect = detect,
    .open = json_rows_open,
    .close = free,
    .next = json_rows_next,
    .parse = parse,
};
