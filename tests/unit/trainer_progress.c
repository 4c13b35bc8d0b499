#include "support/test.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "trainer/progress.h"

static struct step_record middle(void)
{
    return (struct step_record){
        .step = 420,
        .total_steps = 1000,
        .epoch = 1.5,
        .loss = 2.12345,
        .grad_norm = 0.834,
        .learning_rate = 1.9e-4,
        .tokens = 6150,
        .slots = 6200,
        .step_seconds = 0.5,
    };
}

static void a_wide_bar_shows_everything(void **state)
{
    (void)state;
    char text[256];
    struct step_record record = middle();
    size_t length = progress_bar_text(text, sizeof text, 200, &record, 754, "saving");
    assert_int_equal(length, strlen(text));
    assert_string_equal(text,
                        " 42% [##########..............] 420/1000  loss 2.1235  lr 1.90e-04  norm 0.834  "
                        "12.3k tok/s  real 99.2%  left 12:34  saving");
}

static void a_narrow_bar_drops_fields_and_keeps_the_time_left(void **state)
{
    (void)state;
    char text[256];
    struct step_record record = middle();
    for (int width = 1; width < 160; width++) {
        size_t length = progress_bar_text(text, sizeof text, width, &record, 3754, NULL);
        assert_true(length <= (size_t)width);
        if (width >= 45) assert_non_null(strstr(text, "left 1:02:34"));
        if (width >= 60) assert_non_null(strstr(text, "loss 2.1235"));
    }
}

static void before_the_first_step_there_is_only_the_count(void **state)
{
    (void)state;
    char text[256];
    struct step_record record = {.total_steps = 30};
    progress_bar_text(text, sizeof text, 80, &record, -1, NULL);
    assert_string_equal(text, "  0% [........] 0/30");
}

static void nothing_open_is_fine(void **state)
{
    (void)state;
    struct step_record record = middle();
    struct eval_record eval = {0};
    progress_step(NULL, &record, true);
    progress_eval(NULL, &eval);
    progress_note(NULL, "saving");
    progress_close(NULL);
}

/* Standard error of `body`, as text. */
static char *captured(void (*body)(void))
{
    char path[512], *text = NULL;
    size_t length = 0;
    snprintf(path, sizeof path, "%s/stderr", test_tmpdir());
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600), old = dup(STDERR_FILENO);
    assert_true(file >= 0 && old >= 0);
    dup2(file, STDERR_FILENO);
    body();
    dup2(old, STDERR_FILENO);
    close(old);
    close(file);
    assert_ok(file_read(&text, &length, path, 1 << 20));
    return text;
}

static void draw_with_a_log_line(void)
{
    struct progress *progress;
    setenv("COLUMNS", "80", 1);
    if (progress_open(&progress, PROGRESS_BAR, 0, 3) != LORAD_OK) return;
    for (int64_t step = 1; step <= 3; step++) {
        struct step_record record = middle();
        record.step = step;
        record.total_steps = 3;
        progress_step(progress, &record, false);
        if (step == 2) log_warn("something");
    }
    progress_close(progress);
    log_warn("afterwards");
}

static void the_bar_and_log_lines_do_not_mix(void **state)
{
    (void)state;
    char *text = captured(draw_with_a_log_line);
    assert_non_null(strstr(text, "\r\033[Klorad: warning: something\n\r  0% ["));
    assert_non_null(strstr(text, "100% [########] 3/3"));
    const char *end = strstr(text, "\033[K\nlorad: warning: afterwards\n");
    assert_non_null(end);
    assert_int_equal(strlen(end), strlen("\033[K\nlorad: warning: afterwards\n"));
    free(text);
}

static void print_lines(void)
{
    struct progress *progress;
    if (progress_open(&progress, PROGRESS_LINES, 419, 1000) != LORAD_OK) return;
    struct step_record record = middle();
    progress_note(progress, "saving");
    progress_step(progress, &record, false);
    progress_step(progress, &record, true);
    progress_close(progress);
}

static void lines_are_plain_and_only_for_logged_steps(void **state)
{
    (void)state;
    char *text = captured(print_lines);
    const char *start =
        "lorad: step 420/1000  epoch 1.50  loss 2.1235  lr 1.900e-04  norm 0.834  12.3k tok/s  "
        "real 99.2%  left ";
    assert_int_equal(strncmp(text, start, strlen(start)), 0);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_null(strchr(text, '\r'));
    free(text);
}

static int picked;

static void pick(void)
{
    picked = (int)progress_pick(PROGRESS_AUTO);
}

static void auto_is_lines_into_a_file(void **state)
{
    (void)state;
    unsetenv("OMPI_COMM_WORLD_SIZE");
    free(captured(pick));
    assert_int_equal(picked, PROGRESS_LINES);
    assert_int_equal(progress_pick(PROGRESS_BAR), PROGRESS_BAR);
}

/* A rank whose parent is no mpirun cannot know where its output goes. */
static void auto_is_lines_for_a_rank_with_an_unknown_parent(void **state)
{
    (void)state;
    setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
    assert_int_equal(progress_pick(PROGRESS_AUTO), PROGRESS_LINES);
    unsetenv("OMPI_COMM_WORLD_SIZE");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wide_bar_shows_everything),
        cmocka_unit_test(a_narrow_bar_drops_fields_and_keeps_the_time_left),
        cmocka_unit_test(before_the_first_step_there_is_only_the_count),
        cmocka_unit_test(nothing_open_is_fine),
        cmocka_unit_test(the_bar_and_log_lines_do_not_mix),
        cmocka_unit_test(lines_are_plain_and_only_for_logged_steps),
        cmocka_unit_test(auto_is_lines_into_a_file),
        cmocka_unit_test(auto_is_lines_for_a_rank_with_an_unknown_parent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
