/*
 * config_table.c: the one table of configuration keys, and the table of other trainers' keys.
 *
 * Names are those of Hugging Face TrainingArguments, LLaMA-Factory and PEFT; aliases take in TRL, Axolotl and
 * torchtune. A new key is one row here and one field in an options struct; docs/config.md is generated from
 * this file.
 */
#include "launch/config_impl.h"

#include <string.h>

#include "launch/nearest.h"

#define RUN(field)    offsetof(struct config_values, run.field)
#define SWITCH(field) offsetof(struct config_values, field)
#define REQUIRED      true, true
#define SHARED        false, true
#define LOCAL         false, false

const struct config_key config_keys[] = {
    /* ---- model ---- */
    {"model_name_or_path", "base_model model model_path base_model_name_or_path", TYPE_TEXT, NULL, NULL,
     SECTION_MODEL, REQUIRED, RUN(model_dir), NULL,
     "Folder of the frozen base model in Hugging Face layout: config.json, *.safetensors, tokenizer files. "
     "lorad "
     "downloads nothing."},
    {"adapter_name_or_path", "lora_model_dir adapter_path", TYPE_TEXT, NULL, NULL, SECTION_MODEL, SHARED,
     RUN(adapter_dir), NULL,
     "Folder of a PEFT adapter to continue from, with a fresh optimizer and schedule. Its rank, alpha and "
     "targets must "
     "be the ones configured here."},
    {"template", "chat_template", TYPE_TEXT, "auto", NULL, SECTION_MODEL, SHARED, RUN(template_name), NULL,
     "How a conversation becomes text: `auto` (the model's own chat template), or a name in "
     "docs/templates.md: "
     "`chatml`, `qwen`, `qwen3`, `llama2`, `llama3`, `llama3.1`, `mistral`, `alpaca`, `cornucopia`, `plain`, "
     "..."},
    {"bf16", "", TYPE_BOOL, NULL, NULL, SECTION_MODEL, SHARED, SWITCH(bf16), NULL,
     "Store weights and activations in bfloat16, add in float32. This is the default when none of bf16, "
     "fp16, fp32 is "
     "true."},
    {"fp16", "", TYPE_BOOL, NULL, NULL, SECTION_MODEL, SHARED, SWITCH(fp16), NULL,
     "Half precision with dynamic loss scaling, for GPUs without bfloat16. The CPU backend trains such a "
     "configuration "
     "in float32 and says so."},
    {"initial_scale_power", "fp16_initial_scale_power", TYPE_INT32, "16", "[0,24]", SECTION_MODEL, SHARED,
     RUN(loss_scale.initial_power), NULL,
     "fp16: the loss scale is 2^initial_scale_power at first. A gradient that overflows halves it, and costs "
     "the step "
     "its update."},
    {"loss_scale_window", "", TYPE_INT64, "1000", "[1,1e9]", SECTION_MODEL, SHARED, RUN(loss_scale.window),
     NULL, "fp16: after so many steps without an overflow the loss scale is doubled, up to 2^24."},
    {"fp32", "", TYPE_BOOL, NULL, NULL, SECTION_MODEL, SHARED, SWITCH(fp32), NULL, "float32 throughout."},
    {"gradient_checkpointing", "", TYPE_OWN, "auto", "auto, none, mlp, layer; true means layer, false none",
     SECTION_MODEL, SHARED, RUN(gradient_checkpointing), config_set_checkpointing,
     "How much of the forward pass is computed again in the backward pass to save memory; `auto` takes as "
     "little as "
     "fits."},

    /* ---- lora ---- */
    {"lora_rank", "lora_r r", TYPE_INT32, "8", "[1,1024]", SECTION_LORA, SHARED, RUN(lora.rank), NULL,
     "Rank of the adapter."},
    {"lora_alpha", "", TYPE_REAL, NULL, "(0,1e6]", SECTION_LORA, SHARED, RUN(lora.alpha), NULL,
     "The adapter's output is scaled by lora_alpha / lora_rank. Default: twice lora_rank."},
    {"lora_dropout", "", TYPE_REAL, "0", "[0,1)", SECTION_LORA, SHARED, RUN(lora.dropout), NULL,
     "Share of the adapter's inputs that are zeroed in training."},
    {"lora_target", "lora_target_modules target_modules", TYPE_OWN, "all",
     "all; names of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; or a pattern",
     SECTION_LORA, SHARED, RUN(lora.targets), config_set_target,
     "Which linear layers get an adapter: `all`, a list or comma-separated names, or one regular expression "
     "that must "
     "match the whole module path, as in PEFT (`.*layers\\.[0-3]\\..*q_proj`)."},
    {"use_rslora", "peft_use_rslora", TYPE_BOOL, "false", NULL, SECTION_LORA, SHARED, RUN(lora.use_rslora),
     NULL, "Scale by lora_alpha / sqrt(lora_rank)."},
    {"loraplus_lr_ratio", "", TYPE_REAL, "0", "[0,1e6]", SECTION_LORA, SHARED,
     RUN(optimizer.loraplus_lr_ratio), NULL,
     "LoRA+: learning rate of the B matrices over that of the A matrices. 0: off."},
    {"lr_groups", "", TYPE_OWN, NULL, "list of {pattern, learning_rate}, or a map pattern: learning_rate",
     SECTION_LORA, SHARED, RUN(optimizer.lr_groups), config_set_lr_groups,
     "Own learning rates for some layers: shell patterns over module paths, such as `*.layers.0.*`; the "
     "first match "
     "counts."},

    /* ---- data ---- */
    {"dataset", "train_file train_data_dir train_data datasets data_path", TYPE_OWN, NULL,
     "a path, a list of paths, or a list of {path, format, weight, name, max_samples, epochs, columns, tags, "
     "system, metadata_path}",
     SECTION_DATA, SHARED, RUN(train_sources), config_set_dataset,
     "Training rows. A path is a file, a folder (all its data files) or a pattern (`data/*.jsonl`), .gz or "
     ".zst "
     "too. format: `auto`, `messages`, `sharegpt`, `alpaca`, `csv`, `tsv`, `qa_text` (blank-line separated "
     "`role: text` pairs) or `text` (documents to learn whole). docs/data.md shows each, and `columns`, "
     "`tags`, "
     "`system` and `metadata_path`. weight: see mix_strategy. max_samples: only the first rows. epochs: at "
     "most so "
     "many passes over them in a run (in a stage, when there are stages)."},
    {"eval_file", "eval_dataset eval_datasets test_datasets validation_file eval_data_dir", TYPE_OWN, NULL,
     "as dataset", SECTION_DATA, SHARED, RUN(eval_sources), config_set_dataset, "Held-out rows."},
    {"metadata_path", "", TYPE_TEXT, NULL, NULL, SECTION_DATA, SHARED, SWITCH(metadata_path), NULL,
     "A CSV with one row (id, system, weight, skip) for each row of the one training file; a dataset of "
     "several "
     "files has metadata_path in its entries instead."},
    {"mix_strategy", "", TYPE_CHOICE, "concat", "concat|interleave_under|interleave_over", SECTION_DATA,
     SHARED, RUN(mix_strategy), NULL,
     "How several datasets become one. `concat`: an epoch holds each dataset `weight` times (2: every row "
     "twice, "
     "0.5: another half of the rows each time). interleave: weights are shares of the rows in every block of "
     "1,024; an epoch ends when the first dataset (`interleave_under`) or the last (`interleave_over`) was "
     "gone "
     "through once."},
    {"interleave_probs", "", TYPE_OWN, NULL, "a list of numbers, or 0.7,0.3: one for each dataset",
     SECTION_DATA, SHARED, SWITCH(interleave_probs), config_set_probs,
     "The weights of the datasets for interleave_under and interleave_over, in their order; they need not "
     "add "
     "up to 1."},
    {"max_samples", "", TYPE_INT64, NULL, "[1,1e15]", SECTION_DATA, SHARED, SWITCH(max_samples), NULL,
     "Take only this many rows, the first ones, of every dataset and eval_file; `max_samples` in an entry "
     "comes "
     "before it. Default: all."},
    {"data_policy", "", TYPE_CHOICE, "refuse", "refuse|append", SECTION_DATA, SHARED, RUN(data_policy), NULL,
     "What resume_from_checkpoint does when the training files are not those of the checkpoint. `refuse`: "
     "nothing, and it says what differs. `append`: rows added behind the old ones of an entry are trained in "
     "one "
     "epoch of their own, then epochs go over all rows (docs/stages.md); any other change is refused."},
    {"val_size", "val_set_size", TYPE_REAL, "0", "[0,1e9]", SECTION_DATA, SHARED, RUN(val_size), NULL,
     "Keep back this share of the rows (below 1), or this many rows, as held-out rows. Not together with "
     "eval_file."},
    {"cutoff_len", "max_seq_length max_length sequence_len model_max_length", TYPE_INT32, "2048",
     "[8,1048576]", SECTION_DATA, SHARED, RUN(cutoff_len), NULL,
     "Longest row in tokens, and with packing the size of a pack."},
    {"excess_length_strategy", "", TYPE_CHOICE, "truncate", "drop|truncate|raise", SECTION_DATA, SHARED,
     RUN(excess), NULL,
     "What happens to a row longer than cutoff_len. Either way it is counted and listed by file and line."},
    {"packing", "sample_packing neat_packing", TYPE_BOOL, "false", NULL, SECTION_DATA, SHARED, RUN(packing),
     NULL,
     "Put several rows into one sequence of cutoff_len tokens. Rows never see each other. Batch sizes then "
     "count packs "
     "instead of rows."},
    {"train_on_prompt", "train_on_inputs", TYPE_BOOL, "false", NULL, SECTION_DATA, SHARED,
     RUN(chat.train_on_prompt), NULL, "Supervise every token instead of the assistant's only."},
    {"mask_history", "", TYPE_BOOL, "false", NULL, SECTION_DATA, SHARED, RUN(chat.mask_history), NULL,
     "Supervise the last assistant turn of a row only."},
    {"pii", "", TYPE_CHOICE, "warn", "off|warn|mask|drop", SECTION_DATA, SHARED, RUN(inspect.pii), NULL,
     "Personal data in the rows, found by pattern: Chinese resident ID numbers (with their check digit), "
     "mobile "
     "and landline numbers, bank card numbers (with their Luhn digit), e-mail addresses. `warn` reports the "
     "rows, "
     "`mask` puts [ID], [PHONE], [CARD] and [EMAIL] in their place, `drop` leaves the rows out."},
    {"sensitive_words", "", TYPE_TEXT, NULL, NULL, SECTION_DATA, SHARED, RUN(inspect.sensitive_words), NULL,
     "A file of words, one a line (UTF-8, # starts a comment), that are counted in the rows and reported "
     "with "
     "their places."},
    {"min_answer_chars", "", TYPE_INT32, "0", "[0,1e6]", SECTION_DATA, SHARED, RUN(inspect.min_answer_chars),
     NULL,
     "Answers with fewer characters are reported, not dropped: a short answer may be a right one. 0: none."},
    {"near_duplicates", "", TYPE_BOOL, "true", NULL, SECTION_DATA, SHARED, RUN(inspect.near_duplicates), NULL,
     "Look for rows that repeat each other, exactly or nearly (estimated Jaccard similarity of three-word "
     "pieces "
     "at least 0.8), and for evaluation rows that are in the training data. They are reported, not dropped."},
    {"split_special_tokens", "", TYPE_BOOL, "true", NULL, SECTION_DATA, SHARED,
     RUN(chat.split_special_tokens), NULL,
     "Text in a row that looks like a special token, such as `<|im_end|>`, stays plain text. false: it "
     "becomes the "
     "token."},
    {"cache_dir", "tokenized_path dataset_prepared_path", TYPE_TEXT, NULL, NULL, SECTION_DATA, SHARED,
     RUN(cache_dir), NULL, "Where tokenized rows are kept between runs. Default: output_dir/cache."},
    {"overwrite_cache", "", TYPE_BOOL, "false", NULL, SECTION_DATA, SHARED, RUN(overwrite_cache), NULL,
     "Tokenize again even when the cache holds the rows."},

    /* ---- training ---- */
    {"num_train_epochs", "epochs num_epochs", TYPE_REAL, "3", "(0,1e6]", SECTION_TRAINING, SHARED,
     RUN(num_train_epochs), NULL, "Passes over the training rows; may be a fraction."},
    {"max_steps", "", TYPE_INT64, "-1", "[-1,1e12]", SECTION_TRAINING, SHARED, RUN(max_steps), NULL,
     "Number of optimizer steps; when above 0 it replaces num_train_epochs."},
    {"max_tokens", "", TYPE_INT64, "0", "[0,1e15]", SECTION_TRAINING, SHARED, RUN(max_tokens), NULL,
     "End with the step that brings the tokens trained on to this number: all tokens of the rows, supervised "
     "or "
     "not, without padding. When above 0 it replaces num_train_epochs."},
    {"stages", "", TYPE_OWN, NULL, "a list of stages", SECTION_TRAINING, SHARED, SWITCH(stages_node),
     config_set_stages,
     "Train in stages, one after another in one run. A stage has a `name` and, where it differs from the "
     "run, its "
     "own dataset, mix_strategy, interleave_probs, max_samples, eval_file or val_size, num_train_epochs or "
     "max_steps or max_tokens, learning_rate, lr_scheduler_type, min_lr, warmup_ratio or warmup_steps. "
     "`promote_when: {eval_loss_below: x}` or `{plateau_evaluations: n, min_delta: d}` ends it before its "
     "length. "
     "docs/stages.md shows it."},
    {"per_device_train_batch_size", "batch_size micro_batch_size train_batch_size", TYPE_INT32, "8",
     "[1,65536]", SECTION_TRAINING, SHARED, RUN(per_device_train_batch_size), NULL,
     "Rows (with packing: packs) that one data-parallel rank computes at once."},
    {"auto_find_batch_size", "", TYPE_BOOL, "false", NULL, SECTION_TRAINING, SHARED,
     RUN(auto_find_batch_size), NULL,
     "Choose per_device_train_batch_size: as many rows as the memory of a rank holds, up to 16384 tokens. "
     "Needs "
     "global_batch_size, so that a step stays the same whatever fits."},
    {"gradient_accumulation_steps", "", TYPE_INT32, "1", "[1,1e6]", SECTION_TRAINING, SHARED,
     RUN(gradient_accumulation_steps), NULL,
     "Micro-batches of a rank in one optimizer step. Not together with global_batch_size."},
    {"global_batch_size", "", TYPE_INT64, "0", "[0,1e9]", SECTION_TRAINING, SHARED, RUN(global_batch_size),
     NULL,
     "Rows (packs) in one optimizer step over all ranks. 0: per_device_train_batch_size x "
     "gradient_accumulation_steps x "
     "data-parallel ranks. It is fixed at the first start and kept by a resumed run with another number of "
     "ranks."},
    {"learning_rate", "lr", TYPE_REAL, "5e-5", "(0,10]", SECTION_TRAINING, SHARED,
     RUN(optimizer.learning_rate), NULL, "Highest learning rate of the schedule."},
    {"lr_scheduler_type", "lr_scheduler", TYPE_CHOICE, "linear",
     "linear|cosine|cosine_with_min_lr|constant|constant_with_warmup", SECTION_TRAINING, SHARED,
     RUN(optimizer.schedule), NULL, "How the learning rate changes after warmup."},
    {"lr_scheduler_kwargs", "", TYPE_OWN, NULL, "{min_lr: x} or {min_lr_rate: x}", SECTION_TRAINING, SHARED,
     SWITCH(min_lr_rate), config_set_scheduler_kwargs,
     "Floor of cosine_with_min_lr, absolute or as a share of learning_rate."},
    {"min_lr", "", TYPE_REAL, NULL, "[0,10]", SECTION_TRAINING, SHARED, SWITCH(min_lr), NULL,
     "Floor of cosine_with_min_lr."},
    {"warmup_ratio", "", TYPE_REAL, "0", "[0,1]", SECTION_TRAINING, SHARED, RUN(optimizer.warmup_ratio), NULL,
     "Share of all steps in which the learning rate rises from 0. Not together with warmup_steps."},
    {"warmup_steps", "", TYPE_INT64, "0", "[0,1e12]", SECTION_TRAINING, SHARED, RUN(optimizer.warmup_steps),
     NULL, "The same as a number of steps."},
    {"weight_decay", "", TYPE_REAL, "0", "[0,1]", SECTION_TRAINING, SHARED, RUN(optimizer.weight_decay), NULL,
     "AdamW's decoupled weight decay, on the adapter's matrices."},
    {"adam_beta1", "", TYPE_REAL, "0.9", "[0,1)", SECTION_TRAINING, SHARED, RUN(optimizer.beta1), NULL,
     "AdamW's decay of the first moment."},
    {"adam_beta2", "", TYPE_REAL, "0.999", "[0,1)", SECTION_TRAINING, SHARED, RUN(optimizer.beta2), NULL,
     "AdamW's decay of the second moment."},
    {"adam_epsilon", "", TYPE_REAL, "1e-8", "(0,1]", SECTION_TRAINING, SHARED, RUN(optimizer.epsilon), NULL,
     "AdamW's epsilon."},
    {"max_grad_norm", "", TYPE_REAL, "1.0", "[0,1e9]", SECTION_TRAINING, SHARED, RUN(optimizer.max_grad_norm),
     NULL, "Gradients with a larger norm over all adapters are scaled down to it. 0: no clipping."},
    {"max_skipped_steps", "", TYPE_INT32, "10", "[1,1e6]", SECTION_TRAINING, SHARED, RUN(max_skipped_steps),
     NULL,
     "A step with a loss or gradient that is not finite is skipped by all ranks; after this many in a row "
     "the run ends "
     "with exit code 79."},
    {"seed", "", TYPE_UINT64, "42", NULL, SECTION_TRAINING, SHARED, RUN(seed), NULL,
     "Decides the adapter's first values and dropout."},
    {"data_seed", "", TYPE_UINT64, NULL, NULL, SECTION_TRAINING, SHARED, RUN(data_seed), NULL,
     "Decides the order of the rows and the val_size split. Default: seed."},

    /* ---- evaluation ---- */
    {"eval_strategy", "evaluation_strategy", TYPE_CHOICE, NULL, "no|steps|epoch", SECTION_EVALUATION, SHARED,
     RUN(eval_strategy), NULL,
     "When the held-out rows are evaluated. Default: `steps` when eval_steps is given, else `epoch` when "
     "there are "
     "held-out rows, else `no`."},
    {"eval_steps", "", TYPE_INT64, NULL, "[1,1e12]", SECTION_EVALUATION, SHARED, RUN(eval_steps), NULL,
     "Steps between evaluations. Default: save_steps."},
    {"per_device_eval_batch_size", "eval_batch_size", TYPE_INT32, NULL, "[1,65536]", SECTION_EVALUATION,
     SHARED, RUN(per_device_eval_batch_size), NULL,
     "Rows (packs) that one rank evaluates at once. Default: per_device_train_batch_size."},
    {"metric_for_best_model", "", TYPE_WORD, "eval_loss", "eval_loss|loss|eval_token_accuracy|eval_accuracy",
     SECTION_EVALUATION, SHARED, RUN(metric_for_best_model), NULL,
     "What the best checkpoint is chosen by; eval_accuracy is the share of supervised tokens that are "
     "predicted."},
    {"greater_is_better", "", TYPE_BOOL, "false", NULL, SECTION_EVALUATION, SHARED, RUN(greater_is_better),
     NULL, "Follows from metric_for_best_model; another value than that is refused."},
    {"load_best_model_at_end", "", TYPE_BOOL, "false", NULL, SECTION_EVALUATION, SHARED,
     RUN(load_best_model_at_end), NULL,
     "The final adapter is the one with the best metric. Every save must fall on an evaluation: "
     "save_strategy `best`, "
     "or the same strategy as eval_strategy with save_steps a multiple of eval_steps."},
    {"early_stopping_patience", "early_stopping_steps", TYPE_INT32, "0", "[0,1e6]", SECTION_EVALUATION,
     SHARED, RUN(early_stopping_patience), NULL,
     "End after this many evaluations in a row that did not improve the metric. 0: off."},

    /* ---- checkpoints ---- */
    {"output_dir", "", TYPE_TEXT, NULL, NULL, SECTION_CHECKPOINT, REQUIRED, RUN(output_dir), NULL,
     "Folder for the adapter, checkpoints, logs and the cache. Created."},
    {"overwrite_output_dir", "", TYPE_BOOL, "false", NULL, SECTION_CHECKPOINT, SHARED,
     RUN(overwrite_output_dir), NULL,
     "Move an older run in output_dir aside (output_dir/trash) and start afresh."},
    {"save_strategy", "", TYPE_CHOICE, "steps", "no|steps|epoch|best", SECTION_CHECKPOINT, SHARED,
     RUN(save_strategy), NULL, "When checkpoints are written. The end of training always writes one."},
    {"save_steps", "", TYPE_INT64, "500", "[1,1e12]", SECTION_CHECKPOINT, SHARED, RUN(save_steps), NULL,
     "Steps between checkpoints."},
    {"save_total_limit", "", TYPE_INT32, "0", "[0,1e6]", SECTION_CHECKPOINT, SHARED, RUN(save_total_limit),
     NULL, "Keep this many checkpoints; the newest verified one and the best one always stay. 0: keep all."},
    {"save_compression_level", "", TYPE_INT32, "1", "[1,19]", SECTION_CHECKPOINT, LOCAL,
     RUN(save_compression_level), NULL,
     "zstd level of checkpoints. Higher ones take far longer and make them hardly smaller."},
    {"save_threads", "", TYPE_INT32, "1", "[1,64]", SECTION_CHECKPOINT, LOCAL, RUN(save_threads), NULL,
     "Threads of each rank that compress a checkpoint, beside training."},
    {"resume_from_checkpoint", "auto_resume_from_checkpoints", TYPE_OWN, NULL,
     "a checkpoint folder, auto, true, false", SECTION_CHECKPOINT, SHARED, RUN(resume_from_checkpoint),
     config_set_resume,
     "Go on from a checkpoint exactly where it stopped. `auto` (or true): the newest good one in output_dir, "
     "or a fresh "
     "start when there is none."},
    {"stop_grace_seconds", "", TYPE_REAL, NULL, "(0,1e6]", SECTION_CHECKPOINT, LOCAL, RUN(stop_grace_seconds),
     NULL,
     "How long a run that is asked to stop (TERM) has before it is killed. `lorad run` waits so long; a run "
     "warns when a step and a checkpoint need more. LORAD_GRACE_SECONDS in the environment wins. Default: "
     "300 "
     "under `lorad run`, 2 under mpirun alone."},

    /* ---- logging ---- */
    {"run_name", "", TYPE_TEXT, NULL, NULL, SECTION_LOGGING, LOCAL, RUN(run_name), NULL,
     "A name for people."},
    {"logging_steps", "", TYPE_INT64, "10", "[1,1e12]", SECTION_LOGGING, SHARED, RUN(logging_steps), NULL,
     "Steps between lines in logs/metrics.jsonl and the TensorBoard file."},
    {"report_to", "", TYPE_OWN, "tensorboard", "tensorboard, none, all", SECTION_LOGGING, SHARED,
     RUN(report_tensorboard), config_set_report_to,
     "Who gets the metrics beside output_dir/logs/metrics.jsonl, which is always written."},
    {"redis_url", "", TYPE_OWN, NULL,
     "redis://[[user]:password@]host[:port][/database], rediss://..., unix:///path", SECTION_LOGGING, LOCAL,
     RUN(redis_url), config_set_redis_url,
     "A Redis server that knows the run by its name: `lorad status NAME --redis-url URL` and the other verbs "
     "work "
     "from everywhere, and a second start is refused at once. The run never waits for it (docs/redis.md). A "
     "password "
     "may be in the environment variable REDISCLI_AUTH instead."},
    {"redis_prefix", "", TYPE_OWN, "lorad", "1 to 64 letters, digits and -_.:/", SECTION_LOGGING, LOCAL,
     RUN(redis_prefix), config_set_redis_prefix, "Stands before every key in Redis."},
    {"progress", "", TYPE_CHOICE, "auto", "auto|bar|lines", SECTION_LOGGING, LOCAL, RUN(progress), NULL,
     "A progress bar, or one line every logging_steps. `auto`: a bar on a terminal."},

    /* ---- machine ---- */
    {"device", "", TYPE_WORD, "auto", "auto|cpu|cuda", SECTION_MACHINE, SHARED, RUN(device), NULL,
     "Where to compute. A device that is asked for and absent is an error, never another device."},
    {"tensor_parallel_size", "tensor_model_parallel_size tp_size", TYPE_INT32, "1", "[1,64]", SECTION_MACHINE,
     SHARED, RUN(tensor_parallel_size), NULL,
     "Ranks that share one copy of the model. The other ranks are data parallel: ranks = "
     "tensor_parallel_size x data "
     "parallel."},
    {"sequence_parallel", "", TYPE_BOOL, "false", NULL, SECTION_MACHINE, SHARED, RUN(sequence_parallel), NULL,
     "Between its blocks the ranks of a tensor-parallel group share the rows of a micro-batch among them: "
     "less "
     "memory for saved activations, the same results. Nothing changes when tensor_parallel_size is 1."},
    {"comm", "", TYPE_WORD, "auto", "auto|self|mpi|nccl", SECTION_MACHINE, SHARED, RUN(comm), NULL,
     "How ranks talk. `mpi`: through host memory, GPUs that ranks share included. `nccl`: from GPU to GPU, "
     "one "
     "GPU a rank. `auto`: nothing for one rank, NCCL where every rank has a GPU of its own, else MPI."},
    {"hang_timeout", "", TYPE_REAL, "30", "[0,1e6]", SECTION_MACHINE, SHARED, RUN(hang_timeout), NULL,
     "Seconds without any progress after which a rank counts as hung: the run then ends with code 71 and "
     "says "
     "which rank, host, step and collective it was. Steps that take long by themselves have five times as "
     "long as they usually need. 0: nobody watches, for debuggers (docs/reliability.md)."},
    {"deterministic", "full_determinism", TYPE_OWN, "true", "true, false, elastic", SECTION_MACHINE, SHARED,
     RUN(deterministic), config_set_deterministic,
     "The same bits in every run on the same layout of ranks. Costs nothing on the CPU, where it is always "
     "on. "
     "`elastic`: "
     "the same bits also for another number of data-parallel ranks, a resume on other ranks included, as "
     "long "
     "as tensor_parallel_size stays."},
    {"cuda_graphs", "", TYPE_OWN, "auto", "auto, true, false", SECTION_MACHINE, LOCAL, RUN(cuda_graphs),
     config_set_cuda_graphs,
     "On a GPU, replay the work of micro-batches whose shape was met before as a CUDA graph: the same bits, "
     "and less time between a small model's operations. `auto` tries a few steps each way and stays with "
     "the faster. Not with tensor parallelism; means nothing on the CPU."},
};
const size_t config_n_keys = sizeof config_keys / sizeof config_keys[0];

static const char not_trained[] = "lorad trains plain LoRA pairs only";
static const char no_quantised[] = "quantised base models are not supported yet: use a float model";
static const char no_other_method[] = "lorad fine-tunes with LoRA only";

const struct config_other config_others[] = {
    /* what lorad does anyway */
    {"stage", "sft", "lorad does supervised fine-tuning (sft) only"},
    {"task_type", "text-generation|CAUSAL_LM",
     "lorad trains causal language models (text-generation, CAUSAL_LM) only"},
    {"finetuning_type", "lora", no_other_method},
    {"adapter", "lora", no_other_method},
    {"peft_type", "LORA", no_other_method},
    {"do_train", "!true", "lorad without a verb trains; use `lorad eval` to evaluate only"},
    {"do_eval", "*", ""},
    {"do_predict", "", "use `lorad eval` or `lorad generate`"},
    {"optim", "adamw_torch|adamw_torch_fused|adamw_hf|adamw|adamw_apex_fused",
     "lorad's optimizer is AdamW: remove it"},
    {"preprocessing_num_workers", "*", ""},
    {"dataset_num_proc", "*", ""},
    {"dataloader_num_workers", "*", ""},
    {"dataloader_pin_memory", "*", ""},
    {"dataloader_prefetch_factor", "*", ""},
    {"dataloader_persistent_workers", "*", ""},
    {"dataloader_drop_last", "", "lorad trains on every row, the last partial batch too"},
    {"remove_unused_columns", "*", ""},
    {"ddp_timeout", "*", ""},
    {"ddp_find_unused_parameters", "*", ""},
    {"plot_loss", "*", ""},
    {"trust_remote_code", "*", ""},
    {"low_cpu_mem_usage", "*", ""},
    {"use_cache", "*", ""},
    {"flash_attn", "auto|fa2|sdpa|fa3", "lorad has one attention"},
    {"flash_attention", "*", ""},
    {"attn_implementation", "*", ""},
    {"include_num_input_tokens_seen", "*", ""},
    {"logging_first_step", "*", ""},
    {"logging_dir", "", "logs are in output_dir/logs"},
    {"logging_nan_inf_filter", "*", ""},
    {"log_level", "*", ""},
    {"average_tokens_across_devices", "!true", "lorad always divides by the tokens of the global batch"},
    {"eval_packing", "*", ""},
    {"eval_sample_packing", "*", ""},
    {"padding_free", "*", ""},
    {"pad_to_sequence_len", "*", ""},
    {"lora_target_linear", "!true", "use lora_target"},
    {"inference_mode", "", "lorad trains"},
    {"create_new_adapter", "", "leave adapter_name_or_path out to start a new adapter"},
    {"init_lora_weights", "!true",
     "lorad starts A from Kaiming uniform and B from zero, as PEFT's `true` does"},
    {"assistant_only_loss", "!true", "use train_on_prompt: true to supervise everything"},
    {"completion_only_loss", "!true", "use train_on_prompt: true to supervise everything"},
    {"loss_type", "nll|chunked_nll", "lorad trains with cross entropy"},
    {"prediction_loss_only", "*", ""},
    {"save_safetensors", "!true", "lorad writes safetensors only"},
    {"save_only_model", "", "lorad's checkpoints always hold the optimizer, so that they can be resumed"},
    {"ignore_data_skip", "", "lorad always resumes at the row where it stopped"},
    {"group_by_length", "", "use packing"},
    {"strict", "*", ""},
    {"tokenizer_type", "*", ""},
    {"model_type", "*", ""},

    /* features that are not built: "off" is fine, anything else is refused */
    {"use_dora", "", not_trained},
    {"peft_use_dora", "", not_trained},
    {"pissa_init", "", not_trained},
    {"bias", "none", not_trained},
    {"lora_bias", "", not_trained},
    {"rank_pattern", "", not_trained},
    {"alpha_pattern", "", not_trained},
    {"layers_to_transform", "", "use a pattern in lora_target"},
    {"layers_pattern", "", "use a pattern in lora_target"},
    {"exclude_modules", "", "use a pattern in lora_target"},
    {"modules_to_save", "", not_trained},
    {"lora_modules_to_save", "", not_trained},
    {"additional_target", "", not_trained},
    {"trainable_token_indices", "", not_trained},
    {"fan_in_fan_out", "", not_trained},
    {"quantization_bit", "", no_quantised},
    {"quantization_method", "", no_quantised},
    {"load_in_4bit", "", no_quantised},
    {"load_in_8bit", "", no_quantised},
    {"use_unsloth", "", no_other_method},
    {"use_galore", "", no_other_method},
    {"use_badam", "", no_other_method},
    {"use_apollo", "", no_other_method},
    {"use_asft_loss", "", "lorad trains with cross entropy"},
    {"ref_model", "", "lorad trains with cross entropy"},
    {"kd_ratio", "", "distillation is not supported yet"},
    {"kd_temperature", "", "distillation is not supported yet"},
    {"kd_alpha", "", "distillation is not supported yet"},
    {"kd_ce_alpha", "", "distillation is not supported yet"},
    {"label_smoothing_factor", "", "the loss is plain cross-entropy"},
    {"neftune_noise_alpha", "", "no noise is added to embeddings"},
    {"loraplus_lr_embedding", "", "lorad does not train embeddings"},
    {"embedding_lr", "", "lorad does not train embeddings"},
    {"embedding_learning_rate", "", "lorad does not train embeddings"},
    {"resize_vocab", "", "lorad does not train embeddings"},
    {"streaming", "", "lorad reads prepared rows from its cache; leave it out"},
    {"buffer_size", "*", ""},
    {"disable_shuffling", "", "lorad shuffles the training rows by data_seed"},
    {"curriculum_sampling", "", "use stages"},
    {"dataset_dir", "", "give whole paths in `dataset`"},
    {"system", "", "give it to the dataset: {path: ..., system: ...}"},
    {"deepspeed", "", "not needed: start with mpirun and set tensor_parallel_size"},
    {"fsdp", "", "not needed: start with mpirun and set tensor_parallel_size"},
    {"context_parallel_size", "1", "use tensor_parallel_size instead"},
    {"pipeline_model_parallel_size", "1", "use tensor_parallel_size instead"},
    {"tf32", "", "float32 is computed in full"},
    {"pure_bf16", "", "adapters are kept in float32"},
    {"torch_compile", "", "there is no PyTorch in lorad"},
    {"push_to_hub", "", "lorad never uses the network for this"},
    {"predict_with_generate", "", "use `lorad generate`"},
    {"preemption_signal", "USR1|SIGUSR1", "lorad checkpoints and ends on USR1"},
    {"eval_on_start", "", "use `lorad eval` before the run"},
};
const size_t config_n_others = sizeof config_others / sizeof config_others[0];

const char *config_section_title(enum config_section section)
{
    static const char *const title[SECTIONS] = {
        [SECTION_MODEL] = "Model",
        [SECTION_LORA] = "LoRA",
        [SECTION_DATA] = "Data",
        [SECTION_TRAINING] = "Training",
        [SECTION_EVALUATION] = "Evaluation",
        [SECTION_CHECKPOINT] = "Output and checkpoints",
        [SECTION_LOGGING] = "Logging",
        [SECTION_MACHINE] = "Machine",
    };
    return title[section];
}

const char *config_type_title(const struct config_key *key)
{
    switch (key->type) {
    case TYPE_BOOL:
        return "true or false";
    case TYPE_INT32:
    case TYPE_INT64:
    case TYPE_UINT64:
        return "whole number";
    case TYPE_REAL:
        return "number";
    case TYPE_TEXT:
        return "text";
    case TYPE_WORD:
    case TYPE_CHOICE:
        return "one of";
    case TYPE_OWN:
        return "";
    }
    return "";
}

/* Calls for each space-separated word. Returns whether one equals `name`. */
static bool among(const char *words, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = words; *at;) {
        size_t n = strcspn(at, " ");
        if (n == length && memcmp(at, name, n) == 0) return true;
        at += n + (at[n] == ' ');
    }
    return false;
}

int config_key_find(const char *name)
{
    for (size_t i = 0; i < config_n_keys; i++)
        if (strcmp(config_keys[i].name, name) == 0 || among(config_keys[i].aliases, name)) return (int)i;
    return -1;
}

const char *config_key_nearest(const char *name)
{
    struct nearest nearest = {.word = name};
    for (size_t i = 0; i < config_n_keys; i++)
        nearest_consider(&nearest, config_keys[i].name, strlen(config_keys[i].name));
    const char *best = nearest.best;
    for (size_t i = 0; i < config_n_keys; i++)
        for (const char *at = config_keys[i].aliases; *at;) {
            size_t n = strcspn(at, " ");
            const char *before = nearest.best;
            nearest_consider(&nearest, at, n);
            if (nearest.best != before) best = config_keys[i].name; /* its modern name */
            at += n + (at[n] == ' ');
        }
    for (size_t i = 0; i < config_n_others; i++) {
        const char *before = nearest.best;
        nearest_consider(&nearest, config_others[i].name, strlen(config_others[i].name));
        if (nearest.best != before) best = config_others[i].name;
    }
    return best;
}
