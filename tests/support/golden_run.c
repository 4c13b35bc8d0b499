#include "support/golden_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "support/golden.h"
#include "support/rig.h"
#include "trainer/schedule.h"
#include "trainer/step.h"

struct trial {
    struct golden *golden;
    struct rig *rig;
    struct optimizer *optimizer;
    struct optimizer_options options;
    struct step_context context;
    float **start; /* whole factors before the first step */
    struct golden_errors errors;
};

static void worst_of(double *worst, double error)
{
    if (!(error <= *worst)) *worst = isfinite(error) ? error : INFINITY;
}

static double relative(double value, double golden)
{
    return fabs(value - golden) / fabs(golden);
}

static enum status compare_logits(struct trial *trial)
{
    const struct golden *golden = trial->golden;
    struct micro_batch batch = golden_micro(golden, 0);
    if (golden->vocab != trial->rig->arch.vocab || golden->logit_rows != batch.n_tokens)
        return FAIL(LORAD_DATA, "the golden logits are not those of this model");
    int64_t n = golden->logit_rows * golden->vocab;
    float *logits = memory_new((size_t)n, sizeof *logits);
    if (!logits) return LORAD_NOMEM;
    enum status status = model_logits(trial->rig->model, &batch, true, 0, batch.n_tokens, logits);
    if (status == LORAD_OK) trial->errors.logits = golden_max_distance(logits, golden->logits, n);
    free(logits);
    return status;
}

/* Every factor of `which` against the golden's `kind`; gradients are divided by `divisor`, and A is compared
 * less its start when `from_start`. */
static enum status compare_factors(struct trial *trial, enum adapter_vector which, const char *kind,
                                   double divisor, bool from_start, double *worst, char *worst_name)
{
    const struct lora *lora = trial->rig->lora;
    float **whole;
    TRY(adapter_gather(&whole, trial->rig->adapter, which));
    enum status status = LORAD_OK;
    for (int32_t i = 0; i < lora->n_tensors && status == LORAD_OK; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        int64_t n = t->shape[0] * t->shape[1];
        char name[LORA_NAME_BYTES + 32];
        float *golden;
        snprintf(name, sizeof name, "base_model.model.%s", t->name);
        status = golden_tensor(&golden, trial->golden, kind, name, t->shape[0], t->shape[1]);
        if (status != LORAD_OK) break;
        for (int64_t k = 0; k < n; k++) whole[i][k] = (float)(whole[i][k] / divisor);
        const float *base = from_start && !t->is_b ? trial->start[i] : NULL;
        double error = golden_distance(whole[i], golden, base, n), before = *worst;
        worst_of(worst, error);
        if (*worst != before) snprintf(worst_name, LORA_NAME_BYTES, "%s", t->name);
        free(golden);
    }
    free(whole);
    return status;
}

static enum status train_step(struct trial *trial, struct step_context *context, int32_t step)
{
    const struct golden *golden = trial->golden;
    struct golden_errors *errors = &trial->errors;
    const struct partition *part = &trial->rig->partition;
    struct step_result result;
    int32_t first = golden->step_micro[step];
    struct step_targets targets = {golden->supervised[step], (double)golden->supervised[step]};
    TRY(step_begin(context, targets));
    for (int32_t m = first; m < golden->step_micro[step + 1]; m++) {
        if ((m - first) % part->dp != part->dp_rank) continue;
        struct micro_batch batch = golden_micro(golden, m);
        TRY(step_accumulate(context, &batch, step));
    }
    double factor = schedule_factor(&trial->options, step, golden->steps);
    TRY(step_finish(context, targets, factor, &(struct boundary_report){0}, &result));
    if (result.skipped) return FAIL(LORAD_NUMERIC, "step %d was skipped", step + 1);
    worst_of(&errors->loss, relative(result.loss, golden->loss[step]));
    worst_of(&errors->grad_norm, relative(result.grad_norm, golden->grad_norm[step]));
    worst_of(&errors->rate, fabs(result.learning_rate - golden->lr[step]) / golden->learning_rate);
    if (step > 0) return LORAD_OK;
    return compare_factors(trial, ADAPTER_GRAD, "grad", (double)golden->supervised[0], false,
                           &errors->gradient, errors->worst_gradient);
}

static enum status open_trial(struct trial *trial, const struct golden_setup *setup,
                              const struct comm_world_info *world)
{
    TRY(golden_open(&trial->golden, setup->name));
    const struct golden *golden = trial->golden;
    struct rig_options rig = {
        .model_dir = golden->model_dir,
        .adapter_dir = golden->adapter_dir,
        .model = {.dtype = setup->dtype,
                  .checkpointing = setup->checkpointing,
                  .keep_inputs = setup->keep_inputs,
                  .max_tokens = golden->max_tokens,
                  .max_sequences = golden->max_sequences,
                  .max_positions = golden->longest,
                  .training = true,
                  .sequence_parallel = setup->sequence_parallel},
        .tp = setup->tp,
    };
    TRY(rig_open(&trial->rig, &rig, world));
    trial->options = (struct optimizer_options){
        .learning_rate = golden->learning_rate,
        .schedule = SCHEDULE_COSINE,
        .warmup_steps = golden->warmup_steps,
        .weight_decay = golden->weight_decay,
        .beta1 = golden->beta1,
        .beta2 = golden->beta2,
        .epsilon = golden->epsilon,
        .max_grad_norm = golden->max_grad_norm,
    };
    TRY(optimizer_create(&trial->optimizer, trial->rig->lora, &trial->options));
    return adapter_gather(&trial->start, trial->rig->adapter, ADAPTER_PARAM);
}

int32_t golden_steps_wanted(void)
{
    const char *steps = getenv("LORAD_GOLDEN_STEPS");
    return steps ? atoi(steps) : 0;
}

static enum status run_trial(struct trial *trial, const struct golden_setup *setup,
                             const struct comm_world_info *world)
{
    TRY(open_trial(trial, setup, world));
    TRY(compare_logits(trial));
    trial->context = (struct step_context){
        .model = trial->rig->model,
        .adapter = trial->rig->adapter,
        .optimizer = trial->optimizer,
        .world = trial->rig->world,
        .part = &trial->rig->partition,
    };
    TRY(step_prepare(&trial->context));
    int32_t steps = setup->steps ? setup->steps : trial->golden->steps;
    for (int32_t step = 0; step < steps; step++) TRY(train_step(trial, &trial->context, step));
    return compare_factors(trial, ADAPTER_PARAM, "final", 1.0, true, &trial->errors.adapter,
                           trial->errors.worst_adapter);
}

enum status golden_run(struct golden_errors *out, const struct golden_setup *setup,
                       const struct comm_world_info *world)
{
    struct trial trial = {0};
    enum status status = run_trial(&trial, setup, world);
    if (status == LORAD_OK)
        *out = trial.errors;
    else
        status = status_context(status, "%s", setup->name);
    step_release(&trial.context);
    free(trial.start);
    optimizer_destroy(trial.optimizer);
    rig_close(trial.rig);
    golden_close(trial.golden);
    return status;
}

void golden_errors_print(const struct golden_setup *setup, int dp, const struct golden_errors *e)
{
    static const char *const kept[] = {"auto", "all kept", "mlp again", "layer again"};
    printf("%-15s %-4s tp %d%s dp %d %-11s logits %.1e  loss %.1e  norm %.1e  rate %.0e  gradient %.1e (%s)  "
           "adapter "
           "%.1e (%s)\n",
           setup->name, dtype_name(setup->dtype), setup->tp, setup->sequence_parallel ? " by rows" : "", dp,
           kept[setup->checkpointing], e->logits, e->loss, e->grad_norm, e->rate, e->gradient,
           e->worst_gradient, e->adapter, e->worst_adapter);
    fflush(stdout);
}
