/* Taking checkpoints out of service, and what lies about besides them. */
#include "support/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "support/checkpoint_state.h"

static void a_quarantined_checkpoint_is_kept_elsewhere(void **state)
{
    (void)state;
    const char *out = state_folder("quarantine");
    char path[700];
    for (int i = 0; i < 2; i++) {
        assert_ok(state_save(fs_posix(), out, state_id(7), 2, false));
        assert_ok(checkpoint_quarantine(fs_posix(), out, "s000000007.e0000001.a0", "bad luck"));
        assert_fails(state_verify(out, state_id(7)), LORAD_NOT_FOUND, NULL);
    }
    snprintf(path, sizeof path, "%s/quarantine/s000000007.e0000001.a0", out);
    assert_ok(state_verify_dir(path));
    snprintf(path, sizeof path, "%s/quarantine/s000000007.e0000001.a0.2", out);
    assert_ok(state_verify_dir(path));
    char *why;
    size_t length;
    snprintf(path, sizeof path, "%s/quarantine/s000000007.e0000001.a0.2.why", out);
    assert_ok(file_read(&why, &length, path, 100));
    assert_string_equal(why, "bad luck");
    free(why);
    snprintf(path, sizeof path, "%s/checkpoint-7", out);
    struct stat info;
    assert_int_not_equal(lstat(path, &info), 0);
    assert_fails(checkpoint_quarantine(fs_posix(), out, "../x", NULL), LORAD_BUG, "not the name");
}

static void what_earlier_owners_did_not_finish_goes(void **state)
{
    (void)state;
    const char *out = state_folder("unfinished");
    struct checkpoint_writer *writer;
    struct checkpoint_entry *entries;
    size_t n;
    assert_ok(state_save(fs_posix(), out, state_id(5), 1, false));
    for (int64_t epoch = 1; epoch <= 3; epoch++) {
        assert_ok(checkpoint_begin(&writer, fs_posix(), out, (struct checkpoint_id){10, epoch, 0}, 0, 1, 0));
        checkpoint_finish(writer); /* as if its run had died */
    }
    assert_ok(checkpoint_clear_unfinished(fs_posix(), out, 3));
    assert_ok(checkpoint_list(&entries, &n, out));
    assert_int_equal(n, 2);
    assert_int_equal(entries[0].id.epoch, 3); /* its owner may be writing */
    assert_false(entries[0].committed);
    assert_true(entries[1].committed);
    free(entries);
    assert_ok(state_verify(out, state_id(5)));
    assert_ok(checkpoint_clear_unfinished(fs_posix(), state_folder("nothing"), 3));
}

static void collection_keeps_the_newest_and_the_pinned(void **state)
{
    (void)state;
    const char *out = state_folder("collect");
    char path[700];
    for (int i = 1; i <= 6; i++) assert_ok(state_save(fs_posix(), out, state_id(i), 1, false));
    struct checkpoint_writer *old, *current;
    assert_ok(checkpoint_begin(&old, fs_posix(), out, (struct checkpoint_id){5, 1, 3}, 0, 1, 0));
    checkpoint_finish(old); /* as if its run had died */
    assert_ok(checkpoint_begin(&current, fs_posix(), out, state_id(7), 0, 1, 0));
    assert_int_equal(state_left(out, false), 1234556 * 10 + 7);
    assert_ok(state_collect(fs_posix(), out, 0, -1));
    assert_int_equal(state_left(out, true), 123456);
    assert_ok(state_collect(fs_posix(), out, 3, 2));
    assert_int_equal(state_left(out, true), 256);
    assert_int_equal(state_left(out, false), 2567); /* the one in progress stays */
    assert_ok(state_verify(out, state_id(2)));
    assert_ok(state_collect(fs_posix(), out, 1, -1));
    assert_int_equal(state_left(out, true), 6);
    snprintf(path, sizeof path, "%s/checkpoint-2", out);
    struct stat info;
    assert_int_not_equal(lstat(path, &info), 0);
    snprintf(path, sizeof path, "%s/checkpoint-6", out);
    assert_ok(state_verify_dir(path));
    snprintf(path, sizeof path, "%s/trash", out);
    DIR *trash = opendir(path);
    assert_non_null(trash);
    int n = 0;
    while (readdir(trash)) n++;
    closedir(trash);
    assert_int_equal(n, 2);
    checkpoint_abandon(current);
}

static void a_fenced_run_pushes_nothing_out(void **state)
{
    (void)state;
    const char *out = state_folder("fenced");
    static const struct checkpoint_id ids[] = {{100, 1, 0}, {200, 1, 0}, {300, 1, 0}, {110, 2, 0}};
    for (int i = 0; i < 4; i++) assert_ok(state_save(fs_posix(), out, ids[i], 1, false));
    assert_ok(state_collect(fs_posix(), out, 1, -1));
    assert_ok(state_verify(out, ids[3]));
    assert_int_equal(state_left(out, true), 110);
}

static char *in_checkpoint(const char *out, int n, const char *file)
{
    static char path[700];
    snprintf(path, sizeof path, "%s/ckpt/s%09d.e0000001.a0/%s", out, n, file);
    return path;
}

static void flip_a_bit(const char *path)
{
    char byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, 0), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, 0), 1);
    close(fd);
}

static void nothing_goes_for_a_checkpoint_that_cannot_be_read(void **state)
{
    (void)state;
    const char *out = state_folder("unread");
    for (int i = 1; i <= 4; i++) assert_ok(state_save(fs_posix(), out, state_id(i), 2, false));
    flip_a_bit(in_checkpoint(out, 4, "notes.txt"));
    assert_ok(state_collect(fs_posix(), out, 1, -1));
    assert_int_equal(state_left(out, true), 34); /* 4 takes no place and stays for quarantine */
    assert_ok(state_verify(out, state_id(3)));
    assert_ok(state_save(fs_posix(), out, state_id(5), 2, false));
    flip_a_bit(in_checkpoint(out, 5, "shard-00001-of-00002.zst"));
    flip_a_bit(in_checkpoint(out, 3, "MANIFEST.json"));
    assert_ok(state_collect(fs_posix(), out, 1, -1));
    assert_int_equal(state_left(out, true), 345); /* none can be read */
}

static void a_pin_holds_until_it_is_taken_away(void **state)
{
    (void)state;
    const char *out = state_folder("pin");
    for (int i = 1; i <= 4; i++) assert_ok(state_save(fs_posix(), out, state_id(i), 1, false));
    for (int again = 0; again < 2; again++)
        assert_ok(checkpoint_pin(fs_posix(), out, "s000000002.e0000001.a0", true));
    assert_ok(state_verify(out, state_id(2)));
    assert_ok(state_collect(fs_posix(), out, 1, -1));
    assert_int_equal(state_left(out, true), 24);
    for (int again = 0; again < 2; again++)
        assert_ok(checkpoint_pin(fs_posix(), out, "s000000002.e0000001.a0", false));
    assert_ok(state_collect(fs_posix(), out, 1, -1));
    assert_int_equal(state_left(out, true), 4);
}

/* Asked of each checkpoint once they are listed. */
static enum status pin_the_second(bool *out, void *context, struct checkpoint_id id)
{
    *out = false;
    return id.step == 4 ? checkpoint_pin(fs_posix(), context, "s000000002.e0000001.a0", true) : LORAD_OK;
}

static void a_pin_that_comes_during_a_collection_holds(void **state)
{
    (void)state;
    char out[600];
    snprintf(out, sizeof out, "%s", state_folder("pin-late"));
    struct checkpoint_retention retention = {
        .keep = 1, .steps = {-1, -1}, .is_void = pin_the_second, .context = out};
    for (int i = 1; i <= 4; i++) assert_ok(state_save(fs_posix(), out, state_id(i), 1, false));
    assert_ok(checkpoint_collect(fs_posix(), out, &retention));
    assert_int_equal(state_left(out, true), 24);
}

static enum status epoch_one_is_void_behind_two(bool *out, void *context, struct checkpoint_id id)
{
    (void)context;
    *out = id.epoch == 1 && id.step > 2;
    return LORAD_OK;
}

static void void_checkpoints_take_no_place(void **state)
{
    (void)state;
    const char *out = state_folder("void");
    struct strbuf report = STRBUF_EMPTY;
    struct checkpoint_retention retention = {
        .keep = 2, .steps = {-1, -1}, .is_void = epoch_one_is_void_behind_two, .report = &report};
    for (int i = 1; i <= 5; i++) assert_ok(state_save(fs_posix(), out, state_id(i), 1, false));
    assert_ok(state_save(fs_posix(), out, (struct checkpoint_id){3, 2, 0}, 1, false));
    assert_ok(checkpoint_pin(fs_posix(), out, "s000000004.e0000001.a0", true));

    retention.dry_run = true;
    assert_ok(checkpoint_collect(fs_posix(), out, &retention));
    assert_int_equal(state_left(out, true), 123345);
    assert_string_equal(strbuf_text(&report),
                        "s000000005.e0000001.a0\tvoid: a later start went on from before it\n"
                        "s000000003.e0000001.a0\tvoid: a later start went on from before it\n"
                        "s000000001.e0000001.a0\tolder than those that are kept\n");
    retention.dry_run = false;
    assert_ok(checkpoint_collect(fs_posix(), out, &retention));
    assert_int_equal(state_left(out, true), 234);
    assert_ok(state_verify(out, (struct checkpoint_id){3, 2, 0}));
    strbuf_free(&report);
}

static void unfinished_saves_go_when_nobody_writes(void **state)
{
    (void)state;
    const char *out = state_folder("alone");
    struct checkpoint_retention retention = {.steps = {-1, -1}};
    struct checkpoint_writer *current;
    assert_ok(state_save(fs_posix(), out, state_id(1), 1, false));
    assert_ok(checkpoint_begin(&current, fs_posix(), out, state_id(2), 0, 1, 0));
    checkpoint_finish(current);
    assert_ok(checkpoint_collect(fs_posix(), out, &retention));
    assert_int_equal(state_left(out, false), 12);
    retention.alone = true;
    assert_ok(checkpoint_collect(fs_posix(), out, &retention));
    assert_int_equal(state_left(out, false), 1);
}

static void put(const char *out, const char *name)
{
    char path[900];
    snprintf(path, sizeof path, "%s/%s", out, name);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    assert_ok(file_make_dirs(path));
    *slash = '/';
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("12345", file);
    fclose(file);
}

static void leftovers_are_what_lorad_left(void **state)
{
    (void)state;
    const char *out = state_folder("leftovers");
    static const char *const wanted[] = {
        "adapter_config.json.tmp-12-0",
        "checkpoint-3.tmp-7-1",
        "heartbeat.json.node-3.example.12",
        "epoch/e0000000002.resume.tmp-9-0",
        "ckpt/s000000001.e0000001.a0/MANIFEST.tmp",
        "ckpt/s000000001.e0000001.a0/notes.txt.tmp-1-0",
        "trash/2026-01-31T09:05:07Z-ckpt",
        "trash/s000000003.e0000001.a0",
        "trash/s000000003.e0000001.a0.2",
        "quarantine/s000000004.e0000001.a0",
    };
    static const char *const others[] = {
        "heartbeat.json",
        "notes.tmp",
        "a.tmp-1",
        ".tmp-1-0",
        "epoch/e0000000002.resume",
        "trash/mine.txt",
        "ckpt/x.tmp-1-0",
        "quarantine/s000000004.e0000001.a0.why",
        "quarantine/letter",
        "trash/s1",
        "model.tmp-x-0",
        "ckpt/s000000002.e0000001.a0/a.tmp-1-0",
    };
    enum { N = sizeof wanted / sizeof *wanted };
    assert_ok(state_save(fs_posix(), out, state_id(1), 1, false));
    for (size_t i = 0; i < N; i++) put(out, wanted[i]);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) put(out, others[i]);
    struct checkpoint_leftover *found;
    size_t n;
    assert_ok(checkpoint_leftovers(&found, &n, out));
    assert_int_equal(n, N);
    for (size_t i = 0; i < N; i++) {
        assert_string_equal(found[i].path, wanted[i]);
        assert_int_equal(found[i].bytes, 5);
        assert_int_equal(found[i].kind, i < 6   ? LEFTOVER_TEMPORARY
                                        : i < 9 ? LEFTOVER_TRASH
                                                : LEFTOVER_QUARANTINE);
    }
    assert_string_equal(found[N - 1].why, "12345");
    checkpoint_leftovers_free(found, n);
}

static void an_examination_finds_every_damaged_file(void **state)
{
    (void)state;
    const char *out = state_folder("examine");
    struct strbuf problems = STRBUF_EMPTY;
    char dir[700];
    assert_ok(state_save(fs_posix(), out, state_id(1), 2, false));
    snprintf(dir, sizeof dir, "%s/checkpoint-1", out);
    assert_ok(checkpoint_examine(&problems, dir));
    assert_string_equal(strbuf_text(&problems), "");
    flip_a_bit(in_checkpoint(out, 1, "shard-00000-of-00002.zst"));
    flip_a_bit(in_checkpoint(out, 1, "notes.txt"));
    assert_fails(checkpoint_examine(&problems, dir), LORAD_DATA, "2 of its files");
    assert_non_null(strstr(strbuf_text(&problems), "shard-00000-of-00002.zst is damaged"));
    assert_non_null(strstr(strbuf_text(&problems), "notes.txt is damaged"));
    strbuf_free(&problems);
}

static void a_checkpoint_is_described(void **state)
{
    (void)state;
    const char *out = state_folder("describe");
    char dir[700];
    struct checkpoint *checkpoint;
    struct checkpoint_contents contents;
    struct checkpoint_tensor tensor;
    size_t at = 0;
    assert_ok(state_save(fs_posix(), out, state_id(1), 2, false));
    snprintf(dir, sizeof dir, "%s/checkpoint-1", out);
    assert_ok(checkpoint_open(&checkpoint, dir, false));
    checkpoint_describe(checkpoint, &contents);
    assert_int_equal(contents.world, 2);
    assert_int_equal(contents.n_files, 6);
    assert_int_equal(contents.raw_bytes, STATE_ROWS * STATE_COLS * 4 * 3 + STATE_COUNTS * 8);
    assert_true(contents.other_bytes > 7 &&
                contents.total_bytes > contents.shard_bytes + contents.other_bytes);
    assert_int_equal(strlen(contents.created_utc), 20);
    static const char *const names[] = {"m", "t", "w"};
    for (int i = 0; i < 3; i++) {
        assert_true(checkpoint_next_tensor(checkpoint, &at, &tensor));
        assert_string_equal(tensor.name, names[i]);
        assert_int_equal(tensor.pieces, i == 1 ? 1 : 2);
    }
    assert_false(checkpoint_next_tensor(checkpoint, &at, &tensor));
    checkpoint_close(checkpoint);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quarantined_checkpoint_is_kept_elsewhere),
        cmocka_unit_test(what_earlier_owners_did_not_finish_goes),
        cmocka_unit_test(collection_keeps_the_newest_and_the_pinned),
        cmocka_unit_test(a_fenced_run_pushes_nothing_out),
        cmocka_unit_test(nothing_goes_for_a_checkpoint_that_cannot_be_read),
        cmocka_unit_test(a_pin_holds_until_it_is_taken_away),
        cmocka_unit_test(a_pin_that_comes_during_a_collection_holds),
        cmocka_unit_test(void_checkpoints_take_no_place),
        cmocka_unit_test(unfinished_saves_go_when_nobody_writes),
        cmocka_unit_test(leftovers_are_what_lorad_left),
        cmocka_unit_test(an_examination_finds_every_damaged_file),
        cmocka_unit_test(a_checkpoint_is_described),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
