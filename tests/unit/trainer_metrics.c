#include "support/test.h"

#include <dirent.h>
#include <math.h>
#include <sys/resource.h>
#include <signal.h>

#include "base/file.h"
#include "base/json.h"
#include "base/strbuf.h"
#include "trainer/event_file.h"
#include "trainer/metrics.h"

static const char *new_folder(void)
{
    static char path[512];
    static int n;
    snprintf(path, sizeof path, "%s/run%d", test_tmpdir(), n++);
    assert_ok(file_make_dirs(path));
    return path;
}

static struct step_record step_of(int64_t step)
{
    return (struct step_record){
        .step = step,
        .total_steps = 100,
        .epoch = (double)step / 30.0,
        .loss = 2.0 / 3.0 + (double)step,
        .grad_norm = 0.1,
        .learning_rate = 1e-4 / 3.0,
        .supervised_tokens = 700 + step,
        .tokens = 1000,
        .slots = 1024,
        .total_tokens = 1000 * step,
        .step_seconds = 0.5,
        .loader_wait_seconds = 0.25,
    };
}

static char *read_lines(const char *folder, size_t *length)
{
    static char *text; /* static: gcc 12 sees a dangling pointer in a local one after inlining */
    char path[600];
    snprintf(path, sizeof path, "%s/logs/metrics.jsonl", folder);
    assert_ok(file_read(&text, length, path, 1 << 20));
    return text;
}

static void steps_read_back_bit_for_bit(void **state)
{
    (void)state;
    const char *folder = new_folder();
    struct metrics *metrics;
    struct metrics_options options = {.output_dir = folder};
    assert_ok(metrics_open(&metrics, &options));
    struct step_record record = step_of(7);
    metrics_log_step(metrics, &record);
    struct eval_record eval = {
        .step = 7, .epoch = 0.5, .loss = 1.0 / 3.0, .token_accuracy = 0.7, .tokens = 99};
    metrics_log_eval(metrics, &eval);
    int64_t offset = metrics_offset(metrics);
    metrics_close(metrics);

    size_t length = 0;
    char *text = read_lines(folder, &length);
    assert_int_equal(length, offset);
    char *second = strchr(text, '\n') + 1;
    struct json *line;
    assert_ok(js_parse(&line, text, (size_t)(second - text), "line 1"));
    assert_int_equal(js_int(js_get(line, "step"), -1), 7);
    assert_true(js_real(js_get(line, "loss"), 0) == record.loss);
    assert_true(js_real(js_get(line, "learning_rate"), 0) == record.learning_rate);
    assert_true(js_real(js_get(line, "tokens_per_second"), 0) == 2000.0);
    assert_true(js_real(js_get(line, "packing_efficiency"), 0) == 1000.0 / 1024.0);
    assert_null(js_get(line, "skipped"));
    assert_null(js_get(line, "loss_scale"));
    assert_null(js_get(line, "overflow"));
    js_destroy(line);
    assert_ok(js_parse(&line, second, strlen(second), "line 2"));
    assert_true(js_real(js_get(line, "eval_loss"), 0) == eval.loss);
    assert_true(js_real(js_get(line, "eval_perplexity"), 0) == exp(eval.loss));
    js_destroy(line);
    free(text);
}

/* The one line of a run's metrics that logged one step. */
static struct json *line_of(const struct step_record *record)
{
    const char *folder = new_folder();
    struct metrics *metrics;
    struct metrics_options options = {.output_dir = folder};
    assert_ok(metrics_open(&metrics, &options));
    metrics_log_step(metrics, record);
    metrics_close(metrics);
    size_t length = 0;
    char *text = read_lines(folder, &length);
    struct json *line;
    assert_ok(js_parse(&line, text, length, "line"));
    free(text);
    return line;
}

static void a_skipped_step_has_null_for_its_loss(void **state)
{
    (void)state;
    struct step_record record = step_of(1);
    record.loss = NAN;
    record.skipped = true;
    struct json *line = line_of(&record);
    assert_int_equal(js_type(js_get(line, "loss")), JS_NULL);
    assert_true(js_bool(js_get(line, "skipped"), false));
    js_destroy(line);
}

static void an_overflow_names_its_scale(void **state)
{
    (void)state;
    struct step_record record = step_of(1);
    record.grad_norm = INFINITY;
    record.loss_scale = 4096;
    record.overflowed = true;
    struct json *line = line_of(&record);
    assert_true(js_real(js_get(line, "loss_scale"), 0) == 4096);
    assert_true(js_bool(js_get(line, "overflow"), false));
    assert_null(js_get(line, "skipped"));
    js_destroy(line);
}

static void a_resume_gives_the_file_of_the_uninterrupted_run(void **state)
{
    (void)state;
    char whole[512];
    snprintf(whole, sizeof whole, "%s", new_folder());
    struct metrics *metrics;
    struct metrics_options options = {.output_dir = whole};
    assert_ok(metrics_open(&metrics, &options));
    for (int64_t s = 1; s <= 5; s++) {
        struct step_record record = step_of(s);
        metrics_log_step(metrics, &record);
    }
    metrics_close(metrics);

    const char *folder = new_folder();
    options.output_dir = folder;
    assert_ok(metrics_open(&metrics, &options));
    int64_t saved = 0;
    for (int64_t s = 1; s <= 4; s++) {
        struct step_record record = step_of(s);
        if (s == 4) record.loss = 99;
        metrics_log_step(metrics, &record);
        if (s == 2) saved = metrics_offset(metrics);
    }
    metrics_close(metrics);
    options.resume_bytes = saved;
    options.resume_step = 2;
    assert_ok(metrics_open(&metrics, &options));
    for (int64_t s = 3; s <= 5; s++) {
        struct step_record record = step_of(s);
        metrics_log_step(metrics, &record);
    }
    metrics_close(metrics);

    size_t a, b;
    char *one = read_lines(whole, &a), *two = read_lines(folder, &b);
    assert_string_equal(one, two);
    free(one);
    free(two);
}

/* A run that was taken over but is not dead yet goes on writing. */
static void an_earlier_start_writes_where_nobody_looks(void **state)
{
    (void)state;
    const char *folder = new_folder();
    struct metrics_options options = {.output_dir = folder};
    struct metrics *old, *later;
    assert_ok(metrics_open(&old, &options)); /* taken over before its first line */
    for (int i = 0; i < 3; i++) {
        assert_ok(metrics_open(&later, &options));
        struct step_record lost = step_of(7), kept = step_of(options.resume_step + 1);
        metrics_log_step(old, &lost);
        metrics_log_step(later, &kept);
        metrics_log_step(old, &lost);
        metrics_close(old);
        options.resume_bytes = metrics_offset(later);
        options.resume_step++;
        old = later;
        size_t length;
        char *text = read_lines(folder, &length);
        assert_int_equal(length, options.resume_bytes);
        assert_null(strstr(text, "\"step\":7"));
        free(text);
    }
    metrics_close(old);
}

static void a_new_run_keeps_the_old_file(void **state)
{
    (void)state;
    const char *folder = new_folder();
    char path[600];
    struct metrics *metrics;
    struct metrics_options options = {.output_dir = folder};
    for (int run = 0; run < 3; run++) {
        assert_ok(metrics_open(&metrics, &options));
        struct step_record record = step_of(run + 1);
        metrics_log_step(metrics, &record);
        metrics_close(metrics);
    }
    snprintf(path, sizeof path, "%s/logs/metrics.1.jsonl", folder);
    assert_true(file_exists(path));
    snprintf(path, sizeof path, "%s/logs/metrics.2.jsonl", folder);
    assert_true(file_exists(path));
}

/* A file size limit stands for a full disk: the write that crosses it is cut short, the next ones fail. */
static void a_full_disk_leaves_whole_lines_and_a_true_offset(void **state)
{
    (void)state;
    const char *folder = new_folder();
    struct metrics *metrics;
    struct metrics_options options = {.output_dir = folder};
    assert_ok(metrics_open(&metrics, &options));
    struct step_record record = step_of(1);
    metrics_log_step(metrics, &record);
    int64_t before = metrics_offset(metrics);

    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = (rlim_t)before + 20;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    record = step_of(2);
    metrics_log_step(metrics, &record);
    assert_int_equal(metrics_offset(metrics), before);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    record = step_of(3);
    metrics_log_step(metrics, &record);
    int64_t after = metrics_offset(metrics);
    metrics_close(metrics);

    size_t length = 0;
    char *text = read_lines(folder, &length);
    assert_int_equal(length, after);
    assert_non_null(strstr(text, "}\n{\"step\": 3"));
    assert_null(strstr(text, "\"step\": 2,"));
    free(text);
}

/* ---- TensorBoard: a reader of its own ---- */

static uint64_t fixed(const unsigned char *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static uint32_t unmasked(uint32_t stored)
{
    uint32_t rotated = stored - 0xa282ead8u;
    return rotated >> 17 | rotated << 15;
}

static uint64_t varint(const unsigned char **at)
{
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
        unsigned char byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return value;
    }
}

struct decoded {
    int n_events, n_values, starts;
    char version[32];
    int64_t step; /* of the last event */
    float loss;
};

static void decode_summary(struct decoded *out, const unsigned char *at, const unsigned char *end)
{
    while (at < end) {
        assert_int_equal(*at++, 1 << 3 | 2);
        uint64_t length = varint(&at);
        const unsigned char *next = at + length;
        assert_int_equal(*at++, 1 << 3 | 2);
        uint64_t tag_length = varint(&at);
        const char *tag = (const char *)at;
        at += tag_length;
        assert_int_equal(*at++, 2 << 3 | 5);
        uint32_t bits = (uint32_t)fixed(at, 4);
        if (tag_length == 10 && memcmp(tag, "train/loss", 10) == 0) memcpy(&out->loss, &bits, 4);
        out->n_values++;
        assert_ptr_equal(at + 4, next);
        at = next;
    }
}

static void decode_event(struct decoded *out, const unsigned char *at, const unsigned char *end)
{
    out->n_events++;
    while (at < end) {
        unsigned char key = *at++;
        if (key == (1 << 3 | 1)) {
            at += 8;
        } else if (key == (2 << 3 | 0)) {
            out->step = (int64_t)varint(&at);
        } else {
            assert_int_equal(key & 7, 2);
            uint64_t length = varint(&at);
            if (key >> 3 == 3)
                snprintf(out->version, sizeof out->version, "%.*s", (int)length, (const char *)at);
            if (key >> 3 == 5) decode_summary(out, at, at + length);
            if (key >> 3 == 7) out->starts += length == 2 && at[0] == 8 && at[1] == 1;
            at += length;
        }
    }
    assert_ptr_equal(at, end);
}

static struct decoded decode_file(const char *path)
{
    struct decoded out = {0};
    size_t length = 0;
    char *text = NULL;
    assert_ok(file_read(&text, &length, path, 1 << 20));
    const unsigned char *at = (const unsigned char *)text, *end = at + length;
    while (at < end) {
        uint64_t bytes = fixed(at, 8);
        assert_int_equal(unmasked((uint32_t)fixed(at + 8, 4)), event_crc32c(at, 8));
        assert_true(bytes <= (uint64_t)(end - at) - 16);
        assert_int_equal(unmasked((uint32_t)fixed(at + 12 + bytes, 4)), event_crc32c(at + 12, bytes));
        decode_event(&out, at + 12, at + 12 + bytes);
        at += 16 + bytes;
    }
    free(text);
    return out;
}

static void crc_matches_the_published_vectors(void **state)
{
    (void)state;
    /* RFC 3720, B.4 */
    unsigned char bytes[32];
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(event_crc32c(bytes, 32), 0x8a9136aau);
    memset(bytes, 0xff, sizeof bytes);
    assert_int_equal(event_crc32c(bytes, 32), 0x62a8ab43u);
    assert_int_equal(event_crc32c("123456789", 9), 0xe3069283u);
}

static void event_files_hold_every_point(void **state)
{
    (void)state;
    const char *folder = new_folder();
    struct metrics *metrics;
    struct metrics_options options = {.output_dir = folder, .tensorboard = true};
    assert_ok(metrics_open(&metrics, &options));
    for (int64_t s = 1; s <= 300; s += 299) {
        struct step_record record = step_of(s);
        metrics_log_step(metrics, &record);
    }
    int64_t offset = metrics_offset(metrics);
    metrics_close(metrics);
    options.resume_bytes = offset;
    options.resume_step = 300;
    assert_ok(metrics_open(&metrics, &options));
    struct step_record record = step_of(301);
    metrics_log_step(metrics, &record);
    metrics_close(metrics);

    char logs[600];
    snprintf(logs, sizeof logs, "%s/logs", folder);
    DIR *entries = opendir(logs);
    assert_non_null(entries);
    int n_files = 0, n_starts = 0;
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (strncmp(entry->d_name, "events.out.tfevents.", 20) != 0) continue;
        char path[1200];
        snprintf(path, sizeof path, "%s/%s", logs, entry->d_name);
        struct decoded file = decode_file(path);
        assert_string_equal(file.version, "brain.Event:2");
        assert_int_equal(file.n_events, 3);
        assert_int_equal(file.n_values, file.starts ? 7 : 14);
        assert_int_equal(file.step, file.starts ? 301 : 300);
        assert_true(file.loss == (float)step_of(file.step).loss);
        n_files++;
        n_starts += file.starts;
    }
    closedir(entries);
    assert_int_equal(n_files, 2);
    assert_int_equal(n_starts, 1);
}

static void a_folder_that_cannot_be_made_is_named(void **state)
{
    (void)state;
    struct metrics *metrics;
    struct metrics_options options = {.output_dir = "/proc/no-such-folder"};
    assert_fails(metrics_open(&metrics, &options), LORAD_CANNOT_CREATE, "/proc/no-such-folder");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_read_back_bit_for_bit),
        cmocka_unit_test(a_skipped_step_has_null_for_its_loss),
        cmocka_unit_test(an_overflow_names_its_scale),
        cmocka_unit_test(a_resume_gives_the_file_of_the_uninterrupted_run),
        cmocka_unit_test(a_new_run_keeps_the_old_file),
        cmocka_unit_test(an_earlier_start_writes_where_nobody_looks),
        cmocka_unit_test(a_full_disk_leaves_whole_lines_and_a_true_offset),
        cmocka_unit_test(crc_matches_the_published_vectors),
        cmocka_unit_test(event_files_hold_every_point),
        cmocka_unit_test(a_folder_that_cannot_be_made_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
