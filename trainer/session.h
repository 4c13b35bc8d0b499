/*
 * session.h: what training, evaluation and generation all need: device, groups of ranks, tokenizer, frozen
 * model and adapter, opened in this order and closed in reverse.
 */
#ifndef LORAD_TRAINER_SESSION_H
#define LORAD_TRAINER_SESSION_H

#include "base/status.h"
#include "checkpoint/adapter_file.h"
#include "checkpoint/safetensors.h"
#include "comm/comm.h"
#include "dataloader/chat_template.h"
#include "dataloader/tokenizer.h"
#include "trainer/adapter.h"
#include "trainer/model.h"
#include "trainer/plan.h"
#include "trainer/trainer.h"

struct session {
    const struct run_options *options;
    struct comm_world_info ranks;
    struct device *device;
    bool on_gpu; /* the device is one, or the plan is for one */
    struct comm *world, *tp, *dp;
    struct arch arch;
    struct partition part;
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    struct adapter_config adapter_config; /* of options->adapter_dir */
    struct lora_options lora_options;     /* the shape in force */
    struct lora *lora;                    /* NULL: the frozen base alone */
    struct st_set *weights;
    struct hash128 model_hash;
    char cache_dir[4096]; /* of prepared data */
    struct word_list *words;
    struct inspect_options inspect; /* of rows, as they are prepared */
    int32_t micro_batch_size;       /* rows (packs) a rank computes at once */
    struct plan plan;
    struct model_options model_options;
    struct model *model;
    struct adapter *adapter;
};

enum session_use {
    SESSION_TRAIN,    /* an adapter is trained: the one of adapter_dir, or a new one */
    SESSION_INFER,    /* the adapter of adapter_dir, or the frozen base */
    SESSION_GENERATE, /* likewise, with a decoder beside it */
};

/* What preparing rows needs: cache folder, tokenizer, template, word list. The session starts zeroed. */
enum status session_read_text(struct session *session, const struct run_options *options) LORAD_WARN_UNUSED;

/* What can be known without a device or other ranks: architecture, tokenizer, template, adapter shape, tensor
 * names. The part of `lorad check` that concerns the model. */
enum status session_read(struct session *session, const struct run_options *options, const char *adapter_dir,
                         enum session_use use) LORAD_WARN_UNUSED;

/* Device and groups of ranks. Collective over the world. */
enum status session_join(struct session *session, const struct comm_world_info *ranks) LORAD_WARN_UNUSED;

/* LORAD_DATA, naming the rank, unless all ranks have rank 0's hash of `what`, which `key` names. Collective.
 */
enum status session_compare(const struct session *session, struct hash128 mine, const char *what,
                            const char *key) LORAD_WARN_UNUSED;

/* Which memory is needed for micro-batches of this size, then model and adapter in place. Collective. */
enum status session_load(struct session *session, struct loader_capacity capacity, const char *adapter_dir,
                         enum session_use use) LORAD_WARN_UNUSED;

void session_close(struct session *session);

/* What memory there is for this rank, and how it may be used; all but the model's size. */
struct plan_request session_plan_request(const struct session *session);

/* Sizes for model_create, from the options and a micro-batch's capacity. */
struct model_options session_model_options(const struct session *session, struct loader_capacity capacity,
                                           bool training);

#endif
