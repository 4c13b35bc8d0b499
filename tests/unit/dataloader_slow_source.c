/*
 * Preparing from slow storage: a decorator around source_reader_parse (see CMakeLists.txt: --wrap) sleeps as a disk of so
 * many megabytes a second would, and longer at times. What is written does not change.
 */
#include "support/test.h"

#include <stdatomic.h>
#include <time.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "dataloader/dataloader.h"
#include "dataloader/sources.h"

static double seconds_per_byte;
static atomic_int parsed;

enum status __real_source_reader_parse(const struct source_reader *reader, const struct raw_row *row,
                                       struct parsed_row *out);
enum status __wrap_source_reader_parse(const struct source_reader *reader, const struct raw_row *row,
                                       struct parsed_row *out);
enum status __wrap_source_reader_parse(const struct source_reader *reader, const struct raw_row *row,
                                       struct parsed_row *out)
{
    int n = atomic_fetch_add(&parsed, 1);
    double seconds = seconds_per_byte * (double)row->length;
    if (seconds_per_byte > 0 && random_philox(4, 0, (uint64_t)n).word[0] % 97 == 0) seconds += 0.01;
    if (seconds > 0) nanosleep(&(struct timespec){0, (long)(seconds * 1e9)}, NULL);
    return __real_source_reader_parse(reader, row, out);
}

static struct hash128 content_of(const char *folder)
{
    char path[1024], *text;
    size_t length;
    snprintf(path, sizeof path, "%s/dataset.json", folder);
    assert_ok(file_read(&text, &length, path, 1 << 20));
    struct hash128 hash = hash128(text, length); /* holds the hash of all bytes */
    free(text);
    return hash;
}

static void slow_storage_changes_nothing(void **state)
{
    (void)state;
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    log_set_level(LOG_ERROR);
    assert_ok(tokenizer_open(&tokenizer, LORAD_TEST_DATA "/models/fin-zh-tiny"));
    assert_ok(chat_template_open(&chat, tokenizer, NULL));
    const struct dataset_source source = {.path = LORAD_TEST_DATA "/finance-zh"};
    struct prepare_options options = {.sources = &source,
                                      .n_sources = 1,
                                      .tokenizer = tokenizer,
                                      .chat = chat,
                                      .cutoff_len = 1024,
                                      .shard_bytes = 200000,
                                      .order = {.seed = 1, .shuffle = true}};
    struct hash128 expected = {0, 0};
    const double megabytes[] = {0, 20, 2};
    const int32_t threads[] = {1, 4, 3};
    for (int i = 0; i < 3; i++) {
        char cache[600], *folder;
        snprintf(cache, sizeof cache, "%s/slow-%d", test_tmpdir(), i);
        options.cache_dir = cache;
        options.threads = threads[i];
        seconds_per_byte = megabytes[i] > 0 ? 1e-6 / megabytes[i] : 0;
        int64_t start = clock_monotonic_ns();
        assert_ok(dataset_prepare(&folder, &options, NULL));
        printf("%g MB/s, %d threads: %.2f s\n", megabytes[i], threads[i], clock_seconds_since(start));
        assert_ok(dataset_verify(folder));
        if (i == 0) expected = content_of(folder);
        assert_true(hash128_equal(expected, content_of(folder)));
        free(folder);
    }
    chat_template_close(chat);
    tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(slow_storage_changes_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
