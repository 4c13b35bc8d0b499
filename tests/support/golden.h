/*
 * golden.h: a golden run of tests/data/golden: the inputs of 20 optimizer steps and what transformers + PEFT
 * made of them. tests/golden/gen_models.py writes the files and documents every tensor.
 */
#ifndef LORAD_TESTS_SUPPORT_GOLDEN_H
#define LORAD_TESTS_SUPPORT_GOLDEN_H

#include <stdint.h>

#include "base/status.h"
#include "checkpoint/safetensors.h"
#include "dataloader/dataloader.h"

struct golden {
    char model_dir[512], adapter_dir[512];
    struct st_set *set; /* the golden file, for gradients and the final adapter */

    int32_t *tokens, *labels, *positions; /* of all micro-batches */
    int64_t *token_index, *row_ids;
    int32_t *micro_start, *seq_start, *micro_seq, *step_micro;
    int32_t steps, micros;
    int32_t max_tokens, max_sequences, longest;

    float *logits; /* [logit_rows, vocab] of micro-batch 0 */
    int64_t logit_rows, vocab;
    double *loss, *grad_norm, *lr; /* [steps] */
    int64_t *supervised;           /* [steps] */

    double learning_rate, weight_decay, beta1, beta2, epsilon, max_grad_norm;
    int64_t warmup_steps;
};

/* The names of all golden runs, ending with NULL. */
extern const char *const golden_names[];

/* Opens tests/data/golden/NAME. Owns: *out. */
enum status golden_open(struct golden **out, const char *name) LORAD_WARN_UNUSED;
void golden_close(struct golden *golden); /* NULL ok */

/* Micro-batch m of the run; borrows the golden's memory. */
struct micro_batch golden_micro(const struct golden *golden, int32_t m);

/* An f32 tensor of the file, "grad.NAME" or "final.NAME". Owns: *out (free). */
enum status golden_tensor(float **out, const struct golden *golden, const char *kind, const char *name,
                          int64_t rows, int64_t cols) LORAD_WARN_UNUSED;

/* ||a - b|| / ||b||, both less `base` when it is set; infinite when anything is not finite. */
double golden_distance(const float *a, const float *b, const float *base, int64_t n);
/* max |a - b| / max |b|. */
double golden_max_distance(const float *a, const float *b, int64_t n);

#endif
