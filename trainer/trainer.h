/*
 * trainer.h: the public face of the trainer: what a run is asked to do, and the three things it can do.
 *
 * launch/config fills the options from YAML; nothing below launch/ sees YAML. Strings are borrowed and
 * outlive the call.
 */
#ifndef LORAD_TRAINER_TRAINER_H
#define LORAD_TRAINER_TRAINER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "comm/comm.h"
#include "dataloader/dataloader.h"
#include "dataloader/row_inspect.h"
#include "trainer/loss_scale.h"

enum precision { PRECISION_F32, PRECISION_BF16, PRECISION_F16 };
enum schedule_kind {
    SCHEDULE_LINEAR,
    SCHEDULE_COSINE,
    SCHEDULE_COSINE_WITH_MIN_LR,
    SCHEDULE_CONSTANT,
    SCHEDULE_CONSTANT_WITH_WARMUP
};
/* Which runs have the same bits: none for certain; those of one layout; those of one tensor-parallel width.
 */
enum determinism { DETERMINISM_OFF, DETERMINISM_ON, DETERMINISM_ELASTIC };
enum cuda_graphs { CUDA_GRAPHS_OFF, CUDA_GRAPHS_ON, CUDA_GRAPHS_AUTO };
enum when { WHEN_NO, WHEN_STEPS, WHEN_EPOCH, WHEN_BEST };
enum data_policy { DATA_REFUSE, DATA_APPEND }; /* of rows added to a run that is resumed */
enum progress_style { PROGRESS_AUTO, PROGRESS_BAR, PROGRESS_LINES };
enum checkpointing { CHECKPOINTING_AUTO, CHECKPOINTING_NONE, CHECKPOINTING_MLP, CHECKPOINTING_LAYER };

struct lr_group {
    const char *pattern; /* shell pattern over module paths: "*.layers.0.*", "*lora_B*" */
    double learning_rate;
};

struct lora_options {
    int32_t rank;
    double alpha;
    double dropout;
    bool use_rslora;
    const char *const *targets; /* short names; {"all"}; or one regular expression when targets_are_pattern */
    int32_t n_targets;
    bool targets_are_pattern; /* PEFT: a string matched against the whole module path */
    /* asked for by the user, so that an adapter of another shape (adapter_name_or_path) is refused */
    bool rank_given, alpha_given, rslora_given, targets_given;
};

struct optimizer_options {
    double learning_rate;
    enum schedule_kind schedule;
    double warmup_ratio; /* of all steps; used when warmup_steps == 0 */
    int64_t warmup_steps;
    double min_lr; /* cosine_with_min_lr: absolute */
    double weight_decay, beta1, beta2, epsilon;
    double max_grad_norm;     /* 0: no clipping */
    double loraplus_lr_ratio; /* learning rate of B over that of A; 0: off */
    const struct lr_group *lr_groups;
    int32_t n_lr_groups;
};

/* When a stage ends before its length is done; both look at eval_loss. */
struct promotion {
    double eval_loss_below;      /* 0: not asked for */
    int32_t plateau_evaluations; /* so many in a row without a gain of min_delta; 0: not asked for */
    double min_delta;
};

/* What a stage of a run has of its own, complete: what it does not say itself it has from the run. */
struct stage_options {
    int32_t number;   /* from 0 */
    const char *name; /* "": the run has no `stages` and is this one */
    const struct dataset_source *train_sources;
    int32_t n_train_sources;
    const struct dataset_source *eval_sources; /* the run's own list unless the stage names another */
    int32_t n_eval_sources;
    double val_size;
    enum mix_strategy mix_strategy;
    struct optimizer_options optimizer;
    double num_train_epochs;
    int64_t max_steps, max_tokens; /* > 0: instead of epochs; at most one of them */
    struct promotion promote;
};
enum { MOST_STAGES = 64, STAGE_NAME_BYTES = 64 };

/* What is looked for in the rows before they are trained on. */
struct inspect_keys {
    enum pii_policy pii;
    const char *sensitive_words; /* path; NULL: none */
    int32_t min_answer_chars;
    bool near_duplicates;
};

struct run_options {
    /* model */
    const char *model_dir;
    const char *adapter_dir; /* continue this PEFT adapter; NULL: new */
    struct lora_options lora;
    enum precision precision;
    struct loss_scale_options loss_scale; /* where fp16 is computed with */
    enum checkpointing gradient_checkpointing;
    const char *device; /* "auto", "cpu", "cuda" */
    enum determinism deterministic;
    enum cuda_graphs cuda_graphs;
    const char *comm;    /* "auto", "self", "mpi", "nccl" */
    double hang_timeout; /* seconds; 0: nobody watches. See watchdog.h */
    int32_t tensor_parallel_size;
    bool sequence_parallel;

    /* data */
    const struct dataset_source *train_sources;
    int32_t n_train_sources;
    const struct dataset_source *eval_sources;
    int32_t n_eval_sources;
    double val_size;
    enum mix_strategy mix_strategy;
    enum data_policy data_policy;
    const struct stage_options *stages;
    int32_t n_stages;          /* 0: the run is one stage, made of the fields here */
    const char *template_name; /* NULL: the model's own */
    struct chat_options chat;
    int32_t cutoff_len;
    enum excess_length excess;
    bool packing;
    struct inspect_keys inspect;
    const char *cache_dir; /* NULL: output_dir/cache */
    bool overwrite_cache;

    /* optimisation */
    struct optimizer_options optimizer;
    double num_train_epochs;
    int64_t max_steps;                   /* > 0 overrides epochs */
    int64_t max_tokens;                  /* > 0 overrides epochs: real tokens, without padding */
    int32_t per_device_train_batch_size; /* packs in a micro-batch */
    bool auto_find_batch_size;           /* as many as fit instead */
    int32_t per_device_eval_batch_size;  /* 0: as in training */
    int32_t gradient_accumulation_steps; /* used when global_batch_size == 0 */
    int64_t global_batch_size;           /* packs; 0: per_device * accumulation * dp at the first start */
    uint64_t seed, data_seed;
    int32_t max_skipped_steps;

    /* logging, evaluation, saving */
    const char *output_dir;
    bool overwrite_output_dir;
    const char *run_name;
    const char *redis_url; /* NULL: none */
    const char *redis_prefix;
    int64_t logging_steps;
    enum when eval_strategy;
    int64_t eval_steps;
    enum when save_strategy;
    int64_t save_steps;
    int32_t save_total_limit;       /* 0: keep all */
    int32_t save_compression_level; /* of zstd */
    int32_t save_threads;
    bool load_best_model_at_end;
    const char *metric_for_best_model;  /* "eval_loss", "eval_token_accuracy" or another name of these */
    bool greater_is_better;             /* the metric is the accuracy */
    int32_t early_stopping_patience;    /* evaluations; 0: off */
    const char *resume_from_checkpoint; /* NULL: no; "auto": newest good one or fresh; else a folder */
    double stop_grace_seconds;          /* from the request to stop to the kill; 0: not said */
    bool report_tensorboard;
    enum progress_style progress;

    struct hash128 config_hash; /* of everything that must be the same on all ranks */
    const char *config_text;    /* the resolved configuration, kept beside the checkpoints */
};

/* The stages of a run: one, made of the run's own fields, without `stages`. */
int32_t run_stages(const struct run_options *options);
struct stage_options run_stage(const struct run_options *options, int32_t number);

/* Trains from start to adapter. Collective over the world. The main thread. Returns LORAD_REQUEUE when it
 * checkpointed on request. Errors have been made common to all ranks where that was possible. */
enum status run_train(const struct run_options *options,
                      const struct comm_world_info *world) LORAD_WARN_UNUSED;

struct eval_options {
    const char *adapter_dir; /* NULL: the frozen base */
    bool per_row;
    bool json;
};
/* Held-out loss over eval_sources (or the val_size part). Prints to standard output on rank 0. Collective. */
enum status run_eval(const struct run_options *options, const struct eval_options *eval,
                     const struct comm_world_info *world) LORAD_WARN_UNUSED;

struct generate_options {
    const char *adapter_dir;
    const char *prompt;
    const char *system;
    int32_t max_new_tokens;
};
/* Greedy answer to one prompt, printed as it comes on rank 0. Collective. */
enum status run_generate(const struct run_options *options, const struct generate_options *generate,
                         const struct comm_world_info *world) LORAD_WARN_UNUSED;

struct run_plan_request {
    int world;       /* ranks to plan for */
    const char *gpu; /* each has one of these (gpu_memory.h); NULL: they share this machine's processor */
    bool rows; /* false: they could not be prepared; then only the model and the adapter are looked at */
};
/* The plan without running it: the part of `lorad check` that knows the model. Appends a memory table per
 * rank and the step count to `out`; needs neither MPI nor a device. */
enum status run_plan(struct strbuf *out, const struct run_options *options,
                     const struct run_plan_request *request) LORAD_WARN_UNUSED;

/* The rows of a run without the run: for `lorad prepare` and `lorad check`. Needs neither MPI nor a
 * device. */
struct run_rows;
/* Tokenizer, template, word list. Borrows the options. Owns: *out. */
enum status run_rows_open(struct run_rows **out, const struct run_options *options,
                          int32_t stage) LORAD_WARN_UNUSED; /* of one stage */
void run_rows_close(struct run_rows *rows);
/* Prepares, or finds, the training or the held-out rows; a bar shows how far it is. verify: everything is
 * then read again and compared with the hashes that were stored. Blocks. */
enum status run_rows_prepare(struct run_rows *rows, bool held_out, bool verify) LORAD_WARN_UNUSED;
const char *run_rows_folder(const struct run_rows *rows, bool held_out); /* borrowed; NULL: not prepared */
/* Looks at all rows at once, for duplicates and overlap, and writes report.html. Blocks. */
enum status run_rows_review(struct run_rows *rows) LORAD_WARN_UNUSED;
/* What there is to say about what was prepared and reviewed, appended: for people, or one JSON object. */
void run_rows_text(const struct run_rows *rows, struct strbuf *out);
void run_rows_json(const struct run_rows *rows, struct strbuf *out);

/* Signal handlers call this (async-signal-safe): finish the step, checkpoint, end with LORAD_REQUEUE (stop),
 * or go on. */
void run_request(bool checkpoint, bool stop);

/* The job that this run is a start of; a later start takes output_dir over from earlier ones that still live.
 * Slurm's requeues count first, then the restarts of `lorad run`. */
struct run_job {
    const char *id; /* SLURM_JOB_ID, else LORAD_JOB_ID; NULL: none. Borrowed from the environment. */
    int start;      /* from SLURM_RESTART_COUNT and LORAD_RESTART_COUNT */
    bool requeued;  /* by Slurm: goes on with what is in output_dir */
};
struct run_job run_job(void);

/* The newest committed checkpoint of a folder, whoever wrote it: the last one of the last start that has any,
 * since what later steps an earlier start left may be void. step -1: there is none. */
struct run_committed {
    int64_t step, epoch;
};
struct run_committed run_committed(const char *output_dir);

#endif
