/*
 * checkpoints.h: looking at the checkpoints of a run, and after them, from outside of it: `lorad inspect`,
 * `lorad checkpoints`, `lorad gc`. Needs neither MPI nor a device, and none of the run's inputs.
 *
 * What there is to say is appended to `out`, for people or (json) as one JSON object, also when the result is
 * a failure.
 */
#ifndef LORAD_TRAINER_CHECKPOINTS_H
#define LORAD_TRAINER_CHECKPOINTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"

struct checkpoints_view {
    bool verify;  /* read every byte and compare it with its hash */
    bool tensors; /* list them */
    bool json;
    const char *config_text; /* of a configuration to compare with (run_options); NULL: none */
};
/* `path`: the folder of a checkpoint, its link, or an output_dir, whose newest good one is then meant.
 * LORAD_DATA: damaged. LORAD_NOT_FOUND. */
enum status checkpoints_inspect(struct strbuf *out, const char *path,
                                const struct checkpoints_view *options) LORAD_WARN_UNUSED;

/* All checkpoints of an output_dir, newest first, with what is in quarantine and trash. LORAD_DATA when
 * `verify` finds a damaged one. */
enum status checkpoints_table(struct strbuf *out, const char *output_dir, bool verify,
                              bool json) LORAD_WARN_UNUSED;

/* Pins the checkpoint of a step (of the highest epoch that is not void), or takes the pin away. */
enum status checkpoints_pin(struct strbuf *out, const char *output_dir, int64_t step,
                            bool pinned) LORAD_WARN_UNUSED;

/* Removes what a run would remove, with `keep` in place of save_total_limit (0: what the newest checkpoint's
 * configuration says), and what runs leave behind when they die. LORAD_CANNOT_CREATE when a live run owns the
 * folder; a dry run only says what would go, at any time. */
enum status checkpoints_tidy(struct strbuf *out, const char *output_dir, int32_t keep,
                             bool dry_run) LORAD_WARN_UNUSED;

#endif
