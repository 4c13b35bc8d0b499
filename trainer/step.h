/*
 * step.h: one optimizer step of one adapter: micro-batches, reduction, agreement, update.
 *
 * Invariants:
 *  1. Loss and gradient are weighted sums over supervised tokens, divided once by the sum of all ranks'
 *     weights.
 *  2. Every rank takes the same branch: skip, stop and save are decided on values gathered from all ranks.
 *  3. With adapter->sums a step is computed a second time when its sums did not fit: nobody was told of the
 *     first.
 *  4. A step that is skipped or overflowed leaves parameters, moments and Adam's t as they were; the batch is
 *     consumed all the same.
 */
#ifndef LORAD_TRAINER_STEP_H
#define LORAD_TRAINER_STEP_H

#include "base/status.h"
#include "comm/comm.h"
#include "dataloader/dataloader.h"
#include "trainer/boundary.h"
#include "trainer/loss_scale.h"
#include "trainer/model.h"
#include "trainer/optimizer.h"
#include "trainer/replay.h"

struct step_context {
    struct model *model;
    struct adapter *adapter;
    struct optimizer *optimizer;
    struct comm *world;      /* NULL: one rank */
    const struct arch *arch; /* NULL: nobody asks how much work a step is */
    const struct partition *part;
    uint64_t seed;
    struct replay *replay;               /* NULL: micro-batches are not replayed */
    const struct loss_scale *loss_scale; /* of the step in progress; NULL: none */
    enum status (*gate)(void *context);  /* asked right before the adapter changes; NULL: nobody */
    void *gate_context;
    struct step_share *shares;       /* [ranks], step_prepare */
    struct boundary_report *reports; /* [ranks], likewise: of the last step_finish */
    int64_t start_ns;                /* of the step in progress, as the next two */
    double waited_seconds, work;
    double gradient_scale;    /* likewise: what its gradients are multiplied by */
    bool replays;             /* likewise: its micro-batches are replayed where they can be */
    struct replay_step timed; /* likewise, of this rank; complete at its end */
};

/* Takes what a step needs beside the model. step_release frees it; the other fields stay borrowed. */
enum status step_prepare(struct step_context *context) LORAD_WARN_UNUSED;
void step_release(struct step_context *context);

struct step_result {
    double loss;          /* weighted mean over the step's supervised tokens, all ranks */
    double grad_norm;     /* of the mean loss, before clipping */
    double accuracy;      /* of the supervised tokens */
    double learning_rate; /* that of the plain group */
    bool skipped;         /* loss or norm was not finite */
    double loss_scale;    /* of this step; 0: none */
    bool overflowed;      /* the gradient was not finite, and a smaller loss scale may help: no update */
    bool again;     /* nothing happened: begin this step anew with the same micro-batches (fixed_sums.h) */
    uint32_t wants; /* BOUNDARY_WANTS_* of any rank; each rank's report is in the context */
};

/* Supervised tokens of a step and the sum of their weights, of all ranks. */
struct step_targets {
    int64_t tokens;
    double weight;
};
/* Before the first micro-batch of a step. */
enum status step_begin(struct step_context *context, struct step_targets targets) LORAD_WARN_UNUSED;
/* Adds one micro-batch's loss and gradient; nothing for an empty one. */
enum status step_accumulate(struct step_context *context, const struct micro_batch *batch,
                            int64_t step) LORAD_WARN_UNUSED;
/* Reduces, agrees, and updates with learning-rate factor `factor`; every rank's report is then in
 * context->reports, unless out->again. Collective. */
enum status step_finish(struct step_context *context, struct step_targets targets, double factor,
                        const struct boundary_report *mine, struct step_result *out) LORAD_WARN_UNUSED;

#endif
