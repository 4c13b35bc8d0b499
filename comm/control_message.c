#include "comm/control_message.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

static const int64_t most_step = (int64_t)1000000000000000;

/* ---- requests ---- */

static void add_text(struct strbuf *out, const char *key, const char *value)
{
    if (!*value) return;
    strbuf_printf(out, ",\"%s\":", key);
    js_write_string(out, value, strlen(value));
}

void control_request_write(struct strbuf *out, const struct coord_command *request)
{
    strbuf_puts(out, "{\"verb\":");
    js_write_string(out, request->verb, strlen(request->verb));
    add_text(out, "key", request->key);
    add_text(out, "value", request->value);
    add_text(out, "id", request->id);
    if (request->at_step > 0) strbuf_printf(out, ",\"at_step\":%lld", (long long)request->at_step);
    strbuf_putc(out, '}');
}

/* A string, or a number's text, of fewer than `bytes` bytes and without control characters, since it is
 * shown to people. */
static enum status copy_member(char *out, size_t bytes, const char *key, const struct json *value)
{
    struct strbuf number = STRBUF_EMPTY;
    const char *text = js_string(value, NULL);
    if (!text && (js_type(value) == JS_INT || js_type(value) == JS_REAL)) {
        js_write_value(&number, value);
        text = strbuf_text(&number);
    }
    size_t length = text ? strlen(text) : bytes;
    enum status status = LORAD_OK;
    if (!text)
        status = FAIL(LORAD_USAGE, "\"%s\" of a request must be a text", key);
    else if (length >= bytes)
        status = FAIL(LORAD_USAGE, "\"%s\" of a request is longer than %zu bytes", key, bytes - 1);
    for (size_t i = 0; status == LORAD_OK && i < length; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 127)
            status = FAIL(LORAD_USAGE, "\"%s\" of a request holds a control character", key);
    if (status == LORAD_OK) memcpy(out, text, length + 1);
    strbuf_free(&number);
    return status;
}

static enum status read_member(struct coord_command *out, const char *key, const struct json *value)
{
    if (strcmp(key, "verb") == 0) return copy_member(out->verb, sizeof out->verb, key, value);
    if (strcmp(key, "key") == 0) return copy_member(out->key, sizeof out->key, key, value);
    if (strcmp(key, "value") == 0) return copy_member(out->value, sizeof out->value, key, value);
    if (strcmp(key, "id") == 0) return copy_member(out->id, sizeof out->id, key, value);
    if (strcmp(key, "at_step") != 0)
        return FAIL(LORAD_USAGE, "a request has no \"%.40s\"; it has verb, key, value, at_step and id", key);
    out->at_step = js_int(value, -1);
    if (out->at_step < 0 || out->at_step > most_step)
        return FAIL(LORAD_USAGE, "at_step must be the number of a step");
    return LORAD_OK;
}

/* What goes with which verb. */
static enum status check_request(const struct coord_command *request)
{
    static const char *const verbs[] = {"status", "pause", "resume", "checkpoint", "stop", "set"};
    size_t i = 0, n = sizeof verbs / sizeof *verbs;
    while (i < n && strcmp(verbs[i], request->verb) != 0) i++;
    if (i == n)
        return FAIL(LORAD_USAGE,
                    "\"%s\" is no verb for a running job; there are status, pause, resume, checkpoint, stop "
                    "and set",
                    request->verb);
    bool sets = strcmp(request->verb, "set") == 0, now = control_is_stop_now(request);
    if (sets && (!*request->key || !*request->value)) return FAIL(LORAD_USAGE, "set needs a key and a value");
    if (!sets && *request->key) return FAIL(LORAD_USAGE, "%s takes no key", request->verb);
    if (!sets && *request->value && !now)
        return FAIL(LORAD_USAGE, "%s takes no value; stop may have \"now\"", request->verb);
    bool at_once = now || control_is_status(request) || strcmp(request->verb, "resume") == 0;
    if (at_once && request->at_step > 0)
        return FAIL(LORAD_USAGE, "%s%s takes effect at once, not at a step", request->verb,
                    now ? " --now" : "");
    return LORAD_OK;
}

enum status control_request_read(struct coord_command *out, const char *text, size_t length)
{
    struct json *json = NULL;
    struct coord_command request = {.at_step = 0};
    *out = request;
    if (length > CONTROL_REQUEST_BYTES)
        return FAIL(LORAD_USAGE, "a request is longer than %d bytes", CONTROL_REQUEST_BYTES);
    if (js_parse(&json, text, length, "the request") != LORAD_OK)
        return FAIL(LORAD_USAGE, "a request is one JSON object on a line: %s", status_message());
    enum status status =
        js_type(json) == JS_OBJECT ? LORAD_OK : FAIL(LORAD_USAGE, "a request is a JSON object");
    /* the id first: a refusal is answered to it */
    if (status == LORAD_OK && js_get(json, "id")) status = read_member(&request, "id", js_get(json, "id"));
    memcpy(out->id, request.id, sizeof out->id);
    void *it = status == LORAD_OK ? js_first(json) : NULL;
    for (; it && status == LORAD_OK; it = js_next(json, it))
        status = read_member(&request, js_key(it), js_member(it));
    if (status == LORAD_OK) status = check_request(&request);
    js_destroy(json);
    if (status == LORAD_OK) *out = request;
    return status;
}

bool control_is_status(const struct coord_command *request)
{
    return strcmp(request->verb, "status") == 0;
}

bool control_is_stop_now(const struct coord_command *request)
{
    return strcmp(request->verb, "stop") == 0 && strcmp(request->value, "now") == 0;
}

/* ---- replies ---- */

void control_reply_write(struct strbuf *out, const char *id, enum status status, const char *text,
                         const char *run)
{
    strbuf_puts(out, "{\"id\":");
    js_write_string(out, id, strlen(id));
    strbuf_printf(out, ",\"status\":\"%s\",\"text\":", status_name(status));
    js_write_string(out, text, strlen(text));
    if (run) strbuf_printf(out, ",\"run\":%s", run);
    strbuf_putc(out, '}');
}

static enum status status_of_name(const char *name)
{
    for (int code = LORAD_OK; code <= LORAD_STOPPED; code++)
        if (strcmp(status_name((enum status)code), name) == 0) return (enum status)code;
    return LORAD_BUG;
}

static enum status read_run(char **out, const struct json *run)
{
    struct strbuf text = STRBUF_EMPTY;
    js_write_value(&text, run);
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) *out = memory_string(strbuf_text(&text));
    strbuf_free(&text);
    return status == LORAD_OK && !*out ? LORAD_NOMEM : status;
}

enum status control_reply_read(struct control_reply *out, const char *text, size_t length)
{
    static const char where[] = "the run's reply";
    struct json *json = NULL;
    struct control_reply reply = {.status = LORAD_OK};
    const char *id, *name, *words;
    struct strbuf shown = STRBUF_EMPTY;
    TRY(js_parse(&json, text, length, where));
    enum status status = js_need_string(&id, json, "id", where);
    if (status == LORAD_OK) status = js_need_string(&name, json, "status", where);
    if (status == LORAD_OK) status = js_need_string(&words, json, "text", where);
    if (status == LORAD_OK) {
        snprintf(reply.id, sizeof reply.id, "%s", id);
        reply.status = status_of_name(name);
        strbuf_put_shown(&shown, words);
        reply.text = shown.failed ? NULL : memory_string(strbuf_text(&shown));
        strbuf_free(&shown);
        status = reply.text ? LORAD_OK : FAIL(LORAD_NOMEM, "out of memory");
    }
    const struct json *run = js_get(json, "run");
    if (status == LORAD_OK && run && js_type(run) != JS_OBJECT)
        status = FAIL(LORAD_DATA, "%s: \"run\" is no object", where);
    if (status == LORAD_OK && run) status = read_run(&reply.run, run);
    js_destroy(json);
    if (status != LORAD_OK) {
        control_reply_free(&reply);
        return status;
    }
    *out = reply;
    return LORAD_OK;
}
