#include "support/test.h"

#include <math.h>

#include "base/hash.h"
#include "base/random.h"
#include "dataloader/mixture.h"
#include "dataloader/sampler.h"

enum { MOST_GROUPS = 12 };

static struct mixture *new_mixture(const struct mixture_group *groups, int32_t n, enum mix_strategy strategy,
                                   uint64_t seed)
{
    struct mixture *mixture = NULL;
    const struct mixture_options options = {.strategy = strategy, .seed = seed, .shuffle = true};
    assert_ok(mixture_create(&mixture, groups, n, &options));
    return mixture;
}

/* Adds one to seen[row] for every position of an epoch. */
static void count_epoch(const struct mixture *mixture, int64_t epoch, int *seen)
{
    int64_t n = mixture_positions(mixture, epoch);
    int64_t *rows = calloc((size_t)n + 1, sizeof *rows);
    mixture_rows(mixture, epoch, 0, (int32_t)n, rows);
    for (int64_t i = 0; i < n; i++) seen[rows[i]]++;
    free(rows);
}

static void one_group_is_a_permutation_an_epoch(void **state)
{
    (void)state;
    const int64_t sizes[] = {1, 5, 689, 1024, 5000};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            struct mixture *mixture =
                new_mixture(&(struct mixture_group){.n_rows = sizes[k], .weight = 1}, 1, MIX_CONCAT, 42);
            struct permutation permutation;
            permutation_init(&permutation, (uint64_t)sizes[k],
                             random_key(42, RANDOM_ROW_ORDER, (uint64_t)epoch, 0, 0));
            assert_int_equal(mixture_positions(mixture, epoch), sizes[k]);
            for (int64_t i = 0; i < sizes[k]; i++)
                assert_int_equal(mixture_row(mixture, epoch, i), permutation_at(&permutation, (uint64_t)i));
            mixture_destroy(mixture);
        }
}

/* Groups of random sizes, weights and limits. */
static int32_t random_groups(struct mixture_group *groups, uint64_t seed, int64_t *n_rows)
{
    struct random_block r = random_philox(seed, RANDOM_TEST, 0);
    int32_t n = 1 + (int32_t)(r.word[0] % MOST_GROUPS);
    *n_rows = 0;
    for (int32_t g = 0; g < n; g++) {
        r = random_philox(seed, RANDOM_TEST, 1 + (uint64_t)g);
        int64_t rows = 1 + (int64_t)(r.word[0] % (r.word[1] % 3 ? 60 : 3000));
        double weight = (1 + (double)(r.word[2] % 40)) / 10;
        groups[g] = (struct mixture_group){.first_row = *n_rows, .n_rows = rows, .weight = weight};
        while (groups[g].weight * (double)rows < 1) groups[g].weight++;
        if (r.word[3] % 4 == 0) groups[g].max_epochs = (1 + (double)(r.word[3] / 4 % 30)) / 8;
        if (r.word[3] % 16 == 15 && g > 0) groups[g].weight = 0;
        *n_rows += rows;
    }
    return n;
}

static int32_t group_of(const struct mixture_group *groups, int64_t row)
{
    int32_t g = 0;
    while (row >= groups[g].first_row + groups[g].n_rows) g++;
    return g;
}

/* Everything that is promised of an epoch, whatever the parameters: its rows are the next draws of every
 * group, passes are whole before the next begins, every block has every group's share to within rounding. */
static void quotas_are_exact(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 150; seed++) {
        struct mixture_group groups[MOST_GROUPS];
        int64_t n_rows, drawn[MOST_GROUPS] = {0};
        int32_t n = random_groups(groups, seed, &n_rows);
        enum mix_strategy strategy = (enum mix_strategy)(seed % 3);
        struct mixture *mixture = NULL;
        const struct mixture_options options = {
            .strategy = strategy, .seed = seed, .stage = seed % 5, .shuffle = true};
        if (mixture_create(&mixture, groups, n, &options) != LORAD_OK) {
            assert_non_null(strstr(status_message(), "less than one of its"));
            continue;
        }
        int *seen = calloc((size_t)n_rows, sizeof *seen);
        for (int64_t epoch = 0; epoch < 4; epoch++) {
            int64_t positions = mixture_positions(mixture, epoch), of_epoch[MOST_GROUPS] = {0};
            int64_t *rows = calloc((size_t)positions + 1, sizeof *rows);
            mixture_rows(mixture, epoch, 0, (int32_t)positions, rows);
            for (int64_t i = 0; i < positions; i++) {
                of_epoch[group_of(groups, rows[i])]++;
                seen[rows[i]]++;
            }
            int64_t before[MOST_GROUPS] = {0};
            for (int64_t i = 0; i < positions; i++) {
                if (i % MIXTURE_BLOCK == 0)
                    for (int32_t g = 0; g < n; g++) {
                        double exact = (double)of_epoch[g] * (double)i / (double)positions;
                        assert_true(fabs((double)before[g] - exact) <= (n + 1) / 2.0);
                    }
                before[group_of(groups, rows[i])]++;
                if (i % 37 == 0) assert_int_equal(mixture_row(mixture, epoch, i), rows[i]);
            }
            free(rows);
            for (int32_t g = 0; g < n; g++) {
                drawn[g] += of_epoch[g];
                if (groups[g].max_epochs > 0)
                    assert_true((double)drawn[g] <= groups[g].max_epochs * (double)groups[g].n_rows + 0.5);
                if (strategy == MIX_CONCAT && groups[g].max_epochs == 0)
                    assert_true(fabs((double)drawn[g] - (double)(epoch + 1) * groups[g].weight *
                                                            (double)groups[g].n_rows) <= 0.501);
            }
        }
        for (int64_t row = 0; row < n_rows; row++) {
            int32_t g = group_of(groups, row);
            int64_t least = drawn[g] / groups[g].n_rows;
            assert_true(seen[row] == least || (seen[row] == least + 1 && drawn[g] % groups[g].n_rows > 0));
        }
        free(seen);
        mixture_destroy(mixture);
    }
}

static void weights_count_rows(void **state)
{
    (void)state;
    const struct mixture_group groups[] = {
        {0, 701, 1, 0}, {701, 333, 0.5, 0}, {1034, 50, 2, 0}, {1084, 900, 1.7, 0}, {1984, 10, 0, 0}};
    struct mixture *mixture = new_mixture(groups, 5, MIX_CONCAT, 7);
    assert_int_equal(mixture_positions(mixture, 0), 701 + 167 + 100 + 1530);
    assert_int_equal(mixture_positions(mixture, 1), 701 + 166 + 100 + 1530);
    int seen[1994] = {0};
    for (int64_t epoch = 0; epoch < 2; epoch++) {
        int once[1994] = {0};
        count_epoch(mixture, epoch, once);
        for (int row = 0; row < 1994; row++) {
            seen[row] += once[row];
            if (row < 701) assert_int_equal(once[row], 1);
            if (row >= 701 && row < 1034) assert_in_range(once[row], 0, 1);
            if (row >= 1034 && row < 1084) assert_int_equal(once[row], 2);
            if (row >= 1084 && row < 1984) assert_in_range(once[row], 1, 3);
            if (row >= 1984) assert_int_equal(once[row], 0);
        }
    }
    for (int row = 701; row < 1034; row++) assert_int_equal(seen[row], 1); /* both halves together */
    for (int row = 1084; row < 1984; row++) assert_in_range(seen[row], 3, 4);
    mixture_destroy(mixture);
}

static void interleaving_ends_with_the_first_or_the_last_group(void **state)
{
    (void)state;
    /* 0.5 : 0.3 : 0.2, given without being normalised. Passes of 1000/0.5, 900/0.3 and 100/0.2 positions. */
    const struct mixture_group groups[] = {{0, 1000, 5, 0}, {1000, 900, 3, 0}, {1900, 100, 2, 0}};
    struct mixture *under = new_mixture(groups, 3, MIX_INTERLEAVE_UNDER, 1);
    struct mixture *over = new_mixture(groups, 3, MIX_INTERLEAVE_OVER, 1);
    assert_int_equal(mixture_positions(under, 0), 500);
    assert_int_equal(mixture_positions(over, 0), 3000);
    int seen[2000] = {0}, drawn[3] = {0};
    count_epoch(under, 0, seen);
    for (int row = 0; row < 2000; row++) drawn[group_of(groups, row)] += seen[row];
    assert_int_equal(drawn[0], 250);
    assert_int_equal(drawn[1], 150);
    assert_int_equal(drawn[2], 100);
    for (int row = 1900; row < 2000; row++) assert_int_equal(seen[row], 1);
    memset(seen, 0, sizeof seen);
    count_epoch(over, 0, seen);
    for (int row = 0; row < 1000; row++) assert_in_range(seen[row], 1, 2);
    for (int row = 1000; row < 1900; row++) assert_int_equal(seen[row], 1);
    for (int row = 1900; row < 2000; row++) assert_int_equal(seen[row], 6);
    mixture_destroy(under);
    mixture_destroy(over);
}

static void limits_end_groups_and_then_the_run(void **state)
{
    (void)state;
    const struct mixture_group groups[] = {{0, 100, 1, 1.5}, {100, 200, 0.5, 1}};
    struct mixture *mixture = new_mixture(groups, 2, MIX_CONCAT, 3);
    assert_int_equal(mixture_positions(mixture, 0), 200);
    assert_int_equal(mixture_positions(mixture, 1), 150);
    assert_int_equal(mixture_positions(mixture, 2), 0);
    assert_int_equal(mixture_positions(mixture, 1000), 0);
    assert_int_equal(mixture_positions(mixture, -1), 0);
    int seen[300] = {0};
    count_epoch(mixture, 0, seen);
    count_epoch(mixture, 1, seen);
    for (int row = 0; row < 100; row++) assert_in_range(seen[row], 1, 2);
    for (int row = 100; row < 300; row++) assert_int_equal(seen[row], 1);
    mixture_destroy(mixture);
}

/* A block holds its groups in no order: the first half has about half of each. */
static void blocks_are_mixed(void **state)
{
    (void)state;
    const struct mixture_group groups[] = {{0, 20000, 1, 0}, {20000, 20000, 1, 0}};
    struct mixture *mixture = new_mixture(groups, 2, MIX_CONCAT, 5);
    int64_t rows[MIXTURE_BLOCK], first_half = 0;
    for (int64_t block = 0; block < 39; block++) {
        int of_first = 0;
        mixture_rows(mixture, 0, block * MIXTURE_BLOCK, MIXTURE_BLOCK, rows);
        for (int i = 0; i < MIXTURE_BLOCK; i++) of_first += rows[i] < 20000;
        for (int i = 0; i < MIXTURE_BLOCK / 2; i++) first_half += rows[i] < 20000;
        assert_int_equal(of_first, 512);
    }
    /* hypergeometric: variance of one block 64, of 39 blocks 2496: five standard deviations are 250 */
    assert_in_range(first_half, 39 * 256 - 250, 39 * 256 + 250);
    mixture_destroy(mixture);
}

static void large_counts_do_not_overflow(void **state)
{
    (void)state;
    int64_t size = (int64_t)1 << 37, last = MIXTURE_MOST_EPOCHS - 1;
    const struct mixture_group groups[] = {
        {0, size, 1.7, 0}, {size, size, 0.3, 0}, {2 * size, size + 12345, 4.5, 0}};
    for (enum mix_strategy strategy = MIX_CONCAT; strategy <= MIX_INTERLEAVE_OVER; strategy++) {
        struct mixture *mixture = new_mixture(groups, 3, strategy, 11);
        int64_t positions = mixture_positions(mixture, last), drawn[3] = {0};
        if (strategy == MIX_CONCAT) assert_in_range(positions, 6.4999 * (double)size, 6.5001 * (double)size);
        for (int64_t k = 0; k < 2000; k++) {
            int64_t at = (int64_t)((double)k / 2000 * (double)(positions - 1)),
                    row = mixture_row(mixture, last, at), same;
            assert_true(row >= 0 && row < 3 * size + 12345);
            drawn[group_of(groups, row)]++;
            mixture_rows(mixture, last, at, 1, &same);
            assert_int_equal(same, row);
        }
        assert_in_range(drawn[2], 4.5 / 6.5 * 2000 - 110, 4.5 / 6.5 * 2000 + 110);
        mixture_destroy(mixture);
    }
}

static void without_shuffle_rows_follow_their_numbers(void **state)
{
    (void)state;
    const struct mixture_group groups[] = {{0, 3, 0.5, 1}, {3, 0, 1, 0}, {3, 5, 9, 0}};
    struct mixture *mixture = NULL;
    const struct mixture_options options = {.strategy = MIX_INTERLEAVE_OVER, .seed = 1};
    assert_ok(mixture_create(&mixture, groups, 3, &options));
    for (int64_t epoch = 0; epoch < 5; epoch++) {
        int64_t rows[8];
        assert_int_equal(mixture_positions(mixture, epoch), 8);
        mixture_rows(mixture, epoch, 0, 8, rows);
        for (int64_t i = 0; i < 8; i++) {
            assert_int_equal(rows[i], i);
            assert_int_equal(mixture_row(mixture, epoch, i), i);
        }
    }
    mixture_destroy(mixture);
}

/* Rows of a run before and after additions, in the numbers of the group: what was is not changed, what is new
 * comes once, then all. */
static void added_rows_come_in_an_epoch_of_their_own(void **state)
{
    (void)state;
    const struct mixture_group old[] = {{0, 1500, 1, 0}, {1500, 800, 0.5, 0}};
    const struct mixture_group now[] = {{0, 1600, 1, 0}, {1600, 1000, 0.5, 0}, {2600, 70, 2, 0}};
    const int64_t first_sizes[] = {1500, 800, 0}, second_sizes[] = {1500, 950, 70};
    const struct mixture_append appends[] = {{2, first_sizes}, {3, second_sizes}};
    struct mixture *before = new_mixture(old, 2, MIX_CONCAT, 9), *after = NULL;
    const struct mixture_options options = {.seed = 9, .shuffle = true, .appends = appends, .n_appends = 2};
    assert_ok(mixture_create(&after, now, 3, &options));
    for (int64_t epoch = 0; epoch < 2; epoch++) {
        int64_t n = mixture_positions(before, epoch);
        assert_int_equal(mixture_positions(after, epoch), n);
        for (int64_t i = 0; i < n; i++) {
            int64_t row = mixture_row(before, epoch, i);
            assert_int_equal(mixture_row(after, epoch, i), row < 1500 ? row : row + 100);
        }
    }
    int seen[2670] = {0};
    count_epoch(after, 2, seen);
    for (int row = 0; row < 2670; row++)
        assert_int_equal(seen[row], (row >= 2400 && row < 2550) || row >= 2600);
    count_epoch(after, 3, seen);
    for (int row = 0; row < 2670; row++)
        assert_int_equal(seen[row], (row >= 1500 && row < 1600) || row >= 2400);
    memset(seen, 0, sizeof seen);
    count_epoch(after, 4, seen);
    count_epoch(after, 5, seen);
    for (int row = 0; row < 2670; row++) assert_int_equal(seen[row], row < 1600 ? 2 : row < 2600 ? 1 : 4);
    mixture_destroy(before);
    mixture_destroy(after);
}

/* Epochs drawn before rows were added count for max_epochs, and so do the new rows' own epochs. */
static void limits_hold_over_additions(void **state)
{
    (void)state;
    const struct mixture_group now[] = {{0, 150, 1, 2}};
    const int64_t sizes[] = {100};
    struct mixture *mixture = NULL;
    const struct mixture_append append = {1, sizes};
    const struct mixture_options options = {.seed = 9, .shuffle = true, .appends = &append, .n_appends = 1};
    assert_ok(mixture_create(&mixture, now, 1, &options));
    const int64_t expected[] = {100, 50, 150, 0};
    for (int64_t epoch = 0; epoch < 4; epoch++)
        assert_int_equal(mixture_positions(mixture, epoch), expected[epoch]);
    mixture_destroy(mixture);
}

static void what_makes_no_sense_is_refused(void **state)
{
    (void)state;
    struct mixture *mixture = NULL;
    struct mixture_options options = {.shuffle = true};
    assert_fails(mixture_create(&mixture, &(struct mixture_group){0, 0, 1, 0}, 1, &options), LORAD_DATA,
                 "no rows");
    assert_fails(mixture_create(&mixture, &(struct mixture_group){0, 5, 0, 0}, 1, &options), LORAD_DATA,
                 "weight 0");
    assert_fails(mixture_create(&mixture, &(struct mixture_group){0, 5, -1, 0}, 1, &options), LORAD_CONFIG,
                 "weight is -1");
    assert_fails(mixture_create(&mixture, &(struct mixture_group){0, 5, NAN, 0}, 1, &options), LORAD_CONFIG,
                 "weight");
    assert_fails(mixture_create(&mixture, &(struct mixture_group){0, 5, 1, -2}, 1, &options), LORAD_CONFIG,
                 "epochs are -2");
    assert_fails(mixture_create(&mixture, &(struct mixture_group){0, 5, 0.1, 0}, 1, &options), LORAD_CONFIG,
                 "less than one of its 5 rows");
    const struct mixture_group extreme[] = {{0, 1, 1e-300, 0}, {1, 1, 1e6, 0}};
    options.strategy = MIX_INTERLEAVE_OVER;
    assert_fails(mixture_create(&mixture, extreme, 2, &options), LORAD_CONFIG, "an epoch has more than");
    options.strategy = MIX_CONCAT;
    options.n_appends = 1;
    const int64_t all[] = {5}, more[] = {6};
    options.appends = &(struct mixture_append){1, all};
    assert_fails(mixture_create(&mixture, &(struct mixture_group){0, 5, 1, 0}, 1, &options), LORAD_DATA,
                 "was added");
    options.appends = &(struct mixture_append){1, more};
    assert_fails(mixture_create(&mixture, &(struct mixture_group){0, 5, 1, 0}, 1, &options), LORAD_DATA,
                 "had 6 rows");
    options.appends = &(struct mixture_append){-1, more};
    assert_fails(mixture_create(&mixture, &(struct mixture_group){0, 5, 1, 0}, 1, &options), LORAD_DATA,
                 "epoch -1");
}

/* Checkpoints hold positions in this order, so it may never change. */
static void the_order_is_frozen(void **state)
{
    (void)state;
    const struct mixture_group groups[] = {{0, 700, 1, 0}, {700, 900, 0.5, 0}, {1600, 300, 1.7, 2}};
    const int64_t sizes[] = {700, 900, 250};
    const struct mixture_append append = {3, sizes};
    struct hash_stream *stream;
    assert_ok(hash_stream_create(&stream));
    for (int32_t strategy = 0; strategy < 3; strategy++) {
        struct mixture *mixture = NULL;
        const struct mixture_options options = {
            (enum mix_strategy)strategy, 42, (uint64_t)strategy, true, &append, 1};
        assert_ok(mixture_create(&mixture, groups, 3, &options));
        for (int64_t epoch = 0; epoch < 6; epoch++) {
            int64_t n = mixture_positions(mixture, epoch);
            int64_t *rows = calloc((size_t)n + 1, sizeof *rows);
            mixture_rows(mixture, epoch, 0, (int32_t)n, rows);
            hash_stream_add(stream, rows, (size_t)n * sizeof *rows);
            free(rows);
        }
        mixture_destroy(mixture);
    }
    char hex[33];
    hash128_hex(hash_stream_value(stream), hex);
    assert_string_equal(hex, "cb66c9fa49b3aacc30a1466551ab35d0");
    hash_stream_destroy(stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_group_is_a_permutation_an_epoch),
        cmocka_unit_test(quotas_are_exact),
        cmocka_unit_test(weights_count_rows),
        cmocka_unit_test(interleaving_ends_with_the_first_or_the_last_group),
        cmocka_unit_test(limits_end_groups_and_then_the_run),
        cmocka_unit_test(blocks_are_mixed),
        cmocka_unit_test(large_counts_do_not_overflow),
        cmocka_unit_test(without_shuffle_rows_follow_their_numbers),
        cmocka_unit_test(added_rows_come_in_an_epoch_of_their_own),
        cmocka_unit_test(limits_hold_over_additions),
        cmocka_unit_test(what_makes_no_sense_is_refused),
        cmocka_unit_test(the_order_is_frozen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
