/*
 * teller.h: what a run tells the world through its coordinator: the status that `lorad status` shows, and
 * events (docs/control.md has both). Rank 0 tells; on other ranks every function does nothing.
 *
 * Telling never blocks and never fails. The status is made at most five times a second, and when the phase
 * changes.
 */
#ifndef LORAD_TRAINER_TELLER_H
#define LORAD_TRAINER_TELLER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/strbuf.h"
#include "comm/coord.h"
#include "trainer/metrics.h"
#include "trainer/session.h"
#include "trainer/state.h"
#include "trainer/straggler.h"

struct teller {
    struct coord *coord;               /* NULL: not rank 0. The three below: borrowed */
    const struct run_options *options; /* in force */
    const struct session *session;
    const struct run_state *state;
    struct strbuf hosts, text;
    char since[21];
    char phase[24];
    const struct straggler *straggler; /* NULL ok; borrowed */
    struct step_record last;
    struct eval_record eval;
    double seconds_left; /* < 0: not known */
    double rate;         /* tokens per second, smoothed over some steps */
    int64_t told_ns;     /* when the status was published */
    int64_t saved_step;  /* of the last checkpoint that was committed; < 0: none */
    double saved_time;   /* seconds since 1970 */
    int64_t failed_saves;
};

/* Asks all ranks for the names of their hosts. Collective over the world of the session. */
enum status teller_open(struct teller *teller, struct coord *coord, const struct session *session,
                        const struct run_state *state) LORAD_WARN_UNUSED;
void teller_close(struct teller *teller);

/* "training", "evaluating", "paused", ...: also in the heartbeat. */
void teller_phase(struct teller *teller, const char *phase);
void teller_step(struct teller *teller, const struct step_record *record, double seconds_left);
void teller_eval(struct teller *teller, const struct eval_record *record);
/* The last step of which a checkpoint was committed (< 0: none), and how many saves have failed. */
void teller_saves(struct teller *teller, int64_t saved_step, int64_t failures);
/* Publishes the status again at once: something in it has changed. */
void teller_refresh(struct teller *teller);

/* {"time", "event", "step", "text"} to COORD_EVENTS: `event` is one word ("started"). */
void teller_event(struct teller *teller, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
