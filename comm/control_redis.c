/* The way to a running job through Redis: requests go into its control stream, each answer comes in a list of
 * its own (redis_keys.h). What a run last published is read without asking it. */
#include "comm/control_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/memory.h"
#include "comm/control_message.h"
#include "comm/control_redis.h"

enum { PENDING = 64, SLICE_MS = 1000 };

struct pending {
    char ours[COMMAND_ID_BYTES], theirs[COMMAND_ID_BYTES]; /* ours: "": free */
};

struct caller {
    struct redis_link *link;
    struct redis_keys keys;
    char secret[20]; /* makes our ids differ from those of others */
    int n_sent;
    struct pending pending[PENDING];
    struct control_reply ready; /* the status that was asked for */
    bool has_ready;
};

static bool redis_fits(const struct control_target *target)
{
    return target->redis_url && (target->run_name || target->output_dir);
}

static void redis_close(void *state)
{
    struct caller *caller = state;
    control_reply_free(&caller->ready);
    redis_link_destroy(caller->link);
    free(caller);
}

enum status control_redis_need_live(struct redis_link *link, const struct redis_keys *keys)
{
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    redis_batch_add(&batch, "PTTL %s", keys->owner);
    redis_batch_add(&batch, "HGETALL %s", keys->info);
    enum status status = redis_link_exchange(link, &batch, CONTROL_REDIS_MS);
    const struct redis_reply *info = redis_batch_reply(&batch, 1);
    const char *error = redis_reply_error(redis_batch_reply(&batch, 0));
    const char *state = redis_reply_text(redis_reply_get(info, "state"), NULL);
    const char *host = redis_reply_text(redis_reply_get(info, "host"), NULL);
    const char *time = redis_reply_text(redis_reply_get(info, "time"), NULL);
    if (status == LORAD_OK && error) status = FAIL(LORAD_IO, "Redis: %.300s", error);
    if (status != LORAD_OK || redis_reply_int(redis_batch_reply(&batch, 0), -1) > 0) {
        redis_batch_free(&batch);
        return status;
    }
    if (!state || !host || !time)
        status = FAIL(LORAD_NOT_FOUND,
                      "Redis knows no run \"%s\"; `lorad status --redis-url URL` lists those that it knows",
                      keys->run);
    else
        status =
            FAIL(LORAD_NOT_FOUND, "the run \"%s\" on host %.100s is not running: it %s (step %lld, %.40s)",
                 keys->run, host, strcmp(state, "ended") == 0 ? "ended" : "has given no sign of life",
                 (long long)redis_reply_int(redis_reply_get(info, "step"), 0), time);
    redis_batch_free(&batch);
    return status;
}

enum status control_redis_link(struct redis_link **out, const struct control_target *target)
{
    struct redis_address address;
    enum status status = redis_url_parse(&address, target->redis_url);
    if (status != LORAD_OK) return status_context(status, "the URL of Redis");
    if (target->redis_prefix && redis_prefix_check(target->redis_prefix) != LORAD_OK)
        return status_context(LORAD_CONFIG, "redis_prefix");
    return redis_link_create(out, &address);
}

static enum status redis_open(void **out, const struct control_target *target)
{
    char run[REDIS_RUN_BYTES];
    uint64_t secret;
    struct caller *caller = memory_new(1, sizeof *caller);
    if (!caller) return LORAD_NOMEM;
    redis_run_name(run, target->run_name, target->output_dir);
    redis_keys_make(&caller->keys, target->redis_prefix, run);
    enum status status = control_redis_link(&caller->link, target);
    if (status == LORAD_OK && getrandom(&secret, sizeof secret, 0) != (ssize_t)sizeof secret)
        status = FAIL(LORAD_BUG, "no random numbers");
    if (status == LORAD_OK) {
        snprintf(caller->secret, sizeof caller->secret, "%016llx", (unsigned long long)secret);
        status = control_redis_need_live(caller->link, &caller->keys);
    }
    if (status != LORAD_OK) {
        redis_close(caller);
        return status;
    }
    *out = caller;
    return LORAD_OK;
}

/* One command; its reply belongs to the batch. An error reply is a failure. */
static enum status ask_one(struct caller *caller, struct redis_batch *batch, int timeout_ms)
{
    TRY(redis_link_exchange(caller->link, batch, timeout_ms));
    const char *error = redis_reply_error(redis_batch_reply(batch, 0));
    return error ? FAIL(LORAD_IO, "Redis: %.300s", error) : LORAD_OK;
}

/* What the run published last is the answer. */
static enum status read_status(struct caller *caller, const struct coord_command *request)
{
    TRY(control_redis_need_live(caller->link, &caller->keys));
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    struct strbuf text = STRBUF_EMPTY;
    redis_batch_add(&batch, "GET %s", caller->keys.status);
    enum status status = ask_one(caller, &batch, CONTROL_REDIS_MS);
    const char *run = status == LORAD_OK ? redis_reply_text(redis_batch_reply(&batch, 0), NULL) : NULL;
    if (status == LORAD_OK) control_reply_write(&text, request->id, LORAD_OK, "", run ? run : "{}");
    if (status == LORAD_OK) status = strbuf_status(&text);
    control_reply_free(&caller->ready);
    if (status == LORAD_OK) status = control_reply_read(&caller->ready, text.data, text.length);
    caller->has_ready = status == LORAD_OK;
    strbuf_free(&text);
    redis_batch_free(&batch);
    return status;
}

static enum status redis_send(void *state, const struct coord_command *request)
{
    struct caller *caller = state;
    if (control_is_status(request)) return read_status(caller, request);
    struct pending *pending = caller->pending;
    while (pending < caller->pending + PENDING && *pending->ours) pending++;
    if (pending == caller->pending + PENDING)
        return FAIL(LORAD_USAGE, "more than %d requests at once", PENDING);
    struct coord_command own = *request;
    struct strbuf text = STRBUF_EMPTY;
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    snprintf(own.id, sizeof own.id, "%s-%d", caller->secret, ++caller->n_sent);
    control_request_write(&text, &own);
    redis_batch_add(&batch, "XADD %s MAXLEN ~ %d * request %s", caller->keys.control, REDIS_REQUESTS,
                    strbuf_text(&text));
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) status = ask_one(caller, &batch, CONTROL_REDIS_MS);
    if (status == LORAD_OK) {
        memcpy(pending->ours, own.id, sizeof pending->ours);
        memcpy(pending->theirs, request->id, sizeof pending->theirs);
    }
    strbuf_free(&text);
    redis_batch_free(&batch);
    return status;
}

/* Waits in Redis for the first answer to any request, timeout_ms at most. */
static enum status wait_for_answer(struct caller *caller, struct redis_batch *batch, int timeout_ms)
{
    char keys[PENDING][REDIS_KEY_BYTES + COMMAND_ID_BYTES], timeout[32];
    const char *words[PENDING + 2] = {"BLPOP"};
    size_t n = 1;
    for (int i = 0; i < PENDING; i++) {
        if (!*caller->pending[i].ours) continue;
        snprintf(keys[i], sizeof keys[i], "%s%s", caller->keys.reply, caller->pending[i].ours);
        words[n++] = keys[i];
    }
    if (n == 1) return FAIL(LORAD_BUG, "nothing was asked");
    snprintf(timeout, sizeof timeout, "%.3f",
             timeout_ms < 1 ? 0.001 : (double)timeout_ms / 1000); /* 0 is for ever */
    words[n++] = timeout;
    redis_batch_add_words(batch, n, words);
    return ask_one(caller, batch, timeout_ms + CONTROL_REDIS_MS);
}

/* *got false: the reply is to none of our requests. */
static enum status take_answer(struct caller *caller, struct control_reply *out,
                               const struct redis_reply *reply, bool *got)
{
    size_t length;
    const char *text = redis_reply_text(redis_reply_at(reply, 1), &length);
    if (!text) return FAIL(LORAD_DATA, "the answer in Redis makes no sense");
    TRY(control_reply_read(out, text, length));
    for (int i = 0; i < PENDING; i++) {
        struct pending *pending = &caller->pending[i];
        if (!*pending->ours || strcmp(pending->ours, out->id) != 0) continue;
        memcpy(out->id, pending->theirs, sizeof out->id);
        *pending = (struct pending){0};
        *got = true;
        return LORAD_OK;
    }
    control_reply_free(out);
    return LORAD_OK;
}

/* A slice at a time, and a look at the lease between: a run that was killed answers nothing any more. */
static enum status redis_receive(void *state, struct control_reply *out, int timeout_ms, bool *got)
{
    struct caller *caller = state;
    *got = caller->has_ready;
    if (*got) {
        *out = caller->ready;
        caller->ready = (struct control_reply){.status = LORAD_OK};
        caller->has_ready = false;
    }
    for (int left_ms = timeout_ms; !*got;) {
        struct redis_batch batch = REDIS_BATCH_EMPTY;
        int slice_ms = left_ms < SLICE_MS ? left_ms : SLICE_MS;
        enum status status = wait_for_answer(caller, &batch, slice_ms);
        bool came = status == LORAD_OK && redis_reply_length(redis_batch_reply(&batch, 0)) > 0;
        if (came) status = take_answer(caller, out, redis_batch_reply(&batch, 0), got);
        redis_batch_free(&batch);
        TRY(status);
        if (came) continue;
        if (control_redis_need_live(caller->link, &caller->keys) == LORAD_NOT_FOUND)
            return status_context(LORAD_PEER_LOST, "no answer comes any more");
        left_ms -= slice_ms;
        if (left_ms <= 0) break;
    }
    return LORAD_OK;
}

const struct control_ops control_redis_ops = {
    .kind = "Redis",
    .fits = redis_fits,
    .open = redis_open,
    .close = redis_close,
    .send = redis_send,
    .receive = redis_receive,
};
