/*
 * rows.c: what a large set of rows costs: counting its steps on paper, and serving it at the speed of a
 * device.
 *
 *     bench_rows FOLDER make ROWS
 *         a prepared folder of synthetic rows, 64 tokens on average
 *     bench_rows FOLDER count [EPOCHS]
 *         loader_measure, packed and one by one
 *     bench_rows FOLDER serve TOKENS_A_SECOND SECONDS [EPOCH [THREADS]]
 *
 * Rows lie in the folder as preparing leaves them: in the order of epoch 0, so that a later epoch reads at
 * random. Serving takes every micro-batch and then sleeps as long as a device of that speed would compute; it
 * tells how long it waited for data, and what memory the process holds, ten times on the way. The hash at the
 * end is that of all that was served, and must be the same however fast the storage is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/random.h"
#include "dataloader/dataloader.h"
#include "dataloader/dataset_file.h"
#include "dataloader/mixture.h"
#include "dataloader/shard_file.h"
#include "support/loader_record.h"

enum { VOCAB = 32000, CUTOFF = 1024, SEED = 1 };

static const struct loader_options usual = {.data_seed = SEED,
                                            .packing = true,
                                            .shuffle = true,
                                            .cutoff_len = CUTOFF,
                                            .micro_batch_size = 8,
                                            .global_batch_size = 64,
                                            .dp_size = 1};

static int32_t length_of(int64_t row)
{
    double u = (double)random_unit_f32(random_philox(SEED, 0, (uint64_t)row).word[0]);
    return 16 + (int32_t)(240 * u * u * u * u);
}

static void fill_row(int64_t row, int32_t n, int32_t *tokens, float *weights)
{
    uint64_t x = (uint64_t)row * 0x9E3779B97F4A7C15u + 1;
    for (int32_t t = 0; t < n; t++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        tokens[t] = (int32_t)(x % VOCAB);
        weights[t] = t > n / 3;
    }
}

static enum status make(const char *folder, int64_t n_rows)
{
    struct shard_writer *writer;
    struct mixture *mixture;
    int32_t tokens[256];
    float weights[256];
    const struct mixture_options order = {.seed = SEED, .shuffle = true};
    mkdir(folder, 0777);
    TRY(mixture_create(&mixture, &(struct mixture_group){.n_rows = n_rows, .weight = 1}, 1, &order));
    TRY(shard_writer_create(&writer, &(struct shard_writer_options){
                                         .folder = folder, .vocab_size = VOCAB, .shard_bytes = 64 << 20}));
    for (int64_t i = 0; i < n_rows; i += MIXTURE_BLOCK) {
        int64_t rows[MIXTURE_BLOCK];
        int32_t n = n_rows - i < MIXTURE_BLOCK ? (int32_t)(n_rows - i) : MIXTURE_BLOCK;
        mixture_rows(mixture, 0, i, n, rows);
        for (int32_t k = 0; k < n; k++) {
            int32_t length = length_of(rows[k]);
            fill_row(rows[k], length, tokens, weights);
            TRY(shard_writer_add(writer, &(struct shard_entry){.tokens = tokens,
                                                               .weights = weights,
                                                               .n = length,
                                                               .raw_row = rows[k],
                                                               .line = rows[k] + 1}));
            if (shard_writer_full(writer)) TRY(shard_writer_close(writer));
        }
    }
    if (shard_writer_rows(writer) > 0) TRY(shard_writer_close(writer));
    char *source[] = {"synthetic"};
    struct row_range group = {0, n_rows};
    struct dataset_about about = {.raw_rows = n_rows,
                                  .vocab_size = VOCAB,
                                  .cutoff_len = CUTOFF,
                                  .source = source,
                                  .n_sources = 1,
                                  .group = &group,
                                  .n_groups = 1,
                                  .n_shards = shard_writer_number(writer)};
    shard_writer_destroy(writer);
    mixture_destroy(mixture);
    return dataset_seal(&about, folder);
}

static enum status count(struct dataset *dataset, double epochs)
{
    for (int packing = 1; packing >= 0; packing--) {
        struct loader_options options = usual;
        struct run_length length;
        options.packing = packing;
        int64_t start = clock_monotonic_ns();
        TRY(loader_measure(&length, dataset, &options, epochs));
        double seconds = clock_seconds_since(start), rows = epochs * (double)dataset_raw_rows(dataset);
        printf("%s: %g epochs of %lld rows: %lld steps in %.2f s (%.2f s a million rows)\n",
               packing ? "packed" : "one by one", epochs, (long long)dataset_raw_rows(dataset),
               (long long)length.steps, seconds, seconds / rows * 1e6);
        if (packing)
            printf("packed: %.3f %% real tokens\n",
                   100.0 * (double)length.tokens / (double)length.packs / CUTOFF);
    }
    return LORAD_OK;
}

static void print_memory(const char *when)
{
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    long anon = 0, mapped = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, "RssAnon:", 8) == 0) anon = atol(line + 8);
        if (strncmp(line, "RssFile:", 8) == 0) mapped = atol(line + 8);
    }
    if (file) fclose(file);
    printf("%s: memory %.1f MB own, %.1f MB mapped from files\n", when, (double)anon / 1024,
           (double)mapped / 1024);
    fflush(stdout);
}

static enum status serve(struct dataset *dataset, double rate, double seconds, int64_t epoch, int32_t threads)
{
    struct loader_options options = usual;
    options.threads = threads;
    struct micro_batch batch;
    struct loader *loader;
    struct step_info info;
    TRY(loader_open(&loader, dataset, &options, (struct data_cursor){epoch, 0, 0}));
    int64_t start = clock_monotonic_ns(), tokens = 0, steps = 0;
    uint64_t hash = 0, kept_hash = 0;
    int64_t kept_steps = 0;
    double slowest = 0, passed = 0, first_wait = 0;
    for (int report = 1; passed < seconds; passed = clock_seconds_since(start)) {
        double before = loader_wait_seconds(loader);
        TRY(loader_next_step(loader, &info));
        for (int32_t i = 0; i < info.my_micro_batches; i++) {
            TRY(loader_next(loader, &batch));
            uint64_t both[] = {hash, batch_hash(&batch)};
            hash = hash64(both, sizeof both);
            if (steps == 0) start = clock_monotonic_ns(); /* the device's clock starts when it has work */
            tokens += batch.n_tokens;
            int64_t due = start + (int64_t)((double)tokens / rate * 1e9);
            struct timespec until = {due / 1000000000, due % 1000000000};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        }
        double waited = loader_wait_seconds(loader) - before;
        if ((steps & (steps + 1)) == 0) {
            kept_steps = steps + 1;
            kept_hash = hash;
        }
        if (steps++ == 0)
            first_wait = waited;
        else if (waited > slowest)
            slowest = waited;
        if (passed >= seconds * report / 10) {
            char when[64];
            snprintf(when, sizeof when, "%5.1f s, epoch %.4f", passed, info.epoch);
            print_memory(when);
            report++;
        }
    }
    double waited = loader_wait_seconds(loader) - first_wait;
    printf("served %lld tokens in %lld steps, %.2f M tokens/s; waited %.4f %% of the time (longest %.2f ms; "
           "first step "
           "%.2f ms)\n",
           (long long)tokens, (long long)steps, (double)tokens / passed / 1e6, 100 * waited / passed,
           slowest * 1e3, first_wait * 1e3);
    printf("hash after %lld steps: %016llx\n", (long long)kept_steps, (unsigned long long)kept_hash);
    loader_close(loader);
    return LORAD_OK;
}

static enum status run(int argc, char **argv)
{
    struct dataset *dataset;
    if (strcmp(argv[2], "make") == 0 && argc == 4) return make(argv[1], atoll(argv[3]));
    int64_t start = clock_monotonic_ns();
    TRY(dataset_open(&dataset, argv[1]));
    printf("%lld rows, opened in %.3f s\n", (long long)dataset_raw_rows(dataset), clock_seconds_since(start));
    print_memory("opened");
    enum status status = LORAD_USAGE;
    if (strcmp(argv[2], "count") == 0)
        status = count(dataset, argc > 3 ? atof(argv[3]) : 1);
    else if (strcmp(argv[2], "serve") == 0 && argc > 4)
        status = serve(dataset, atof(argv[3]), atof(argv[4]), argc > 5 ? atoll(argv[5]) : 0,
                       argc > 6 ? atoi(argv[6]) : 1);
    dataset_close(dataset);
    return status;
}

int main(int argc, char **argv)
{
    enum status status = argc > 2 ? run(argc, argv) : LORAD_USAGE;
    if (status == LORAD_USAGE)
        fprintf(
            stderr,
            "usage: %s FOLDER make ROWS | count [EPOCHS] | serve TOKENS_A_SECOND SECONDS [EPOCH [THREADS]]\n",
            argv[0]);
    else if (status != LORAD_OK)
        fprintf(stderr, "%s\n", status_message());
    return status_exit_code(status);
}
