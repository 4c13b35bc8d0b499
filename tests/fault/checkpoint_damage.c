/* Damage at rest: every byte of every file of a checkpoint changed, files cut, grown, exchanged and removed.
 */
#include "support/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/random.h"
#include "support/checkpoint_state.h"
#include "support/crash_job.h"
#include "support/fs_crash.h"

enum { WORLD = 2, MAX_FILES = 8 };

static char folder[700], other[700];
static char paths[MAX_FILES][1000];
static int n_paths;

/* In place: truncating a file to write it again makes some file systems wait for the disk. */
static void put(const char *path, const char *bytes, size_t length)
{
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, length, 0), length);
    assert_int_equal(ftruncate(fd, (off_t)length), 0);
    assert_int_equal(close(fd), 0);
}

static void detected(const char *path, const char *what, size_t at)
{
    enum status status = state_verify_dir(folder);
    if (status == LORAD_OK || status == LORAD_BUG || status == LORAD_NOMEM)
        fail_msg("%s, %s at %zu: %s", path, what, at, status == LORAD_OK ? "not seen" : status_message());
}

static int prepare(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "%s/ckpt/s000000007.e0000001.a0", test_tmpdir());
    snprintf(other, sizeof other, "%s/ckpt/s000000008.e0000001.a0", test_tmpdir());
    assert_ok(state_save(fs_quick(), test_tmpdir(), (struct checkpoint_id){7, 1, 0}, WORLD, false));
    assert_ok(state_save(fs_quick(), test_tmpdir(), (struct checkpoint_id){8, 1, 0}, WORLD, false));
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    const struct dirent *entry;
    while ((entry = readdir(dir))) {
        if (*entry->d_name == '.') continue;
        assert_true(n_paths < MAX_FILES);
        snprintf(paths[n_paths++], sizeof paths[0], "%s/%s", folder, entry->d_name);
    }
    closedir(dir);
    assert_int_equal(n_paths, WORLD + 4); /* shards, notes, adapter, manifest */
    return 0;
}

static void every_changed_byte_is_seen(void **state)
{
    (void)state;
    int n = 0;
    for (int f = 0; f < n_paths; f++) {
        char *bytes;
        size_t length;
        assert_ok(file_read(&bytes, &length, paths[f], SIZE_MAX));
        for (size_t i = 0; i < length; i++, n++) {
            struct random_block dice = random_philox(1, (uint64_t)f, i);
            char kept = bytes[i];
            bytes[i] = dice.word[0] % 4 ? (char)(kept ^ (1 << dice.word[1] % 8)) : (char)~kept;
            put(paths[f], bytes, length);
            detected(paths[f], "a changed byte", i);
            bytes[i] = kept;
        }
        put(paths[f], bytes, length);
        free(bytes);
    }
    assert_ok(state_verify_dir(folder));
    print_message("%d mutations\n", n);
    assert_true(n >= 2000);
}

static void every_length_is_seen(void **state)
{
    (void)state;
    for (int f = 0; f < n_paths; f++) {
        char *bytes;
        size_t length;
        assert_ok(file_read(&bytes, &length, paths[f], SIZE_MAX));
        for (size_t i = 0; i < length; i += 1 + length / 200) {
            assert_int_equal(truncate(paths[f], (off_t)i), 0);
            detected(paths[f], "cut", i);
            put(paths[f], bytes, length);
        }
        assert_int_equal(truncate(paths[f], (off_t)length + 1), 0);
        detected(paths[f], "grown", length);
        put(paths[f], bytes, length);

        char *zeros = calloc(length, 1);
        assert_non_null(zeros);
        put(paths[f], zeros, length);
        detected(paths[f], "zeros", 0);
        put(paths[f], bytes, length);
        free(zeros);
        free(bytes);
    }
    assert_ok(state_verify_dir(folder));
}

static void exchange(const char *a, const char *b)
{
    char middle[900];
    snprintf(middle, sizeof middle, "%s/exchange", test_tmpdir());
    assert_int_equal(rename(a, middle), 0);
    assert_int_equal(rename(b, a), 0);
    assert_int_equal(rename(middle, b), 0);
}

static void exchanged_and_missing_files_are_seen(void **state)
{
    (void)state;
    char path[2000], away[900];
    snprintf(away, sizeof away, "%s/away", test_tmpdir());
    for (int f = 0; f < n_paths; f++) {
        assert_int_equal(rename(paths[f], away), 0);
        detected(paths[f], "missing", 0);
        assert_int_equal(mkdir(paths[f], 0777), 0);
        detected(paths[f], "a folder", 0);
        assert_int_equal(rmdir(paths[f]), 0);
        assert_int_equal(symlink(away, paths[f]), 0);
        if (!strstr(paths[f], "MANIFEST")) detected(paths[f], "a link", 0);
        assert_int_equal(unlink(paths[f]), 0);
        assert_int_equal(rename(away, paths[f]), 0);

        snprintf(path, sizeof path, "%s%s", other, strrchr(paths[f], '/'));
        if (!strstr(path,
                    "adapter_config")) { /* the same file of another checkpoint, unless it says the same */
            exchange(paths[f], path);
            detected(paths[f], "exchanged", 0);
            exchange(paths[f], path);
        }
        for (int g = 0; g < f; g++) {
            exchange(paths[f], paths[g]);
            detected(paths[f], "exchanged with its neighbour", (size_t)g);
            exchange(paths[f], paths[g]);
        }
    }
    assert_ok(state_verify_dir(folder));
}

/* Without verification the hashes of files are not read, but what is read is checked. */
static void unverified_reading_gives_no_wrong_value(void **state)
{
    (void)state;
    int refused = 0;
    for (int f = 0; f < n_paths; f++) {
        char *bytes;
        size_t length;
        if (!strstr(paths[f], "shard-")) continue;
        assert_ok(file_read(&bytes, &length, paths[f], SIZE_MAX));
        for (size_t i = 0; i < length; i += 3) {
            static const int64_t shape[2] = {STATE_ROWS, STATE_COLS};
            float good[STATE_ROWS * STATE_COLS], values[STATE_ROWS * STATE_COLS];
            struct checkpoint *checkpoint = NULL;
            assert_ok(checkpoint_open(&checkpoint, folder, false));
            assert_ok(checkpoint_read(checkpoint, "w", "F32", shape, 0, STATE_ROWS, 0, STATE_COLS, good));
            checkpoint_close(checkpoint);
            bytes[i] ^= 4;
            put(paths[f], bytes, length);
            checkpoint = NULL;
            if (checkpoint_open(&checkpoint, folder, false) != LORAD_OK ||
                checkpoint_read(checkpoint, "w", "F32", shape, 0, STATE_ROWS, 0, STATE_COLS, values) !=
                    LORAD_OK)
                refused++;
            else
                assert_memory_equal(values, good, sizeof good);
            checkpoint_close(checkpoint);
            bytes[i] ^= 4;
            put(paths[f], bytes, length);
        }
        free(bytes);
    }
    assert_true(refused > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_changed_byte_is_seen),
        cmocka_unit_test(every_length_is_seen),
        cmocka_unit_test(exchanged_and_missing_files_are_seen),
        cmocka_unit_test(unverified_reading_gives_no_wrong_value),
    };
    crash_use_memory();
    return cmocka_run_group_tests(tests, prepare, NULL);
}
