#include "trainer/step.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "comm/activity.h"
#include "trainer/straggler.h"

/* What a rank contributes to the agreement; plain data. */
struct step_share {
    struct model_sums sums;
    double replicated_squares, local_squares;
    struct replay_step timed;
    struct boundary_report report;
};

enum status step_prepare(struct step_context *context)
{
    size_t ranks = context->world ? (size_t)comm_size(context->world) : 1;
    context->shares = memory_new(ranks, sizeof *context->shares);
    context->reports = memory_new(ranks, sizeof *context->reports);
    return context->shares && context->reports ? LORAD_OK : LORAD_NOMEM;
}

void step_release(struct step_context *context)
{
    free(context->shares);
    free(context->reports);
    context->shares = NULL;
    context->reports = NULL;
}

enum status step_begin(struct step_context *context, struct step_targets targets)
{
    context->gradient_scale =
        context->loss_scale ? loss_scale_factor(context->loss_scale, targets.weight) : 1;
    context->start_ns = clock_monotonic_ns();
    comm_settle();
    context->waited_seconds = activity_waited_seconds();
    context->work = 0;
    context->replays = context->replay && replay_begin(context->replay);
    context->timed = (struct replay_step){.replayed = -model_replays(context->model)};
    TRY(model_zero_sums(context->model));
    if (context->adapter->sums) TRY(fixed_sums_begin(context->adapter->sums));
    return adapter_zero_grad(context->adapter);
}

enum status step_accumulate(struct step_context *context, const struct micro_batch *batch, int64_t step)
{
    activity_sign();
    if (batch->n_tokens == 0 || batch->n_supervised == 0) return LORAD_OK;
    if (context->arch) context->work += straggler_work(context->arch, batch);
    context->timed.tokens += batch->n_tokens;
    context->timed.passes++;
    struct adapter *adapter = context->adapter;
    TRY(model_train(context->model, &(struct train_pass){.batch = batch,
                                                         .adapter = adapter,
                                                         .gradient_scale = (float)context->gradient_scale,
                                                         .seed = context->seed,
                                                         .step = step,
                                                         .replay = context->replays}));
    return adapter->sums ? fixed_sums_add(adapter->sums, adapter->grad) : LORAD_OK;
}

static enum status gather_shares(struct step_context *context, const struct step_share *mine,
                                 struct step_share *total)
{
    if (!context->world || comm_size(context->world) == 1) {
        *total = *mine;
        context->reports[0] = mine->report;
        return LORAD_OK;
    }
    int world = comm_size(context->world), tp = context->part->tp;
    struct step_share *all = context->shares;
    TRY(comm_host_all_gather(context->world, mine, all, sizeof *mine));
    *total = (struct step_share){.replicated_squares = all[0].replicated_squares};
    for (int rank = 0; rank < world; rank++) {
        context->reports[rank] = all[rank].report;
        total->report.wants |= all[rank].report.wants;
        replay_join(&total->timed, &all[rank].timed);
        /* Ranks of one tensor-parallel group have the same loss; data-parallel replicas the same gradient. */
        if (rank % tp == 0) {
            loss_sum_join(&total->sums.loss, &all[rank].sums.loss);
            total->sums.correct += all[rank].sums.correct;
        }
        if (rank < tp) total->local_squares += all[rank].local_squares;
    }
    return LORAD_OK;
}

enum status step_finish(struct step_context *context, struct step_targets targets, double factor,
                        const struct boundary_report *report, struct step_result *out)
{
    struct step_share mine = {.report = *report}, total;
    struct fixed_sums *sums = context->adapter->sums;
    double greatest = 0;
    *out = (struct step_result){0};
    if (sums) TRY(fixed_sums_agree(sums, context->world, &out->again, &greatest));
    if (out->again) return LORAD_OK;
    TRY(optimizer_reduce(context->adapter));
    TRY(optimizer_squares(context->optimizer, context->adapter, &mine.replicated_squares,
                          &mine.local_squares));
    TRY(model_read_sums(context->model, &mine.sums));
    comm_settle(); /* all of them: reading the sums waited for the device */
    mine.report.own_seconds =
        clock_seconds_since(context->start_ns) - (activity_waited_seconds() - context->waited_seconds);
    mine.report.own_work = context->work;
    mine.timed = context->timed;
    mine.timed.seconds = mine.report.own_seconds;
    mine.timed.replayed += model_replays(context->model);
    TRY(gather_shares(context, &mine, &total));
    if (context->replay && replay_end(context->replay, &total.timed)) model_forget_recordings(context->model);

    double weight = targets.weight, scaled = weight * context->gradient_scale,
           max_norm = context->optimizer->options.max_grad_norm;
    *out = (struct step_result){
        .loss = loss_sum_value(&total.sums.loss) / weight,
        .grad_norm = sqrt(total.replicated_squares + total.local_squares) / scaled,
        .accuracy = (double)total.sums.correct / (double)targets.tokens,
        .learning_rate = context->optimizer->options.learning_rate * factor,
        .loss_scale = context->loss_scale ? context->loss_scale->value : 0,
        .wants = total.report.wants,
    };
    if (!isfinite(greatest)) out->grad_norm = greatest;
    bool finite = isfinite(out->loss) && isfinite(out->grad_norm);
    out->overflowed =
        !finite && isfinite(out->loss) && context->loss_scale && loss_scale_can_fall(context->loss_scale);
    out->skipped = !finite && !out->overflowed;
    if (!finite) return LORAD_OK;
    if (sums) fixed_sums_accept(sums);
    if (context->gate) TRY(context->gate(context->gate_context));
    double clip = max_norm > 0 ? fmin(1.0, max_norm / (out->grad_norm + 1e-6)) : 1.0;
    TRY(optimizer_apply(context->optimizer, context->adapter, factor, clip / scaled));
    return model_set_adapter(context->model, context->adapter);
}
