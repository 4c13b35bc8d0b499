/* Durable file operations on a real file system, and publishing where there are no links. */
#include "support/test.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/fs.h"
#include "base/fs_impl.h"

static const char *place(const char *name)
{
    static char text[4][600];
    static int turn;
    char *path = text[turn++ % 4];
    snprintf(path, sizeof text[0], "%s/%s", test_tmpdir(), name);
    return path;
}

static void holds(const char *path, const char *words)
{
    char *bytes;
    size_t length;
    assert_ok(file_read(&bytes, &length, path, 1000));
    assert_string_equal(bytes, words);
    free(bytes);
}

static void a_file_is_created_only_once(void **state)
{
    (void)state;
    struct fs_file *file;
    assert_ok(fs_create(&file, fs_posix(), place("once")));
    assert_ok(fs_write(file, "abc", 3));
    assert_ok(fs_sync(file));
    assert_ok(fs_close(file));
    assert_fails(fs_create(&file, fs_posix(), place("once")), LORAD_CANNOT_CREATE, "once");
    assert_fails(fs_create(&file, fs_posix(), place("no/folder")), LORAD_CANNOT_CREATE, "no/folder");
    holds(place("once"), "abc");
}

static void a_file_appears_whole_or_not_at_all(void **state)
{
    (void)state;
    struct fs_file *file;
    assert_ok(fs_write_file(fs_posix(), place("whole"), "old", 3));
    assert_ok(fs_begin(&file, fs_posix(), place("whole")));
    assert_ok(fs_write(file, "new", 3));
    holds(place("whole"), "old");
    fs_discard(file);
    holds(place("whole"), "old");
    assert_ok(fs_write_file(fs_posix(), place("whole"), "newer", 5));
    holds(place("whole"), "newer");
    assert_int_equal(mkdir(place("a folder"), 0777), 0);
    assert_fails(fs_write_file(fs_posix(), place("a folder"), "x", 1), LORAD_IO, "a folder");
}

static int no_links(void *context, const char *from, const char *to)
{
    (void)context, (void)from, (void)to;
    return -EPERM;
}

static void publish_replaces_nothing(struct fs *fs, const char *prefix)
{
    char name[4][64];
    const char *ends[] = {"a", "same", "other", "to"};
    for (int i = 0; i < 4; i++) {
        snprintf(name[i], sizeof name[i], "%s-%s", prefix, ends[i]);
        if (i < 3) assert_ok(fs_write_file(fs_posix(), place(name[i]), i == 2 ? "two" : "one", 3));
    }
    assert_ok(fs_publish(fs, place(name[0]), place(name[3])));
    assert_false(file_exists(place(name[0])));
    holds(place(name[3]), "one");
    assert_ok(fs_publish(fs, place(name[1]), place(name[3]))); /* as after a lost answer */
    assert_fails(fs_publish(fs, place(name[2]), place(name[3])), LORAD_CANNOT_CREATE, "cannot publish");
    holds(place(name[3]), "one");
    holds(place(name[2]), "two");
}

static void publishing_works_with_and_without_links(void **state)
{
    (void)state;
    struct fs_ops ops = *fs_posix()->ops;
    struct fs fs = {&ops, NULL};
    ops.link = no_links;
    publish_replaces_nothing(fs_posix(), "links");
    publish_replaces_nothing(&fs, "renames");
}

static void links_are_swapped_and_not_followed(void **state)
{
    (void)state;
    char target[64];
    assert_ok(fs_symlink_swap(fs_posix(), "one", place("link")));
    assert_ok(fs_symlink_swap(fs_posix(), "kept", place("link")));
    ssize_t n = readlink(place("link"), target, sizeof target);
    assert_int_equal(n, 4);
    assert_memory_equal(target, "kept", 4);

    assert_ok(fs_mkdir(fs_posix(), place("kept")));
    assert_ok(fs_mkdir(fs_posix(), place("kept"))); /* there already is fine */
    assert_ok(fs_write_file(fs_posix(), place("kept/file"), "x", 1));
    assert_ok(fs_mkdir(fs_posix(), place("tree")));
    assert_ok(fs_mkdir(fs_posix(), place("tree/sub")));
    assert_ok(fs_write_file(fs_posix(), place("tree/sub/file"), "x", 1));
    assert_ok(fs_symlink_swap(fs_posix(), "../../kept", place("tree/sub/link")));
    assert_ok(fs_remove_tree(fs_posix(), place("tree")));
    assert_false(file_exists(place("tree")));
    holds(place("kept/file"), "x");
    assert_ok(fs_remove_tree(fs_posix(), place("tree")));
    assert_fails(fs_mkdir(fs_posix(), place("kept/file")), LORAD_CANNOT_CREATE, "kept/file");
    assert_ok(fs_unlink(fs_posix(), place("absent")));
    assert_fails(fs_rename(fs_posix(), place("absent"), place("x")), LORAD_NOT_FOUND, "absent");
    int64_t bytes = 0;
    assert_ok(fs_free_bytes(fs_posix(), test_tmpdir(), &bytes));
    assert_true(bytes > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_created_only_once),
        cmocka_unit_test(a_file_appears_whole_or_not_at_all),
        cmocka_unit_test(publishing_works_with_and_without_links),
        cmocka_unit_test(links_are_swapped_and_not_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
