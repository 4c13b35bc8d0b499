/*
 * plan.h: the memory a rank needs, before any of it is taken, and the choice of gradient checkpointing.
 * The sizes come from the same functions that later take the memory, so plan and use agree by construction.
 */
#ifndef LORAD_TRAINER_PLAN_H
#define LORAD_TRAINER_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"
#include "trainer/model.h"

struct plan {
    struct model_bytes model; /* at the chosen rung */
    size_t adapter;           /* masters, gradients, moments, sums in fixed point */
    size_t cache;             /* of keys and values, to generate with */
    size_t saves; /* copies of it that checkpoints are written from, on a device that is the host */
    size_t total;
    enum checkpointing checkpointing;
    bool keep_inputs;  /* with NONE, and room to spare */
    int64_t available; /* bytes this rank may use */
};

struct plan_request {
    const struct device_backend *backend; /* what it is planned for */
    struct model_options model;           /* checkpointing and keep_inputs are ignored */
    enum checkpointing wanted;
    bool generates;    /* a decoder stands beside the model */
    bool elastic;      /* gradients are summed in fixed point */
    bool host;         /* the device is the host */
    int64_t available; /* <= 0: as much as it takes */
};

/* Climbs the ladder none (with the panels' inputs kept, and without), mlp, layer only as far as `available`
 * demands (wanted == CHECKPOINTING_AUTO), or takes the rung that was asked for. LORAD_NOMEM with the sizes
 * when it does not fit. */
enum status plan_make(struct plan *out, const struct arch *arch, const struct partition *partition,
                      const struct lora *lora, const struct plan_request *request) LORAD_WARN_UNUSED;

/* A table for people. */
void plan_print(struct strbuf *out, const struct plan *plan);

const char *checkpointing_name(enum checkpointing mode);

#endif
