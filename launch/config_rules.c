/*
 * config_rules.c: what depends on more than one key: defaults worked out from others, and contradictions.
 * Each rule is one function; a contradiction names both keys and what to do.
 */
#include "launch/config_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

static void contradiction(struct config *config, const char *name, const char *what)
{
    char where[600];
    problems_add(&config->problems, LORAD_CONFIG, "%s: %s", config_where(where, config, name), what);
}

static bool given(const struct config *config, const char *name)
{
    return config_given(config, name);
}

static void rule_precision(struct config *config)
{
    struct config_values *v = &config->values;
    if (v->bf16 + v->fp16 + v->fp32 > 1) {
        contradiction(config, v->fp16 ? "fp16" : "fp32", "only one of bf16, fp16 and fp32 can be true");
        return;
    }
    bool none = given(config, "bf16") && !v->bf16 && !v->fp16; /* `bf16: false` alone means float32 */
    v->run.precision = v->fp16 ? PRECISION_F16 : v->fp32 || none ? PRECISION_F32 : PRECISION_BF16;
    if (given(config, "fp32") && !v->fp32 && v->run.precision == PRECISION_F32)
        contradiction(config, "fp32", "bf16, fp16 and fp32 are all false; one precision must be left");
}

static void rule_lora(struct config *config)
{
    struct lora_options *lora = &config->values.run.lora;
    if (!given(config, "lora_alpha")) lora->alpha = 2.0 * lora->rank;
    lora->rank_given = given(config, "lora_rank");
    lora->alpha_given = given(config, "lora_alpha");
    lora->rslora_given = given(config, "use_rslora");
    lora->targets_given = given(config, "lora_target");
}

/* metadata_path beside a single dataset is that one's. */
static void rule_metadata(struct config *config)
{
    struct run_options *run = &config->values.run;
    const char *path = config->values.metadata_path;
    if (!path || run->n_train_sources == 0) return;
    if (run->n_train_sources > 1 || run->train_sources->metadata_path) {
        contradiction(config, "metadata_path",
                      run->n_train_sources > 1 ? "there are several datasets: give it to one of them, "
                                                 "{path: ..., metadata_path: ...}"
                                               : "the dataset has one of its own: remove one of them");
        return;
    }
    struct dataset_source *source = config_own(config, memory_new(1, sizeof *source));
    if (!source) return;
    *source = *run->train_sources;
    source->metadata_path = path;
    run->train_sources = source;
}

static bool any_weight(const struct config *config)
{
    int key = config_key_find("dataset");
    const struct config_node *node = config->chosen[key];
    for (const struct config_node *item = node ? node->first : NULL; item; item = item->next)
        for (const struct config_node *member = item->first; member; member = member->next)
            if (member->key && strcasecmp(member->key, "weight") == 0) return true;
    return false;
}

static void check_probs(struct config *config)
{
    struct config_values *v = &config->values;
    char words[160];
    if (v->n_interleave_probs != v->run.n_train_sources) {
        snprintf(words, sizeof words, "has %d numbers, but dataset has %d entries: one for each is wanted",
                 v->n_interleave_probs, v->run.n_train_sources);
        contradiction(config, "interleave_probs", words);
        v->n_interleave_probs = 0;
    } else if (any_weight(config)) {
        contradiction(config, "interleave_probs",
                      "says the same as the weights in dataset: keep one of them");
    }
    if (v->run.mix_strategy == MIX_CONCAT)
        contradiction(
            config, "interleave_probs",
            "is for mix_strategy interleave_under and interleave_over; with concat give each dataset "
            "a weight");
}

/* Copies `sources` with the caps and probabilities that other keys give them. */
static const struct dataset_source *complete_sources(struct config *config,
                                                     const struct dataset_source *sources, int32_t n,
                                                     const double *probs)
{
    int64_t cap = config->values.max_samples;
    bool complete = true;
    for (int32_t i = 0; i < n; i++)
        complete &= (cap == 0 || sources[i].max_samples > 0) && (!probs || sources[i].weight == probs[i]);
    if (complete) return sources; /* a stage keeps the very list it has from the run */
    struct dataset_source *copy = config_own(config, memory_new((size_t)n, sizeof *copy));
    for (int32_t i = 0; copy && i < n; i++) {
        copy[i] = sources[i];
        if (copy[i].max_samples == 0) copy[i].max_samples = cap;
        if (probs) copy[i].weight = probs[i];
    }
    return copy ? copy : sources;
}

static void rule_mixture(struct config *config)
{
    struct config_values *v = &config->values;
    struct run_options *run = &v->run;
    if (v->n_interleave_probs > 0) check_probs(config);
    const double *probs = v->n_interleave_probs > 0 ? v->interleave_probs : NULL;
    run->train_sources = complete_sources(config, run->train_sources, run->n_train_sources, probs);
    run->eval_sources = complete_sources(config, run->eval_sources, run->n_eval_sources, NULL);
}

static void rule_dataset(struct config *config)
{
    struct run_options *run = &config->values.run;
    if (given(config, "dataset") && run->n_train_sources == 0 && config->problems.n == 0)
        contradiction(config, "dataset", "names no files");
    rule_metadata(config);
    rule_mixture(config);
    if (run->val_size > 0 && run->n_eval_sources > 0)
        contradiction(config, "val_size", "cannot be used together with eval_file: remove one of them");
    if (run->val_size >= 1 && run->val_size != (double)(int64_t)run->val_size)
        contradiction(config, "val_size", "must be a share below 1 or a whole number of rows");
}

static void rule_data(struct config *config)
{
    struct run_options *run = &config->values.run;
    if (!given(config, "dataset") && !given(config, "stages")) {
        char where[600];
        problems_add(&config->problems, LORAD_CONFIG,
                     "%s is missing: the files or folders to train on (`lorad help "
                     "dataset`)",
                     config_where(where, config, "dataset"));
    }
    rule_dataset(config);
    if (run->data_policy == DATA_APPEND && run->val_size > 0)
        contradiction(
            config, "data_policy",
            "append cannot be used together with val_size, which keeps back other rows once there are "
            "more: use eval_file");
    if (run->data_policy == DATA_APPEND && run->n_train_sources > 64)
        contradiction(config, "data_policy", "append works with at most 64 datasets");
    if (run->template_name && strcmp(run->template_name, "auto") == 0) run->template_name = NULL;
    if (!given(config, "data_seed")) run->data_seed = run->seed;
}

static void rule_batch(struct config *config)
{
    struct run_options *run = &config->values.run;
    if (run->global_batch_size > 0 && run->gradient_accumulation_steps > 1)
        contradiction(config, "gradient_accumulation_steps",
                      "cannot be used together with global_batch_size, which decides it: remove one of them");
    if (run->auto_find_batch_size && run->global_batch_size == 0)
        contradiction(config, "auto_find_batch_size", "needs global_batch_size, the rows of one step");
    if (run->auto_find_batch_size && given(config, "per_device_train_batch_size"))
        contradiction(
            config, "auto_find_batch_size",
            "cannot be used together with per_device_train_batch_size, which it decides: remove one of "
            "them");
    if (!run->auto_find_batch_size && run->global_batch_size > 0 &&
        run->global_batch_size < run->per_device_train_batch_size)
        contradiction(config, "global_batch_size",
                      "is smaller than per_device_train_batch_size: a step needs at least one micro-batch");
    if (!given(config, "per_device_eval_batch_size"))
        run->per_device_eval_batch_size = run->auto_find_batch_size ? 0 : run->per_device_train_batch_size;
}

static void rule_schedule(struct config *config)
{
    struct optimizer_options *optimizer = &config->values.run.optimizer;
    if (optimizer->warmup_ratio > 0 && optimizer->warmup_steps > 0)
        contradiction(config, "warmup_ratio",
                      "cannot be used together with warmup_steps: remove one of them");
    if (config->values.run.max_steps == 0)
        contradiction(config, "max_steps",
                      "0 steps train nothing; use -1 for num_train_epochs or a number above 0");
    if (config->values.run.max_steps > 0 && config->values.run.max_tokens > 0)
        contradiction(config, "max_tokens", "cannot be used together with max_steps: remove one of them");
    if (config->values.run.max_steps > 0 && optimizer->warmup_steps > config->values.run.max_steps)
        contradiction(config, "warmup_steps", "is larger than max_steps");

    double low = config->values.min_lr, rate = config->values.min_lr_rate;
    const char *key = given(config, "min_lr") ? "min_lr" : "lr_scheduler_kwargs";
    if (low >= 0 && rate >= 0)
        contradiction(config, key, "give min_lr or min_lr_rate, not both");
    else if (rate >= 0)
        low = rate * optimizer->learning_rate;
    if (optimizer->schedule == SCHEDULE_COSINE_WITH_MIN_LR && low < 0)
        contradiction(config, "lr_scheduler_type", "cosine_with_min_lr needs min_lr");
    else if (optimizer->schedule != SCHEDULE_COSINE_WITH_MIN_LR && low >= 0)
        contradiction(config, key, "is used by lr_scheduler_type: cosine_with_min_lr only");
    if (low > optimizer->learning_rate) contradiction(config, key, "min_lr is larger than learning_rate");
    optimizer->min_lr = low > 0 ? low : 0;
}

static void rule_evaluation(struct config *config)
{
    struct run_options *run = &config->values.run;
    bool rows = false;
    for (int32_t i = 0; i < run_stages(run); i++) {
        const struct stage_options stage = run_stage(run, i);
        rows |= stage.n_eval_sources > 0 || stage.val_size > 0;
    }
    if (!given(config, "eval_strategy"))
        run->eval_strategy = !rows ? WHEN_NO : given(config, "eval_steps") ? WHEN_STEPS : WHEN_EPOCH;
    if (!given(config, "eval_steps")) run->eval_steps = run->save_steps;
    if (run->eval_strategy != WHEN_NO && !rows)
        contradiction(config, "eval_strategy", "there are no held-out rows: set eval_file or val_size");
    else if (given(config, "eval_steps") && !rows)
        contradiction(config, "eval_steps", "there are no held-out rows: set eval_file or val_size");
    bool accuracy = run->metric_for_best_model && strstr(run->metric_for_best_model, "accuracy");
    if (given(config, "greater_is_better") && run->greater_is_better != accuracy)
        contradiction(config, "greater_is_better",
                      accuracy ? "a greater accuracy is better: remove it"
                               : "a smaller eval_loss is better: remove it");
    run->greater_is_better = accuracy;
    if (run->early_stopping_patience > 0 && run->eval_strategy == WHEN_NO)
        contradiction(config, "early_stopping_patience",
                      "needs evaluations: set eval_strategy and eval_file or val_size");
}

static void rule_saving(struct config *config)
{
    struct run_options *run = &config->values.run;
    if (run->save_strategy == WHEN_BEST && run->eval_strategy == WHEN_NO)
        contradiction(config, "save_strategy",
                      "best needs evaluations: set eval_strategy and eval_file or val_size");
    if (!run->load_best_model_at_end) return;
    const struct stage_options last = run_stage(run, run_stages(run) - 1);
    if (run->n_stages > 0 && last.n_eval_sources == 0 && last.val_size <= 0)
        contradiction(config, "load_best_model_at_end",
                      "takes the best of the last stage, which has no held-out rows: set eval_file");
    if (run->eval_strategy == WHEN_NO)
        contradiction(config, "load_best_model_at_end",
                      "needs evaluations: set eval_strategy and eval_file or val_size");
    else if (run->save_strategy != WHEN_BEST && run->save_strategy != run->eval_strategy)
        contradiction(
            config, "load_best_model_at_end",
            "needs a save at each evaluation: set save_strategy to best or to the value of eval_strategy");
    else if (run->save_strategy == WHEN_STEPS && run->eval_steps > 0 &&
             run->save_steps % run->eval_steps != 0)
        contradiction(config, "load_best_model_at_end", "needs save_steps to be a multiple of eval_steps");
}

static void rule_output(struct config *config)
{
    struct run_options *run = &config->values.run;
    if (run->overwrite_output_dir && run->resume_from_checkpoint &&
        strcmp(run->resume_from_checkpoint, "auto") != 0)
        contradiction(config, "overwrite_output_dir",
                      "moves old runs aside, but resume_from_checkpoint names one of "
                      "them: remove one of the two keys");
    if (run->adapter_dir && run->resume_from_checkpoint && strcmp(run->resume_from_checkpoint, "auto") != 0)
        contradiction(config, "adapter_name_or_path",
                      "starts a new run from an adapter, but resume_from_checkpoint goes "
                      "on with an old run: remove one of the two keys");
    if (run->comm && strcmp(run->comm, "self") == 0 && run->tensor_parallel_size > 1)
        contradiction(config, "comm", "self is for one rank, but tensor_parallel_size is larger");
}

void config_apply_stage_rules(struct config *config)
{
    rule_dataset(config);
    rule_schedule(config);
}

void config_apply_rules(struct config *config)
{
    rule_precision(config);
    rule_lora(config);
    rule_data(config);
    rule_batch(config);
    rule_schedule(config);
    config_read_stages(config);
    rule_evaluation(config);
    rule_saving(config);
    rule_output(config);
}

static void need_path(struct config *config, const char *name, const char *path, bool folder)
{
    char where[600];
    if (!path) return;
    errno = 0;
    bool exists = file_exists(path);
    if (!exists && errno != ENOENT && errno != ENOTDIR)
        problems_add(&config->problems, LORAD_NOT_FOUND, "%s: %s cannot be read: %s",
                     config_where(where, config, name), path, strerror(errno));
    else if (!exists)
        problems_add(&config->problems, LORAD_NOT_FOUND, "%s: %s does not exist%s",
                     config_where(where, config, name), path,
                     path[0] == '/' ? "" : " (paths are relative to the current folder)");
    else if (folder && !file_is_dir(path))
        problems_add(&config->problems, LORAD_NOT_FOUND, "%s: %s is not a folder",
                     config_where(where, config, name), path);
}

static void need_sources(struct config *config, const char *key, const struct dataset_source *sources,
                         int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        if (!strpbrk(sources[i].path, "*?[{")) need_path(config, key, sources[i].path, false);
        need_path(config, key, sources[i].metadata_path, false);
    }
}

void config_check_paths(struct config *config)
{
    const struct run_options *run = &config->values.run;
    need_path(config, "model_name_or_path", run->model_dir, true);
    need_path(config, "adapter_name_or_path", run->adapter_dir, true);
    for (int32_t s = 0; s < run_stages(run); s++) {
        const struct stage_options stage = run_stage(run, s);
        need_sources(config, run->n_stages > 0 ? "stages" : "dataset", stage.train_sources,
                     stage.n_train_sources);
        need_sources(config, given(config, "eval_file") ? "eval_file" : "stages", stage.eval_sources,
                     stage.n_eval_sources);
    }
    need_path(config, "sensitive_words", run->inspect.sensitive_words, false);
    if (run->resume_from_checkpoint && strcmp(run->resume_from_checkpoint, "auto") != 0)
        need_path(config, "resume_from_checkpoint", run->resume_from_checkpoint, true);
    problems_unique(&config->problems);
}
