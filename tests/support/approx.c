#include "support/approx.h"

#include <math.h>
#include <stdbool.h>

#include "support/test.h"

/*
 * One rounding to f32 is 2^-24 = 6e-8 of a value (NMSE 1e-15), to bf16 2^-9 = 2e-3 (NMSE 1.3e-6, since the
 * error of a rounding is uniform). A sum of n f32 products with wide accumulators errs by about sqrt(n) of
 * these.
 */
static const struct {
    const char *op;
    enum dtype dtype;
    struct approx limit;
} table[] = {
    /* copies: exact; to bf16: one rounding */
    {"embed", DTYPE_F32, {0, 0, 0}},
    {"embed", DTYPE_BF16, {0, 0, 0}},
    {"gather_rows", DTYPE_F32, {0, 0, 0}},
    {"gather_rows", DTYPE_BF16, {0, 0, 0}},
    {"scatter_rows", DTYPE_F32, {0, 0, 0}},
    {"scatter_rows", DTYPE_BF16, {0, 0, 0}},
    {"copy", DTYPE_F32, {0, 0, 0}},
    {"copy", DTYPE_BF16, {4e-6, 4e-3, 0}},
    {"add", DTYPE_F32, {2e-15, 1.2e-7, 0}},
    {"add", DTYPE_BF16, {4e-6, 4e-3, 0}},
    /* mean of squares, root, two products: a few roundings; bf16: x + delta, x * rstd and the product each
       round */
    {"rmsnorm", DTYPE_F32, {1e-13, 1e-6, 0}},
    {"rmsnorm", DTYPE_BF16, {1.2e-5, 1.2e-2, 0}},
    {"rmsnorm_apply", DTYPE_F32, {1e-13, 1e-6, 0}},
    {"rmsnorm_apply", DTYPE_BF16, {8e-6, 8e-3, 0}},
    {"rmsnorm_backward", DTYPE_F32, {1e-12, 2e-6, 0}},
    {"rmsnorm_backward", DTYPE_BF16, {4e-6, 4e-3, 0}},
    /* bf16 with norm: three roundings before the rotation's own */
    {"rope", DTYPE_F32, {1e-13, 1e-6, 0}},
    {"rope", DTYPE_BF16, {1.6e-5, 1.6e-2, 0}},
    {"rope_norm_backward", DTYPE_F32, {1e-12, 2e-6, 0}},
    {"rope_norm_backward", DTYPE_BF16, {4e-6, 4e-3, 0}},
    /* scores err by sqrt(head_dim) roundings times |score|, which the exponential turns into a relative
     * error; tensor cores also have the probabilities rounded to bf16 */
    {"attention", DTYPE_F32, {1e-12, 4e-6, 0}},
    {"attention", DTYPE_BF16, {6e-6, 5e-3, 0}},
    {"attention_decode", DTYPE_F32, {1e-12, 4e-6, 0}},
    {"attention_decode", DTYPE_BF16, {4e-6, 4e-3, 0}},
    /* the gradient of a score is a difference of nearly equal numbers (0 where there is one key), of the size
     * of dout times v; bf16 has `out` rounded in it too */
    {"attention_backward", DTYPE_F32, {1e-10, 2e-5, 0.05}},
    {"attention_backward", DTYPE_BF16, {2e-5, 8e-3, 0.05}},
    {"swiglu", DTYPE_F32, {1e-13, 1e-6, 0}},
    {"swiglu", DTYPE_BF16, {4e-6, 4e-3, 0}},
    {"swiglu_backward", DTYPE_F32, {1e-13, 1e-6, 0}},
    {"swiglu_backward", DTYPE_BF16, {4e-6, 4e-3, 0}},
    /* relative to the greatest: a loss is a difference of numbers some times its own size */
    {"loss_stats", DTYPE_F32, {1e-12, 1e-6, 0}},
    {"loss_grad", DTYPE_F32, {1e-12, 2e-6, 0}},
    /* one element a row is large, so few roundings make the mean */
    {"loss_grad", DTYPE_BF16, {1e-5, 4e-3, 0}},
    /* whole numbers, and one rounding that is prescribed */
    {"fixed_add", DTYPE_F32, {0, 0, 0}},
    {"fixed_read", DTYPE_F32, {0, 0, 0}},
    /* p keeps its digits; the step itself is a few roundings */
    {"adamw", DTYPE_F32, {1e-13, 1e-6, 0}},
    /* f64 sums of exact squares; the reference adds one after the other, the greater error of the two */
    {"sum_squares", DTYPE_F32, {1e-24, 1e-12, 0}},
};

struct approx approx_for(const char *op, enum dtype dtype)
{
    /* f16 has three bits more than bf16: an eighth of the error */
    double share = dtype == DTYPE_F16 ? 0.125 : 1;
    enum dtype listed = dtype == DTYPE_F16 ? DTYPE_BF16 : dtype;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].dtype == listed && strcmp(table[i].op, op) == 0)
            return (struct approx){share * share * table[i].limit.nmse, share * table[i].limit.most,
                                   table[i].limit.least};
    fail_msg("approx.c has no number for %s in %s", op, dtype_name(dtype));
    return (struct approx){0, 0, 0};
}

void approx_check(const char *what, struct approx limit, const double *got, const double *want, int64_t n)
{
    double error = 0, size = 0, worst = 0, greatest = 0;
    int64_t worst_at = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(want[i]) || !isfinite(got[i])) {
            bool same = isnan(want[i]) ? isnan(got[i]) : got[i] == want[i];
            if (!same) fail_msg("%s: element %lld is %g, expected %g", what, (long long)i, got[i], want[i]);
            continue;
        }
        double d = fabs(got[i] - want[i]);
        error += d * d;
        size += want[i] * want[i];
        greatest = fmax(greatest, fabs(want[i]));
        if (d > worst) {
            worst = d;
            worst_at = i;
        }
    }
    greatest = fmax(greatest, limit.least);
    size = fmax(size, (double)n * limit.least * limit.least);
    if (worst > limit.most * greatest || error > limit.nmse * size) {
        fail_msg("%s: element %lld of %lld is %.9g, expected %.9g; error %.2e of the greatest (allowed "
                 "%.2e), NMSE %.2e "
                 "(allowed %.2e)",
                 what, (long long)worst_at, (long long)n, got[worst_at], want[worst_at], worst / greatest,
                 limit.most, error / size, limit.nmse);
    }
    if (getenv("LORAD_TEST_ERRORS"))
        printf("%-60s %.1e of %.1e   nmse %.1e of %.1e\n", what, greatest > 0 ? worst / greatest : 0,
               limit.most, size > 0 ? error / size : 0, limit.nmse);
}
