/*
 * model.h: the frozen base with an adapter's forward and backward for one micro-batch, on any device and any
 * tensor-parallel layout. The order of the operations is forward.c and backward.c; the memory is
 * model_memory.c.
 *
 * A model owns all its device memory from model_create on; nothing is allocated in a pass. Passes are
 * enqueued; sums stay on the device until model_read_sums. Collective over the tensor-parallel group: every
 * pass.
 */
#ifndef LORAD_TRAINER_MODEL_H
#define LORAD_TRAINER_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"
#include "comm/comm.h"
#include "dataloader/dataloader.h"
#include "kernels/device.h"
#include "kernels/loss_sum.h"
#include "trainer/adapter.h"
#include "trainer/arch.h"
#include "trainer/lora.h"
#include "trainer/partition.h"
#include "trainer/trainer.h"

struct model;

struct model_options {
    enum dtype dtype;                 /* of activations and frozen weights: f32 or bf16 */
    enum checkpointing checkpointing; /* NONE, MLP or LAYER (the plan has resolved AUTO) */
    bool keep_inputs;   /* with NONE: also what the panels read, which the backward else makes again */
    int32_t max_tokens; /* tokens of the largest micro-batch */
    int32_t max_sequences;
    int32_t max_positions;  /* of any row */
    bool training;          /* false: no backward, no saved activations */
    bool deterministic;     /* CUDA only; the CPU always is */
    bool sequence_parallel; /* see residual.c; means nothing for one rank of tensor parallelism */
};

/* What model_create will take from the device, by the same arithmetic: see plan.h. */
struct model_bytes {
    size_t weights; /* frozen: panels, embedding, norms */
    size_t saved;   /* kept from the forward for the backward */
    size_t scratch; /* everything else */
};
enum status model_measure(struct model_bytes *out, const struct arch *arch, const struct partition *partition,
                          const struct lora *lora, const struct model_options *options,
                          const struct device_backend *backend) LORAD_WARN_UNUSED;

/* lora NULL: the frozen base alone. Borrows everything. The weights are loaded by weights_load. Owns: *out.
 */
enum status model_create(struct model **out, const struct arch *arch, const struct partition *partition,
                         const struct lora *lora, const struct model_options *options, struct device *device,
                         struct comm *tp) LORAD_WARN_UNUSED;
void model_destroy(struct model *model);

/* Refreshes the compute copies of the adapter from its masters: after every update, and once at the start. */
enum status model_set_adapter(struct model *model, const struct adapter *adapter) LORAD_WARN_UNUSED;

/* Forward, loss and backward: adds the gradient (sum over supervised tokens, times gradient_scale) to
 * adapter->grad and the loss to the model's sums. step: optimizer step number, part of the dropout key; seed
 * likewise. */
struct train_pass {
    const struct micro_batch *batch; /* host memory */
    struct adapter *adapter;
    float gradient_scale; /* a power of two: loss_scale.h; else 1 */
    uint64_t seed;
    int64_t step;
    bool replay; /* by a recording of the device where the model can, once the batch's shape was met */
};
enum status model_train(struct model *model, const struct train_pass *pass) LORAD_WARN_UNUSED;
/* Where the device records, and no sums over ranks lie between a pass's operations (tensor parallelism). */
bool model_can_replay(const struct model *model);
/* Passes of model_train that were replayed so far; not one that had to record first, which takes longer. */
int64_t model_replays(const struct model *model);
void model_forget_recordings(struct model *model); /* gives their memory back. Blocks. */

/* Forward and loss without dropout. use_adapter false: the frozen base. row_loss, optional: host [supervised
 * tokens of the batch], the loss of each in batch order (then the call blocks). */
struct eval_pass {
    const struct micro_batch *batch;
    bool use_adapter;
    float *row_loss;
};
enum status model_eval(struct model *model, const struct eval_pass *pass) LORAD_WARN_UNUSED;

/* Sums over passes since the last model_zero_sums. Blocks. */
struct model_sums {
    struct loss_sum loss; /* over supervised tokens, unscaled */
    int64_t correct;      /* of them predicted right by argmax */
};
enum status model_zero_sums(struct model *model) LORAD_WARN_UNUSED;
enum status model_read_sums(struct model *model, struct model_sums *out) LORAD_WARN_UNUSED;

/* f32 logits of tokens [first, first + n) of a batch of one pass, whole vocabulary, to host memory [n,
 * arch->vocab]. For tests and tools. Blocks. */
enum status model_logits(struct model *model, const struct micro_batch *batch, bool use_adapter,
                         int32_t first, int32_t n, float *host) LORAD_WARN_UNUSED;

/* Greedy decoding: a cache of keys and values for one sequence of at most max_positions tokens. */
struct decoder;
/* Of its cache, on a rank. */
size_t decoder_bytes(const struct arch *arch, const struct partition *part,
                     const struct model_options *options);
enum status decoder_create(struct decoder **out, struct model *model, bool use_adapter) LORAD_WARN_UNUSED;
void decoder_destroy(struct decoder *decoder);
/* Feeds n tokens behind those fed before and gives the likeliest next token. Blocks. */
enum status decoder_next(struct decoder *decoder, const int32_t *tokens, int32_t n,
                         int32_t *next) LORAD_WARN_UNUSED;

#endif
