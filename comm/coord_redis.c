/*
 * The outlet of a run into Redis, beside the files which decide. What it adds: a run is known by its name
 * from everywhere, a second start elsewhere is refused at once, and requests, events and metrics reach those
 * who cannot see output_dir. docs/redis.md describes the keys.
 *
 * All of it happens on a thread of its own that makes one exchange of commands a tick. Everybody else leaves
 * notes for that thread or reads what it saw, and waits for no network; only a start asks Redis, for a second
 * at most. Without Redis, training goes on; notes wait in a bounded queue that gives up its oldest.
 *
 * 1. The thread writes to Redis only while it holds the lease, by its own clock: a run that was stopped for a
 *    while renews first.
 * 2. What was sent but not confirmed is sent again after a failure: entries of streams may come twice, with
 * the same number.
 * 3. The lease being new (a first start, a flushed or restarted server) means that nothing else can be
 * trusted to stand there: everything is published again.
 * 4. Whatever stands in Redis can be wrong. A key of another type is dropped; anything else that does not
 * make sense is as good as absent.
 * 5. A run is fenced by a live owner of its own output_dir with a higher epoch, never by anything less.
 */
#include "comm/coord_impl.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "comm/control_message.h"
#include "comm/redis_keys.h"
#include "comm/redis_publish.h"

enum {
    TIMEOUT_MS = 500,
    TICK_MS = 250,
    SURE_MS = REDIS_LEASE_MS - 5000, /* so long after a renewal the lease is ours without asking */
    LIST_MS = 2000,                  /* between two looks at the folder of checkpoints */
    LEAVE_MS = 2000,
    IN_FLIGHT = 64, /* entries in an exchange */
    ROUNDS = 16,    /* exchanges in a tick */
    SEEN = 128,
};
static const int64_t most_epoch = 1000000000; /* what is higher is no epoch of ours */

/* What has to be sent; set again when a server has lost it. */
struct wants {
    bool status, beats, info, list;
};

struct coord_redis {
    struct redis_link *link;
    struct redis_address address;
    struct redis_keys keys;
    struct redis_owner me;
    int renew_ms;
    pthread_t thread;
    bool started;

    pthread_mutex_t lock; /* guards down to the next comment */
    pthread_cond_t wake;
    struct coord *coord; /* NULL: no more requests */
    bool stop, done, hurry;
    bool ending;  /* the thread ends the program by `coord`, which must live so long */
    char *status; /* not collected yet; NULL: nothing new */
    struct redis_beat beat_now;
    bool beat_new;
    struct outbox outbox;
    int64_t numbers[2]; /* of the last event, metric */
    bool up;
    char reason[512], since[32];
    int64_t since_ns;
    bool fenced;
    struct redis_owner other; /* who fenced us, or has our name */

    /* the thread's own */
    struct redis_breaker breaker;
    struct redis_batch batch;
    struct wants wants;
    char *status_sent;
    struct redis_beat beat;
    struct outbox_entry *flying[IN_FLIGHT]; /* [n_flying]: sent, or about to be */
    size_t n_flying;
    bool held;
    int64_t renew_ns, held_until_ns, listed_ns;
    char position[48];                 /* read so far of the control stream; "": not known yet */
    char seen[SEEN][COMMAND_ID_BYTES]; /* the last requests, a ring */
    size_t n_seen;
    char stop_id[COMMAND_ID_BYTES]; /* of a request to end at once; "": none */
};

static void copy_text(char *out, size_t bytes, const char *text)
{
    snprintf(out, bytes, "%s", text ? text : "");
}

/* ---- what Redis is like ---- */

/* Logged when it changes only. `status` is what the last tick came to, its words are recorded. */
static void note_state(struct coord_redis *redis, enum status status)
{
    bool up = status == LORAD_OK;
    pthread_mutex_lock(&redis->lock);
    bool changed = up != redis->up, fenced = redis->fenced;
    double lasted = clock_seconds_since(redis->since_ns);
    int64_t dropped = redis->outbox.dropped;
    redis->up = up;
    copy_text(redis->reason, sizeof redis->reason, up ? "" : status_message());
    if (changed) {
        clock_utc(redis->since);
        redis->since_ns = clock_monotonic_ns();
    }
    pthread_mutex_unlock(&redis->lock);
    redis->wants.status = redis->wants.status || changed; /* it says what Redis is like */
    if (changed && !up && !fenced) log_warn("%s; training goes on without it", status_message());
    if (changed && up)
        log_info(
            "Redis at %s is back after %.0f s: everything is published again (%lld entries of its streams "
            "were dropped so far)",
            redis->address.place, lasted, (long long)dropped);
}

static void redis_describe(struct strbuf *out, void *state)
{
    struct coord_redis *redis = state;
    pthread_mutex_lock(&redis->lock);
    strbuf_puts(out, "{\"server\": ");
    js_write_string(out, redis->address.place, strlen(redis->address.place));
    strbuf_printf(out, ", \"state\": \"%s\", \"since\": \"%s\", \"dropped\": %lld", redis->up ? "up" : "down",
                  redis->since, (long long)redis->outbox.dropped);
    if (!redis->up) {
        strbuf_puts(out, ", \"reason\": ");
        js_write_string(out, redis->reason, strlen(redis->reason));
    }
    strbuf_putc(out, '}');
    pthread_mutex_unlock(&redis->lock);
}

/* What was published last, with what Redis is like: one JSON object. */
static void write_status(struct strbuf *out, struct coord_redis *redis)
{
    size_t length = redis->status_sent ? strlen(redis->status_sent) : 0;
    if (length > 2 && redis->status_sent[length - 1] == '}')
        strbuf_add(out, redis->status_sent, length - 1);
    else
        strbuf_puts(out, "{\"phase\":\"starting\""); /* nothing was published yet */
    strbuf_puts(out, ",\"redis\":");
    redis_describe(out, redis);
    strbuf_putc(out, '}');
}

/* ---- batches ---- */

/* Drops the keys that hold something of another type. true: there were some. */
static bool repair(struct coord_redis *redis)
{
    struct redis_batch drop = REDIS_BATCH_EMPTY;
    for (size_t i = 0; i < redis->batch.n; i++) {
        const char *error = redis_reply_error(redis_batch_reply(&redis->batch, i));
        if (error && strncmp(error, "WRONGTYPE", 9) == 0 && redis->batch.keys[i])
            redis_batch_add(&drop, "DEL %s", redis->batch.keys[i]);
    }
    bool some = drop.n > 0;
    if (some && redis_link_exchange(redis->link, &drop, TIMEOUT_MS) != LORAD_OK)
        log_debug("keys of another type stay in Redis: %s", status_message());
    redis_batch_free(&drop);
    return some;
}

/* LORAD_IO at the first error reply. */
static enum status first_error(const struct coord_redis *redis)
{
    for (size_t i = 0; i < redis->batch.n; i++) {
        const char *error = redis_reply_error(redis_batch_reply(&redis->batch, i));
        if (error) return FAIL(LORAD_IO, "Redis at %s: %.300s", redis->address.place, error);
    }
    return LORAD_OK;
}

static enum status exchange(struct coord_redis *redis)
{
    return redis_link_exchange(redis->link, &redis->batch, TIMEOUT_MS);
}

/* ---- joining ---- */

static bool is_gone(const struct redis_owner *owner, const struct redis_owner *me)
{
    return *me->boot && strcmp(owner->boot, me->boot) == 0 && owner->pid > 0 && owner->pid <= INT32_MAX &&
           kill((pid_t)owner->pid, 0) != 0 && errno == ESRCH;
}

/* Of a live lease: whether it forbids this start. The files decide wherever they can. */
static enum status judge(const struct redis_owner *owner, const struct redis_owner *me, const char *run,
                         const struct coord_options *options)
{
    char words[1024];
    redis_owner_describe(words, sizeof words, owner);
    double ends = (double)owner->ttl_ms / 1000;
    if (!redis_owner_same_folder(owner, me)) {
        if (is_gone(owner, me)) return LORAD_OK;
        return FAIL(
            LORAD_CANNOT_CREATE,
            "the name \"%s\" is taken in Redis by %s; choose another run_name, or another redis_prefix (its "
            "lease ends in %.0f s unless it is renewed)",
            run, words, ends);
    }
    bool same_job = *me->job && strcmp(owner->job, me->job) == 0 && owner->restart < me->restart;
    bool this_host = *me->boot && strcmp(owner->boot, me->boot) == 0; /* the lock knows */
    if (options->takeover || same_job || this_host || coord_file_is_over(options->output_dir, owner->epoch))
        return LORAD_OK;
    return FAIL(
        LORAD_CANNOT_CREATE,
        "output_dir %s is in use by %s, says Redis (its lease ends in %.0f s unless it is renewed); wait for "
        "that run, stop it, or choose another output_dir",
        options->output_dir, words, ends);
}

/* Where reading the control stream begins or goes on. A stream that ends before our position is a new one: it
 * is read from its start, and old or known requests in it are left out. */
static void set_position(struct coord_redis *redis, const struct redis_reply *newest)
{
    const char *last = redis_reply_text(redis_reply_at(redis_reply_at(newest, 0), 0), NULL);
    if (!last || !redis_is_position(last)) last = "0-0";
    if (!*redis->position) {
        copy_text(redis->position, sizeof redis->position, last);
        return;
    }
    const char *position = redis->position;
    int64_t theirs = strtoll(last, NULL, 10), ours = strtoll(position, NULL, 10);
    int64_t their_part = strtoll(strchr(last, '-') + 1, NULL, 10),
            our_part = strtoll(strchr(position, '-') + 1, NULL, 10);
    if (theirs < ours || (theirs == ours && their_part < our_part))
        copy_text(redis->position, sizeof redis->position, "0-0");
}

static void add_newest_request(struct coord_redis *redis)
{
    const char *control = redis->keys.control;
    redis_batch_key(&redis->batch, redis_batch_add(&redis->batch, "XREVRANGE %s + - COUNT 1", control),
                    control);
}

static enum status look(struct coord_redis *redis, const struct coord_options *options, int64_t *at_least)
{
    redis_batch_clear(&redis->batch);
    redis_batch_add(&redis->batch, "HGETALL %s", redis->keys.owner);
    redis_batch_add(&redis->batch, "PTTL %s", redis->keys.owner);
    redis_batch_add(&redis->batch, "GET %s", redis->keys.epoch);
    add_newest_request(redis);
    enum status status = exchange(redis);
    if (status == LORAD_OK && !repair(redis)) status = first_error(redis);
    redis_breaker_note(&redis->breaker, status == LORAD_OK, clock_monotonic_ns());
    note_state(redis, status);
    if (status != LORAD_OK) return LORAD_OK;
    set_position(redis, redis_batch_reply(&redis->batch, 3));
    struct redis_owner owner;
    bool live = redis_owner_read(&owner, redis_batch_reply(&redis->batch, 0),
                                 redis_reply_int(redis_batch_reply(&redis->batch, 1), -1));
    if (live) TRY(judge(&owner, &redis->me, redis->keys.run, options));
    int64_t epoch = redis_reply_int(redis_batch_reply(&redis->batch, 2), 0);
    if (epoch > *at_least && epoch <= most_epoch) *at_least = epoch;
    return LORAD_OK;
}

static void destroy(struct coord_redis *redis)
{
    for (size_t i = 0; i < redis->n_flying; i++) free(redis->flying[i]);
    outbox_clear(&redis->outbox);
    redis_batch_free(&redis->batch);
    redis_link_destroy(redis->link);
    free(redis->status);
    free(redis->status_sent);
    pthread_cond_destroy(&redis->wake);
    pthread_mutex_destroy(&redis->lock);
    free(redis);
}

static enum status redis_look(void **out, const struct coord_options *options, int64_t *at_least)
{
    if (!options->redis_url) return LORAD_OK;
    char run[REDIS_RUN_BYTES];
    struct coord_redis *redis = memory_new(1, sizeof *redis);
    if (!redis) return LORAD_NOMEM;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&redis->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&redis->lock, NULL);
    redis->up = true; /* until it is not */
    clock_utc(redis->since);
    redis->since_ns = clock_monotonic_ns();
    copy_text(redis->beat.phase, sizeof redis->beat.phase, "starting");
    redis->beat_now = redis->beat;
    redis->renew_ms = options->heartbeat_ms > 0 ? options->heartbeat_ms : REDIS_RENEW_MS;
    redis_run_name(run, options->run_name, options->output_dir);
    redis_keys_make(&redis->keys, options->redis_prefix, run);
    enum status status = redis_url_parse(&redis->address, options->redis_url);
    if (status != LORAD_OK) status = status_context(status, "redis_url");
    if (status == LORAD_OK) status = redis_owner_me(&redis->me, options);
    if (status == LORAD_OK) status = redis_link_create(&redis->link, &redis->address);
    if (status == LORAD_OK) status = look(redis, options, at_least);
    if (status != LORAD_OK) {
        destroy(redis);
        return status;
    }
    *out = redis;
    return LORAD_OK;
}

/* ---- the lease ---- */

static enum status others_hold(struct coord_redis *redis, const struct redis_owner *other)
{
    char words[1024];
    bool fenced = redis_owner_same_folder(other, &redis->me) && other->epoch > redis->me.epoch;
    redis->held = false;
    pthread_mutex_lock(&redis->lock);
    redis->other = *other;
    redis->fenced = redis->fenced || fenced;
    pthread_mutex_unlock(&redis->lock);
    redis_owner_describe(words, sizeof words, other);
    return FAIL(LORAD_FENCED, "the name \"%s\" in Redis now belongs to %s", redis->keys.run, words);
}

/* LORAD_FENCED: Redis works, but somebody else holds the lease. */
static enum status renew(struct coord_redis *redis, int64_t now)
{
    struct redis_owner other;
    redis_batch_clear(&redis->batch);
    size_t lease = redis_lease_renew(&redis->batch, &redis->keys, &redis->me);
    add_newest_request(redis);
    TRY(exchange(redis));
    if (!repair(redis)) TRY(first_error(redis));
    switch (redis_lease_read(&other, redis_batch_reply(&redis->batch, lease))) {
    case LEASE_TAKEN:
        redis->wants = (struct wants){true, true, true, true};
        break;
    case LEASE_HELD:
        redis->wants.info = redis->wants.list = true;
        break;
    case LEASE_OTHERS:
        redis->renew_ns = now + (int64_t)redis->renew_ms * 1000000;
        return others_hold(redis, &other);
    case LEASE_UNKNOWN:
        return FAIL(LORAD_IO, "Redis at %s: the answer makes no sense", redis->address.place);
    }
    set_position(redis, redis_batch_reply(&redis->batch, 1));
    redis->held = true;
    redis->renew_ns = now + (int64_t)redis->renew_ms * 1000000;
    redis->held_until_ns = now + (int64_t)SURE_MS * 1000000;
    return LORAD_OK;
}

static enum status redis_check_owner(void *state)
{
    struct coord_redis *redis = state;
    char words[1024];
    pthread_mutex_lock(&redis->lock);
    bool fenced = redis->fenced;
    int64_t epoch = redis->other.epoch;
    redis_owner_describe(words, sizeof words, &redis->other);
    pthread_mutex_unlock(&redis->lock);
    if (!fenced) return LORAD_OK;
    return FAIL(LORAD_FENCED,
                "%s took over, says Redis (its epoch is %lld, ours %lld); this run commits nothing any more",
                words, (long long)epoch, (long long)redis->me.epoch);
}

/* ---- notes for the thread ---- */

static void redis_heartbeat(void *state, int64_t step, const char *phase)
{
    struct coord_redis *redis = state;
    pthread_mutex_lock(&redis->lock);
    redis->beat_now.step = step;
    copy_text(redis->beat_now.phase, sizeof redis->beat_now.phase, phase);
    redis->beat_new = true;
    pthread_mutex_unlock(&redis->lock);
}

static void redis_publish_status(void *state, const char *json)
{
    struct coord_redis *redis = state;
    char *copy = strdup(json), *old;
    if (!copy) return;
    pthread_mutex_lock(&redis->lock);
    old = redis->status;
    redis->status = copy;
    pthread_mutex_unlock(&redis->lock);
    free(old);
}

static void redis_tell(void *state, enum coord_stream stream, const char *json)
{
    struct coord_redis *redis = state;
    pthread_mutex_lock(&redis->lock);
    outbox_put(&redis->outbox, stream == COORD_METRICS ? OUTBOX_METRIC : OUTBOX_EVENT,
               ++redis->numbers[stream], NULL, json, NULL, 0);
    pthread_mutex_unlock(&redis->lock);
}

static void redis_note_commit(void *state, const char *name, int64_t step, const char *record_json,
                              const char *const *receipts_json, int world)
{
    struct coord_redis *redis = state;
    pthread_mutex_lock(&redis->lock);
    outbox_put(&redis->outbox, OUTBOX_COMMIT, step, name, record_json, receipts_json, world);
    pthread_mutex_unlock(&redis->lock);
}

static void put_answer(struct coord_redis *redis, const char *id, enum status status, const char *text,
                       const char *run)
{
    struct strbuf json = STRBUF_EMPTY;
    control_reply_write(&json, id, status, text, run);
    pthread_mutex_lock(&redis->lock);
    if (!json.failed) outbox_put(&redis->outbox, OUTBOX_ANSWER, 0, id, strbuf_text(&json), NULL, 0);
    redis->hurry = true;
    pthread_cond_signal(&redis->wake);
    pthread_mutex_unlock(&redis->lock);
    strbuf_free(&json);
}

/* The channel's answer: any thread. Ids in the inbox have "redis-" before the sender's own. */
static void answer(void *context, const char *id, enum status status, const char *text)
{
    put_answer(context, id + sizeof "redis-" - 1, status, text, NULL);
}

/* ---- publishing ---- */

/* Moves the notes over to the thread. */
static void collect(struct coord_redis *redis)
{
    pthread_mutex_lock(&redis->lock);
    if (redis->status) {
        free(redis->status_sent);
        redis->status_sent = redis->status;
        redis->status = NULL;
        redis->wants.status = true;
    }
    if (redis->beat_new) {
        redis->wants.info = redis->wants.info || strcmp(redis->beat.phase, redis->beat_now.phase) != 0;
        redis->beat = redis->beat_now;
        redis->beat_new = false;
        redis->wants.beats = true;
    }
    while (redis->n_flying < IN_FLIGHT && redis->outbox.n > 0)
        redis->flying[redis->n_flying++] = outbox_take(&redis->outbox);
    pthread_mutex_unlock(&redis->lock);
}

/* ---- requests ---- */

static bool is_known(struct coord_redis *redis, const char *id)
{
    for (size_t i = 0; i < SEEN; i++)
        if (strcmp(redis->seen[i], id) == 0) return true;
    copy_text(redis->seen[redis->n_seen++ % SEEN], COMMAND_ID_BYTES, id);
    return false;
}

/* LORAD_OK: it waits in the inbox. */
static enum status hand_over(struct coord_redis *redis, const struct coord_command *command)
{
    struct coord_command own = *command;
    snprintf(own.id, sizeof own.id, "redis-%.*s", REDIS_ID_LENGTH, command->id);
    pthread_mutex_lock(&redis->lock); /* redis_close_requests takes the run away */
    bool taken =
        redis->coord && inbox_put(coord_inbox(redis->coord), &own, (struct inbox_channel){answer, redis});
    pthread_mutex_unlock(&redis->lock);
    return taken ? LORAD_OK
                 : FAIL(LORAD_CANNOT_CREATE,
                        "the run takes no request now: it is ending, or too many wait already");
}

static void answer_status(struct coord_redis *redis, const char *id)
{
    struct strbuf run = STRBUF_EMPTY;
    write_status(&run, redis);
    put_answer(redis, id, LORAD_OK, "", strbuf_text(&run));
    strbuf_free(&run);
}

static void take_request(struct coord_redis *redis, const struct redis_request *request, int64_t now_ms)
{
    struct coord_command command;
    if (!request->text) return;
    enum status status = control_request_read(&command, request->text, strlen(request->text));
    if (!redis_is_request_id(command.id)) {
        log_debug("a request in %s has no id that can be answered", redis->keys.control);
        return;
    }
    if (is_known(redis, command.id)) return;
    if (status == LORAD_OK && now_ms >= 0 && now_ms - request->sent_ms > (int64_t)REDIS_REQUEST_S * 1000)
        status = FAIL(LORAD_CANNOT_CREATE, "the request came too late and was not done");
    bool is_status = status == LORAD_OK && control_is_status(&command);
    bool is_stop_now = status == LORAD_OK && control_is_stop_now(&command);
    if (is_status)
        answer_status(redis, command.id);
    else if (is_stop_now)
        copy_text(redis->stop_id, sizeof redis->stop_id, command.id);
    else if (status == LORAD_OK)
        status = hand_over(redis, &command);
    if (status != LORAD_OK) put_answer(redis, command.id, status, status_message(), NULL);
}

static void take_requests(struct coord_redis *redis, const struct redis_reply *reply, int64_t now_ms)
{
    struct redis_request request;
    for (size_t i = 0; redis_request_read(&request, reply, i); i++) {
        copy_text(redis->position, sizeof redis->position, request.position);
        take_request(redis, &request, now_ms);
    }
}

/* ---- the thread ---- */

static void land(struct coord_redis *redis)
{
    for (size_t i = 0; i < redis->n_flying; i++) free(redis->flying[i]);
    redis->n_flying = 0;
}

static bool list_is_due(const struct coord_redis *redis, int64_t now)
{
    return redis->wants.list &&
           (redis->listed_ns == 0 || now - redis->listed_ns >= (int64_t)LIST_MS * 1000000);
}

static void add_status(struct coord_redis *redis)
{
    struct strbuf text = STRBUF_EMPTY;
    write_status(&text, redis);
    const char *key = redis->keys.status;
    redis_batch_key(&redis->batch, redis_batch_add(&redis->batch, "SET %s %s", key, strbuf_text(&text)), key);
    strbuf_free(&text);
}

static void add_wanted(struct coord_redis *redis, int64_t now)
{
    struct redis_batch *batch = &redis->batch;
    const struct redis_keys *keys = &redis->keys;
    const struct wants *wants = &redis->wants;
    if (wants->status) add_status(redis);
    if (wants->beats) redis_publish_beat(batch, keys, &redis->beat);
    if (wants->info) redis_publish_info(batch, keys, &redis->me, &redis->beat);
    for (size_t i = 0; i < redis->n_flying; i++) {
        redis_publish_entry(batch, keys, redis->flying[i]);
        if (redis->flying[i]->kind == OUTBOX_COMMIT) redis->wants.list = true;
    }
    if (list_is_due(redis, now)) redis_publish_list(batch, keys, redis->me.output_dir);
}

/* One exchange with all that is new, and a look for requests. */
static enum status publish(struct coord_redis *redis, int64_t now)
{
    redis_batch_clear(&redis->batch);
    add_wanted(redis, now);
    bool listed = list_is_due(redis, now);
    size_t clock = redis_batch_add(&redis->batch, "TIME");
    size_t requests =
        redis_batch_add(&redis->batch, "XREAD COUNT 16 STREAMS %s %s", redis->keys.control, redis->position);
    redis_batch_key(&redis->batch, requests, redis->keys.control);
    TRY(exchange(redis));
    if (repair(redis)) return LORAD_OK; /* it is all sent again in the next tick */
    TRY(first_error(redis));
    land(redis);
    redis->wants = (struct wants){.list = redis->wants.list && !listed};
    if (listed) redis->listed_ns = now;
    take_requests(redis, redis_batch_reply(&redis->batch, requests),
                  redis_time_ms(redis_batch_reply(&redis->batch, clock)));
    return LORAD_OK;
}

/* Again and again while many entries wait, but not for ever. */
static enum status publish_all(struct coord_redis *redis, int64_t now)
{
    bool full = true;
    for (int i = 0; full && i < ROUNDS; i++) {
        collect(redis);
        full = redis->n_flying == IN_FLIGHT;
        TRY(publish(redis, now));
    }
    return LORAD_OK;
}

static void tick(struct coord_redis *redis)
{
    int64_t now = clock_monotonic_ns();
    if (!redis_breaker_allows(&redis->breaker, now)) return;
    enum status status = LORAD_OK;
    if (now >= redis->renew_ns || now >= redis->held_until_ns) status = renew(redis, now);
    if (status == LORAD_OK && redis->held) {
        status = publish_all(redis, now);
    } else if (status == LORAD_OK) {
        return; /* still somebody else's */
    }
    bool reached = status == LORAD_OK || status == LORAD_FENCED;
    if (!reached) {
        redis_link_close(redis->link);
        redis->renew_ns = 0; /* first thing when it is back */
    }
    redis_breaker_note(&redis->breaker, reached, clock_monotonic_ns());
    note_state(redis, status);
}

/* The end of a run: what is left, the last word, the lease. */
static void farewell(struct coord_redis *redis)
{
    int64_t start = clock_monotonic_ns();
    if (!redis->held || start >= redis->held_until_ns || !redis_breaker_allows(&redis->breaker, start))
        return;
    enum status status = LORAD_OK;
    do {
        collect(redis);
        if (redis->n_flying == 0 && !redis->wants.status) break;
        status = publish(redis, start);
    } while (status == LORAD_OK && clock_seconds_since(start) < 1);
    if (status != LORAD_OK) return;
    redis_batch_clear(&redis->batch);
    copy_text(redis->beat.phase, sizeof redis->beat.phase, "ended");
    redis_publish_beat(&redis->batch, &redis->keys, &redis->beat);
    redis_publish_info(&redis->batch, &redis->keys, &redis->me, &redis->beat);
    redis_publish_list(&redis->batch, &redis->keys, redis->me.output_dir);
    redis_lease_release(&redis->batch, &redis->keys, &redis->me);
    redis->held = false;
    if (exchange(redis) != LORAD_OK) log_debug("%s", status_message());
}

static bool takes_requests(struct coord_redis *redis)
{
    pthread_mutex_lock(&redis->lock);
    bool takes = redis->coord != NULL;
    pthread_mutex_unlock(&redis->lock);
    return takes;
}

/* `stop --now`: answers, gives the lease back, and ends all ranks, unless the run leaves meanwhile. */
static void stop_now(struct coord_redis *redis)
{
    if (!takes_requests(redis)) return; /* it is ending anyway */
    put_answer(redis, redis->stop_id, LORAD_OK, "ended at once, nothing was saved; exit code 80", NULL);
    *redis->stop_id = '\0';
    farewell(redis);
    pthread_mutex_lock(&redis->lock);
    struct coord *coord = redis->coord;
    redis->ending = coord != NULL;
    pthread_mutex_unlock(&redis->lock);
    if (coord) coord_stop_now(coord);
}

static void *run_mirror(void *argument)
{
    struct coord_redis *redis = argument;
    pthread_mutex_lock(&redis->lock);
    while (!redis->stop) {
        pthread_mutex_unlock(&redis->lock);
        tick(redis);
        if (*redis->stop_id) stop_now(redis);
        pthread_mutex_lock(&redis->lock);
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        int64_t ns = until.tv_nsec + (int64_t)TICK_MS * 1000000;
        until.tv_sec += ns / 1000000000;
        until.tv_nsec = ns % 1000000000;
        while (!redis->stop && !redis->hurry &&
               pthread_cond_timedwait(&redis->wake, &redis->lock, &until) == 0)
            continue;
        redis->hurry = false;
    }
    pthread_mutex_unlock(&redis->lock);
    farewell(redis);
    pthread_mutex_lock(&redis->lock);
    redis->done = true;
    pthread_cond_broadcast(&redis->wake);
    pthread_mutex_unlock(&redis->lock);
    return NULL;
}

static enum status redis_start(void *state, struct coord *coord)
{
    struct coord_redis *redis = state;
    redis->me.epoch = coord_epoch(coord);
    redis->coord = coord;
    redis->wants = (struct wants){true, true, true, true};
    int code = thread_start(&redis->thread, run_mirror, redis);
    if (code != 0)
        return FAIL(LORAD_NOMEM, "cannot start the thread that talks to Redis: %s", strerror(code));
    redis->started = true;
    return LORAD_OK;
}

static void redis_close_requests(void *state)
{
    struct coord_redis *redis = state;
    pthread_mutex_lock(&redis->lock);
    redis->coord = NULL;
    while (redis->ending) pthread_cond_wait(&redis->wake, &redis->lock); /* until the program ends */
    pthread_mutex_unlock(&redis->lock);
}

static void redis_leave(void *state)
{
    struct coord_redis *redis = state;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += LEAVE_MS / 1000;
    pthread_mutex_lock(&redis->lock);
    redis->stop = true;
    pthread_cond_broadcast(&redis->wake);
    while (redis->started && !redis->done && pthread_cond_timedwait(&redis->wake, &redis->lock, &until) == 0)
        continue;
    bool done = redis->done || !redis->started;
    pthread_mutex_unlock(&redis->lock);
    if (!done) { /* it hangs in the lookup of a name: it keeps its memory, and ends with the program */
        pthread_detach(redis->thread);
        return;
    }
    if (redis->started) pthread_join(redis->thread, NULL);
    destroy(redis);
}

const struct coord_outlet coord_redis_outlet = {
    .kind = "redis",
    .look = redis_look,
    .start = redis_start,
    .close_requests = redis_close_requests,
    .leave = redis_leave,
    .check_owner = redis_check_owner,
    .heartbeat = redis_heartbeat,
    .publish_status = redis_publish_status,
    .tell = redis_tell,
    .note_commit = redis_note_commit,
    .describe = redis_describe,
};
