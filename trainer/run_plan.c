/*
 * run_plan.c: the part of `lorad check` that knows the model: parameters, memory of a rank, the stages with
 * their mixtures and numbers of steps.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/memory.h"
#include "trainer/batch_size.h"
#include "trainer/gpu_memory.h"
#include "trainer/schedule.h"
#include "trainer/stage.h"

/* What each rank will have: a GPU of that name, or its share of this machine. */
static enum status find_memory(struct plan_request *out, const struct run_options *o,
                               const struct run_plan_request *request)
{
    *out = (struct plan_request){.wanted = o->gradient_checkpointing,
                                 .elastic = o->deterministic == DETERMINISM_ELASTIC,
                                 .host = !request->gpu};
    if (request->gpu) {
        TRY(gpu_memory_find(&out->available, request->gpu));
        return device_backend_find(&out->backend, "cuda");
    }
    out->available = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGE_SIZE) / request->world;
    return device_backend_find(&out->backend, "cpu");
}

static enum status plan_memory(struct strbuf *out, struct session *session, const struct stages *stages,
                               const struct run_plan_request *request)
{
    const struct run_options *o = session->options;
    struct plan_request memory;
    struct plan plan;
    TRY(find_memory(&memory, o, request));
    session->on_gpu = !memory.host;
    for (int rank = 0; rank < o->tensor_parallel_size; rank++)
        TRY(partition_make(&session->part, &session->arch, o->tensor_parallel_size, request->world, rank));
    TRY(partition_make(&session->part, &session->arch, o->tensor_parallel_size, request->world, 0));
    TRY(lora_create(&session->lora, &session->lora_options, &session->arch, &session->part));
    if (o->auto_find_batch_size) TRY(batch_size_choose(session, stages, &memory));
    memory.model = session_model_options(session, stages_capacity(stages, session), true);
    TRY(plan_make(&plan, &session->arch, &session->part, session->lora, &memory));
    strbuf_printf(out, "model: %s, %.1f M parameters frozen, %.2f M trained (r %d, alpha %g)\n",
                  session->arch.family, (double)arch_parameters(&session->arch) * 1e-6,
                  (double)session->lora->parameters * 1e-6, session->lora->rank, session->lora->alpha);
    strbuf_printf(out, "ranks: tensor parallel %d x data parallel %d\n", session->part.tp, session->part.dp);
    if (o->auto_find_batch_size)
        strbuf_printf(out, "auto_find_batch_size: per_device_train_batch_size %d\n",
                      (int)session->micro_batch_size);
    plan_print(out, &plan);
    strbuf_printf(out, "  %-26s %10.1f MiB\n", request->gpu ? request->gpu : "there is",
                  (double)memory.available / (1 << 20));
    return LORAD_OK;
}

/* Rows of each group in the first epoch, counted. */
static enum status count_draws(int64_t *drawn, int64_t *all, const struct stage *stage)
{
    enum { AT_ONCE = 4096 };
    int32_t n = stage->options.n_train_sources;
    struct mixture *mixture;
    TRY(stage_mixture(&mixture, stage, 0, 0));
    int64_t *rows = memory_new(AT_ONCE, sizeof *rows);
    *all = mixture_positions(mixture, 0);
    for (int64_t at = 0; rows && at < *all; at += AT_ONCE) {
        int32_t some = *all - at < AT_ONCE ? (int32_t)(*all - at) : AT_ONCE;
        mixture_rows(mixture, 0, at, some, rows);
        for (int32_t i = 0; i < some; i++)
            for (int32_t g = 0; g < n; g++) {
                struct row_range range = dataset_group(stage->train, g);
                if (rows[i] >= range.first && rows[i] < range.first + range.n) drawn[g]++;
            }
    }
    mixture_destroy(mixture);
    if (!rows) return LORAD_NOMEM;
    free(rows);
    return LORAD_OK;
}

static enum status plan_mixture(struct strbuf *out, const struct stage *stage)
{
    static const char *const names[] = {"concat", "interleave_under", "interleave_over"};
    const struct stage_options *o = &stage->options;
    int64_t *drawn = memory_new((size_t)o->n_train_sources, sizeof *drawn), all = 0;
    enum status status = drawn ? count_draws(drawn, &all, stage) : LORAD_NOMEM;
    if (status == LORAD_OK)
        strbuf_printf(out, "  %-28s %10s %10s %12s %8s   (%s)\n", "dataset", "rows", "weight", "rows/epoch",
                      "share", names[o->mix_strategy]);
    for (int32_t i = 0; status == LORAD_OK && i < o->n_train_sources; i++) {
        const struct dataset_source *source = &o->train_sources[i];
        strbuf_printf(out, "  %-28s %10lld %10g %12lld %7.1f%%\n", source->name ? source->name : source->path,
                      (long long)dataset_group(stage->train, i).n, source->weight, (long long)drawn[i],
                      all ? 100.0 * (double)drawn[i] / (double)all : 0.0);
    }
    free(drawn);
    return status;
}

static enum status plan_stage(struct strbuf *out, const struct session *session, const struct stages *stages,
                              int32_t number, int64_t batch)
{
    const struct stage *stage = &stages->all[number];
    const struct run_options *o = session->options;
    struct loader_options loader = stage_loader(stages, number, session, batch);
    char title[128];
    int64_t epoch_steps;
    TRY(loader_count_steps(&epoch_steps, stage->train, &loader, 1));
    stage_title(title, o, number);
    strbuf_printf(out, "%s%ssteps: %lld in all, %lld warm-up; %lld an epoch; a global batch is %lld %s\n",
                  title, *title ? ": " : "", (long long)stage->steps,
                  (long long)schedule_warmup(&stage->options.optimizer, stage->steps), (long long)epoch_steps,
                  (long long)batch, o->packing ? "packs" : "rows");
    bool mixed = stage->options.n_train_sources > 1 || stage->options.train_sources->weight != 1 ||
                 stage->options.train_sources->max_epochs > 0;
    return mixed ? plan_mixture(out, stage) : LORAD_OK;
}

static enum status plan_all(struct strbuf *out, struct session *session, struct stages *stages,
                            const struct run_plan_request *request)
{
    const struct run_options *o = session->options;
    TRY(stages_open(stages, session, NULL));
    TRY(plan_memory(out, session, stages, request));
    int64_t batch = o->global_batch_size > 0 ? o->global_batch_size
                                             : (int64_t)session->micro_batch_size *
                                                   o->gradient_accumulation_steps * session->part.dp;
    TRY(stages_measure(stages, session, batch));
    for (int32_t i = 0; i < stages->n; i++) TRY(plan_stage(out, session, stages, i, batch));
    if (stages->n > 1)
        strbuf_printf(out, "steps of all stages: at most %lld\n",
                      (long long)stages_total_steps(stages, &(struct stage_state){0}));
    return LORAD_OK;
}

enum status run_plan(struct strbuf *out, const struct run_options *options,
                     const struct run_plan_request *request)
{
    struct session session;
    struct stages stages = {0};
    enum status status = session_read(&session, options, options->adapter_dir, SESSION_TRAIN);
    if (status == LORAD_OK && request->rows) status = plan_all(out, &session, &stages, request);
    stages_close(&stages);
    session_close(&session);
    return status;
}
