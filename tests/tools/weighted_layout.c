/*
 * weighted_layout TP NAME WEIGHTED: the steps of a golden run with loss weights of 0.25 to 2 on its targets
 * (WEIGHTED 1) or without (0), on the ranks it was started with. Prints loss and gradient norm of each step.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "support/golden.h"
#include "support/rig.h"
#include "trainer/step.h"

struct layout {
    struct golden *golden;
    struct rig *rig;
    struct optimizer *optimizer;
    struct step_context context;
    float *weights; /* of all micro-batches' tokens */
};

static void choose_weights(struct layout *layout, bool weighted)
{
    const struct golden *golden = layout->golden;
    static const float choice[] = {0.25f, 1, 2, 1.5f, 1};
    for (int32_t t = 0; t < golden->micro_start[golden->micros]; t++)
        layout->weights[t] = golden->labels[t] < 0 ? 0 : weighted ? choice[t % 5] : 1;
}

static enum status train_step(struct layout *layout, int32_t step, const struct comm_world_info *world)
{
    const struct golden *golden = layout->golden;
    const struct partition *part = &layout->rig->partition;
    struct step_targets targets = {golden->supervised[step], 0};
    struct step_result result;
    int32_t first = golden->step_micro[step];
    for (int32_t t = golden->micro_start[first]; t < golden->micro_start[golden->step_micro[step + 1]]; t++)
        targets.weight += (double)layout->weights[t];
    TRY(step_begin(&layout->context, targets));
    for (int32_t m = first; m < golden->step_micro[step + 1]; m++) {
        struct micro_batch batch = golden_micro(golden, m);
        batch.weights = layout->weights + golden->micro_start[m];
        if ((m - first) % part->dp == part->dp_rank) TRY(step_accumulate(&layout->context, &batch, step));
    }
    TRY(step_finish(&layout->context, targets, 1.0, &(struct boundary_report){0}, &result));
    if (world->rank == 0) printf("%.17g\n%.17g\n", result.loss, result.grad_norm);
    return LORAD_OK;
}

static enum status run(struct layout *layout, char **argv, const struct comm_world_info *world)
{
    TRY(golden_open(&layout->golden, argv[2]));
    const struct golden *golden = layout->golden;
    struct rig_options rig = {.model_dir = golden->model_dir,
                              .adapter_dir = golden->adapter_dir,
                              .model = {.dtype = DTYPE_F32,
                                        .checkpointing = CHECKPOINTING_NONE,
                                        .max_tokens = golden->max_tokens,
                                        .max_sequences = golden->max_sequences,
                                        .max_positions = golden->longest,
                                        .training = true},
                              .tp = atoi(argv[1])};
    struct optimizer_options options = {
        .learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1};
    TRY(rig_open(&layout->rig, &rig, world));
    TRY(optimizer_create(&layout->optimizer, layout->rig->lora, &options));
    layout->context = (struct step_context){.model = layout->rig->model,
                                            .adapter = layout->rig->adapter,
                                            .optimizer = layout->optimizer,
                                            .world = layout->rig->world,
                                            .part = &layout->rig->partition};
    TRY(step_prepare(&layout->context));
    layout->weights = memory_new((size_t)golden->micro_start[golden->micros], sizeof *layout->weights);
    if (!layout->weights) return LORAD_NOMEM;
    choose_weights(layout, atoi(argv[3]) == 1);
    for (int32_t step = 0; step < golden->steps; step++) TRY(train_step(layout, step, world));
    return LORAD_OK;
}

int main(int argc, char **argv)
{
    struct comm_world_info world;
    struct layout layout = {0};
    enum status status = comm_startup(&world);
    if (status == LORAD_OK && argc != 4)
        status = FAIL(LORAD_USAGE, "usage: weighted_layout TP NAME WEIGHTED");
    if (status == LORAD_OK) status = run(&layout, argv, &world);
    if (status != LORAD_OK) {
        fprintf(stderr, "weighted_layout: rank %d: %s\n", world.rank, status_message());
        comm_abort(1);
    }
    step_release(&layout.context);
    free(layout.weights);
    optimizer_destroy(layout.optimizer);
    rig_close(layout.rig);
    golden_close(layout.golden);
    comm_shutdown();
    return 0;
}
