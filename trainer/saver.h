/*
 * saver.h: moves a run to and from checkpoints: brings tensors to the host, carries receipts between ranks,
 * and decides together. checkpoint/ knows files; this room knows ranks.
 *
 * Saving goes on in the background. At a step boundary saver_begin notes what is to be saved and returns; one
 * thread copies the adapter while the next forward and backward run (saver_gate, before the update, waits for
 * it), another compresses and writes. How far each rank is rides on its boundary_report (saver_vote); when
 * the reports of a boundary say that every rank has written, rank 0 commits in the background, and reports
 * that at a later one (saver_settle). Nothing is coalesced: with SAVES_IN_FLIGHT under way saver_begin waits.
 *
 * A failed save never ends a run: it is announced, counted, and training goes on with the last good
 * checkpoint. Thread: the main one.
 */
#ifndef LORAD_TRAINER_SAVER_H
#define LORAD_TRAINER_SAVER_H

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "comm/coord.h"
#include "trainer/boundary.h"
#include "trainer/session.h"
#include "trainer/state.h"

struct saver_pipeline;

struct saver {
    struct session *session; /* borrowed */
    struct coord *coord;     /* rank 0 only; borrowed */
    struct fs *fs;
    const char *output_dir;
    int64_t epoch;                   /* the fencing epoch, on every rank */
    int64_t last_saved_step;         /* of the last commit that all ranks know of; -1: none yet */
    bool outdated;                   /* the state of that step has changed since */
    int64_t last_failed_step;        /* of a save that failed since then; -1: none */
    int64_t failures;                /* saves that failed */
    int64_t again;                   /* saves of a step that was saved before; both number the attempts */
    struct saver_pipeline *pipeline; /* saver_start */
};

/* Starts the threads; the adapter is in place. Everything above is filled. Owns: saver->pipeline. */
enum status saver_start(struct saver *saver) LORAD_WARN_UNUSED;
/* Joins the threads. One rank alone has then committed everything; several have what all of them agreed on
 * before, and what no rank can have agreed on is removed. Blocks. A saver that was not started is fine. */
void saver_stop(struct saver *saver);

/* Saves the present state, which is copied, in the background. Nothing when it is saved or being saved.
 * Blocks while SAVES_IN_FLIGHT are. Errors are those of saver_settle. Collective. */
enum status saver_begin(struct saver *saver, const struct run_state *state,
                        const struct run_identity *identity) LORAD_WARN_UNUSED;
/* Before the adapter changes; `saver` is a struct saver. Blocks until the copy of the last save is made. */
enum status saver_gate(void *saver) LORAD_WARN_UNUSED;
/* Fills this rank's part of its report. */
void saver_vote(struct saver *saver, struct save_vote votes[SAVES_IN_FLIGHT]);
/* Acts on the reports of all ranks [world]: commits, learns of commits, gives up what failed. LORAD_FENCED
 * when a newer run owns output_dir. Collective where a save failed. */
enum status saver_settle(struct saver *saver, const struct boundary_report *reports) LORAD_WARN_UNUSED;
/* Until nothing is in flight, and old checkpoints are removed. Blocks. Collective. */
enum status saver_drain(struct saver *saver) LORAD_WARN_UNUSED;

/* Rank 0: from the step boundary to the commit, of the last commit; 0: none yet. */
double saver_last_seconds(const struct saver *saver);
/* What the main thread has spent on saves since the last call. */
double saver_take_stall_seconds(struct saver *saver);

/* The state of `step`, which may be saved already, has changed: the next save of it is another attempt, which
 * counts before the earlier one. Nothing is in flight. */
void saver_state_changed(struct saver *saver, int64_t step);

/* The last step whose state, as it is now, is committed or followed by one that is; < 0: none. */
int64_t saver_settled_step(const struct saver *saver);

/* Continues from the newest good checkpoint of output_dir (`from` NULL), or from that folder only, which
 * may be another run's: last_saved_step then stays -1. A damaged one is moved to quarantine and the next is
 * tried. *found false: there is none. Collective. */
enum status saver_restore(struct saver *saver, const char *from, struct run_state *state,
                          const struct run_identity *identity, bool *found) LORAD_WARN_UNUSED;

/* Loads only the adapter's masters of the checkpoint of `step` (the best one, at the end). Nothing is in
 * flight. Collective. */
enum status saver_load_masters(struct saver *saver, int64_t step) LORAD_WARN_UNUSED;

/* The adapter as a PEFT folder at `dir`. Collective. */
enum status saver_export(struct saver *saver, const char *dir) LORAD_WARN_UNUSED;

#endif
