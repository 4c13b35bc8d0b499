/* kernels_vec.c: vec.h as compiled here (the path of the compiler's default flags; the parity tests cover the
 * others). */
#include "kernels/cpu/vec.h"

#include <math.h>

#include "support/test.h"

static float exp_of(float x)
{
    float lane[VEC];
    vec_store(lane, vec_exp(vec_set(x)));
    return lane[0];
}

/* Every 1,001st float there is; an ulp of a subnormal result is the smallest one. */
static void exp_errs_by_two_ulp_at_most(void **state)
{
    (void)state;
    double worst = 0;
    float worst_at = 0;
    for (uint64_t i = 0; i <= UINT32_MAX; i += 1001 * VEC) {
        float x[VEC], got[VEC];
        for (uint64_t j = 0; j < VEC; j++) {
            uint32_t bits = (uint32_t)(i + 1001 * j);
            memcpy(&x[j], &bits, sizeof bits);
        }
        vec_store(got, vec_exp(vec_load(x)));
        for (int j = 0; j < VEC; j++) {
            double want = exp((double)x[j]);
            if (isnan(x[j])) {
                assert_true(isnan(got[j]));
            } else if (want > (double)__FLT_MAX__) {
                assert_true(isinf(got[j]) || want < (double)__FLT_MAX__ * (1 + 1e-7));
            } else {
                double ulp = fmax(0x1p-149, ldexp(1, ilogb(fmax(want, 0x1p-149)) - 23));
                double error = fabs((double)got[j] - want) / ulp;
                if (error > worst) {
                    worst = error;
                    worst_at = x[j];
                }
            }
        }
    }
    if (worst > 2) fail_msg("%.2f ulp at %a", worst, (double)worst_at);
}

static void exp_at_the_ends(void **state)
{
    (void)state;
    assert_true(exp_of(0) == 1);
    assert_true(exp_of(-0.0f) == 1);
    assert_true(exp_of(-INFINITY) == 0);
    assert_true(exp_of(-200) == 0);
    assert_true(isinf(exp_of(INFINITY)) && isinf(exp_of(89)));
    assert_true(isnan(exp_of(NAN)));
}

static void bf16_rounds_as_the_scalar_function(void **state)
{
    (void)state;
    for (uint64_t i = 0; i <= UINT32_MAX; i += 997) {
        uint32_t bits = (uint32_t)i;
        float x;
        uint16_t got[VEC];
        memcpy(&x, &bits, sizeof x);
        act_store(got, 0, DTYPE_BF16, vec_set(x));
        if (!isnan(x)) assert_int_equal(got[0], f32_to_bf16(x));
        if (isnan(x)) assert_true(isnan(bf16_to_f32(got[0])));
    }
}

static void a_running_maximum_ignores_nan(void **state)
{
    (void)state;
    float lane[VEC];
    vec_store(lane, vec_max(vec_set(1), vec_set(NAN)));
    assert_true(lane[0] == 1);
    vec_store(lane, vec_max(vec_set(-INFINITY), vec_set(-3)));
    assert_true(lane[VEC - 1] == -3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_errs_by_two_ulp_at_most),
        cmocka_unit_test(exp_at_the_ends),
        cmocka_unit_test(bf16_rounds_as_the_scalar_function),
        cmocka_unit_test(a_running_maximum_ignores_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
