/* Saving, listing and reading checkpoints across layouts. */
#include "support/test.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "support/checkpoint_state.h"

static void names_are_read_back_exactly(void **state)
{
    (void)state;
    char name[CHECKPOINT_NAME_BYTES];
    checkpoint_id_name((struct checkpoint_id){120, 3, 0}, name);
    assert_string_equal(name, "s000000120.e0000003.a0");
}

static void a_saved_state_is_read_back_in_any_layout(void **state)
{
    (void)state;
    const char *out = state_folder("layouts");
    for (int world = 1; world <= 8; world++)
        for (int by_columns = 0; by_columns < 2; by_columns++) {
            struct checkpoint_id id = {world, 1 + by_columns, 0};
            assert_ok(state_save(fs_posix(), out, id, world, by_columns));
            assert_ok(state_verify(out, id));
        }
    /* Every row and column range, against the whole. */
    struct checkpoint *checkpoint;
    char path[700];
    snprintf(path, sizeof path, "%s/checkpoint-5", out);
    assert_ok(checkpoint_open(&checkpoint, path, false));
    static const int64_t shape[2] = {STATE_ROWS, STATE_COLS};
    float whole[STATE_ROWS * STATE_COLS], part[STATE_ROWS * STATE_COLS];
    assert_ok(checkpoint_read(checkpoint, "w", "F32", shape, 0, STATE_ROWS, 0, STATE_COLS, whole));
    for (int row = 0; row < STATE_ROWS; row += 2)
        for (int rows = 0; rows <= STATE_ROWS - row; rows++)
            for (int col = 0; col < STATE_COLS; col++)
                for (int cols = 1; cols <= STATE_COLS - col; cols += 2) {
                    assert_ok(checkpoint_read(checkpoint, "w", "F32", shape, row, rows, col, cols, part));
                    for (int i = 0; i < rows; i++)
                        assert_memory_equal(part + i * cols, whole + (row + i) * STATE_COLS + col,
                                            (size_t)cols * 4);
                }
    static const int64_t wrong[2] = {STATE_COLS, STATE_ROWS};
    assert_fails(checkpoint_read(checkpoint, "no", "F32", shape, 0, 1, 0, 1, part), LORAD_DATA,
                 "has no tensor no");
    assert_fails(checkpoint_read(checkpoint, "w", "I32", shape, 0, 1, 0, 1, part), LORAD_DATA,
                 "w is F32 [12, 10]");
    assert_fails(checkpoint_read(checkpoint, "w", "F32", wrong, 0, 1, 0, 1, part), LORAD_DATA,
                 "w is F32 [12, 10]");
    assert_fails(checkpoint_read(checkpoint, "w", "F32", shape, 12, 1, 0, 1, part), LORAD_BUG, "outside");
    assert_int_equal(checkpoint_id_of(checkpoint).step, 5);
    assert_int_equal(js_int(js_get(checkpoint_state(checkpoint), "step"), 0), 5);
    checkpoint_close(checkpoint);
}

/* A checkpoint of step `step` with a file of which its writer says this. */
static void save_noted(const char *out, int64_t step, struct hash128 hash, int64_t bytes)
{
    struct checkpoint_writer *writer;
    struct checkpoint_receipt receipt;
    assert_ok(checkpoint_begin(&writer, fs_posix(), out, state_id(step), 0, 1, 0));
    assert_ok(checkpoint_write_shard(writer, NULL, 0, &receipt));
    char *path = file_join(checkpoint_writer_dir(writer), "notes.txt");
    assert_ok(fs_write_file(fs_posix(), path, "12345", 5));
    free(path);
    checkpoint_note_file(writer, "notes.txt", hash, bytes);
    assert_ok(checkpoint_commit(writer, &receipt, 1, "{}", NULL, NULL));
}

static void what_the_writer_of_a_file_noted_goes_into_the_manifest(void **state)
{
    (void)state;
    const char *out = state_folder("noted");
    struct checkpoint *checkpoint;
    char path[3][700];
    for (int i = 0; i < 3; i++) snprintf(path[i], sizeof path[i], "%s/checkpoint-%d", out, i);
    save_noted(out, 0, hash128("12345", 5), 5);
    assert_ok(checkpoint_open(&checkpoint, path[0], true));
    checkpoint_close(checkpoint);
    save_noted(out, 1, hash128("12346", 5), 5); /* what was meant to be there is not what is there */
    assert_fails(checkpoint_open(&checkpoint, path[1], true), LORAD_DATA, "notes.txt is damaged");
    save_noted(out, 2, hash128("1234", 4), 4); /* it was replaced meanwhile */
    assert_ok(checkpoint_open(&checkpoint, path[2], true));
    checkpoint_close(checkpoint);
}

static void a_hole_between_pieces_is_found(void **state)
{
    (void)state;
    const char *out = state_folder("hole");
    struct checkpoint_writer *writer;
    struct checkpoint_receipt receipt;
    uint8_t bytes[100];
    memset(bytes, 7, sizeof bytes);
    struct checkpoint_piece pieces[] = {{"a", 1, "U8", {10, 10}, 0, 5, 0, 10, bytes},
                                        {"a", 1, "U8", {10, 10}, 5, 5, 1, 9, bytes},
                                        {"empty", 2, "BF16", {0, 4}, 0, 0, 0, 4, bytes}};
    assert_ok(checkpoint_begin(&writer, fs_posix(), out, state_id(1), 0, 1, 0));
    assert_ok(checkpoint_write_shard(writer, pieces, 3, &receipt));
    assert_int_equal(receipt.raw_bytes, 95);
    assert_ok(checkpoint_commit(writer, &receipt, 1, "{}", NULL, NULL));
    struct checkpoint *checkpoint;
    char path[700];
    snprintf(path, sizeof path, "%s/checkpoint-1", out);
    assert_ok(checkpoint_open(&checkpoint, path, true));
    static const int64_t shape[2] = {10, 10}, none[2] = {0, 4};
    assert_ok(checkpoint_read(checkpoint, "a", "U8", shape, 0, 10, 1, 9, bytes));
    assert_ok(checkpoint_read(checkpoint, "empty", "BF16", none, 0, 0, 0, 4, bytes));
    assert_fails(checkpoint_read(checkpoint, "a", "U8", shape, 0, 10, 0, 10, bytes), LORAD_DATA,
                 "row 5, column 0");
    checkpoint_close(checkpoint);
}

static void the_list_is_newest_first_and_says_what_is_committed(void **state)
{
    (void)state;
    const char *out = state_folder("list");
    struct checkpoint_entry *entries;
    size_t n;
    assert_ok(checkpoint_list(&entries, &n, out));
    assert_int_equal(n, 0);
    free(entries);
    static const struct checkpoint_id ids[] = {{20, 1, 0}, {3, 1, 0}, {20, 2, 1}, {20, 2, 0}};
    for (int i = 0; i < 4; i++) assert_ok(state_save(fs_posix(), out, ids[i], 1, false));
    struct checkpoint_writer *writer;
    assert_ok(checkpoint_begin(&writer, fs_posix(), out, state_id(99), 0, 1, 0));
    char path[700];
    snprintf(path, sizeof path, "%s/ckpt/s1.e1.a0", out);
    assert_int_equal(mkdir(path, 0777), 0); /* not a name that lorad writes */
    assert_ok(checkpoint_list(&entries, &n, out));
    assert_int_equal(n, 5);
    static const char *const names[] = {"s000000099.e0000001.a0", "s000000020.e0000002.a1",
                                        "s000000020.e0000002.a0", "s000000020.e0000001.a0",
                                        "s000000003.e0000001.a0"};
    for (int i = 0; i < 5; i++) {
        assert_string_equal(entries[i].name, names[i]);
        assert_int_equal(entries[i].committed, i > 0);
    }
    free(entries);
    checkpoint_abandon(writer);
    snprintf(path, sizeof path, "%s/ckpt/%s", out, names[0]);
    assert_false(file_exists(path));
}

static enum status fenced(void *context)
{
    (void)context;
    return FAIL(LORAD_FENCED, "somebody else took over");
}

/* Stopped after it had asked, taken over, and gone on. */
static enum status fenced_meanwhile(void *context)
{
    return ++*(int *)context == 1 ? LORAD_OK : fenced(NULL);
}

static void a_commit_that_came_too_late_gets_no_link(void **state)
{
    (void)state;
    const char *out = state_folder("late");
    struct checkpoint_writer *writer;
    struct checkpoint_receipt receipt;
    int asked = 0;
    char link[700];
    assert_ok(checkpoint_begin(&writer, fs_posix(), out, state_id(8), 0, 1, 0));
    assert_ok(checkpoint_write_shard(writer, NULL, 0, &receipt));
    assert_fails(checkpoint_commit(writer, &receipt, 1, "{}", fenced_meanwhile, &asked), LORAD_FENCED,
                 "took over");
    snprintf(link, sizeof link, "%s/checkpoint-8", out);
    assert_false(file_exists(link));
}

static void what_may_not_commit_does_not(void **state)
{
    (void)state;
    const char *out = state_folder("refused");
    struct checkpoint_writer *writer, *second;
    struct checkpoint_receipt receipts[2], good;
    assert_ok(checkpoint_begin(&writer, fs_posix(), out, state_id(1), 0, 1, 0));
    assert_ok(checkpoint_write_shard(writer, NULL, 0, &good));
    assert_fails(checkpoint_write_shard(writer, NULL, 0, &receipts[0]), LORAD_CANNOT_CREATE, "exists");
    assert_int_equal(receipts[0].ok, 0);
    assert_fails(checkpoint_commit(writer, &good, 1, "{}", fenced, NULL), LORAD_FENCED, "took over");
    assert_int_equal(state_left(out, false), 0); /* nothing of it stays */

    assert_ok(checkpoint_begin(&writer, fs_posix(), out, state_id(1), 0, 1, 0));
    assert_ok(checkpoint_write_shard(writer, NULL, 0, &good));
    good.file_bytes++;
    assert_fails(checkpoint_commit(writer, &good, 1, "{}", NULL, NULL), LORAD_IO, "rank 0 wrote");
    assert_ok(checkpoint_begin(&writer, fs_posix(), out, state_id(1), 0, 1, 0));
    assert_ok(checkpoint_write_shard(writer, NULL, 0, &good));
    assert_fails(checkpoint_commit(writer, &good, 1, "[]", NULL, NULL), LORAD_BUG, "not a JSON object");
    assert_ok(checkpoint_begin(&writer, fs_posix(), out, state_id(1), 0, 1, 0));
    assert_ok(checkpoint_write_shard(writer, NULL, 0, &good));
    assert_ok(checkpoint_commit(writer, &good, 1, "{}", NULL, NULL));
    assert_fails(checkpoint_begin(&writer, fs_posix(), out, state_id(1), 0, 1, 0), LORAD_CANNOT_CREATE,
                 "already committed");
    assert_fails(checkpoint_begin(&writer, fs_posix(), out, state_id(2), 0, 1, INT64_MAX), LORAD_IO,
                 "no space");

    assert_ok(checkpoint_begin(&writer, fs_posix(), out, state_id(3), 0, 2, 0));
    assert_ok(checkpoint_begin(&second, fs_posix(), out, state_id(3), 1, 2, 0));
    assert_ok(checkpoint_write_shard(writer, NULL, 0, &receipts[0]));
    receipts[1] = (struct checkpoint_receipt){.rank = 1, .ok = 0};
    assert_fails(checkpoint_commit(writer, receipts, 2, "{}", NULL, NULL), LORAD_IO, "rank 1 could not");
    (void)FAIL(LORAD_IO, "the reason");
    checkpoint_abandon(second);
    assert_string_equal(status_message(), "the reason");
}

static void abandoning_leaves_a_committed_folder_alone(void **state)
{
    (void)state;
    const char *out = state_folder("abandon");
    struct checkpoint_writer *writer;
    assert_ok(checkpoint_begin(&writer, fs_posix(), out, state_id(1), 1, 2, 0));
    assert_ok(state_save(fs_posix(), out, state_id(1), 2, false));
    checkpoint_abandon(writer);
    assert_ok(state_verify(out, state_id(1)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_read_back_exactly),
        cmocka_unit_test(a_saved_state_is_read_back_in_any_layout),
        cmocka_unit_test(what_the_writer_of_a_file_noted_goes_into_the_manifest),
        cmocka_unit_test(a_hole_between_pieces_is_found),
        cmocka_unit_test(the_list_is_newest_first_and_says_what_is_committed),
        cmocka_unit_test(what_may_not_commit_does_not),
        cmocka_unit_test(a_commit_that_came_too_late_gets_no_link),
        cmocka_unit_test(abandoning_leaves_a_committed_folder_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
