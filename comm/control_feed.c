/* What stands in Redis of all runs, and the two streams of one as a single sequence. */
#include "comm/control_redis.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { MOST_RUNS = 1000, RUNS_AT_ONCE = REDIS_BATCH_COMMANDS / 2, MOST_PAST = 4000, AT_ONCE = 200 };

/* ---- the runs ---- */

static void copy_printable(char *out, size_t bytes, const char *text)
{
    snprintf(out, bytes, "%s", text ? text : "");
    for (char *at = out; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f) *at = '?';
}

static void copy_field(char *out, size_t bytes, const struct redis_reply *fields, const char *key)
{
    copy_printable(out, bytes, redis_reply_text(redis_reply_get(fields, key), NULL));
}

static void read_run(struct control_run *out, const char *name, const struct redis_reply *info,
                     int64_t ttl_ms)
{
    *out = (struct control_run){.alive = ttl_ms > 0};
    copy_printable(out->name, sizeof out->name, name);
    copy_field(out->output_dir, sizeof out->output_dir, info, "output_dir");
    copy_field(out->host, sizeof out->host, info, "host");
    copy_field(out->state, sizeof out->state, info, "state");
    copy_field(out->since, sizeof out->since, info, "since");
    copy_field(out->time, sizeof out->time, info, "time");
    out->pid = redis_reply_int(redis_reply_get(info, "pid"), 0);
    out->step = redis_reply_int(redis_reply_get(info, "step"), 0);
    out->epoch = redis_reply_int(redis_reply_get(info, "epoch"), 0);
}

/* The runs [first, first + RUNS_AT_ONCE) of `names`. */
static enum status read_runs(struct control_run *runs, size_t *n, struct redis_link *link, const char *prefix,
                             const struct redis_reply *names, size_t first)
{
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    struct redis_keys keys;
    size_t end = redis_reply_length(names);
    if (end > first + RUNS_AT_ONCE) end = first + RUNS_AT_ONCE;
    for (size_t i = first; i < end; i++) {
        const char *name = redis_reply_text(redis_reply_at(names, i), NULL);
        redis_keys_make(&keys, prefix, name ? name : "");
        redis_batch_add(&batch, "HGETALL %s", keys.info);
        redis_batch_add(&batch, "PTTL %s", keys.owner);
    }
    enum status status = redis_link_exchange(link, &batch, CONTROL_REDIS_MS);
    for (size_t i = first; i < end && status == LORAD_OK; i++) {
        const struct redis_reply *info = redis_batch_reply(&batch, 2 * (i - first));
        const char *name = redis_reply_text(redis_reply_at(names, i), NULL);
        if (!name || redis_reply_length(info) == 0) continue;
        read_run(&runs[(*n)++], name, info,
                 redis_reply_int(redis_batch_reply(&batch, 2 * (i - first) + 1), -1));
    }
    redis_batch_free(&batch);
    return status;
}

static enum status one_error(const struct redis_batch *batch)
{
    for (size_t i = 0; i < batch->n; i++) {
        const char *error = redis_reply_error(redis_batch_reply(batch, i));
        if (error) return FAIL(LORAD_IO, "Redis: %.300s", error);
    }
    return LORAD_OK;
}

enum status control_list(struct control_run **out, size_t *n, const struct control_target *target)
{
    struct redis_link *link;
    struct redis_keys keys;
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    size_t found = 0;
    struct control_run *runs = memory_new(MOST_RUNS, sizeof *runs);
    if (!runs) return LORAD_NOMEM;
    redis_keys_make(&keys, target->redis_prefix, "");
    redis_batch_add(&batch, "ZREVRANGE %s 0 %d", keys.runs, MOST_RUNS - 1);
    enum status status = control_redis_link(&link, target);
    if (status != LORAD_OK) link = NULL;
    if (status == LORAD_OK) status = redis_link_exchange(link, &batch, CONTROL_REDIS_MS);
    if (status == LORAD_OK) status = one_error(&batch);
    const struct redis_reply *names = redis_batch_reply(&batch, 0);
    size_t most = redis_reply_length(names) < MOST_RUNS ? redis_reply_length(names) : MOST_RUNS;
    for (size_t i = 0; i < most && status == LORAD_OK; i += RUNS_AT_ONCE)
        status = read_runs(runs, &found, link, target->redis_prefix, names, i);
    redis_batch_free(&batch);
    redis_link_destroy(link);
    if (status != LORAD_OK) {
        free(runs);
        return status;
    }
    *out = runs;
    *n = found;
    return LORAD_OK;
}

/* ---- the streams of a run ---- */

struct position {
    int64_t ms, part;
};

struct line {
    struct position at;
    const char *json; /* borrowed from the batch */
};

struct control_feed {
    struct redis_link *link;
    struct redis_keys keys;
    struct redis_batch batch; /* holds the lines */
    struct line *lines;       /* [n_lines] in order, from `next` on not given out yet */
    size_t n_lines, capacity, next;
    char after[2][48]; /* of events, metrics: the last entry that was read */
};

void control_feed_close(struct control_feed *feed)
{
    if (!feed) return;
    redis_batch_free(&feed->batch);
    redis_link_destroy(feed->link);
    free(feed->lines);
    free(feed);
}

static int compare_lines(const void *a, const void *b)
{
    const struct position *x = &((const struct line *)a)->at, *y = &((const struct line *)b)->at;
    if (x->ms != y->ms) return x->ms < y->ms ? -1 : 1;
    return x->part < y->part ? -1 : x->part > y->part;
}

/* Takes the entries of a stream, [[id, [field, value, ...]], ...] in any order. */
static enum status take_entries(struct control_feed *feed, int stream, const struct redis_reply *entries)
{
    struct line newest = {.at = {-1, -1}};
    for (size_t i = 0; i < redis_reply_length(entries); i++) {
        const struct redis_reply *entry = redis_reply_at(entries, i);
        const char *id = redis_reply_text(redis_reply_at(entry, 0), NULL);
        const char *json = redis_reply_text(redis_reply_get(redis_reply_at(entry, 1), "json"), NULL);
        if (!id || !redis_is_position(id)) continue;
        struct line line = {{strtoll(id, NULL, 10), strtoll(strchr(id, '-') + 1, NULL, 10)}, json};
        if (compare_lines(&line, &newest) > 0) {
            newest = line;
            snprintf(feed->after[stream], sizeof feed->after[stream], "%s", id);
        }
        if (!json) continue;
        TRY(memory_grow((void **)&feed->lines, &feed->capacity, feed->n_lines + 1, sizeof *feed->lines));
        feed->lines[feed->n_lines++] = line;
    }
    return LORAD_OK;
}

static void forget_lines(struct control_feed *feed)
{
    redis_batch_clear(&feed->batch);
    feed->n_lines = feed->next = 0;
}

static enum status read_past(struct control_feed *feed, int64_t past)
{
    int64_t most = past < 0 || past > MOST_PAST ? MOST_PAST : past;
    const char *streams[] = {feed->keys.events, feed->keys.metrics};
    for (int i = 0; i < 2; i++) {
        snprintf(feed->after[i], sizeof feed->after[i], "0-0");
        redis_batch_add(&feed->batch, "XREVRANGE %s + - COUNT %lld", streams[i],
                        (long long)(most > 0 ? most : 1));
    }
    TRY(redis_link_exchange(feed->link, &feed->batch, CONTROL_REDIS_MS));
    TRY(one_error(&feed->batch));
    for (int i = 0; i < 2; i++) TRY(take_entries(feed, i, redis_batch_reply(&feed->batch, (size_t)i)));
    if (feed->n_lines > 0) qsort(feed->lines, feed->n_lines, sizeof *feed->lines, compare_lines);
    if ((int64_t)feed->n_lines > most) feed->next = feed->n_lines - (size_t)most;
    return feed->n_lines > 0 ? LORAD_OK : control_redis_need_live(feed->link, &feed->keys);
}

enum status control_feed_open(struct control_feed **out, const struct control_target *target, int64_t past)
{
    char run[REDIS_RUN_BYTES];
    struct control_feed *feed = memory_new(1, sizeof *feed);
    if (!feed) return LORAD_NOMEM;
    redis_run_name(run, target->run_name, target->output_dir);
    redis_keys_make(&feed->keys, target->redis_prefix, run);
    enum status status = control_redis_link(&feed->link, target);
    if (status == LORAD_OK) status = read_past(feed, past);
    if (status != LORAD_OK) {
        control_feed_close(feed);
        return status;
    }
    *out = feed;
    return LORAD_OK;
}

/* [[stream, entries], ...] of those that have new ones. */
static enum status read_on(struct control_feed *feed, int timeout_ms)
{
    forget_lines(feed);
    redis_batch_add(&feed->batch, "XREAD COUNT %d BLOCK %d STREAMS %s %s %s %s", AT_ONCE, timeout_ms,
                    feed->keys.events, feed->keys.metrics, feed->after[0], feed->after[1]);
    TRY(redis_link_exchange(feed->link, &feed->batch, timeout_ms + CONTROL_REDIS_MS));
    TRY(one_error(&feed->batch));
    const struct redis_reply *reply = redis_batch_reply(&feed->batch, 0);
    for (size_t i = 0; i < redis_reply_length(reply); i++) {
        const char *stream = redis_reply_text(redis_reply_at(redis_reply_at(reply, i), 0), NULL);
        if (!stream) continue;
        bool metrics = strcmp(stream, feed->keys.metrics) == 0;
        TRY(take_entries(feed, metrics, redis_reply_at(redis_reply_at(reply, i), 1)));
    }
    if (feed->n_lines > 0) qsort(feed->lines, feed->n_lines, sizeof *feed->lines, compare_lines);
    return LORAD_OK;
}

enum status control_feed_next(struct control_feed *feed, const char **json, int timeout_ms)
{
    if (feed->next == feed->n_lines && timeout_ms > 0) {
        /* asked before reading, so that the last lines are not missed */
        enum status live = control_redis_need_live(feed->link, &feed->keys);
        if (live != LORAD_OK && live != LORAD_NOT_FOUND) return live;
        TRY(read_on(feed, live == LORAD_OK ? timeout_ms : 1));
        if (live == LORAD_NOT_FOUND && feed->n_lines == 0)
            return control_redis_need_live(feed->link, &feed->keys);
    }
    *json = feed->next < feed->n_lines ? feed->lines[feed->next++].json : NULL;
    return LORAD_OK;
}
