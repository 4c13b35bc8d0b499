#include "support/test.h"

#include "base/strbuf.h"
#include "base/unpack.h"

/* "one\ntwo\n" as gzip -n and as zstd pack it. */
static const unsigned char gzip_bytes[] = {0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03,
                                           0xcb, 0xcf, 0x4b, 0xe5, 0x2a, 0x29, 0xcf, 0xe7, 0x02, 0x00,
                                           0xe6, 0x0b, 0xba, 0x12, 0x08, 0x00, 0x00, 0x00};
static const unsigned char zstd_bytes[] = {0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x58, 0x41, 0x00, 0x00, 0x6f, 0x6e,
                                           0x65, 0x0a, 0x74, 0x77, 0x6f, 0x0a, 0xe6, 0xa6, 0x0e, 0x40};
static const struct {
    enum packing kind;
    const unsigned char *bytes;
    size_t length;
} packed[] = {{PACKED_GZIP, gzip_bytes, sizeof gzip_bytes}, {PACKED_ZSTD, zstd_bytes, sizeof zstd_bytes}};
enum { KINDS = 2 };

static enum status collect(void *to, const void *bytes, size_t length)
{
    strbuf_add(to, bytes, length);
    return strbuf_status(to);
}

static enum status refuse(void *to, const void *bytes, size_t length)
{
    (void)to, (void)bytes, (void)length;
    return FAIL(LORAD_IO, "the disk is full");
}

static enum status unpack_all(struct strbuf *out, int i, const void *bytes, size_t length, int64_t most)
{
    strbuf_clear(out);
    return unpack(packed[i].kind, bytes, length, most, collect, out, "file");
}

static void members_behind_each_other_are_one_text(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_EMPTY;
    unsigned char twice[100];
    for (int i = 0; i < KINDS; i++) {
        size_t n = packed[i].length;
        assert_int_equal(unpack_kind(packed[i].bytes, n), packed[i].kind);
        assert_ok(unpack_all(&out, i, packed[i].bytes, n, 100));
        assert_string_equal(strbuf_text(&out), "one\ntwo\n");
        memcpy(twice, packed[i].bytes, n);
        memcpy(twice + n, packed[i].bytes, n);
        assert_ok(unpack_all(&out, i, twice, 2 * n, 100));
        assert_string_equal(strbuf_text(&out), "one\ntwo\none\ntwo\n");
        assert_fails(unpack(packed[i].kind, twice, n, 100, refuse, NULL, "file"), LORAD_IO,
                     "the disk is full");
    }
    memset(twice + sizeof gzip_bytes, 0, 20); /* padding, as tapes have it */
    memcpy(twice, gzip_bytes, sizeof gzip_bytes);
    assert_ok(unpack_all(&out, 0, twice, sizeof gzip_bytes + 20, 100));
    assert_int_equal(out.length, 8);
    assert_int_equal(unpack_kind("{\"a\"", 4), PACKED_NOT);
    assert_int_equal(unpack_kind("\x1f\x8b", 2), PACKED_NOT);
    strbuf_free(&out);
}

/* Cut anywhere, and with any byte changed, it is refused or (where the byte means nothing) the same. */
static void damage_is_always_noticed(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_EMPTY;
    unsigned char copy[100];
    for (int i = 0; i < KINDS; i++) {
        size_t n = packed[i].length;
        for (size_t cut = 5; cut < n; cut++)
            assert_fails(unpack_all(&out, i, packed[i].bytes, cut, 100), LORAD_DATA, "file: damaged");
        for (size_t at = 0; at < n; at++) {
            memcpy(copy, packed[i].bytes, n);
            copy[at] ^= 0x10;
            enum status status = unpack_all(&out, i, copy, n, 100);
            if (status == LORAD_OK)
                assert_string_equal(strbuf_text(&out), "one\ntwo\n");
            else
                assert_int_equal(status, LORAD_DATA);
        }
        memcpy(copy, packed[i].bytes, n);
        memcpy(copy + n, "junk", 4);
        assert_fails(unpack_all(&out, i, copy, n + 4, 100), LORAD_DATA, "file: damaged");
    }
    strbuf_free(&out);
}

static void what_unpacks_to_too_much_is_refused(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_EMPTY;
    for (int i = 0; i < KINDS; i++) {
        assert_ok(unpack_all(&out, i, packed[i].bytes, packed[i].length, 8));
        assert_fails(unpack_all(&out, i, packed[i].bytes, packed[i].length, 7), LORAD_DATA,
                     "a mistake or an attack");
    }
    assert_true(unpack_limit(10) == (int64_t)256 << 20);
    assert_true(unpack_limit((size_t)1 << 30) == (int64_t)200 << 30);
    assert_true(unpack_limit(SIZE_MAX / 2) == INT64_MAX);
    strbuf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_behind_each_other_are_one_text),
        cmocka_unit_test(damage_is_always_noticed),
        cmocka_unit_test(what_unpacks_to_too_much_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
