/* run_plan.c: the part of `lorad check` that knows the model: parameters, memory of a rank, number of steps.
 */
#include <stdlib.h>
#include <unistd.h>

#include "trainer/data.h"
#include "trainer/schedule.h"

static enum status plan_memory(struct strbuf *out, struct session *session, struct loader_capacity capacity,
                               int world)
{
    const struct run_options *o = session->options;
    struct model_options options = session_model_options(session, capacity, true);
    struct plan plan;
    for (int rank = 0; rank < o->tensor_parallel_size; rank++)
        TRY(partition_make(&session->part, &session->arch, o->tensor_parallel_size, world, rank));
    TRY(partition_make(&session->part, &session->arch, o->tensor_parallel_size, world, 0));
    TRY(lora_create(&session->lora, &session->lora_options, &session->arch, &session->part));
    int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGE_SIZE) / world;
    TRY(plan_make(&plan, &session->arch, &session->part, session->lora, &options, o->gradient_checkpointing,
                  memory));
    strbuf_printf(out, "model: %s, %.1f M parameters frozen, %.2f M trained (r %d, alpha %g)\n",
                  session->arch.family, (double)arch_parameters(&session->arch) * 1e-6,
                  (double)session->lora->parameters * 1e-6, session->lora->rank, session->lora->alpha);
    strbuf_printf(out, "ranks: tensor parallel %d x data parallel %d\n", session->part.tp, session->part.dp);
    plan_print(out, &plan);
    return LORAD_OK;
}

static enum status plan_steps(struct strbuf *out, const struct session *session, struct dataset *rows)
{
    const struct run_options *o = session->options;
    int64_t batch = o->global_batch_size > 0 ? o->global_batch_size
                                             : (int64_t)o->per_device_train_batch_size *
                                                   o->gradient_accumulation_steps * session->part.dp;
    struct loader_options loader = data_train_loader(session, batch);
    int64_t epoch_steps, steps = o->max_steps;
    TRY(loader_count_steps(&epoch_steps, rows, &loader, 1));
    if (steps <= 0) TRY(loader_count_steps(&steps, rows, &loader, o->num_train_epochs));
    strbuf_printf(out, "steps: %lld in all, %lld warm-up; %lld an epoch; a global batch is %lld %s\n",
                  (long long)steps, (long long)schedule_warmup(&o->optimizer, steps), (long long)epoch_steps,
                  (long long)batch, o->packing ? "packs" : "rows");
    return LORAD_OK;
}

static enum status plan_all(struct strbuf *out, struct session *session, struct dataset **rows, int world)
{
    const struct run_options *o = session->options;
    struct prepare_options prepare = data_prepare_options(session, DATA_TRAIN);
    struct prepare_report *report = calloc(1, sizeof *report);
    char *dir = NULL;
    enum status status =
        report ? dataset_prepare(&dir, &prepare, report) : FAIL(LORAD_NOMEM, "out of memory");
    if (status == LORAD_OK) status = dataset_open(rows, dir);
    free(report);
    free(dir);
    if (status != LORAD_OK) return status;
    struct loader_options loader = data_train_loader(session, 1);
    struct loader_capacity capacity = loader_capacity(*rows, &loader);
    if (data_has_eval(o)) {
        int32_t tokens = o->per_device_eval_batch_size * o->cutoff_len;
        capacity = data_larger(capacity,
                               (struct loader_capacity){.tokens = tokens, .sequences = capacity.sequences});
    }
    TRY(plan_memory(out, session, capacity, world));
    return plan_steps(out, session, *rows);
}

enum status run_plan(struct strbuf *out, const struct run_options *options, int world)
{
    struct session session;
    struct dataset *rows = NULL;
    enum status status = session_read(&session, options, options->adapter_dir, SESSION_TRAIN);
    if (status == LORAD_OK) status = plan_all(out, &session, &rows, world);
    dataset_close(rows);
    session_close(&session);
    return status;
}
