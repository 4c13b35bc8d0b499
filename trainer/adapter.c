#include "trainer/adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static const char peft_prefix[] = "base_model.model.";

size_t adapter_bytes(const struct lora *lora)
{
    return (size_t)lora->count * sizeof(float) * ADAPTER_VECTORS;
}

enum status adapter_create(struct adapter **out, const struct lora *lora, struct device *device,
                           struct comm *tp, struct comm *dp)
{
    struct adapter *adapter = memory_new(1, sizeof *adapter);
    if (!adapter) return LORAD_NOMEM;
    *adapter = (struct adapter){.lora = lora, .device = device, .tp = tp, .dp = dp};
    size_t bytes = (size_t)lora->count * sizeof(float);
    void *block = NULL;
    enum status status = device_alloc(&block, device, bytes * ADAPTER_VECTORS);
    if (status != LORAD_OK) goto fail;
    adapter->param = block;
    adapter->m = adapter->param + lora->count;
    adapter->v = adapter->m + lora->count;
    adapter->grad = adapter->v + lora->count;
    void *host;
    if ((status = device_alloc_host(&host, device, bytes)) != LORAD_OK) goto fail;
    adapter->host = host;
    *out = adapter;
    return LORAD_OK;

fail:
    adapter_destroy(adapter);
    return status;
}

void adapter_destroy(struct adapter *adapter)
{
    if (!adapter) return;
    fixed_sums_destroy(adapter->sums);
    device_free(adapter->device, adapter->param);
    device_free_host(adapter->device, adapter->host);
    free(adapter);
}

float *adapter_vector(struct adapter *adapter, enum adapter_vector which)
{
    switch (which) {
    case ADAPTER_PARAM:
        return adapter->param;
    case ADAPTER_M:
        return adapter->m;
    case ADAPTER_V:
        return adapter->v;
    default:
        return adapter->grad;
    }
}

enum status adapter_read(struct adapter *adapter, enum adapter_vector which, float *host)
{
    TRY(device_copy_from(adapter->device, STREAM_COMPUTE, host, adapter_vector(adapter, which),
                         (size_t)adapter->lora->count * sizeof(float)));
    return device_sync(adapter->device);
}

enum status adapter_write_vector(struct adapter *adapter, enum adapter_vector which, const float *host)
{
    TRY(device_copy_to(adapter->device, STREAM_COMPUTE, adapter_vector(adapter, which), host,
                       (size_t)adapter->lora->count * sizeof(float)));
    return device_sync(adapter->device);
}

enum status adapter_zero_grad(struct adapter *adapter)
{
    return device_zero(adapter->device, STREAM_COMPUTE, adapter->grad,
                       (size_t)adapter->lora->count * sizeof(float));
}

enum status adapter_init(struct adapter *adapter, uint64_t seed)
{
    const struct lora *lora = adapter->lora;
    memset(adapter->host, 0, (size_t)lora->count * sizeof(float));
    for (int32_t i = 0; i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        if (!t->is_b) lora_init_a(t, seed, adapter->host + t->offset);
    }
    return adapter_write_vector(adapter, ADAPTER_PARAM, adapter->host);
}

enum status adapter_shape(struct lora_options *out, struct adapter_config *config, const char *dir)
{
    TRY(adapter_config_read(config, dir));
    *out = (struct lora_options){
        .rank = config->r,
        .alpha = config->lora_alpha,
        .dropout = config->lora_dropout,
        .use_rslora = config->use_rslora,
        .targets = (const char *const *)config->target_modules,
        .n_targets = config->n_target_modules,
        .targets_are_pattern = config->target_is_pattern,
    };
    return LORAD_OK;
}

static void widen(float *to, const void *from, enum st_dtype dtype, int64_t n)
{
    const uint16_t *half = from;
    for (int64_t i = 0; i < n; i++) {
        if (dtype == ST_F32)
            to[i] = ((const float *)from)[i];
        else
            to[i] = dtype == ST_BF16 ? bf16_to_f32(half[i]) : f16_to_f32(half[i]);
    }
}

static enum status load_factor(const struct st_set *set, const struct lora_tensor *t, float *piece,
                               void *staging, const char *dir)
{
    char name[LORA_NAME_BYTES + sizeof peft_prefix];
    snprintf(name, sizeof name, "%s%s", peft_prefix, t->name);
    const struct st_tensor *found = st_find(set, name);
    if (!found) return FAIL(LORAD_DATA, "%s: the adapter lacks %s", dir, name);
    if (found->n_dims != 2 || found->shape[0] != t->shape[0] || found->shape[1] != t->shape[1])
        return FAIL(LORAD_DATA, "%s: %s is [%lld, %lld], but this model and rank need [%lld, %lld]", dir,
                    name, (long long)found->shape[0], (long long)(found->n_dims > 1 ? found->shape[1] : 0),
                    (long long)t->shape[0], (long long)t->shape[1]);
    if (found->dtype != ST_F32 && found->dtype != ST_BF16 && found->dtype != ST_F16)
        return FAIL(LORAD_DATA, "%s: %s is %s; adapters are F32, BF16 or F16", dir, name,
                    st_dtype_name(found->dtype));
    TRY(st_read_part(set, found, t->row, t->rows, t->col, t->cols, staging));
    widen(piece, staging, found->dtype, t->rows * t->cols);
    for (int64_t i = 0; i < t->rows * t->cols; i++)
        if (!isfinite(piece[i])) return FAIL(LORAD_DATA, "%s: %s has a value that is not finite", dir, name);
    return LORAD_OK;
}

enum status adapter_load(struct adapter *adapter, const char *dir)
{
    const struct lora *lora = adapter->lora;
    struct st_set *set;
    TRY(adapter_open(&set, dir));
    enum status status = LORAD_OK;
    float *staging = memory_new((size_t)lora->count + 1, sizeof(float));
    if (!staging) {
        status = LORAD_NOMEM;
        goto close_set;
    }
    if (st_count(set) != (size_t)lora->n_tensors) {
        status =
            FAIL(LORAD_DATA, "%s: the adapter has %zu tensors, but its target modules on this model make %d",
                 dir, st_count(set), lora->n_tensors);
        goto free_staging;
    }
    memset(adapter->host, 0, (size_t)lora->count * sizeof(float));
    for (int32_t i = 0; i < lora->n_tensors && status == LORAD_OK; i++)
        status = load_factor(set, &lora->tensors[i], adapter->host + lora->tensors[i].offset, staging, dir);
    if (status == LORAD_OK) status = adapter_write_vector(adapter, ADAPTER_PARAM, adapter->host);

free_staging:
    free(staging);
close_set:
    st_close(set);
    return status;
}

static void put_piece(float *whole, const struct lora_tensor *t, int64_t row, int64_t col, const float *piece)
{
    for (int64_t i = 0; i < t->rows; i++)
        memcpy(whole + (row + i) * t->shape[1] + col, piece + i * t->cols, (size_t)t->cols * sizeof(float));
}

/* In a split factor rank q holds the q-th of equal slices: rows of B, columns of A. */
static void place_split(float *whole, const struct lora_tensor *t, int q, const float *piece)
{
    bool by_rows = t->rows != t->shape[0];
    put_piece(whole, t, by_rows ? q * t->rows : 0, by_rows ? 0 : q * t->cols, piece);
}

enum status adapter_gather(float ***out, struct adapter *adapter, enum adapter_vector which)
{
    const struct lora *lora = adapter->lora;
    int tp = adapter->tp ? comm_size(adapter->tp) : 1;
    int64_t split = lora->count - lora->replicated_count;
    size_t total = 0;
    for (int32_t i = 0; i < lora->n_tensors; i++)
        total += (size_t)(lora->tensors[i].shape[0] * lora->tensors[i].shape[1]);

    size_t head = (size_t)lora->n_tensors * sizeof(float *);
    float **whole = memory_new(head + total * sizeof(float), 1);
    float *parts = memory_new((size_t)(split * tp) + 1, sizeof(float));
    enum status status = whole && parts ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) status = adapter_read(adapter, which, adapter->host);
    if (adapter->tp) {
        status = comm_agree(adapter->tp, status);
        if (status == LORAD_OK && split > 0)
            status = comm_host_all_gather(adapter->tp, adapter->host + lora->replicated_count, parts,
                                          (size_t)split * sizeof(float));
    }
    if (status != LORAD_OK) {
        free(whole);
        free(parts);
        return status;
    }
    float *at = (float *)((char *)whole + head);
    for (int32_t i = 0; i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        whole[i] = at;
        at += t->shape[0] * t->shape[1];
        if (t->replicated) {
            put_piece(whole[i], t, 0, 0, adapter->host + t->offset);
            continue;
        }
        for (int q = 0; q < tp; q++)
            place_split(whole[i], t, q, parts + q * split + (t->offset - lora->replicated_count));
    }
    free(parts);
    *out = whole;
    return LORAD_OK;
}

enum status adapter_export(struct adapter_written *written, const struct lora *lora, float *const *whole,
                           const struct lora_options *shape, const char *base_model, struct fs *fs,
                           const char *dir)
{
    size_t n = (size_t)lora->n_tensors;
    struct st_item *items = memory_new(n, sizeof *items);
    char(*names)[LORA_NAME_BYTES + sizeof peft_prefix] = memory_new(n, sizeof *names);
    enum status status = items && names ? LORAD_OK : LORAD_NOMEM;
    for (size_t i = 0; status == LORAD_OK && i < n; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        snprintf(names[i], sizeof names[i], "%s%s", peft_prefix, t->name);
        items[i] = (struct st_item){.name = names[i],
                                    .dtype = ST_F32,
                                    .n_dims = 2,
                                    .shape = {t->shape[0], t->shape[1]},
                                    .data = whole[i]};
    }
    static const char *const every[MODULES] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                               "gate_proj", "up_proj", "down_proj"};
    bool all =
        !shape->targets_are_pattern && shape->n_targets == 1 && strncmp(shape->targets[0], "all", 3) == 0;
    struct adapter_config config = {
        .r = lora->rank,
        .lora_alpha = lora->alpha,
        .lora_dropout = shape->dropout,
        .use_rslora = lora->use_rslora,
        .target_modules = (char **)(all ? every : shape->targets),
        .n_target_modules = all ? MODULES : shape->n_targets,
        .target_is_pattern = shape->targets_are_pattern,
        .base_model_name_or_path = (char *)base_model,
    };
    if (status == LORAD_OK) status = adapter_write(written, fs, dir, &config, items, n);
    free(items);
    free(names);
    return status;
}
