/* A run's outlet into Redis, with a real redis-server of its own. */
#include "support/test.h"

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "comm/control.h"
#include "comm/coord_impl.h"
#include "comm/redis_keys.h"
#include "support/redis_server.h"

static struct redis_server server;
static struct redis_link *observer;

static const char *new_folder(void)
{
    static char path[512];
    static int n;
    snprintf(path, sizeof path, "%s/out%d", test_tmpdir(), n++);
    assert_ok(file_make_dirs(path));
    return path;
}

static int start_server(void **state)
{
    (void)state;
    struct redis_address address;
    const char *folder = test_tmpdir();
    redis_server_start(&server, folder, NULL);
    assert_ok(redis_url_parse(&address, server.url));
    assert_ok(redis_link_create(&observer, &address));
    return 0;
}

static int end_server(void **state)
{
    (void)state;
    redis_link_destroy(observer);
    redis_server_kill(&server);
    return 0;
}

/* The reply to one command, owned by the batch. */
#define ask(batch, ...) (redis_batch_clear(batch), redis_batch_add((batch), __VA_ARGS__), asked(batch))
static const struct redis_reply *asked(struct redis_batch *batch)
{
    enum status status = redis_link_exchange(observer, batch, 2000);
    if (status != LORAD_OK) assert_ok(redis_link_exchange(observer, batch, 2000)); /* it was restarted */
    return redis_batch_reply(batch, 0);
}

/* Until the condition holds, ten seconds at most. */
#define until(condition)                                                                                     \
    do {                                                                                                     \
        int64_t until_start_ = clock_monotonic_ns();                                                         \
        while (!(condition)) {                                                                               \
            if (clock_seconds_since(until_start_) > 10) fail_msg("never came true: %s", #condition);         \
            clock_sleep_ms(10);                                                                              \
        }                                                                                                    \
    } while (0)

static bool exists(const char *key)
{
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    bool there = redis_reply_int(ask(&batch, "EXISTS %s", key), 0) == 1;
    redis_batch_free(&batch);
    return there;
}

static bool holds(const char *key, const char *words)
{
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    const char *text = redis_reply_text(ask(&batch, "GET %s", key), NULL);
    bool same = text && strstr(text, words);
    redis_batch_free(&batch);
    return same;
}

static bool field_holds(const char *key, const char *field, const char *words)
{
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    const char *text = redis_reply_text(ask(&batch, "HGET %s %s", key, field), NULL);
    bool same = text && strstr(text, words);
    redis_batch_free(&batch);
    return same;
}

static int64_t length_of(const char *stream)
{
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    int64_t n = redis_reply_int(ask(&batch, "XLEN %s", stream), -1);
    redis_batch_free(&batch);
    return n;
}

static void run_command(const char *command, const char *key)
{
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    const char *error = redis_reply_error(ask(&batch, command, key));
    if (error) fail_msg("%s: %s", command, error);
    redis_batch_free(&batch);
}

static struct coord_options options_of(const char *folder, const char *name)
{
    return (struct coord_options){
        .output_dir = folder, .run_name = name, .heartbeat_ms = 200, .redis_url = server.url};
}

static bool is_up(struct coord *coord)
{
    struct strbuf text = STRBUF_EMPTY;
    coord_write_status(&text, coord);
    bool up = strstr(strbuf_text(&text), "\"state\": \"up\"");
    strbuf_free(&text);
    return up;
}

/* ---- telling ---- */

static void make_checkpoint(const char *folder, const char *name, bool committed)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/ckpt/%s", folder, name);
    assert_ok(file_make_dirs(path));
    if (!committed) return;
    snprintf(path, sizeof path, "%s/ckpt/%s/MANIFEST.json", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
}

static void tell_all(struct coord *coord)
{
    static const char *const receipts[] = {"{\"rank\": 0}", "{\"rank\": 1}"};
    coord_heartbeat(coord, 12, "training");
    coord_publish_status(coord, "{\"step\": 12}");
    coord_tell(coord, COORD_EVENTS, "{\"event\": \"one\"}");
    coord_tell(coord, COORD_EVENTS, "{\"event\": \"two words\"}");
    coord_tell(coord, COORD_METRICS, "{\"loss\": 1.5}");
    coord_note_commit(coord, "s0000000010.e0000000001.a0", 10, "{\"step\": 10}", receipts, 2);
}

static void what_a_run_tells_stands_in_redis(void **state)
{
    (void)state;
    struct coord *coord;
    struct redis_keys keys;
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    char folder[512], commit[512];
    snprintf(folder, sizeof folder, "%s", new_folder());
    make_checkpoint(folder, "s0000000010.e0000000001.a0", true);
    make_checkpoint(folder, "s0000000012.e0000000001.a0", false);
    struct coord_options options = options_of(folder, "told");
    redis_keys_make(&keys, NULL, "told");
    assert_ok(coord_join(&coord, &options, 0));
    tell_all(coord);
    until(holds(keys.status, "\"step\": 12,"));
    until(field_holds(keys.beats, "0", "\"step\": 12"));
    until(length_of(keys.events) == 2 && length_of(keys.metrics) == 1);
    assert_true(field_holds(keys.owner, "epoch", "1"));
    assert_true(holds(keys.epoch, "1"));
    assert_true(field_holds(keys.info, "state", "training"));
    assert_true(field_holds(keys.info, "output_dir", folder));
    const struct redis_reply *entries = ask(&batch, "XRANGE %s - +", keys.events);
    const struct redis_reply *second = redis_reply_at(redis_reply_at(entries, 1), 1);
    assert_string_equal(redis_reply_text(redis_reply_get(second, "json"), NULL),
                        "{\"event\": \"two words\"}");
    assert_int_equal(redis_reply_int(redis_reply_get(second, "n"), 0), 2);
    snprintf(commit, sizeof commit, "%ss0000000010.e0000000001.a0", keys.checkpoint);
    assert_true(field_holds(commit, "commit", "{\"step\": 10}"));
    assert_true(field_holds(commit, "1", "{\"rank\": 1}"));
    int64_t left = redis_reply_int(ask(&batch, "TTL %s", commit), -1);
    assert_in_range(left, 86000, 86400);
    assert_int_equal(redis_reply_int(ask(&batch, "ZCARD %s", keys.checkpoints), -1), 1);
    assert_int_equal(
        redis_reply_int(ask(&batch, "ZSCORE %s %s", keys.checkpoints, "s0000000010.e0000000001.a0"), -1), 10);
    left = redis_reply_int(ask(&batch, "PTTL %s", keys.owner), -1);
    assert_in_range(left, 20000, REDIS_LEASE_MS);
    assert_true(redis_reply_int(ask(&batch, "ZSCORE %s %s", keys.runs, "told"), -1) > 1000000000);
    int64_t start = clock_monotonic_ns();
    coord_tell(coord, COORD_EVENTS, "{\"event\": \"last\"}");
    coord_leave(coord);
    assert_true(clock_seconds_since(start) < 2);
    assert_false(exists(keys.owner));
    assert_int_equal(length_of(keys.events), 3);
    assert_true(field_holds(keys.info, "state", "ended"));
    redis_batch_free(&batch);
}

static void streams_are_bounded(void **state)
{
    (void)state;
    struct coord *coord;
    struct redis_keys keys;
    struct coord_options options = options_of(new_folder(), "bounded");
    redis_keys_make(&keys, NULL, "bounded");
    assert_ok(coord_join(&coord, &options, 0));
    for (int i = 0; i < 2500; i++) {
        coord_tell(coord, COORD_EVENTS, "{}");
        if (i % 500 == 499) clock_sleep_ms(300); /* so that few are dropped here */
    }
    coord_leave(coord);
    assert_in_range(length_of(keys.events), 500, REDIS_EVENTS + 200);
}

/* ---- who owns ---- */

static void a_name_belongs_to_one_folder(void **state)
{
    (void)state;
    struct coord *first, *second;
    char folder[512];
    snprintf(folder, sizeof folder, "%s", new_folder());
    struct coord_options one = options_of(folder, "name"), two = options_of(new_folder(), "name");
    struct redis_keys keys;
    redis_keys_make(&keys, NULL, "name");
    assert_ok(coord_join(&first, &one, 0));
    until(exists(keys.owner));
    int64_t start = clock_monotonic_ns();
    assert_fails(coord_join(&second, &two, 0), LORAD_CANNOT_CREATE,
                 "the name \"name\" is taken in Redis by a run on host");
    assert_non_null(strstr(status_message(), folder));
    assert_true(clock_seconds_since(start) < 2);
    two.redis_prefix = "other";
    assert_ok(coord_join(&second, &two, 0));
    coord_leave(second);
    two.redis_prefix = NULL;
    coord_leave(first);
    assert_ok(coord_join(&second, &two, 0));
    coord_leave(second);
}

/* An owner of `folder`, as a run elsewhere would write it. */
static void put_owner(const struct redis_keys *keys, const struct coord_options *options, int64_t epoch,
                      const char *boot)
{
    struct redis_owner owner;
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    assert_ok(redis_owner_me(&owner, options));
    owner.epoch = epoch;
    snprintf(owner.boot, sizeof owner.boot, "%s", boot);
    snprintf(owner.host, sizeof owner.host, "elsewhere");
    redis_batch_add(&batch, "DEL %s", keys->owner);
    redis_lease_renew(&batch, keys, &owner);
    assert_ok(redis_link_exchange(observer, &batch, 2000));
    assert_int_equal(redis_lease_read(&owner, redis_batch_reply(&batch, 1)), LEASE_TAKEN);
    redis_batch_free(&batch);
}

static void a_live_run_elsewhere_is_told_of_at_once(void **state)
{
    (void)state;
    struct coord *coord;
    struct redis_keys keys;
    struct coord_options options = options_of(new_folder(), "elsewhere");
    redis_keys_make(&keys, NULL, "elsewhere");
    put_owner(&keys, &options, 3, "another boot");
    int64_t start = clock_monotonic_ns();
    assert_fails(coord_join(&coord, &options, 0), LORAD_CANNOT_CREATE, "in use by a run on host elsewhere");
    assert_true(clock_seconds_since(start) < 2);
    options.takeover = true;
    assert_ok(coord_join(&coord, &options, 0));
    assert_int_equal(coord_epoch(coord), 4); /* above what Redis has seen */
    coord_leave(coord);
    options.takeover = false;

    /* The files know better: a later epoch exists, so that lease is old. */
    put_owner(&keys, &options, 3, "another boot");
    assert_ok(coord_join(&coord, &options, 0));
    assert_int_equal(coord_epoch(coord), 5);
    until(field_holds(keys.owner, "epoch", "5"));
    coord_leave(coord);
}

/* A run that was killed on this host can be started again at once, though its lease goes on. */
static void the_lock_decides_on_this_host(void **state)
{
    (void)state;
    struct coord *coord;
    struct redis_keys keys;
    struct redis_owner me;
    struct coord_options options = options_of(new_folder(), "killed");
    redis_keys_make(&keys, NULL, "killed");
    assert_ok(redis_owner_me(&me, &options));
    put_owner(&keys, &options, 9, me.boot);
    assert_ok(coord_join(&coord, &options, 0));
    assert_int_equal(coord_epoch(coord), 10);
    until(field_holds(keys.owner, "epoch", "10"));
    coord_leave(coord);
}

static void a_later_owner_fences(void **state)
{
    (void)state;
    struct coord *coord;
    struct redis_keys keys;
    struct coord_options options = options_of(new_folder(), "fenced");
    redis_keys_make(&keys, NULL, "fenced");
    assert_ok(coord_join(&coord, &options, 0));
    until(exists(keys.owner));
    run_command("SET %s 99", keys.epoch); /* a number alone fences nobody: nobody lives there */
    clock_sleep_ms(600);
    assert_ok(coord_check_owner(coord));
    put_owner(&keys, &options, 7, "another boot");
    until(coord_check_owner(coord) == LORAD_FENCED);
    assert_non_null(strstr(status_message(), "elsewhere"));
    coord_leave(coord);
    assert_true(field_holds(keys.owner, "host", "elsewhere")); /* what is not ours stays */
}

static void another_folder_never_fences(void **state)
{
    (void)state;
    struct coord *coord;
    struct redis_keys keys;
    struct coord_options options = options_of(new_folder(), "displaced");
    redis_keys_make(&keys, NULL, "displaced");
    assert_ok(coord_join(&coord, &options, 0));
    until(exists(keys.owner));
    struct coord_options other = options_of(new_folder(), "displaced");
    put_owner(&keys, &other, 50, "another boot");
    until(!is_up(coord));
    assert_ok(coord_check_owner(coord));
    run_command("DEL %s", keys.owner);
    until(is_up(coord));
    coord_leave(coord);
}

/* ---- hearing ---- */

static void send_request(const struct redis_keys *keys, const char *json)
{
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    assert_null(redis_reply_error(ask(&batch, "XADD %s * request %s", keys->control, json)));
    redis_batch_free(&batch);
}

static void requests_are_heard_and_answered(void **state)
{
    (void)state;
    struct coord *coord;
    struct coord_command command;
    struct redis_keys keys;
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    char reply[512];
    struct coord_options options = options_of(new_folder(), "heard");
    redis_keys_make(&keys, NULL, "heard");
    send_request(&keys, "{\"id\": \"old\", \"verb\": \"stop\"}"); /* before the start: not for this run */
    assert_ok(coord_join(&coord, &options, 0));
    until(exists(keys.owner));
    send_request(&keys,
                 "{\"id\": \"a-1\", \"verb\": \"set\", \"key\": \"learning_rate\", \"value\": \"1e-4\"}");
    send_request(&keys,
                 "{\"id\": \"a-1\", \"verb\": \"set\", \"key\": \"learning_rate\", \"value\": \"1e-4\"}");
    send_request(&keys, "no JSON");
    send_request(&keys, "{\"id\": \"no good\", \"verb\": \"stop\"}");
    run_command("XADD %s * something else", keys.control);
    send_request(&keys, "{\"id\": \"a-2\", \"verb\": \"pause\"}");
    until(coord_commands_waiting(coord) == 2);
    assert_true(coord_take_command(coord, &command));
    assert_string_equal(command.id, "redis-a-1");
    assert_string_equal(command.verb, "set");
    assert_string_equal(command.key, "learning_rate");
    assert_string_equal(command.value, "1e-4");
    coord_answer(coord, &command, LORAD_OK, "done at step 7");
    snprintf(reply, sizeof reply, "%sa-1", keys.reply);
    until(exists(reply));
    const char *text = redis_reply_text(ask(&batch, "LPOP %s", reply), NULL);
    assert_non_null(text);
    assert_non_null(strstr(text, "done at step 7"));
    assert_true(coord_take_command(coord, &command));
    assert_string_equal(command.id, "redis-a-2");
    snprintf(reply, sizeof reply, "%sa-2", keys.reply);
    coord_leave(coord); /* who was not answered is told so */
    assert_true(exists(reply));
    int64_t left = redis_reply_int(ask(&batch, "TTL %s", reply), -1);
    assert_in_range(left, 1, REDIS_REPLY_S);
    redis_batch_free(&batch);
}

/* The run's side of a test with a caller: answers what comes, until the inbox was empty for a while. */
static void *answer_two(void *argument)
{
    struct coord *coord = argument;
    struct coord_command command;
    for (int n = 0; n < 2;) {
        if (coord_take_command(coord, &command)) {
            n++;
            coord_answer(coord, &command, n == 1 ? LORAD_OK : LORAD_USAGE, command.verb);
        }
        clock_sleep_ms(5);
    }
    return NULL;
}

static void a_run_is_asked_by_its_name(void **state)
{
    (void)state;
    struct coord *coord;
    struct control *control;
    struct control_reply reply;
    pthread_t run;
    bool got;
    struct coord_options options = options_of(new_folder(), "asked");
    struct control_target target = {.run_name = "asked", .redis_url = server.url};
    assert_fails(control_open(&control, &target), LORAD_NOT_FOUND, "Redis knows no run \"asked\"");
    assert_ok(coord_join(&coord, &options, 0));
    coord_publish_status(coord, "{\"step\":7}");
    struct redis_keys keys;
    redis_keys_make(&keys, NULL, "asked");
    until(holds(keys.status, "\"step\":7"));
    assert_ok(control_open(&control, &target));
    assert_ok(control_send(control, &(struct coord_command){.id = "1", .verb = "status"}));
    assert_ok(control_receive(control, &reply, 1000, &got));
    assert_true(got);
    assert_string_equal(reply.id, "1");
    assert_non_null(strstr(reply.run, "\"step\":7"));
    assert_non_null(strstr(reply.run, "\"state\":\"up\""));
    control_reply_free(&reply);

    assert_ok(control_send(control, &(struct coord_command){.id = "2", .verb = "pause"}));
    assert_ok(control_send(control, &(struct coord_command){.id = "3", .verb = "resume"}));
    assert_ok(control_receive(control, &reply, 300, &got));
    assert_false(got); /* nobody is at a boundary */
    assert_int_equal(pthread_create(&run, NULL, answer_two, coord), 0);
    for (int i = 0; i < 2; i++) {
        assert_ok(control_receive(control, &reply, 5000, &got));
        assert_true(got);
        assert_string_equal(reply.text, reply.id[0] == '2' ? "pause" : "resume");
        assert_int_equal(reply.status, reply.id[0] == '2' ? LORAD_OK : LORAD_USAGE);
        control_reply_free(&reply);
    }
    pthread_join(run, NULL);
    assert_ok(control_send(control, &(struct coord_command){.id = "4", .verb = "set", .key = "k"}));
    assert_ok(control_receive(control, &reply, 5000, &got));
    assert_true(got);
    assert_int_equal(reply.status, LORAD_USAGE); /* refused by the run at once */
    control_reply_free(&reply);
    assert_ok(control_send(control, &(struct coord_command){.id = "5", .verb = "pause"}));
    until(coord_commands_waiting(coord) == 1);
    coord_leave(coord);
    assert_ok(control_receive(control, &reply, 5000, &got));
    assert_int_equal(reply.status, LORAD_NOT_FOUND);
    control_reply_free(&reply);
    assert_ok(control_send(control, &(struct coord_command){.id = "6", .verb = "pause"}));
    assert_fails(control_receive(control, &reply, 5000, &got), LORAD_PEER_LOST, "it ended");
    control_close(control);
    assert_fails(control_open(&control, &target), LORAD_NOT_FOUND, "is not running: it ended");
}

static const struct control_run *find_in(const struct control_run *runs, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(runs[i].name, name) == 0) return &runs[i];
    return NULL;
}

/* Whether the run is listed at that step; then *runs is the list. */
static bool is_listed(struct control_run **runs, size_t *n, const struct control_target *target,
                      const char *name, int64_t step)
{
    if (control_list(runs, n, target) != LORAD_OK) return false;
    const struct control_run *run = find_in(*runs, *n, name);
    if (run && run->step == step) return true;
    free(*runs);
    return false;
}

static void all_runs_are_listed(void **state)
{
    (void)state;
    struct coord *coord;
    struct control_run *runs;
    const struct control_run *run;
    size_t n;
    struct coord_options options = options_of(new_folder(), "listed {x}");
    struct control_target target = {.redis_url = server.url};
    assert_ok(coord_join(&coord, &options, 0));
    coord_heartbeat(coord, 31, "training");
    until(is_listed(&runs, &n, &target, "listed _x_", 31));
    run = find_in(runs, n, "listed _x_");
    assert_string_equal(run->state, "training");
    assert_string_equal(run->output_dir, options.output_dir);
    assert_int_equal(run->pid, getpid());
    assert_true(run->alive);
    free(runs);
    coord_leave(coord);
    assert_ok(control_list(&runs, &n, &target));
    run = find_in(runs, n, "listed _x_");
    assert_non_null(run);
    assert_string_equal(run->state, "ended");
    assert_false(run->alive);
    free(runs);
    target.redis_prefix = "nobody";
    assert_ok(control_list(&runs, &n, &target));
    assert_int_equal(n, 0);
    free(runs);
}

static void expect_line(struct control_feed *feed, const char *expected)
{
    const char *line;
    assert_ok(control_feed_next(feed, &line, 3000));
    assert_non_null(line);
    assert_string_equal(line, expected);
}

static void a_run_is_followed_from_afar(void **state)
{
    (void)state;
    struct coord *coord;
    struct control_feed *feed;
    const char *line;
    struct redis_keys keys;
    struct coord_options options = options_of(new_folder(), "followed");
    struct control_target target = {.redis_url = server.url, .run_name = "followed"};
    redis_keys_make(&keys, NULL, "followed");
    assert_fails(control_feed_open(&feed, &target, -1), LORAD_NOT_FOUND, "knows no run");
    assert_ok(coord_join(&coord, &options, 0));
    coord_tell(coord, COORD_EVENTS, "{\"event\":\"a\"}");
    coord_tell(coord, COORD_METRICS, "{\"step\":1}");
    coord_tell(coord, COORD_EVENTS, "{\"event\":\"b\"}");
    until(length_of(keys.events) == 2 && length_of(keys.metrics) == 1);
    assert_ok(control_feed_open(&feed, &target, 2));
    assert_ok(control_feed_next(feed, &line, 0));
    assert_ok(control_feed_next(feed, &line, 0));
    assert_non_null(line);
    assert_ok(control_feed_next(feed, &line, 0));
    assert_null(line); /* two were asked for */
    coord_tell(coord, COORD_METRICS, "{\"step\":2}");
    expect_line(feed, "{\"step\":2}");
    assert_ok(control_feed_next(feed, &line, 20));
    assert_null(line);
    coord_tell(coord, COORD_EVENTS, "{\"event\":\"last\"}");
    coord_leave(coord);
    expect_line(feed, "{\"event\":\"last\"}");
    assert_fails(control_feed_next(feed, &line, 1000), LORAD_NOT_FOUND, "it ended");
    control_feed_close(feed);
}

/* ---- a server that comes and goes ---- */

static void all_is_published_again(void **state)
{
    (void)state;
    struct coord *coord;
    struct coord_command command;
    struct redis_keys keys;
    char folder[512];
    snprintf(folder, sizeof folder, "%s", new_folder());
    make_checkpoint(folder, "s0000000010.e0000000001.a0", true);
    struct coord_options options = options_of(folder, "again");
    redis_keys_make(&keys, NULL, "again");
    assert_ok(coord_join(&coord, &options, 0));
    tell_all(coord);
    send_request(&keys, "{\"id\": \"b-1\", \"verb\": \"pause\"}");
    until(coord_commands_waiting(coord) == 1);
    until(holds(keys.status, "\"step\": 12,") && length_of(keys.metrics) == 1);

    run_command("FLUSHALL%s", "");
    until(holds(keys.status, "\"step\": 12,"));
    until(exists(keys.owner) && exists(keys.checkpoints) && exists(keys.beats) && exists(keys.info));
    assert_true(holds(keys.epoch, "1"));
    send_request(&keys, "{\"id\": \"b-1\", \"verb\": \"pause\"}"); /* known */
    send_request(&keys, "{\"id\": \"b-2\", \"verb\": \"resume\"}");
    until(coord_commands_waiting(coord) == 2);

    redis_server_kill(&server);
    coord_tell(coord, COORD_METRICS, "{\"loss\": 1.25}");
    until(!is_up(coord));
    int64_t start = clock_monotonic_ns();
    for (int i = 0; i < 1000; i++) coord_tell(coord, COORD_EVENTS, "{\"event\": \"while it is away\"}");
    assert_ok(coord_check_owner(coord));
    assert_true(clock_seconds_since(start) < 0.4);
    redis_server_start(&server, server.folder, NULL);
    until(is_up(coord));
    until(length_of(keys.events) > 500);
    assert_true(length_of(keys.metrics) == 1);
    while (coord_take_command(coord, &command)) coord_answer(coord, &command, LORAD_OK, "");
    coord_leave(coord);
}

static void keys_of_another_type_are_dropped(void **state)
{
    (void)state;
    struct coord *coord;
    struct redis_keys keys;
    struct coord_options options = options_of(new_folder(), "types");
    redis_keys_make(&keys, NULL, "types");
    run_command("SET %s garbage", keys.owner);
    run_command("RPUSH %s garbage", keys.epoch);
    run_command("RPUSH %s garbage", keys.info);
    run_command("SET %s garbage", keys.beats);
    run_command("SET %s garbage", keys.events);
    run_command("SET %s garbage", keys.control);
    run_command("RPUSH %s garbage", keys.status);
    assert_ok(coord_join(&coord, &options, 0));
    assert_int_equal(coord_epoch(coord), 1);
    tell_all(coord);
    until(field_holds(keys.owner, "epoch", "1") && field_holds(keys.beats, "0", "12") && exists(keys.info) &&
          length_of(keys.events) >= 2 && holds(keys.epoch, "1") && holds(keys.status, "\"step\": 12,"));
    coord_leave(coord);
}

static void nonsense_never_keeps_a_run_from_starting(void **state)
{
    (void)state;
    struct coord *coord;
    struct redis_keys keys;
    struct coord_options options = options_of(new_folder(), "nonsense");
    redis_keys_make(&keys, NULL, "nonsense");
    run_command("SET %s 999999999999999999", keys.epoch);
    run_command("HSET %s id x epoch -5 output_dir /nowhere", keys.owner);
    assert_ok(coord_join(&coord, &options, 0)); /* an owner without a lease that ends is none */
    assert_int_equal(coord_epoch(coord), 1);
    until(field_holds(keys.owner, "output_dir", options.output_dir));
    coord_leave(coord);
}

static void without_a_server_a_run_starts_and_ends_at_once(void **state)
{
    (void)state;
    struct coord *coord;
    char socket[300], url[400];
    snprintf(socket, sizeof socket, "%s/fake", test_tmpdir());
    snprintf(url, sizeof url, "unix://%s", socket);
    for (int kind = -1; kind < FAKES; kind++) {
        struct coord_options options = options_of(new_folder(), "alone");
        options.redis_url = url;
        unlink(socket);
        pid_t pid = kind >= 0 ? fake_redis_start(socket, (enum fake_redis)kind) : 0;
        int64_t start = clock_monotonic_ns();
        assert_ok(coord_join(&coord, &options, 0));
        if (clock_seconds_since(start) > 1.2)
            fail_msg("%d: starting took %g s", kind, clock_seconds_since(start));
        assert_false(is_up(coord));
        tell_all(coord);
        assert_ok(coord_check_owner(coord));
        start = clock_monotonic_ns();
        coord_leave(coord);
        if (clock_seconds_since(start) > 2.2)
            fail_msg("%d: ending took %g s", kind, clock_seconds_since(start));
        if (pid > 0) kill(pid, SIGKILL);
    }
}

/* While the server is stopped, nothing that a run calls takes any time: one that waited for the network would
 * take the 0.5 s of its limit. */
static void a_frozen_server_holds_nobody_up(void **state)
{
    (void)state;
    struct coord *coord;
    struct coord_options options = options_of(new_folder(), "frozen");
    assert_ok(coord_join(&coord, &options, 0));
    until(is_up(coord));
    kill(server.pid, SIGSTOP);
    double worst = 0;
    for (int i = 0; i < 300; i++) {
        int64_t start = clock_monotonic_ns();
        tell_all(coord);
        assert_ok(coord_check_owner(coord));
        if (clock_seconds_since(start) > worst) worst = clock_seconds_since(start);
        clock_sleep_ms(5);
    }
    assert_false(is_up(coord));
    if (worst > 0.45) fail_msg("a call took %g s", worst);
    int64_t start = clock_monotonic_ns();
    kill(server.pid, SIGCONT);
    until(is_up(coord));
    coord_leave(coord);
    assert_true(clock_seconds_since(start) < 10);
}

/* ---- logging in ---- */

/* The line of docs/redis.md. */
static void the_documented_user_suffices(void **state)
{
    (void)state;
    struct coord *coord;
    struct coord_command command;
    struct redis_keys keys;
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    char path[1024], url[600], line[4096] = "", *text;
    size_t length;
    snprintf(path, sizeof path, "%s/docs/redis.md", LORAD_SOURCE_DIR);
    assert_ok(file_read(&text, &length, path, 1 << 20));
    const char *found = strstr(text, "ACL SETUSER lorad ");
    assert_non_null(found);
    size_t n = strcspn(found, "\n");
    assert_true(n < sizeof line);
    memcpy(line, found, n);
    free(text);
    const char *words[64];
    size_t n_words = 0;
    for (char *word = strtok(line, " "); word && n_words < 64; word = strtok(NULL, " "))
        words[n_words++] = word[0] == '>' ? ">pass@word" : word;
    redis_batch_add_words(&batch, n_words, words);
    assert_null(redis_reply_error(asked(&batch)));

    struct coord_options options = options_of(new_folder(), "user");
    redis_keys_make(&keys, NULL, "user");
    snprintf(url, sizeof url, "%s?user=lorad&password=pass%%40word", server.url);
    options.redis_url = url;
    assert_ok(coord_join(&coord, &options, 0));
    tell_all(coord);
    until(is_up(coord) && holds(keys.status, "\"step\": 12,") && length_of(keys.events) == 2);
    send_request(&keys, "{\"id\": \"c-1\", \"verb\": \"pause\"}");
    until(coord_take_command(coord, &command));
    coord_answer(coord, &command, LORAD_OK, "");
    coord_leave(coord);
    assert_true(field_holds(keys.info, "state", "ended"));
    assert_false(exists(keys.owner));

    snprintf(url, sizeof url, "%s?user=lorad&password=wrong-secret", server.url);
    assert_ok(coord_join(&coord, &options, 0));
    assert_false(is_up(coord));
    struct strbuf status = STRBUF_EMPTY;
    coord_write_status(&status, coord);
    assert_non_null(strstr(strbuf_text(&status), "WRONGPASS"));
    assert_null(strstr(strbuf_text(&status), "wrong-secret"));
    strbuf_free(&status);
    coord_leave(coord);
    redis_batch_free(&batch);
}

int main(void)
{
    if (!redis_server_exists()) {
        printf("skipped: no redis-server\n");
        return 77;
    }
    unsetenv("REDISCLI_AUTH");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_run_tells_stands_in_redis),
        cmocka_unit_test(streams_are_bounded),
        cmocka_unit_test(a_name_belongs_to_one_folder),
        cmocka_unit_test(a_live_run_elsewhere_is_told_of_at_once),
        cmocka_unit_test(the_lock_decides_on_this_host),
        cmocka_unit_test(a_later_owner_fences),
        cmocka_unit_test(another_folder_never_fences),
        cmocka_unit_test(requests_are_heard_and_answered),
        cmocka_unit_test(a_run_is_asked_by_its_name),
        cmocka_unit_test(all_runs_are_listed),
        cmocka_unit_test(a_run_is_followed_from_afar),
        cmocka_unit_test(all_is_published_again),
        cmocka_unit_test(keys_of_another_type_are_dropped),
        cmocka_unit_test(nonsense_never_keeps_a_run_from_starting),
        cmocka_unit_test(without_a_server_a_run_starts_and_ends_at_once),
        cmocka_unit_test(a_frozen_server_holds_nobody_up),
        cmocka_unit_test(the_documented_user_suffices),
    };
    return cmocka_run_group_tests(tests, start_server, end_server);
}
