/*
 * golden_layout TP NAME...: golden runs on the ranks it was started with, tensor-parallel width TP, in
 * float32 and under the same bounds as on one rank. Ends with 1 when one is passed.
 */
#include <stdio.h>
#include <stdlib.h>

#include "support/golden_run.h"

static enum status compare(const char *name, int32_t tp, const struct comm_world_info *world)
{
    struct golden_setup setup = {
        .name = name, .dtype = DTYPE_F32, .checkpointing = CHECKPOINTING_NONE, .tp = tp};
    struct golden_errors e;
    TRY(golden_run(&e, &setup, world));
    if (world->rank == 0) golden_errors_print(&setup, world->world / tp, &e);
    if (e.logits <= 1e-4 && e.loss <= 1e-5 && e.grad_norm <= 1e-5 && e.rate <= 1e-12 && e.gradient <= 1e-4 &&
        e.adapter <= 1e-4)
        return LORAD_OK;
    return FAIL(LORAD_NUMERIC, "%s: too far from the golden run", name);
}

int main(int argc, char **argv)
{
    struct comm_world_info world;
    enum status status = comm_startup(&world);
    int32_t tp = argc > 1 ? atoi(argv[1]) : 0;
    if (status == LORAD_OK && (argc < 3 || tp < 1))
        status = FAIL(LORAD_USAGE, "usage: golden_layout TP NAME...");
    for (int i = 2; i < argc && status == LORAD_OK; i++) status = compare(argv[i], tp, &world);
    if (status != LORAD_OK) {
        fprintf(stderr, "golden_layout: rank %d: %s\n", world.rank, status_message());
        comm_abort(1);
    }
    comm_shutdown();
    return 0;
}
