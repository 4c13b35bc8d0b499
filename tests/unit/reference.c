/*
 * reference.c: the backward functions of support/reference.h are the derivatives of its forward functions:
 * for a random direction of the output, central differences in every input element.
 */
#include <math.h>

#include "base/random.h"
#include "support/reference.h"
#include "support/test.h"

enum { MOST = 4096 };

static uint64_t counter;

static void fill(double *x, int64_t n, double scale)
{
    for (int64_t i = 0; i < n; i++) {
        struct random_block block = random_philox(3, RANDOM_TEST, counter++);
        x[i] = scale * (2 * random_unit_f64(block.word[0], block.word[1]) - 1);
    }
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* forward(context) writes `out`; the gradient of <dout, out> by x [n] must be dx. */
static void check_gradient(void (*forward)(void *), void *context, double *x, const double *dx, int64_t n,
                           const double *out, const double *dout, int64_t n_out)
{
    const double step = 1e-5;
    for (int64_t i = 0; i < n; i++) {
        double at = x[i];
        x[i] = at + step;
        forward(context);
        double above = dot(dout, out, n_out);
        x[i] = at - step;
        forward(context);
        double below = dot(dout, out, n_out);
        x[i] = at;
        double slope = (above - below) / (2 * step);
        if (fabs(slope - dx[i]) > 1e-7 * (1 + fabs(slope)))
            fail_msg("element %lld: %.12g, by differences %.12g", (long long)i, dx[i], slope);
    }
}

static struct {
    double x[MOST], w[64], out[MOST], lse[MOST], dout[MOST], dx[MOST], dk[MOST], dv[MOST], cos_sin[512];
    int32_t positions[16], labels[16];
    struct ref_attention attention;
} b;

static void norm_forward(void *context)
{
    (void)context;
    ref_rmsnorm(b.out, NULL, b.x, b.w, 1e-3, 3, 10);
}

static void rmsnorm_gradient(void **state)
{
    (void)state;
    fill(b.x, 30, 2);
    fill(b.w, 10, 1);
    fill(b.dout, 30, 1);
    ref_rmsnorm_backward(b.dx, b.x, b.w, b.dout, 1e-3, 3, 10);
    check_gradient(norm_forward, NULL, b.x, b.dx, 30, b.out, b.dout, 30);
}

static void rope_forward(void *context)
{
    (void)context;
    ref_rope(b.out, b.x, b.w, 1e-3, b.positions, b.cos_sin, 4, 2, 8, 1);
}

static void rope_norm_gradient(void **state)
{
    (void)state;
    for (int p = 0; p < 4; p++) {
        b.positions[p] = p % 3;
        for (int j = 0; j < 4; j++) {
            b.cos_sin[8 * p + j] = cos(p / (1.0 + j));
            b.cos_sin[8 * p + 4 + j] = sin(p / (1.0 + j));
        }
    }
    fill(b.x, 64, 2);
    fill(b.w, 8, 1);
    fill(b.dout, 64, 1);
    ref_rope_norm_backward(b.dx, b.x, b.w, b.dout, 1e-3, b.positions, b.cos_sin, 4, 2, 8);
    check_gradient(rope_forward, NULL, b.x, b.dx, 64, b.out, b.dout, 64);
}

static void attention_forward(void *context)
{
    (void)context;
    ref_attention(b.out, b.lse, &b.attention);
}

static void attention_gradient(void **state)
{
    (void)state;
    static const int32_t start[] = {0, 5, 6, 11};
    enum { T = 11, Q = 4, K = 2, D = 3 };
    static double k[T * K * D], v[T * K * D];
    fill(b.x, T * Q * D, 1.5);
    fill(k, T * K * D, 1.5);
    fill(v, T * K * D, 1.5);
    fill(b.dout, T * Q * D, 1);
    for (int64_t window = 0; window <= 3; window += 3) {
        b.attention = (struct ref_attention){.tokens = T,
                                             .q_heads = Q,
                                             .kv_heads = K,
                                             .head_dim = D,
                                             .window = window,
                                             .scale = 0.7,
                                             .start = start,
                                             .count = 3,
                                             .q = b.x,
                                             .k = k,
                                             .v = v};
        ref_attention_backward(b.dx, b.dk, b.dv, b.dout, &b.attention);
        check_gradient(attention_forward, NULL, b.x, b.dx, T * Q * D, b.out, b.dout, T * Q * D);
        check_gradient(attention_forward, NULL, k, b.dk, T * K * D, b.out, b.dout, T * Q * D);
        check_gradient(attention_forward, NULL, v, b.dv, T * K * D, b.out, b.dout, T * Q * D);
    }
}

static void swiglu_forward(void *context)
{
    (void)context;
    ref_swiglu(b.out, b.x, 3, 7);
}

static void swiglu_gradient(void **state)
{
    (void)state;
    fill(b.x, 42, 4);
    fill(b.dout, 21, 1);
    ref_swiglu_backward(b.dx, b.x, b.dout, 3, 7);
    check_gradient(swiglu_forward, NULL, b.x, b.dx, 42, b.out, b.dout, 21);
}

static void loss_forward(void *context)
{
    (void)context;
    b.out[0] = ref_cross_entropy(NULL, NULL, b.x, b.labels, b.w, 4, 9);
}

static void cross_entropy_gradient(void **state)
{
    (void)state;
    fill(b.x, 36, 3);
    fill(b.w, 4, 1);
    for (int i = 0; i < 4; i++) b.labels[i] = 2 * i + 1;
    b.dout[0] = 1;
    ref_cross_entropy(b.dx, NULL, b.x, b.labels, b.w, 4, 9);
    check_gradient(loss_forward, NULL, b.x, b.dx, 36, b.out, b.dout, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_gradient),       cmocka_unit_test(rope_norm_gradient),
        cmocka_unit_test(attention_gradient),     cmocka_unit_test(swiglu_gradient),
        cmocka_unit_test(cross_entropy_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
