/*
 * config_stages.c: `stages:`. A stage is the configuration with its own lines laid over it: the same keys,
 * the same table, the same rules between keys, read once per stage.
 *
 *  1. Only the keys of stage_keys may stand in a stage; the others are the run's, and a problem says so.
 *  2. A line of a stage takes the place of the run's line and of the run's other ways to say the same
 *     (`drops`), so that `max_steps` in a stage is not disturbed by the run's num_train_epochs.
 *  3. What a stage does not say it has from the run, to the very pointer: its rows are then prepared once.
 */
#include "launch/config_impl.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static const char *const stage_keys[] = {
    "dataset",       "mix_strategy",      "interleave_probs",    "max_samples", "metadata_path",
    "eval_file",     "val_size",          "num_train_epochs",    "max_steps",   "max_tokens",
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "min_lr",      "warmup_ratio",
    "warmup_steps",
};
enum { N_STAGE_KEYS = sizeof stage_keys / sizeof stage_keys[0] };

/* A stage's line for the first key takes away the run's lines for the others. */
static const char *const drops[][3] = {
    {"num_train_epochs", "max_steps", "max_tokens"},
    {"max_steps", "num_train_epochs", "max_tokens"},
    {"max_tokens", "num_train_epochs", "max_steps"},
    {"warmup_ratio", "warmup_steps", NULL},
    {"warmup_steps", "warmup_ratio", NULL},
    {"lr_scheduler_type", "min_lr", "lr_scheduler_kwargs"},
    {"min_lr", "lr_scheduler_kwargs", NULL},
    {"lr_scheduler_kwargs", "min_lr", NULL},
    {"dataset", "interleave_probs", "metadata_path"},
    {"eval_file", "val_size", NULL},
    {"val_size", "eval_file", NULL},
};

/* Keys that are worked out from each other: one of them given, all are read again. */
static const char *const together[][4] = {
    {"dataset", "interleave_probs", "max_samples", "metadata_path"},
    {"eval_file", "max_samples", NULL, NULL},
    {"min_lr", "lr_scheduler_kwargs", "lr_scheduler_type", "learning_rate"},
};

enum { MOST_KEYS = 256 };

struct overlay {
    struct config_values values;                 /* the run's */
    const struct config_node *chosen[MOST_KEYS]; /* the run's */
    bool again[MOST_KEYS];                       /* to be read for this stage */
};

static void problem(struct config *config, const struct config_node *node, const char *what)
{
    char place[512];
    problems_add(&config->problems, LORAD_CONFIG, "%s: %s: %s", config_place(place, node),
                 node->key ? node->key : "stages", what);
}

static bool is_stage_key(const char *name)
{
    for (int i = 0; i < N_STAGE_KEYS; i++)
        if (strcmp(stage_keys[i], name) == 0) return true;
    return false;
}

static void refuse_member(struct config *config, const struct config_node *node)
{
    char words[512];
    int key = config_key_find(node->key);
    if (key >= 0) {
        problem(config, node, "is the same in all stages: move it out of stages");
        return;
    }
    for (size_t i = 0; i < config_n_others; i++) {
        const char *advice = config_others[i].advice;
        if (strcmp(config_others[i].name, node->key) != 0) continue;
        snprintf(words, sizeof words, "is not supported%s%s", *advice ? ": " : "", advice);
        problem(config, node, words);
        return;
    }
    struct strbuf known = STRBUF_EMPTY;
    for (int i = 0; i < N_STAGE_KEYS; i++)
        if (config_key_find(stage_keys[i]) >= 0) strbuf_printf(&known, ", %s", stage_keys[i]);
    snprintf(words, sizeof words, "unknown in a stage; known are name, promote_when%s", strbuf_text(&known));
    strbuf_free(&known);
    problem(config, node, words);
}

/* ---- name, promote_when ---- */

static void read_name(struct config *config, const struct config_node *node, struct stage_options *stage)
{
    size_t length = node->kind == NODE_SCALAR ? strlen(node->text) : 0;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)node->text[i] < 0x20) length = 0;
    if (length == 0 || length >= STAGE_NAME_BYTES) {
        problem(config, node, "a name of 1 to 63 bytes is wanted");
        return;
    }
    const char *name = config_own(config, memory_string(node->text));
    if (name) stage->name = name;
}

static void read_promotion(struct config *config, const struct config_node *node, struct stage_options *stage)
{
    static const char shape[] = "{eval_loss_below: x} or {plateau_evaluations: n, min_delta: d} is wanted";
    struct promotion promote = {0};
    bool delta_given = false;
    if (node->kind != NODE_MAP || !node->first) {
        problem(config, node, shape);
        return;
    }
    for (const struct config_node *member = node->first; member; member = member->next) {
        double value = -1;
        bool real = config_read_real(member, &value);
        switch (config_word_index("eval_loss_below|plateau_evaluations|min_delta", member->key)) {
        case 0:
            if (!real || value <= 0 || value > 1e6) problem(config, member, "a loss above 0 is wanted");
            promote.eval_loss_below = value;
            break;
        case 1:
            if (!real || value < 1 || value > 1e6 || value != (double)(int32_t)value)
                problem(config, member, "a whole number from 1 to 1000000 is wanted");
            else
                promote.plateau_evaluations = (int32_t)value;
            break;
        case 2:
            if (!real || value < 0 || value > 1e6) problem(config, member, "a number from 0 up is wanted");
            promote.min_delta = value;
            delta_given = true;
            break;
        default:
            problem(config, member, shape);
        }
    }
    if (delta_given && promote.plateau_evaluations == 0)
        problem(config, node, "min_delta belongs to plateau_evaluations");
    stage->promote = promote;
}

/* ---- laying a stage's lines over the run's ---- */

static void take_member(struct config *config, struct overlay *overlay, const struct config_node *node,
                        struct stage_options *stage)
{
    if (strcmp(node->key, "name") == 0) {
        read_name(config, node, stage);
    } else if (strcmp(node->key, "promote_when") == 0) {
        if (!config_node_is_null(node)) read_promotion(config, node, stage);
    } else {
        int key = config_key_find(node->key);
        if (key < 0 || !is_stage_key(config_keys[key].name)) {
            refuse_member(config, node);
        } else if (overlay->again[key]) {
            problem(config, node, "is given twice in this stage, under two names: keep one of them");
        } else if (!config_node_is_null(node)) {
            config->chosen[key] = node;
            overlay->again[key] = true;
        }
    }
}

/* One way to say how long a stage is. */
static void check_lengths(struct config *config, const struct config_node *stage,
                          const struct overlay *overlay)
{
    bool epochs = overlay->again[config_key_find("num_train_epochs")],
         steps = overlay->again[config_key_find("max_steps")],
         tokens = overlay->again[config_key_find("max_tokens")];
    if (epochs && (steps || tokens)) /* steps with tokens are a contradiction of the run's too */
        problem(config, stage, "has two lengths: keep one of num_train_epochs, max_steps and max_tokens");
}

static void drop_rivals(struct config *config, struct overlay *overlay)
{
    bool given[MOST_KEYS];
    memcpy(given, overlay->again, sizeof given);
    for (size_t i = 0; i < sizeof drops / sizeof drops[0]; i++) {
        int key = config_key_find(drops[i][0]);
        if (key < 0 || !given[key]) continue;
        for (int k = 1; k < 3; k++) {
            int rival = drops[i][k] ? config_key_find(drops[i][k]) : -1;
            if (rival < 0 || given[rival]) continue;
            config->chosen[rival] = NULL;
            overlay->again[rival] = true;
        }
    }
    memcpy(given, overlay->again, sizeof given);
    for (size_t i = 0; i < sizeof together / sizeof together[0]; i++) {
        bool any = false;
        for (int k = 0; k < 4; k++) {
            int key = together[i][k] ? config_key_find(together[i][k]) : -1;
            any |= key >= 0 && given[key];
        }
        for (int k = 0; k < 4 && any; k++) {
            int key = together[i][k] ? config_key_find(together[i][k]) : -1;
            if (key >= 0) overlay->again[key] = true;
        }
    }
}

static struct stage_options stage_of_values(const struct config *config, struct stage_options named)
{
    const struct run_options *run = &config->values.run;
    named.train_sources = run->train_sources;
    named.n_train_sources = run->n_train_sources;
    named.eval_sources = run->eval_sources;
    named.n_eval_sources = run->n_eval_sources;
    named.val_size = run->val_size;
    named.mix_strategy = run->mix_strategy;
    named.optimizer = run->optimizer;
    named.num_train_epochs = run->num_train_epochs;
    named.max_steps = run->max_steps;
    named.max_tokens = run->max_tokens;
    return named;
}

static void read_stage(struct config *config, const struct config_node *node, struct overlay *overlay,
                       struct stage_options *stage)
{
    memset(overlay->again, 0, sizeof overlay->again);
    if (node->kind != NODE_MAP) {
        problem(config, node, "a stage is {name: ..., dataset: ..., ...}");
        return;
    }
    for (const struct config_node *member = node->first; member; member = member->next)
        take_member(config, overlay, member, stage);
    check_lengths(config, node, overlay);
    drop_rivals(config, overlay);
    for (size_t i = 0; i < config_n_keys; i++)
        if (overlay->again[i]) config_set_chosen(config, i);
    if (!config_given(config, "dataset"))
        problem(config, node, "has no dataset, and the run has none either");
    config_apply_stage_rules(config);
    *stage = stage_of_values(config, *stage);
    config->values = overlay->values;
    memcpy(config->chosen, overlay->chosen, config_n_keys * sizeof *config->chosen);
}

static void check_stages(struct config *config, const struct config_node *list, struct stage_options *stages,
                         int32_t n)
{
    const struct run_options *run = &config->values.run;
    const struct config_node *node = list->first;
    bool run_dataset_used = false;
    for (int32_t i = 0; i < n; i++, node = node->next) {
        const struct promotion *promote = &stages[i].promote;
        bool rows = stages[i].n_eval_sources > 0 || stages[i].val_size > 0;
        if ((promote->eval_loss_below > 0 || promote->plateau_evaluations > 0) && !rows)
            problem(config, node, "promote_when needs held-out rows: set eval_file or val_size");
        if (run->data_policy == DATA_APPEND && (stages[i].val_size > 0 || stages[i].n_train_sources > 64))
            problem(config, node, "data_policy: append works without val_size and with at most 64 datasets");
        for (int32_t k = 0; k < i; k++)
            if (strcmp(stages[k].name, stages[i].name) == 0)
                problem(config, node, "two stages have this name");
        run_dataset_used |= stages[i].train_sources == run->train_sources;
    }
    if (run->n_train_sources > 0 && !run_dataset_used) {
        char where[600];
        problems_add(&config->problems, LORAD_CONFIG, "%s: is not used: every stage has a dataset of its own",
                     config_where(where, config, "dataset"));
    }
}

void config_set_stages(struct config *config, const struct config_key *key, const struct config_node *node,
                       void *field)
{
    (void)field;
    int n = 0;
    if (node->kind != NODE_LIST) {
        problem(config, node, "a list of stages is wanted, one `- name: ...` each");
        return;
    }
    for (const struct config_node *item = node->first; item; item = item->next) n++;
    if (n == 0) problem(config, node, "the list is empty; remove the key, or name stages");
    if (n > MOST_STAGES) problem(config, node, "there are more than 64 stages");
    if (n > 0 && n <= MOST_STAGES) config->values.stages_node = node;
    (void)key;
}

void config_read_stages(struct config *config)
{
    const struct config_node *list = config->values.stages_node;
    if (!list) return;
    ASSERT(config_n_keys <= MOST_KEYS);
    int32_t n = 0;
    for (const struct config_node *item = list->first; item; item = item->next) n++;
    struct stage_options *stages = config_own(config, memory_new((size_t)n, sizeof *stages));
    struct overlay *overlay = config_own(config, memory_new(1, sizeof *overlay));
    if (!stages || !overlay) return;
    overlay->values = config->values;
    memcpy(overlay->chosen, config->chosen, config_n_keys * sizeof *config->chosen);
    int32_t i = 0;
    for (const struct config_node *item = list->first; item; item = item->next, i++) {
        char name[32];
        snprintf(name, sizeof name, "stage-%d", i + 1);
        stages[i].name = config_own(config, memory_string(name));
        if (!stages[i].name) return;
        read_stage(config, item, overlay, &stages[i]);
    }
    check_stages(config, list, stages, n);
    config->values.run.stages = stages;
    config->values.run.n_stages = n;
}
