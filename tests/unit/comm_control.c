/* A running job and who asks it: both ends in one process, the main thread in the trainer's place. */
#include "support/test.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "comm/control.h"

static const char *new_folder(const char *name)
{
    static char path[1024];
    static int n;
    snprintf(path, sizeof path, "%s/run%d%s", test_tmpdir(), n++, name);
    assert_ok(file_make_dirs(path));
    return path;
}

static struct coord *join(const char *folder)
{
    struct coord *coord;
    assert_ok(coord_join(&coord, &(struct coord_options){.output_dir = folder, .run_name = "asked"}, 0));
    return coord;
}

static struct control *open_way(const char *folder)
{
    struct control *control;
    assert_ok(control_open(&control, &(struct control_target){.output_dir = folder}));
    return control;
}

static struct coord_command request(const char *id, const char *verb)
{
    struct coord_command request = {.at_step = 0};
    snprintf(request.id, sizeof request.id, "%s", id);
    snprintf(request.verb, sizeof request.verb, "%s", verb);
    return request;
}

static void ask(struct control *control, const char *id, const char *verb)
{
    struct coord_command one = request(id, verb);
    assert_ok(control_send(control, &one));
}

static struct control_reply hear(struct control *control)
{
    struct control_reply reply;
    bool got;
    assert_ok(control_receive(control, &reply, 5000, &got));
    assert_true(got);
    return reply;
}

static void hear_that(struct control *control, const char *id, enum status status, const char *words)
{
    struct control_reply reply = hear(control);
    assert_string_equal(reply.id, id);
    assert_int_equal(reply.status, status);
    if (!strstr(reply.text, words)) fail_msg("\"%s\" lacks \"%s\"", reply.text, words);
    control_reply_free(&reply);
}

static struct coord_command take(struct coord *coord)
{
    struct coord_command out;
    for (int i = 0; i < 500 && coord_commands_waiting(coord) == 0; i++) clock_sleep_ms(10);
    assert_true(coord_take_command(coord, &out));
    return out;
}

static void status_is_what_was_published_last(void **state)
{
    (void)state;
    const char *folder = new_folder("");
    struct coord *coord = join(folder);
    struct control *control = open_way(folder);
    ask(control, "a", "status");
    struct control_reply reply = hear(control);
    assert_int_equal(reply.status, LORAD_OK);
    assert_string_equal(reply.run, "{\"phase\":\"starting\"}");
    control_reply_free(&reply);
    coord_publish_status(coord, "{\"phase\":\"training\",\"step\":7}");
    ask(control, "b", "status");
    reply = hear(control);
    assert_string_equal(reply.id, "b");
    assert_string_equal(reply.run, "{\"phase\":\"training\",\"step\":7}");
    control_reply_free(&reply);
    assert_int_equal(coord_commands_waiting(coord), 0);
    control_close(control);
    coord_leave(coord);
}

static void requests_wait_for_the_run_and_keep_their_ids(void **state)
{
    (void)state;
    const char *folder = new_folder("");
    struct coord *coord = join(folder);
    struct control *one = open_way(folder), *two = open_way(folder);
    struct coord_command set = request("x", "set"), got;
    snprintf(set.key, sizeof set.key, "learning_rate");
    snprintf(set.value, sizeof set.value, "1e-5");
    set.at_step = 12;
    assert_ok(control_send(one, &set));
    got = take(coord);
    assert_string_equal(got.verb, "set");
    assert_string_equal(got.key, "learning_rate");
    assert_string_equal(got.value, "1e-5");
    assert_int_equal(got.at_step, 12);
    ask(two, "x", "checkpoint");
    struct coord_command second = take(coord);
    coord_answer(coord, &second, LORAD_IO, "the disk is \"full\"");
    hear_that(two, "x", LORAD_IO, "the disk is \"full\"");
    struct control_reply reply;
    bool early;
    assert_ok(control_receive(one, &reply, 50, &early));
    assert_false(early);
    coord_answer(coord, &got, LORAD_OK, "done");
    hear_that(one, "x", LORAD_OK, "done");
    control_close(one);
    control_close(two);
    coord_leave(coord);
}

static void what_is_no_request_is_refused_in_words(void **state)
{
    (void)state;
    const char *folder = new_folder("");
    struct coord *coord = join(folder);
    struct control *control = open_way(folder);
    struct coord_command wrong = request("1", "dance");
    assert_ok(control_send(control, &wrong));
    hear_that(control, "1", LORAD_USAGE, "\"dance\" is no verb");
    wrong = request("2", "set");
    assert_ok(control_send(control, &wrong));
    hear_that(control, "2", LORAD_USAGE, "set needs a key and a value");
    wrong = request("3", "resume");
    wrong.at_step = 4;
    assert_ok(control_send(control, &wrong));
    hear_that(control, "3", LORAD_USAGE, "at once, not at a step");
    wrong = request("4", "pause");
    snprintf(wrong.value, sizeof wrong.value, "now");
    assert_ok(control_send(control, &wrong));
    hear_that(control, "4", LORAD_USAGE, "pause takes no value");
    assert_int_equal(coord_commands_waiting(coord), 0);
    control_close(control);
    coord_leave(coord);
}

/* ---- below the client ---- */

static struct sockaddr_un address_of(const char *folder)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int n = snprintf(address.sun_path, sizeof address.sun_path, "%s/control.sock", folder);
    assert_true(n > 0 && (size_t)n < sizeof address.sun_path);
    return address;
}

static int dial(const char *folder)
{
    struct sockaddr_un address = address_of(folder);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* All that comes until the other end closes. */
static char *read_all(int fd)
{
    static char text[65536];
    size_t length = 0;
    for (ssize_t n; length < sizeof text - 1 && (n = read(fd, text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)n;
    text[length] = '\0';
    close(fd);
    return text;
}

static void say(int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void lines_from_anywhere_do_no_harm(void **state)
{
    (void)state;
    const char *folder = new_folder("");
    struct coord *coord = join(folder);
    int fd = dial(folder);
    say(fd,
        "\n  \r\nhello\n{\"verb\":\"status\",\"id\":7}\n[1]\n{\"verb\":\"pause\",\"id\":\"p\",\"speed\":1}\n"
        "{\"verb\":\"stop\",\"id\":\"s\",\"value\":\"la\\nter\"}\n{\"id\":\"half");
    shutdown(fd, SHUT_WR);
    const char *text = read_all(fd);
    assert_non_null(strstr(text, "not valid JSON"));
    assert_non_null(strstr(text, "{\"id\":\"7\",\"status\":\"ok\""));
    assert_non_null(strstr(text, "a request is a JSON object"));
    assert_non_null(
        strstr(text, "{\"id\":\"p\",\"status\":\"usage\",\"text\":\"a request has no \\\"speed\\\""));
    assert_non_null(strstr(text, "holds a control character"));

    /* at once: who goes on talking after the answer talks to nobody, which is a signal */
    char line[4201];
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = '\0';
    fd = dial(folder);
    say(fd, line);
    assert_non_null(strstr(read_all(fd), "at most 4096 bytes"));

    /* who says that he has nothing more to say still gets his answer */
    fd = dial(folder);
    say(fd, "{\"verb\":\"checkpoint\",\"id\":\"c\"}\n");
    shutdown(fd, SHUT_WR);
    struct coord_command got = take(coord);
    coord_answer(coord, &got, LORAD_OK, "saved");
    assert_string_equal(read_all(fd), "{\"id\":\"c\",\"status\":\"ok\",\"text\":\"saved\"}\n");

    /* who is gone gets none, and nobody else does */
    fd = dial(folder);
    say(fd, "{\"verb\":\"checkpoint\",\"id\":\"gone\"}\n");
    close(fd);
    got = take(coord);
    struct control *control = open_way(folder);
    coord_answer(coord, &got, LORAD_OK, "saved");
    ask(control, "alive", "status");
    struct control_reply reply = hear(control);
    assert_string_equal(reply.id, "alive");
    control_reply_free(&reply);
    control_close(control);
    coord_leave(coord);
}

static void too_many_at_once_are_told_so(void **state)
{
    (void)state;
    enum { MANY = 40 };
    const char *folder = new_folder("");
    struct coord *coord = join(folder);
    int fds[MANY], refused = 0;
    for (int i = 0; i < MANY; i++) fds[i] = dial(folder);
    struct timeval patience = {.tv_sec = 2};
    for (int i = MANY - 1; i >= 32; i--) {
        setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        refused += strstr(read_all(fds[i]), "too many ask") != NULL;
    }
    assert_int_equal(refused, MANY - 32);
    for (int i = 0; i < 32; i++) close(fds[i]);
    struct control *control = NULL;
    for (int i = 0; i < 100; i++) { /* until it has seen them go */
        control = open_way(folder);
        struct control_reply reply = {0};
        bool got = false;
        ask(control, "now", "status");
        if (control_receive(control, &reply, 1000, &got) == LORAD_OK && got && reply.run) i = 100;
        control_reply_free(&reply);
        control_close(control);
    }
    coord_leave(coord);
}

static double cpu_seconds(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

static void a_client_that_no_descriptor_is_left_for_costs_nothing(void **state)
{
    (void)state;
    const char *folder = new_folder("");
    struct coord *coord = join(folder);
    struct rlimit before, none;
    enum { ENOUGH = 64 }; /* poll(2) wants as many as it looks at */
    int taken[ENOUGH], n_taken = 0;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = address_of(folder);
    none = before;
    none.rlim_cur = ENOUGH;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    for (int last = 0; (last = dup(fd)) >= 0;) taken[n_taken++] = last;
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    double cpu = cpu_seconds();
    clock_sleep_ms(500);
    cpu = cpu_seconds() - cpu;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    while (n_taken > 0) close(taken[--n_taken]);
    assert_true(cpu < 0.1);
    struct timeval patience = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    say(fd, "{\"verb\":\"status\",\"id\":\"f\"}\n");
    shutdown(fd, SHUT_WR);
    assert_non_null(strstr(read_all(fd), "{\"id\":\"f\",\"status\":\"ok\""));
    coord_leave(coord);
}

static void only_the_user_may_ask(void **state)
{
    (void)state;
    struct stat info;
    char path[1200];
    const char *folder = new_folder("");
    struct coord *coord = join(folder);
    snprintf(path, sizeof path, "%s/control.sock", folder);
    assert_int_equal(lstat(path, &info), 0);
    assert_true(S_ISSOCK(info.st_mode));
    assert_int_equal(info.st_mode & 0777, 0600);
    coord_leave(coord);
    assert_int_not_equal(lstat(path, &info), 0);
}

static void a_long_path_and_a_dead_socket_are_no_obstacle(void **state)
{
    (void)state;
    static const char deep[] = "/0123456789012345678901234567890123456789012345678901234567890123456789"
                               "/0123456789012345678901234567890123456789012345678901234567890123456789";
    const char *folder = new_folder(deep);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct coord *coord;
        struct coord_options options = {.output_dir = folder, .run_name = "killed"};
        if (coord_join(&coord, &options, 0) != LORAD_OK) _exit(1);
        coord_heartbeat(coord, 5, "training");
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    struct control *control;
    struct control_target target = {.output_dir = folder};
    assert_fails(control_open(&control, &target), LORAD_NOT_FOUND, "\"killed\"");
    assert_non_null(strstr(status_message(), "is not running: it was killed"));
    struct coord *coord = join(folder);
    control = open_way(folder);
    ask(control, "1", "status");
    hear_that(control, "1", LORAD_OK, "");
    control_close(control);
    coord_leave(coord);
}

static void the_end_answers_what_still_waits(void **state)
{
    (void)state;
    const char *folder = new_folder("");
    struct coord *coord = join(folder);
    struct control *control = open_way(folder);
    ask(control, "taken", "pause");
    take(coord);
    ask(control, "waiting", "stop");
    for (int i = 0; i < 500 && coord_commands_waiting(coord) == 0; i++) clock_sleep_ms(10);
    coord_note_exit(coord, 75);
    coord_leave(coord);
    hear_that(control, "taken", LORAD_NOT_FOUND, "the run ended");
    hear_that(control, "waiting", LORAD_NOT_FOUND, "the run ended");
    struct control_reply reply;
    bool got;
    assert_fails(control_receive(control, &reply, 5000, &got), LORAD_PEER_LOST, "went away");
    control_close(control);
    struct control_target target = {.output_dir = folder};
    assert_fails(control_open(&control, &target), LORAD_NOT_FOUND, "it ended at step 0");
    assert_non_null(strstr(status_message(), "exit code 75"));
}

static void stop_now_answers_and_ends_the_process(void **state)
{
    (void)state;
    const char *folder = new_folder("");
    int ready[2], status;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct coord *coord;
        struct coord_options options = {.output_dir = folder, .run_name = "now"};
        if (coord_join(&coord, &options, 0) != LORAD_OK || write(ready[1], "r", 1) != 1) _exit(1);
        for (;;) pause(); /* as a rank that hangs */
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    struct control *control = open_way(folder);
    struct coord_command now = request("n", "stop");
    snprintf(now.value, sizeof now.value, "now");
    assert_ok(control_send(control, &now));
    hear_that(control, "n", LORAD_OK, "exit code 80");
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 80);
    control_close(control);
    struct control_sight sight;
    control_look(&sight, folder);
    assert_true(sight.known && sight.ended && !sight.alive);
    assert_int_equal(sight.exit_code, 80);
    close(ready[0]);
    close(ready[1]);
}

static void who_is_elsewhere_or_nowhere_is_told_apart(void **state)
{
    (void)state;
    struct control *control;
    struct control_target none = {.output_dir = "/nonexistent/run"}, unknown = {.run_name = "fin"};
    assert_fails(control_open(&control, &none), LORAD_NOT_FOUND, "is no folder");
    assert_fails(control_open(&control, &unknown), LORAD_USAGE, "--redis-url");
    const char *folder = new_folder("");
    struct control_target target = {.output_dir = folder};
    assert_fails(control_open(&control, &target), LORAD_NOT_FOUND, "no heartbeat.json");
    char path[1200];
    snprintf(path, sizeof path, "%s/heartbeat.json", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("{\"host\": \"node17\", \"boot\": \"other\", \"run\": \"far\", \"phase\": \"training\", "
          "\"time\": \"2026-01-01T00:00:00Z\", \"pid\": 12, \"epoch\": 3, \"step\": 120}\n",
          file);
    fclose(file);
    assert_fails(control_open(&control, &target), LORAD_NOT_FOUND, "is on host node17");
    assert_non_null(strstr(status_message(), "step 120"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_is_what_was_published_last),
        cmocka_unit_test(requests_wait_for_the_run_and_keep_their_ids),
        cmocka_unit_test(what_is_no_request_is_refused_in_words),
        cmocka_unit_test(lines_from_anywhere_do_no_harm),
        cmocka_unit_test(too_many_at_once_are_told_so),
        cmocka_unit_test(a_client_that_no_descriptor_is_left_for_costs_nothing),
        cmocka_unit_test(only_the_user_may_ask),
        cmocka_unit_test(a_long_path_and_a_dead_socket_are_no_obstacle),
        cmocka_unit_test(the_end_answers_what_still_waits),
        cmocka_unit_test(stop_now_answers_and_ends_the_process),
        cmocka_unit_test(who_is_elsewhere_or_nowhere_is_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
