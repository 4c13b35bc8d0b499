/*
 * golden_layout TP NAME...: golden runs on the ranks it was started with, tensor-parallel width TP, in
 * float32 and under the same bounds as on one rank. Ends with 1 when one is passed.
 * golden_layout --sequence-parallel TP NAME...: with sequence_parallel, in every gradient_checkpointing and
 * with the panels' inputs kept.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/golden_run.h"

static enum status compare(const struct golden_setup *setup, const struct comm_world_info *world)
{
    struct golden_errors e;
    TRY(golden_run(&e, setup, world));
    if (world->rank == 0) golden_errors_print(setup, world->world / setup->tp, &e);
    if (e.logits <= 1e-4 && e.loss <= 1e-5 && e.grad_norm <= 1e-5 && e.rate <= 1e-12 && e.gradient <= 1e-4 &&
        e.adapter <= 1e-4)
        return LORAD_OK;
    return FAIL(LORAD_NUMERIC, "%s: too far from the golden run", setup->name);
}

/* Everything kept, then less and less. */
static enum status compare_by_rows(const char *name, int32_t tp, const struct comm_world_info *world)
{
    struct golden_setup setup = {.name = name,
                                 .dtype = DTYPE_F32,
                                 .checkpointing = CHECKPOINTING_NONE,
                                 .keep_inputs = true,
                                 .tp = tp,
                                 .sequence_parallel = true};
    TRY(compare(&setup, world));
    setup.keep_inputs = false;
    for (; setup.checkpointing <= CHECKPOINTING_LAYER; setup.checkpointing++) TRY(compare(&setup, world));
    return LORAD_OK;
}

static enum status compare_plain(const char *name, int32_t tp, const struct comm_world_info *world)
{
    struct golden_setup setup = {
        .name = name, .dtype = DTYPE_F32, .checkpointing = CHECKPOINTING_NONE, .tp = tp};
    return compare(&setup, world);
}

int main(int argc, char **argv)
{
    struct comm_world_info world;
    enum status status = comm_startup(&world);
    bool by_rows = argc > 1 && strcmp(argv[1], "--sequence-parallel") == 0;
    int first = by_rows ? 2 : 1;
    int32_t tp = argc > first ? atoi(argv[first]) : 0;
    if (status == LORAD_OK && (argc < first + 2 || tp < 1))
        status = FAIL(LORAD_USAGE, "usage: golden_layout [--sequence-parallel] TP NAME...");
    for (int i = first + 1; i < argc && status == LORAD_OK; i++)
        status = (by_rows ? compare_by_rows : compare_plain)(argv[i], tp, &world);
    if (status != LORAD_OK) {
        fprintf(stderr, "golden_layout: rank %d: %s\n", world.rank, status_message());
        comm_abort(1);
    }
    comm_shutdown();
    return 0;
}
