#include "trainer/model.h"

#include <stdlib.h>

#include "base/memory.h"
#include "comm/activity.h"
#include "trainer/model_memory.h"

static enum status describe(struct model **out, const struct arch *arch, const struct partition *part,
                            const struct lora *lora, const struct model_options *options,
                            const struct device_backend *backend)
{
    ASSERT(!options->keep_inputs || options->checkpointing == CHECKPOINTING_NONE);
    struct model *model = memory_new(1, sizeof *model);
    if (!model) return LORAD_NOMEM;
    *model =
        (struct model){.arch = arch, .part = part, .lora = lora, .options = *options, .backend = backend};
    model->shares = options->sequence_parallel ? part->tp : 1;
    model_pad_options(model);
    model->layers = memory_new((size_t)arch->layers, sizeof *model->layers);
    if (!model->layers) {
        free(model);
        return LORAD_NOMEM;
    }
    model_describe_panels(model);
    *out = model;
    return LORAD_OK;
}

/* Attention, the same in every layer but for the window. */
static size_t attention_scratch(const struct model *model)
{
    size_t most = 0;
    for (int32_t i = 0; i < model->arch->layers; i++) {
        struct attention_shape shape = model_attention_shape(model, i);
        size_t bytes = attention_scratch_bytes(model->backend, &shape);
        if (bytes > most) most = bytes;
    }
    return most;
}

/* Device bytes of all panels, and of the scratch that they and attention share. */
static void measure_panels(const struct model *model, size_t *weights_bytes, size_t *scratch_bytes)
{
    size_t weights, scratch;
    panel_bytes(model->backend, &model->head_spec, weights_bytes, scratch_bytes);
    for (int32_t i = 0; i < model->arch->layers; i++) {
        for (int slot = 0; slot < PANEL_SLOTS; slot++) {
            panel_bytes(model->backend, &model->layers[i].spec[slot], &weights, &scratch);
            *weights_bytes += weights;
            if (scratch > *scratch_bytes) *scratch_bytes = scratch;
        }
    }
    scratch = attention_scratch(model);
    if (scratch > *scratch_bytes) *scratch_bytes = scratch;
}

static enum status measure(struct model *model, struct model_bytes *out, size_t *panel_scratch)
{
    struct arena weights, saved, scratch;
    arena_init(&weights, NULL, 0);
    arena_init(&saved, NULL, 0);
    arena_init(&scratch, NULL, 0);
    TRY(model_take_memory(model, &weights, &saved, &scratch));
    size_t panels;
    measure_panels(model, &panels, panel_scratch);
    *out = (struct model_bytes){.weights = weights.used_bytes + panels,
                                .saved = saved.used_bytes,
                                .scratch = scratch.used_bytes + *panel_scratch};
    return LORAD_OK;
}

enum status model_measure(struct model_bytes *out, const struct arch *arch, const struct partition *part,
                          const struct lora *lora, const struct model_options *options,
                          const struct device_backend *backend)
{
    struct model *model;
    size_t panel_scratch;
    TRY(describe(&model, arch, part, lora, options, backend));
    enum status status = measure(model, out, &panel_scratch);
    model_destroy(model);
    return status;
}

static enum status take_all(struct model *model)
{
    struct arena weights, saved, scratch;
    arena_init(&weights, NULL, 0);
    arena_init(&saved, NULL, 0);
    arena_init(&scratch, NULL, 0);
    TRY(model_take_memory(model, &weights, &saved, &scratch));
    size_t first = weights.used_bytes + ARENA_ALIGN, second = saved.used_bytes + ARENA_ALIGN;
    first -= first % ARENA_ALIGN;
    second -= second % ARENA_ALIGN;
    TRY(device_alloc(&model->block, model->device, first + second + scratch.used_bytes));
    char *base = model->block;
    arena_init(&weights, base, first);
    arena_init(&saved, base + first, second);
    size_t scratch_bytes = scratch.used_bytes;
    arena_init(&scratch, base + first + second, scratch_bytes);
    return model_take_memory(model, &weights, &saved, &scratch);
}

static enum status create_panels(struct model *model)
{
    size_t weights, scratch;
    measure_panels(model, &weights, &scratch);
    TRY(device_alloc(&model->panel_scratch, model->device, scratch));
    for (int32_t i = 0; i < model->arch->layers; i++) {
        struct layer *layer = &model->layers[i];
        for (int slot = 0; slot < PANEL_SLOTS; slot++)
            TRY(panel_create(&layer->panel[slot], model->device, &layer->spec[slot], model->panel_scratch));
    }
    return panel_create(&model->head, model->device, &model->head_spec, model->panel_scratch);
}

static enum status fill_rope_table(struct model *model)
{
    size_t count = (size_t)model->options.max_positions * (size_t)model->arch->head_dim;
    float *table = memory_new(count, sizeof(float));
    if (!table) return LORAD_NOMEM;
    arch_rope_table(model->arch, model->options.max_positions, table);
    enum status status =
        device_copy_to(model->device, STREAM_COMPUTE, model->cos_sin, table, count * sizeof(float));
    if (status == LORAD_OK) status = device_sync(model->device);
    free(table);
    return status;
}

enum status model_create(struct model **out, const struct arch *arch, const struct partition *part,
                         const struct lora *lora, const struct model_options *options, struct device *device,
                         struct comm *tp)
{
    struct model *model;
    TRY(describe(&model, arch, part, lora, options, device_backend(device)));
    model->device = device;
    model->tp = part->tp > 1 ? tp : NULL;
    enum status status = take_all(model);
    if (status == LORAD_OK) status = create_panels(model);
    if (status == LORAD_OK) status = fill_rope_table(model);
    if (status == LORAD_OK) {
        model->adapters = memory_new((size_t)arch->layers * MODULES, sizeof *model->adapters);
        status = model->adapters ? model_batch_create(model) : LORAD_NOMEM;
    }
    if (status == LORAD_OK && options->training && !model->tp && device_records(device))
        status = recordings_create(&model->recordings, device);
    if (status != LORAD_OK) {
        model_destroy(model);
        return status;
    }
    *out = model;
    return LORAD_OK;
}

void model_destroy(struct model *model)
{
    if (!model) return;
    recordings_destroy(model->recordings);
    for (int32_t i = 0; i < model->arch->layers; i++)
        for (int slot = 0; slot < PANEL_SLOTS; slot++) panel_destroy(model->layers[i].panel[slot]);
    panel_destroy(model->head);
    if (model->device) {
        device_free(model->device, model->panel_scratch);
        device_free(model->device, model->block);
    }
    model_batch_destroy(model);
    free(model->adapters);
    free(model->layers);
    free(model);
}

/* B of a factor that this rank keeps whole although it uses only its own rows (replicated key/value heads).
 */
static int64_t local_offset(const struct model *model, const struct lora_tensor *b)
{
    if (!b->replicated || module_is_row_split(b->module)) return b->offset;
    int64_t first, count;
    module_slice(model->arch, model->part, b->module, &first, &count);
    return b->offset + first * b->shape[1];
}

enum status model_set_adapter(struct model *model, const struct adapter *adapter)
{
    const struct lora *lora = model->lora;
    int32_t n = 0;
    for (int32_t i = 0; i < model->arch->layers; i++) {
        for (int m = 0; m < MODULES; m++) {
            const struct lora_tensor *a = lora_find(lora, i, (enum module)m, false);
            const struct lora_tensor *b = lora_find(lora, i, (enum module)m, true);
            if (!a) continue;
            model->adapters[n++] =
                (struct panel_adapter){.panel = model->layers[i].panel[module_panel((enum module)m)],
                                       .part = module_part_number((enum module)m),
                                       .a = adapter->param + a->offset,
                                       .b = adapter->param + local_offset(model, b),
                                       .scale = lora->scale};
        }
    }
    return panel_set_adapters(model->adapters, n);
}

void model_gradient(const struct model *model, struct adapter *adapter, int32_t layer, enum panel_slot slot,
                    struct panel_backward *args)
{
    for (int m = 0; m < MODULES; m++) {
        const struct lora_tensor *a = lora_find(model->lora, layer, (enum module)m, false);
        const struct lora_tensor *b = lora_find(model->lora, layer, (enum module)m, true);
        if (!a || module_panel((enum module)m) != slot) continue;
        int32_t part = module_part_number((enum module)m);
        args->da[part] = adapter->grad + a->offset;
        args->db[part] = adapter->grad + local_offset(model, b);
    }
}

enum status model_all_reduce(struct model *model, struct matrix m)
{
    if (!model->tp) return LORAD_OK;
    ASSERT(m.stride == m.cols);
    return comm_all_reduce(model->tp, m.data, m.rows * m.cols, m.dtype, COMM_SUM);
}

/* What model_train enqueues behind the batch. */
struct training {
    struct model *model;
    struct pass pass;
    struct adapter *adapter;
    float gradient_scale;
};

static enum status enqueue_training(void *context)
{
    const struct training *training = context;
    struct model *model = training->model;
    TRY(model_forward(model, &training->pass));
    TRY(model_head(model, training->gradient_scale, NULL));
    return model_backward(model, &training->pass, training->adapter);
}

enum status model_train(struct model *model, const struct train_pass *args)
{
    struct training training = {.model = model,
                                .pass = {.use_adapter = true,
                                         .dropout = model->lora->dropout,
                                         .seed = args->seed,
                                         .step = args->step},
                                .adapter = args->adapter,
                                .gradient_scale = args->gradient_scale};
    TRY(model_load_batch(model, args->batch, &training.pass));
    if (!args->replay || !model->recordings) return enqueue_training(&training);
    struct recording_shape shape = {.n_tokens = model->n_tokens,
                                    .n_supervised = model->n_supervised,
                                    .sequences = model->sequences.count,
                                    .longest = model->sequences.longest,
                                    .gradient_scale = args->gradient_scale,
                                    .dropout = model->lora->dropout,
                                    .adapter = args->adapter};
    return recordings_run(model->recordings, &shape, enqueue_training, &training);
}

bool model_can_replay(const struct model *model)
{
    return model->recordings;
}

int64_t model_replays(const struct model *model)
{
    return model->recordings ? recordings_replays(model->recordings) : 0;
}

void model_forget_recordings(struct model *model)
{
    if (model->recordings) recordings_forget(model->recordings);
}

enum status model_eval(struct model *model, const struct eval_pass *args)
{
    struct pass pass = {.use_adapter = args->use_adapter};
    TRY(model_load_batch(model, args->batch, &pass));
    TRY(model_forward(model, &pass));
    TRY(model_head(model, 0, args->row_loss ? model->row_loss : NULL));
    if (!args->row_loss) return LORAD_OK;
    TRY(device_copy_from(model->device, STREAM_COMPUTE, args->row_loss, model->row_loss,
                         (size_t)model->n_labels * sizeof(float)));
    return activity_device_sync(model->device);
}

enum status model_zero_sums(struct model *model)
{
    return device_zero(model->device, STREAM_COMPUTE, model->sums, sizeof *model->sums);
}

enum status model_read_sums(struct model *model, struct model_sums *out)
{
    TRY(device_copy_from(model->device, STREAM_COMPUTE, out, model->sums, sizeof *out));
    return activity_device_sync(model->device);
}
