#include "support/test.h"

#include <math.h>

#include "base/random.h"
#include "dataloader/sampler.h"

static void every_number_comes_once(void **state)
{
    (void)state;
    const uint64_t sizes[] = {1, 2, 3, 5, 31, 255, 256, 257, 1000, 4096, 65537, 300000};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (uint64_t key = 0; key < 3; key++) {
            struct permutation permutation;
            uint8_t *seen = calloc(sizes[k], 1);
            permutation_init(&permutation, sizes[k], key);
            for (uint64_t i = 0; i < sizes[k]; i++) {
                uint64_t value = permutation_at(&permutation, i);
                assert_true(value < sizes[k] && !seen[value]);
                seen[value] = 1;
            }
            free(seen);
        }
}

static void large_domains_stay_inside_and_do_not_repeat(void **state)
{
    (void)state;
    struct permutation permutation;
    uint64_t n = ((uint64_t)1 << 40) + 12345, previous = n;
    permutation_init(&permutation, n, 7);
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t value = permutation_at(&permutation, i);
        assert_true(value < n && value != previous);
        previous = value;
    }
}

/* Over many keys each position takes each value equally often. Chi-square with (n - 1)^2 degrees of freedom
 * has mean (n - 1)^2 and variance twice that; five standard deviations hold with keys that are fixed. */
static void positions_are_uniform_over_keys(void **state)
{
    (void)state;
    enum { N = 12, KEYS = 20000 };
    static int count[N][N];
    for (uint64_t key = 0; key < KEYS; key++) {
        struct permutation permutation;
        permutation_init(&permutation, N, random_key(1, RANDOM_TEST, key, 0, 0));
        for (uint64_t i = 0; i < N; i++) count[i][permutation_at(&permutation, i)]++;
    }
    double chi_square = 0, expected = (double)KEYS / N, freedom = (N - 1) * (N - 1);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            chi_square += (count[i][j] - expected) * (count[i][j] - expected) / expected;
    assert_true(chi_square > freedom - 5 * sqrt(2 * freedom));
    assert_true(chi_square < freedom + 5 * sqrt(2 * freedom));
}

/* In one long permutation, the values of any stretch are spread over the whole range. */
static void stretches_are_spread_evenly(void **state)
{
    (void)state;
    enum { N = 1 << 17, BINS = 64, STRETCH = 4096 };
    struct permutation permutation;
    permutation_init(&permutation, N - 77, 99);
    for (uint64_t begin = 0; begin + STRETCH <= N - 77; begin += STRETCH) {
        int count[BINS] = {0};
        for (uint64_t i = 0; i < STRETCH; i++) count[permutation_at(&permutation, begin + i) * BINS / N]++;
        double chi_square = 0, expected = (double)STRETCH / BINS;
        for (int i = 0; i < BINS; i++) chi_square += (count[i] - expected) * (count[i] - expected) / expected;
        assert_true(chi_square < (BINS - 1) + 6 * sqrt(2.0 * (BINS - 1)));
    }
}

/* Neighbours land far apart, and no position keeps its value more often than chance has it (once a
 * permutation). */
static void neighbours_and_fixed_points(void **state)
{
    (void)state;
    enum { N = 5000, KEYS = 40 };
    int fixed = 0, close = 0;
    for (uint64_t key = 0; key < KEYS; key++) {
        struct permutation permutation;
        permutation_init(&permutation, N, key);
        uint64_t previous = permutation_at(&permutation, N - 1);
        for (uint64_t i = 0; i < N; i++) {
            uint64_t value = permutation_at(&permutation, i);
            fixed += value == i;
            close += value == previous + 1;
            previous = value;
        }
    }
    assert_in_range(fixed, 10, 80); /* 40 expected */
    assert_in_range(close, 10, 80);
}

static void another_key_is_another_order(void **state)
{
    (void)state;
    struct permutation a, b;
    permutation_init(&a, 1000, random_key(42, RANDOM_ROW_ORDER, 0, 0, 0));
    permutation_init(&b, 1000, random_key(42, RANDOM_ROW_ORDER, 1, 0, 0));
    int same = 0;
    for (uint64_t i = 0; i < 1000; i++) same += permutation_at(&a, i) == permutation_at(&b, i);
    assert_in_range(same, 0, 10);
}

/* Checkpoints hold positions in this order, so it may never change. */
static void the_order_is_frozen(void **state)
{
    (void)state;
    struct permutation permutation;
    permutation_init(&permutation, 689, random_key(42, RANDOM_ROW_ORDER, 0, 0, 0));
    const uint64_t expected[] = {47, 368, 299, 529, 253, 310, 672, 411};
    for (uint64_t i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_int_equal(permutation_at(&permutation, i), expected[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_comes_once),
        cmocka_unit_test(large_domains_stay_inside_and_do_not_repeat),
        cmocka_unit_test(positions_are_uniform_over_keys),
        cmocka_unit_test(stretches_are_spread_evenly),
        cmocka_unit_test(neighbours_and_fixed_points),
        cmocka_unit_test(another_key_is_another_order),
        cmocka_unit_test(the_order_is_frozen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
