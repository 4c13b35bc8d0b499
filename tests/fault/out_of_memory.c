/*
 * Memory that runs out at the n-th allocation, for every n, while a checkpoint is saved, read, examined and
 * collected, and while a configuration is read: a clean error each time, nothing lost, nothing leaked (with
 * the address sanitizer).
 *
 * Without sanitizers the allocator of the whole process fails, that of zstd and jansson too; with them only
 * that of lorad (ld --wrap; see tests/CMakeLists.txt), since theirs has to stay in place.
 */
#include "support/test.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "launch/config.h"
#include "support/checkpoint_resume.h"
#include "support/checkpoint_state.h"
#include "support/crash_job.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HOOK(name) __wrap_##name
#define REAL(name) __real_##name
#else
#define HOOK(name)           name
#define REAL(name)           __libc_##name
#define __libc_aligned_alloc __libc_memalign
#endif

void *REAL(malloc)(size_t size);
void *REAL(calloc)(size_t count, size_t size);
void *REAL(realloc)(void *block, size_t size);
void *REAL(aligned_alloc)(size_t alignment, size_t size);
void *HOOK(malloc)(size_t size);
void *HOOK(calloc)(size_t count, size_t size);
void *HOOK(realloc)(void *block, size_t size);
void *HOOK(aligned_alloc)(size_t alignment, size_t size);

static _Thread_local int64_t left = -1; /* allocations until one fails; < 0: none does */
static _Thread_local bool stays, fired;

static bool fails(void)
{
    if (left < 0) return false;
    if (left > 0) {
        left--;
        return false;
    }
    if (!stays) left = -1;
    fired = true;
    errno = ENOMEM;
    return true;
}

void *HOOK(malloc)(size_t size)
{
    return fails() ? NULL : REAL(malloc)(size);
}

void *HOOK(calloc)(size_t count, size_t size)
{
    return fails() ? NULL : REAL(calloc)(count, size);
}

void *HOOK(realloc)(void *block, size_t size)
{
    return fails() ? NULL : REAL(realloc)(block, size);
}

void *HOOK(aligned_alloc)(size_t alignment, size_t size)
{
    return fails() ? NULL : REAL(aligned_alloc)(alignment, size);
}

/* ---- jobs ---- */

enum { WORLD = 2, MOST_CALLS = 100000 };
static const struct checkpoint_id first = {1, 1, 0}, second = {2, 1, 0};
static char out[600];

static void none(void)
{
}

static void one(void)
{
    assert_ok(fs_remove_tree(fs_quick(), out));
    assert_int_equal(mkdir(out, 0777), 0);
    assert_ok(state_save(fs_quick(), out, first, WORLD, false));
}

static void two(void)
{
    one();
    assert_ok(state_save(fs_quick(), out, second, WORLD, false));
}

static enum status save(void)
{
    return state_save(fs_quick(), out, second, WORLD, true);
}

static void first_is_whole(bool done)
{
    (void)done;
    assert_ok(state_verify(out, first));
}

static void first_and_what_is_done(bool done)
{
    assert_ok(state_verify(out, first));
    if (done) assert_ok(state_verify(out, second));
}

static enum status load(void)
{
    return state_verify(out, first);
}

static enum status examine(void)
{
    struct strbuf problems = STRBUF_EMPTY;
    char dir[700];
    snprintf(dir, sizeof dir, "%s/ckpt/s000000001.e0000001.a0", out);
    enum status status = checkpoint_examine(&problems, dir);
    strbuf_free(&problems);
    return status;
}

static enum status collect(void)
{
    return state_collect(fs_quick(), out, 1, -1);
}

static void newest_is_whole(bool done)
{
    (void)done;
    assert_ok(state_verify(out, second));
}

static enum status compare(struct checkpoint *checkpoint, void *context)
{
    (void)context;
    return state_compare(checkpoint);
}

static enum status resume(void)
{
    struct resume_result from;
    return resume_newest(&from, fs_quick(), out, compare, NULL);
}

/* Memory that runs out is no damage: nothing goes to quarantine for it. */
static void both_are_whole(bool done)
{
    (void)done;
    assert_int_equal(state_left(out, true), 12);
    assert_ok(state_verify(out, first));
    assert_ok(state_verify(out, second));
}

static enum status list_leftovers(void)
{
    struct checkpoint_leftover *leftovers;
    size_t n;
    TRY(checkpoint_leftovers(&leftovers, &n, out));
    checkpoint_leftovers_free(leftovers, n);
    return LORAD_OK;
}

static enum status parse_config(void)
{
    struct config *config;
    const char *const sets[] = {"learning_rate=1e-4", "lora_target=q_proj,v_proj"};
    TRY(config_load(&config, LORAD_SOURCE_DIR "/configs/fin_stages.yaml", sets, 2));
    enum status status = config_status(config);
    config_destroy(config);
    return status;
}

static void nothing(bool done)
{
    (void)done;
}

static const struct job {
    const char *name;
    void (*prepare)(void);
    enum status (*work)(void);
    void (*check)(bool done);
} jobs[] = {
    {"save at world 2", one, save, first_and_what_is_done},
    {"open, verify and read", one, load, first_is_whole},
    {"examine", one, examine, first_is_whole},
    {"resume", two, resume, both_are_whole},
    {"collect", two, collect, newest_is_whole},
    {"list what is left over", two, list_leftovers, both_are_whole},
    {"read a configuration", none, parse_config, nothing},
};

/* Whether an allocation failed: at its number `at`, and at all later ones with `for_good`. */
static bool run_once(const struct job *job, int64_t at, bool for_good)
{
    job->prepare();
    fired = false;
    stays = for_good;
    left = at;
    enum status status = job->work();
    left = -1;
    if (!fired) assert_int_equal(status, LORAD_OK);
    if (status != LORAD_OK && status != LORAD_NOMEM && status != LORAD_IO && status != LORAD_NOT_FOUND)
        fail_msg("%s, allocation %lld: %s: %s", job->name, (long long)at, status_name(status),
                 status_message());
    if (status != LORAD_OK && !*status_message())
        fail_msg("%s, allocation %lld fails without a word", job->name, (long long)at);
    job->check(status == LORAD_OK);
    return fired;
}

static void every_allocation_fails(bool for_good)
{
    for (size_t j = 0; j < sizeof jobs / sizeof *jobs; j++) {
        int64_t n = 0;
        while (run_once(&jobs[j], n, for_good)) assert_true(++n < MOST_CALLS);
        print_message("%6lld allocations: %s\n", (long long)n, jobs[j].name);
        assert_true(n > 2);
    }
}

static void memory_that_is_short_once_is_a_clean_error(void **state)
{
    (void)state;
    every_allocation_fails(false);
}

static void memory_that_stays_short_is_a_clean_error(void **state)
{
    (void)state;
    every_allocation_fails(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_that_is_short_once_is_a_clean_error),
        cmocka_unit_test(memory_that_stays_short_is_a_clean_error),
    };
    log_set_level(LOG_ERROR + 1);
    crash_use_memory();
    snprintf(out, sizeof out, "%s/out", test_tmpdir());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
