/* A checkpoint of every released version of the format is read to the bit; other versions are refused by
 * name. */
#include "support/test.h"

#include <sys/stat.h>

#include "base/file.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/json.h"
#include "support/golden_checkpoint.h"

static void every_tensor_has_the_golden_values(void **state)
{
    (void)state;
    struct golden_values values;
    struct checkpoint *checkpoint;
    struct checkpoint_tensor tensor;
    struct strbuf problems = STRBUF_EMPTY;
    size_t n = 0;
    golden_values_read(&values);
    assert_ok(checkpoint_examine(&problems, GOLDEN_CHECKPOINT));
    assert_ok(checkpoint_open(&checkpoint, GOLDEN_CHECKPOINT, true));
    for (size_t at = 0; checkpoint_next_tensor(checkpoint, &at, &tensor);) n++;
    assert_int_equal(n, values.n);
    assert_ok(golden_values_compare(checkpoint, &values));
    assert_int_equal(js_int(js_get(checkpoint_state(checkpoint), "step"), -1), 3);
    checkpoint_close(checkpoint);
    golden_values_free(&values);
    strbuf_free(&problems);
}

/* The golden manifest with `from` replaced by `to` and a hash that is right again, in a folder of its own. */
static const char *changed_manifest(const char *from, const char *to)
{
    static char dir[600];
    char path[700], hex[33], *text;
    size_t length;
    struct strbuf out = STRBUF_EMPTY;
    snprintf(dir, sizeof dir, "%s/skew", test_tmpdir());
    assert_ok(fs_mkdir(fs_posix(), dir));
    assert_ok(file_read(&text, &length, GOLDEN_CHECKPOINT "/MANIFEST.json", 1 << 20));
    char *at = strstr(text, from), *hash = strstr(text, "\"hash\":\"");
    while (hash && strstr(hash + 1, "\"hash\":\"")) hash = strstr(hash + 1, "\"hash\":\"");
    assert_true(at && hash && at < hash);
    strbuf_add(&out, text, (size_t)(at - text));
    strbuf_puts(&out, to);
    strbuf_add(&out, at + strlen(from), (size_t)(hash - at) - strlen(from));
    hash128_hex(hash128(strbuf_text(&out), out.length), hex);
    strbuf_printf(&out, "\"hash\":\"%s\"}\n", hex);
    snprintf(path, sizeof path, "%s/MANIFEST.json", dir);
    assert_ok(fs_write_file(fs_posix(), path, out.data, out.length));
    strbuf_free(&out);
    free(text);
    return dir;
}

/* Not LORAD_DATA: a damaged checkpoint goes to quarantine, one of another version does not. */
static void another_version_is_refused_not_taken_for_damage(void **state)
{
    (void)state;
    struct checkpoint *checkpoint;
    assert_fails(checkpoint_open(&checkpoint, changed_manifest("\"version\":1,", "\"version\":2,"), false),
                 LORAD_CONFIG, "checkpoint format 2; this one reads 1");
    assert_fails(checkpoint_open(&checkpoint, changed_manifest("\"version\":1,", "\"version\":0,"), false),
                 LORAD_CONFIG, "checkpoint format 0");
    assert_fails(
        checkpoint_open(&checkpoint, changed_manifest("lorad-checkpoint", "lorad-checkpoints"), false),
        LORAD_CONFIG, "lorad-checkpoints");
    assert_fails(checkpoint_open(&checkpoint, changed_manifest("\"world\":2", "\"world\":3"), false),
                 LORAD_DATA, "shards are listed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tensor_has_the_golden_values),
        cmocka_unit_test(another_version_is_refused_not_taken_for_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
