/*
 * Sums in fixed point: which units a step has, when it is computed again, and what a checkpoint keeps of it.
 * That the bits do not depend on the dealing is shown on ranks by multirank/fixed_dealings.
 */
#include <math.h>

#include "kernels/device.h"
#include "support/test.h"
#include "trainer/fixed_sums.h"
#include "trainer/plan.h"

static const struct arch small = {.family = "qwen2",
                                  .hidden = 32,
                                  .layers = 2,
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .head_dim = 8,
                                  .intermediate = 64,
                                  .vocab = 100,
                                  .max_positions = 64,
                                  .norm_eps = 1e-6f,
                                  .rope = {.theta = 10000}};

struct bench {
    struct device *device;
    struct lora *lora;
    struct fixed_sums *sums;
    float *grad, *total;
};

static struct bench open_bench(int32_t tp)
{
    static const char *const all[] = {"all"};
    struct lora_options options = {.rank = 4, .alpha = 8, .targets = all, .n_targets = 1};
    struct partition part;
    struct bench b = {0};
    assert_ok(partition_make(&part, &small, tp, tp, 0));
    assert_ok(lora_create(&b.lora, &options, &small, &part));
    assert_ok(device_open(&b.device, &(struct device_options){.kind = "cpu", .threads = 2}));
    assert_ok(fixed_sums_create(&b.sums, b.lora, b.device));
    void *block;
    assert_ok(device_alloc(&block, b.device, 2 * (size_t)b.lora->count * sizeof(float)));
    b.grad = block;
    b.total = b.grad + b.lora->count;
    return b;
}

static void close_bench(struct bench *b)
{
    fixed_sums_destroy(b->sums);
    device_free(b->device, b->grad);
    lora_destroy(b->lora);
    device_close(b->device);
}

/* A step of one addend, which has `value` everywhere, or twice and with both signs: whether it must be done
 * again. */
static bool try_step(struct bench *b, float value, double *greatest)
{
    bool again;
    assert_ok(fixed_sums_begin(b->sums));
    for (int32_t i = 0; i < b->lora->n_tensors; i++) {
        const struct lora_tensor *t = &b->lora->tensors[i];
        for (int64_t k = 0; k < t->rows * t->cols; k++) b->grad[t->offset + k] = k % 3 ? value : -value;
    }
    assert_ok(fixed_sums_add(b->sums, b->grad));
    for (int64_t i = 0; i < b->lora->count; i++) assert_true(b->grad[i] == 0);
    assert_ok(fixed_sums_agree(b->sums, NULL, &again, greatest));
    return again;
}

static void step(struct bench *b, float value, bool want_again)
{
    double greatest;
    bool again = try_step(b, value, &greatest);
    assert_true(again == want_again);
    if (again) assert_false(try_step(b, value, &greatest));
    assert_true(greatest == (double)fabsf(value));
    assert_ok(fixed_sums_reduce(b->sums, NULL, NULL, b->total));
    const struct lora_tensor *t = &b->lora->tensors[b->lora->n_tensors - 1];
    assert_true(fabs((double)(b->total[t->offset + 1] - value)) <= 6e-8 * fabs((double)value));
    assert_true(b->total[t->offset] == -b->total[t->offset + 1]);
    fixed_sums_accept(b->sums);
}

static int exponent(const struct bench *b)
{
    static struct fixed_scales scales;
    fixed_sums_scales(b->sums, &scales);
    assert_int_equal(scales.n, b->lora->n_tensors);
    for (int32_t i = 1; i < scales.n; i++) assert_int_equal(scales.exponent[i], scales.exponent[0]);
    return scales.exponent[0];
}

static void units_follow_the_gradient(void **state)
{
    (void)state;
    struct bench b = open_bench(1);
    assert_int_equal(exponent(&b), FIXED_UNKNOWN);
    step(&b, 0, false); /* says nothing of the next */
    assert_int_equal(exponent(&b), FIXED_UNKNOWN);
    step(&b, 3.0f, false);
    assert_int_equal(exponent(&b), 2);
    step(&b, 4.0f, false); /* the border belongs to the next power */
    assert_int_equal(exponent(&b), 3);
    step(&b, 1e-3f, false);
    assert_int_equal(exponent(&b), -1); /* falls by 4 at most */
    step(&b, 0, false);
    assert_int_equal(exponent(&b), -1);
    step(&b, 1e-3f, false);
    step(&b, 1e-3f, false);
    step(&b, 1e-3f, false);
    assert_int_equal(exponent(&b), -9);
    close_bench(&b);
}

static void a_step_that_does_not_fit_is_done_again_once(void **state)
{
    (void)state;
    struct bench b = open_bench(1);
    step(&b, 1e-12f, true); /* units of 2^-36 are too coarse */
    assert_int_equal(exponent(&b), -39);
    step(&b, 0x1p-31f, false); /* 2^10 of room above 2^-39 */
    step(&b, 0x1.8p-20f, true);
    assert_int_equal(exponent(&b), -19);
    step(&b, 3e38f, true);
    assert_int_equal(exponent(&b), 128);
    step(&b, 0x1p107f, true);
    step(&b, 0x1p93f, false);
    assert_int_equal(exponent(&b), 104);
    step(&b, 0x1p-149f, true); /* the least number there is */
    assert_int_equal(exponent(&b), -148);

    double greatest;
    assert_true(try_step(&b, 1, &greatest));
    bool again;
    assert_ok(fixed_sums_begin(b.sums));
    b.grad[b.lora->tensors[0].offset] = 0x1p40f;
    assert_ok(fixed_sums_add(b.sums, b.grad));
    assert_fails(fixed_sums_agree(b.sums, NULL, &again, &greatest), LORAD_BUG, "other gradients");
    close_bench(&b);
}

static void what_is_not_finite_changes_no_unit(void **state)
{
    (void)state;
    struct bench b = open_bench(1);
    step(&b, 1, false);
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        double greatest;
        assert_false(try_step(&b, bad[i], &greatest));
        assert_false(isfinite(greatest));
        assert_int_equal(exponent(&b), 1);
    }
    step(&b, 1, false);
    close_bench(&b);
}

/* As many addends as were announced, each as large as it may be; and the size of a unit. */
static void the_largest_addends_do_not_overflow(void **state)
{
    (void)state;
    static const struct {
        int64_t addends;
        int bits;
    } cases[] = {{1, 50}, {4096, 50}, {4097, 49}, {65536, 46}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct bench b = open_bench(1);
        bool again;
        double greatest;
        fixed_sums_set_addends(b.sums, cases[c].addends);
        const struct lora_tensor *t = &b.lora->tensors[0];
        float limit = ldexpf(1, 14); /* the first step's units are 2^(14 - bits) */
        assert_ok(fixed_sums_begin(b.sums));
        for (int64_t i = 0; i < cases[c].addends; i++) {
            b.grad[t->offset] = limit;
            b.grad[t->offset + 1] = -limit;
            assert_ok(fixed_sums_add(b.sums, b.grad));
        }
        assert_ok(fixed_sums_agree(b.sums, NULL, &again, &greatest));
        assert_false(again);
        assert_ok(fixed_sums_reduce(b.sums, NULL, NULL, b.total));
        assert_true((double)b.total[t->offset] == (double)limit * (double)cases[c].addends);
        assert_true((double)b.total[t->offset + 1] == -(double)limit * (double)cases[c].addends);
        /* a unit counts, half of one does not, and beyond the limit nothing does */
        assert_ok(fixed_sums_begin(b.sums));
        b.grad[t->offset] = limit;
        b.grad[t->offset + 1] = ldexpf(1, 14 - cases[c].bits);
        b.grad[t->offset + 2] = ldexpf(1, 13 - cases[c].bits);
        assert_ok(fixed_sums_add(b.sums, b.grad));
        assert_ok(fixed_sums_reduce(b.sums, NULL, NULL, b.total));
        assert_true(b.total[t->offset + 1] == ldexpf(1, 14 - cases[c].bits));
        assert_true(b.total[t->offset + 2] == 0);
        assert_true(try_step(&b, nextafterf(limit, INFINITY), &greatest));
        close_bench(&b);
    }
}

/* Factors lie in another order at another tensor-parallel width; a checkpoint's order is of the model. */
static void a_checkpoint_s_units_go_to_any_layout(void **state)
{
    (void)state;
    struct bench one = open_bench(1), two = open_bench(2), other = open_bench(1);
    static struct fixed_scales scales, again;
    fixed_sums_scales(one.sums, &scales);
    for (int32_t i = 0; i < scales.n; i++) scales.exponent[i] = (int16_t)(i % 5 ? i : FIXED_UNKNOWN);
    assert_ok(fixed_sums_restore(one.sums, &scales));
    fixed_sums_scales(one.sums, &again);
    assert_memory_equal(again.exponent, scales.exponent, (size_t)scales.n * sizeof *scales.exponent);
    assert_ok(fixed_sums_restore(two.sums, &scales));
    fixed_sums_scales(two.sums, &again);
    assert_memory_equal(again.exponent, scales.exponent, (size_t)scales.n * sizeof *scales.exponent);

    scales.n--;
    assert_fails(fixed_sums_restore(other.sums, &scales), LORAD_DATA, "27 factors");
    scales.n = 0;
    assert_ok(fixed_sums_restore(other.sums, &scales));
    assert_int_equal(exponent(&other), FIXED_UNKNOWN);
    close_bench(&one);
    close_bench(&two);
    close_bench(&other);
}

/* What fixed_sums_create takes is in the plan, so that a run that does not fit is refused before. */
static void the_plan_counts_them(void **state)
{
    (void)state;
    struct bench b = open_bench(1);
    struct partition part;
    struct plan floats, fixed;
    const struct device_backend *backend;
    assert_ok(device_backend_find(&backend, "cpu"));
    struct plan_request request = {.backend = backend,
                                   .model = {.dtype = DTYPE_F32,
                                             .max_tokens = 16,
                                             .max_sequences = 4,
                                             .max_positions = 16,
                                             .training = true},
                                   .wanted = CHECKPOINTING_NONE};
    assert_ok(partition_make(&part, &small, 1, 1, 0));
    assert_ok(plan_make(&floats, &small, &part, b.lora, &request));
    request.elastic = true;
    assert_ok(plan_make(&fixed, &small, &part, b.lora, &request));
    assert_int_equal(fixed.total - floats.total, fixed_sums_bytes(b.lora));
    assert_true(fixed_sums_bytes(b.lora) >= (size_t)b.lora->count * 8);
    request.available = (int64_t)floats.total;
    assert_fails(plan_make(&fixed, &small, &part, b.lora, &request), LORAD_NOMEM, "adapter");
    close_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(units_follow_the_gradient),
        cmocka_unit_test(a_step_that_does_not_fit_is_done_again_once),
        cmocka_unit_test(what_is_not_finite_changes_no_unit),
        cmocka_unit_test(the_largest_addends_do_not_overflow),
        cmocka_unit_test(a_checkpoint_s_units_go_to_any_layout),
        cmocka_unit_test(the_plan_counts_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
