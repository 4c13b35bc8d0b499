/*
 * A real checkpoint, changed at random in every way that disks and people change files, and resumed from.
 * Whatever the change, the run goes on from it with every value as it was written, or with it in quarantine
 * from the one before; it never loads a wrong value. LORAD_MUTATIONS=10000 for the long form (default 400).
 */
#include "support/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/fs.h"
#include "base/random.h"
#include "support/checkpoint_resume.h"
#include "support/crash_job.h"
#include "support/golden_checkpoint.h"

enum { MAX_FILES = 12, MOST_BYTES = 1 << 22 };

static char out[600], newest[700], older[700];
static const char newest_name[] = "s000000003.e0000001.a0", older_name[] = "s000000002.e0000001.a0";

/* The files of the newest checkpoint as they were written. */
static struct file {
    char name[256], path[1000];
    char *bytes;
    size_t length;
} files[MAX_FILES];
static int n_files;
static struct golden_values values;

struct dice {
    uint64_t seed, n;
};
static uint64_t roll(struct dice *dice, uint64_t sides)
{
    struct random_block block = random_philox(dice->seed, 7, dice->n++);
    return ((uint64_t)block.word[0] << 32 | block.word[1]) % sides;
}

static void put(const char *path, const char *bytes, size_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0666);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, length, 0), length);
    assert_int_equal(ftruncate(fd, (off_t)length), 0);
    assert_int_equal(close(fd), 0);
}

static void remember(const char *name)
{
    struct file *file = &files[n_files++];
    assert_true(n_files <= MAX_FILES);
    snprintf(file->name, sizeof file->name, "%s", name);
    snprintf(file->path, sizeof file->path, "%s/%s", newest, name);
    assert_ok(file_read(&file->bytes, &file->length, file->path, MOST_BYTES));
}

/* Copies the golden checkpoint; the older one says another step, with a hash that is right. */
static void copy_golden(const char *to, int step)
{
    DIR *dir = opendir(GOLDEN_CHECKPOINT);
    const struct dirent *entry;
    assert_non_null(dir);
    assert_ok(file_make_dirs(to));
    while ((entry = readdir(dir))) {
        char from[800], path[1000], *bytes;
        size_t length;
        if (*entry->d_name == '.') continue;
        snprintf(from, sizeof from, GOLDEN_CHECKPOINT "/%s", entry->d_name);
        snprintf(path, sizeof path, "%s/%s", to, entry->d_name);
        assert_ok(file_read(&bytes, &length, from, MOST_BYTES));
        if (strcmp(entry->d_name, "MANIFEST.json") == 0 && step != 3) {
            char hex[33];
            strstr(bytes, "\"step\":3")[7] = (char)('0' + step);
            size_t hashed = length - strlen("\"hash\":\"\"}\n") - 32;
            hash128_hex(hash128(bytes, hashed), hex);
            memcpy(bytes + hashed + strlen("\"hash\":\""), hex, 32);
        }
        put(path, bytes, length);
        free(bytes);
    }
    closedir(dir);
}

static int prepare(void **state)
{
    (void)state;
    snprintf(out, sizeof out, "%s/out", test_tmpdir());
    snprintf(newest, sizeof newest, "%s/ckpt/%s", out, newest_name);
    snprintf(older, sizeof older, "%s/ckpt/%s", out, older_name);
    copy_golden(newest, 3);
    copy_golden(older, 2);
    DIR *dir = opendir(newest);
    const struct dirent *entry;
    while ((entry = readdir(dir)))
        if (*entry->d_name != '.') remember(entry->d_name);
    closedir(dir);
    golden_values_read(&values);
    return 0;
}

static int forget(void **state)
{
    (void)state;
    for (int i = 0; i < n_files; i++) free(files[i].bytes);
    golden_values_free(&values);
    return 0;
}

/* ---- the ways in which a checkpoint is changed; each says whether what is loaded may have changed ---- */

static struct file *any_file(struct dice *dice)
{
    return &files[roll(dice, (uint64_t)n_files)];
}

static struct file *file_named(const char *start, struct dice *dice)
{
    for (;;) {
        struct file *file = any_file(dice);
        if (strncmp(file->name, start, strlen(start)) == 0) return file;
    }
}

/* `change` of a copy of the bytes; whether anything is different then. */
static bool rewrite(struct file *file, struct dice *dice, void (*change)(char *, size_t, struct dice *))
{
    char *bytes = malloc(file->length);
    assert_non_null(bytes);
    memcpy(bytes, file->bytes, file->length);
    change(bytes, file->length, dice);
    bool different = memcmp(bytes, file->bytes, file->length) != 0;
    put(file->path, bytes, file->length);
    free(bytes);
    return different;
}

static void flip(char *bytes, size_t length, struct dice *dice)
{
    bytes[roll(dice, length)] ^= (char)(1 << roll(dice, 8));
}

static void flip_in_index(char *bytes, size_t length, struct dice *dice)
{
    uint64_t text;
    memcpy(&text, bytes + length - 16, sizeof text);
    size_t tail = (size_t)text + 24;
    flip(bytes + length - tail, tail, dice);
}

static void zero_page(char *bytes, size_t length, struct dice *dice)
{
    size_t page = (size_t)512 << roll(dice, 4), pages = (length + page - 1) / page,
           at = page * roll(dice, pages);
    memset(bytes + at, 0, length - at < page ? length - at : page);
}

static void swap_sectors(char *bytes, size_t length, struct dice *dice)
{
    char sector[512];
    if (length < 1024) return flip(bytes, length, dice);
    size_t a = 512 * roll(dice, length / 512), b = 512 * roll(dice, length / 512);
    memcpy(sector, bytes + a, 512);
    memmove(bytes + a, bytes + b, 512);
    memcpy(bytes + b, sector, 512);
}

static void other_bytes(char *bytes, size_t length, struct dice *dice)
{
    size_t at = roll(dice, length), n = 1 + roll(dice, 64);
    for (size_t i = at; i < length && i < at + n; i++) bytes[i] = (char)roll(dice, 256);
}

static bool bit_of_manifest(struct dice *dice)
{
    return rewrite(file_named("MANIFEST", dice), dice, flip);
}

static bool bit_of_planes(struct dice *dice)
{
    return rewrite(file_named("shard-", dice), dice, flip);
}

static bool bit_of_index(struct dice *dice)
{
    return rewrite(file_named("shard-", dice), dice, flip_in_index);
}

static bool bit_of_adapter(struct dice *dice)
{
    return rewrite(file_named("adapter_", dice), dice, flip);
}

static bool bit_of_config(struct dice *dice)
{
    return rewrite(file_named("lorad.yaml", dice), dice, flip);
}

static bool page_of_zeros(struct dice *dice)
{
    return rewrite(any_file(dice), dice, zero_page);
}

static bool sectors_exchanged(struct dice *dice)
{
    return rewrite(any_file(dice), dice, swap_sectors);
}

static bool bytes_replaced(struct dice *dice)
{
    return rewrite(any_file(dice), dice, other_bytes);
}

static bool cut(struct dice *dice)
{
    struct file *file = any_file(dice);
    assert_int_equal(truncate(file->path, (off_t)roll(dice, file->length)), 0);
    return true;
}

static bool grown(struct dice *dice)
{
    struct file *file = any_file(dice);
    assert_int_equal(truncate(file->path, (off_t)(file->length + 1 + roll(dice, 5000))), 0);
    return true;
}

static bool missing(struct dice *dice)
{
    assert_int_equal(unlink(any_file(dice)->path), 0);
    return true;
}

static bool shards_exchanged(struct dice *dice)
{
    struct file *a = file_named("shard-00000", dice), *b = file_named("shard-00001", dice);
    put(a->path, b->bytes, b->length);
    put(b->path, a->bytes, a->length);
    return true;
}

/* All but the manifest of the older one is the same, so a shard of it would be no change. */
static bool manifest_of_another(struct dice *dice)
{
    char path[800], *bytes;
    size_t length;
    (void)dice;
    snprintf(path, sizeof path, "%s/MANIFEST.json", older);
    assert_ok(file_read(&bytes, &length, path, MOST_BYTES));
    put(file_named("MANIFEST", dice)->path, bytes, length);
    free(bytes);
    return true;
}

static bool a_link_elsewhere(struct dice *dice)
{
    struct file *file = any_file(dice);
    char path[800];
    if (strncmp(file->name, "MANIFEST", 8) == 0) return missing(dice);
    snprintf(path, sizeof path, "%s/%s", older, file->name);
    assert_int_equal(unlink(file->path), 0);
    assert_int_equal(symlink(path, file->path), 0);
    return true;
}

static bool files_beside(struct dice *dice)
{
    static const char *const names[] = {
        "PINNED", "MANIFEST.tmp", "notes.txt", "shard-00002-of-00003.zst", "lorad.yaml.tmp-12-0", ".nfs0001"};
    char path[800];
    snprintf(path, sizeof path, "%s/%s", newest, names[roll(dice, sizeof names / sizeof *names)]);
    put(path, "something", 9);
    return false;
}

static const struct kind {
    const char *name;
    bool (*change)(struct dice *dice);
} kinds[] = {
    {"a bit of the manifest", bit_of_manifest},
    {"a bit of a shard's planes", bit_of_planes},
    {"a bit of a shard's index", bit_of_index},
    {"a bit of the PEFT adapter", bit_of_adapter},
    {"a bit of the configuration", bit_of_config},
    {"a page of zeros", page_of_zeros},
    {"two sectors exchanged", sectors_exchanged},
    {"some bytes replaced", bytes_replaced},
    {"a file cut", cut},
    {"a file grown", grown},
    {"a file missing", missing},
    {"shards exchanged", shards_exchanged},
    {"the manifest of another", manifest_of_another},
    {"a link in place of a file", a_link_elsewhere},
    {"files beside (harmless)", files_beside},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* ---- and what a resume makes of it ---- */

static void restore_folder(void)
{
    char path[800];
    assert_ok(fs_remove_tree(fs_posix(), newest));
    snprintf(path, sizeof path, "%s/quarantine", out);
    assert_ok(fs_remove_tree(fs_posix(), path));
    assert_ok(file_make_dirs(newest));
    for (int i = 0; i < n_files; i++) put(files[i].path, files[i].bytes, files[i].length);
}

/* Without a manifest it is no checkpoint, which is not for quarantine. */
static bool is_uncommitted(void)
{
    char path[800];
    snprintf(path, sizeof path, "%s/MANIFEST.json", newest);
    return !file_exists(path);
}

static void mutated_checkpoints_are_found_or_whole(void **state)
{
    (void)state;
    const char *wish = getenv("LORAD_MUTATIONS");
    long n = wish ? atol(wish) : 400, detected[KINDS] = {0}, unchanged[KINDS] = {0}, uncommitted = 0;
    for (long i = 0; i < n; i++) {
        struct dice dice = {(uint64_t)i, 0};
        size_t kind = (size_t)i % KINDS;
        struct resume_result result;
        bool different = kinds[kind].change(&dice), no_manifest = is_uncommitted();
        enum status status = resume_newest(&result, fs_posix(), out, golden_values_compare, &values);
        if (status != LORAD_OK) fail_msg("%s, number %ld: %s", kinds[kind].name, i, status_message());
        const char *wanted = different ? older_name : newest_name;
        if (strcmp(result.name, wanted) != 0)
            fail_msg("%s, number %ld: \"%s\" was loaded, not %s", kinds[kind].name, i, result.name, wanted);
        assert_int_equal(result.quarantined, different && !no_manifest);
        uncommitted += no_manifest;
        ++*(different ? &detected[kind] : &unchanged[kind]);
        restore_folder();
    }
    long all = 0, none = 0;
    for (int k = 0; k < KINDS; k++) {
        print_message("%6ld detected, %6ld changed nothing: %s\n", detected[k], unchanged[k], kinds[k].name);
        all += detected[k];
        none += unchanged[k];
    }
    print_message("%ld mutations: %ld detected and the one before taken (%ld of them had lost the manifest), "
                  "%ld changed "
                  "nothing that is loaded and were loaded whole, 0 wrong values\n",
                  n, all, uncommitted, none);
    assert_int_equal(all + none, n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(mutated_checkpoints_are_found_or_whole)};
    crash_use_memory();
    return cmocka_run_group_tests(tests, prepare, forget);
}
