/* Shards: every item width, noise and order, come back as they were, and order comes back smaller. */
#include "support/test.h"

#include "base/file.h"
#include "base/random.h"
#include "checkpoint/shard.h"

enum { ITEMS = 50000, KINDS = 4 };

/* Kind 0: noise. 1: zeros. 2: floats around 1, noisy below. 3: a ramp. */
static void fill(uint8_t *to, size_t bytes, int kind)
{
    for (size_t i = 0; i < bytes / 4; i++) {
        uint32_t word = random_philox(5, (uint64_t)kind, i).word[0];
        if (kind == 1) word = 0;
        if (kind == 2) word = 0x3F800000u | word >> 10;
        if (kind == 3) word = (uint32_t)i;
        memcpy(to + 4 * i, &word, 4);
    }
}

static void every_width_and_kind_survives(void **state)
{
    (void)state;
    static uint8_t data[KINDS * 4][ITEMS * 8], back[ITEMS * 8];
    static char names[KINDS * 4][16];
    static const struct {
        int32_t bytes;
        const char *dtype;
    } widths[4] = {{1, "U8"}, {2, "BF16"}, {4, "F32"}, {8, "I64"}};
    struct checkpoint_piece pieces[KINDS * 4];
    char path[600];
    for (int i = 0; i < KINDS * 4; i++) {
        int width = widths[i / KINDS].bytes;
        snprintf(names[i], sizeof names[i], "t%d", i);
        fill(data[i], (size_t)ITEMS * (size_t)width, i % KINDS);
        pieces[i] = (struct checkpoint_piece){
            names[i], width, widths[i / KINDS].dtype, {100, ITEMS / 100}, 0, 100, 0, ITEMS / 100, data[i]};
    }
    struct checkpoint_receipt receipt = {0};
    snprintf(path, sizeof path, "%s/a.zst", test_tmpdir());
    assert_ok(shard_write(fs_posix(), path, pieces, KINDS * 4, SHARD_PACKING_DEFAULT, &receipt));
    assert_int_equal(receipt.raw_bytes, (int64_t)ITEMS * 15 * KINDS);

    struct shard *shard;
    struct shard_codec *codec;
    assert_ok(shard_open(&shard, path, &receipt));
    assert_ok(shard_codec_create(&codec));
    assert_int_equal(shard_count(shard), KINDS * 4);
    for (int i = KINDS * 4 - 1; i >= 0; i--) {
        const struct shard_piece *piece = shard_at(shard, (size_t)i);
        assert_string_equal(piece->name, names[i]);
        assert_ok(shard_read(shard, (size_t)i, codec, back));
        assert_memory_equal(back, data[i], (size_t)piece->raw_bytes);
        if (i % KINDS == 0) assert_true(piece->file_bytes < piece->raw_bytes + 200); /* noise grows hardly */
        if (i % KINDS == 1) assert_true(piece->file_bytes < 400);
        if (i / KINDS == 2 && i % KINDS == 2) assert_true(piece->file_bytes < piece->raw_bytes * 4 / 5);
    }
    shard_close(shard);
    receipt.index_hash.low ^= 1;
    assert_fails(shard_open(&shard, path, &receipt), LORAD_DATA, "its index has another hash");
    receipt.file_bytes++;
    assert_fails(shard_open(&shard, path, &receipt), LORAD_DATA, "bytes expected");
    shard_codec_destroy(codec);
}

static void read_file(char **bytes, size_t *length, const char *path)
{
    assert_ok(file_read(bytes, length, path, 1 << 26));
}

/* Threads share the pieces out, but the file is the same; a higher level gives another file with the same
 * pieces. */
static void threads_change_no_bit(void **state)
{
    (void)state;
    static uint8_t data[37][4096 * 4], back[4096 * 4];
    static const struct shard_packing packings[] = {{1, 1}, {1, 2}, {1, 5}, {1, 64}, {9, 3}};
    struct checkpoint_piece pieces[37];
    char path[600], *first = NULL, *bytes = NULL;
    size_t first_length = 0, length = 0;
    struct shard_codec *codec;
    assert_ok(shard_codec_create(&codec));
    for (int i = 0; i < 37; i++) {
        fill(data[i], sizeof data[i], i % KINDS);
        pieces[i] = (struct checkpoint_piece){"t", 4, "F32", {64, 64}, 0, 64, 0, 64, data[i]};
    }
    for (size_t p = 0; p < sizeof packings / sizeof *packings; p++) {
        struct checkpoint_receipt receipt = {0};
        struct shard *shard;
        snprintf(path, sizeof path, "%s/threads%zu.zst", test_tmpdir(), p);
        assert_ok(shard_write(fs_posix(), path, pieces, 37, packings[p], &receipt));
        read_file(p ? &bytes : &first, p ? &length : &first_length, path);
        if (p && packings[p].level == 1) {
            assert_int_equal(length, first_length);
            assert_memory_equal(bytes, first, length);
        }
        free(bytes);
        bytes = NULL;
        assert_ok(shard_open(&shard, path, &receipt));
        for (int i = 0; i < 37; i++) {
            assert_ok(shard_read(shard, (size_t)i, codec, back));
            assert_memory_equal(back, data[i], sizeof back);
        }
        shard_close(shard);
    }
    pieces[20].item_bytes = 2; /* one that cannot be packed ends all threads */
    struct checkpoint_receipt receipt;
    snprintf(path, sizeof path, "%s/bad.zst", test_tmpdir());
    assert_fails(shard_write(fs_posix(), path, pieces, 37, packings[2], &receipt), LORAD_BUG,
                 "size of dtype");
    free(first);
    shard_codec_destroy(codec);
}

static void impossible_pieces_are_refused(void **state)
{
    (void)state;
    struct checkpoint_receipt receipt;
    char path[600];
    float value = 1;
    struct checkpoint_piece good = {"a", 4, "F32", {4, 4}, 0, 1, 0, 1, &value}, bad;
    snprintf(path, sizeof path, "%s/b.zst", test_tmpdir());
    bad = good, bad.item_bytes = 2;
    assert_fails(shard_write(fs_posix(), path, &bad, 1, SHARD_PACKING_DEFAULT, &receipt), LORAD_BUG,
                 "size of dtype");
    bad = good, bad.dtype = "F33";
    assert_fails(shard_write(fs_posix(), path, &bad, 1, SHARD_PACKING_DEFAULT, &receipt), LORAD_BUG, "F33");
    bad = good, bad.row = 4;
    assert_fails(shard_write(fs_posix(), path, &bad, 1, SHARD_PACKING_DEFAULT, &receipt), LORAD_BUG,
                 "outside");
    bad = good, bad.col = -1;
    assert_fails(shard_write(fs_posix(), path, &bad, 1, SHARD_PACKING_DEFAULT, &receipt), LORAD_BUG,
                 "outside");
    struct shard *shard;
    assert_fails(shard_open(&shard, path, NULL), LORAD_DATA, "cannot open");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_width_and_kind_survives),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(impossible_pieces_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
