#include "support/test.h"

#include <unistd.h>

#include "launch/config.h"
#include "launch/config_impl.h"

static const char minimal[] = "model_name_or_path: m\ndataset: d.jsonl\noutput_dir: out\n";

static struct config *parse_with(const char *text, const char *const *sets, size_t n_sets)
{
    struct config *config = NULL;
    assert_ok(config_parse(&config, text, strlen(text), "x.yaml", sets, n_sets));
    return config;
}

/* minimal + text, expected to be fine. */
static struct config *parse_good(const char *text)
{
    char whole[4096];
    snprintf(whole, sizeof whole, "%s%s", minimal, text);
    struct config *config = parse_with(whole, NULL, 0);
    if (config_problem_count(config) != 0) fail_msg("%s: %s", text, config_problem(config, 0));
    return config;
}

static void defaults_are_those_of_the_table(void **state)
{
    (void)state;
    struct config *config = parse_good("");
    const struct run_options *run = config_run(config);
    assert_string_equal(run->model_dir, "m");
    assert_int_equal(run->n_train_sources, 1);
    assert_string_equal(run->train_sources[0].path, "d.jsonl");
    assert_string_equal(run->train_sources[0].format, "auto");
    assert_int_equal(run->lora.rank, 8);
    assert_true(run->lora.alpha == 16);
    assert_int_equal(run->lora.n_targets, 1);
    assert_string_equal(run->lora.targets[0], "all");
    assert_int_equal(run->precision, PRECISION_BF16);
    assert_true(run->optimizer.learning_rate == 5e-5);
    assert_true(run->optimizer.beta2 == 0.999);
    assert_int_equal(run->eval_strategy, WHEN_NO);
    assert_int_equal(run->save_strategy, WHEN_STEPS);
    assert_int_equal(run->data_seed, 42);
    assert_int_equal(run->max_steps, -1);
    assert_int_equal(run->per_device_eval_batch_size, 8);
    assert_null(run->template_name);
    assert_null(run->resume_from_checkpoint);
    assert_null(run->adapter_dir);
    assert_true(run->report_tensorboard);
    assert_int_equal(run->deterministic, DETERMINISM_ON);
    config_destroy(config);
}

static void names_of_other_trainers_mean_the_same(void **state)
{
    (void)state;
    struct config *config =
        parse_with("train_data_dir: ./data/law_train\nmetadata_path:\n"
                   "base_model: ./models/llama-2-7b-chat-hf\ntask_type: text-generation\n"
                   "output_dir: ./output/law_lora\nlora_rank: 16\nlora_alpha: 32\nlora_dropout: 0.1\n"
                   "batch_size: 4\nepochs: 15\nlearning_rate: 1.5e-4\nmax_seq_length: 512\n"
                   "fp16: true\ndevice: cuda\nsave_steps: 50\nresume_from_checkpoint: auto\n"
                   "target_modules: [q_proj, v_proj]\n",
                   NULL, 0);
    assert_ok(config_status(config));
    const struct run_options *run = config_run(config);
    assert_string_equal(run->model_dir, "./models/llama-2-7b-chat-hf");
    assert_string_equal(run->train_sources[0].path, "./data/law_train");
    assert_int_equal(run->per_device_train_batch_size, 4);
    assert_true(run->num_train_epochs == 15);
    assert_int_equal(run->cutoff_len, 512);
    assert_int_equal(run->precision, PRECISION_F16);
    assert_string_equal(run->device, "cuda");
    assert_int_equal(run->save_steps, 50);
    assert_string_equal(run->resume_from_checkpoint, "auto");
    assert_int_equal(run->lora.n_targets, 2);
    assert_string_equal(run->lora.targets[1], "v_proj");
    assert_string_equal(config_noted(config), "task_type");
    config_destroy(config);
}

static void every_value_shape_is_read(void **state)
{
    (void)state;
    struct config *config = parse_good(
        "eval_file:\n  - {path: a.jsonl, format: messages, weight: 2, name: A}\n  - b.txt\n"
        "lora_target: '.*layers\\.[0-3]\\..*q_proj'\n"
        "lr_groups:\n  - {pattern: '*.layers.0.*', learning_rate: 1e-5}\n"
        "  - {name: n, modules: ['*lora_B*', '*q*'], lr: 2e-5}\n"
        "gradient_checkpointing: true\nreport_to: [none]\nlr_scheduler_type: Cosine_with_min_lr\n"
        "lr_scheduler_kwargs: {min_lr_rate: 0.1}\nlearning_rate: 1e-3\nbf16: no\nseed: 18446744073709551615\n"
        "excess_length_strategy: raise\nmax_steps: 7\nresume_from_checkpoint: false\n"
        "deterministic: Elastic\n");
    const struct run_options *run = config_run(config);
    assert_int_equal(run->n_eval_sources, 2);
    assert_true(run->eval_sources[0].weight == 2);
    assert_string_equal(run->eval_sources[0].name, "A");
    assert_string_equal(run->eval_sources[1].path, "b.txt");
    assert_int_equal(run->eval_strategy, WHEN_EPOCH);
    assert_true(run->lora.targets_are_pattern);
    assert_string_equal(run->lora.targets[0], ".*layers\\.[0-3]\\..*q_proj");
    assert_int_equal(run->optimizer.n_lr_groups, 3);
    assert_string_equal(run->optimizer.lr_groups[2].pattern, "*q*");
    assert_true(run->optimizer.lr_groups[0].learning_rate == 1e-5);
    assert_int_equal(run->gradient_checkpointing, CHECKPOINTING_LAYER);
    assert_int_equal(run->deterministic, DETERMINISM_ELASTIC);
    assert_false(run->report_tensorboard);
    assert_int_equal(run->optimizer.schedule, SCHEDULE_COSINE_WITH_MIN_LR);
    assert_true(run->optimizer.min_lr == 1e-3 * 0.1);
    assert_int_equal(run->precision, PRECISION_F32);
    assert_true(run->seed == UINT64_MAX);
    assert_int_equal(run->excess, EXCESS_RAISE);
    assert_null(run->resume_from_checkpoint);
    config_destroy(config);
    config = parse_good("lora_target: q_proj,v_proj ,k_proj\nlr_groups: {'*q*': 0.1}\n");
    assert_int_equal(config_run(config)->lora.n_targets, 3);
    assert_int_equal(config_run(config)->optimizer.n_lr_groups, 1);
    config_destroy(config);
}

static void passwords_stay_out_of_the_resolved_text(void **state)
{
    (void)state;
    struct config *config = parse_good("redis_url: redis://ann:hunter2@h:7000/1\nredis_prefix: team-a\n");
    const struct run_options *run = config_run(config);
    assert_string_equal(run->redis_url, "redis://ann:hunter2@h:7000/1");
    assert_string_equal(run->redis_prefix, "team-a");
    assert_non_null(strstr(run->config_text, "redis://ann:***@h:7000/1"));
    assert_null(strstr(run->config_text, "hunter2"));
    config_destroy(config);
    const char *sets[] = {"redis_url=redis://:hunter2@h:70000", "redis_prefix={x}"};
    config = parse_with(minimal, sets, 2);
    assert_int_equal(config_problem_count(config), 2);
    assert_string_equal(config_problem(config, 0),
                        "--set redis_url=redis://:***@h:70000: redis_url: the port must be a "
                        "number from 1 to 65535");
    config_destroy(config);
}

static void overrides_win_and_the_last_one_most(void **state)
{
    (void)state;
    const char *sets[] = {"lora_rank=4", "r=32", "stage=sft", "eval_file=[a.jsonl, b.jsonl]", "run_name="};
    char whole[256];
    snprintf(whole, sizeof whole, "%slora_r: 16\nrun_name: x\n", minimal);
    struct config *config = parse_with(whole, sets, 5);
    assert_ok(config_status(config));
    assert_int_equal(config_run(config)->lora.rank, 32);
    assert_int_equal(config_run(config)->n_eval_sources, 2);
    assert_null(config_run(config)->run_name);
    config_destroy(config);
    const char *bad[] = {"lora_rank=x", "nonsense", "lora_rnk=8", "bf16=*a"};
    config = parse_with(minimal, bad, 4);
    assert_int_equal(config_problem_count(config), 4);
    assert_non_null(strstr(config_problem(config, 0), "--set nonsense: must have the form key=value"));
    assert_non_null(strstr(config_problem(config, 1),
                           "--set lora_rnk=8: lora_rnk: unknown key; did you mean lora_rank?"));
    assert_non_null(strstr(config_problem(config, 2), "aliases"));
    assert_non_null(strstr(config_problem(config, 3), "--set lora_rank=x: lora_rank: a whole number"));
    config_destroy(config);
}

static void the_resolved_text_is_a_configuration_with_the_same_hash(void **state)
{
    (void)state;
    struct config *first =
        parse_good("lora_target: [q_proj]\nlr_groups: {'*a: \"b*': 0.1}\nrun_name: \"no: # 中文\"\n"
                   "learning_rate: 3e-4\ndata_seed: 5\n");
    const char *text = config_run(first)->config_text;
    struct config *second = parse_with(text, NULL, 0);
    if (config_problem_count(second)) fail_msg("%s\n%s", config_problem(second, 0), text);
    assert_string_equal(config_run(second)->config_text, text);
    assert_true(hash128_equal(config_run(first)->config_hash, config_run(second)->config_hash));
    struct config *other = parse_good("learning_rate: 4e-4\n"), *named = parse_good("run_name: y\n"),
                  *plain = parse_good("");
    assert_false(hash128_equal(config_run(other)->config_hash, config_run(plain)->config_hash));
    assert_true(hash128_equal(config_run(named)->config_hash, config_run(plain)->config_hash));
    config_destroy(first);
    config_destroy(second);
    config_destroy(other);
    config_destroy(named);
    config_destroy(plain);
}

/* Each text is appended to the minimal file (lines 1 to 3) and has exactly one problem, which contains the
 * words. */
static const struct {
    const char *text, *words;
} bad[] = {
    {"lora_rnak: 8\n", "x.yaml:4: lora_rnak: unknown key; did you mean lora_rank?"},
    {"sequence_length_that_nobody_knows: 1\n", "unknown key; `lorad help` lists"},
    {"lora_rank: 8\nlora_rank: 16\n", "x.yaml:5: lora_rank: given twice (first in line 4)"},
    {"lora_rank: 8\nlora_r: 16\n", "x.yaml:5: lora_r: contradicts lora_rank in line 4"},
    {"lora_rank: &a 8\n", "x.yaml:4: YAML anchors"},
    {"lora_rank: !!int 8\n", "x.yaml:4: YAML tags"},
    {"<<: {a: 1}\n", "merge keys"},
    {"---\na: 1\n", "second YAML document"},
    {"lora_rank: [1\n", "not valid YAML"},
    {"\tlora_rank: 1\n", "not valid YAML"},
    {"run_name: \"a\\0b\"\n", "NUL"},
    {"lora_rank: *a\n", "YAML aliases"},
    {"lora_target: '.*(q'\n", "lora_target: "},
    {"? [a]\n: 1\n", "a key must be a plain word"},
    {"lora_rank: eight\n", "x.yaml:4: lora_rank: a whole number is wanted, not \"eight\""},
    {"lora_rank: \"8\"\n", "without quotes"},
    {"lora_rank: 8.5\n", "a whole number"},
    {"lora_rank: 99999999999999999999\n", "a whole number"},
    {"lora_rank: [8]\n", "not a list"},
    {"lora_rank: 0\n", "out of range; it must be at least 1 and at most 1024"},
    {"lora_dropout: 1\n", "at least 0 and below 1"},
    {"lora_dropout: nan\n", "a number is wanted"},
    {"learning_rate: 0x1p3\n", "a number is wanted"},
    {"learning_rate: -1\n", "above 0 and at most 10"},
    {"seed: -1\n", "from 0 up"},
    {"packing: maybe\n", "true or false is wanted, not \"maybe\""},
    {"packing: 'true'\n", "in quotes"},
    {"device: gpu\n", "\"gpu\" is not known; use one of: auto, cpu, cuda"},
    {"lr_scheduler_type: cosin\n", "did you mean cosine?"},
    {"lora_target: [q_proj, v_porj]\n", "did you mean v_proj?"},
    {"lora_target: embed_tokens\n", "\"embed_tokens\" is not known"},
    {"lora_target: []\n", "names no layer"},
    {"eval_file: [{format: messages}]\n", "a dataset needs a path"},
    {"eval_file: [{path: a, fromat: messages}]\n", "fromat: unknown in a dataset; did you mean format?"},
    {"eval_file: [{path: a, weight: 0}]\n", "weight: a number above 0"},
    {"eval_file: {path: a, format: parquet}\n", "\"parquet\" is not known"},
    {"lr_groups: [{pattern: a}]\n", "a group needs a pattern and a learning_rate"},
    {"lr_groups: {a: fast}\n", "a: a learning rate from 0 to 10"},
    {"lr_groups: x\n", "a list of {pattern, learning_rate}"},
    {"report_to: wandb\n", "\"wandb\" is not supported; use tensorboard"},
    {"gradient_checkpointing: some\n", "is not known"},
    {"deterministic: elastc\n", "did you mean elastic?"},
    {"deterministic: [true]\n", "true, false or elastic is wanted"},
    {"bf16: true\nfp16: true\n", "only one of bf16, fp16 and fp32"},
    {"bf16: false\nfp16: false\nfp32: false\n", "one precision must be left"},
    {"val_size: 0.1\neval_file: a\n", "val_size: cannot be used together with eval_file"},
    {"val_size: 1.5\n", "whole number of rows"},
    {"global_batch_size: 8\ngradient_accumulation_steps: 2\n",
     "cannot be used together with global_batch_size"},
    {"auto_find_batch_size: true\n", "needs global_batch_size"},
    {"auto_find_batch_size: true\nglobal_batch_size: 8\nper_device_train_batch_size: 2\n",
     "which it decides"},
    {"global_batch_size: 4\n", "smaller than per_device_train_batch_size"},
    {"warmup_steps: 5\nwarmup_ratio: 0.1\n", "cannot be used together with warmup_steps"},
    {"max_steps: 0\n", "train nothing"},
    {"max_steps: 5\nwarmup_steps: 6\n", "larger than max_steps"},
    {"lr_scheduler_type: cosine_with_min_lr\n", "needs min_lr"},
    {"min_lr: 1e-6\n", "is used by lr_scheduler_type: cosine_with_min_lr only"},
    {"lr_scheduler_type: cosine_with_min_lr\nmin_lr: 1\n", "larger than learning_rate"},
    {"lr_scheduler_kwargs: {num_cycles: 2}\n", "num_cycles: not supported here"},
    {"eval_strategy: steps\n", "no held-out rows"},
    {"early_stopping_patience: 2\n", "needs evaluations"},
    {"val_size: 5\ngreater_is_better: true\n", "smaller eval_loss is better"},
    {"val_size: 5\nmetric_for_best_model: eval_accuracy\ngreater_is_better: false\n",
     "greater accuracy is better"},
    {"val_size: 5\nload_best_model_at_end: true\n", "needs a save at each evaluation"},
    {"val_size: 5\nload_best_model_at_end: true\neval_steps: 3\nsave_steps: 4\n", "multiple of eval_steps"},
    {"overwrite_output_dir: true\nresume_from_checkpoint: x\n", "overwrite_output_dir: moves old runs aside"},
    {"use_dora: true\n", "x.yaml:4: use_dora: true is not supported: lorad trains plain LoRA pairs only"},
    {"bias: all\n", "bias: all is not supported"},
    {"rank_pattern: {q_proj: 4}\n", "rank_pattern"},
    {"modules_to_save: [lm_head]\n", "modules_to_save"},
    {"quantization_bit: 4\n", "quantised base models"},
    {"metadata_path: {a: b}\n", "metadata_path: text is wanted"},
    {"eval_file: {path: a, columns: QUES}\n", "a map such as {prompt: NAME} is wanted"},
    {"eval_file: {path: a, columns: {promt: QUES}}\n", "promt: unknown in columns; known are prompt, query"},
    {"eval_file: {path: a, tags: {role: from}}\n", "role: unknown in tags; known are role_tag"},
    {"eval_file: {path: a, format: parquet}\n", "\"parquet\" is not known"},
    {"task_type: SEQ_CLS\n", "causal language models"},
    {"stage: dpo\n", "supervised fine-tuning (sft) only"},
    {"do_train: false\n", "do_train"},
};

static void every_mistake_is_named_with_its_line(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char whole[1024];
        snprintf(whole, sizeof whole, "%s%s", minimal, bad[i].text);
        struct config *config = parse_with(whole, NULL, 0);
        if (config_problem_count(config) != 1 || !strstr(config_problem(config, 0), bad[i].words)) {
            for (size_t p = 0; p < config_problem_count(config); p++)
                print_error("  %s\n", config_problem(config, p));
            fail_msg("%s: expected one problem with \"%s\"", bad[i].text, bad[i].words);
        }
        enum status status = config_status(config);
        assert_int_equal(status, LORAD_CONFIG);
        config_destroy(config);
    }
}

static struct config *parse_dataset(const char *dataset)
{
    char text[600];
    snprintf(text, sizeof text, "model_name_or_path: m\noutput_dir: o\n%s", dataset);
    return parse_with(text, NULL, 0);
}

static void a_dataset_says_how_its_rows_are_named(void **state)
{
    (void)state;
    struct config *config = parse_dataset(
        "dataset:\n- path: qa.csv\n  columns: {prompt: QUES, response: ANS}\n  system: Be brief.\n"
        "- path: chat.json\n  formatting: sharegpt\n  columns: {messages: conversations}\n"
        "  tags: {role_tag: from, content_tag: value, user_tag: human, assistant_tag: gpt, function_tag: f}\n"
        "  metadata_path: m.csv\n");
    assert_ok(config_status(config));
    const struct dataset_source *source = config_run(config)->train_sources;
    assert_int_equal(config_run(config)->n_train_sources, 2);
    assert_string_equal(source[0].columns.prompt, "QUES");
    assert_string_equal(source[0].columns.response, "ANS");
    assert_null(source[0].columns.query);
    assert_string_equal(source[0].system, "Be brief.");
    assert_string_equal(source[1].format, "sharegpt");
    assert_string_equal(source[1].columns.messages, "conversations");
    assert_string_equal(source[1].tags.user_tag, "human");
    assert_null(source[1].tags.system_tag);
    assert_string_equal(source[1].metadata_path, "m.csv");
    config_destroy(config);

    config = parse_dataset("train_data_dir: ./law\nmetadata_path: m.csv\n");
    assert_ok(config_status(config));
    assert_string_equal(config_run(config)->train_sources->metadata_path, "m.csv");
    config_destroy(config);
    config = parse_dataset("dataset: [a, b]\nmetadata_path: m.csv\n");
    assert_fails(config_status(config), LORAD_CONFIG, "there are several datasets");
    config_destroy(config);
    config = parse_dataset("dataset: {path: a, metadata_path: x.csv}\nmetadata_path: m.csv\n");
    assert_fails(config_status(config), LORAD_CONFIG, "has one of its own");
    config_destroy(config);
}

static void keys_that_change_nothing_are_accepted(void **state)
{
    (void)state;
    struct config *config =
        parse_good("stage: sft\ndo_train: true\nfinetuning_type: lora\npreprocessing_num_workers: 16\n"
                   "dataloader_num_workers: 4\nplot_loss: true\nddp_timeout: 180000000\n"
                   "overwrite_cache: true\nuse_dora: false\nbias: none\nrank_pattern: {}\n"
                   "modules_to_save: null\nquantization_bit:\npissa_init: false\nadditional_target: []\n"
                   "optim: adamw_torch\ncutoff_len: 64\nmax_length: 64\n");
    assert_non_null(strstr(config_noted(config), "stage, do_train, finetuning_type"));
    assert_true(config_run(config)->overwrite_cache);
    config_destroy(config);
}

static void all_problems_are_collected(void **state)
{
    (void)state;
    struct config *config = parse_with("lora_rank: -1\nlora_rnak: 2\nbf16: 3\n", NULL, 0);
    assert_int_equal(config_problem_count(config), 6); /* and model_name_or_path, output_dir, dataset */
    assert_fails(config_status(config), LORAD_CONFIG, "(and 5 more)");
    assert_int_equal(config_run(config)->lora.rank, 8);
    config_destroy(config);
    config = parse_with("", NULL, 0);
    assert_non_null(strstr(config_problem(config, 0), "x.yaml: is empty"));
    config_destroy(config);
    config = parse_with("- a\n", NULL, 0);
    assert_non_null(strstr(config_problem(config, 0), "x.yaml:1: lines of the form"));
    config_destroy(config);
}

static void a_deep_file_is_refused(void **state)
{
    (void)state;
    char text[4000] = "a: ";
    memset(text + 3, '[', 3000);
    struct config *config = parse_with(text, NULL, 0);
    assert_non_null(strstr(config_problem(config, 0), "nested too deeply"));
    config_destroy(config);
}

static void files_are_limited_and_missing_paths_named(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/big.yaml", test_tmpdir());
    struct config *config = NULL;
    assert_fails(config_load(&config, path, NULL, 0), LORAD_NOT_FOUND, "big.yaml");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < CONFIG_MAX_BYTES / 16 + 1; i++) fputs("# sixteen bytes\n", file);
    fclose(file);
    assert_fails(config_load(&config, path, NULL, 0), LORAD_CONFIG, "big.yaml");
    config = parse_good("eval_file: /nowhere/e.jsonl\n");
    config_check_paths(config);
    assert_int_equal(config_problem_count(config), 3);
    assert_fails(config_status(config), LORAD_NOT_FOUND, "x.yaml:1: model_name_or_path: m does not exist");
    config_destroy(config);

    char loop[512], text[600];
    snprintf(loop, sizeof loop, "%s/loop.jsonl", test_tmpdir());
    assert_int_equal(symlink(loop, loop), 0);
    snprintf(text, sizeof text, "eval_file: %s\n", loop);
    config = parse_good(text);
    config_check_paths(config);
    assert_int_equal(config_problem_count(config), 3);
    assert_non_null(strstr(config_problem(config, 2), "loop.jsonl cannot be read: "));
    config_destroy(config);
}

static void the_shipped_configurations_load(void **state)
{
    (void)state;
    static const char *const names[] = {
        "quickstart", "fin_stage1",           "fin_stage2",           "law_qa",
        "fin_stages", "curriculum/1-general", "curriculum/2-company", "curriculum/3-together"};
    assert_int_equal(chdir(LORAD_SOURCE_DIR), 0);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[512];
        struct config *config = NULL;
        snprintf(path, sizeof path, "configs/%s.yaml", names[i]);
        assert_ok(config_load(&config, path, NULL, 0));
        if (i != 2) config_check_paths(config); /* stage 2 starts from what stage 1 writes */
        if (config_problem_count(config)) fail_msg("%s", config_problem(config, 0));
        config_destroy(config);
    }
}

static void no_key_is_refused_as_another_trainers(void **state)
{
    (void)state;
    for (size_t i = 0; i < config_n_others; i++)
        if (config_key_find(config_others[i].name) >= 0)
            fail_msg("%s is in both tables", config_others[i].name);
}

static void help_knows_every_name(void **state)
{
    (void)state;
    struct strbuf text = STRBUF_EMPTY;
    assert_ok(config_help_key(&text, "max_seq_length"));
    assert_non_null(strstr(strbuf_text(&text), "cutoff_len"));
    assert_non_null(strstr(strbuf_text(&text), "from 8, to 1048576"));
    assert_ok(config_help_key(&text, "use_dora"));
    assert_fails(config_help_key(&text, "cutof_len"), LORAD_USAGE, "did you mean cutoff_len?");
    strbuf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_table),
        cmocka_unit_test(names_of_other_trainers_mean_the_same),
        cmocka_unit_test(every_value_shape_is_read),
        cmocka_unit_test(passwords_stay_out_of_the_resolved_text),
        cmocka_unit_test(overrides_win_and_the_last_one_most),
        cmocka_unit_test(the_resolved_text_is_a_configuration_with_the_same_hash),
        cmocka_unit_test(every_mistake_is_named_with_its_line),
        cmocka_unit_test(a_dataset_says_how_its_rows_are_named),
        cmocka_unit_test(keys_that_change_nothing_are_accepted),
        cmocka_unit_test(all_problems_are_collected),
        cmocka_unit_test(a_deep_file_is_refused),
        cmocka_unit_test(files_are_limited_and_missing_paths_named),
        cmocka_unit_test(the_shipped_configurations_load),
        cmocka_unit_test(no_key_is_refused_as_another_trainers),
        cmocka_unit_test(help_knows_every_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
