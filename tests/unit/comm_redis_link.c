#include "support/test.h"

#include <signal.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "comm/redis_link.h"
#include "support/redis_server.h"

/* ---- URLs ---- */

static void urls_are_read(void **state)
{
    (void)state;
    struct redis_address a;
    assert_ok(redis_url_parse(&a, "redis://localhost"));
    assert_string_equal(a.host, "localhost");
    assert_int_equal(a.port, 6379);
    assert_int_equal(a.database, 0);
    assert_string_equal(a.user, "");
    assert_string_equal(a.place, "redis://localhost:6379/0");

    assert_ok(redis_url_parse(&a, "redis://ann:p%40ss%3a%2Fw@10.0.0.1:7000/3"));
    assert_string_equal(a.user, "ann");
    assert_string_equal(a.password, "p@ss:/w");
    assert_string_equal(a.host, "10.0.0.1");
    assert_int_equal(a.port, 7000);
    assert_int_equal(a.database, 3);
    assert_string_equal(a.place, "redis://10.0.0.1:7000/3");

    assert_ok(redis_url_parse(&a, "redis://:a@b/c@[::1]:7001")); /* not encoded, and still one thing only */
    assert_string_equal(a.user, "");
    assert_string_equal(a.password, "a@b/c");
    assert_string_equal(a.host, "::1");
    assert_int_equal(a.port, 7001);
    assert_string_equal(a.place, "redis://[::1]:7001/0");

    assert_ok(redis_url_parse(&a, "unix:///run/my%20redis.sock?db=5&user=bob&password=x%26y"));
    assert_string_equal(a.path, "/run/my redis.sock");
    assert_int_equal(a.database, 5);
    assert_string_equal(a.user, "bob");
    assert_string_equal(a.password, "x&y");
    assert_string_equal(a.place, "unix:///run/my redis.sock");
}

static void wrong_urls_are_named(void **state)
{
    (void)state;
    struct redis_address a;
    static const struct {
        const char *url, *words;
    } wrong[] = {
        {"", "must begin with redis://"},
        {"http://localhost", "must begin with redis://"},
        {"redis://", "host is missing"},
        {"redis://:6379", "host is missing"},
        {"redis://secret:word@", "host is missing"},
        {"redis://h:0", "port must be a number from 1 to 65535"},
        {"redis://h:65536", "port must be"},
        {"redis://h:1x", "port must be"},
        {"redis://h:", "port must be"},
        {"redis://h/x", "database must be"},
        {"redis://h/-1", "database must be"},
        {"redis://h/1/2", "database must be"},
        {"redis://h?db=1", "no ?"},
        {"redis://u:%4@h", "two hexadecimal digits"},
        {"redis://u:%zz@h", "two hexadecimal digits"},
        {"redis://u:%0a@h", "control character"},
        {"redis://[::1", "] behind"},
        {"redis://[::1]6379", "behind the host"},
        {"redis://user@h", "no password"},
        {"unix://redis.sock", "absolute path"},
        {"unix://", "absolute path"},
        {"unix:///s?db=x", "database must be"},
        {"unix:///s?secret=1", "behind ? come"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_fails(redis_url_parse(&a, wrong[i].url), LORAD_CONFIG, wrong[i].words);
        assert_null(strstr(status_message(), "secret:word"));
    }
    char path[300] = "unix:///";
    memset(path + 8, 'x', 200);
    assert_fails(redis_url_parse(&a, path), LORAD_CONFIG, "path is longer than 107");
    if (!redis_link_has_tls()) assert_fails(redis_url_parse(&a, "rediss://h"), LORAD_CONFIG, "TLS");
}

static void passwords_are_masked(void **state)
{
    (void)state;
    static const struct {
        const char *url, *masked;
    } cases[] = {
        {"redis://h:1/2", "redis://h:1/2"},
        {"redis://u:pw@h:1/2", "redis://u:***@h:1/2"},
        {"redis://:p@w:/x@h", "redis://:***@h"},
        {"unix:///s?db=1&password=pw&user=u", "unix:///s?db=1&password=***"},
        {"unix:///s?password=pw", "unix:///s?password=***"},
        {"unix:///s?password=&password=pw", "unix:///s?password=***"},
        {"redis://u:xpassword=y@h", "redis://u:***@h"},
        {"rubbish:pw@h", "rubbish:***@h"},
        {"", ""},
    };
    char text[256];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        redis_url_mask(text, sizeof text, cases[i].url);
        assert_string_equal(text, cases[i].masked);
    }
}

static void a_password_may_come_from_the_environment(void **state)
{
    (void)state;
    struct redis_address a;
    setenv("REDISCLI_AUTH", "from the environment", 1);
    assert_ok(redis_url_parse(&a, "redis://ann@h"));
    assert_string_equal(a.user, "ann");
    assert_string_equal(a.password, "from the environment");
    assert_ok(redis_url_parse(&a, "redis://:own@h"));
    assert_string_equal(a.password, "own");
    unsetenv("REDISCLI_AUTH");
}

static void prefixes_are_checked(void **state)
{
    (void)state;
    assert_ok(redis_prefix_check("team-a/lorad.1"));
    assert_fails(redis_prefix_check(""), LORAD_CONFIG, "1 to 64");
    assert_fails(redis_prefix_check("a{b}"), LORAD_CONFIG, "1 to 64");
    assert_fails(redis_prefix_check("a b"), LORAD_CONFIG, "1 to 64");
}

/* ---- replies ---- */

static void replies_are_read(void **state)
{
    (void)state;
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    redis_batch_add(&batch, "HGETALL %s", "a b");
    redis_batch_add(&batch, "PING");
    redis_batch_add(&batch, "PING");
    assert_string_equal(strbuf_text(&batch.bytes),
                        "*2\r\n$7\r\nHGETALL\r\n$3\r\na b\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n");
    const char text[] = "*4\r\n$1\r\nk\r\n$2\r\n12\r\n$1\r\nx\r\n$-1\r\n-OOM no\r\n:7\r\n";
    assert_ok(redis_batch_parse(&batch, text, sizeof text - 1));
    const struct redis_reply *all = redis_batch_reply(&batch, 0);
    assert_int_equal(redis_reply_length(all), 4);
    assert_int_equal(redis_reply_int(redis_reply_get(all, "k"), -1), 12);
    assert_int_equal(redis_reply_int(redis_reply_get(all, "x"), -1), -1);
    assert_null(redis_reply_get(all, "nothing"));
    assert_string_equal(redis_reply_error(redis_batch_reply(&batch, 1)), "OOM no");
    assert_null(redis_reply_text(redis_batch_reply(&batch, 1), NULL));
    assert_int_equal(redis_reply_int(redis_batch_reply(&batch, 2), 0), 7);
    assert_null(redis_batch_reply(&batch, 3));

    assert_fails(redis_batch_parse(&batch, text, sizeof text - 4), LORAD_DATA, "2 of 3");
    assert_fails(redis_batch_parse(&batch, "nonsense\r\n", 10), LORAD_DATA, "protocol");
    assert_fails(redis_batch_parse(&batch, "*2000000000\r\n", 13), LORAD_DATA, "protocol");
    redis_batch_free(&batch);
}

/* What a server says goes into the log: neither colours nor lines nor pages of it. */
static void errors_are_cleaned_and_cut(void **state)
{
    (void)state;
    static const char dirty[] = "-ERR \x1b[31mred\x07 \0 tab\there \xc2\x9b c1 \xe6\x9c\x8d 123\r\n";
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    redis_batch_add(&batch, "PING");
    assert_ok(redis_batch_parse(&batch, dirty, sizeof dirty - 1));
    assert_string_equal(redis_reply_error(redis_batch_reply(&batch, 0)),
                        "ERR ?[31mred? ? tab?here ? c1 \xe6\x9c\x8d 123");
    char text[1000] = "-ERR ";
    memset(text + 5, 'x', 293);
    memcpy(text + 298, "\xe6\x9c\x8d\xe6\x9c\x8d and more",
           15); /* bytes 298 to 300 of what is kept: a sign and a part */
    memset(text + 313, 'y', 600);
    memcpy(text + 913, "\r\n", 2);
    assert_ok(redis_batch_parse(&batch, text, 915));
    const char *error = redis_reply_error(redis_batch_reply(&batch, 0));
    assert_int_equal(strlen(error), 300);
    assert_string_equal(error + 290, "xxxxxxx\xe6\x9c\x8d");
    text[4] = 'y'; /* one byte more: the sign at the end is cut whole */
    memmove(text + 5, text + 4, 911);
    assert_ok(redis_batch_parse(&batch, text, 916));
    error = redis_reply_error(redis_batch_reply(&batch, 0));
    assert_int_equal(strlen(error), 298);
    assert_string_equal(error + 290, "xxxxxxxx");

    /* A string is left as it is. */
    assert_ok(redis_batch_parse(&batch, "$3\r\na\x1b\n\r\n", 9));
    assert_string_equal(redis_reply_text(redis_batch_reply(&batch, 0), NULL), "a\x1b\n");
    redis_batch_free(&batch);
}

/* ---- the breaker ---- */

static void the_breaker_waits_longer_and_longer(void **state)
{
    (void)state;
    struct redis_breaker breaker = {0};
    assert_true(redis_breaker_allows(&breaker, 0));
    static const int waits[] = {1000, 2000, 4000, 8000, 16000, 30000, 30000};
    int64_t now = 5;
    for (size_t i = 0; i < sizeof waits / sizeof waits[0]; i++) {
        redis_breaker_note(&breaker, false, now);
        assert_false(redis_breaker_allows(&breaker, now + (int64_t)waits[i] * 1000000 - 1));
        now += (int64_t)waits[i] * 1000000;
        assert_true(redis_breaker_allows(&breaker, now));
    }
    redis_breaker_note(&breaker, true, now);
    assert_true(redis_breaker_allows(&breaker, now));
}

/* ---- servers that do everything wrong ---- */

/* Two exchanges with each: neither takes longer than its deadlines, and what is wrong is said without the
 * password. */
static void bad_servers_cost_a_second(void **state)
{
    (void)state;
    static const char *const says[FAKES] = {
        [FAKE_GARBAGE] = "protocol",
        [FAKE_LOADING] = "LOADING",
        [FAKE_OOM] = "OOM",
        [FAKE_READONLY] = "READONLY",
        [FAKE_NOAUTH] = "NOAUTH",
        [FAKE_ECHO] = "log-in is refused",
        [FAKE_HANG] = "no answer in time",
        [FAKE_TRICKLE] = "no answer in time",
        [FAKE_HUGE] = "protocol",
        [FAKE_FLOOD] = "",
        [FAKE_NESTED] = "protocol",
        [FAKE_CLOSE] = "",
    };
    for (int kind = 0; kind < FAKES; kind++) {
        char socket[256], url[300];
        struct redis_address address;
        struct redis_link *link;
        struct redis_batch batch = REDIS_BATCH_EMPTY;
        snprintf(socket, sizeof socket, "%s/fake", test_tmpdir());
        snprintf(url, sizeof url, "unix://%s?password=hunter2", socket);
        pid_t pid = fake_redis_start(socket, (enum fake_redis)kind);
        assert_ok(redis_url_parse(&address, url));
        assert_ok(redis_link_create(&link, &address));
        redis_batch_add(&batch, "PING");
        for (int i = 0; i < 2; i++) {
            int64_t start = clock_monotonic_ns();
            assert_fails(redis_link_exchange(link, &batch, 200), LORAD_IO, says[kind]);
            if (clock_seconds_since(start) > 2) fail_msg("%s took too long", fake_redis_names[kind]);
            assert_null(strstr(status_message(), "hunter2"));
            assert_non_null(strstr(status_message(), socket));
        }
        redis_batch_free(&batch);
        redis_link_destroy(link);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
}

static void nobody_listens(void **state)
{
    (void)state;
    struct redis_address address;
    struct redis_link *link;
    struct redis_batch batch = REDIS_BATCH_EMPTY;
    redis_batch_add(&batch, "PING");
    assert_ok(redis_url_parse(&address, "redis://127.0.0.1:1"));
    assert_ok(redis_link_create(&link, &address));
    assert_fails(redis_link_exchange(link, &batch, 200), LORAD_IO,
                 "Redis at redis://127.0.0.1:1/0: Connection refused");
    redis_link_destroy(link);
    assert_ok(redis_url_parse(&address, "unix:///nowhere/redis.sock"));
    assert_ok(redis_link_create(&link, &address));
    assert_fails(redis_link_exchange(link, &batch, 200), LORAD_IO, "No such file");
    redis_link_destroy(link);
    redis_batch_free(&batch);
}

int main(void)
{
    unsetenv("REDISCLI_AUTH");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(urls_are_read),
        cmocka_unit_test(wrong_urls_are_named),
        cmocka_unit_test(passwords_are_masked),
        cmocka_unit_test(a_password_may_come_from_the_environment),
        cmocka_unit_test(prefixes_are_checked),
        cmocka_unit_test(replies_are_read),
        cmocka_unit_test(errors_are_cleaned_and_cut),
        cmocka_unit_test(the_breaker_waits_longer_and_longer),
        cmocka_unit_test(bad_servers_cost_a_second),
        cmocka_unit_test(nobody_listens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
