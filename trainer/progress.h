/*
 * progress.h: what a person sees while training: one line that redraws itself on a terminal, plain lines
 * elsewhere. All on standard error. Only rank 0 opens it; every function takes NULL and does nothing then.
 *
 * At most one is open in a process: it hooks into the log, so that messages and the bar do not write over
 * each other. Thread: one caller; log lines of any thread.
 */
#ifndef LORAD_TRAINER_PROGRESS_H
#define LORAD_TRAINER_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "trainer/metrics.h"
#include "trainer/trainer.h"

struct progress;

/* first_step: steps that were done before (a resume); total_steps: of the whole run. Owns: *out. */
enum status progress_open(struct progress **out, enum progress_style style, int64_t first_step,
                          int64_t total_steps) LORAD_WARN_UNUSED;
/* Leaves the last state of the bar on its own line. */
void progress_close(struct progress *progress);

/* Every step. The bar is redrawn at most ten times a second; lines are printed when `logged` (each
 * logging_steps). */
void progress_step(struct progress *progress, const struct step_record *record, bool logged);
void progress_eval(struct progress *progress, const struct eval_record *record);
/* As shown; < 0: not known. */
double progress_seconds_left(const struct progress *progress);
/* So long nothing went on: it does not count for the time left. */
void progress_rested(struct progress *progress, int64_t ns);

/* What goes on besides steps, shown at the end of the bar until the next step: "evaluating 3/12", "saving".
 * The lines style shows nothing. */
void progress_note(struct progress *progress, const char *text);

/* For something that is no training: the same line, with a text of the caller's (ASCII). */
enum status progress_open_text(struct progress **out, enum progress_style style) LORAD_WARN_UNUSED;
/* The bar is redrawn at most ten times a second, a line printed every ten seconds. */
void progress_text(struct progress *progress, const char *text);
/* The width in columns that a bar may have. */
int progress_width(void);
/* "1:05" or "2:00:10". */
void progress_duration(char text[32], double seconds);

/* PROGRESS_AUTO decided: PROGRESS_BAR when standard error is a terminal, or when mpirun, which gives its
 * ranks pipes, itself writes to one. Others stay as they are. */
enum progress_style progress_pick(enum progress_style style);

/* The bar as text of at most `width` columns (ASCII): fields that do not fit are left out, the least
 * important first. seconds_left < 0: not known yet. Returns its length. */
size_t progress_bar_text(char *text, size_t bytes, int width, const struct step_record *record,
                         double seconds_left, const char *note);

#endif
