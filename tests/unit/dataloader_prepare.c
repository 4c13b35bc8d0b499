#include "support/test.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/random.h"
#include "dataloader/dataloader.h"
#include "support/demo_model.h"

/* A cache folder of its own for every test. */
static const char *new_cache(void)
{
    static char path[600];
    static int number;
    snprintf(path, sizeof path, "%s/cache-%d", test_tmpdir(), number++);
    return path;
}

static struct prepare_options options_for(const struct dataset_source *source)
{
    return (struct prepare_options){.sources = source,
                                    .n_sources = 1,
                                    .tokenizer = tokenizer,
                                    .chat = chat,
                                    .cutoff_len = 1024,
                                    .cache_dir = new_cache()};
}

static const struct dataset_source stage1 = {.path = LORAD_TEST_DATA "/finance-zh/fin_stage1_general.jsonl"};
static const struct dataset_source all_finance = {.path = LORAD_TEST_DATA "/finance-zh"};
static const struct dataset_source bad_rows = {.path = LORAD_TEST_DATA "/bad-rows/rows.jsonl"};

static struct dataset *prepare_and_open(const struct prepare_options *options, struct prepare_report *report)
{
    char *folder;
    struct dataset *dataset;
    assert_ok(dataset_prepare(&folder, options, report));
    assert_ok(dataset_open(&dataset, folder));
    free(folder);
    assert_int_equal(dataset_kept_rows(dataset), report->rows_kept);
    assert_int_equal(dataset_raw_rows(dataset), report->rows_read);
    assert_int_equal(report->rows_read, report->rows_kept + report->rows_dropped);
    return dataset;
}

/* Files in the folder whose names contain `part`. */
static int count_files(const char *folder, const char *part)
{
    int n = 0;
    DIR *stream = opendir(folder);
    if (!stream) return 0;
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) n += strstr(entry->d_name, part) != NULL;
    closedir(stream);
    return n;
}

/* Names and bytes of all files of a complete folder as one hash; report.json, which holds seconds, by its
 * name. */
static struct hash128 folder_hash(const char *folder)
{
    struct hash_stream *stream;
    struct dirent **entry;
    assert_ok(hash_stream_create(&stream));
    int n = scandir(folder, &entry, NULL, alphasort), shards = 0;
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        const char *name = entry[i]->d_name;
        char path[1024], *bytes;
        size_t length;
        hash_stream_add(stream, name, strlen(name));
        shards += strncmp(name, "tokens-", 7) == 0;
        snprintf(path, sizeof path, "%s/%s", folder, name);
        if (name[0] != '.' && strcmp(name, "report.json") != 0) {
            assert_ok(file_read(&bytes, &length, path, (size_t)1 << 30));
            hash_stream_add(stream, bytes, length);
            free(bytes);
        }
        free(entry[i]);
    }
    free(entry);
    assert_true(shards > 0);
    struct hash128 hash = hash_stream_value(stream);
    hash_stream_destroy(stream);
    return hash;
}

/* The one folder in a cache; false: none. */
static bool find_folder(char *path, size_t bytes, const char *cache)
{
    bool found = false;
    DIR *stream = opendir(cache);
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;)
        if (strlen(entry->d_name) == 32) {
            snprintf(path, bytes, "%s/%s", cache, entry->d_name);
            found = true;
        }
    closedir(stream);
    return found;
}

static void finance_rows_become_tokens_in_file_order(void **state)
{
    (void)state;
    struct prepare_report report;
    struct prepare_options options = options_for(&stage1);
    struct dataset *dataset = prepare_and_open(&options, &report);
    assert_int_equal(report.rows_read, 689);
    assert_int_equal(report.rows_kept, 689);
    assert_int_equal(report.tokens, 139857); /* counted by the model's own tokenizer: finance-zh/DATA.md */
    assert_int_equal(report.longest_row, 970);
    assert_false(report.from_cache);
    assert_string_equal(report.problems_path, "");
    int64_t tokens = 0, supervised = 0;
    for (int64_t i = 0; i < 689; i++) {
        struct dataset_row row = dataset_row(dataset, i);
        assert_ok(dataset_row_check(dataset, i));
        assert_int_equal(row.line, i + 1);
        tokens += row.n_tokens;
        supervised += row.n_supervised;
    }
    assert_int_equal(tokens, report.tokens);
    assert_int_equal(supervised, report.supervised_tokens);
    assert_true(supervised > tokens / 4 && supervised < tokens);
    dataset_close(dataset);
}

static void a_second_call_reads_the_cache(void **state)
{
    (void)state;
    struct prepare_report first, second;
    struct prepare_options options = options_for(&stage1);
    char *folder, *again;
    struct stat before, after;
    assert_ok(dataset_prepare(&folder, &options, &first));
    assert_int_equal(stat(folder, &before), 0);
    assert_ok(dataset_prepare(&again, &options, &second));
    assert_int_equal(stat(folder, &after), 0);
    assert_string_equal(folder, again);
    assert_true(second.from_cache && !first.from_cache);
    assert_true(before.st_ino == after.st_ino);
    assert_int_equal(first.tokens, second.tokens);
    assert_int_equal(first.supervised_tokens, second.supervised_tokens);
    assert_int_equal(first.longest_row, second.longest_row);
    free(again);
    options.overwrite_cache = true;
    assert_ok(dataset_prepare(&again, &options, &second));
    assert_string_equal(folder, again);
    assert_false(second.from_cache);
    assert_int_equal(stat(folder, &after), 0);
    assert_true(before.st_mtim.tv_nsec != after.st_mtim.tv_nsec); /* inode numbers are used again */
    assert_int_equal(count_files(options.cache_dir, ".part-") + count_files(options.cache_dir, ".old-"), 0);
    free(again);

    /* Everything that decides the bytes makes another folder. */
    options.overwrite_cache = false;
    options.chat_options.train_on_prompt = true;
    assert_ok(dataset_prepare(&again, &options, &second));
    assert_string_not_equal(folder, again);
    assert_true(second.supervised_tokens > first.supervised_tokens && second.tokens == first.tokens);
    free(again);
    options.chat_options.train_on_prompt = false;
    options.chat_options.split_special_tokens = !options.chat_options.split_special_tokens;
    assert_ok(dataset_prepare(&again, &options, &second));
    assert_string_not_equal(folder, again);
    assert_false(second.from_cache);
    free(again);
    free(folder);
}

static void a_changed_source_is_prepared_again(void **state)
{
    (void)state;
    char path[600];
    const char *row = "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", "
                      "\"content\": \"answer\"}]}\n";
    snprintf(path, sizeof path, "%s/grows.jsonl", test_tmpdir());
    struct dataset_source source = {.path = path, .name = "grows"};
    struct prepare_options options = options_for(&source);
    struct prepare_report report;
    for (int rows = 1; rows <= 3; rows++) {
        FILE *file = fopen(path, "a");
        assert_non_null(file);
        fputs(row, file);
        fclose(file);
        struct dataset *dataset = prepare_and_open(&options, &report);
        assert_int_equal(report.rows_kept, rows);
        assert_string_equal(dataset_source_name(dataset, 0), "grows");
        dataset_close(dataset);
    }
}

static void every_bad_row_is_counted_and_listed(void **state)
{
    (void)state;
    struct prepare_report report, cached;
    struct prepare_options options = options_for(&bad_rows);
    struct dataset *dataset = prepare_and_open(&options, &report);
    assert_int_equal(report.rows_read, 30);
    assert_int_equal(report.rows_kept, 2);
    assert_int_equal(report.problem_count[ROW_BAD_JSON], 6);
    assert_int_equal(report.problem_count[ROW_BAD_UTF8], 3);
    assert_int_equal(report.problem_count[ROW_NO_MESSAGES], 9);
    assert_int_equal(report.problem_count[ROW_BAD_ROLE], 2);
    assert_int_equal(report.problem_count[ROW_ROLE_ORDER], 4);
    assert_int_equal(report.problem_count[ROW_NO_ASSISTANT], 1);
    assert_int_equal(report.problem_count[ROW_EMPTY_ANSWER], 3);
    assert_int_equal(report.place[ROW_EMPTY_ANSWER][2].line, 22);
    assert_non_null(strstr(report.place[ROW_EMPTY_ANSWER][2].file, "rows.jsonl"));
    assert_int_equal(dataset_row(dataset, 29).line, 31);
    assert_int_equal(dataset_length(dataset, 28), 0);
    dataset_close(dataset);

    /* problems.jsonl: one valid line a problem, in the order of the file. */
    char *text;
    size_t length;
    int64_t n = 0, last_line = 0;
    assert_ok(file_read(&text, &length, report.problems_path, 1 << 20));
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        struct json *document;
        int64_t number;
        const char *word;
        assert_ok(js_parse(&document, line, (size_t)(end - line), "problems.jsonl"));
        assert_ok(js_need_int(&number, document, "line", "problems.jsonl"));
        assert_ok(js_need_string(&word, document, "problem", "problems.jsonl"));
        assert_ok(js_need_string(&word, document, "detail", "problems.jsonl"));
        assert_ok(js_need_string(&word, document, "file", "problems.jsonl"));
        assert_string_equal(word, bad_rows.path);
        assert_true(number > last_line);
        last_line = number;
        n++;
        js_destroy(document);
    }
    assert_int_equal(n, report.rows_dropped);
    free(text);

    /* A cached start can show the same. */
    dataset = prepare_and_open(&options, &cached);
    assert_true(cached.from_cache);
    assert_memory_equal(cached.problem_count, report.problem_count, sizeof report.problem_count);
    assert_memory_equal(cached.place, report.place, sizeof report.place);
    assert_string_equal(cached.problems_path, report.problems_path);
    dataset_close(dataset);
    struct strbuf summary = STRBUF_EMPTY;
    prepare_report_text(&report, &summary);
    assert_non_null(strstr(strbuf_text(&summary), "2 rows kept of 30 (6 bad JSON: "));
    strbuf_free(&summary);
}

static void places_in_a_folder_name_the_file(void **state)
{
    (void)state;
    struct prepare_report report;
    const struct dataset_source sources[] = {stage1, all_finance};
    struct prepare_options options = options_for(sources);
    options.n_sources = 2;
    options.cutoff_len = 600;
    struct dataset *dataset = prepare_and_open(&options, &report);
    assert_int_equal(report.files, 4);
    assert_int_equal(dataset_sources(dataset), 4); /* one a file */
    bool seen[2] = {false, false};
    for (int i = 0; i < PREPARE_PLACES; i++) {
        const struct row_place *place = &report.place[ROW_TOO_LONG][i];
        assert_in_range(place->source, 0, 1);
        assert_non_null(strstr(place->file, ".jsonl"));
        seen[place->source] = true;
    }
    assert_true(seen[0]);
    dataset_close(dataset);
}

/* A folder unpacked by a program that writes names in GBK. */
static void names_of_files_may_be_any_bytes(void **state)
{
    (void)state;
    struct prepare_report report;
    char folder[512], path[600];
    snprintf(folder, sizeof folder, "%s/names", test_tmpdir());
    snprintf(path, sizeof path, "%s/\xD6\xD0\n.jsonl", folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": "
          "\"b\"}]}\n1\n",
          file);
    fclose(file);
    const struct dataset_source source = {.path = folder};
    struct prepare_options options = options_for(&source);
    struct dataset *dataset = prepare_and_open(&options, &report);
    assert_non_null(strstr(dataset_source_name(dataset, 0), "names/\xEF\xBF\xBD\xEF\xBF\xBD?.jsonl"));
    assert_int_equal(report.rows_dropped, 1);
    dataset_close(dataset);
}

static void long_rows_are_dropped_cut_or_refused(void **state)
{
    (void)state;
    struct prepare_report report;
    char *folder, path[1024];
    struct prepare_options options = options_for(&stage1);
    options.cutoff_len = 512;
    dataset_close(prepare_and_open(&options, &report));
    int64_t too_long = report.problem_count[ROW_TOO_LONG];
    assert_true(too_long > 20 && report.longest_row <= 512);
    assert_int_equal(report.rows_dropped, too_long);

    options.excess = EXCESS_TRUNCATE;
    dataset_close(prepare_and_open(&options, &report));
    assert_int_equal(report.longest_row, 512);
    assert_int_equal(report.problem_count[ROW_TRUNCATED] + report.problem_count[ROW_NO_LABEL], too_long);
    assert_int_equal(report.rows_dropped, report.problem_count[ROW_NO_LABEL]);

    options.cutoff_len = 4; /* nothing but the system message is left */
    assert_fails(dataset_prepare(&folder, &options, &report), LORAD_DATA, "no label left");

    options.cutoff_len = 512;
    options.cache_dir = new_cache();
    options.excess = EXCESS_RAISE;
    assert_fails(dataset_prepare(&folder, &options, &report), LORAD_DATA, "cutoff_len is 512");
    assert_non_null(strstr(status_message(), "fin_stage1_general.jsonl:"));
    assert_false(find_folder(path, sizeof path, options.cache_dir)); /* nothing of it could be used */
}

static void nothing_to_train_on_is_explained(void **state)
{
    (void)state;
    char path[600], *folder;
    struct prepare_report report;
    snprintf(path, sizeof path, "%s/nothing.jsonl", test_tmpdir());
    fclose(fopen(path, "w"));
    struct dataset_source source = {.path = path};
    struct prepare_options options = options_for(&source);
    assert_fails(dataset_prepare(&folder, &options, &report), LORAD_DATA, "nothing.jsonl (0 bytes");
    FILE *file = fopen(path, "w");
    fputs("{}\n{\"messages\": 1}\n", file);
    fclose(file);
    assert_fails(dataset_prepare(&folder, &options, &report), LORAD_DATA, "2 no messages");
    assert_false(find_folder(path, sizeof path, options.cache_dir));
    options.cache_dir = "/proc/nowhere";
    assert_fails(dataset_prepare(&folder, &options, &report), LORAD_CANNOT_CREATE, "/proc/nowhere");
}

static void shards_do_not_depend_on_threads(void **state)
{
    (void)state;
    struct prepare_report report;
    struct hash128 expected = {0, 0};
    const int32_t threads[] = {1, 2, 3, 7};
    for (int i = 0; i < 4; i++) {
        struct prepare_options options = options_for(&all_finance);
        options.threads = threads[i];
        options.cutoff_len = 600;
        options.shard_bytes = 300000;
        options.order = (struct mixture_options){.seed = 3, .shuffle = true};
        options.signatures = true;
        options.inspect = &(struct inspect_options){.pii = PII_MASK, .min_answer_chars = 5};
        char *folder;
        assert_ok(dataset_prepare(&folder, &options, &report));
        struct hash128 hash = folder_hash(folder);
        if (i == 0) expected = hash;
        assert_true(hash128_equal(hash, expected));
        assert_true(count_files(folder, "tokens-") > 3);
        free(folder);
    }
}

static void kept_back_rows_are_disjoint_and_stable(void **state)
{
    (void)state;
    struct prepare_report report;
    struct prepare_options options = options_for(&stage1);
    const double sizes[] = {0.1, 50};
    const int64_t expected[] = {69, 50};
    for (int k = 0; k < 2; k++) {
        uint8_t seen[690] = {0};
        options.val_size = sizes[k];
        options.split_seed = 5;
        for (int part = 0; part < 2; part++) {
            options.want_eval_part = part;
            struct dataset *dataset = prepare_and_open(&options, &report);
            assert_int_equal(report.rows_read, part ? expected[k] : 689 - expected[k]);
            for (int64_t i = 0; i < dataset_raw_rows(dataset); i++) {
                int64_t line = dataset_row(dataset, i).line;
                assert_int_equal(seen[line], 0);
                seen[line] = 1;
            }
            dataset_close(dataset);
        }
        for (int line = 1; line <= 689; line++) assert_int_equal(seen[line], 1);
    }
    char *folder;
    options.val_size = 689;
    assert_fails(dataset_prepare(&folder, &options, &report), LORAD_DATA, "all of the 689 rows");
    options.val_size = 0;
    assert_fails(dataset_prepare(&folder, &options, &report), LORAD_CONFIG, "val_size");
}

/* Kills a preparing process again and again; it goes on where it was, and ends with the bytes of an
 * undisturbed one. LORAD_KILLS: how many times (default 12). */
static void killed_while_preparing(void **state)
{
    (void)state;
    struct prepare_report report, resumed;
    char *folder, path[1024];
    const struct dataset_source sources[] = {all_finance, bad_rows};
    struct prepare_options options = options_for(sources);
    options.n_sources = 2;
    options.shard_bytes = 20000;
    options.threads = 2;
    options.order = (struct mixture_options){.seed = 7, .shuffle = true};
    options.signatures = true;
    options.inspect = &(struct inspect_options){.pii = PII_WARN, .min_answer_chars = 5};
    int64_t start = clock_monotonic_ns();
    assert_ok(dataset_prepare(&folder, &options, &report));
    double seconds = clock_seconds_since(start);
    struct hash128 expected = folder_hash(folder);
    free(folder);
    const char *kills = getenv("LORAD_KILLS");
    int wanted = kills ? atoi(kills) : 12, killed = 0, continued = 0, finished = 0;
    bool fresh = false;
    for (int i = 0; i < wanted; i++) {
        if (i % 6 == 0 || fresh) options.cache_dir = new_cache();
        fresh = false;
        assert_ok(file_make_dirs(options.cache_dir));
        int before = find_folder(path, sizeof path, options.cache_dir) ? count_files(path, "tokens-") : 0;
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) _exit(dataset_prepare(&folder, &options, &resumed) == LORAD_OK ? 0 : 1);
        uint32_t word = random_philox(random_key(3, RANDOM_TEST, 0, 0, 0), 0, (uint64_t)i).word[0];
        usleep((useconds_t)(seconds * 0.9e6 * (double)random_unit_f32(word)));
        kill(child, SIGKILL);
        int result;
        assert_int_equal(waitpid(child, &result, 0), child);
        killed += WIFSIGNALED(result) != 0;
        finished += WIFEXITED(result) != 0;
        if (WIFEXITED(result)) assert_int_equal(WEXITSTATUS(result), 0);
        fresh = WIFEXITED(result);
        continued += before > 0 && WIFSIGNALED(result);
        if (i % 6 != 5) continue;
        assert_ok(dataset_prepare(&folder, &options, &resumed));
        assert_true(hash128_equal(folder_hash(folder), expected));
        assert_ok(dataset_verify(folder));
        assert_int_equal(resumed.rows_kept, report.rows_kept);
        assert_int_equal(resumed.tokens, report.tokens);
        assert_memory_equal(resumed.problem_count, report.problem_count, sizeof report.problem_count);
        assert_memory_equal(resumed.place, report.place, sizeof report.place);
        free(folder);
    }
    printf("%d killed, %d of them while going on; %d had ended before\n", killed, continued, finished);
    assert_true(killed > 0 && continued > 0);
}

/* A limit on the size of a file stands for a full disk. What is whole is kept for the next time. */
static void a_full_disk_stops_preparing(void **state)
{
    (void)state;
    struct prepare_report report;
    char *folder, path[1024];
    struct prepare_options options = options_for(&all_finance);
    options.shard_bytes = 500000;
    assert_ok(dataset_prepare(&folder, &options, &report));
    struct hash128 expected = folder_hash(folder);
    free(folder);
    options.cache_dir = new_cache();
    const rlim_t limits[] = {50, 10000, 100000, 600000};
    for (int i = 0; i < 4; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct rlimit limit = {.rlim_cur = limits[i], .rlim_max = limits[i]};
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &limit);
            _exit((int)dataset_prepare(&folder, &options, &report));
        }
        int result;
        assert_int_equal(waitpid(child, &result, 0), child);
        assert_true(WIFEXITED(result));
        assert_int_equal(WEXITSTATUS(result), i < 3 ? LORAD_IO : LORAD_OK);
        if (find_folder(path, sizeof path, options.cache_dir))
            assert_int_equal(count_files(path, ".part-"), 0);
    }
    assert_true(hash128_equal(folder_hash(path), expected));
}

static void several_processes_prepare_the_same(void **state)
{
    (void)state;
    struct prepare_report report;
    char *folder;
    struct prepare_options options = options_for(&stage1);
    pid_t child[4];
    for (int i = 0; i < 4; i++) {
        child[i] = fork();
        assert_true(child[i] >= 0);
        if (child[i] == 0) {
            struct dataset *dataset = NULL;
            enum status status = dataset_prepare(&folder, &options, &report);
            if (status == LORAD_OK) status = dataset_open(&dataset, folder);
            _exit(status == LORAD_OK ? (report.from_cache ? 3 : 2) : 1);
        }
    }
    int made = 0, cached = 0;
    for (int i = 0; i < 4; i++) {
        int result;
        assert_int_equal(waitpid(child[i], &result, 0), child[i]);
        assert_true(WIFEXITED(result));
        made += WEXITSTATUS(result) == 2;
        cached += WEXITSTATUS(result) == 3;
    }
    assert_int_equal(made, 1);
    assert_int_equal(cached, 3);
}

static void a_damaged_cache_is_made_again(void **state)
{
    (void)state;
    struct prepare_report report;
    char *folder, path[1200];
    struct prepare_options options = options_for(&stage1);
    assert_ok(dataset_prepare(&folder, &options, &report));
    struct hash128 expected = folder_hash(folder);
    const char *const names[] = {"dataset.json", "report.json", "tokens-00000.bin"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        assert_int_equal(truncate(path, 100), 0);
        free(folder);
        assert_ok(dataset_prepare(&folder, &options, &report));
        assert_false(report.from_cache);
        assert_true(hash128_equal(folder_hash(folder), expected));
    }
    free(folder);
}

/* Files that cannot be opened now say nothing about what is in them. */
static void a_cache_that_cannot_be_read_is_kept(void **state)
{
    (void)state;
    struct prepare_report report;
    struct preparation *preparation;
    struct rlimit before, none;
    char *folder;
    const struct prepare_options options = options_for(&stage1);
    assert_ok(dataset_prepare(&folder, &options, &report));
    struct hash128 expected = folder_hash(folder);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    enum status status = preparation_begin(&preparation, &options);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(status, LORAD_IO);
    free(folder);
    assert_ok(dataset_prepare(&folder, &options, &report));
    assert_true(report.from_cache);
    assert_true(hash128_equal(folder_hash(folder), expected));
    free(folder);
}

/* Share of real tokens in the packs of the finance rows: the floor is 98 % wherever the rows allow it. */
static void packs_of_finance_rows_are_full(void **state)
{
    (void)state;
    const int32_t cutoffs[] = {512, 1024};
    for (int i = 0; i < 2; i++) {
        struct prepare_report report;
        struct prepare_options options = options_for(&all_finance);
        options.cutoff_len = cutoffs[i];
        struct dataset *dataset = prepare_and_open(&options, &report);
        struct loader_options order = {.data_seed = 1,
                                       .packing = true,
                                       .shuffle = true,
                                       .cutoff_len = cutoffs[i],
                                       .micro_batch_size = 1,
                                       .global_batch_size = 1,
                                       .dp_size = 1};
        int64_t packs;
        assert_ok(loader_count_steps(&packs, dataset, &order, 1));
        double full = (double)report.tokens / (double)(packs * cutoffs[i]);
        printf("packs of %d: %lld for %lld rows, %.2f %% real tokens; prepared %.2f M tokens/s\n", cutoffs[i],
               (long long)packs, (long long)report.rows_kept, 100 * full,
               (double)report.tokens / report.seconds / 1e6);
        assert_true(full >= 0.98);
        dataset_close(dataset);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finance_rows_become_tokens_in_file_order),
        cmocka_unit_test(a_second_call_reads_the_cache),
        cmocka_unit_test(a_changed_source_is_prepared_again),
        cmocka_unit_test(every_bad_row_is_counted_and_listed),
        cmocka_unit_test(places_in_a_folder_name_the_file),
        cmocka_unit_test(names_of_files_may_be_any_bytes),
        cmocka_unit_test(long_rows_are_dropped_cut_or_refused),
        cmocka_unit_test(nothing_to_train_on_is_explained),
        cmocka_unit_test(shards_do_not_depend_on_threads),
        cmocka_unit_test(kept_back_rows_are_disjoint_and_stable),
        cmocka_unit_test(killed_while_preparing),
        cmocka_unit_test(a_full_disk_stops_preparing),
        cmocka_unit_test(several_processes_prepare_the_same),
        cmocka_unit_test(a_damaged_cache_is_made_again),
        cmocka_unit_test(a_cache_that_cannot_be_read_is_kept),
        cmocka_unit_test(packs_of_finance_rows_are_full),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
