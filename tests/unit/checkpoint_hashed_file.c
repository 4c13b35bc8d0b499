/* Files written in blocks and hashed on the way: bytes and hash whatever the pieces, and past the page cache.
 */
#include "support/test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/fs_impl.h"
#include "base/random.h"
#include "checkpoint/checkpoint_impl.h"
#include "checkpoint/hashed_file.h"

enum { BLOCK = 1 << 20, MOST = 3 * BLOCK + 5000 };

static char *noise;

static const char *place(const char *name)
{
    static char text[2][600];
    static int turn;
    char *path = text[turn++ % 2];
    snprintf(path, sizeof text[0], "%s/%s", test_tmpdir(), name);
    return path;
}

/* Writes the first `length` bytes of the noise in pieces of lengths up to `most_piece`. */
static void write_pieces(const char *path, size_t length, size_t most_piece)
{
    struct hashed_file *file;
    struct hash128 hash;
    int64_t bytes;
    (void)unlink(path);
    assert_ok(hashed_file_begin(&file, fs_posix(), path));
    for (size_t at = 0, i = 0; at < length; i++) {
        size_t n = 1 + random_philox(5, length, i).word[0] % most_piece;
        if (n > length - at) n = length - at;
        assert_ok(hashed_file_put(file, noise + at, n));
        assert_ok(hashed_file_put(file, noise, 0));
        at += n;
    }
    assert_false(file_exists(path));
    assert_ok(hashed_file_finish(file, &hash, &bytes));
    assert_int_equal(bytes, length);
    assert_true(hash128_equal(hash, hash128(noise, length)));
}

static void any_pieces_give_the_same_file(void **state)
{
    (void)state;
    static const size_t lengths[] = {
        0, 1, 4095, 4096, 4097, 65536, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 4096, 3 * BLOCK, MOST};
    static const size_t pieces[] = {1000, 70000, BLOCK + 17, MOST};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t k = 0; k < sizeof pieces / sizeof *pieces; k++) {
            char *bytes;
            size_t length;
            write_pieces(place("file"), lengths[i], pieces[k]);
            assert_ok(file_read(&bytes, &length, place("file"), MOST));
            assert_int_equal(length, lengths[i]);
            if (length > 0) assert_memory_equal(bytes, noise, length);
            free(bytes);
            for (int from_disk = 0; from_disk < 2; from_disk++) {
                struct hash128 hash;
                int64_t n;
                assert_ok(checkpoint_hash_file(&hash, &n, place("file"), from_disk));
                assert_int_equal(n, length);
                assert_true(hash128_equal(hash, hash128(noise, length)));
            }
        }
}

static bool is_local_disk(const char *path)
{
    struct statfs info;
    assert_int_equal(statfs(path, &info), 0);
    return info.f_type == EXT4_SUPER_MAGIC || info.f_type == XFS_SUPER_MAGIC;
}

/* Pages of the file that lie in memory. */
static int cached_pages(const char *path, size_t length)
{
    size_t n = (length + 4095) / 4096;
    unsigned char resident[MOST / 4096 + 1];
    int fd = open(path, O_RDONLY), cached = 0;
    void *map = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    assert_int_equal(mincore(map, length, resident), 0);
    for (size_t i = 0; i < n; i++) cached += resident[i] & 1;
    munmap(map, length);
    close(fd);
    return cached;
}

/* Neither writing nor reading back leaves the long part of a file in the page cache. */
static void the_page_cache_is_left_alone(void **state)
{
    (void)state;
    struct hash128 hash;
    int64_t bytes;
    if (!is_local_disk(test_tmpdir()) || sysconf(_SC_PAGESIZE) != 4096) {
        print_message("skipped: the folder for tests is on no file system whose cache is bypassed\n");
        skip();
    }
    write_pieces(place("file"), MOST, 70000);
    assert_in_range(cached_pages(place("file"), MOST), 0, 2); /* its end is no whole page */
    assert_ok(checkpoint_hash_file(&hash, &bytes, place("file"), true));
    assert_in_range(cached_pages(place("file"), MOST), 0, 2);
    assert_ok(checkpoint_hash_file(&hash, &bytes, place("file"), false));
    assert_in_range(cached_pages(place("file"), MOST), 700, MOST);
}

/* ---- a file system that fails ---- */

static int writes_left;

static ssize_t write_until(void *context, int fd, const void *bytes, size_t length)
{
    (void)context;
    if (writes_left-- == 0) return -ENOSPC;
    return fs_posix()->ops->write(NULL, fd, bytes,
                                  length > 100000 ? length / 2 : length); /* and short ones */
}

static int files_in_folder(void)
{
    int n = 0;
    DIR *folder = opendir(test_tmpdir());
    assert_non_null(folder);
    while (readdir(folder)) n++;
    closedir(folder);
    return n;
}

static void a_failed_write_leaves_nothing(void **state)
{
    (void)state;
    struct fs_ops ops = *fs_posix()->ops;
    struct fs fs = {&ops, NULL};
    int ends = 0, before = files_in_folder();
    ops.write = write_until;
    for (int fail_at = 0; ends < 2; fail_at++) {
        struct hashed_file *file;
        struct hash128 hash;
        int64_t bytes;
        writes_left = fail_at;
        assert_ok(hashed_file_begin(&file, &fs, place("full")));
        enum status status = hashed_file_put(file, noise, MOST);
        if (status == LORAD_OK)
            status = hashed_file_finish(file, &hash, &bytes);
        else
            hashed_file_discard(file);
        assert_int_equal(file_exists(place("full")), status == LORAD_OK);
        assert_true(status == LORAD_OK || status == LORAD_IO);
        ends += status == LORAD_OK;
        if (status != LORAD_OK) continue;
        assert_true(hash128_equal(hash, hash128(noise, MOST)));
        assert_ok(checkpoint_check_file(place("full"), MOST, hash, true));
        assert_int_equal(unlink(place("full")), 0);
    }
    assert_int_equal(files_in_folder(), before);
}

int main(void)
{
    noise = malloc(MOST);
    if (!noise) return 1;
    for (size_t i = 0; i < MOST; i++) noise[i] = (char)random_philox(3, i / 4, 0).word[i % 4];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_pieces_give_the_same_file),
        cmocka_unit_test(the_page_cache_is_left_alone),
        cmocka_unit_test(a_failed_write_leaves_nothing),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(noise);
    return failed;
}
