#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"

/* `struct json` is jansson's json_t under another name; the casts stay in this file. */
static const json_t *in(const struct json *value)
{
    return (const json_t *)value;
}

static const struct json *out_of(const json_t *value)
{
    return (const struct json *)value;
}

/* The library does not always say that it ran out of memory, and a text that could not be read for that is
 * not wrong. */
static _Thread_local bool starved;

static void *allocate(size_t bytes)
{
    void *block = malloc(bytes);
    if (!block) starved = true;
    return block;
}

__attribute__((constructor)) static void choose_allocator(void)
{
    json_set_alloc_funcs(allocate, free);
}

/* The library's words without the names of its own flags. */
static const char *plain_words(const json_error_t *error)
{
    return json_error_code(error) == json_error_null_character ? "\\u0000 is not allowed" : error->text;
}

enum status js_parse(struct json **out, const char *text, size_t length, const char *name)
{
    json_error_t error;
    starved = false;
    json_t *document = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (starved) {
        json_decref(document);
        return FAIL(LORAD_NOMEM, "out of memory while reading %s", name);
    }
    if (!document)
        return FAIL(LORAD_DATA, "%s: line %d, column %d: not valid JSON: %s", name, error.line, error.column,
                    plain_words(&error));
    *out = (struct json *)document;
    return LORAD_OK;
}

enum status js_read_file(struct json **out, const char *path, size_t max_bytes)
{
    char *text;
    size_t length;
    TRY(file_read(&text, &length, path, max_bytes));
    enum status status = js_parse(out, text, length, path);
    free(text);
    return status;
}

void js_destroy(struct json *document)
{
    json_decref((json_t *)document);
}

enum js_type js_type(const struct json *value)
{
    if (!value) return JS_NULL;
    switch (json_typeof(in(value))) {
    case JSON_OBJECT:
        return JS_OBJECT;
    case JSON_ARRAY:
        return JS_ARRAY;
    case JSON_STRING:
        return JS_STRING;
    case JSON_INTEGER:
        return JS_INT;
    case JSON_REAL:
        return JS_REAL;
    case JSON_TRUE:
    case JSON_FALSE:
        return JS_BOOL;
    case JSON_NULL:
        break;
    }
    return JS_NULL;
}

const char *js_type_name(enum js_type type)
{
    static const char *const names[] = {"null",     "true or false", "a whole number", "a number",
                                        "a string", "a list",        "an object"};
    return names[type];
}

const struct json *js_get(const struct json *object, const char *key)
{
    return out_of(json_object_get(in(object), key));
}

size_t js_length(const struct json *value)
{
    return json_is_array(in(value)) ? json_array_size(in(value)) : json_object_size(in(value));
}

const struct json *js_at(const struct json *array, size_t index)
{
    return out_of(json_array_get(in(array), index));
}

void *js_first(const struct json *object)
{
    return json_object_iter((json_t *)object);
}

void *js_next(const struct json *object, void *iterator)
{
    return json_object_iter_next((json_t *)object, iterator);
}

const char *js_key(void *iterator)
{
    return json_object_iter_key(iterator);
}

const struct json *js_member(void *iterator)
{
    return out_of(json_object_iter_value(iterator));
}

const char *js_string(const struct json *value, size_t *length)
{
    if (!json_is_string(in(value))) return NULL;
    if (length) *length = json_string_length(in(value));
    return json_string_value(in(value));
}

int64_t js_int(const struct json *value, int64_t otherwise)
{
    return json_is_integer(in(value)) ? (int64_t)json_integer_value(in(value)) : otherwise;
}

double js_real(const struct json *value, double otherwise)
{
    return json_is_number(in(value)) ? json_number_value(in(value)) : otherwise;
}

bool js_bool(const struct json *value, bool otherwise)
{
    return json_is_boolean(in(value)) ? json_is_true(in(value)) : otherwise;
}

static enum status wrong(const struct json *value, const char *key, const char *expected, const char *where)
{
    return value ? FAIL(LORAD_DATA, "%s: \"%s\" should be %s, but is %s", where, key, expected,
                        js_type_name(js_type(value)))
                 : FAIL(LORAD_DATA, "%s: \"%s\" is missing", where, key);
}

enum status js_need(const struct json **out, const struct json *object, const char *key, enum js_type type,
                    const char *where)
{
    const struct json *value = js_get(object, key);
    if (!value || js_type(value) != type) return wrong(value, key, js_type_name(type), where);
    *out = value;
    return LORAD_OK;
}

enum status js_need_string(const char **out, const struct json *object, const char *key, const char *where)
{
    const struct json *value;
    TRY(js_need(&value, object, key, JS_STRING, where));
    *out = js_string(value, NULL);
    return LORAD_OK;
}

enum status js_need_int(int64_t *out, const struct json *object, const char *key, const char *where)
{
    const struct json *value;
    TRY(js_need(&value, object, key, JS_INT, where));
    *out = js_int(value, 0);
    return LORAD_OK;
}

enum status js_need_real(double *out, const struct json *object, const char *key, const char *where)
{
    const struct json *value = js_get(object, key);
    if (!json_is_number(in(value))) return wrong(value, key, "a number", where);
    *out = js_real(value, 0);
    return LORAD_OK;
}

void js_write_value(struct strbuf *out, const struct json *value)
{
    char *text =
        json_dumps(in(value), JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    if (text)
        strbuf_puts(out, text);
    else
        out->failed = true;
    free(text);
}

void js_write_string(struct strbuf *out, const char *text, size_t length)
{
    strbuf_putc(out, '"');
    size_t start = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        strbuf_add(out, text + start, i - start);
        start = i + 1;
        switch (c) {
        case '"':
            strbuf_puts(out, "\\\"");
            break;
        case '\\':
            strbuf_puts(out, "\\\\");
            break;
        case '\n':
            strbuf_puts(out, "\\n");
            break;
        case '\t':
            strbuf_puts(out, "\\t");
            break;
        case '\r':
            strbuf_puts(out, "\\r");
            break;
        default:
            strbuf_printf(out, "\\u%04x", c);
        }
    }
    strbuf_add(out, text + start, length - start);
    strbuf_putc(out, '"');
}

/* The fewest digits from `digits` up that read back; 17 always do for a double and 9 for a float. */
void js_write_double(struct strbuf *out, double value)
{
    if (!isfinite(value)) {
        strbuf_puts(out, "null");
        return;
    }
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    strbuf_puts(out, text);
}

void js_write_float(struct strbuf *out, float value)
{
    if (!isfinite(value)) {
        strbuf_puts(out, "null");
        return;
    }
    char text[40];
    for (int digits = 5; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    strbuf_puts(out, text);
}
