/*
 * stage.h: the stages of a run: their rows, their lengths, and the rules by which one follows another. A run
 * without `stages` is one stage.
 *
 * Invariants:
 *  1. Whether a stage is over is a function of the options and the run's state alone (stage_end), so a
 *     resumed run decides as the uninterrupted one did, whatever was going on when it was killed.
 *  2. What depended on results is in the state, and so in the manifest: the counters of the stage in
 *     progress, and the record of every stage that was left.
 *  3. A step never holds rows of two stages; stage n's order of rows depends on n and not on the stages
 *     before.
 */
#ifndef LORAD_TRAINER_STAGE_H
#define LORAD_TRAINER_STAGE_H

#include "base/status.h"
#include "base/strbuf.h"
#include "trainer/data.h"
#include "trainer/session.h"
#include "trainer/stage_identity.h"
#include "trainer/state.h"

struct stage {
    struct stage_options options;
    struct dataset *train, *eval;             /* eval NULL: none asked for */
    bool train_is_lent, eval_is_lent;         /* an earlier stage's, which closes it */
    double *group_weights, *group_max_epochs; /* [n_train_sources] */
    struct hash128 *group_hashes;             /* [n_train_sources]; NULL: not known, see stages_identify */
    struct mixture_append *appends;           /* [n_appends]: rows that were added while it trained */
    int32_t n_appends;
    int64_t steps; /* planned; stages_measure */
};

struct stages {
    struct stage *all;
    struct stage_identity *identities; /* [n] */
    int32_t n;
};

/* "stage 2 of 3, banking"; "" for a run without stages. */
const char *stage_title(char buffer[128], const struct run_options *run, int32_t number);

/* Prepares and opens the rows of all stages, so that a bad row of the last one is told before the first one
 * trains. Collective over the session's ranks when it has joined them. A run without stages whose length is
 * max_steps may begin while its rows are being prepared: *preparing is what goes on then (preparing NULL: it
 * must be done). Owns: *out, *preparing. */
enum status stages_open(struct stages *out, struct session *session,
                        struct preparation **preparing) LORAD_WARN_UNUSED;
void stages_close(struct stages *stages);

/* Room for the largest micro-batch of any stage, in training and evaluation. */
struct loader_capacity stages_capacity(const struct stages *stages, const struct session *session);

/* How long every stage is, packing lengths on paper unless max_steps says so. */
enum status stages_measure(struct stages *stages, const struct session *session,
                           int64_t global_batch_size) LORAD_WARN_UNUSED;
/* Steps of the run as planned now: those done in stages that were left, and the lengths of the others. */
int64_t stages_total_steps(const struct stages *stages, const struct stage_state *state);

struct loader_options stage_loader(const struct stages *stages, int32_t number, const struct session *session,
                                   int64_t global_batch_size);

/* Which row stands where: what the loader makes of the stage's groups. Owns: *out. */
enum status stage_mixture(struct mixture **out, const struct stage *stage, uint64_t seed,
                          uint64_t number) LORAD_WARN_UNUSED;

/* What the run must not be continued with when different. The rows of each dataset are hashed once, here,
 * unless they are many and nothing asks for it. The identity borrows from `stages`. */
enum status stages_identify(struct run_identity *identity, struct stages *stages,
                            bool may_grow) LORAD_WARN_UNUSED;

/* After a checkpoint was restored: rows that its stage in progress had not (saved: its groups' rows then) are
 * journalled, and the mixture is told of all additions. Each makes the stage one epoch longer, unless its
 * length is given in steps or tokens. LORAD_CONFIG: too often. */
enum status stages_append(struct stages *stages, struct run_state *state) LORAD_WARN_UNUSED;

/* ---- the rules; pure ---- */

/* Whether the stage in progress is over, and why. patience: early_stopping_patience. */
enum stage_end stage_end(const struct stage *stage, const struct run_state *state, int32_t patience);
/* The words of a person: "eval_loss 1.203 is below 1.3". */
void stage_end_text(struct strbuf *out, enum stage_end end, const struct stage *stage,
                    const struct run_state *state);
/* Counts an evaluation of the stage in progress. */
void stage_note_evaluation(struct stage_state *state, const struct promotion *promote, double eval_loss);
/* Journals the end of the stage in progress and stands at the beginning of the next: cursor, best metric and
 * counters start anew; adapter, moments and steps go on. */
void stage_leave(struct run_state *state, const struct stage *stage, enum stage_end end);

#endif
