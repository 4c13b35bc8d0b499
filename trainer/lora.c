#include "trainer/lora.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/pattern.h"
#include "base/random.h"

static const struct {
    const char *name, *path;
    bool row_split;
} modules[MODULES] = {
    [MODULE_Q] = {"q_proj", "self_attn.q_proj", false},    [MODULE_K] = {"k_proj", "self_attn.k_proj", false},
    [MODULE_V] = {"v_proj", "self_attn.v_proj", false},    [MODULE_O] = {"o_proj", "self_attn.o_proj", true},
    [MODULE_GATE] = {"gate_proj", "mlp.gate_proj", false}, [MODULE_UP] = {"up_proj", "mlp.up_proj", false},
    [MODULE_DOWN] = {"down_proj", "mlp.down_proj", true},
};

const char *module_name(enum module module)
{
    return modules[module].name;
}

const char *module_path(enum module module)
{
    return modules[module].path;
}

bool module_is_row_split(enum module module)
{
    return modules[module].row_split;
}

int64_t module_in(const struct arch *arch, enum module module)
{
    if (module == MODULE_O) return (int64_t)arch->heads * arch->head_dim;
    return module == MODULE_DOWN ? arch->intermediate : arch->hidden;
}

int64_t module_out(const struct arch *arch, enum module module)
{
    switch (module) {
    case MODULE_Q:
        return (int64_t)arch->heads * arch->head_dim;
    case MODULE_K:
    case MODULE_V:
        return (int64_t)arch->kv_heads * arch->head_dim;
    case MODULE_GATE:
    case MODULE_UP:
        return arch->intermediate;
    default:
        return arch->hidden;
    }
}

void module_slice(const struct arch *arch, const struct partition *p, enum module module, int64_t *first,
                  int64_t *count)
{
    switch (module) {
    case MODULE_Q:
    case MODULE_O:
        *first = (int64_t)p->first_head * arch->head_dim;
        *count = (int64_t)p->heads * arch->head_dim;
        break;
    case MODULE_K:
    case MODULE_V:
        *first = (int64_t)p->first_kv_head * arch->head_dim;
        *count = (int64_t)p->kv_heads * arch->head_dim;
        break;
    default:
        *first = p->first_intermediate;
        *count = p->intermediate;
    }
}

/* PEFT: a listed target adapts a module whose path is the target or ends with ".target". */
static bool path_ends_with(const char *path, const char *target)
{
    size_t n = strlen(path), m = strlen(target);
    return n >= m && strcmp(path + n - m, target) == 0 && (n == m || path[n - m - 1] == '.');
}

struct chosen {
    bool *module; /* [layers][MODULES] */
    int32_t count;
};

static enum status choose_listed(struct chosen *chosen, const struct lora_options *options,
                                 const struct arch *arch)
{
    for (int32_t t = 0; t < options->n_targets; t++) {
        const char *target = options->targets[t];
        bool all = strcmp(target, "all") == 0 || strcmp(target, "all-linear") == 0, used = false;
        for (int32_t i = 0; i < arch->layers * MODULES; i++) {
            char path[LORA_NAME_BYTES];
            snprintf(path, sizeof path, "model.layers.%d.%s", i / MODULES, modules[i % MODULES].path);
            if (all || path_ends_with(path, target)) chosen->module[i] = used = true;
        }
        if (!used)
            return FAIL(LORAD_CONFIG,
                        "lora_target: \"%s\" names no linear module of this model; use all, or some of "
                        "q_proj, k_proj, "
                        "v_proj, o_proj, gate_proj, up_proj, down_proj",
                        target);
    }
    return LORAD_OK;
}

static enum status choose_by_pattern(struct chosen *chosen, const char *expression, const struct arch *arch)
{
    struct pattern *pattern;
    enum status status = pattern_create(&pattern, expression);
    if (status != LORAD_OK) return status_context(status, "lora_target");
    for (int32_t i = 0; i < arch->layers * MODULES; i++) {
        char path[LORA_NAME_BYTES];
        snprintf(path, sizeof path, "model.layers.%d.%s", i / MODULES, modules[i % MODULES].path);
        chosen->module[i] = pattern_matches_all(pattern, path);
    }
    pattern_destroy(pattern);
    return LORAD_OK;
}

static enum status choose_targets(struct chosen *chosen, const struct lora_options *options,
                                  const struct arch *arch)
{
    if (options->n_targets < 1) return FAIL(LORAD_CONFIG, "lora_target is empty; use all, or name modules");
    TRY(options->targets_are_pattern ? choose_by_pattern(chosen, options->targets[0], arch)
                                     : choose_listed(chosen, options, arch));
    for (int32_t i = 0; i < arch->layers * MODULES; i++) chosen->count += chosen->module[i];
    if (!chosen->count)
        return FAIL(LORAD_CONFIG,
                    "lora_target: \"%s\" matches no module; paths look like model.layers.0.self_attn.q_proj",
                    options->targets[0]);
    return LORAD_OK;
}

static struct lora_tensor describe(const struct lora *lora, const struct arch *arch,
                                   const struct partition *p, int32_t layer, enum module module, bool is_b)
{
    struct lora_tensor t = {.layer = layer, .module = module, .is_b = is_b};
    snprintf(t.name, sizeof t.name, "model.layers.%d.%s.lora_%c.weight", layer, modules[module].path,
             is_b ? 'B' : 'A');
    t.shape[0] = is_b ? module_out(arch, module) : lora->rank;
    t.shape[1] = is_b ? lora->rank : module_in(arch, module);
    t.rows = t.shape[0];
    t.cols = t.shape[1];
    bool split = is_b != modules[module].row_split;
    bool shared_kv = is_b && p->kv_holders > 1 && (module == MODULE_K || module == MODULE_V);
    t.replicated = p->tp == 1 || !split || shared_kv;
    if (!t.replicated) {
        int64_t first, count;
        module_slice(arch, p, module, &first, &count);
        if (is_b) {
            t.row = first;
            t.rows = count;
        } else {
            t.col = first;
            t.cols = count;
        }
    }
    return t;
}

static void place(struct lora *lora, const struct arch *arch, const struct partition *p, const bool *chosen,
                  bool replicated)
{
    for (int32_t i = 0; i < arch->layers * MODULES * 2; i++) {
        if (!chosen[i / 2]) continue;
        struct lora_tensor t =
            describe(lora, arch, p, i / 2 / MODULES, (enum module)(i / 2 % MODULES), i % 2);
        if (t.replicated != replicated) continue;
        t.offset = lora->count;
        lora->count += (t.rows * t.cols + LORA_ALIGN - 1) / LORA_ALIGN * LORA_ALIGN;
        lora->parameters += t.shape[0] * t.shape[1];
        if (t.layer < lora->first_layer) lora->first_layer = t.layer;
        lora->index[i] = lora->n_tensors;
        lora->tensors[lora->n_tensors++] = t;
    }
}

enum status lora_create(struct lora **out, const struct lora_options *options, const struct arch *arch,
                        const struct partition *partition)
{
    enum status status;
    struct chosen chosen = {.module = memory_new((size_t)arch->layers * MODULES, sizeof(bool))};
    struct lora *lora = memory_new(1, sizeof *lora);
    if (!chosen.module || !lora) {
        status = LORAD_NOMEM;
        goto fail;
    }
    if ((status = choose_targets(&chosen, options, arch)) != LORAD_OK) goto fail;
    size_t slots = (size_t)arch->layers * MODULES * 2;
    lora->tensors = memory_new((size_t)chosen.count * 2, sizeof *lora->tensors);
    lora->index = memory_new(slots, sizeof *lora->index);
    if (!lora->tensors || !lora->index) {
        status = LORAD_NOMEM;
        goto fail;
    }
    for (size_t i = 0; i < slots; i++) lora->index[i] = -1;
    lora->rank = options->rank;
    lora->alpha = options->alpha;
    lora->dropout = (float)options->dropout;
    lora->use_rslora = options->use_rslora;
    lora->scale = (float)(options->alpha / (options->use_rslora ? sqrt(options->rank) : options->rank));
    lora->layers = arch->layers;
    lora->first_layer = arch->layers;
    place(lora, arch, partition, chosen.module, true);
    lora->replicated_count = lora->count;
    place(lora, arch, partition, chosen.module, false);
    free(chosen.module);
    *out = lora;
    return LORAD_OK;

fail:
    free(chosen.module);
    lora_destroy(lora);
    return status;
}

void lora_destroy(struct lora *lora)
{
    if (!lora) return;
    free(lora->tensors);
    free(lora->index);
    free(lora);
}

const struct lora_tensor *lora_find(const struct lora *lora, int32_t layer, enum module module, bool is_b)
{
    int32_t i = lora->index[((int64_t)layer * MODULES + module) * 2 + is_b];
    return i < 0 ? NULL : &lora->tensors[i];
}

void lora_init_a(const struct lora_tensor *t, uint64_t seed, float *piece)
{
    uint64_t key = random_key(seed, RANDOM_LORA_INIT, (uint64_t)t->layer, (uint64_t)t->module, 0);
    double bound = 1.0 / sqrt((double)t->shape[1]);
    for (int64_t i = 0; i < t->rows; i++) {
        for (int64_t j = 0; j < t->cols; j++) {
            uint64_t element = (uint64_t)((t->row + i) * t->shape[1] + t->col + j);
            struct random_block block = random_philox(key, 0, element >> 2);
            piece[i * t->cols + j] = (float)((2.0 * random_unit_f32(block.word[element & 3]) - 1.0) * bound);
        }
    }
}
