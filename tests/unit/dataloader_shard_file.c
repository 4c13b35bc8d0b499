#include "support/test.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/random.h"
#include "dataloader/dataloader.h"
#include "dataloader/shard_file.h"
#include "support/synthetic_rows.h"

static void rows_read_back(void **state)
{
    (void)state;
    enum { ROWS = 1000 };
    int32_t *lengths = synthetic_lengths(ROWS, 2, 300, 1);
    struct hash128 first = {0, 0};
    /* One shard, some, and many. */
    const int64_t shard_bytes[] = {1 << 30, 100000, 20000};
    for (int k = 0; k < 3; k++) {
        struct dataset *dataset = synthetic_dataset(lengths, ROWS, shard_bytes[k], NULL);
        assert_int_equal(dataset_raw_rows(dataset), ROWS);
        assert_int_equal(dataset_kept_rows(dataset), ROWS);
        assert_true(dataset_complete(dataset));
        assert_int_equal(dataset_groups(dataset), 1);
        assert_int_equal(dataset_group(dataset, 0).n, ROWS);
        assert_int_equal(dataset_vocab_size(dataset), SYNTHETIC_VOCAB);
        assert_int_equal(dataset_sources(dataset), 2);
        assert_string_equal(dataset_source_name(dataset, 1), "odd.jsonl");
        for (int64_t i = 0; i < ROWS; i++) {
            struct dataset_row row = dataset_row(dataset, i);
            int32_t targets = 0;
            assert_ok(dataset_row_check(dataset, i));
            assert_int_equal(row.n_tokens, lengths[i]);
            assert_int_equal(row.source, i % 2);
            assert_int_equal(row.line, i + 1);
            for (int32_t t = 0; t < row.n_tokens; t++) {
                assert_int_equal(row.tokens[t], synthetic_token(i, t));
                assert_int_equal(row.codes[t], synthetic_supervised(i, t, lengths[i]));
                targets += t > 0 && row.codes[t];
            }
            assert_int_equal(row.n_supervised, targets);
            assert_true(row.weight == targets && row.weight_of[1] == 1);
        }
        struct hash128 fingerprint = dataset_fingerprint(dataset);
        if (k == 0) first = fingerprint;
        dataset_close(dataset);
        dataset = synthetic_dataset(lengths, ROWS, shard_bytes[k], NULL); /* elsewhere: the same contents */
        assert_true(hash128_equal(fingerprint, dataset_fingerprint(dataset)));
        dataset_close(dataset);
    }
    lengths[500]++;
    struct dataset *other = synthetic_dataset(lengths, ROWS, shard_bytes[0], NULL);
    assert_false(hash128_equal(first, dataset_fingerprint(other)));
    dataset_close(other);
    free(lengths);
}

static void empty_folders_and_missing_files_are_refused(void **state)
{
    (void)state;
    struct dataset *dataset;
    assert_fails(dataset_open(&dataset, "/nowhere"), LORAD_NOT_FOUND, "/nowhere/dataset.json");
    char folder[512], path[600];
    const int32_t lengths[] = {5, 6};
    dataset_close(synthetic_dataset(lengths, 2, 1, folder));
    assert_ok(dataset_verify(folder));
    snprintf(path, sizeof path, "%s/places.bin", folder);
    assert_int_equal(truncate(path, 80), 0);
    assert_fails(dataset_open(&dataset, folder), LORAD_DATA, "places.bin");
    dataset_close(synthetic_dataset(lengths, 2, 1, folder));
    snprintf(path, sizeof path, "%s/tokens-00001.bin", folder);
    assert_int_equal(unlink(path), 0);
    assert_fails(dataset_open(&dataset, folder), LORAD_DATA, "tokens-00001.bin");
}

/* A shard in memory, aligned. */
static void *read_shard(size_t *length)
{
    char folder[512], path[600];
    int32_t *lengths = synthetic_lengths(40, 2, 60, 3);
    dataset_close(synthetic_dataset(lengths, 40, 1 << 30, folder));
    free(lengths);
    snprintf(path, sizeof path, "%s/tokens-00000.bin", folder);
    char *bytes;
    assert_ok(file_read(&bytes, length, path, 1 << 20));
    return bytes;
}

static enum status read_all(const void *bytes, size_t length)
{
    struct shard_view view;
    TRY(shard_view_bytes(&view, bytes, length, "x.bin"));
    TRY(shard_check_rows(&view, "x.bin"));
    for (int64_t i = 0; i < view.n_rows; i++) TRY(shard_row_check(&view, i, "x.bin"));
    return LORAD_OK;
}

static void every_cut_and_every_flipped_bit_is_found(void **state)
{
    (void)state;
    size_t length;
    uint8_t *bytes = read_shard(&length);
    assert_ok(read_all(bytes, length));
    for (size_t cut = 0; cut < length; cut += 1 + cut / 64)
        assert_fails(read_all(bytes, cut), LORAD_DATA, "x.bin");
    /* Padding between sections is not covered by a hash and not read. */
    const struct shard_header *header = (const void *)bytes;
    int padding = 0;
    for (size_t i = 0; i < length; i++) {
        bool covered = i < SHARD_HEADER_BYTES;
        for (int k = 0; k < SHARD_SECTIONS; k++)
            covered |=
                i >= header->section[k].offset && i < header->section[k].offset + header->section[k].bytes;
        padding += !covered;
        bytes[i] ^= (uint8_t)(1u << (i % 8));
        enum status status = read_all(bytes, length);
        bytes[i] ^= (uint8_t)(1u << (i % 8));
        assert_int_equal(status, covered ? LORAD_DATA : LORAD_OK);
    }
    assert_true(padding < SHARD_SECTIONS * SHARD_ALIGN);
    free(bytes);
}

/* Recomputes the hashes, so that only the other checks are left to find what is wrong. */
static void seal(uint8_t *bytes)
{
    struct shard_header *header = (void *)bytes;
    struct hash128 hash;
    for (int k = SHARD_ROWS; k <= SHARD_WEIGHTS; k++) {
        struct shard_section_entry *section = &header->section[k];
        hash = hash128(bytes + section->offset, section->bytes);
        section->hash_high = hash.high;
        section->hash_low = hash.low;
    }
    hash = hash128(header, SHARD_HEADER_BYTES - 16);
    header->hash_high = hash.high;
    header->hash_low = hash.low;
}

static void lies_with_right_hashes_are_found(void **state)
{
    (void)state;
    size_t length;
    uint8_t *bytes = read_shard(&length), *copy = malloc(length);
    struct shard_header *header = (void *)copy;
    struct shard_row *rows;
    float *weights;
#define WITH(change, words)                                                                                  \
    do {                                                                                                     \
        memcpy(copy, bytes, length);                                                                         \
        rows = (void *)(copy + header->section[SHARD_ROWS].offset);                                          \
        weights = (void *)(copy + header->section[SHARD_WEIGHTS].offset);                                    \
        change;                                                                                              \
        if (header->section[SHARD_ROWS].offset < length) seal(copy);                                         \
        assert_fails(read_all(copy, length), LORAD_DATA, words);                                             \
    } while (0)
    WITH(rows[3].first_token = 1u << 30, "row 3");
    WITH(rows[3].n_tokens = INT32_MAX, "behind the last token");
    WITH(rows[3].n_tokens = -1, "row 3");
    WITH(rows[3].n_supervised = rows[3].n_tokens, "row 3");
    WITH(rows[3].n_supervised += rows[3].n_supervised > 1 ? -1 : 1, "row 3");
    WITH(rows[3].line = 0, "row 3");
    WITH(rows[39].n_tokens--, NULL);
    WITH(rows[3].raw_row = -1, "row 3");
    WITH(rows[3].weight += 1, "targets");
    WITH(rows[3].weight = NAN, "row 3");
    WITH(rows[3].n_tokens = rows[3].n_supervised = 0, "row 3");
    WITH(weights[1] = 2, "table of weights");
    WITH(weights[7] = -1, "table of weights");
    WITH(weights[7] = INFINITY, "table of weights");
    WITH(copy[header->section[SHARD_CODES].offset + rows[3].first_token + 1] = 9, "row 3");
    WITH(header->vocab_size = 5, "of a vocabulary of 5");
    WITH(header->vocab_size = 0, "vocabulary");
    WITH(header->version = 1, NULL);
#undef WITH
    memcpy(copy, bytes, length);
    header->n_tokens = UINT64_MAX / 2;
    struct hash128 hash = hash128(header, SHARD_HEADER_BYTES - 16);
    header->hash_high = hash.high, header->hash_low = hash.low;
    assert_fails(read_all(copy, length), LORAD_DATA, "shorter than its header says");
    memcpy(copy, bytes, length);
    header->section[SHARD_TOKENS].offset = 1u << 31;
    hash = hash128(header, SHARD_HEADER_BYTES - 16);
    header->hash_high = hash.high, header->hash_low = hash.low;
    assert_fails(read_all(copy, length), LORAD_DATA, "section tokens");
    free(bytes);
    free(copy);
}

static void a_writer_says_where_it_cannot_write(void **state)
{
    (void)state;
    struct shard_writer *writer;
    const int32_t tokens[] = {1, 2};
    const float weights[] = {0, 1};
    const struct shard_entry row = {.tokens = tokens, .weights = weights, .n = 2, .line = 1};
    struct shard_writer_options options = {.folder = "/nowhere/at/all", .vocab_size = 10, .shard_bytes = 1};
    assert_ok(shard_writer_create(&writer, &options));
    assert_ok(shard_writer_add(writer, &row));
    assert_true(shard_writer_full(writer));
    assert_fails(shard_writer_close(writer), LORAD_CANNOT_CREATE, "/nowhere/at/all/tokens-00000.bin");
    shard_writer_destroy(writer);
    /* A file that may not grow stands for a full disk. */
    char path[600];
    snprintf(path, sizeof path, "%s/full", test_tmpdir());
    assert_ok(file_make_dirs(path));
    struct rlimit limit, small = {.rlim_cur = 300};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small.rlim_max = limit.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    options.folder = path;
    assert_ok(shard_writer_create(&writer, &options));
    assert_ok(shard_writer_add(writer, &row));
    enum status status = shard_writer_close(writer);
    setrlimit(RLIMIT_FSIZE, &limit);
    assert_int_equal(status, LORAD_IO);
    assert_non_null(strstr(status_message(), "cannot write"));
    shard_writer_destroy(writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_read_back),
                                       cmocka_unit_test(empty_folders_and_missing_files_are_refused),
                                       cmocka_unit_test(every_cut_and_every_flipped_bit_is_found),
                                       cmocka_unit_test(lies_with_right_hashes_are_found),
                                       cmocka_unit_test(a_writer_says_where_it_cannot_write)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
