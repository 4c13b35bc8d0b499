#include "support/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/random.h"
#include "dataloader/dataloader.h"
#include "dataloader/order.h"
#include "support/loader_record.h"
#include "support/synthetic_rows.h"

/* ---- runs with random parameters ---- */

struct scene {
    struct synthetic_rows rows;
    int32_t *lengths;
    int64_t groups[4];
    double weights[4], max_epochs[4];
    struct loader_options options;
    struct dataset *dataset;
};

/* LORAD_TEST_ROUNDS makes the random tests that many times longer. */
static uint64_t rounds(uint64_t usual)
{
    const char *times = getenv("LORAD_TEST_ROUNDS");
    return usual * (times ? strtoull(times, NULL, 10) : 1);
}

static uint32_t draw(uint64_t seed, uint64_t what, uint32_t below)
{
    return random_philox(seed, RANDOM_TEST, what).word[0] % below;
}

/* Groups with weights, holes (also whole windows of them), texts longer than a pack, all sizes of batches. */
static void make_scene(struct scene *s, uint64_t seed)
{
    memset(s, 0, sizeof *s);
    int64_t n = 200 + draw(seed, 0, seed % 4 == 0 ? 20000 : 1500);
    int32_t cutoff = 40 + (int32_t)draw(seed, 1, 120);
    s->lengths = synthetic_lengths(n, 2, draw(seed, 2, 3) ? cutoff : 5 * cutoff, seed);
    uint32_t one_hole_in = draw(seed, 3, 3) ? 2 + draw(seed, 3, 9) : 1u << 30;
    for (int64_t i = 0; i < n; i++)
        if (draw(seed + 1000, (uint64_t)i, one_hole_in) == 0) s->lengths[i] = 0;
    s->rows = (struct synthetic_rows){
        .lengths = s->lengths, .n = n, .groups = s->groups, .weight = seed % 2 ? 0.5f : 0};
    s->rows.n_groups = 1 + (int32_t)draw(seed, 4, 4);
    int64_t left = n;
    for (int32_t g = 0; g < s->rows.n_groups; g++) {
        s->groups[g] = g + 1 < s->rows.n_groups ? left / 2 : left;
        left -= s->groups[g];
        s->weights[g] = (4 + draw(seed, 5 + (uint64_t)g, 16)) / 8.0;
        if (draw(seed, 10, 3) == 0) s->max_epochs[g] = (4 + draw(seed, 11 + (uint64_t)g, 8)) / 4.0;
    }
    s->options = (struct loader_options){.data_seed = seed,
                                         .stage = seed % 3,
                                         .packing = draw(seed, 20, 2),
                                         .shuffle = draw(seed, 21, 5) > 0,
                                         .mix_strategy = (enum mix_strategy)draw(seed, 22, 3),
                                         .group_weights = s->weights,
                                         .group_max_epochs = s->max_epochs,
                                         .cutoff_len = cutoff,
                                         .micro_batch_size = 1 + (int32_t)draw(seed, 23, 9),
                                         .global_batch_size = 1 + draw(seed, 24, 300),
                                         .dp_size = 1};
    if (s->options.global_batch_size < n / 100) s->options.global_batch_size = n / 100;
    s->dataset = synthetic_dataset_of(&s->rows);
}

static void drop_scene(struct scene *s)
{
    dataset_close(s->dataset);
    free(s->lengths);
}

static struct mixture *mixture_of(const struct scene *s)
{
    struct mixture_group groups[4];
    int64_t first = 0;
    for (int32_t g = 0; g < s->rows.n_groups; first += s->groups[g++])
        groups[g] = (struct mixture_group){first, s->groups[g], s->weights[g], s->max_epochs[g]};
    const struct mixture_options options = {.strategy = s->options.mix_strategy,
                                            .seed = s->options.data_seed,
                                            .stage = s->options.stage,
                                            .shuffle = s->options.shuffle};
    struct mixture *mixture = NULL;
    assert_ok(mixture_create(&mixture, groups, s->rows.n_groups, &options));
    return mixture;
}

/* The sequence in batch `b`: the piece that begins with token `first` of its row. */
static void check_sequence(const struct scene *s, const struct micro_batch *b, int32_t i, int32_t first)
{
    int64_t row = b->row_ids[i];
    int32_t begin = b->seq_start[i], n = b->seq_start[i + 1] - begin, length = s->lengths[row];
    assert_int_equal(n, length - first < s->options.cutoff_len ? length - first : s->options.cutoff_len);
    for (int32_t t = 0; t < n; t++) {
        bool target = t + 1 < n && synthetic_supervised(row, first + t + 1, length);
        assert_int_equal(b->tokens[begin + t], synthetic_token(row, first + t));
        assert_int_equal(b->positions[begin + t], t);
        assert_int_equal(b->labels[begin + t], target ? synthetic_token(row, first + t + 1) : -1);
        assert_true(b->weights[begin + t] == (target ? synthetic_weight(&s->rows, row) : 0));
    }
}

/* Which piece of its row a sequence is. */
static int32_t piece_of(const struct scene *s, const struct micro_batch *b, int32_t i)
{
    int64_t row = b->row_ids[i];
    int32_t begin = b->seq_start[i], n = b->seq_start[i + 1] - begin, cutoff = s->options.cutoff_len;
    for (int32_t first = 0; first < s->lengths[row]; first += cutoff) {
        int32_t length = s->lengths[row] - first < cutoff ? s->lengths[row] - first : cutoff, t = 0;
        while (t < n && t < length && b->tokens[begin + t] == synthetic_token(row, first + t)) t++;
        if (t == n && n == length) return first / cutoff;
    }
    fail_msg("a sequence of row %lld that is no piece of it", (long long)row);
    return -1;
}

/* One epoch from a loader: every piece as often as its row stands in the epoch, all sums right. */
static void check_epoch(const struct scene *s, struct loader *loader, struct micro_batch *batch,
                        const struct mixture *mixture, int64_t epoch, int64_t *steps)
{
    int64_t positions = mixture_positions(mixture, epoch), cutoff = s->options.cutoff_len;
    int64_t *first_piece = calloc((size_t)s->rows.n + 1, sizeof *first_piece);
    for (int64_t row = 0; row < s->rows.n; row++)
        first_piece[row + 1] = first_piece[row] + (s->lengths[row] + cutoff - 1) / cutoff;
    int *due = calloc((size_t)first_piece[s->rows.n] + 1, sizeof *due);
    for (int64_t i = 0; i < positions; i++) {
        int64_t row = mixture_row(mixture, epoch, i);
        for (int64_t k = first_piece[row]; k < first_piece[row + 1]; k++) due[k]++;
    }
    struct step_info info = {0};
    while (!info.last_of_epoch) {
        assert_ok(loader_next_step(loader, &info));
        ++*steps;
        assert_true(info.last_of_epoch || info.packs == s->options.global_batch_size);
        int64_t tokens = 0, supervised = 0;
        double weight = 0;
        for (int32_t i = 0; i < info.my_micro_batches; i++) {
            assert_ok(loader_next(loader, batch));
            tokens += batch->n_tokens;
            supervised += batch->n_supervised;
            int32_t n_supervised = 0;
            for (int32_t k = 0; k < batch->n_sequences; k++) {
                int32_t piece = piece_of(s, batch, k);
                check_sequence(s, batch, k, piece * s->options.cutoff_len);
                due[first_piece[batch->row_ids[k]] + piece]--;
            }
            for (int32_t t = 0; t < batch->n_tokens; t++) {
                weight += (double)batch->weights[t];
                n_supervised += batch->labels[t] >= 0;
                assert_true(t == 0 || batch->token_index[t] > batch->token_index[t - 1]);
            }
            assert_int_equal(batch->n_supervised, n_supervised);
        }
        assert_int_equal(info.tokens, tokens);
        assert_int_equal(info.supervised_tokens, supervised);
        assert_true(info.loss_weight == weight); /* halves: exact in any order */
    }
    assert_int_equal(info.after.epoch, epoch + 1);
    assert_int_equal(info.last, mixture_positions(mixture, epoch + 1) == 0);
    for (int64_t k = 0; k < first_piece[s->rows.n]; k++) assert_int_equal(due[k], 0);
    free(due);
    free(first_piece);
}

static void every_epoch_serves_what_the_mixture_says(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < rounds(24); seed++) {
        struct scene s;
        make_scene(&s, seed);
        struct mixture *mixture = mixture_of(&s);
        struct micro_batch batch;
        struct loader *loader;
        s.options.threads = (int32_t)(seed % 4);
        assert_ok(loader_open(&loader, s.dataset, &s.options, (struct data_cursor){0}));
        int64_t epoch = 0, steps = 0;
        for (; epoch < 3 && mixture_positions(mixture, epoch) > 0; epoch++)
            check_epoch(&s, loader, &batch, mixture, epoch, &steps);
        struct step_info info;
        if (mixture_positions(mixture, epoch) == 0)
            assert_fails(loader_next_step(loader, &info), LORAD_DATA, "the data ends");
        loader_close(loader);
        struct run_length length;
        assert_ok(loader_measure(&length, s.dataset, &s.options, 3));
        assert_int_equal(length.steps, steps);
        assert_true(length.epochs == (double)epoch);
        mixture_destroy(mixture);
        drop_scene(&s);
    }
}

/* From any cursor, with any number of threads and at any rank, a run goes on as the whole run did. */
static void every_place_leads_to_the_same_rest(void **state)
{
    (void)state;
    for (uint64_t seed = 100; seed < 100 + rounds(12); seed++) {
        struct scene s;
        make_scene(&s, seed);
        struct record *whole = record_steps(s.dataset, &s.options, (struct data_cursor){0}, 150);
        for (uint64_t k = 0; k < 6; k++) {
            struct loader_options options = s.options;
            options.threads = (int32_t)draw(seed, 200 + k, 5);
            options.prefetch = 1 + (int32_t)draw(seed, 300 + k, 6);
            int32_t at = (int32_t)draw(seed, 400 + k, (uint32_t)whole->n_steps), rest = whole->n_steps - at;
            struct record *part = record_steps(s.dataset, &options, whole->before[at], rest < 40 ? rest : 40);
            assert_same_steps(part, whole, at);
            free(part);
        }
        for (int32_t rank = 0; rank < 3; rank++) {
            struct loader_options options = s.options;
            options.dp_rank = rank;
            options.dp_size = 3;
            struct record *part = record_steps(s.dataset, &options, (struct data_cursor){0}, whole->n_steps);
            for (int32_t step = 0; step < part->n_steps; step++)
                for (int32_t i = 0; i < part->step[step].my_micro_batches; i++)
                    assert_true(part->hash[part->first_batch[step] + i] ==
                                whole->hash[whole->first_batch[step] + rank + 3 * i]);
            free(part);
        }
        free(whole);
        drop_scene(&s);
    }
}

/* ---- holes ---- */

static void windows_of_holes_are_passed_over(void **state)
{
    (void)state;
    enum { ROWS = 6 * ORDER_WINDOW };
    int32_t *lengths = calloc(ROWS, sizeof *lengths);
    const int kept[] = {ORDER_WINDOW + 7, ORDER_WINDOW + 4000, 4 * ORDER_WINDOW + 1}; /* of windows 1 and 4 */
    for (int i = 0; i < 3; i++) lengths[kept[i]] = 10 + i;
    struct dataset *dataset = synthetic_dataset_of(&(struct synthetic_rows){.lengths = lengths, .n = ROWS});
    struct loader_options options = {
        .cutoff_len = 12, .micro_batch_size = 1, .global_batch_size = 1, .dp_size = 1};
    for (int packing = 0; packing < 2; packing++) {
        options.packing = packing;
        struct record *record = record_steps(dataset, &options, (struct data_cursor){0}, 7);
        for (int step = 0; step < 7; step++) {
            assert_int_equal(record->step[step].tokens, 10 + step % 3);
            assert_int_equal(record->step[step].last_of_epoch, step % 3 == 2);
            assert_int_equal(record->step[step].after.epoch, (step + 1) / 3);
        }
        for (int64_t window = 0; window < 6; window++) { /* a cursor may name a window of holes */
            struct record *rest = record_steps(dataset, &options, (struct data_cursor){0, window, 0}, 2);
            assert_same_steps(rest, record, window < 2 ? 0 : window < 5 ? 2 : 3);
            free(rest);
        }
        free(record);
    }
    int64_t steps;
    assert_ok(loader_count_steps(&steps, dataset, &options, 2));
    assert_int_equal(steps, 6);
    dataset_close(dataset);

    memset(lengths, 0, ROWS * sizeof *lengths);
    dataset = synthetic_dataset_of(&(struct synthetic_rows){.lengths = lengths, .n = ROWS});
    struct loader *loader;
    assert_fails(loader_open(&loader, dataset, &options, (struct data_cursor){0}), LORAD_DATA,
                 "were rejected");
    assert_fails(loader_count_steps(&steps, dataset, &options, 2), LORAD_DATA, "were rejected");
    dataset_close(dataset);
    free(lengths);
}

/* ---- growing datasets ---- */

struct preparing {
    struct synthetic_growth *growth;
    const struct mixture *mixture;
    int64_t fail_at; /* -1: never */
};

/* In the order of epoch 0, some rows at a time, then the rest. */
static void *prepare_rows(void *argument)
{
    struct preparing *p = argument;
    int64_t positions = mixture_positions(p->mixture, 0);
    for (int64_t at = 0; at < positions; at += 597) {
        int64_t rows[597];
        int32_t n = positions - at < 597 ? (int32_t)(positions - at) : 597;
        if (p->fail_at >= 0 && at >= p->fail_at) {
            synthetic_finish(p->growth, LORAD_IO);
            return NULL;
        }
        mixture_rows(p->mixture, 0, at, n, rows);
        synthetic_prepare(p->growth, rows, n);
    }
    synthetic_finish(p->growth, LORAD_OK);
    return NULL;
}

static void a_growing_dataset_serves_the_same(void **state)
{
    (void)state;
    for (uint64_t seed = 200; seed < 200 + rounds(6); seed++) {
        struct scene s;
        make_scene(&s, seed);
        struct mixture *mixture = mixture_of(&s);
        struct record *whole = record_steps(s.dataset, &s.options, (struct data_cursor){0}, 150);
        struct dataset *growing = NULL;
        struct preparing preparing = {synthetic_grow(&s.rows, &growing), mixture, -1};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, prepare_rows, &preparing), 0);
        s.options.threads = 2;
        struct record *followed = record_steps(growing, &s.options, (struct data_cursor){0}, whole->n_steps);
        assert_int_equal(followed->n_steps, whole->n_steps);
        assert_same_steps(followed, whole, 0);
        pthread_join(thread, NULL);
        dataset_close(growing);
        free(followed);
        free(whole);
        mixture_destroy(mixture);
        drop_scene(&s);
    }
}

static void failed_preparing_ends_the_run_and_closing_does_not_wait(void **state)
{
    (void)state;
    struct scene s;
    make_scene(&s, 220);
    struct mixture *mixture = mixture_of(&s);
    for (int how = 0; how < 2; how++) {
        struct dataset *growing = NULL;
        struct preparing preparing = {synthetic_grow(&s.rows, &growing), mixture, ORDER_WINDOW + 200};
        pthread_t thread;
        s.options.shuffle = true;
        assert_int_equal(pthread_create(&thread, NULL, prepare_rows, &preparing), 0);
        struct loader *loader;
        struct step_info info;
        struct micro_batch batch;
        assert_ok(loader_open(&loader, growing, &s.options, (struct data_cursor){0}));
        enum status status = LORAD_OK;
        int64_t steps = 0;
        while (how == 0 && (status = loader_next_step(loader, &info)) == LORAD_OK && ++steps)
            for (int32_t i = 0; i < info.my_micro_batches; i++) assert_ok(loader_next(loader, &batch));
        if (how == 0) {
            assert_int_equal(status, LORAD_IO);
            assert_true(steps > 0);
            assert_non_null(strstr(status_message(), "preparing failed"));
            assert_int_equal(loader_next_step(loader, &info), LORAD_IO);
        }
        pthread_join(thread, NULL);
        loader_close(loader);
        dataset_close(growing);
    }
    /* Nobody prepares the second window, and the loader is closed all the same. */
    struct dataset *growing = NULL;
    struct synthetic_growth *growth = synthetic_grow(&s.rows, &growing);
    int64_t rows[ORDER_WINDOW];
    mixture_rows(mixture, 0, 0, ORDER_WINDOW, rows);
    synthetic_prepare(growth, rows, ORDER_WINDOW);
    struct loader *loader;
    assert_ok(loader_open(&loader, growing, &s.options, (struct data_cursor){0}));
    usleep(20000);
    loader_close(loader);
    synthetic_finish(growth, LORAD_IO);
    dataset_close(growing);
    mixture_destroy(mixture);
    drop_scene(&s);
}

/* ---- rows one by one ---- */

static int64_t padded_tokens(struct dataset *dataset, const struct loader_options *options, int64_t *tokens)
{
    struct loader *loader;
    struct step_info info = {0};
    struct micro_batch batch;
    int64_t padded = 0, rows = 0;
    *tokens = 0;
    assert_ok(loader_open(&loader, dataset, options, (struct data_cursor){0}));
    while (!info.last_of_epoch) {
        assert_ok(loader_next_step(loader, &info));
        assert_true(info.packs == options->global_batch_size || info.last_of_epoch);
        for (int32_t i = 0; i < info.my_micro_batches; i++) {
            assert_ok(loader_next(loader, &batch));
            padded += (int64_t)batch.longest * batch.n_sequences;
            *tokens += batch.n_tokens;
            rows += batch.n_sequences;
        }
    }
    assert_true(rows > 0);
    loader_close(loader);
    return padded;
}

static void micro_batches_of_rows_have_similar_lengths(void **state)
{
    (void)state;
    enum { ROWS = 20000 };
    int32_t *lengths = synthetic_lengths(ROWS, 8, 512, 3);
    for (int i = 0; i < ROWS; i += 7) lengths[i] = 0;
    struct dataset *dataset = synthetic_dataset_of(&(struct synthetic_rows){.lengths = lengths, .n = ROWS});
    const int64_t batches[][2] = {{8, 64}, {8, 8}, {7, 50}, {16, 1000}};
    for (size_t k = 0; k < sizeof batches / sizeof *batches; k++) {
        struct loader_options options = {.data_seed = 4,
                                         .shuffle = true,
                                         .cutoff_len = 512,
                                         .micro_batch_size = (int32_t)batches[k][0],
                                         .global_batch_size = batches[k][1],
                                         .dp_size = 1};
        int64_t tokens, padded = padded_tokens(dataset, &options, &tokens);
        printf("micro-batches of %d rows, steps of %lld: %.2f %% padding\n", options.micro_batch_size,
               (long long)options.global_batch_size, 100.0 * (double)(padded - tokens) / (double)padded);
        assert_true((double)(padded - tokens) < 0.03 * (double)padded);
    }
    dataset_close(dataset);
    free(lengths);
}

/* ---- the end of a run, and what comes behind it ---- */

static void tokens_are_measured_to_the_step(void **state)
{
    (void)state;
    for (uint64_t seed = 300; seed < 300 + rounds(5); seed++) {
        struct scene s;
        make_scene(&s, seed);
        struct record *whole = record_steps(s.dataset, &s.options, (struct data_cursor){0}, 150);
        int64_t tokens = 0;
        for (int32_t step = 0; step < whole->n_steps; step++) {
            struct run_length length;
            int64_t before = tokens;
            tokens += whole->step[step].tokens;
            if (step % 29 != 0 && step + 1 != whole->n_steps) continue;
            assert_ok(loader_measure_tokens(&length, s.dataset, &s.options, tokens));
            assert_int_equal(length.steps, step + 1);
            assert_int_equal(length.tokens, tokens);
            assert_true(length.epochs == whole->step[step].epoch);
            assert_ok(loader_measure_tokens(&length, s.dataset, &s.options, before + 1));
            assert_int_equal(length.steps, step + 1);
        }
        free(whole);
        drop_scene(&s);
    }
}

/* A run whose data grew goes on where it stood, with the rest of its epoch as it was, and then with what is
 * new. */
static void added_rows_follow_the_epoch_in_progress(void **state)
{
    (void)state;
    enum { OLD = 5000, ADDED = 700, ROWS = OLD + ADDED };
    int32_t *lengths = synthetic_lengths(ROWS, 4, 128, 8);
    struct loader_options options = {.data_seed = 1,
                                     .shuffle = true,
                                     .cutoff_len = 128,
                                     .micro_batch_size = 4,
                                     .global_batch_size = 64,
                                     .dp_size = 1};
    for (int packing = 0; packing < 2; packing++) {
        options.packing = packing;
        struct dataset *old = synthetic_dataset_of(&(struct synthetic_rows){.lengths = lengths, .n = OLD});
        struct dataset *now = synthetic_dataset_of(&(struct synthetic_rows){.lengths = lengths, .n = ROWS});
        struct record *before = record_steps(old, &options, (struct data_cursor){0}, packing ? 30 : 100);
        const int64_t sizes[] = {OLD};
        struct data_cursor at = before->step[9].after;
        assert_int_equal(at.epoch, 0);
        struct mixture_append append = {data_cursor_append_epoch(at), sizes};
        assert_int_equal(append.epoch, 1);
        options.appends = &append;
        options.n_appends = 1;
        struct record *after = record_steps(now, &options, at, packing ? 60 : 300);
        int32_t step = 0;
        for (; after->step[step].after.epoch == 0; step++)
            assert_true(after->step[step].tokens == before->step[10 + step].tokens);
        step++;
        int32_t same = after->n_steps;
        after->n_steps = step;
        assert_same_steps(after, before, 10);
        after->n_steps = same;
        int64_t tokens = 0, expected = 0;
        for (int i = OLD; i < ROWS; i++) expected += lengths[i];
        for (; after->step[step].epoch <= 2 && tokens < expected; step++) tokens += after->step[step].tokens;
        assert_int_equal(tokens, expected);
        assert_true(after->step[step - 1].last_of_epoch);
        assert_int_equal(data_cursor_append_epoch(after->step[step - 1].after), 2);
        options.appends = NULL;
        options.n_appends = 0;
        free(before);
        free(after);
        dataset_close(old);
        dataset_close(now);
    }
    free(lengths);
}

/* ---- memory ---- */

static atomic_int blocks;

static void *count_alloc(void *context, size_t n_bytes)
{
    atomic_fetch_add(&blocks, 1);
    assert_ptr_equal(context, &blocks);
    return calloc(n_bytes, 1);
}

static void count_free(void *context, void *memory, size_t n_bytes)
{
    (void)context;
    memset(memory, 0, n_bytes);
    free(memory);
    atomic_fetch_sub(&blocks, 1);
}

static void batches_are_lent_from_the_memory_of_the_caller(void **state)
{
    (void)state;
    struct scene s;
    make_scene(&s, 401);
    struct micro_batch lent, other;
    const struct host_allocator host = {count_alloc, count_free, &blocks};
    struct loader_options options = s.options;
    options.host = &host;
    for (int32_t prefetch = 1; prefetch < 4; prefetch++) {
        options.prefetch = prefetch;
        struct loader *a, *b;
        struct step_info of_a, of_b;
        assert_ok(loader_open(&a, s.dataset, &options, (struct data_cursor){0}));
        assert_ok(loader_open(&b, s.dataset, &s.options, (struct data_cursor){0}));
        assert_int_equal(blocks, prefetch);
        for (int step = 0; step < 20; step++) {
            assert_ok(loader_next_step(a, &of_a));
            assert_ok(loader_next_step(b, &of_b));
            for (int32_t i = 0; i < of_a.my_micro_batches; i++) {
                assert_ok(loader_next(a, &lent));
                assert_ok(loader_next(b, &other));
                assert_true(batch_hash(&lent) == batch_hash(&other));
                assert_ptr_not_equal(lent.tokens, other.tokens);
            }
        }
        assert_ok(loader_next(a, &lent));
        assert_int_equal(lent.n_tokens, 0);
        loader_close(a);
        loader_close(b);
        assert_int_equal(blocks, 0);
    }
    drop_scene(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_epoch_serves_what_the_mixture_says),
        cmocka_unit_test(every_place_leads_to_the_same_rest),
        cmocka_unit_test(windows_of_holes_are_passed_over),
        cmocka_unit_test(a_growing_dataset_serves_the_same),
        cmocka_unit_test(failed_preparing_ends_the_run_and_closing_does_not_wait),
        cmocka_unit_test(micro_batches_of_rows_have_similar_lengths),
        cmocka_unit_test(tokens_are_measured_to_the_step),
        cmocka_unit_test(added_rows_follow_the_epoch_in_progress),
        cmocka_unit_test(batches_are_lent_from_the_memory_of_the_caller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
