/*
 * model_batch.c: a micro-batch on its way to the device.
 *
 * Where the device asks for it (device_backend_row_multiple) a batch is padded, so that few shapes are met:
 * each costs a GPU a choice of kernels, and a recording (recordings.h) fits one of them.
 *
 * 1. Rows are a multiple of the device's, up to which its products compute anyway. Those behind the batch are
 * one sequence of its first token: no other row reads them, and their gradient is 0, which changes no sum as
 * long as they are finite; so they hold nothing that is not in the batch's own first row.
 * 2. Supervised rows likewise. Those behind them are no rows (index -1), with label -1 and weight 0.
 * 3. Sequences are a power of two, the last of them empty; so is the length of the longest, or all rows.
 * 4. Generation is not padded: it goes on where the last pass ended.
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "trainer/model_parts.h"

static int32_t round_up(int32_t n, int32_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

static int32_t power_of_two(int32_t n)
{
    int32_t power = 1;
    while (power < n) power *= 2;
    return power;
}

void model_pad_options(struct model *model)
{
    model->row_multiple = device_backend_row_multiple(model->backend);
    if (model->row_multiple == 1) return;
    model->options.max_tokens = round_up(model->options.max_tokens, model->row_multiple);
    model->options.max_sequences = power_of_two(model->options.max_sequences + 1);
}

static size_t key_count(const struct model *model)
{
    return (size_t)model->arch->layers * PANEL_SLOTS * PANEL_PARTS;
}

size_t model_dropout_key_bytes(const struct model *model)
{
    bool used = model->options.training && model->lora && model->lora->dropout > 0;
    return used ? key_count(model) * sizeof(uint64_t) : 0;
}

enum status model_batch_create(struct model *model)
{
    struct host_batch *host = &model->host;
    size_t tokens = (size_t)model->options.max_tokens;
    host->behind = memory_new((size_t)model->row_multiple, sizeof *host->behind);
    host->labels = memory_new(tokens, sizeof *host->labels);
    host->weights = memory_new(tokens, sizeof *host->weights);
    host->supervised = memory_new(tokens, sizeof *host->supervised);
    host->seq_start = memory_new((size_t)model->options.max_sequences + 1, sizeof *host->seq_start);
    host->dropout_keys = memory_new(key_count(model), sizeof *host->dropout_keys);
    bool all = host->behind && host->labels && host->weights && host->supervised && host->seq_start &&
               host->dropout_keys;
    return all ? LORAD_OK : LORAD_NOMEM;
}

void model_batch_destroy(struct model *model)
{
    free(model->host.behind);
    free(model->host.labels);
    free(model->host.weights);
    free(model->host.supervised);
    free(model->host.seq_start);
    free(model->host.dropout_keys);
}

static void find_supervised(struct model *model, const struct micro_batch *batch)
{
    struct host_batch *host = &model->host;
    int32_t n = 0;
    for (int32_t t = 0; t < batch->n_tokens; t++) {
        if (batch->labels[t] < 0) continue;
        host->supervised[n] = t;
        host->weights[n] = batch->weights ? batch->weights[t] : 1.0f;
        host->labels[n++] = batch->labels[t];
    }
    model->n_labels = n;
}

/* Behind find_supervised. */
static void pad_supervised(struct model *model)
{
    struct host_batch *host = &model->host;
    model->n_supervised = round_up(model->n_labels, model->row_multiple);
    for (int32_t i = model->n_labels; i < model->n_supervised; i++) {
        host->supervised[i] = -1;
        host->weights[i] = 0;
        host->labels[i] = -1;
    }
}

/* The sequences' borders; host->seq_start has room for those of any batch. */
static void pad_sequences(struct model *model, const struct micro_batch *batch)
{
    int32_t *start = model->host.seq_start, count = batch->n_sequences, longest = batch->longest;
    int32_t behind = model->n_tokens - batch->n_tokens;
    memcpy(start, batch->seq_start, ((size_t)count + 1) * sizeof *start);
    if (model->row_multiple > 1) {
        if (behind > 0) start[++count] = model->n_tokens;
        int32_t all = power_of_two(count);
        while (count < all) start[++count] = model->n_tokens;
        longest = power_of_two(longest > behind ? longest : behind);
        if (longest > model->n_tokens) longest = model->n_tokens;
    }
    model->sequences = (struct sequences){.start = model->seq_start, .count = count, .longest = longest};
}

/* A key names what a mask belongs to, so that any rank, layout or recomputation draws the same one. */
static enum status load_dropout_keys(struct model *model, const struct pass *pass)
{
    if (!(pass->dropout > 0)) return LORAD_OK;
    uint64_t *key = model->host.dropout_keys;
    for (int32_t i = 0; i < model->arch->layers; i++)
        for (int m = 0; m < MODULES; m++) {
            int panel = i * PANEL_SLOTS + (int)module_panel((enum module)m);
            key[panel * PANEL_PARTS + module_part_number((enum module)m)] =
                random_key(pass->seed, RANDOM_LORA_DROPOUT, (uint64_t)pass->step, 0, (uint64_t)(i * 16 + m));
        }
    return device_copy_to(model->device, STREAM_COMPUTE, model->dropout_keys, key,
                          model_dropout_key_bytes(model));
}

void model_dropout(const struct model *model, const struct pass *pass, int32_t layer, enum panel_slot slot,
                   struct panel_dropout *out)
{
    *out = (struct panel_dropout){.p = pass->dropout, .token_index = model->token_index};
    if (!(pass->dropout > 0)) return;
    out->key = model->dropout_keys + (layer * PANEL_SLOTS + (int)slot) * PANEL_PARTS;
    for (int m = 0; m < MODULES; m++) {
        if (module_panel((enum module)m) != slot || !module_is_row_split((enum module)m)) continue;
        int64_t count;
        module_slice(model->arch, model->part, (enum module)m, &out->col_first, &count);
    }
}

/* Up to n_tokens. What they hold must not depend on the batches before. */
static enum status load_rows_behind(struct model *model, const struct micro_batch *batch)
{
    int32_t first = batch->n_tokens;
    size_t n = (size_t)(model->n_tokens - first);
    for (size_t i = 0; i < n; i++) model->host.behind[i] = batch->tokens[0];
    TRY(device_copy_to(model->device, STREAM_COMPUTE, model->tokens + first, model->host.behind,
                       n * sizeof *model->tokens));
    TRY(device_zero(model->device, STREAM_COMPUTE, model->positions + first, n * sizeof *model->positions));
    return device_zero(model->device, STREAM_COMPUTE, model->token_index + first,
                       n * sizeof *model->token_index);
}

enum status model_load_batch(struct model *model, const struct micro_batch *batch, const struct pass *pass)
{
    ASSERT(batch->n_tokens > 0 && batch->n_tokens <= model->options.max_tokens);
    ASSERT(batch->n_sequences <= model->options.max_sequences &&
           batch->longest <= model->options.max_positions);
    model->n_tokens = pass->cache ? batch->n_tokens : round_up(batch->n_tokens, model->row_multiple);
    find_supervised(model, batch);
    pad_supervised(model);
    pad_sequences(model, batch);
    size_t n = (size_t)batch->n_tokens, supervised = (size_t)model->n_supervised;
    const struct {
        void *to;
        const void *from;
        size_t bytes;
    } copies[] = {
        {model->tokens, batch->tokens, n * sizeof(int32_t)},
        {model->positions, batch->positions, n * sizeof(int32_t)},
        {model->token_index, batch->token_index, n * sizeof(int64_t)},
        {model->seq_start, model->host.seq_start, ((size_t)model->sequences.count + 1) * sizeof(int32_t)},
        {model->supervised, model->host.supervised, supervised * sizeof(int32_t)},
        {model->labels, model->host.labels, supervised * sizeof(int32_t)},
        {model->label_weights, model->host.weights, supervised * sizeof(float)},
    };
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++)
        TRY(device_copy_to(model->device, STREAM_COMPUTE, copies[i].to, copies[i].from, copies[i].bytes));
    TRY(load_rows_behind(model, batch));
    TRY(load_dropout_keys(model, pass));
    return model_cut_batch(model);
}
