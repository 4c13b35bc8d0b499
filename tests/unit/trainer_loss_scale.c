/* The loss scale of fp16: how it moves and what it multiplies. What a step makes of it: parity/loss_scale. */
#include <math.h>

#include "support/test.h"
#include "trainer/loss_scale.h"

static void it_falls_at_once_and_rises_slowly(void **state)
{
    (void)state;
    const struct loss_scale_options options = {.initial_power = 3, .window = 5};
    struct loss_scale scale = loss_scale_first(&options);
    assert_true(scale.value == 8 && scale.good_steps == 0);
    for (int i = 0; i < 4; i++) loss_scale_went_well(&scale, &options);
    assert_true(scale.value == 8 && scale.good_steps == 4);
    loss_scale_overflowed(&scale);
    assert_true(scale.value == 4 && scale.good_steps == 0);
    for (int i = 0; i < 5; i++) loss_scale_went_well(&scale, &options);
    assert_true(scale.value == 8 && scale.good_steps == 0);
    for (int i = 0; i < 3; i++) {
        assert_true(loss_scale_can_fall(&scale));
        loss_scale_overflowed(&scale);
    }
    assert_true(scale.value == 1);
    assert_false(loss_scale_can_fall(&scale));
    for (int i = 0; i < 40 * 5; i++) loss_scale_went_well(&scale, &options);
    assert_true(scale.value == 0x1p24);
}

/* A power of two, which takes the mean's divisor along. */
static void what_it_multiplies(void **state)
{
    (void)state;
    struct loss_scale scale = {.value = 1024};
    assert_true(loss_scale_factor(&scale, 1) == 1024);
    assert_true(loss_scale_factor(&scale, 64) == 16);
    assert_true(loss_scale_factor(&scale, 65) == 8);
    assert_true(loss_scale_factor(&scale, 0.3) == 2048);
    assert_true(loss_scale_factor(&scale, 0) == 1024);
    assert_true(loss_scale_factor(&(struct loss_scale){0}, 65) == 1);
}

static void what_a_run_can_have(void **state)
{
    (void)state;
    assert_true(loss_scale_is_valid(&(struct loss_scale){1, 0}));
    assert_true(loss_scale_is_valid(&(struct loss_scale){0x1p24, 999}));
    const struct loss_scale bad[] = {{0, 0},  {0.5, 0}, {3, 0},        {0x1p25, 0},
                                     {-2, 0}, {NAN, 0}, {INFINITY, 0}, {2, -1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(loss_scale_is_valid(&bad[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_falls_at_once_and_rises_slowly),
        cmocka_unit_test(what_it_multiplies),
        cmocka_unit_test(what_a_run_can_have),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
