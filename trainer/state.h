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

struct run_state {
    int64_t step;          /* optimizer steps consumed, skipped ones included */
    int64_t applied_steps; /* Adam's t */
    int64_t total_steps;   /* planned: part of the schedule */
    struct data_cursor cursor;
    double epoch; /* passes so far, for people */
    int64_t global_batch_size;
    int64_t tokens, supervised_tokens; /* trained on so far */
    int32_t skipped_in_row;
    int64_t skipped_steps;
    bool has_best;
    double best_metric;
    int64_t best_step;
    int32_t evaluations_without_gain;
    int64_t metrics_bytes;
};

/* What may not change between the parts of one run. */
struct run_identity {
    struct hash128 model, tokenizer, dataset;
    struct hash128 dataset_key; /* of the same rows: what they are known by while they are being prepared */
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

void run_identity_make(struct run_identity *out, const struct session *session, const struct dataset *train);

/* Appends one JSON object. `about`: layout and build, for people and for the announcement of what differs. */
void run_state_write(struct strbuf *out, const struct run_state *state, const struct run_identity *identity,
                     const struct session *session);

/* LORAD_DATA when a field is missing or wrong. */
enum status run_state_read(struct run_state *out, const struct json *json,
                           const char *where) LORAD_WARN_UNUSED;
/* LORAD_CONFIG with every difference named when the checkpoint belongs to another model, data or adapter
 * shape. */
enum status run_identity_check(const struct json *json, const struct run_identity *now,
                               const char *where) LORAD_WARN_UNUSED;
/* Logs what may change but is worth knowing: layout, threads, configuration. */
void run_state_announce(const struct json *json, const struct session *session, const char *dir);
/* Appends "key (was X, is Y), ..." for the keys in which two canonical configurations (options->config_text:
 * one key a line) differ, resume_from_checkpoint aside. */
void run_config_differences(struct strbuf *out, const char *was, const char *is);

#endif
