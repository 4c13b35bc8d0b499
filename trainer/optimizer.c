#include "trainer/optimizer.h"

#include <fnmatch.h>
#include <stdlib.h>

#include "base/memory.h"
#include "comm/activity.h"

static double peak_rate(const struct optimizer_options *options, const struct lora_tensor *tensor,
                        bool *group_used)
{
    for (int32_t i = 0; i < options->n_lr_groups; i++) {
        if (fnmatch(options->lr_groups[i].pattern, tensor->name, 0) != 0) continue;
        group_used[i] = true;
        return options->lr_groups[i].learning_rate;
    }
    bool faster = tensor->is_b && options->loraplus_lr_ratio > 0;
    return options->learning_rate * (faster ? options->loraplus_lr_ratio : 1.0);
}

static enum status fill(struct optimizer *optimizer, const struct lora *lora, bool *group_used)
{
    const struct optimizer_options *options = &optimizer->options;
    for (int32_t i = 0; i < lora->n_tensors; i++) {
        const struct lora_tensor *t = &lora->tensors[i];
        optimizer->starts[i] = t->offset;
        optimizer->segments[i] = (struct adamw_segment){.start = t->offset,
                                                        .count = t->rows * t->cols,
                                                        .learning_rate = peak_rate(options, t, group_used),
                                                        .weight_decay = options->weight_decay};
        optimizer->scaled[i] = optimizer->segments[i];
    }
    optimizer->starts[lora->n_tensors] = lora->count;
    for (int32_t i = 0; i < options->n_lr_groups; i++)
        if (!group_used[i])
            return FAIL(LORAD_CONFIG,
                        "lr_groups: pattern \"%s\" matches no trained factor (or an earlier pattern took all "
                        "of them); "
                        "these are shell patterns (`*.q_proj.*`) for names "
                        "such as %s",
                        options->lr_groups[i].pattern, lora->tensors[0].name);
    return LORAD_OK;
}

enum status optimizer_create(struct optimizer **out, const struct lora *lora,
                             const struct optimizer_options *options)
{
    struct optimizer *optimizer = memory_new(1, sizeof *optimizer);
    bool *group_used = memory_new((size_t)options->n_lr_groups + 1, sizeof *group_used);
    enum status status = optimizer && group_used ? LORAD_OK : LORAD_NOMEM;
    if (status == LORAD_OK) {
        size_t n = (size_t)lora->n_tensors;
        *optimizer = (struct optimizer){.options = *options, .n = lora->n_tensors};
        optimizer->segments = memory_new(n, sizeof *optimizer->segments);
        optimizer->scaled = memory_new(n, sizeof *optimizer->scaled);
        optimizer->starts = memory_new(n + 1, sizeof *optimizer->starts);
        optimizer->squares = memory_new(n, sizeof *optimizer->squares);
        bool all = optimizer->segments && optimizer->scaled && optimizer->starts && optimizer->squares;
        status = all ? fill(optimizer, lora, group_used) : LORAD_NOMEM;
    }
    free(group_used);
    if (status != LORAD_OK) {
        optimizer_destroy(optimizer);
        return status;
    }
    *out = optimizer;
    return LORAD_OK;
}

void optimizer_destroy(struct optimizer *optimizer)
{
    if (!optimizer) return;
    free(optimizer->segments);
    free(optimizer->scaled);
    free(optimizer->starts);
    free(optimizer->squares);
    free(optimizer);
}

enum status optimizer_reduce(struct adapter *adapter)
{
    const struct lora *lora = adapter->lora;
    if (adapter->sums) return fixed_sums_reduce(adapter->sums, adapter->tp, adapter->dp, adapter->grad);
    if (adapter->tp && comm_size(adapter->tp) > 1 && lora->replicated_count > 0)
        TRY(comm_all_reduce(adapter->tp, adapter->grad, lora->replicated_count, DTYPE_F32, COMM_SUM));
    if (adapter->dp && comm_size(adapter->dp) > 1)
        TRY(comm_all_reduce(adapter->dp, adapter->grad, lora->count, DTYPE_F32, COMM_SUM));
    return LORAD_OK;
}

enum status optimizer_squares(struct optimizer *optimizer, struct adapter *adapter, double *replicated,
                              double *local)
{
    const struct lora *lora = adapter->lora;
    struct op_sum_squares squares = {.x = adapter->grad,
                                     .starts = optimizer->starts,
                                     .n_segments = optimizer->n,
                                     .out = optimizer->squares};
    activity_device_begin(adapter->device); /* the operation waits for its numbers */
    enum status status = op_sum_squares(adapter->device, &squares);
    activity_device_end(adapter->device);
    TRY(status);
    *replicated = *local = 0;
    for (int32_t i = 0; i < optimizer->n; i++)
        *(lora->tensors[i].replicated ? replicated : local) += optimizer->squares[i];
    return LORAD_OK;
}

enum status optimizer_apply(struct optimizer *optimizer, struct adapter *adapter, double factor,
                            double grad_scale)
{
    for (int32_t i = 0; i < optimizer->n; i++)
        optimizer->scaled[i].learning_rate = optimizer->segments[i].learning_rate * factor;
    adapter->applied_steps++;
    return op_adamw(adapter->device, &(struct op_adamw){.param = adapter->param,
                                                        .grad = adapter->grad,
                                                        .m = adapter->m,
                                                        .v = adapter->v,
                                                        .segments = optimizer->scaled,
                                                        .n_segments = optimizer->n,
                                                        .step = adapter->applied_steps,
                                                        .beta1 = optimizer->options.beta1,
                                                        .beta2 = optimizer->options.beta2,
                                                        .eps = optimizer->options.epsilon,
                                                        .grad_scale = grad_scale});
}
