#include "support/test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "comm/coord.h"

static const char *new_folder(void)
{
    static char path[512];
    static int n;
    snprintf(path, sizeof path, "%s/out%d", test_tmpdir(), n++);
    assert_ok(file_make_dirs(path));
    return path;
}

static char *inside(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    assert_non_null(path);
    return path;
}

static void write_text(const char *folder, const char *name, const char *text)
{
    char *path = inside(folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    free(path);
}

/* A process that joins and holds the folder until it is killed or told to leave through `tell`. */
struct holder {
    pid_t pid;
    int said, tell; /* said: one byte per thing done: J joined, R refused, F fenced, O owner */
};

static void hold(struct coord_options options, int tell, int said)
{
    struct coord *coord;
    char byte = coord_join(&coord, &options, 0) == LORAD_OK ? 'J' : 'R';
    if (write(said, &byte, 1) != 1 || byte == 'R') _exit(1);
    while (read(tell, &byte, 1) == 1) {
        byte = coord_check_owner(coord) == LORAD_FENCED ? 'F' : 'O';
        if (write(said, &byte, 1) != 1) _exit(1);
    }
    coord_leave(coord);
    _exit(0);
}

static struct holder holder_start(struct coord_options options)
{
    int said[2], tell[2];
    assert_int_equal(pipe2(said, O_CLOEXEC), 0);
    assert_int_equal(pipe2(tell, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(tell[1]);
        close(said[0]);
        hold(options, tell[0], said[1]);
    }
    close(said[1]);
    close(tell[0]);
    return (struct holder){.pid = pid, .said = said[0], .tell = tell[1]};
}

static char holder_says(struct holder *holder)
{
    char byte = '?';
    assert_int_equal(read(holder->said, &byte, 1), 1);
    return byte;
}

static char holder_checks(struct holder *holder)
{
    assert_int_equal(write(holder->tell, "?", 1), 1);
    return holder_says(holder);
}

static void holder_end(struct holder *holder, int signal_number)
{
    if (signal_number) kill(holder->pid, signal_number);
    close(holder->tell);
    close(holder->said);
    assert_int_equal(waitpid(holder->pid, NULL, 0), holder->pid);
}

static void epochs_count_up_and_start_above_at_least(void **state)
{
    (void)state;
    const char *folder = new_folder();
    struct coord_options options = {.output_dir = folder, .run_name = "first"};
    struct coord *coord;
    assert_ok(coord_join(&coord, &options, 0));
    assert_int_equal(coord_epoch(coord), 1);
    assert_ok(coord_check_owner(coord));
    coord_leave(coord);
    assert_ok(coord_join(&coord, &options, 41));
    assert_int_equal(coord_epoch(coord), 42);
    coord_leave(coord);
    assert_ok(coord_join(&coord, &options, 7));
    assert_int_equal(coord_epoch(coord), 43);
    coord_leave(coord);
    char *path = inside(folder, "epoch/e0000000042");
    assert_true(file_exists(path));
    free(path);
}

static void a_live_run_refuses_the_second_by_name(void **state)
{
    (void)state;
    struct coord_options options = {.output_dir = new_folder(), .run_name = "fin_stage1"};
    struct holder holder = holder_start(options);
    assert_int_equal(holder_says(&holder), 'J');
    struct coord *coord;
    char words[64];
    snprintf(words, sizeof words, "run \"fin_stage1\" on host ");
    assert_fails(coord_join(&coord, &options, 0), LORAD_CANNOT_CREATE, words);
    snprintf(words, sizeof words, "process %d, since 20", (int)holder.pid);
    assert_non_null(strstr(status_message(), words));
    assert_int_equal(holder_checks(&holder), 'O');
    holder_end(&holder, 0);
    assert_ok(coord_join(&coord, &options, 0));
    assert_int_equal(coord_epoch(coord), 2);
    coord_leave(coord);
}

static void a_killed_run_can_be_started_again_at_once(void **state)
{
    (void)state;
    struct coord_options options = {.output_dir = new_folder(), .run_name = "killed"};
    struct holder holder = holder_start(options);
    assert_int_equal(holder_says(&holder), 'J');
    holder_end(&holder, SIGKILL);
    struct coord *coord;
    int64_t start = clock_monotonic_ns();
    assert_ok(coord_join(&coord, &options, 0));
    assert_true(clock_seconds_since(start) < 2);
    coord_leave(coord);
}

static void the_same_job_restarted_fences_its_earlier_start(void **state)
{
    (void)state;
    struct coord_options options = {.output_dir = new_folder(), .run_name = "job", .job_id = "77"};
    struct holder holder = holder_start(options);
    assert_int_equal(holder_says(&holder), 'J');
    struct coord *coord;
    int64_t began;
    assert_fails(coord_join(&coord, &options, 0), LORAD_CANNOT_CREATE, "in use");
    options.restart_count = 1;
    assert_ok(coord_join(&coord, &options, 0));
    assert_int_equal(holder_checks(&holder), 'F');
    assert_ok(coord_job_began(&began, coord));
    assert_int_equal(began, 1);
    assert_int_equal(coord_epoch(coord), 2);
    assert_ok(coord_check_owner(coord));
    struct coord *other;
    struct coord_options stranger = {.output_dir = options.output_dir, .run_name = "other", .job_id = "78"};
    stranger.restart_count = 5;
    assert_fails(coord_join(&other, &stranger, 0), LORAD_CANNOT_CREATE, "in use");
    holder_end(&holder, 0);
    coord_leave(coord);
    assert_ok(coord_join(&other, &stranger, 0));
    assert_ok(coord_job_began(&began, other));
    assert_int_equal(began, 3);
    coord_leave(other);
}

static void a_takeover_fences_a_live_owner(void **state)
{
    (void)state;
    struct coord_options options = {.output_dir = new_folder(), .run_name = "old"};
    struct holder holder = holder_start(options);
    assert_int_equal(holder_says(&holder), 'J');
    options.takeover = true;
    options.run_name = "new";
    struct coord *coord;
    assert_ok(coord_join(&coord, &options, 0));
    assert_int_equal(holder_checks(&holder), 'F');
    holder_end(&holder, 0);
    coord_leave(coord);
}

/* Both start at the same instant; the winner stays until both have spoken, then dies without leaving. */
static void of_two_racing_starts_exactly_one_wins(void **state)
{
    (void)state;
    struct coord_options options = {.output_dir = new_folder(), .run_name = "race"};
    for (int race = 0; race < 20; race++) {
        struct holder one = holder_start(options), two = holder_start(options);
        char a = holder_says(&one), b = holder_says(&two);
        assert_true((a == 'J' && b == 'R') || (a == 'R' && b == 'J'));
        holder_end(&one, SIGKILL);
        holder_end(&two, SIGKILL);
    }
    struct coord *coord;
    assert_ok(coord_join(&coord, &options, 0));
    assert_int_equal(coord_epoch(coord), 21);
    coord_leave(coord);
}

static const char foreign[] = "{\"host\": \"node17\", \"boot\": \"other\", \"run\": \"far\", \"job\": \"9\", "
                              "\"since\": \"2026-01-01T00:00:00Z\", \"phase\": \"train\", \"time\": \"\", "
                              "\"pid\": 12, \"restart\": 0, \"epoch\": 3, \"step\": 120}\n";

static void a_fresh_heartbeat_of_another_host_refuses(void **state)
{
    (void)state;
    const char *folder = new_folder();
    write_text(folder, "heartbeat.json", foreign);
    struct coord_options options = {.output_dir = folder, .run_name = "near"};
    struct coord *coord;
    assert_fails(coord_join(&coord, &options, 0), LORAD_CANNOT_CREATE, "host node17, process 12");
    assert_non_null(strstr(status_message(), "at step 120"));
    options.job_id = "9";
    options.restart_count = 2;
    assert_ok(coord_join(&coord, &options, 0));
    coord_leave(coord);
}

static void move_heartbeat(const char *folder, int64_t seconds)
{
    char *path = inside(folder, "heartbeat.json");
    struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_NOW}};
    clock_gettime(CLOCK_REALTIME, &times[1]);
    times[1].tv_sec += seconds;
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    free(path);
}

static void a_stale_heartbeat_of_another_host_gives_way(void **state)
{
    (void)state;
    const char *folder = new_folder();
    write_text(folder, "heartbeat.json", foreign);
    move_heartbeat(folder, -3600);
    struct coord_options options = {.output_dir = folder, .run_name = "near", .heartbeat_ms = 50};
    struct coord *coord;
    assert_ok(coord_join(&coord, &options, 0));
    coord_leave(coord);
}

/* Joining while another process stamps the heartbeat with a clock that is so far off. */
static enum status join_beside(const char *folder, int64_t seconds)
{
    write_text(folder, "heartbeat.json", foreign);
    move_heartbeat(folder, seconds);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (;;) {
            clock_sleep_ms(20);
            move_heartbeat(folder, seconds);
        }
    }
    struct coord_options options = {.output_dir = folder, .run_name = "near", .heartbeat_ms = 200};
    struct coord *coord;
    enum status status = coord_join(&coord, &options, 0);
    if (status == LORAD_OK) coord_leave(coord);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return status;
}

static void an_old_but_beating_heartbeat_refuses(void **state)
{
    (void)state;
    assert_int_equal(join_beside(new_folder(), -3600), LORAD_CANNOT_CREATE);
    assert_int_equal(join_beside(new_folder(), 3600), LORAD_CANNOT_CREATE);
}

/* A clock that was set back does not lock the folder for as long as it was set back. */
static void a_dead_heartbeat_from_the_future_gives_way(void **state)
{
    (void)state;
    const char *folder = new_folder();
    write_text(folder, "heartbeat.json", foreign);
    move_heartbeat(folder, 3600);
    struct coord_options options = {.output_dir = folder, .run_name = "near", .heartbeat_ms = 50};
    struct coord *coord;
    assert_ok(coord_join(&coord, &options, 0));
    coord_leave(coord);
}

static void a_held_folder_refuses_runs_and_a_run_refuses_a_hold(void **state)
{
    (void)state;
    struct coord_options options = {.output_dir = new_folder(), .run_name = "run"};
    struct coord_hold *hold;
    struct coord *coord;
    assert_ok(coord_join(&coord, &options, 0));
    assert_fails(coord_hold(&hold, options.output_dir, "tidying"), LORAD_CANNOT_CREATE, "run \"run\"");
    coord_leave(coord);
    assert_ok(coord_hold(&hold, options.output_dir, "tidying"));
    assert_fails(coord_join(&coord, &options, 0), LORAD_CANNOT_CREATE, "\"tidying\"");
    coord_release(hold);
    assert_ok(coord_join(&coord, &options, 0));
    assert_int_equal(coord_epoch(coord), 2); /* holding claims none */
    coord_leave(coord);
}

static void heartbeats_tell_step_and_phase_and_the_end(void **state)
{
    (void)state;
    const char *folder = new_folder();
    char *path = inside(folder, "heartbeat.json");
    struct coord_options options = {.output_dir = folder, .run_name = "beats", .heartbeat_ms = 10};
    struct coord *coord;
    assert_ok(coord_join(&coord, &options, 0));
    coord_heartbeat(coord, 17, "train");
    int64_t step = 0;
    for (int i = 0; i < 500 && step != 17; i++) {
        struct json *document;
        clock_sleep_ms(10);
        assert_ok(js_read_file(&document, path, 1 << 16));
        step = js_int(js_get(document, "step"), -1);
        if (step == 17) assert_string_equal(js_string(js_get(document, "phase"), NULL), "train");
        js_destroy(document);
    }
    assert_int_equal(step, 17);
    coord_leave(coord);
    struct json *document;
    assert_ok(js_read_file(&document, path, 1 << 16));
    assert_string_equal(js_string(js_get(document, "phase"), NULL), "ended");
    js_destroy(document);
    free(path);
}

static enum status check_step_within_a_second(struct coord *coord)
{
    enum status status = LORAD_OK;
    for (int i = 0; i < 100 && status == LORAD_OK; i++) {
        clock_sleep_ms(10);
        status = coord_check_step(coord);
    }
    return status;
}

static void a_step_learns_of_a_later_epoch_from_the_heartbeat(void **state)
{
    (void)state;
    const char *folder = new_folder();
    struct coord_options options = {.output_dir = folder, .run_name = "steps", .heartbeat_ms = 20};
    struct coord *coord;
    assert_ok(coord_join(&coord, &options, 0));
    assert_ok(coord_check_step(coord));
    write_text(folder, "epoch/e0000000009", "{\"run\": \"later\", \"host\": \"far\"}");
    assert_fails(check_step_within_a_second(coord), LORAD_FENCED, "run \"later\" on host far");
    assert_fails(coord_check_step(coord), LORAD_FENCED, "took over");
    coord_leave(coord);
}

/* The process was stopped: its thread has not looked for long, and may not be the first that runs again. */
static void a_step_after_a_long_sleep_looks_itself(void **state)
{
    (void)state;
    const char *folder = new_folder();
    struct coord_options options = {.output_dir = folder, .run_name = "sleeper", .heartbeat_ms = 40};
    int tell[2];
    assert_int_equal(pipe(tell), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct coord *coord;
        if (coord_join(&coord, &options, 0) != LORAD_OK) _exit(1);
        int64_t start = clock_monotonic_ns();
        if (write(tell[1], "J", 1) != 1) _exit(1);
        while (clock_monotonic_ns() - start < 300000000) continue; /* stopped in here for longer */
        bool fenced = coord_check_step(coord) == LORAD_FENCED;
        coord_leave(coord);
        _exit(fenced ? 0 : 2);
    }
    char byte;
    assert_int_equal(read(tell[0], &byte, 1), 1);
    kill(pid, SIGSTOP);
    write_text(folder, "epoch/e0000000009", "{}");
    clock_sleep_ms(400);
    kill(pid, SIGCONT);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(tell[0]);
    close(tell[1]);
}

/* Whether a heartbeat is stale is counted in the periods of who wrote it. */
static void the_period_is_the_owners(void **state)
{
    (void)state;
    const char *folder = new_folder();
    write_text(folder, "heartbeat.json",
               "{\"host\": \"far\", \"boot\": \"other\", \"run\": \"r\", \"phase\": \"train\", "
               "\"pid\": 1, \"period_ms\": 20}");
    move_heartbeat(folder, -2);
    struct coord_options options = {.output_dir = folder, .run_name = "near"}; /* 5 s: not stale by these */
    struct coord *coord;
    assert_ok(coord_join(&coord, &options, 0));
    coord_leave(coord);
    setenv("LORAD_HEARTBEAT_MS", "70", 1);
    assert_ok(coord_join(&coord, &options, 0));
    unsetenv("LORAD_HEARTBEAT_MS");
    char *path = inside(folder, "heartbeat.json");
    struct json *document;
    assert_ok(js_read_file(&document, path, 1 << 16));
    assert_int_equal(js_int(js_get(document, "period_ms"), 0), 70);
    js_destroy(document);
    free(path);
    coord_leave(coord);
}

static bool fenced(const char *folder, int64_t step, int64_t epoch)
{
    bool is = false;
    assert_ok(coord_is_fenced(&is, folder, step, epoch));
    return is;
}

static void checkpoints_behind_a_later_resume_are_void(void **state)
{
    (void)state;
    const char *folder = new_folder();
    assert_false(fenced(folder, 10, 1));
    struct coord_options options = {.output_dir = folder, .run_name = "fence"};
    struct coord *coord;
    assert_ok(coord_join(&coord, &options, 0));
    assert_ok(coord_record_resume(coord, 0, 0, ""));
    coord_leave(coord);
    assert_ok(coord_join(&coord, &options, 0)); /* epoch 2 starts from step 20 of epoch 1 */
    assert_ok(coord_record_resume(coord, 20, 1, "abc\"def"));
    coord_leave(coord);
    assert_ok(coord_join(&coord, &options, 0)); /* epoch 3 died before it resumed: fences nothing */
    coord_leave(coord);

    assert_false(fenced(folder, 20, 1));
    assert_true(fenced(folder, 21, 1));
    assert_true(fenced(folder, 1, 0));
    assert_false(fenced(folder, 30, 2));
    assert_false(fenced(folder, 30, 3));

    struct json *document;
    char *path = inside(folder, "epoch/e0000000002.resume");
    assert_ok(js_read_file(&document, path, 1 << 16));
    assert_int_equal(js_int(js_get(document, "base_epoch"), -1), 1);
    assert_string_equal(js_string(js_get(document, "base_manifest"), NULL), "abc\"def");
    js_destroy(document);
    free(path);

    write_text(folder, "epoch/e0000000002.resume", "{\"base_st");
    bool is;
    assert_fails(coord_is_fenced(&is, folder, 10, 1), LORAD_DATA, "e0000000002.resume");
    assert_false(fenced(folder, 10, 2));
}

/* A wrong number in it would make void checkpoints good, or good ones void. */
static void every_changed_bit_of_a_resume_record_is_seen(void **state)
{
    (void)state;
    struct coord_options options = {.output_dir = new_folder(), .run_name = "bits"};
    char *path = inside(options.output_dir, "epoch/e0000000001.resume"), *bytes;
    size_t length;
    struct coord *coord;
    assert_ok(coord_join(&coord, &options, 0));
    assert_ok(coord_record_resume(coord, 1200, 0, "00112233445566778899aabbccddeeff"));
    coord_leave(coord);
    assert_ok(file_read(&bytes, &length, path, 1 << 16));
    for (size_t bit = 0; bit < length * 8; bit++) {
        bool is;
        bytes[bit / 8] ^= (char)(1 << bit % 8);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        assert_int_equal(fwrite(bytes, 1, length, file), length);
        assert_int_equal(fclose(file), 0);
        assert_fails(coord_is_fenced(&is, options.output_dir, 1300, 0), LORAD_DATA, "resume");
        bytes[bit / 8] ^= (char)(1 << bit % 8);
    }
    free(bytes);
    free(path);
}

static void names_that_are_no_epochs_are_ignored(void **state)
{
    (void)state;
    const char *folder = new_folder();
    struct coord_options options = {.output_dir = folder, .run_name = "names"};
    struct coord *coord;
    assert_ok(coord_join(&coord, &options, 0));
    coord_leave(coord);
    write_text(folder, "epoch/e0000000009.resume.tmp", "");
    write_text(folder, "epoch/e12", "");
    write_text(folder, "epoch/notes", "");
    assert_ok(coord_join(&coord, &options, 0));
    assert_int_equal(coord_epoch(coord), 2);
    coord_leave(coord);
}

static void a_folder_that_cannot_be_written_is_named(void **state)
{
    (void)state;
    struct coord_options options = {.output_dir = "/proc", .run_name = "none"};
    struct coord *coord;
    assert_fails(coord_join(&coord, &options, 0), LORAD_CANNOT_CREATE, "/proc/LOCK");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(epochs_count_up_and_start_above_at_least),
        cmocka_unit_test(a_live_run_refuses_the_second_by_name),
        cmocka_unit_test(a_killed_run_can_be_started_again_at_once),
        cmocka_unit_test(the_same_job_restarted_fences_its_earlier_start),
        cmocka_unit_test(a_takeover_fences_a_live_owner),
        cmocka_unit_test(of_two_racing_starts_exactly_one_wins),
        cmocka_unit_test(a_fresh_heartbeat_of_another_host_refuses),
        cmocka_unit_test(a_stale_heartbeat_of_another_host_gives_way),
        cmocka_unit_test(an_old_but_beating_heartbeat_refuses),
        cmocka_unit_test(a_dead_heartbeat_from_the_future_gives_way),
        cmocka_unit_test(a_held_folder_refuses_runs_and_a_run_refuses_a_hold),
        cmocka_unit_test(heartbeats_tell_step_and_phase_and_the_end),
        cmocka_unit_test(a_step_learns_of_a_later_epoch_from_the_heartbeat),
        cmocka_unit_test(a_step_after_a_long_sleep_looks_itself),
        cmocka_unit_test(the_period_is_the_owners),
        cmocka_unit_test(checkpoints_behind_a_later_resume_are_void),
        cmocka_unit_test(every_changed_bit_of_a_resume_record_is_seen),
        cmocka_unit_test(names_that_are_no_epochs_are_ignored),
        cmocka_unit_test(a_folder_that_cannot_be_written_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
