/*
 * Every golden run of transformers + PEFT, trained by lorad in one process: float32 with each ladder step of
 * activation checkpointing, and bf16. Arguments are names of golden runs: only those.
 *
 * Tolerances. float32: those that the design promises. The files are themselves within 1.2e-6 (logits), 1e-7
 * (loss), 3e-7 (norm), 3e-6 (gradients) and 6e-6 (adapter) of the same training in float64, so they are met
 * by a correct program with room to spare. bf16: weights, activations and their gradients have 8 bits of
 * mantissa (2^-9 = 2e-3 a rounding); the bounds are about twice what was measured, and only show that bf16
 * trains the same model.
 *
 * LORAD_GOLDEN_STEPS: only the first steps, without the adapter that the last one leaves, for all but the
 * plain float32 runs.
 */
#include "support/golden.h"
#include "support/golden_run.h"
#include "support/test.h"

static const struct golden_errors exact = {
    .logits = 1e-4, .loss = 1e-5, .grad_norm = 1e-5, .rate = 1e-12, .gradient = 1e-4, .adapter = 1e-4};
static const struct golden_errors rounded = {
    .logits = 5e-2, .loss = 3e-3, .grad_norm = 1.2e-2, .rate = 1e-12, .gradient = 9e-2, .adapter = 9e-2};

static char **only;

static bool is_wanted(const char *name)
{
    for (char **wanted = only; *wanted; wanted++)
        if (strcmp(*wanted, name) == 0) return true;
    return !*only;
}

static int compare(const char *name, int threads, enum dtype dtype, enum checkpointing checkpointing,
                   int32_t steps, const struct golden_errors *most)
{
    struct comm_world_info alone = {.world = 1, .local_world = 1, .threads = threads};
    struct golden_setup setup = {
        .name = name, .dtype = dtype, .checkpointing = checkpointing, .tp = 1, .steps = steps};
    struct golden_errors found;
    if (!is_wanted(name)) return 0;
    assert_ok(golden_run(&found, &setup, &alone));
    golden_errors_print(&setup, 1, &found);
    bool good = found.logits <= most->logits && found.loss <= most->loss &&
                found.grad_norm <= most->grad_norm && found.rate <= most->rate &&
                found.gradient <= most->gradient && (steps || found.adapter <= most->adapter);
    if (!good) printf("^ too far\n");
    return !good;
}

static void float32_matches(void **state)
{
    (void)state;
    int bad = 0;
    for (int i = 0; golden_names[i]; i++)
        bad +=
            compare(golden_names[i], i == 4 ? 2 : 1 /* threads */, DTYPE_F32, CHECKPOINTING_NONE, 0, &exact);
    assert_int_equal(bad, 0);
}

static void checkpointing_matches(void **state)
{
    (void)state;
    static const char *const names[] = {"llama_mha", "mistral_window", "qwen3_norm"};
    int bad = 0;
    for (int i = 0; i < 3; i++) {
        bad += compare(names[i], 1, DTYPE_F32, CHECKPOINTING_MLP, golden_steps_wanted(), &exact);
        bad += compare(names[i], 1, DTYPE_F32, CHECKPOINTING_LAYER, golden_steps_wanted(), &exact);
    }
    assert_int_equal(bad, 0);
}

/* What is made again is what was thrown away, bit for bit; qwen3_norm's heads have norms of their own. */
static void kept_inputs_change_nothing(void **state)
{
    (void)state;
    static const char *const names[] = {"llama_mha", "qwen3_norm"};
    struct comm_world_info alone = {.world = 1, .local_world = 1, .threads = 1};
    for (int i = 0; i < 2; i++) {
        if (!is_wanted(names[i])) continue;
        struct golden_errors again, kept;
        struct golden_setup setup = {.name = names[i],
                                     .dtype = DTYPE_BF16,
                                     .checkpointing = CHECKPOINTING_NONE,
                                     .tp = 1,
                                     .steps = golden_steps_wanted()};
        assert_ok(golden_run(&again, &setup, &alone));
        setup.keep_inputs = true;
        assert_ok(golden_run(&kept, &setup, &alone));
        assert_true(kept.loss == again.loss && kept.grad_norm == again.grad_norm);
        assert_true(kept.gradient == again.gradient && kept.adapter == again.adapter);
    }
}

static void bf16_is_near(void **state)
{
    (void)state;
    int bad = 0;
    for (int i = 0; golden_names[i]; i++)
        bad += compare(golden_names[i], 1, DTYPE_BF16, CHECKPOINTING_NONE, golden_steps_wanted(), &rounded);
    assert_int_equal(bad, 0);
}

int main(int argc, char **argv)
{
    (void)argc;
    only = argv + 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_matches),
        cmocka_unit_test(checkpointing_matches),
        cmocka_unit_test(kept_inputs_change_nothing),
        cmocka_unit_test(bf16_is_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
