/*
 * save.h: one checkpoint, from a snapshot to the commit and what follows it. Files only: saver.c decides
 * when, with the other ranks; its writer thread calls these, in this order.
 */
#ifndef LORAD_TRAINER_SAVE_H
#define LORAD_TRAINER_SAVE_H

#include "base/status.h"
#include "base/strbuf.h"
#include "checkpoint/checkpoint.h"
#include "trainer/saver.h"
#include "trainer/snapshot.h"

struct save {
    struct checkpoint_id id;
    struct strbuf state; /* rank 0: of the run, as JSON */
    int64_t best_step;   /* its checkpoint is kept; -1: none */
    int32_t keep;        /* save_total_limit at the step boundary */
    int64_t begun_ns;    /* clock_monotonic_ns at the step boundary */
    struct snapshot *snapshot;
    struct checkpoint_writer *writer;
    struct checkpoint_receipt receipt;   /* of this rank's shard */
    struct checkpoint_receipt *receipts; /* [world]; rank 0 */
};

/* This rank's shard, and on rank 0 what else can be written before the other ranks have written theirs.
 * Blocks. */
enum status save_write(struct save *save, const struct saver *saver) LORAD_WARN_UNUSED;
/* Rank 0, when every rank has written: the adapter as PEFT reads it, then the commit. Blocks. */
enum status save_commit(struct save *save, const struct saver *saver) LORAD_WARN_UNUSED;
/* Rank 0, after the commit: says so, and removes old checkpoints. Blocks. */
void save_conclude(const struct save *save, const struct saver *saver);
/* Removes what this rank has written of a save that will not be committed. Blocks. */
void save_abandon(struct save *save, const struct saver *saver);

#endif
