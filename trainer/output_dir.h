/* output_dir.h: what may already lie in output_dir when a run starts. Rank 0 only. */
#ifndef LORAD_TRAINER_OUTPUT_DIR_H
#define LORAD_TRAINER_OUTPUT_DIR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "trainer/trainer.h"

/* Creates it and checks that it can be written. LORAD_CANNOT_CREATE. */
enum status output_dir_prepare(const struct run_options *options) LORAD_WARN_UNUSED;

/* The highest fencing epoch of any checkpoint in it; 0: none. */
int64_t output_dir_last_epoch(const struct run_options *options);

/* Once this run owns the folder: LORAD_CANNOT_CREATE when it holds a run that is neither continued
 * (resume_from_checkpoint, or a restart of the job) nor to be moved aside (overwrite_output_dir). */
enum status output_dir_check(const struct run_options *options, bool is_restart) LORAD_WARN_UNUSED;

/* Moves a run that output_dir_check let pass, and that is not continued, to trash/. Called when all inputs
 * are known to be good, so that a mistake in them costs nobody a finished run. */
enum status output_dir_clear(const struct run_options *options, bool is_restart) LORAD_WARN_UNUSED;

#endif
