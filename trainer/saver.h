/*
 * saver.h: moves a run to and from checkpoints: brings tensors to the host, carries receipts between ranks,
 * and decides together. checkpoint/ knows files; this room knows ranks.
 *
 * A failed save never ends a run: it is announced, counted, and training goes on with the last good
 * checkpoint.
 */
#ifndef LORAD_TRAINER_SAVER_H
#define LORAD_TRAINER_SAVER_H

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "comm/coord.h"
#include "trainer/session.h"
#include "trainer/state.h"

struct saver {
    struct session *session; /* borrowed */
    struct coord *coord;     /* rank 0 only; borrowed */
    struct fs *fs;
    const char *output_dir;
    int64_t epoch;           /* the fencing epoch, on every rank */
    int64_t last_saved_step; /* -1: none yet */
    int64_t failures;        /* saves that failed; numbers the next attempt */
};

/* Commits the present state. LORAD_OK also when the save failed and training goes on (last_saved_step then
 * stays); LORAD_FENCED ends the run. Blocks. Collective. */
enum status saver_save(struct saver *saver, struct run_state *state,
                       const struct run_identity *identity) LORAD_WARN_UNUSED;

/* Continues from the newest good checkpoint of output_dir (`from` NULL), or from that folder only. A damaged
 * one is moved to quarantine and the next is tried. *found false: there is none. Collective. */
enum status saver_restore(struct saver *saver, const char *from, struct run_state *state,
                          const struct run_identity *identity, bool *found) LORAD_WARN_UNUSED;

/* Loads only the adapter's masters of the checkpoint of `step` (the best one, at the end). Collective. */
enum status saver_load_masters(struct saver *saver, int64_t step) LORAD_WARN_UNUSED;

/* Removes checkpoints beyond `keep`, never the newest nor that of best_step (< 0: none). Rank 0 works, all
 * call. */
void saver_collect(struct saver *saver, int32_t keep, int64_t best_step);

/* The adapter as a PEFT folder at `dir`. Collective. */
enum status saver_export(struct saver *saver, const char *dir) LORAD_WARN_UNUSED;

#endif
