/*
 * overrides.h: what may be changed of a run while it goes on (`lorad set`), and the journal of what was.
 *
 * 1. An override takes effect between two steps, on all ranks, and is in the run's state from then on: a
 *    checkpoint of that step holds it, and a resumed run has it again.
 * 2. The configuration comes last: an override of a value that the configuration has changed since is
 *    dropped at the resume.
 * 3. learning_rate is the stage's that was in progress, and ends with it; everything else is the run's.
 *
 * The values in force stand where they always do: in the run's options and in its stages' options.
 */
#ifndef LORAD_TRAINER_OVERRIDES_H
#define LORAD_TRAINER_OVERRIDES_H

#include "base/json.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "trainer/stage.h"
#include "trainer/state.h"
#include "trainer/trainer.h"

/* Where the values are. */
struct override_place {
    const struct run_options *configured;
    struct run_options *options; /* in force */
    struct stages *stages;       /* in force */
};

/* A key that can be set, with the limits of the configuration's table. */
struct override_key {
    const char *name;
    bool whole; /* a whole number */
    double lowest, highest;
    bool above_lowest; /* the lowest itself is too low */
};
extern const struct override_key override_keys[];
extern const int32_t override_n_keys;

/* LORAD_CONFIG says why it cannot be: no such key, no such number, out of bounds, without any effect here. */
enum status override_read(struct override_record *out, const struct override_place *place,
                          const struct run_state *state, const char *key,
                          const char *value) LORAD_WARN_UNUSED;
/* Puts it in force and into the journal; the optimizer has to be made anew. */
void override_apply(const struct override_place *place, struct run_state *state,
                    const struct override_record *record);
/* After a checkpoint was restored: puts the journal in force, and drops what rule 2 drops. */
void overrides_replay(const struct override_place *place, struct run_state *state);

/* "learning_rate 1e-05" */
void override_text(struct strbuf *out, const struct override_record *record);

/* The journal as a JSON list; reading it: LORAD_DATA. */
void overrides_write(struct strbuf *out, const struct run_state *state);
enum status overrides_parse(struct run_state *out, const struct json *list,
                            const char *where) LORAD_WARN_UNUSED;

#endif
