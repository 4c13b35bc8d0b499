/*
 * data.c: what the data side costs, in tokens per second of processor time (so that a busy machine does not
 * matter much):
 *
 *     bench_data MODEL_FOLDER SOURCE [cutoff_len]
 *
 * Preparing: reading, rendering, tokenising and writing with one thread. Loading: two epochs of packed
 * micro-batches, from the page cache into the caller's buffers, both threads counted. SOURCE is repeated
 * until 20 MB are read; with a cutoff_len below 0 it is taken once, with that length, for the share of real
 * tokens that a user will see.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "dataloader/dataloader.h"
#include "support/loader_record.h"
#include "support/test.h"
#include "support/processor_time.h"

enum { WANTED_BYTES = 20 << 20, MOST_COPIES = 1000 };

static enum status prepare(struct dataset **out, const struct prepare_options *options)
{
    char *folder;
    struct prepare_report *report = memory_new(1, sizeof *report);
    if (!report) return LORAD_NOMEM;
    double start = processor_seconds();
    int64_t wall = clock_monotonic_ns();
    enum status status = dataset_prepare(&folder, options, report);
    double used = processor_seconds() - start, passed = clock_seconds_since(wall);
    if (status == LORAD_OK) {
        printf("prepare: %lld rows, %lld tokens: %.2f M tokens/s of processor time (%.2f s of %.2f s)\n",
               (long long)report->rows_kept, (long long)report->tokens, (double)report->tokens / used / 1e6,
               used, passed);
        status = dataset_open(out, folder);
        free(folder);
    }
    free(report);
    return status;
}

/* Two epochs through a loader: tokens served, room in their packs, and tokens if every micro-batch were
 * padded. */
struct served {
    int64_t tokens, room, padded;
    double seconds; /* of processor time */
};

static enum status serve(struct served *out, struct dataset *dataset, const struct loader_options *options)
{
    struct micro_batch batch;
    struct loader *loader;
    struct step_info info = {0};
    struct served sum = {0};
    double start = processor_seconds();
    TRY(loader_open(&loader, dataset, options, (struct data_cursor){0}));
    while (info.after.epoch < 2) {
        TRY(loader_next_step(loader, &info));
        for (int32_t i = 0; i < info.my_micro_batches; i++) {
            TRY(loader_next(loader, &batch));
            sum.padded += (int64_t)batch.longest * batch.n_sequences;
        }
        sum.tokens += info.tokens;
        sum.room += info.capacity_tokens;
    }
    sum.seconds = processor_seconds() - start;
    loader_close(loader);
    *out = sum;
    return LORAD_OK;
}

/* Padding if the rows of a micro-batch were taken as the order has them. */
static enum status padding_at_random(double *out, const struct dataset *dataset,
                                     const struct loader_options *options)
{
    struct mixture *mixture;
    const struct mixture_options order = {.seed = options->data_seed, .shuffle = true};
    TRY(mixture_create(&mixture, &(struct mixture_group){.n_rows = dataset_raw_rows(dataset), .weight = 1}, 1,
                       &order));
    int64_t tokens = 0, padded = 0, longest = 0;
    int32_t n = 0;
    for (int64_t i = 0; i < dataset_raw_rows(dataset); i++) {
        int32_t length = dataset_length(dataset, mixture_row(mixture, 0, i));
        if (length == 0) continue;
        tokens += length;
        if (length > longest) longest = length;
        if (++n < options->micro_batch_size) continue;
        padded += longest * n;
        longest = n = 0;
    }
    padded += longest * n;
    mixture_destroy(mixture);
    *out = 100.0 * (double)(padded - tokens) / (double)padded;
    return LORAD_OK;
}

static enum status load(struct dataset *dataset, int32_t cutoff_len)
{
    struct loader_options options = {.data_seed = 1,
                                     .packing = true,
                                     .shuffle = true,
                                     .cutoff_len = cutoff_len,
                                     .micro_batch_size = 8,
                                     .global_batch_size = 64,
                                     .dp_size = 1};
    struct served served;
    double at_random;
    TRY(serve(&served, dataset, &options));
    printf("load: %lld tokens: %.1f M tokens/s of processor time; %.2f %% real tokens in packs of %d\n",
           (long long)served.tokens, (double)served.tokens / served.seconds / 1e6,
           100.0 * (double)served.tokens / (double)served.room, cutoff_len);
    options.packing = false;
    TRY(serve(&served, dataset, &options));
    TRY(padding_at_random(&at_random, dataset, &options));
    printf("rows one by one, micro-batches of %d: %.2f %% padding would be needed, %.2f %% at random\n",
           options.micro_batch_size, 100.0 * (double)(served.padded - served.tokens) / (double)served.padded,
           at_random);
    return LORAD_OK;
}

static enum status run(const char *model, const char *path, int32_t cutoff_len)
{
    static struct dataset_source sources[MOST_COPIES];
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    struct dataset *dataset;
    int64_t bytes;
    int32_t n = 0;
    TRY(file_stat(&bytes, NULL, path));
    int64_t wanted = cutoff_len > 0 ? WANTED_BYTES : 1;
    if (cutoff_len < 0) cutoff_len = -cutoff_len;
    for (int64_t total = 0; total < wanted && n < MOST_COPIES; total += bytes + 1)
        sources[n++] = (struct dataset_source){.path = path, .format = "auto"};
    TRY(tokenizer_open(&tokenizer, model));
    TRY(chat_template_open(&chat, tokenizer, NULL));
    const struct prepare_options options = {.sources = sources,
                                            .n_sources = n,
                                            .tokenizer = tokenizer,
                                            .chat = chat,
                                            .cutoff_len = cutoff_len,
                                            .cache_dir = test_tmpdir(),
                                            .threads = 1};
    TRY(prepare(&dataset, &options));
    TRY(load(dataset, cutoff_len));
    dataset_close(dataset);
    chat_template_close(chat);
    tokenizer_close(tokenizer);
    return LORAD_OK;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL_FOLDER SOURCE [cutoff_len]\n", argv[0]);
        return 64;
    }
    log_set_level(LOG_WARN);
    enum status status = run(argv[1], argv[2], argc > 3 ? atoi(argv[3]) : 1024);
    if (status != LORAD_OK) fprintf(stderr, "%s\n", status_message());
    return status_exit_code(status);
}
