#include "support/test.h"

#include <pthread.h>

#include "base/file.h"
#include "comm/coord.h"
#include "comm/inbox.h"

/* What a channel was told. */
struct heard {
    int n;
    char id[COMMAND_ID_BYTES], text[256];
    enum status status;
};

static void hear(void *context, const char *id, enum status status, const char *text)
{
    struct heard *heard = context;
    heard->n++;
    heard->status = status;
    snprintf(heard->id, sizeof heard->id, "%s", id);
    snprintf(heard->text, sizeof heard->text, "%s", text);
}

static struct coord_command command(const char *id, const char *verb)
{
    struct coord_command command = {.at_step = 0};
    snprintf(command.id, sizeof command.id, "%s", id);
    snprintf(command.verb, sizeof command.verb, "%s", verb);
    return command;
}

static bool put(struct inbox *inbox, struct heard *heard, const char *id)
{
    struct coord_command one = command(id, "checkpoint");
    return inbox_put(inbox, &one, (struct inbox_channel){hear, heard});
}

static void commands_come_out_in_order_and_are_answered_once(void **state)
{
    (void)state;
    struct inbox *inbox;
    struct heard a = {0}, b = {0};
    struct coord_command out;
    assert_ok(inbox_create(&inbox));
    assert_false(inbox_take(inbox, &out));
    assert_true(put(inbox, &a, "1"));
    assert_true(put(inbox, &b, "2"));
    assert_int_equal(inbox_waiting(inbox), 2);
    assert_true(inbox_take(inbox, &out));
    assert_string_equal(out.id, "1");
    assert_int_equal(inbox_waiting(inbox), 1);
    assert_true(inbox_take(inbox, &out));
    assert_string_equal(out.id, "2");
    assert_false(inbox_take(inbox, &out));
    inbox_answer(inbox, "2", LORAD_OK, "done");
    inbox_answer(inbox, "2", LORAD_IO, "again");
    assert_int_equal(b.n, 1);
    assert_int_equal(b.status, LORAD_OK);
    assert_string_equal(b.text, "done");
    assert_int_equal(a.n, 0);
    inbox_destroy(inbox);
    assert_int_equal(a.n, 1); /* taken, not answered: the run ended */
    assert_int_equal(a.status, LORAD_NOT_FOUND);
    assert_int_equal(b.n, 1);
}

static void a_full_or_closed_inbox_takes_nothing(void **state)
{
    (void)state;
    struct inbox *inbox;
    struct heard heard = {0};
    struct coord_command out;
    char id[16];
    assert_ok(inbox_create(&inbox));
    for (int i = 0; i < INBOX_CAPACITY; i++) {
        snprintf(id, sizeof id, "%d", i);
        assert_true(put(inbox, &heard, id));
    }
    assert_false(put(inbox, &heard, "more"));
    assert_true(inbox_take(inbox, &out));
    assert_false(put(inbox, &heard, "more")); /* its answer is still owed */
    inbox_answer(inbox, out.id, LORAD_OK, "");
    assert_true(put(inbox, &heard, "more"));
    inbox_close(inbox);
    assert_int_equal(heard.n, INBOX_CAPACITY + 1);
    assert_non_null(strstr(heard.text, "ended"));
    assert_false(put(inbox, &heard, "late"));
    assert_int_equal(inbox_waiting(inbox), 0);
    inbox_destroy(inbox);
    assert_int_equal(heard.n, INBOX_CAPACITY + 1);
}

enum { SENDERS = 4, EACH = 500 };

struct sender {
    struct inbox *inbox;
    int number;
    struct heard heard;
};

static void *send_many(void *argument)
{
    struct sender *sender = argument;
    char id[32];
    for (int i = 0; i < EACH; i++) {
        snprintf(id, sizeof id, "%d-%d", sender->number, i);
        while (!put(sender->inbox, &sender->heard, id)) sched_yield();
    }
    return NULL;
}

static void every_command_of_many_threads_is_answered(void **state)
{
    (void)state;
    struct inbox *inbox;
    pthread_t threads[SENDERS];
    struct sender senders[SENDERS] = {0};
    int next[SENDERS] = {0};
    assert_ok(inbox_create(&inbox));
    for (int i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){.inbox = inbox, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, send_many, &senders[i]), 0);
    }
    for (int done = 0; done < SENDERS * EACH;) {
        struct coord_command out;
        int number, i;
        if (!inbox_take(inbox, &out)) {
            sched_yield();
            continue;
        }
        assert_int_equal(sscanf(out.id, "%d-%d", &number, &i), 2);
        assert_int_equal(i, next[number]++); /* those of one sender keep their order */
        inbox_answer(inbox, out.id, LORAD_OK, "");
        done++;
    }
    for (int i = 0; i < SENDERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(senders[i].heard.n, EACH);
    }
    inbox_destroy(inbox);
}

/* ---- events ---- */

static void events_are_lines_of_a_bounded_file(void **state)
{
    (void)state;
    char folder[512], path[600], older[600], *text;
    size_t length;
    int64_t bytes;
    snprintf(folder, sizeof folder, "%s/events", test_tmpdir());
    snprintf(path, sizeof path, "%s/logs/events.jsonl", folder);
    snprintf(older, sizeof older, "%s/logs/events.1.jsonl", folder);
    assert_ok(file_make_dirs(folder));
    struct coord *coord;
    assert_ok(coord_join(&coord, &(struct coord_options){.output_dir = folder, .run_name = "events"}, 0));
    coord_tell(coord, COORD_METRICS, "{\"loss\":1}");
    assert_false(file_exists(path));
    coord_tell(coord, COORD_EVENTS, "{\"event\":\"one\"}");
    coord_tell(coord, COORD_EVENTS, "{\"event\":\"two\"}");
    assert_ok(file_read(&text, &length, path, 1 << 10));
    assert_string_equal(text, "{\"event\":\"one\"}\n{\"event\":\"two\"}\n");
    free(text);

    char *long_line = malloc(64 << 10);
    assert_non_null(long_line);
    memset(long_line, 'x', (64 << 10) - 1);
    long_line[(64 << 10) - 1] = '\0';
    for (int i = 0; i < 150; i++) coord_tell(coord, COORD_EVENTS, long_line);
    free(long_line);
    assert_ok(file_stat(&bytes, NULL, path));
    assert_true(bytes <= (4 << 20) + (64 << 10));
    assert_ok(file_stat(&bytes, NULL, older));
    assert_true(bytes >= 4 << 20 && bytes <= (4 << 20) + (64 << 10));
    coord_leave(coord);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_come_out_in_order_and_are_answered_once),
        cmocka_unit_test(a_full_or_closed_inbox_takes_nothing),
        cmocka_unit_test(every_command_of_many_threads_is_answered),
        cmocka_unit_test(events_are_lines_of_a_bounded_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
