/*
 * state.h: everything of a run that changes besides tensors, and what it must not be continued with when
 * different. Written into a checkpoint's manifest as JSON and read back bit for bit.
 */
#ifndef LORAD_TRAINER_STATE_H
#define LORAD_TRAINER_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "dataloader/dataloader.h"
#include "trainer/session.h"

enum stage_end { STAGE_GOES_ON, STAGE_LENGTH, STAGE_EVAL_LOSS, STAGE_PLATEAU, STAGE_EARLY_STOPPING };
enum { STAGE_ENDS = STAGE_EARLY_STOPPING + 1 };

/* The journal of a stage that was left. */
struct stage_record {
    char name[STAGE_NAME_BYTES];
    int64_t first_step, last_step; /* steps of the run before it, and with it */
    enum stage_end end;
    bool has_loss;
    double eval_loss; /* of its last evaluation */
};

/* Rows were added while the run stood in this stage: see mixture.h. */
enum { MOST_APPENDS = 16, MOST_APPEND_GROUPS = 64 };
struct append_record {
    int64_t epoch;                        /* the one that holds them */
    int32_t n_groups;                     /* before */
    int64_t old_rows[MOST_APPEND_GROUPS]; /* [n_groups], zeros behind */
};

/* Where the run stands among its stages. The counters are those of the stage in progress. */
struct stage_state {
    int32_t number;     /* of the stage in progress, from 0 */
    int64_t first_step; /* steps of the run before it */
    bool has_loss;
    double last_loss; /* eval_loss of its last evaluation */
    bool has_level;
    double level; /* the eval_loss that min_delta is counted from */
    int32_t evaluations_on_plateau;
    struct append_record appends[MOST_APPENDS]; /* [n_appends] */
    int32_t n_appends;
    int64_t group_rows[MOST_APPEND_GROUPS]; /* of a checkpoint that was read: rows of its datasets then */
    int32_t n_groups;
    bool spent; /* every dataset entry has reached its epochs: no step can follow */
    struct stage_record done[MOST_STAGES]; /* [number] */
};

/* A value that was changed while the run went on: overrides.h. */
enum { MOST_OVERRIDES = 64, OVERRIDE_KEY_BYTES = 32 };
struct override_record {
    int64_t step;  /* takes effect after it */
    int32_t stage; /* in progress then */
    char key[OVERRIDE_KEY_BYTES];
    double value, was; /* was: what the configuration said */
    char time[21];
};

struct run_state {
    int64_t step;          /* optimizer steps consumed, skipped ones included */
    int64_t applied_steps; /* Adam's t */
    int64_t total_steps;   /* planned, of all stages */
    struct stage_state stage;
    struct data_cursor cursor; /* in the data of the stage in progress */
    double epoch;              /* passes over it so far, for people */
    int64_t global_batch_size;
    int64_t tokens, supervised_tokens; /* trained on so far */
    int32_t skipped_in_row;
    int64_t skipped_steps;
    bool has_best;
    double best_metric;
    int64_t best_step;
    int32_t evaluations_without_gain;
    bool evaluation_owed; /* one was due at `step`, but the run was asked to stop: it comes first */
    int64_t metrics_bytes;
    struct fixed_scales scales;                       /* of the gradient sums of the next step */
    struct loss_scale loss_scale;                     /* of the next step */
    struct override_record overrides[MOST_OVERRIDES]; /* [n_overrides], in the order in which they came */
    int32_t n_overrides;
};

struct stage_identity;

/* What may not change between the parts of one run. */
struct run_identity {
    struct hash128 model, tokenizer;
    const struct stage_identity *stages; /* borrowed; stage_identity.h */
    int32_t n_stages;
    char template_name[32];
    int32_t lora_rank;
    double lora_alpha;
    bool use_rslora;
    int64_t lora_parameters;
    int32_t cutoff_len, micro_batch_size;
    bool packing;
    uint64_t data_seed, seed;
    char precision[8];
};

/* All but the stages: stages_identify. */
void run_identity_make(struct run_identity *out, const struct session *session);

/* Appends one JSON object. `about`: layout and build, for people and for the announcement of what differs. */
void run_state_write(struct strbuf *out, const struct run_state *state, const struct run_identity *identity,
                     const struct session *session);

/* LORAD_DATA when a field is missing or wrong. */
enum status run_state_read(struct run_state *out, const struct json *json,
                           const char *where) LORAD_WARN_UNUSED;
/* LORAD_CONFIG with every difference named when the checkpoint belongs to another model, data or adapter
 * shape. Stages that have not begun may differ, and rows may have been added to the one in progress when its
 * identity says so. */
enum status run_identity_check(const struct json *json, const struct run_identity *now,
                               const char *where) LORAD_WARN_UNUSED;
/* Logs what may change but is worth knowing: layout, threads, configuration, stages that have not begun. */
void run_state_announce(const struct json *json, const struct run_identity *identity,
                        const struct session *session, const char *dir);
/* Appends "key (was X, is Y), ..." for the keys in which two canonical configurations (options->config_text:
 * one key a line) differ, resume_from_checkpoint aside. */
void run_config_differences(struct strbuf *out, const char *was, const char *is);

#endif
