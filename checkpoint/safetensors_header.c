/*
 * safetensors_header.c: the header of a safetensors file, from untrusted bytes to checked tensors.
 *
 * The header has a fixed shape, so it is scanned directly instead of through a general JSON tree: 100 MB of
 * "[{},{},..." would cost a tree a hundred times its size in memory, and a header of 300 tensors parses in a
 * tenth of a millisecond.
 *
 * Invariants:
 * 1. Memory is bounded by ST_MAX_TENSORS and ST_MAX_METADATA entries besides the text; nothing recurses.
 * 2. Strings are unescaped in place: the result is never longer than its source, and the closing quote
 * becomes the NUL.
 * 3. A header that is accepted covers its data exactly: sorted by offset, tensors touch, from 0 to
 * data_bytes.
 */
#include "checkpoint/safetensors_header.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[ST_DTYPES] = {
    [ST_F64] = {"F64", 8},   [ST_F32] = {"F32", 4},         [ST_F16] = {"F16", 2},
    [ST_BF16] = {"BF16", 2}, [ST_I64] = {"I64", 8},         [ST_I32] = {"I32", 4},
    [ST_I16] = {"I16", 2},   [ST_I8] = {"I8", 1},           [ST_U64] = {"U64", 8},
    [ST_U32] = {"U32", 4},   [ST_U16] = {"U16", 2},         [ST_U8] = {"U8", 1},
    [ST_BOOL] = {"BOOL", 1}, [ST_F8_E4M3] = {"F8_E4M3", 1}, [ST_F8_E5M2] = {"F8_E5M2", 1},
};

size_t st_dtype_bytes(enum st_dtype dtype)
{
    return dtypes[dtype].bytes;
}

const char *st_dtype_name(enum st_dtype dtype)
{
    return dtypes[dtype].name;
}

bool st_dtype_find(enum st_dtype *out, const char *name)
{
    for (int i = 0; i < ST_DTYPES; i++) {
        if (strcmp(name, dtypes[i].name) != 0) continue;
        *out = (enum st_dtype)i;
        return true;
    }
    return false;
}

struct scan {
    char *start, *at, *end;
    const char *where;
    bool metadata_seen;
};

static enum status bad(const struct scan *scan, const char *what)
{
    return FAIL(LORAD_DATA, "%s: the header is damaged at byte %zu: %s", scan->where,
                (size_t)(scan->at - scan->start) + 8, what);
}

static void skip_space(struct scan *scan)
{
    while (scan->at < scan->end &&
           (*scan->at == ' ' || *scan->at == '\n' || *scan->at == '\t' || *scan->at == '\r'))
        scan->at++;
}

/* Takes `c` after white space; false when something else stands there. */
static bool take(struct scan *scan, char c)
{
    skip_space(scan);
    if (scan->at >= scan->end || *scan->at != c) return false;
    scan->at++;
    return true;
}

static int hex4(const char *at, const char *end)
{
    int value = 0;
    if (end - at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

static char *put_utf8(char *to, int code)
{
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xC0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *to++ = (char)(0xE0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    } else {
        *to++ = (char)(0xF0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3F));
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    }
    return to;
}

/* Length of the UTF-8 sequence at `at`, 0 when it is not valid (overlong forms, surrogates and > U+10FFFF are
 * not). */
static int utf8_length(const char *at, const char *end)
{
    unsigned char c = (unsigned char)*at;
    if (c < 0x80) return 1;
    int n = c >= 0xC2 && c <= 0xDF ? 2 : c >= 0xE0 && c <= 0xEF ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
    if (!n || end - at < n) return 0;
    for (int i = 1; i < n; i++)
        if (((unsigned char)at[i] & 0xC0) != 0x80) return 0;
    unsigned char d = (unsigned char)at[1];
    if ((c == 0xE0 && d < 0xA0) || (c == 0xED && d > 0x9F) || (c == 0xF0 && d < 0x90) ||
        (c == 0xF4 && d > 0x8F))
        return 0;
    return n;
}

/* One escape behind its backslash; NULL when it is not valid. */
static char *unescape(struct scan *scan, char *to)
{
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (scan->at >= scan->end) return NULL;
    char c = *scan->at++;
    if (c != 'u') {
        const char *found = c ? strchr(letters, c) : NULL;
        if (!found) return NULL;
        *to = values[found - letters];
        return to + 1;
    }
    int code = hex4(scan->at, scan->end);
    if (code <= 0 || (code >= 0xDC00 && code < 0xE000)) return NULL; /* NUL would end the C string */
    scan->at += 4;
    if (code >= 0xD800 && code < 0xDC00) {
        if (scan->end - scan->at < 6 || scan->at[0] != '\\' || scan->at[1] != 'u') return NULL;
        int low = hex4(scan->at + 2, scan->end);
        if (low < 0xDC00 || low >= 0xE000) return NULL;
        scan->at += 6;
        code = 0x10000 + ((code - 0xD800) << 10 | (low - 0xDC00));
    }
    return put_utf8(to, code);
}

static enum status take_string(struct scan *scan, const char **out)
{
    if (!take(scan, '"')) return bad(scan, "a string is expected");
    char *text = scan->at, *to = text;
    while (scan->at < scan->end && *scan->at != '"') {
        unsigned char c = (unsigned char)*scan->at;
        if (c < 0x20) return bad(scan, "a control character in a string");
        if (c == '\\') {
            scan->at++;
            if (!(to = unescape(scan, to))) return bad(scan, "a wrong escape in a string");
            continue;
        }
        int n = utf8_length(scan->at, scan->end);
        if (!n) return bad(scan, "a string is not valid UTF-8");
        while (n--) *to++ = *scan->at++;
    }
    if (scan->at >= scan->end) return bad(scan, "a string does not end");
    scan->at++;
    *to = '\0';
    *out = text;
    return LORAD_OK;
}

static bool is_printable(const char *name)
{
    for (; *name; name++)
        if ((unsigned char)*name < 0x20 || *name == 0x7F) return false;
    return true;
}

/* A whole number from 0 to 2^63 - 1, without sign, fraction, exponent or leading zero. */
static enum status take_count(struct scan *scan, int64_t *out)
{
    skip_space(scan);
    const char *first = scan->at;
    int64_t value = 0;
    while (scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9') {
        if (__builtin_mul_overflow(value, (int64_t)10, &value) ||
            __builtin_add_overflow(value, (int64_t)(*scan->at - '0'), &value))
            return bad(scan, "a number is too large");
        scan->at++;
    }
    if (scan->at == first) return bad(scan, "a whole number is expected");
    if (*first == '0' && scan->at - first > 1) return bad(scan, "a number starts with 0");
    *out = value;
    return LORAD_OK;
}

/* "[a, b, ...]" of at most `max` numbers. */
static enum status take_counts(struct scan *scan, int64_t *values, int max, int *n)
{
    *n = 0;
    if (!take(scan, '[')) return bad(scan, "a list is expected");
    if (take(scan, ']')) return LORAD_OK;
    do {
        if (*n == max) return bad(scan, "a list is too long");
        TRY(take_count(scan, &values[(*n)++]));
    } while (take(scan, ','));
    return take(scan, ']') ? LORAD_OK : bad(scan, "a list does not end");
}

static enum status take_key(struct scan *scan, const char **key)
{
    TRY(take_string(scan, key));
    return take(scan, ':') ? LORAD_OK : bad(scan, "':' is expected");
}

static enum status take_dtype(struct scan *scan, struct st_tensor *tensor)
{
    const char *name;
    TRY(take_string(scan, &name));
    if (st_dtype_find(&tensor->dtype, name)) return LORAD_OK;
    return FAIL(LORAD_DATA, "%s: tensor %.200s has dtype %.40s, which lorad does not know", scan->where,
                tensor->name, name);
}

/* shape x dtype without overflow, against the offsets. */
static enum status check_size(const struct scan *scan, struct st_tensor *tensor, int64_t begin, int64_t end)
{
    int64_t bytes = (int64_t)dtypes[tensor->dtype].bytes;
    for (int i = 0; i < tensor->n_dims; i++)
        if (__builtin_mul_overflow(bytes, tensor->shape[i], &bytes))
            return FAIL(LORAD_DATA, "%s: the shape of tensor %.200s is too large", scan->where, tensor->name);
    if (begin > end || end - begin != bytes)
        return FAIL(LORAD_DATA,
                    "%s: tensor %.200s needs %lld bytes by its shape, but its data_offsets [%lld, %lld] say "
                    "otherwise",
                    scan->where, tensor->name, (long long)bytes, (long long)begin, (long long)end);
    tensor->offset_bytes = begin;
    tensor->size_bytes = bytes;
    return LORAD_OK;
}

/* {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, keys in any order, no others. */
static enum status take_tensor(struct scan *scan, struct st_tensor *tensor)
{
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4, ALL = 7 };
    int seen = 0, n_offsets = 0, n_dims = 0;
    int64_t offsets[2] = {0, 0};
    if (!take(scan, '{')) return bad(scan, "a tensor's description is expected");
    do {
        const char *key;
        TRY(take_key(scan, &key));
        int field = !strcmp(key, "dtype")          ? DTYPE
                    : !strcmp(key, "shape")        ? SHAPE
                    : !strcmp(key, "data_offsets") ? OFFSETS
                                                   : 0;
        if (!field || (seen & field))
            return FAIL(LORAD_DATA, "%s: tensor %.200s has %s field \"%.40s\"", scan->where, tensor->name,
                        field ? "twice the" : "an unknown", key);
        seen |= field;
        if (field == DTYPE) TRY(take_dtype(scan, tensor));
        if (field == SHAPE) TRY(take_counts(scan, tensor->shape, ST_MAX_DIMS, &n_dims));
        if (field == OFFSETS) TRY(take_counts(scan, offsets, 2, &n_offsets));
    } while (take(scan, ','));
    if (!take(scan, '}')) return bad(scan, "a tensor's description does not end");
    if (seen != ALL || n_offsets != 2)
        return FAIL(LORAD_DATA, "%s: tensor %.200s lacks dtype, shape or two data_offsets", scan->where,
                    tensor->name);
    tensor->n_dims = n_dims;
    return check_size(scan, tensor, offsets[0], offsets[1]);
}

static enum status take_metadata(struct scan *scan, struct st_header *header)
{
    size_t capacity = 0;
    if (scan->metadata_seen) return bad(scan, "__metadata__ is there twice");
    scan->metadata_seen = true;
    if (!take(scan, '{')) return bad(scan, "__metadata__ is not an object");
    if (take(scan, '}')) return LORAD_OK;
    do {
        if (header->n_pairs == ST_MAX_METADATA) return bad(scan, "__metadata__ has too many entries");
        void *block = header->pairs;
        TRY(memory_grow(&block, &capacity, header->n_pairs + 1, sizeof *header->pairs));
        header->pairs = block;
        struct st_pair pair;
        TRY(take_key(scan, &pair.key));
        TRY(take_string(scan, &pair.value));
        header->pairs[header->n_pairs++] = pair;
    } while (take(scan, ','));
    return take(scan, '}') ? LORAD_OK : bad(scan, "__metadata__ does not end");
}

static enum status take_entries(struct scan *scan, struct st_header *header)
{
    size_t capacity = 0;
    do {
        const char *key;
        TRY(take_key(scan, &key));
        if (!strcmp(key, "__metadata__")) {
            TRY(take_metadata(scan, header));
            continue;
        }
        if (!is_printable(key)) return bad(scan, "a control character in a tensor's name");
        if (header->n_tensors == ST_MAX_TENSORS)
            return FAIL(LORAD_DATA, "%s: more than %d tensors", scan->where, ST_MAX_TENSORS);
        void *block = header->tensors;
        TRY(memory_grow(&block, &capacity, header->n_tensors + 1, sizeof *header->tensors));
        header->tensors = block;
        struct st_tensor *tensor = &header->tensors[header->n_tensors];
        memset(tensor, 0, sizeof *tensor);
        tensor->name = key;
        TRY(take_tensor(scan, tensor));
        header->n_tensors++;
    } while (take(scan, ','));
    return LORAD_OK;
}

static int by_offset(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    if (x->offset_bytes != y->offset_bytes) return x->offset_bytes < y->offset_bytes ? -1 : 1;
    if (x->size_bytes != y->size_bytes) return x->size_bytes < y->size_bytes ? -1 : 1; /* empty ones first */
    return strcmp(x->name, y->name);
}

static enum status check_cover(struct st_header *header, const char *where)
{
    int64_t end = 0;
    if (header->n_tensors) qsort(header->tensors, header->n_tensors, sizeof *header->tensors, by_offset);
    for (size_t i = 0; i < header->n_tensors; i++) {
        const struct st_tensor *tensor = &header->tensors[i];
        if (tensor->offset_bytes != end)
            return FAIL(LORAD_DATA,
                        "%s: tensor %.200s starts at byte %lld of the data, which leaves %s before it (%lld)",
                        where, tensor->name, (long long)tensor->offset_bytes,
                        tensor->offset_bytes > end ? "a hole" : "an overlap with the tensor", (long long)end);
        end += tensor->size_bytes; /* cannot overflow: equals data_offsets[1] */
    }
    header->data_bytes = end;
    return LORAD_OK;
}

enum status st_header_parse(struct st_header *out, char *text, size_t length, const char *where)
{
    struct st_header header = {0};
    struct scan scan = {text, text, text + length, where, false};
    if (length > ST_MAX_HEADER_BYTES)
        return FAIL(LORAD_DATA, "%s: the header has %zu bytes; at most %d are accepted", where, length,
                    ST_MAX_HEADER_BYTES);
    if (length == 0 || *text != '{')
        return FAIL(LORAD_DATA, "%s: this is not a safetensors file (its header does not start with '{')",
                    where);

    scan.at++;
    enum status status = LORAD_OK;
    if (!take(&scan, '}')) {
        status = take_entries(&scan, &header);
        if (status == LORAD_OK && !take(&scan, '}')) status = bad(&scan, "',' or '}' is expected");
    }
    skip_space(&scan);
    if (status == LORAD_OK && scan.at != scan.end) status = bad(&scan, "text behind the header's end");
    if (status == LORAD_OK) status = check_cover(&header, where);
    if (status != LORAD_OK) {
        st_header_free(&header);
        return status;
    }
    *out = header;
    return LORAD_OK;
}

void st_header_free(struct st_header *header)
{
    free(header->tensors);
    free(header->pairs);
    *header = (struct st_header){0};
}
