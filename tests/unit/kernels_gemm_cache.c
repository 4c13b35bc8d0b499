/* gemm_cache.h: choices survive in a file, and a file that is another machine's or damaged is as none. */
#include "support/test.h"

#include <unistd.h>

#include "base/file.h"
#include "kernels/cuda/gemm_cache.h"

static const struct gemm_machine machine = {
    .cublaslt_version = 130100, .multiprocessors = 132, .gpu = "NVIDIA H100 80GB HBM3"};

static struct gemm_key key(int64_t m)
{
    return (struct gemm_key){.m = m, .n = 4096, .k = 4128, .a_stride = 4128, .a_align = 256, .turn_b = 1};
}

static struct gemm_algorithm algorithm(unsigned char first)
{
    return (struct gemm_algorithm){.bytes = {first, 2, 3}, .workspace_bytes = 1000u + first};
}

static struct gemm_cache *new_cache(struct gemm_machine of)
{
    struct gemm_cache *cache;
    assert_ok(gemm_cache_create(&cache, &of));
    return cache;
}

static void put(struct gemm_cache *cache, int64_t m, unsigned char first, bool kept)
{
    struct gemm_entry *entry = NULL;
    struct gemm_key k = key(m);
    struct gemm_algorithm a = algorithm(first);
    assert_ok(gemm_cache_put(&entry, cache, &k, &a, kept));
    assert_non_null(entry);
}

/* The first byte of the algorithm for m; -1: none. */
static int found(struct gemm_cache *cache, int64_t m)
{
    struct gemm_key k = key(m);
    struct gemm_entry *entry = gemm_cache_find(cache, &k);
    if (!entry) return -1;
    struct gemm_algorithm expected = algorithm(entry->algorithm.bytes[0]);
    assert_memory_equal(&entry->algorithm, &expected, sizeof expected);
    return entry->algorithm.bytes[0];
}

static char *path_in_tmp(const char *name)
{
    char *path = file_join(test_tmpdir(), name);
    assert_non_null(path);
    return path;
}

static void choices_survive_in_a_file(void **state)
{
    (void)state;
    char *path = path_in_tmp("kept");
    struct gemm_cache *cache = new_cache(machine);
    for (int m = 1; m <= 3000; m++) put(cache, m, (unsigned char)m, m % 3 != 0);
    put(cache, 7, 99, true); /* in the place of the first */
    assert_int_equal(found(cache, 7), 99);
    assert_int_equal(found(cache, 3), 3);
    assert_ok(gemm_cache_save(cache, path));
    gemm_cache_destroy(cache);

    cache = new_cache(machine);
    put(cache, 8, 55, true); /* known before: the file's is not taken */
    assert_ok(gemm_cache_load(cache, path));
    for (int m = 1; m <= 3000; m++)
        assert_int_equal(found(cache, m), m % 3 == 0 ? -1 : m == 7 ? 99 : m == 8 ? 55 : (unsigned char)m);
    assert_int_equal(found(cache, 3001), -1);
    gemm_cache_destroy(cache);
    free(path);
}

static void two_processes_keep_each_others_choices(void **state)
{
    (void)state;
    char *path = path_in_tmp("shared");
    struct gemm_cache *one = new_cache(machine), *two = new_cache(machine);
    put(one, 1, 10, true);
    put(two, 2, 20, true);
    assert_ok(gemm_cache_save(one, path));
    assert_ok(gemm_cache_save(two, path));
    struct gemm_cache *both = new_cache(machine);
    assert_ok(gemm_cache_load(both, path));
    assert_int_equal(found(both, 1), 10);
    assert_int_equal(found(both, 2), 20);
    assert_int_equal(unlink(path), 0);
    assert_ok(gemm_cache_save(both, path)); /* nothing new: nothing is written */
    assert_false(file_exists(path));
    gemm_cache_destroy(one);
    gemm_cache_destroy(two);
    gemm_cache_destroy(both);
    free(path);
}

static void other_machines_are_refused(void **state)
{
    (void)state;
    char *path = path_in_tmp("machine"), *mine, *theirs;
    struct gemm_cache *cache = new_cache(machine);
    put(cache, 1, 1, true);
    assert_ok(gemm_cache_save(cache, path));
    gemm_cache_destroy(cache);
    struct gemm_machine other[3] = {machine, machine, machine};
    other[0].cublaslt_version++;
    other[1].multiprocessors = 114;
    strcpy(other[2].gpu, "NVIDIA H200");
    assert_ok(gemm_cache_path(&mine, &machine));
    for (int i = 0; i < 3; i++) {
        cache = new_cache(other[i]);
        assert_fails(gemm_cache_load(cache, path), LORAD_DATA, "another GPU");
        assert_int_equal(found(cache, 1), -1);
        gemm_cache_destroy(cache);
        assert_ok(gemm_cache_path(&theirs, &other[i]));
        assert_string_not_equal(mine, theirs);
        free(theirs);
    }
    cache = new_cache(machine);
    assert_fails(gemm_cache_load(cache, "/nonexistent/file"), LORAD_NOT_FOUND, NULL);
    gemm_cache_destroy(cache);
    free(mine);
    free(path);
}

static void write_bytes(const char *path, const char *bytes, size_t length)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

static void damaged_files_are_refused(void **state)
{
    (void)state;
    char *path = path_in_tmp("damaged"), *bytes;
    size_t length;
    struct gemm_cache *cache = new_cache(machine);
    for (int m = 1; m <= 4; m++) put(cache, m, 1, true);
    assert_ok(gemm_cache_save(cache, path));
    gemm_cache_destroy(cache);
    assert_ok(file_read(&bytes, &length, path, 1 << 20));
    cache = new_cache(machine);
    for (size_t cut = 0; cut < length; cut += 13) {
        write_bytes(path, bytes, cut);
        assert_fails(gemm_cache_load(cache, path), LORAD_DATA, "damaged");
    }
    for (size_t at = 0; at < length; at++) {
        bytes[at] ^= 0x10;
        write_bytes(path, bytes, length);
        assert_fails(gemm_cache_load(cache, path), LORAD_DATA, "damaged");
        bytes[at] ^= 0x10;
    }
    assert_int_equal(found(cache, 1), -1);
    put(cache, 5, 5, true);
    write_bytes(path, bytes, length / 2);
    assert_ok(gemm_cache_save(cache, path)); /* replaces it */
    gemm_cache_destroy(cache);
    cache = new_cache(machine);
    assert_ok(gemm_cache_load(cache, path));
    assert_int_equal(found(cache, 5), 5);
    gemm_cache_destroy(cache);
    free(bytes);
    free(path);
}

static void the_folder_follows_the_environment(void **state)
{
    (void)state;
    char *path;
    setenv("HOME", "/home/someone", 1);
    setenv("XDG_CACHE_HOME", "/cache", 1);
    setenv("LORAD_CACHE_DIR", "/own", 1);
    const char *const starts[] = {"/own/products-", "/cache/lorad/products-",
                                  "/home/someone/.cache/lorad/products-"};
    const char *const names[] = {"LORAD_CACHE_DIR", "XDG_CACHE_HOME", "HOME"};
    for (int i = 0; i < 3; i++) {
        assert_ok(gemm_cache_path(&path, &machine));
        assert_memory_equal(path, starts[i], strlen(starts[i]));
        free(path);
        unsetenv(names[i]);
    }
    assert_fails(gemm_cache_path(&path, &machine), LORAD_NOT_FOUND, "HOME");
}

static void a_full_cache_starts_anew(void **state)
{
    (void)state;
    struct gemm_cache *cache = new_cache(machine);
    for (int m = 1; m <= 40000; m++) put(cache, m, (unsigned char)m, false);
    assert_int_equal(found(cache, 40000), (unsigned char)40000);
    assert_int_equal(found(cache, 1), -1);
    gemm_cache_destroy(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_survive_in_a_file),
        cmocka_unit_test(two_processes_keep_each_others_choices),
        cmocka_unit_test(other_machines_are_refused),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(a_full_cache_starts_anew),
        cmocka_unit_test(the_folder_follows_the_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
