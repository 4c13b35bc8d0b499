/* A prepared folder while it grows: who follows it, what ends it, and what does not depend on how it grew. */
#include "support/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "dataloader/dataloader.h"
#include "dataloader/dataset_file.h"
#include "dataloader/shard_file.h"
#include "support/demo_model.h"
#include "support/synthetic_rows.h"

enum { ROWS = 30000, BAD_EVERY = 7 };

/* Rows "question i" with one of seven that is no row. */
static const char *many_rows(void)
{
    static char path[600];
    if (path[0]) return path;
    snprintf(path, sizeof path, "%s/many.jsonl", test_tmpdir());
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < ROWS; i++)
        if (i % BAD_EVERY == 3)
            fprintf(file, "{\"messages\": %d}\n", i);
        else
            fprintf(file,
                    "{\"messages\": [{\"role\": \"user\", \"content\": \"q %d\"}, {\"role\": \"assistant\", "
                    "\"content\": \"answer %d\"}]}\n",
                    i, i * 31 % 1009);
    assert_int_equal(fclose(file), 0);
    return path;
}

static struct prepare_options options_for(struct dataset_source *source)
{
    static char cache[600];
    static int number;
    snprintf(cache, sizeof cache, "%s/cache-%d", test_tmpdir(), number++);
    *source = (struct dataset_source){.path = many_rows()};
    return (struct prepare_options){.sources = source,
                                    .n_sources = 1,
                                    .tokenizer = tokenizer,
                                    .chat = chat,
                                    .cutoff_len = 256,
                                    .cache_dir = cache,
                                    .threads = 1,
                                    .order = {.seed = 11, .shuffle = true}};
}

static bool is_bad(int64_t row)
{
    return row % BAD_EVERY == 3;
}

static enum status look_at_row(const struct dataset *dataset, int64_t number)
{
    TRY(dataset_row_check(dataset, number));
    struct dataset_row row = dataset_row(dataset, number);
    if (row.line != number + 1 || (row.n_tokens == 0) != is_bad(number) ||
        row.n_tokens != dataset_length(dataset, number))
        return FAIL(LORAD_BUG, "row %lld has line %lld and %d tokens", (long long)number, (long long)row.line,
                    row.n_tokens);
    return LORAD_OK;
}

/* Reads all rows in windows of the order, waiting for each. */
static enum status follow(const char *folder, const struct mixture_options *order, bool *was_growing)
{
    enum { WINDOW = 4096 };
    int64_t rows[WINDOW];
    struct dataset *dataset;
    struct mixture *mixture;
    TRY(dataset_open(&dataset, folder));
    *was_growing = !dataset_complete(dataset);
    struct row_range range = dataset_group(dataset, 0);
    struct mixture_group group = {.first_row = range.first, .n_rows = range.n, .weight = 1};
    TRY(mixture_create(&mixture, &group, 1, order));
    enum status status = dataset_raw_rows(dataset) == ROWS ? LORAD_OK : FAIL(LORAD_BUG, "rows");
    for (int64_t at = 0; status == LORAD_OK && at < ROWS; at += WINDOW) {
        int32_t n = ROWS - at < WINDOW ? (int32_t)(ROWS - at) : WINDOW;
        mixture_rows(mixture, 0, at, n, rows);
        status = dataset_wait(dataset, rows, n);
        for (int32_t i = 0; status == LORAD_OK && i < n; i++) status = look_at_row(dataset, rows[i]);
    }
    mixture_destroy(mixture);
    dataset_close(dataset);
    return status;
}

static void rows_are_there_before_the_last_one_is(void **state)
{
    (void)state;
    struct dataset_source source;
    struct prepare_options options = options_for(&source);
    struct preparation *preparation;
    struct prepare_report report;
    char *folder;
    bool growing, done;
    assert_ok(preparation_start(&preparation, &folder, &options));
    pid_t child = fork(); /* another process sees the same */
    assert_true(child >= 0);
    if (child == 0) _exit(follow(folder, &options.order, &growing) == LORAD_OK ? (growing ? 3 : 2) : 1);
    assert_ok(follow(folder, &options.order, &growing));
    assert_true(growing);
    int result;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), 3);
    assert_ok(preparation_poll(preparation, &done));
    struct preparation_progress progress = preparation_progress(preparation);
    assert_int_equal(progress.raw_rows, ROWS);
    assert_int_equal(progress.rows_done, ROWS);
    assert_ok(preparation_finish(preparation, &report));
    assert_int_equal(report.rows_read, ROWS);
    assert_int_equal(report.problem_count[ROW_NO_MESSAGES], (ROWS + BAD_EVERY - 4) / BAD_EVERY);
    assert_int_equal(report.place[ROW_NO_MESSAGES][2].line, 2 * BAD_EVERY + 4);

    /* Shards hold the rows in the order of the first epoch, and sizes double. */
    struct shard_map shard;
    struct mixture *mixture;
    struct mixture_group group = {.n_rows = ROWS, .weight = 1};
    assert_ok(mixture_create(&mixture, &group, 1, &options.order));
    int64_t at = 0;
    for (int i = 0; at < ROWS; i++) {
        assert_ok(shard_map_open(&shard, folder, i));
        assert_int_equal(shard.view.header->rows_before, at);
        int64_t expected = SHARD_FIRST_ROWS << i < ROWS - at ? SHARD_FIRST_ROWS << i : ROWS - at;
        assert_int_equal(shard.view.n_rows, expected);
        for (int64_t k = 0; k < shard.view.n_rows; k++)
            assert_int_equal(shard.view.rows[k].raw_row, mixture_row(mixture, 0, at + k));
        at += shard.view.n_rows;
        shard_map_close(&shard);
    }
    mixture_destroy(mixture);
    assert_ok(follow(folder, &options.order, &growing));
    assert_false(growing);
    assert_ok(dataset_verify(folder));
    free(folder);
}

static struct hash128 fingerprint_of(const struct prepare_options *options)
{
    struct dataset *dataset;
    char *folder;
    assert_ok(dataset_prepare(&folder, options, NULL));
    assert_ok(dataset_open(&dataset, folder));
    struct hash128 fingerprint = dataset_fingerprint(dataset);
    for (int64_t i = 0; i < ROWS; i += 101) assert_ok(look_at_row(dataset, i));
    dataset_close(dataset);
    free(folder);
    return fingerprint;
}

static void the_fingerprint_does_not_know_the_order(void **state)
{
    (void)state;
    struct dataset_source source;
    struct prepare_options options = options_for(&source);
    struct hash128 first = fingerprint_of(&options);
    options = options_for(&source);
    options.order.seed = 12;
    options.shard_bytes = 100000;
    options.threads = 3;
    assert_true(hash128_equal(first, fingerprint_of(&options)));
    options = options_for(&source);
    options.order.shuffle = false;
    assert_true(hash128_equal(first, fingerprint_of(&options)));
    options = options_for(&source);
    source.weight = 0.3; /* two thirds of the rows are of later epochs */
    assert_true(hash128_equal(first, fingerprint_of(&options)));
    options = options_for(&source);
    options.chat_options.train_on_prompt = true;
    assert_false(hash128_equal(first, fingerprint_of(&options)));
}

/* Stopped, and continued in another order: all rows are there once. */
static void stopped_and_continued(void **state)
{
    (void)state;
    struct dataset_source source;
    struct prepare_options options = options_for(&source);
    struct hash128 expected = fingerprint_of(&options);
    options = options_for(&source);
    struct preparation *preparation;
    char *folder;
    int64_t row = 0;
    struct mixture *mixture;
    struct mixture_group group = {.n_rows = ROWS, .weight = 1};
    assert_ok(mixture_create(&mixture, &group, 1, &options.order));
    row = mixture_row(mixture, 0, 0);
    mixture_destroy(mixture);
    assert_ok(preparation_start(&preparation, &folder, &options));
    struct dataset *dataset;
    assert_ok(dataset_open(&dataset, folder));
    assert_ok(dataset_wait(dataset, &row, 1));
    assert_ok(look_at_row(dataset, row));
    preparation_cancel(preparation);
    assert_fails(preparation_finish(preparation, NULL), LORAD_REQUEUE, "stopped");
    assert_false(dataset_complete(dataset));
    int64_t all[ROWS];
    for (int64_t i = 0; i < ROWS; i++) all[i] = i;
    assert_fails(dataset_wait(dataset, all, ROWS), LORAD_REQUEUE, "stopped");
    options.order.seed++;
    assert_true(hash128_equal(expected, fingerprint_of(&options)));
    assert_ok(dataset_wait(dataset, all, ROWS)); /* it goes on where the folder does */
    for (int64_t i = 0; i < ROWS; i++) assert_ok(look_at_row(dataset, i));
    assert_true(dataset_complete(dataset));
    assert_true(hash128_equal(expected, dataset_fingerprint(dataset)));
    dataset_close(dataset);
    assert_ok(dataset_verify(folder));
    free(folder);
}

static void a_waiting_reader_can_be_stopped(void **state)
{
    (void)state;
    struct dataset_source source;
    struct prepare_options options = options_for(&source);
    struct preparation *preparation;
    struct dataset *dataset;
    char *folder;
    assert_ok(preparation_start(&preparation, &folder, &options));
    assert_ok(dataset_open(&dataset, folder));
    preparation_cancel(preparation);
    assert_fails(preparation_finish(preparation, NULL), LORAD_REQUEUE, NULL);
    int64_t all[ROWS];
    for (int64_t i = 0; i < ROWS; i++) all[i] = i;
    dataset_stop_waiting(dataset, true);
    assert_fails(dataset_wait(dataset, all, ROWS), LORAD_REQUEUE, "stop waiting");
    dataset_close(dataset);
    free(folder);
}

/* The one who prepares fails on a row: so does everybody who follows, with the same words. */
static void a_failure_reaches_those_who_follow(void **state)
{
    (void)state;
    struct dataset_source source;
    struct prepare_options options = options_for(&source);
    char path[600], *folder;
    snprintf(path, sizeof path, "%s/long.jsonl", test_tmpdir());
    FILE *to = fopen(path, "w"), *from = fopen(many_rows(), "r");
    assert_true(to && from);
    char line[1000];
    for (int i = 0; fgets(line, sizeof line, from); i++)
        if (i != ROWS - 5)
            fputs(line, to);
        else {
            fputs("{\"messages\": [{\"role\": \"user\", \"content\": \"", to);
            for (int k = 0; k < 3000; k++) fputs("long ", to);
            fputs("\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}\n", to);
        }
    fclose(from);
    assert_int_equal(fclose(to), 0);
    source.path = path;
    options.excess = EXCESS_RAISE;
    options.order.shuffle = false;
    pid_t child = fork(); /* before there is a lock that it would inherit */
    assert_true(child >= 0);
    if (child == 0) {
        options.follow = true;
        enum status status = dataset_prepare(&folder, &options, NULL);
        _exit(status == LORAD_DATA && strstr(status_message(), "excess_length_strategy is raise") ? 0 : 1);
    }
    struct preparation *preparation;
    struct dataset *dataset;
    assert_ok(preparation_start(&preparation, &folder, &options));
    assert_ok(dataset_open(&dataset, folder));
    int64_t last = ROWS - 1;
    assert_fails(dataset_wait(dataset, &last, 1), LORAD_DATA, "excess_length_strategy is raise");
    assert_fails(preparation_finish(preparation, NULL), LORAD_DATA, "excess_length_strategy is raise");
    int result;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
    dataset_close(dataset);
    free(folder);
}

/* The one who prepares is killed: another one that waits takes over. */
static void another_process_takes_over(void **state)
{
    (void)state;
    struct dataset_source source;
    struct prepare_options options = options_for(&source);
    struct hash128 expected = fingerprint_of(&options);
    options = options_for(&source);
    char *folder;
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct preparation *preparation;
        bool ok = preparation_start(&preparation, &folder, &options) == LORAD_OK;
        if (ok && write(ready[1], "x", 1) == 1) pause();
        _exit(1);
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    struct preparation *preparation;
    assert_ok(preparation_start(&preparation, &folder, &options));
    usleep(30000);
    kill(child, SIGKILL);
    int result;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_ok(preparation_finish(preparation, NULL));
    assert_true(hash128_equal(expected, fingerprint_of(&options)));
    free(folder);
}

/* The second start looks at the sources' size and time, and reads only what was prepared. */
static void a_cached_start_reads_no_source(void **state)
{
    (void)state;
    struct dataset_source source;
    struct prepare_options options = options_for(&source);
    char path[600], *folder;
    struct prepare_report report;
    struct stat before;
    snprintf(path, sizeof path, "%s/unread.jsonl", test_tmpdir());
    char command[1300];
    snprintf(command, sizeof command, "head -n 100 '%s' >'%s'", many_rows(), path);
    assert_int_equal(system(command), 0);
    source.path = path;
    assert_ok(dataset_prepare(&folder, &options, &report));
    free(folder);
    assert_int_equal(stat(path, &before), 0);
    /* Zeros of the same size and time: whoever reads them finds no format. */
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(truncate(path, before.st_size), 0);
    const struct timespec times[2] = {before.st_atim, before.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_ok(dataset_prepare(&folder, &options, &report));
    assert_true(report.from_cache);
    assert_int_equal(report.rows_read, 100);
    assert_ok(dataset_verify(folder));
    free(folder);
    assert_int_equal(utimensat(AT_FDCWD, path, NULL, 0), 0); /* another time: read, and refused */
    assert_fails(dataset_prepare(&folder, &options, &report), LORAD_DATA, "unread.jsonl");
}

static void groups_are_ranges_and_samples_are_counted(void **state)
{
    (void)state;
    struct dataset_source first;
    struct prepare_options options = options_for(&first);
    struct dataset_source sources[3] = {first, first, first};
    sources[0].max_samples = 10;
    sources[1].max_samples = 2 * ROWS;
    sources[2].max_samples = 500;
    options.sources = sources;
    options.n_sources = 3;
    for (int part = 0; part < 2; part++) {
        struct dataset *dataset;
        char *folder;
        options.val_size = 100;
        options.want_eval_part = part == 1;
        assert_ok(dataset_prepare(&folder, &options, NULL));
        assert_ok(dataset_open(&dataset, folder));
        int64_t all = 10 + ROWS + 500, at = 0;
        assert_int_equal(dataset_raw_rows(dataset), part == 1 ? 100 : all - 100);
        assert_int_equal(dataset_groups(dataset), 3);
        for (int g = 0; g < 3; g++) {
            struct row_range range = dataset_group(dataset, g);
            assert_int_equal(range.first, at);
            at += range.n;
            int64_t line = 0;
            for (int64_t i = range.first; i < at; i++) {
                struct dataset_row row = dataset_row(dataset, i);
                assert_int_equal(row.source, g);
                assert_true(row.line > line &&
                            (sources[g].max_samples == 0 || row.line <= sources[g].max_samples));
                line = row.line;
            }
        }
        assert_int_equal(at, dataset_raw_rows(dataset));
        dataset_close(dataset);
        free(folder);
    }
}

/* ---- weights ---- */

static void weights_survive_any_number_of_them(void **state)
{
    (void)state;
    enum { N = 2000, TOKENS = 40 };
    char folder[600];
    snprintf(folder, sizeof folder, "%s/weights", test_tmpdir());
    assert_ok(file_make_dirs(folder));
    struct shard_writer *writer;
    assert_ok(shard_writer_create(&writer, &(struct shard_writer_options){
                                               .folder = folder, .vocab_size = 100, .shard_bytes = 1 << 30}));
    int32_t tokens[TOKENS] = {0};
    float weights[N][TOKENS];
    for (int64_t i = 0; i < N; i++) {
        for (int t = 0; t < TOKENS; t++) {
            uint32_t word = random_philox(9, (uint64_t)i, (uint64_t)t).word[0];
            weights[i][t] = word % 3 == 0 ? 0 : word % 3 == 1 ? 1 : (float)(1 + word % 1000) * 0.25f;
        }
        if (!shard_writer_takes(writer, weights[i], TOKENS)) assert_ok(shard_writer_close(writer));
        assert_true(shard_writer_takes(writer, weights[i], TOKENS));
        struct shard_entry row = {
            .tokens = tokens, .weights = weights[i], .n = TOKENS, .raw_row = i, .line = i + 1};
        assert_ok(shard_writer_add(writer, &row));
    }
    assert_ok(shard_writer_close(writer));
    char *sources[] = {"x"};
    struct row_range group = {0, N};
    struct dataset_about about = {.raw_rows = N,
                                  .vocab_size = 100,
                                  .cutoff_len = TOKENS,
                                  .source = sources,
                                  .n_sources = 1,
                                  .group = &group,
                                  .n_groups = 1,
                                  .n_shards = shard_writer_number(writer)};
    assert_true(about.n_shards > 10);
    shard_writer_destroy(writer);
    assert_ok(dataset_seal(&about, folder));
    struct dataset *dataset;
    assert_ok(dataset_open(&dataset, folder));
    for (int64_t i = 0; i < N; i++) {
        assert_ok(dataset_row_check(dataset, i));
        struct dataset_row row = dataset_row(dataset, i);
        double sum = 0;
        for (int t = 0; t < TOKENS; t++) {
            assert_true(row.weight_of[row.codes[t]] == weights[i][t]);
            assert_true((row.codes[t] == 0) == (weights[i][t] == 0));
            if (t > 0) sum += (double)weights[i][t];
        }
        assert_true(sum == row.weight);
    }
    dataset_close(dataset);
    assert_ok(dataset_verify(folder));
}

/* ---- damage ---- */

/* Any flipped bit of any file is found by dataset_verify, and none is followed out of bounds before. */
static void verify_finds_every_flipped_bit(void **state)
{
    (void)state;
    char folder[512], path[800];
    int32_t lengths[60];
    for (int i = 0; i < 60; i++) lengths[i] = i % 9 == 4 ? 0 : 2 + i % 13;
    dataset_close(synthetic_dataset(lengths, 60, 1500, folder));
    assert_ok(dataset_verify(folder));
    struct dirent **entry;
    int n = scandir(folder, &entry, NULL, alphasort), flipped = 0, unnoticed = 0;
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, entry[i]->d_name);
        struct stat info;
        assert_int_equal(stat(path, &info), 0);
        FILE *file = S_ISREG(info.st_mode) ? fopen(path, "r+") : NULL;
        for (long at = 0; file && at < info.st_size; at += 1 + at % 5) {
            fseek(file, at, SEEK_SET);
            int byte = fgetc(file), other = byte ^ 1 << at % 8;
            fseek(file, at, SEEK_SET);
            fputc(other, file);
            fflush(file);
            flipped++;
            struct dataset *dataset = NULL;
            if (dataset_verify(folder) == LORAD_OK) unnoticed++;
            if (dataset_open(&dataset, folder) == LORAD_OK)
                for (int64_t r = 0; r < dataset_raw_rows(dataset) && r < 60; r++)
                    if (dataset_row_check(dataset, r) != LORAD_OK) status_clear();
            dataset_close(dataset);
            fseek(file, at, SEEK_SET);
            fputc(byte, file);
            fflush(file);
        }
        if (file) fclose(file);
        free(entry[i]);
    }
    free(entry);
    assert_ok(dataset_verify(folder));
    /* Padding between sections, and words of the JSON that change nothing (names, blanks, cutoff_len). */
    printf("%d bits flipped, %d of them without meaning\n", flipped, unnoticed);
    assert_true(flipped > 2000 && unnoticed < flipped / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_there_before_the_last_one_is),
        cmocka_unit_test(the_fingerprint_does_not_know_the_order),
        cmocka_unit_test(stopped_and_continued),
        cmocka_unit_test(a_waiting_reader_can_be_stopped),
        cmocka_unit_test(a_failure_reaches_those_who_follow),
        cmocka_unit_test(another_process_takes_over),
        cmocka_unit_test(a_cached_start_reads_no_source),
        cmocka_unit_test(groups_are_ranges_and_samples_are_counted),
        cmocka_unit_test(weights_survive_any_number_of_them),
        cmocka_unit_test(verify_finds_every_flipped_bit),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
