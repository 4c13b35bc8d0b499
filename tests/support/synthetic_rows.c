#include "support/synthetic_rows.h"

#include "support/test.h"

#include <sys/stat.h>

#include "base/random.h"
#include "dataloader/dataset_file.h"
#include "dataloader/prepare_lock.h"
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

float synthetic_weight(const struct synthetic_rows *rows, int64_t row)
{
    return rows->weight > 0 && row % 3 == 0 ? rows->weight : 1;
}

struct synthetic_growth {
    struct synthetic_rows rows;
    char path[512];
    struct prepare_lock lock;
    struct shard_writer *writer;
    uint8_t *done; /* [n] */
    int32_t *tokens;
    float *weights;
};

static struct synthetic_growth *begin(const struct synthetic_rows *rows)
{
    static int number;
    struct synthetic_growth *growth = calloc(1, sizeof *growth);
    growth->rows = *rows;
    snprintf(growth->path, sizeof growth->path, "%s/rows-%d", test_tmpdir(), number++);
    assert_int_equal(mkdir(growth->path, 0777), 0);
    growth->lock.fd = -1;
    int64_t shard_bytes = rows->shard_bytes ? rows->shard_bytes : 1 << 20;
    assert_ok(
        shard_writer_create(&growth->writer, &(struct shard_writer_options){.folder = growth->path,
                                                                            .vocab_size = SYNTHETIC_VOCAB,
                                                                            .shard_bytes = shard_bytes}));
    int32_t longest = 0;
    for (int64_t i = 0; i < rows->n; i++) longest = rows->lengths[i] > longest ? rows->lengths[i] : longest;
    growth->done = calloc((size_t)rows->n + 1, 1);
    growth->tokens = calloc((size_t)longest + 1, sizeof *growth->tokens);
    growth->weights = calloc((size_t)longest + 1, sizeof *growth->weights);
    return growth;
}

static void add_row(struct synthetic_growth *growth, int64_t row)
{
    int32_t length = growth->rows.lengths[row];
    if (growth->done[row]) return;
    growth->done[row] = 1;
    for (int32_t t = 0; t < length; t++) {
        growth->tokens[t] = synthetic_token(row, t);
        growth->weights[t] = synthetic_supervised(row, t, length) ? synthetic_weight(&growth->rows, row) : 0;
    }
    assert_ok(shard_writer_add(growth->writer, &(struct shard_entry){.tokens = growth->tokens,
                                                                     .weights = growth->weights,
                                                                     .n = length,
                                                                     .source = (int32_t)(row % 2),
                                                                     .raw_row = row,
                                                                     .line = row + 1,
                                                                     .problem = length == 0}));
    if (shard_writer_full(growth->writer)) assert_ok(shard_writer_close(growth->writer));
}

/* `complete`: all rows are in shards. */
static void write_about(const struct synthetic_growth *growth, bool complete)
{
    const struct synthetic_rows *rows = &growth->rows;
    struct row_range groups[64] = {{0, rows->n}};
    int32_t n_groups = rows->groups ? rows->n_groups : 1;
    int64_t first = 0;
    assert_true(n_groups <= 64);
    for (int32_t g = 0; rows->groups && g < n_groups; first += rows->groups[g++])
        groups[g] = (struct row_range){first, rows->groups[g]};
    char *sources[] = {"even.jsonl", "odd.jsonl"};
    struct dataset_about about = {.raw_rows = rows->n,
                                  .vocab_size = SYNTHETIC_VOCAB,
                                  .cutoff_len = 1 << 20,
                                  .source = sources,
                                  .n_sources = 2,
                                  .group = groups,
                                  .n_groups = n_groups,
                                  .n_shards = complete ? shard_writer_number(growth->writer) : 0};
    if (complete)
        assert_ok(dataset_seal(&about, growth->path));
    else
        assert_ok(dataset_about_write(&about, growth->path, DATASET_GROWING));
}

struct synthetic_growth *synthetic_grow(const struct synthetic_rows *rows, struct dataset **out)
{
    struct synthetic_growth *growth = begin(rows);
    bool got;
    assert_ok(prepare_lock_try(&growth->lock, growth->path, &got));
    assert_true(got);
    write_about(growth, false);
    assert_ok(dataset_open(out, growth->path));
    return growth;
}

void synthetic_prepare(struct synthetic_growth *growth, const int64_t *rows, int32_t n)
{
    for (int32_t i = 0; i < n; i++) add_row(growth, rows[i]);
    if (shard_writer_rows(growth->writer) > 0) assert_ok(shard_writer_close(growth->writer));
}

void synthetic_finish(struct synthetic_growth *growth, enum status failure)
{
    if (failure == LORAD_OK) {
        for (int64_t row = 0; row < growth->rows.n; row++) add_row(growth, row);
        synthetic_prepare(growth, NULL, 0);
        write_about(growth, true);
    } else {
        prepare_lock_note(&growth->lock, FAIL(failure, "preparing failed"));
    }
    if (growth->lock.fd >= 0) prepare_lock_release(&growth->lock);
    shard_writer_destroy(growth->writer);
    free(growth->done);
    free(growth->tokens);
    free(growth->weights);
    free(growth);
}

static struct dataset *whole_dataset(const struct synthetic_rows *rows, char *folder)
{
    struct dataset *dataset = NULL;
    char path[512];
    struct synthetic_growth *growth = begin(rows);
    strcpy(path, growth->path);
    synthetic_finish(growth, LORAD_OK);
    assert_ok(dataset_open(&dataset, path));
    if (folder) strcpy(folder, path);
    return dataset;
}

struct dataset *synthetic_dataset_of(const struct synthetic_rows *rows)
{
    return whole_dataset(rows, NULL);
}

struct dataset *synthetic_dataset(const int32_t *lengths, int64_t n, int64_t shard_bytes, char *folder)
{
    return whole_dataset(&(struct synthetic_rows){.lengths = lengths, .n = n, .shard_bytes = shard_bytes},
                         folder);
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
