/*
 * metrics.h: the numbers of a run, kept in output_dir/logs: metrics.jsonl (docs/formats/metrics.md) and
 * TensorBoard event files beside it. Only rank 0 opens them; every function takes NULL and does nothing then.
 *
 * Metrics never stop a run: a line that cannot be written is lost with one warning, and no line is ever
 * written in part.
 */
#ifndef LORAD_TRAINER_METRICS_H
#define LORAD_TRAINER_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct coord;
struct metrics;

/* One logged step. NaN and infinities are written as null. */
struct step_record {
    const char *stage;         /* its name; NULL or "": the run has none */
    int64_t step, total_steps; /* steps done, this one included, of all */
    double epoch;              /* passes over the data so far, 0.37 */
    double loss;               /* mean over the step's supervised tokens of all ranks */
    double grad_norm;          /* before clipping */
    double learning_rate;
    int64_t supervised_tokens; /* of this step, all ranks; as the two below */
    int64_t tokens;            /* real ones: without the padding at the end of packs */
    int64_t slots;             /* places for tokens in the packs: tokens / slots is the packing efficiency */
    int64_t total_tokens;      /* real tokens since step 1 */
    double step_seconds;
    double loader_wait_seconds; /* of step_seconds */
    double save_stall_seconds;  /* spent on checkpoints since the step before: at its end and in this one */
    int64_t skipped_steps;      /* since step 1, non-finite ones */
    double loss_scale;          /* of this step; 0: none */
    bool overflowed;            /* at that scale: no update */
    bool skipped;               /* this one */
};

struct eval_record {
    const char *stage; /* as in step_record */
    int64_t step;
    double epoch;
    double loss; /* mean over supervised tokens; perplexity is exp of it */
    double token_accuracy;
    int64_t tokens; /* supervised */
    double seconds;
    bool best; /* so far */
};

struct metrics_options {
    const char *output_dir;
    int64_t resume_bytes; /* metrics_offset when the checkpoint was made: metrics.jsonl is cut there; 0: a new
                             run, and an old file is kept under another name */
    int64_t resume_step;  /* tells TensorBoard to forget later steps of older files */
    bool tensorboard;
    struct coord *coord; /* is told each line of metrics.jsonl; NULL ok; borrowed */
};

/* LORAD_CANNOT_CREATE, LORAD_IO. Owns: *out. */
enum status metrics_open(struct metrics **out, const struct metrics_options *options) LORAD_WARN_UNUSED;
void metrics_close(struct metrics *metrics);

void metrics_log_step(struct metrics *metrics, const struct step_record *record);
void metrics_log_eval(struct metrics *metrics, const struct eval_record *record);

/* Bytes of metrics.jsonl so far, always the end of a line: part of a checkpoint. 0 for NULL. */
int64_t metrics_offset(const struct metrics *metrics);

#endif
