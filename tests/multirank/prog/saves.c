/*
 * A program to run under mpirun: saves TP FAILING DIR.
 * Ten saves in ten steps, on ranks of different speed. FAILING: -1, or the rank whose files of the shard
 * cannot be made at steps 4 and 5 ("manifest": rank 0's manifest). Every rank must know the same of every
 * save, and every checkpoint that is there must hold its step's values.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "support/fs_gate.h"
#include "support/saver_rig.h"

enum { STEPS = 10, FIRST_BAD = 4, LAST_BAD = 5 };

static int rank;

static void must(enum status status, const char *what)
{
    if (status == LORAD_OK) return;
    fprintf(stderr, "rank %d: %s: %s: %s\n", rank, what, status_name(status), status_message());
    comm_abort(status_exit_code(status));
}

static void expect(bool ok, const char *what, long long value)
{
    if (ok) return;
    fprintf(stderr, "rank %d: %s: %lld\n", rank, what, value);
    comm_abort(1);
}

/* Ranks do not come to a boundary at the same time, nor are their disks equally fast. */
static void dawdle(int64_t step)
{
    clock_sleep_ms(random_philox(3, (uint64_t)rank, (uint64_t)step).word[0] % 12);
}

int main(int argc, char **argv)
{
    struct comm_world_info world;
    struct fs_gate *gate;
    struct saver_rig *rig;
    if (argc != 4) return 64;
    must(comm_startup(&world), "start");
    rank = world.rank;
    log_set_rank(rank, world.world);
    log_set_level(LOG_ERROR);
    bool manifest = strcmp(argv[2], "manifest") == 0;
    int failing = manifest ? 0 : atoi(argv[2]);
    must(fs_gate_create(&gate), "gate");
    must(saver_rig_open(&rig, argv[3], fs_gate_fs(gate), atoi(argv[1]), &world), "rig");

    for (int64_t step = 1; step <= STEPS; step++) {
        bool bad = step >= FIRST_BAD && step <= LAST_BAD;
        dawdle(step);
        must(saver_rig_update(rig, step), "update");
        must(saver_rig_boundary(rig), "boundary");
        if (step == FIRST_BAD || step == LAST_BAD + 1) must(saver_drain(&rig->saver), "drain");
        fs_gate_fail(gate, bad && rank == failing ? (manifest ? "MANIFEST" : "shard-") : NULL);
        must(saver_rig_save(rig), "save");
    }
    must(saver_drain(&rig->saver), "drain");
    int failures = failing >= 0 ? LAST_BAD - FIRST_BAD + 1 : 0;
    expect(rig->saver.last_saved_step == STEPS, "last saved step", rig->saver.last_saved_step);
    expect(rig->saver.failures == failures, "failures", rig->saver.failures);
    if (rank == 0) {
        struct checkpoint_entry *entries;
        size_t n;
        must(checkpoint_list(&entries, &n, argv[3]), "list");
        expect(n == (size_t)(STEPS - failures), "checkpoints", (long long)n);
        for (size_t i = 0; i < n; i++)
            must(saver_rig_verify(rig, entries[i].id.step, entries[i].id.attempt), entries[i].name);
        free(entries);
    }
    saver_rig_close(rig);
    fs_gate_destroy(gate);
    comm_shutdown();
    return 0;
}
