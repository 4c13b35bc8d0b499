/* Reading and writing safetensors: slices, sets of files, and every way in which a file may be wrong. */
#include "support/test.h"

#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/strbuf.h"
#include "base/fs.h"
#include "checkpoint/safetensors.h"

static char *path_of(const char *name)
{
    static char text[4][1024];
    static int turn;
    char *path = text[turn++ % 4];
    snprintf(path, sizeof text[0], "%s/%s", test_tmpdir(), name);
    return path;
}

static void put_bytes(const char *path, const void *bytes, size_t length)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

/* A file of this header text and `data` bytes of data; the header's length field is `claimed`, or true when <
 * 0. */
static const char *raw_file(const char *header, size_t data, long long claimed)
{
    const char *path = path_of("raw.safetensors");
    struct strbuf text = STRBUF_EMPTY;
    unsigned long long length = claimed < 0 ? strlen(header) : (unsigned long long)claimed;
    for (int i = 0; i < 8; i++) strbuf_putc(&text, (char)(length >> (8 * i)));
    strbuf_puts(&text, header);
    for (size_t i = 0; i < data; i++) strbuf_putc(&text, (char)i);
    put_bytes(path, text.data, text.length);
    strbuf_free(&text);
    return path;
}

static void refused(const char *header, size_t data, const char *words)
{
    struct st_set *set = NULL;
    assert_fails(st_open_file(&set, raw_file(header, data, -1)), LORAD_DATA, words);
    assert_null(set);
}

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    float wide[6] = {1, 2, 3, 4, 5, 6};
    uint16_t narrow[3] = {7, 8, 9};
    struct st_item items[] = {
        {"z.narrow", ST_BF16, 1, {3}, narrow},
        {"b.\"wide\"", ST_F32, 2, {2, 3}, wide},
        {"a.scalar", ST_F32, 0, {0}, wide},
        {"empty", ST_F32, 2, {0, 4}, wide},
    };
    const char *path = path_of("out.safetensors");
    assert_ok(st_write_file(fs_posix(), path, items, 4));
    struct st_set *set;
    assert_ok(st_open_file(&set, path));
    assert_int_equal(st_count(set), 4);
    assert_string_equal(st_metadata(set, 0, "format"), "pt");
    assert_null(st_metadata(set, 0, "other"));
    const struct st_tensor *tensor = st_find(set, "b.\"wide\"");
    assert_non_null(tensor);
    assert_int_equal(tensor->n_dims, 2);
    assert_int_equal(tensor->offset_bytes % 4, 0);
    float whole[6] = {0}, part[2] = {0};
    assert_ok(st_read(set, tensor, whole));
    assert_memory_equal(whole, wide, sizeof wide);
    assert_ok(st_read_part(set, tensor, 0, 2, 1, 1, part));
    assert_true(part[0] == 2 && part[1] == 5);
    uint16_t tail[2];
    assert_ok(st_read_part(set, st_find(set, "z.narrow"), 0, 1, 1, 2, tail));
    assert_memory_equal(tail, narrow + 1, sizeof tail);
    assert_fails(st_read_part(set, tensor, 1, 2, 0, 3, whole), LORAD_BUG, "outside");
    assert_fails(st_read_part(set, tensor, 0, 1, INT64_MAX, 1, whole), LORAD_BUG, "outside");
    assert_fails(st_read_part(set, st_find(set, "a.scalar"), 0, 1, 0, 1, whole), LORAD_DATA, "0 dimensions");
    assert_null(st_find(set, "absent"));
    st_close(set);
}

/* Every slice of a matrix that needs several blocks equals the same cut in memory; both ways of reading are
 * used. */
static void slices_of_large_tensors_are_exact(void **state)
{
    (void)state;
    enum { ROWS = 70, COLS = 40000 };
    static uint16_t values[ROWS * COLS], to[ROWS * COLS];
    for (int i = 0; i < ROWS * COLS; i++) values[i] = (uint16_t)(i * 40503u >> 3);
    /* The same values as few long rows and as many short ones: both ways of reading column slices. */
    struct st_item items[] = {{"long", ST_F16, 2, {ROWS, COLS}, values},
                              {"short", ST_F16, 2, {COLS, ROWS}, values}};
    const char *path = path_of("large.safetensors");
    assert_ok(st_write_file(fs_posix(), path, items, 2));
    struct st_set *set;
    assert_ok(st_open_file(&set, path));
    static const int cases[][4] = {{0, 70, 0, 40000},   {3, 60, 17, 5},    {0, 70, 20000, 20000},
                                   {69, 1, 1, 39999},   {0, 70, 39999, 1}, {5, 0, 0, 4},
                                   {10, 50, 100, 16384}};
    for (size_t c = 0; c < 2 * sizeof cases / sizeof *cases; c++) {
        const int *box = cases[c / 2];
        bool turned = c % 2;
        int row = box[turned ? 2 : 0], rows = box[turned ? 3 : 1], col = box[turned ? 0 : 2];
        int cols = box[turned ? 1 : 3], width = turned ? ROWS : COLS;
        assert_ok(st_read_part(set, st_find(set, turned ? "short" : "long"), row, rows, col, cols, to));
        for (int i = 0; i < rows; i++)
            assert_memory_equal(to + i * cols, values + (row + i) * width + col, (size_t)cols * 2);
    }
    st_close(set);
}

static void a_damaged_header_is_refused(void **state)
{
    (void)state;
    refused("[]", 0, "does not start with '{'");
    refused(" {}", 0, "does not start with '{'");
    refused("{", 0, "a string is expected");
    refused("{}x", 0, "text behind");
    refused("{} {}", 0, "text behind");
    refused("{\"a\":1}", 0, "description is expected");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}", 4, "'}' is expected");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},}", 4, "string is expected");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "lacks");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4]}}", 4, "lacks");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "unknown field");
    refused("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "twice");
    refused("{\"a\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, "tensor a has dtype C64");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "tensor a needs 8 bytes");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,4]}}", 4, "tensor a");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "whole number");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "list does not end");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[01],\"data_offsets\":[0,4]}}", 4, "starts with 0");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,1],\"data_offsets\":[0,0]}}", 0,
            "too large");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]}}", 0,
            "too large");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
            "too long");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "a hole");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
            "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
            3, "overlap");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
            "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
            2, "overlap");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
            "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
            2, "tensor a is there twice");
    refused("{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "wrong escape");
    refused("{\"a\\ud800\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "wrong escape");
    refused("{\"a\\n\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "control character");
    refused("{\"a\xc0\x80\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "UTF-8");
    refused("{\"__metadata__\":{\"a\":1}}", 0, "string is expected");
    refused("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "twice");
    refused("{}", 1, "behind its last tensor");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]}}", 8,
            "truncated: 9 bytes of tensor data");
}

static void lengths_that_lie_are_refused(void **state)
{
    (void)state;
    struct st_set *set;
    assert_fails(st_open_file(&set, raw_file("{}", 0, 100000001)), LORAD_DATA, "at most 100000000");
    assert_fails(st_open_file(&set, raw_file("{}", 0, INT64_MAX)), LORAD_DATA, "at most 100000000");
    assert_fails(st_open_file(&set, raw_file("{}", 0, 3)), LORAD_DATA,
                 "truncated: at least 11 bytes expected, 10 found");
    assert_fails(st_open_file(&set, raw_file("{}", 0, 0)), LORAD_DATA, "not a safetensors file");
    put_bytes(path_of("short.safetensors"), "1234567", 7);
    assert_fails(st_open_file(&set, path_of("short.safetensors")), LORAD_DATA, "too short");
    assert_fails(st_open_file(&set, path_of("none.safetensors")), LORAD_NOT_FOUND, "none.safetensors");
    assert_fails(st_open_file(&set, test_tmpdir()), LORAD_DATA, "regular file");
    assert_int_equal(mkfifo(path_of("pipe.safetensors"), 0600), 0);
    assert_fails(st_open_file(&set, path_of("pipe.safetensors")), LORAD_DATA, "regular file");
}

static void escapes_and_padding_are_read(void **state)
{
    (void)state;
    struct st_set *set;
    assert_ok(st_open_file(
        &set, raw_file("{ \"__metadata__\" : {\"k\":\"line\\n\\u4e2d\\ud83d\\ude00\"} , \"\\u0061\\/\" :"
                       " {\"shape\":[],\"data_offsets\":[0,1],\"dtype\":\"BOOL\"} }   ",
                       1, -1)));
    assert_string_equal(st_metadata(set, 0, "k"), "line\n\xe4\xb8\xad\xf0\x9f\x98\x80");
    assert_non_null(st_find(set, "a/"));
    st_close(set);
    assert_ok(st_open_file(&set, raw_file("{}", 0, -1)));
    assert_int_equal(st_count(set), 0);
    assert_null(st_find(set, "a"));
    st_close(set);
}

/* ---- folders ---- */

static const char *folder_with_two_files(const char *name, const char *index)
{
    static char folder[600];
    char path[700];
    float values[4] = {1, 2, 3, 4};
    struct st_item one = {"one", ST_F32, 2, {2, 2}, values}, two = {"two", ST_F32, 1, {3}, values};
    snprintf(folder, sizeof folder, "%s/%s", test_tmpdir(), name);
    assert_int_equal(mkdir(folder, 0777), 0);
    snprintf(path, sizeof path, "%s/a-1.safetensors", folder);
    assert_ok(st_write_file(fs_posix(), path, &one, 1));
    snprintf(path, sizeof path, "%s/a-2.safetensors", folder);
    assert_ok(st_write_file(fs_posix(), path, &two, 1));
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    put_bytes(path, index, strlen(index));
    return folder;
}

static const char good_index[] = "{\"metadata\":{\"total_size\":28},\"weight_map\":"
                                 "{\"one\":\"a-1.safetensors\",\"two\":\"a-2.safetensors\"}}";

static void an_index_joins_its_files(void **state)
{
    (void)state;
    struct st_set *set;
    assert_ok(st_open_dir(&set, folder_with_two_files("good", good_index)));
    assert_int_equal(st_count(set), 2);
    assert_int_equal(st_files(set), 2);
    assert_int_equal(st_find(set, "two")->file, 1);
    float values[3];
    assert_ok(st_read(set, st_find(set, "two"), values));
    assert_true(values[2] == 3);
    st_close(set);
}

static void an_index_that_disagrees_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *index, *words;
    } cases[] = {
        {"{\"weight_map\":{\"one\":\"../a-1.safetensors\"}}", "plain name"},
        {"{\"weight_map\":{\"one\":\"/etc/a-1.safetensors\"}}", "plain name"},
        {"{\"weight_map\":{\"one\":\".safetensors\"}}", "plain name"},
        {"{\"weight_map\":{\"one\":\"a-1.bin\"}}", "plain name"},
        {"{\"weight_map\":{\"one\":7}}", "no string"},
        {"{\"weight_map\":{}}", "0 entries"},
        {"{\"weight_map\":[]}", "an object"},
        {"[]", "an object"},
        {"{\"weight_map\":{\"one\":\"a-1.safetensors\",\"one\":\"a-1.safetensors\"}}", "duplicate"},
        {"{\"weight_map\":{\"one\":\"a-3.safetensors\"}}", "a-3.safetensors: the file is missing"},
        {"{\"weight_map\":{\"one\":\"a-2.safetensors\",\"two\":\"a-1.safetensors\"}}",
         "one should be in a-2"},
        {"{\"weight_map\":{\"one\":\"a-1.safetensors\",\"no\":\"a-2.safetensors\"}}", "no should be in a-2"},
        {"{\"weight_map\":{\"one\":\"a-1.safetensors\",\"three\":\"a-1.safetensors\",\"two\":\"a-2."
         "safetensors\"}}",
         "three should be in"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[32];
        snprintf(name, sizeof name, "bad-%zu", i);
        struct st_set *set = NULL;
        enum status status = st_open_dir(&set, folder_with_two_files(name, cases[i].index));
        assert_true(status == LORAD_DATA || status == LORAD_NOT_FOUND);
        if (!strstr(status_message(), cases[i].words)) fail_msg("%s: %s", cases[i].words, status_message());
        assert_null(set);
    }
    char path[700];
    float value = 1;
    struct st_item both[] = {{"one", ST_F32, 0, {0}, &value}, {"extra", ST_F32, 0, {0}, &value}};
    const char *folder = folder_with_two_files("extra", good_index);
    snprintf(path, sizeof path, "%s/a-1.safetensors", folder);
    assert_ok(st_write_file(fs_posix(), path, both, 2));
    struct st_set *set;
    assert_fails(st_open_dir(&set, folder), LORAD_DATA, "extra of a-1.safetensors is not in weight_map");
}

static void links_out_of_the_folder_are_refused(void **state)
{
    (void)state;
    struct st_set *set;
    char path[700], other[700];
    const char *folder = folder_with_two_files("links", good_index);
    snprintf(path, sizeof path, "%s/a-1.safetensors", folder);
    snprintf(other, sizeof other, "%s/real.safetensors", folder);
    assert_int_equal(rename(path, other), 0);
    assert_int_equal(symlink("real.safetensors", path), 0);
    assert_ok(st_open_dir(&set, folder));
    st_close(set);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink(other, path), 0);
    assert_fails(st_open_dir(&set, folder), LORAD_DATA, "is a link out of its folder");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("../good/a-1.safetensors", path), 0);
    assert_fails(st_open_dir(&set, folder), LORAD_DATA, "is a link out of its folder");

    /* The layout of a Hugging Face cache. */
    assert_int_equal(mkdir(path_of("hub"), 0777), 0);
    assert_int_equal(mkdir(path_of("hub/blobs"), 0777), 0);
    assert_int_equal(mkdir(path_of("hub/snapshots"), 0777), 0);
    assert_int_equal(mkdir(path_of("hub/snapshots/rev"), 0777), 0);
    assert_int_equal(rename(other, path_of("hub/blobs/0123abcd")), 0);
    assert_fails(st_open_dir(&set, path_of("hub/snapshots/rev")), LORAD_NOT_FOUND,
                 "neither model.safetensors");
    assert_int_equal(symlink("../../blobs/0123abcd", path_of("hub/snapshots/rev/model.safetensors")), 0);
    assert_ok(st_open_dir(&set, path_of("hub/snapshots/rev")));
    assert_non_null(st_find(set, "one"));
    st_close(set);
}

static void the_fingerprint_sees_names_headers_and_ends(void **state)
{
    (void)state;
    static uint8_t values[4 << 20];
    struct st_item item = {"w", ST_U8, 1, {sizeof values}, values};
    struct hash128 first, second;
    struct st_set *set;
    const char *path = path_of("print.safetensors");
    for (int i = 0; i < 5; i++) {
        if (i == 1) values[sizeof values - 1] = 1; /* the end is seen */
        if (i == 3) values[sizeof values / 2] = 1; /* the middle is not: it is cheap, and says so */
        if (i == 4) item.name = "v";
        assert_ok(st_write_file(fs_posix(), path, &item, 1));
        assert_ok(st_open_file(&set, path));
        assert_ok(st_fingerprint(&second, set));
        st_close(set);
        if (i > 0) assert_int_equal(hash128_equal(first, second), i == 2 || i == 3);
        first = second;
    }
}

static void a_header_of_300_tensors_opens_quickly(void **state)
{
    (void)state;
    enum { N = 300 };
    static char names[N][80];
    static struct st_item items[N];
    float value[4] = {0};
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "model.layers.%d.self_attn.q_proj.weight", i);
        items[i] = (struct st_item){names[i], ST_F32, 2, {2, 2}, value};
    }
    const char *path = path_of("many.safetensors");
    assert_ok(st_write_file(fs_posix(), path, items, N));
    int64_t best = INT64_MAX;
    for (int i = 0; i < 20; i++) {
        struct st_set *set;
        int64_t start = clock_monotonic_ns();
        assert_ok(st_open_file(&set, path));
        int64_t took = clock_monotonic_ns() - start;
        if (took < best) best = took;
        assert_int_equal(st_count(set), N);
        for (int k = 0; k < N; k++) assert_non_null(st_find(set, names[k]));
        st_close(set);
    }
    print_message("300 tensors: opened in %.3f ms\n", (double)best * 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(slices_of_large_tensors_are_exact),
        cmocka_unit_test(a_damaged_header_is_refused),
        cmocka_unit_test(lengths_that_lie_are_refused),
        cmocka_unit_test(escapes_and_padding_are_read),
        cmocka_unit_test(an_index_joins_its_files),
        cmocka_unit_test(an_index_that_disagrees_is_refused),
        cmocka_unit_test(links_out_of_the_folder_are_refused),
        cmocka_unit_test(the_fingerprint_sees_names_headers_and_ends),
        cmocka_unit_test(a_header_of_300_tensors_opens_quickly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
