#include "support/synthetic_rows.h"

#include "support/test.h"

#include <sys/stat.h>

#include "base/random.h"
#include "dataloader/dataset_file.h"
#include "dataloader/shard_file.h"

int32_t synthetic_token(int64_t row, int32_t t)
{
    return (int32_t)(random_philox(1, (uint64_t)row, (uint64_t)t).word[0] % SYNTHETIC_VOCAB);
}

uint8_t synthetic_supervised(int64_t row, int32_t t, int32_t length)
{
    return t == length - 1 ||
           (t > length / 3 && random_philox(2, (uint64_t)row, (uint64_t)t).word[0] % 8 != 0);
}

struct dataset *synthetic_dataset(const int32_t *lengths, int64_t n, int64_t shard_bytes, char *folder)
{
    static int number;
    char path[512];
    snprintf(path, sizeof path, "%s/rows-%d", test_tmpdir(), number++);
    assert_int_equal(mkdir(path, 0777), 0);
    struct shard_writer *writer;
    assert_ok(shard_writer_create(&writer, &(struct shard_writer_options){.folder = path,
                                                                          .vocab_size = SYNTHETIC_VOCAB,
                                                                          .shard_bytes = shard_bytes}));
    int32_t longest = 0;
    for (int64_t i = 0; i < n; i++) longest = lengths[i] > longest ? lengths[i] : longest;
    int32_t *tokens = calloc((size_t)longest + 1, sizeof *tokens);
    float *weights = calloc((size_t)longest + 1, sizeof *weights);
    for (int64_t i = 0; i < n; i++) {
        for (int32_t t = 0; t < lengths[i]; t++) {
            tokens[t] = synthetic_token(i, t);
            weights[t] = synthetic_supervised(i, t, lengths[i]);
        }
        assert_ok(shard_writer_add(writer, &(struct shard_entry){.tokens = tokens,
                                                                 .weights = weights,
                                                                 .n = lengths[i],
                                                                 .source = (int32_t)(i % 2),
                                                                 .raw_row = i,
                                                                 .line = i + 1,
                                                                 .problem = lengths[i] == 0}));
        if (shard_writer_full(writer)) assert_ok(shard_writer_close(writer));
    }
    free(tokens);
    free(weights);
    if (shard_writer_rows(writer) > 0) assert_ok(shard_writer_close(writer));
    char *sources[] = {"even.jsonl", "odd.jsonl"};
    struct row_range group = {0, n};
    struct dataset_about about = {.raw_rows = n,
                                  .vocab_size = SYNTHETIC_VOCAB,
                                  .cutoff_len = longest,
                                  .source = sources,
                                  .n_sources = 2,
                                  .group = &group,
                                  .n_groups = 1,
                                  .n_shards = shard_writer_number(writer)};
    shard_writer_destroy(writer);
    assert_ok(dataset_seal(&about, path));
    struct dataset *dataset = NULL;
    assert_ok(dataset_open(&dataset, path));
    if (folder) strcpy(folder, path);
    return dataset;
}

int32_t *synthetic_lengths(int64_t n, int32_t shortest, int32_t longest, uint64_t seed)
{
    int32_t *lengths = calloc((size_t)n + 1, sizeof *lengths);
    for (int64_t i = 0; i < n; i++) {
        double u = (double)random_unit_f32(random_philox(seed, 0, (uint64_t)i).word[0]);
        lengths[i] = shortest + (int32_t)((longest - shortest) * u * u * u);
    }
    return lengths;
}
