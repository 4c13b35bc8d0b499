/* loss_sum.h: the same bits in any order and grouping, as near to the truth as f64, and nothing broken
 * vanishes. */
#include <math.h>
#include <string.h>

#include "base/random.h"
#include "kernels/loss_sum.h"
#include "support/test.h"

enum { ADDENDS = 10007 };

static double addend(int i)
{
    struct random_block block = random_philox(3, RANDOM_TEST, (uint64_t)i);
    double value = random_unit_f64(block.word[0], block.word[1]);
    return i % 7 == 0 ? -1e-9 * value : ldexp(value, (int)(block.word[2] % 40) - 30);
}

static struct loss_sum sum_every(int first, int step)
{
    struct loss_sum sum = {0};
    for (int i = first; i < ADDENDS; i += step) loss_sum_add(&sum, addend(i));
    return sum;
}

static void any_order_and_grouping_give_the_same_bits(void **state)
{
    (void)state;
    struct loss_sum whole = sum_every(0, 1);
    for (int ways = 2; ways <= 7; ways++) {
        struct loss_sum joined = {0};
        for (int w = ways - 1; w >= 0; w--) {
            struct loss_sum part = sum_every(w, ways);
            loss_sum_join(&joined, &part);
        }
        assert_memory_equal(&joined, &whole, sizeof whole);
    }
    struct loss_sum backwards = {0};
    for (int i = ADDENDS - 1; i >= 0; i--) loss_sum_add(&backwards, addend(i));
    assert_memory_equal(&backwards, &whole, sizeof whole);
}

static void each_addend_is_rounded_to_its_nearest_once(void **state)
{
    (void)state;
    struct loss_sum sum = sum_every(0, 1);
    long double exact = 0;
    for (int i = 0; i < ADDENDS; i++) exact += (long double)addend(i);
    assert_true(fabsl((long double)loss_sum_value(&sum) - exact) <= ADDENDS * 0x1p-41L);
    struct loss_sum one = {0};
    loss_sum_add(&one, -0x1p-45);
    assert_true(loss_sum_value(&one) == 0 && one.whole == 0);
    loss_sum_add(&one, -1.25);
    assert_true(loss_sum_value(&one) == -1.25);
    assert_true(one.fraction >= 0);
}

static void what_is_no_loss_makes_the_sum_none(void **state)
{
    (void)state;
    const double bad[] = {(double)NAN, (double)INFINITY, -(double)INFINITY, 0x1p40, -0x1p41};
    for (int i = 0; i < 5; i++) {
        struct loss_sum sum = {0}, joined = sum_every(0, 1);
        loss_sum_add(&sum, bad[i]);
        assert_true(isnan(loss_sum_value(&sum)));
        loss_sum_join(&joined, &sum);
        assert_true(isnan(loss_sum_value(&joined)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_order_and_grouping_give_the_same_bits),
        cmocka_unit_test(each_addend_is_rounded_to_its_nearest_once),
        cmocka_unit_test(what_is_no_loss_makes_the_sum_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
