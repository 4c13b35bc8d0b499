#include "support/test.h"

#include "base/clock.h"
#include "base/random.h"
#include "dataloader/dataloader.h"
#include "support/loader_record.h"
#include "support/synthetic_rows.h"

static const struct loader_options usual = {.data_seed = 42,
                                            .packing = true,
                                            .shuffle = true,
                                            .cutoff_len = 256,
                                            .micro_batch_size = 3,
                                            .global_batch_size = 20,
                                            .dp_size = 1};

static void an_epoch_serves_every_row_once_with_shifted_labels(void **state)
{
    (void)state;
    enum { ROWS = 5000 };
    int32_t *lengths = synthetic_lengths(ROWS, 2, 256, 1);
    struct dataset *dataset = synthetic_dataset(lengths, ROWS, 1 << 20, NULL);
    for (int packing = 0; packing < 2; packing++)
        for (int shuffle = 0; shuffle < 2; shuffle++) {
            struct loader_options options = usual;
            options.packing = packing;
            options.shuffle = shuffle;
            struct loader *loader;
            struct loader_capacity capacity = loader_capacity(dataset, &options);
            struct micro_batch batch;
            assert_ok(loader_open(&loader, dataset, &options, (struct data_cursor){0}));
            int seen[ROWS] = {0};
            struct step_info info = {0};
            while (!info.last_of_epoch) {
                assert_ok(loader_next_step(loader, &info));
                int64_t supervised = 0, tokens = 0, last_index = -1;
                for (int32_t i = 0; i < info.my_micro_batches; i++) {
                    assert_ok(loader_next(loader, &batch));
                    assert_true(batch.n_tokens <= capacity.tokens && batch.n_sequences <= capacity.sequences);
                    int32_t batch_supervised = 0, longest = 0;
                    assert_int_equal(batch.seq_start[batch.n_sequences], batch.n_tokens);
                    for (int32_t s = 0; s < batch.n_sequences; s++) {
                        int64_t row = batch.row_ids[s];
                        int32_t begin = batch.seq_start[s], n = batch.seq_start[s + 1] - begin;
                        assert_int_equal(n, lengths[row]);
                        seen[row]++;
                        longest = n > longest ? n : longest;
                        for (int32_t t = 0; t < n; t++) {
                            bool target = t + 1 < n && synthetic_supervised(row, t + 1, n);
                            assert_int_equal(batch.tokens[begin + t], synthetic_token(row, t));
                            assert_int_equal(batch.positions[begin + t], t);
                            assert_int_equal(batch.labels[begin + t],
                                             target ? synthetic_token(row, t + 1) : -1);
                            batch_supervised += target;
                            assert_true(batch.token_index[begin + t] > last_index);
                            last_index = batch.token_index[begin + t];
                        }
                    }
                    assert_int_equal(batch.n_supervised, batch_supervised);
                    assert_int_equal(batch.longest, longest);
                    assert_true(last_index <
                                (int64_t)(i + 1) * options.micro_batch_size * options.cutoff_len);
                    supervised += batch_supervised;
                    tokens += batch.n_tokens;
                }
                assert_int_equal(info.supervised_tokens, supervised);
                assert_int_equal(info.tokens, tokens);
                assert_int_equal(info.capacity_tokens, info.packs * options.cutoff_len);
                assert_true(info.last_of_epoch || info.packs == options.global_batch_size);
            }
            assert_true(info.epoch == 1.0);
            assert_int_equal(info.after.epoch, 1);
            assert_int_equal(info.after.window, 0);
            assert_int_equal(info.after.pack, 0);
            for (int i = 0; i < ROWS; i++) assert_int_equal(seen[i], 1);
            loader_close(loader);
        }
    dataset_close(dataset);
    free(lengths);
}

static void file_order_without_shuffle_and_packing(void **state)
{
    (void)state;
    const int32_t lengths[] = {5, 3, 8, 2, 7};
    struct dataset *dataset = synthetic_dataset(lengths, 5, 1 << 20, NULL);
    struct loader_options options = {
        .cutoff_len = 8, .micro_batch_size = 2, .global_batch_size = 4, .dp_size = 1};
    struct micro_batch batch;
    struct loader *loader;
    struct step_info info;
    int64_t next = 0;
    assert_ok(loader_open(&loader, dataset, &options, (struct data_cursor){0}));
    for (int step = 0; step < 4; step++) {
        assert_ok(loader_next_step(loader, &info));
        assert_int_equal(info.packs, step % 2 == 0 ? 4 : 1);
        for (int32_t i = 0; i < info.my_micro_batches; i++) {
            assert_ok(loader_next(loader, &batch));
            for (int32_t s = 0; s < batch.n_sequences; s++) assert_int_equal(batch.row_ids[s], next++ % 5);
        }
    }
    assert_ok(loader_next_step(loader, &info));
    assert_fails(loader_next_step(loader, &info), LORAD_BUG, "were not taken");
    loader_close(loader);
    dataset_close(dataset);
}

static void every_layout_serves_the_same_micro_batches(void **state)
{
    (void)state;
    int32_t *lengths = synthetic_lengths(1500, 4, 256, 2);
    struct dataset *dataset = synthetic_dataset(lengths, 1500, 100000, NULL);
    for (int packing = 0; packing < 2; packing++) {
        struct loader_options options = usual;
        options.packing = packing;
        int32_t steps = packing ? 60 : 160;
        struct record *alone = record_steps(dataset, &options, (struct data_cursor){0}, steps);
        assert_true(alone->step[steps - 1].after.epoch >= 1); /* across an epoch's end */
        for (options.dp_size = 2; options.dp_size <= 9; options.dp_size += options.dp_size == 3 ? 6 : 1)
            for (options.dp_rank = 0; options.dp_rank < options.dp_size; options.dp_rank++) {
                struct record *rank = record_steps(dataset, &options, (struct data_cursor){0}, steps);
                for (int32_t step = 0; step < steps; step++) {
                    struct step_info theirs = rank->step[step], ours = alone->step[step];
                    assert_int_equal(theirs.micro_batches, ours.micro_batches);
                    assert_int_equal(theirs.supervised_tokens, ours.supervised_tokens);
                    assert_int_equal(theirs.tokens, ours.tokens);
                    assert_int_equal(theirs.after.pack, ours.after.pack);
                    int32_t n = 0;
                    for (int32_t i = options.dp_rank; i < ours.micro_batches; i += options.dp_size)
                        assert_true(rank->hash[rank->first_batch[step] + n++] ==
                                    alone->hash[alone->first_batch[step] + i]);
                    assert_int_equal(n, theirs.my_micro_batches);
                }
                free(rank);
            }
        free(alone);
    }
    dataset_close(dataset);
    free(lengths);
}

static void opening_at_any_cursor_gives_the_rest(void **state)
{
    (void)state;
    int32_t *lengths = synthetic_lengths(9000, 30, 256, 3); /* 3 windows */
    struct dataset *dataset = synthetic_dataset(lengths, 9000, 1 << 20, NULL);
    for (int packing = 0; packing < 2; packing++)
        for (int dp = 1; dp <= 3; dp++) {
            struct loader_options options = usual;
            options.packing = packing;
            options.global_batch_size = 200;
            options.micro_batch_size = 16;
            options.dp_size = dp;
            options.dp_rank = dp - 1;
            int32_t steps = packing ? 80 : 120;
            struct record *whole = record_steps(dataset, &options, (struct data_cursor){0}, steps);
            assert_true(whole->step[steps - 1].after.epoch >= 2);
            for (uint64_t k = 0; k < 6; k++) {
                int32_t at = (int32_t)(random_philox(9, (uint64_t)dp, k).word[0] % (uint32_t)steps);
                struct record *rest = record_steps(dataset, &options, whole->before[at], steps - at);
                for (int32_t step = at; step < steps; step++) {
                    assert_memory_equal(&rest->step[step - at].after, &whole->step[step].after,
                                        sizeof(struct data_cursor));
                    assert_int_equal(rest->step[step - at].supervised_tokens,
                                     whole->step[step].supervised_tokens);
                    assert_true(rest->step[step - at].epoch == whole->step[step].epoch);
                    int32_t n = whole->first_batch[step + 1] - whole->first_batch[step];
                    assert_memory_equal(rest->hash + rest->first_batch[step - at],
                                        whole->hash + whole->first_batch[step], (size_t)n * sizeof(uint64_t));
                }
                free(rest);
            }
            free(whole);
        }
    dataset_close(dataset);
    free(lengths);
}

static void a_cursor_of_other_data_is_refused(void **state)
{
    (void)state;
    int32_t *lengths = synthetic_lengths(100, 4, 256, 4);
    struct dataset *dataset = synthetic_dataset(lengths, 100, 1 << 20, NULL);
    struct loader *loader;
    struct loader_options options = usual;
    assert_fails(loader_open(&loader, dataset, &options, (struct data_cursor){0, 1, 0}), LORAD_DATA,
                 "window 1");
    assert_fails(loader_open(&loader, dataset, &options, (struct data_cursor){0, 0, 101}), LORAD_DATA,
                 "pack 101");
    assert_fails(loader_open(&loader, dataset, &options, (struct data_cursor){-1, 0, 0}), LORAD_DATA,
                 "epoch -1");
    options.global_batch_size = 0;
    assert_fails(loader_open(&loader, dataset, &options, (struct data_cursor){0}), LORAD_CONFIG,
                 "global_batch_size");
    dataset_close(dataset);
    free(lengths);
}

static void steps_counted_on_paper_are_the_steps_served(void **state)
{
    (void)state;
    int32_t *lengths = synthetic_lengths(6000, 20, 256, 5);
    struct dataset *dataset = synthetic_dataset(lengths, 6000, 1 << 20, NULL);
    for (int packing = 0; packing < 2; packing++) {
        struct loader_options options = usual;
        options.packing = packing;
        options.global_batch_size = 256;
        options.micro_batch_size = 32;
        int64_t counted, half;
        assert_ok(loader_count_steps(&counted, dataset, &options, 3));
        struct record *record = record_steps(dataset, &options, (struct data_cursor){0}, (int32_t)counted);
        assert_true(record->step[counted - 1].last_of_epoch);
        assert_int_equal(record->step[counted - 1].after.epoch, 3);
        int32_t of_first = 0;
        while (record->step[of_first].after.epoch == 0) of_first++;
        assert_ok(loader_count_steps(&half, dataset, &options, 0.5));
        assert_int_equal(half, (of_first + 2) / 2);
        assert_ok(loader_count_steps(&half, dataset, &options, 0));
        assert_int_equal(half, 0);
        free(record);
    }
    dataset_close(dataset);
    free(lengths);
}

static void epochs_differ_in_order(void **state)
{
    (void)state;
    int32_t *lengths = synthetic_lengths(300, 4, 256, 6);
    struct dataset *dataset = synthetic_dataset(lengths, 300, 1 << 20, NULL);
    struct loader_options options = usual;
    struct record *first = record_steps(dataset, &options, (struct data_cursor){0}, 1);
    struct record *second = record_steps(dataset, &options, (struct data_cursor){1, 0, 0}, 1);
    options.data_seed++;
    struct record *other = record_steps(dataset, &options, (struct data_cursor){0}, 1);
    assert_true(first->hash[0] != second->hash[0] && first->hash[0] != other->hash[0]);
    free(first);
    free(second);
    free(other);
    dataset_close(dataset);
    free(lengths);
}

static void a_damaged_row_is_reported_when_it_is_served(void **state)
{
    (void)state;
    char folder[512], path[600];
    int32_t *lengths = synthetic_lengths(500, 4, 200, 7);
    dataset_close(synthetic_dataset(lengths, 500, 1 << 20, folder));
    snprintf(path, sizeof path, "%s/tokens-00000.bin", folder);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, 256 + 4 * 1000, SEEK_SET); /* token 1000 */
    fputc(0xFF, file);
    fclose(file);
    struct dataset *dataset;
    struct loader *loader;
    struct step_info info;
    assert_ok(dataset_open(&dataset, folder));
    struct loader_options options = usual;
    options.cutoff_len = 200;
    options.global_batch_size = 1 << 20;
    struct micro_batch batch;
    assert_ok(loader_open(&loader, dataset, &options, (struct data_cursor){0}));
    assert_ok(loader_next_step(loader, &info));
    enum status status = LORAD_OK;
    for (int32_t i = 0; i < info.my_micro_batches && status == LORAD_OK; i++)
        status = loader_next(loader, &batch);
    assert_int_equal(status, LORAD_DATA);
    assert_non_null(strstr(status_message(), "tokens-00000.bin: row"));
    loader_close(loader);
    dataset_close(dataset);
    free(lengths);
}

static void closing_never_waits_for_the_rings(void **state)
{
    (void)state;
    int32_t *lengths = synthetic_lengths(2000, 4, 256, 11);
    struct dataset *dataset = synthetic_dataset(lengths, 2000, 1 << 20, NULL);
    for (int taken = 0; taken < 24; taken++) {
        struct loader_options options = usual;
        options.prefetch = 1 + taken % 3;
        options.dp_size = 1 + taken % 2 * 8; /* with 9 ranks, rank 8 has no work in most steps */
        options.dp_rank = options.dp_size - 1;
        struct micro_batch batch;
        struct loader *loader;
        struct step_info info = {0};
        assert_ok(loader_open(&loader, dataset, &options, (struct data_cursor){0}));
        for (int i = 0; i < taken / 2; i++) {
            assert_ok(loader_next_step(loader, &info));
            for (int32_t k = 0; k < info.my_micro_batches; k++) assert_ok(loader_next(loader, &batch));
        }
        assert_true(loader_wait_seconds(loader) >= 0);
        loader_close(loader);
    }
    dataset_close(dataset);
    free(lengths);
}

/* Checkpoints hold cursors into this order, so it may never change: the rows of two epochs, as one hash. */
static void the_order_of_packs_is_frozen(void **state)
{
    (void)state;
    int32_t *lengths = synthetic_lengths(5000, 20, 256, 10);
    struct dataset *dataset = synthetic_dataset(lengths, 5000, 1 << 20, NULL);
    struct hash_stream *stream;
    assert_ok(hash_stream_create(&stream));
    struct micro_batch batch;
    struct loader *loader;
    struct step_info info = {0};
    assert_ok(loader_open(&loader, dataset, &usual, (struct data_cursor){0}));
    while (info.after.epoch < 2) {
        assert_ok(loader_next_step(loader, &info));
        for (int32_t i = 0; i < info.my_micro_batches; i++) {
            assert_ok(loader_next(loader, &batch));
            hash_stream_add(stream, batch.row_ids, (size_t)batch.n_sequences * sizeof *batch.row_ids);
        }
    }
    char hex[33];
    hash128_hex(hash_stream_value(stream), hex);
    assert_string_equal(hex, "d2b996fd7ad6e92a201d070cd0212807");
    loader_close(loader);
    hash_stream_destroy(stream);
    dataset_close(dataset);
    free(lengths);
}

/* Prints the speed; no limit is tested. */
static void speed(void **state)
{
    (void)state;
    enum { ROWS = 20000 };
    int32_t *lengths = synthetic_lengths(ROWS, 20, 1024, 8);
    struct dataset *dataset = synthetic_dataset(lengths, ROWS, 256 << 20, NULL);
    struct loader_options options = {.data_seed = 1,
                                     .packing = true,
                                     .shuffle = true,
                                     .cutoff_len = 1024,
                                     .micro_batch_size = 8,
                                     .global_batch_size = 64,
                                     .dp_size = 1};
    struct micro_batch batch;
    struct loader *loader;
    struct step_info info = {0};
    int64_t tokens = 0, capacity = 0, start = clock_monotonic_ns();
    assert_ok(loader_open(&loader, dataset, &options, (struct data_cursor){0}));
    while (info.after.epoch < 2) {
        assert_ok(loader_next_step(loader, &info));
        for (int32_t i = 0; i < info.my_micro_batches; i++) assert_ok(loader_next(loader, &batch));
        tokens += info.tokens;
        capacity += info.capacity_tokens;
    }
    double seconds = clock_seconds_since(start);
    printf("loader: %.1f M tokens/s, %.2f %% real tokens in packs of 1024\n", (double)tokens / seconds / 1e6,
           100.0 * (double)tokens / (double)capacity);
    loader_close(loader);
    dataset_close(dataset);
    free(lengths);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_epoch_serves_every_row_once_with_shifted_labels),
        cmocka_unit_test(file_order_without_shuffle_and_packing),
        cmocka_unit_test(every_layout_serves_the_same_micro_batches),
        cmocka_unit_test(opening_at_any_cursor_gives_the_rest),
        cmocka_unit_test(a_cursor_of_other_data_is_refused),
        cmocka_unit_test(steps_counted_on_paper_are_the_steps_served),
        cmocka_unit_test(epochs_differ_in_order),
        cmocka_unit_test(a_damaged_row_is_reported_when_it_is_served),
        cmocka_unit_test(closing_never_waits_for_the_rings),
        cmocka_unit_test(the_order_of_packs_is_frozen),
        cmocka_unit_test(speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
