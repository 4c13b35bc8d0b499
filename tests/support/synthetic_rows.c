#include "support/synthetic_rows.h"

#include "support/test.h"

#include <sys/stat.h>

#include "base/random.h"
#include "dataloader/dataset_placeholder.h"
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
    assert_ok(shard_writer_create(&writer, path, SYNTHETIC_VOCAB, shard_bytes));
    int32_t longest = 0;
    for (int64_t i = 0; i < n; i++) longest = lengths[i] > longest ? lengths[i] : longest;
    int32_t *tokens = calloc((size_t)longest + 1, sizeof *tokens);
    uint8_t *supervised = calloc((size_t)longest + 1, 1);
    for (int64_t i = 0; i < n; i++) {
        int32_t length = lengths[i] > 0 ? lengths[i] : 1; /* a hole: nothing to learn */
        for (int32_t t = 0; t < length; t++) {
            tokens[t] = synthetic_token(i, t);
            supervised[t] = lengths[i] > 0 && synthetic_supervised(i, t, length);
        }
        assert_ok(shard_writer_add(writer, tokens, supervised, length, (int32_t)(i % 2), i + 1));
    }
    free(tokens);
    free(supervised);
    const char *const sources[] = {"even.jsonl", "odd.jsonl"};
    assert_ok(shard_writer_finish(writer, sources, 2));
    shard_writer_destroy(writer);
    struct dataset *dataset = NULL;
    assert_ok(dataset_open(&dataset, path));
    if (folder) strcpy(folder, path);
    return dataset;
}

struct dataset *synthetic_dataset_of(const struct synthetic_rows *rows)
{
    int64_t shard_bytes = rows->shard_bytes ? rows->shard_bytes : 1 << 20;
    struct dataset *dataset = synthetic_dataset(rows->lengths, rows->n, shard_bytes, NULL);
    if (rows->groups) dataset_placeholder_groups(dataset, rows->groups, rows->n_groups);
    if (rows->weight > 0) dataset_placeholder_weight(dataset, rows->weight);
    if (rows->growing) dataset_placeholder_grow(dataset);
    return dataset;
}

float synthetic_weight(const struct synthetic_rows *rows, int64_t row)
{
    return rows->weight > 0 && row % 3 == 0 ? rows->weight : 1;
}

void synthetic_prepare(struct dataset *dataset, const int64_t *rows, int32_t n)
{
    dataset_placeholder_prepare(dataset, rows, n);
}

void synthetic_finish(struct dataset *dataset, enum status failure)
{
    dataset_placeholder_finish(dataset, failure);
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
