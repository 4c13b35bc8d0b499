/*
 * golden_run.h: trains a golden run with lorad on any layout of ranks and measures how far it ends from the
 * files.
 */
#ifndef LORAD_TESTS_SUPPORT_GOLDEN_RUN_H
#define LORAD_TESTS_SUPPORT_GOLDEN_RUN_H

#include "base/status.h"
#include "comm/comm.h"
#include "kernels/tensor.h"
#include "trainer/lora.h"
#include "trainer/trainer.h"

struct golden_setup {
    const char *name;
    enum dtype dtype;
    enum checkpointing checkpointing;
    bool keep_inputs;
    int32_t tp; /* the world's other factor is data parallel */
    bool sequence_parallel;
    int32_t steps; /* the first so many, after which the adapter is not yet that of the files; 0: all */
};

/* LORAD_GOLDEN_STEPS: so many where the first steps show as much, for devices that are slow; else 0. */
int32_t golden_steps_wanted(void);

/* Relative errors, the same on every rank. */
struct golden_errors {
    double logits;    /* largest difference over largest logit */
    double loss;      /* worst of all steps */
    double grad_norm; /* worst of all steps */
    double rate;      /* learning rate, worst of all steps, over the peak */
    double gradient;  /* step 1: worst factor, norm-wise */
    double adapter;   /* after the last step: worst factor, norm-wise, of A - A0 and of B */
    char worst_gradient[LORA_NAME_BYTES], worst_adapter[LORA_NAME_BYTES];
};

/* Collective over the world. */
enum status golden_run(struct golden_errors *out, const struct golden_setup *setup,
                       const struct comm_world_info *world) LORAD_WARN_UNUSED;

/* One line for people. */
void golden_errors_print(const struct golden_setup *setup, int dp, const struct golden_errors *errors);

#endif
