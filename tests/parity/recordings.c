/*
 * Micro-batches that are replayed have the bits of those whose operations are enqueued one by one, whatever
 * changes from one to the next within a shape: rows, labels, the seed and step of dropout. On a device that
 * records; the CPU does not.
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "support/golden.h"
#include "support/rig.h"
#include "support/test.h"
#include "support/test_device.h"

enum { PASSES = 6 };

struct outcome {
    float *gradient[PASSES];
    struct model_sums sums[PASSES];
    int64_t replays;
};

static struct rig *open_rig(const struct golden *golden)
{
    static const struct comm_world_info alone = {.world = 1, .local_world = 1, .threads = 1};
    struct rig_options options = {.model_dir = golden->model_dir,
                                  .adapter_dir = golden->adapter_dir,
                                  .model = {.dtype = DTYPE_BF16,
                                            .checkpointing = CHECKPOINTING_NONE,
                                            .max_tokens = golden->max_tokens,
                                            .max_sequences = golden->max_sequences,
                                            .max_positions = golden->longest,
                                            .training = true,
                                            .deterministic = true},
                                  .dropout = 0.2,
                                  .tp = 1};
    struct rig *rig;
    assert_ok(rig_open(&rig, &options, &alone));
    return rig;
}

/* Micro-batches 0 and 1 in turn, both in a step; evaluating in between uses the same memory. */
static struct outcome train(const struct golden *golden, bool replay, int passes)
{
    struct outcome out = {0};
    struct rig *rig = open_rig(golden);
    for (int i = 0; i < passes; i++) {
        struct micro_batch batch = golden_micro(golden, i % 2), other = golden_micro(golden, 2);
        out.gradient[i] = memory_new((size_t)rig->lora->count, sizeof(float));
        assert_non_null(out.gradient[i]);
        if (i == 2) assert_ok(model_eval(rig->model, &(struct eval_pass){.batch = &other}));
        assert_ok(model_zero_sums(rig->model));
        assert_ok(adapter_zero_grad(rig->adapter));
        assert_ok(model_train(rig->model, &(struct train_pass){.batch = &batch,
                                                               .adapter = rig->adapter,
                                                               .gradient_scale = 1,
                                                               .seed = 7,
                                                               .step = i / 2,
                                                               .replay = replay}));
        assert_ok(model_read_sums(rig->model, &out.sums[i]));
        assert_ok(adapter_read(rig->adapter, ADAPTER_GRAD, out.gradient[i]));
        if (i == 4) model_forget_recordings(rig->model);
    }
    out.replays = model_replays(rig->model);
    rig_close(rig);
    return out;
}

static void compare(const struct outcome *plain, const struct outcome *replayed, int passes, int64_t count)
{
    for (int i = 0; i < passes; i++) {
        assert_memory_equal(plain->gradient[i], replayed->gradient[i], (size_t)count * sizeof(float));
        assert_memory_equal(&plain->sums[i], &replayed->sums[i], sizeof plain->sums[i]);
    }
}

static void release(struct outcome *outcome)
{
    for (int i = 0; i < PASSES; i++) free(outcome->gradient[i]);
}

static void train_both_ways(const struct golden *golden, int64_t count)
{
    struct outcome plain = train(golden, false, PASSES), replayed = train(golden, true, PASSES);
    compare(&plain, &replayed, PASSES, count);
    assert_int_equal(plain.replays, 0);
    assert_in_range(replayed.replays, 1, 3); /* beside those that record; 3: both have one shape */
    assert_memory_not_equal(plain.gradient[0], plain.gradient[2], (size_t)count * sizeof(float)); /* masks */
    release(&replayed);

    /* an emulated GPU has no room for the second recording: it goes on without */
    assert_int_equal(setenv("LORAD_EMULATOR_GRAPHS", "1", 1), 0);
    replayed = train(golden, true, 4);
    (void)unsetenv("LORAD_EMULATOR_GRAPHS");
    compare(&plain, &replayed, 4, count);
    release(&replayed);
    release(&plain);
}

static void replays_have_the_same_bits(void **state)
{
    (void)state;
    struct golden *golden;
    assert_ok(golden_open(&golden, "qwen2_bias"));
    struct rig *rig = open_rig(golden);
    int64_t count = rig->lora->count;
    bool can = model_can_replay(rig->model);
    assert_int_equal(can, device_records(rig->device));
    rig_close(rig);
    if (can) train_both_ways(golden, count);
    golden_close(golden);
    if (!can) skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(replays_have_the_same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
