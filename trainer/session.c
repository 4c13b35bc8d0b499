#include "trainer/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "trainer/gpu_choice.h"
#include "trainer/weights.h"

static const char *template_note(const struct run_options *options, const struct chat_template *chat)
{
    if (options->template_name || strcmp(chat_template_name(chat), "plain") != 0) return NULL;
    return "the model has no chat template, so rows are trained as plain text without turn marks; set "
           "template "
           "to choose one (`lorad help template`)";
}

static bool same_modules(const struct lora *a, const struct lora *b)
{
    if (a->n_tensors != b->n_tensors) return false;
    for (int32_t i = 0; i < a->n_tensors; i++)
        if (strcmp(a->tensors[i].name, b->tensors[i].name) != 0) return false;
    return true;
}

/* An adapter brings its own shape; keys that ask for another one are a mistake, not a wish. */
static enum status check_targets(const struct lora_options *asked, const struct lora *adapter,
                                 const struct session *session, const struct partition *whole,
                                 const char *dir)
{
    struct lora_options wished = session->lora_options; /* the adapter's but for the targets */
    wished.targets = asked->targets;
    wished.n_targets = asked->n_targets;
    wished.targets_are_pattern = asked->targets_are_pattern;
    struct lora *lora;
    TRY(lora_create(&lora, &wished, &session->arch, whole));
    bool same = same_modules(lora, adapter);
    lora_destroy(lora);
    if (same) return LORAD_OK;
    return FAIL(LORAD_CONFIG,
                "lora_target asks for other modules than the adapter in %s has; remove the key to continue "
                "it as it is",
                dir);
}

static enum status check_shape(const struct lora_options *asked, const struct lora_options *has,
                               const char *dir)
{
    static const char advice[] = "remove the key to continue the adapter as it is";
    if (asked->rank_given && asked->rank != has->rank)
        return FAIL(LORAD_CONFIG, "lora_rank is %d, but the adapter in %s has %d; %s", asked->rank, dir,
                    has->rank, advice);
    if (asked->alpha_given && asked->alpha != has->alpha)
        return FAIL(LORAD_CONFIG, "lora_alpha is %g, but the adapter in %s has %g; %s", asked->alpha, dir,
                    has->alpha, advice);
    if (asked->rslora_given && asked->use_rslora != has->use_rslora)
        return FAIL(LORAD_CONFIG, "use_rslora is %s, but the adapter in %s has %s; %s",
                    asked->use_rslora ? "true" : "false", dir, has->use_rslora ? "true" : "false", advice);
    return LORAD_OK;
}

static enum status read_lora(struct session *session, const char *adapter_dir, enum session_use use)
{
    const struct lora_options *asked = &session->options->lora;
    if (adapter_dir) {
        TRY(adapter_shape(&session->lora_options, &session->adapter_config, adapter_dir));
        if (use == SESSION_TRAIN) {
            TRY(check_shape(asked, &session->lora_options, adapter_dir));
            session->lora_options.dropout = asked->dropout;
        }
    } else {
        session->lora_options = *asked;
    }
    struct partition whole;
    TRY(partition_make(&whole, &session->arch, 1, 1, 0));
    struct lora *lora; /* a first look at the targets; the real layout needs the ranks */
    TRY(lora_create(&lora, &session->lora_options, &session->arch, &whole));
    enum status status = LORAD_OK;
    if (adapter_dir && use == SESSION_TRAIN && asked->targets_given)
        status = check_targets(asked, lora, session, &whole, adapter_dir);
    lora_destroy(lora);
    return status;
}

enum status session_read_text(struct session *session, const struct run_options *options)
{
    session->options = options;
    if (options->cache_dir)
        snprintf(session->cache_dir, sizeof session->cache_dir, "%s", options->cache_dir);
    else
        snprintf(session->cache_dir, sizeof session->cache_dir, "%s/cache", options->output_dir);
    if (options->inspect.sensitive_words)
        TRY(word_list_read(&session->words, options->inspect.sensitive_words));
    session->inspect = (struct inspect_options){.pii = options->inspect.pii,
                                                .min_answer_chars = options->inspect.min_answer_chars,
                                                .words = session->words};
    TRY(tokenizer_open(&session->tokenizer, options->model_dir));
    TRY(chat_template_open(&session->chat, session->tokenizer, options->template_name));
    const char *note = template_note(options, session->chat);
    if (note) log_info("%s", note);
    return LORAD_OK;
}

enum status session_read(struct session *session, const struct run_options *options, const char *adapter_dir,
                         enum session_use use)
{
    *session = (struct session){.options = options, .micro_batch_size = options->per_device_train_batch_size};
    TRY(arch_read(&session->arch, options->model_dir));
    TRY(session_read_text(session, options));
    TRY(st_open_dir(&session->weights, options->model_dir));
    TRY(weights_check(session->weights, &session->arch));
    struct hash128 model[2] = {arch_hash(&session->arch)};
    TRY(st_fingerprint(&model[1], session->weights));
    session->model_hash = hash128(model, sizeof model);
    if (tokenizer_size(session->tokenizer) > session->arch.vocab)
        return FAIL(LORAD_DATA,
                    "%s: the tokenizer has %d tokens, but the model only %d; tokenizer and model do not "
                    "belong together",
                    options->model_dir, tokenizer_size(session->tokenizer), session->arch.vocab);
    if (options->cutoff_len > session->arch.max_positions)
        return FAIL(LORAD_CONFIG, "cutoff_len %d exceeds the model's max_position_embeddings (%d)",
                    options->cutoff_len, session->arch.max_positions);
    return use == SESSION_TRAIN || adapter_dir ? read_lora(session, adapter_dir, use) : LORAD_OK;
}

enum status session_compare(const struct session *session, struct hash128 mine, const char *what,
                            const char *key)
{
    int size = session->ranks.world;
    struct hash128 *all = memory_new((size_t)size, sizeof *all);
    enum status status = comm_agree(session->world, all ? LORAD_OK : LORAD_NOMEM);
    if (status == LORAD_OK) status = comm_host_all_gather(session->world, &mine, all, sizeof mine);
    for (int i = 1; i < size && status == LORAD_OK; i++)
        if (!hash128_equal(all[0], all[i]))
            status = FAIL(LORAD_DATA,
                          "rank %d read another %s than rank 0: %s must be the same files on all hosts", i,
                          what, key);
    free(all);
    return status;
}

/* This rank's share of the cores, unless the user says otherwise in OpenMP's own way. */
static int count_threads(const struct comm_world_info *ranks)
{
    const char *wish = getenv("OMP_NUM_THREADS");
    int threads = wish ? atoi(wish) : 0;
    return threads > 0 ? threads : ranks->threads;
}

enum status session_join(struct session *session, const struct comm_world_info *ranks)
{
    const struct run_options *options = session->options;
    session->ranks = *ranks;
    TRY(partition_make(&session->part, &session->arch, options->tensor_parallel_size, ranks->world,
                       ranks->rank));
    struct gpu_choice gpu;
    TRY(gpu_choose(&gpu, options->device));
    TRY(device_open(&session->device,
                    &(struct device_options){.kind = options->device,
                                             .number = gpu.number,
                                             .sharers = gpu.sharers,
                                             .threads = count_threads(ranks),
                                             .deterministic = options->deterministic != DETERMINISM_OFF}));
    session->on_gpu = !device_is_host(session->device);
    TRY(comm_create(&session->world,
                    &(struct comm_options){.kind = options->comm,
                                           .device = session->device,
                                           .deterministic = options->deterministic != DETERMINISM_OFF}));
    TRY(session_compare(session, session->model_hash, "model", "model_name_or_path"));
    TRY(session_compare(session, tokenizer_hash(session->tokenizer), "tokenizer", "model_name_or_path"));
    TRY(comm_split(&session->tp, session->world, session->part.dp_rank, session->part.tp_rank));
    TRY(comm_split(&session->dp, session->world, session->part.tp_rank, session->part.dp_rank));
    if (options->precision == PRECISION_F16 && !session->on_gpu)
        log_info("fp16: the CPU computes in f32 instead (no loss scaling needed)");
    log_info("%s", device_describe(session->device));
    if (ranks->world > 1)
        log_info("%d ranks: tensor parallel %d x data parallel %d", ranks->world, session->part.tp,
                 session->part.dp);
    return LORAD_OK;
}

/* The CPU backend has no fp16: such a run computes in f32 there, which is more exact, and says so. */
static enum dtype choose_dtype(const struct session *session)
{
    enum precision precision = session->options->precision;
    if (precision == PRECISION_F16 && session->on_gpu) return DTYPE_F16;
    return precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

struct model_options session_model_options(const struct session *session, struct loader_capacity capacity,
                                           bool training)
{
    return (struct model_options){.dtype = choose_dtype(session),
                                  .max_tokens = capacity.tokens,
                                  .max_sequences = capacity.sequences,
                                  .max_positions = session->options->cutoff_len,
                                  .training = training,
                                  .deterministic = session->options->deterministic != DETERMINISM_OFF,
                                  .sequence_parallel = session->options->sequence_parallel};
}

struct plan_request session_plan_request(const struct session *session)
{
    bool host = device_is_host(session->device);
    int64_t available = device_memory_bytes(session->device);
    if (host) available /= session->ranks.local_world;
    return (struct plan_request){.backend = device_backend(session->device),
                                 .wanted = session->options->gradient_checkpointing,
                                 .elastic = session->options->deterministic == DETERMINISM_ELASTIC,
                                 .host = host,
                                 .available = available};
}

static enum status create_model(struct session *session, enum session_use use)
{
    struct plan_request request = session_plan_request(session);
    request.model = session->model_options;
    request.generates = use == SESSION_GENERATE;
    TRY(plan_make(&session->plan, &session->arch, &session->part, session->lora, &request));
    session->model_options.checkpointing = session->plan.checkpointing;
    session->model_options.keep_inputs = session->plan.keep_inputs;
    if (use == SESSION_TRAIN && session->plan.checkpointing != CHECKPOINTING_NONE)
        log_info("gradient_checkpointing: %s", checkpointing_name(session->plan.checkpointing));
    TRY(model_create(&session->model, &session->arch, &session->part, session->lora, &session->model_options,
                     session->device, session->tp));
    return weights_load(session->model, session->weights, count_threads(&session->ranks));
}

static enum status create_adapter(struct session *session, const char *adapter_dir, bool training)
{
    TRY(adapter_create(&session->adapter, session->lora, session->device, session->tp, session->dp));
    if (training && session->options->deterministic == DETERMINISM_ELASTIC)
        TRY(fixed_sums_create(&session->adapter->sums, session->lora, session->device));
    if (adapter_dir)
        TRY(adapter_load(session->adapter, adapter_dir));
    else if (training)
        TRY(adapter_init(session->adapter, session->options->seed));
    return model_set_adapter(session->model, session->adapter);
}

static enum status load_here(struct session *session, const char *adapter_dir, enum session_use use)
{
    bool training = use == SESSION_TRAIN;
    if (training || adapter_dir)
        TRY(lora_create(&session->lora, &session->lora_options, &session->arch, &session->part));
    TRY(create_model(session, use));
    return session->lora ? create_adapter(session, adapter_dir, training) : LORAD_OK;
}

enum status session_load(struct session *session, struct loader_capacity capacity, const char *adapter_dir,
                         enum session_use use)
{
    session->model_options = session_model_options(session, capacity, use == SESSION_TRAIN);
    return comm_agree(session->world, load_here(session, adapter_dir, use));
}

void session_close(struct session *session)
{
    adapter_destroy(session->adapter);
    model_destroy(session->model);
    st_close(session->weights);
    lora_destroy(session->lora);
    adapter_config_free(&session->adapter_config);
    chat_template_close(session->chat);
    tokenizer_close(session->tokenizer);
    word_list_free(session->words);
    comm_destroy(session->dp);
    comm_destroy(session->tp);
    comm_destroy(session->world);
    device_close(session->device);
    *session = (struct session){0};
}
