/*
 * json.h: JSON values to read and text to write (prefix js_, since jansson owns json_). The owner of jansson.h is json.c.
 *
 * Reading is strict: duplicate keys, invalid UTF-8, NUL in strings, and text behind the value are refused with line and
 * column. A `const struct json *` is borrowed from its document. Getters with `where` fail with LORAD_DATA, naming
 * `where` (a file) and the key; plain ones return NULL or a default.
 * Writing appends to a strbuf; numbers are written so that they read back to the same bits.
 */
#ifndef LORAD_BASE_JSON_H
#define LORAD_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"

struct json;

enum js_type { JS_NULL, JS_BOOL, JS_INT, JS_REAL, JS_STRING, JS_ARRAY, JS_OBJECT };

/* `name` is what messages call the text (a path, or "file.jsonl:12"). Owns: *out, freed with js_destroy. */
enum status js_parse(struct json **out, const char *text, size_t length, const char *name) LORAD_WARN_UNUSED;
/* Reads and parses a file of at most max_bytes. LORAD_NOT_FOUND, LORAD_IO, LORAD_DATA. */
enum status js_read_file(struct json **out, const char *path, size_t max_bytes) LORAD_WARN_UNUSED;
void js_destroy(struct json *document);

enum js_type js_type(const struct json *value);
const char *js_type_name(enum js_type type);

/* Members and elements; NULL when absent or when the value is not an object or array. */
const struct json *js_get(const struct json *object, const char *key);
size_t js_length(const struct json *array_or_object);
const struct json *js_at(const struct json *array, size_t index);

/* Iterates an object in file order: void *it = js_first(o); it; it = js_next(o, it). */
void *js_first(const struct json *object);
void *js_next(const struct json *object, void *iterator);
const char *js_key(void *iterator);
const struct json *js_member(void *iterator);

/* Values; with the wrong type: NULL, the default. js_string is NUL-terminated UTF-8; *length may be NULL. */
const char *js_string(const struct json *value, size_t *length);
int64_t js_int(const struct json *value, int64_t otherwise);
double js_real(const struct json *value, double otherwise); /* integers too */
bool js_bool(const struct json *value, bool otherwise);

/* Required members. */
enum status js_need_string(const char **out, const struct json *object, const char *key, const char *where)
    LORAD_WARN_UNUSED;
enum status js_need_int(int64_t *out, const struct json *object, const char *key, const char *where)
    LORAD_WARN_UNUSED;
enum status js_need_real(double *out, const struct json *object, const char *key, const char *where)
    LORAD_WARN_UNUSED;
enum status js_need(const struct json **out, const struct json *object, const char *key, enum js_type type,
                      const char *where) LORAD_WARN_UNUSED;

/* The value as compact JSON text, keys sorted. */
void js_write_value(struct strbuf *out, const struct json *value);

/* Writers: a quoted, escaped string; the shortest decimal of a double (or float) that reads back to the same bits, NaN
 * and infinities as null. */
void js_write_string(struct strbuf *out, const char *text, size_t length);
void js_write_double(struct strbuf *out, double value);
void js_write_float(struct strbuf *out, float value);

#endif
