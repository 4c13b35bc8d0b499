#include "support/test.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/thread.h"
#include "launch/signals.h"

static void *read_last(void *map)
{
    return (void *)(intptr_t)((const volatile char *)map)[(1 << 20) - 1];
}

/* The reader is a thread that leaves signals to the main one, as those of the loader do. */
static void a_file_that_is_cut_off_under_a_map_is_named(void **state)
{
    (void)state;
    char path[512], log[512], *text;
    size_t length;
    snprintf(path, sizeof path, "%s/rows with a blank.csv", test_tmpdir());
    snprintf(log, sizeof log, "%s/log", test_tmpdir());
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int fd = open(path, O_RDWR | O_CREAT, 0600), out = open(log, O_WRONLY | O_CREAT, 0600);
        if (ftruncate(fd, 1 << 20) != 0 || dup2(out, STDERR_FILENO) < 0) _exit(1);
        void *map = mmap(NULL, 1 << 20, PROT_READ, MAP_PRIVATE, fd, 0);
        signals_explain_bus();
        if (map == MAP_FAILED || ftruncate(fd, 0) != 0) _exit(1);
        pthread_t thread;
        if (thread_start(&thread, read_last, map) == 0) pthread_join(thread, NULL);
        _exit(1);
    }
    int result;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), status_exit_code(LORAD_IO));
    assert_ok(file_read(&text, &length, log, 1 << 16));
    assert_non_null(strstr(text, path));
    assert_non_null(strstr(text, "became shorter while it was read"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_that_is_cut_off_under_a_map_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
