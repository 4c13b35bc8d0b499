/*
 * run_impl.h: what a run owns, for run.c and the rooms that it is made of: run_boundary.c (what happens
 * between two steps).
 */
#ifndef LORAD_TRAINER_RUN_IMPL_H
#define LORAD_TRAINER_RUN_IMPL_H

#include "trainer/commands.h"
#include "trainer/metrics.h"
#include "trainer/progress.h"
#include "trainer/saver.h"
#include "trainer/stage.h"
#include "trainer/step.h"
#include "trainer/straggler.h"
#include "trainer/teller.h"
#include "trainer/watchdog.h"

struct run {
    const struct run_options *configured;
    struct run_options live;           /* what `lorad set` changes */
    const struct run_options *options; /* in force: those */
    struct session session;
    struct coord *coord; /* rank 0 */
    struct stages stages;
    struct loader *loader;         /* of the stage in progress */
    struct preparation *preparing; /* of the training rows, while it goes on */
    int64_t last_row;              /* that this rank trained on in the step; -1: none */
    struct optimizer *optimizer;
    struct step_context step;
    struct replay replay;
    struct saver saver;
    struct run_identity identity;
    struct run_state state;
    struct metrics *metrics;   /* rank 0 */
    struct progress *progress; /* rank 0 */
    struct watchdog *watchdog;
    struct straggler *straggler; /* rank 0 */
    struct teller teller;
    struct commands commands;
    double waited_seconds;
    double slowest_seconds; /* of a step so far */
    enum stage_end over;    /* of the stage in progress */
    bool asked_to_stop;
    bool resumed;    /* from a checkpoint, which may lie elsewhere */
    bool is_restart; /* of the same job, as rank 0 was told: goes on with what is there */
    bool has_own; /* its earlier starts committed a checkpoint: that one, whatever the configuration names */
};

static inline bool run_is_first(const struct run *run)
{
    return run->session.ranks.rank == 0;
}

static inline const struct stage *run_stage_now(const struct run *run)
{
    return &run->stages.all[run->state.stage.number];
}

static inline bool run_in_last_stage(const struct run *run)
{
    return run->state.stage.number + 1 == run->stages.n;
}

/* Learning rates are a stage's own; the moments stay where they are, in the adapter. */
enum status run_choose_rates(struct run *run) LORAD_WARN_UNUSED;

/* ---- run_boundary.c; all of it collective ---- */

/* After a step: requests, the evaluation and the checkpoint that are due, a pause. Leaves run->over and
 * run->asked_to_stop. */
enum status run_at_boundary(struct run *run, const struct step_info *info,
                            const struct step_result *result) LORAD_WARN_UNUSED;
/* *improved: the best so far. One that a request to stop cut short stays owed. */
enum status run_evaluate(struct run *run, bool *improved) LORAD_WARN_UNUSED;
/* Begins to save the present state, unless that is saved. */
enum status run_save(struct run *run) LORAD_WARN_UNUSED;
/* Waits for what is in flight. Blocks. */
enum status run_drain_saves(struct run *run) LORAD_WARN_UNUSED;
/* Whether the stage in progress is over, by what is known now. */
enum stage_end run_stage_end(const struct run *run);

#endif
