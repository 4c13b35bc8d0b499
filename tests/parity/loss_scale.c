/*
 * Steps with a loss scale: a golden run of transformers + PEFT, trained in f16 on a GPU and in f32 on the
 * CPU, where a scale changes no bit.
 *
 * Tolerances. f16 has 11 bits of mantissa: an eighth of what golden_models.c allows for bf16.
 * LORAD_GOLDEN_STEPS: only the first steps.
 */
#include <math.h>
#include <stdlib.h>

#include "support/golden.h"
#include "support/golden_run.h"
#include "support/rig.h"
#include "support/test.h"
#include "support/test_device.h"
#include "trainer/schedule.h"
#include "trainer/step.h"

struct trial {
    struct golden *golden;
    struct rig *rig;
    struct optimizer_options options;
    struct optimizer *optimizer;
    struct step_context context;
    struct loss_scale scale;
    float *param, *before; /* [lora->count] */
};

static void open_trial(struct trial *t, double scale)
{
    const struct comm_world_info alone = {.world = 1, .local_world = 1, .threads = 1};
    *t = (struct trial){.scale = {.value = scale}};
    assert_ok(golden_open(&t->golden, "qwen2_bias"));
    const struct golden *g = t->golden;
    const struct rig_options options = {.model_dir = g->model_dir,
                                        .adapter_dir = g->adapter_dir,
                                        .model = {.dtype = test_device_is_cpu() ? DTYPE_F32 : DTYPE_F16,
                                                  .max_tokens = g->max_tokens,
                                                  .max_sequences = g->max_sequences,
                                                  .max_positions = g->longest,
                                                  .training = true},
                                        .tp = 1};
    assert_ok(rig_open(&t->rig, &options, &alone));
    t->options = (struct optimizer_options){.learning_rate = g->learning_rate,
                                            .schedule = SCHEDULE_COSINE,
                                            .warmup_steps = g->warmup_steps,
                                            .weight_decay = g->weight_decay,
                                            .beta1 = g->beta1,
                                            .beta2 = g->beta2,
                                            .epsilon = g->epsilon,
                                            .max_grad_norm = g->max_grad_norm};
    assert_ok(optimizer_create(&t->optimizer, t->rig->lora, &t->options));
    t->context = (struct step_context){.model = t->rig->model,
                                       .adapter = t->rig->adapter,
                                       .optimizer = t->optimizer,
                                       .loss_scale = scale > 0 ? &t->scale : NULL,
                                       .part = &t->rig->partition};
    assert_ok(step_prepare(&t->context));
    t->param = calloc((size_t)t->rig->lora->count, sizeof *t->param);
    t->before = calloc((size_t)t->rig->lora->count, sizeof *t->before);
    assert_true(t->param && t->before);
}

static void close_trial(struct trial *t)
{
    free(t->param);
    free(t->before);
    step_release(&t->context);
    optimizer_destroy(t->optimizer);
    rig_close(t->rig);
    golden_close(t->golden);
}

/* A step of the golden run; `poison` is written over the first element of its gradient, unless it is 0. */
static struct step_result train_step(struct trial *t, int32_t step, float poison)
{
    const struct golden *g = t->golden;
    struct step_targets targets = {g->supervised[step], (double)g->supervised[step]};
    struct step_result result;
    assert_ok(adapter_read(t->rig->adapter, ADAPTER_PARAM, t->before));
    assert_ok(step_begin(&t->context, targets));
    for (int32_t m = g->step_micro[step]; m < g->step_micro[step + 1]; m++) {
        struct micro_batch batch = golden_micro(g, m);
        assert_ok(step_accumulate(&t->context, &batch, step));
    }
    if (poison != 0)
        assert_ok(
            device_copy_to(t->rig->device, STREAM_COMPUTE, t->rig->adapter->grad, &poison, sizeof poison));
    double factor = schedule_factor(&t->options, step, g->steps);
    assert_ok(step_finish(&t->context, targets, factor, &(struct boundary_report){0}, &result));
    assert_ok(adapter_read(t->rig->adapter, ADAPTER_PARAM, t->param));
    return result;
}

static bool changed(const struct trial *t)
{
    return memcmp(t->before, t->param, (size_t)t->rig->lora->count * sizeof(float)) != 0;
}

/* From the greatest scale, which this model's gradients overflow, down to one that fits; then as the files
 * say. A step that overflowed is tried again here, so that the steps stay those of the files. */
static void training_finds_its_scale(void **state)
{
    (void)state;
    const double most_loss = 4e-4, most_norm = 1.5e-3;
    struct trial t;
    open_trial(&t, 0x1p24);
    int32_t steps = golden_steps_wanted() ? golden_steps_wanted() : t.golden->steps;
    int overflows = 0;
    double worst_loss = 0, worst_norm = 0;
    for (int32_t step = 0; step < steps;) {
        struct step_result r = train_step(&t, step, 0);
        assert_false(r.skipped);
        assert_true(r.loss_scale == t.scale.value);
        assert_true(changed(&t) == (!r.overflowed && r.learning_rate > 0));
        worst_loss = fmax(worst_loss, fabs(r.loss / t.golden->loss[step] - 1));
        if (r.overflowed) {
            loss_scale_overflowed(&t.scale);
            overflows++;
            continue;
        }
        worst_norm = fmax(worst_norm, fabs(r.grad_norm / t.golden->grad_norm[step] - 1));
        assert_int_equal(t.rig->adapter->applied_steps, ++step);
    }
    printf("%d overflows, scale %g; loss within %.1e, norm within %.1e\n", overflows, t.scale.value,
           worst_loss, worst_norm);
    assert_true(test_device_is_cpu() ? overflows == 0 : overflows > 0);
    assert_true(worst_loss < most_loss && worst_norm < most_norm);
    close_trial(&t);
}

static void what_is_not_finite_is_the_scale_s_fault_or_the_row_s(void **state)
{
    (void)state;
    struct trial t;
    open_trial(&t, 8);
    for (int32_t step = 0; step < 2; step++) assert_false(train_step(&t, step, 0).overflowed);
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    for (int i = 0; i < 3; i++) {
        struct step_result r = train_step(&t, 2, bad[i]);
        assert_true(r.overflowed && !r.skipped && isfinite(r.loss) && !changed(&t));
        loss_scale_overflowed(&t.scale);
    }
    assert_true(t.scale.value == 1); /* nothing smaller is left to try */
    struct step_result r = train_step(&t, 2, INFINITY);
    assert_true(r.skipped && !r.overflowed && !changed(&t));
    assert_int_equal(t.rig->adapter->applied_steps, 2);
    r = train_step(&t, 2, 0);
    assert_true(!r.skipped && !r.overflowed && changed(&t));
    close_trial(&t);
}

/* Two scales, and none at all, bit for bit. f16 has too many gradients that underflow. */
static void a_power_of_two_rounds_nothing(void **state)
{
    (void)state;
    const double scales[] = {0, 0x1p6, 0x1p20};
    float *first = NULL;
    struct step_result want = {0};
    if (!test_device_is_cpu()) skip();
    for (int i = 0; i < 3; i++) {
        struct trial t;
        struct step_result r = {0};
        open_trial(&t, scales[i]);
        for (int32_t step = 0; step < 3; step++) r = train_step(&t, step, 0);
        size_t bytes = (size_t)t.rig->lora->count * sizeof(float);
        if (first) {
            assert_memory_equal(first, t.param, bytes);
            assert_true(r.loss == want.loss && r.grad_norm == want.grad_norm);
        } else {
            first = malloc(bytes);
            assert_non_null(first);
            memcpy(first, t.param, bytes);
            want = r;
        }
        close_trial(&t);
    }
    free(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_finds_its_scale),
        cmocka_unit_test(what_is_not_finite_is_the_scale_s_fault_or_the_row_s),
        cmocka_unit_test(a_power_of_two_rounds_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
