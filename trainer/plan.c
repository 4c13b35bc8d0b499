#include "trainer/plan.h"

const char *checkpointing_name(enum checkpointing mode)
{
    static const char *const names[] = {"auto", "none", "mlp", "layer"};
    return names[mode];
}

static double mib(size_t bytes)
{
    return (double)bytes / (1 << 20);
}

enum status plan_make(struct plan *out, const struct arch *arch, const struct partition *partition,
                      const struct lora *lora, const struct model_options *options, enum checkpointing wanted,
                      bool elastic, int64_t available)
{
    struct model_options rung = *options;
    enum checkpointing first = wanted == CHECKPOINTING_AUTO ? CHECKPOINTING_NONE : wanted;
    enum checkpointing last = wanted == CHECKPOINTING_AUTO ? CHECKPOINTING_LAYER : wanted;
    struct plan plan = {.available = available};
    if (lora && options->training)
        plan.adapter = adapter_bytes(lora) + (elastic ? fixed_sums_bytes(lora) : 0);
    for (rung.checkpointing = first; rung.checkpointing <= last; rung.checkpointing++) {
        TRY(model_measure(&plan.model, arch, partition, lora, &rung));
        plan.checkpointing = rung.checkpointing;
        plan.total = plan.model.weights + plan.model.saved + plan.model.scratch + plan.adapter;
        if (available <= 0 || plan.total <= (size_t)available) {
            *out = plan;
            return LORAD_OK;
        }
    }
    return FAIL(
        LORAD_NOMEM,
        "a rank needs %.0f MiB (weights %.0f, saved activations %.0f, scratch %.0f, adapter %.0f) with "
        "gradient_checkpointing %s, but %.0f MiB are available; lower per_device_train_batch_size or "
        "cutoff_len, "
        "or raise tensor_parallel_size",
        mib(plan.total), mib(plan.model.weights), mib(plan.model.saved), mib(plan.model.scratch),
        mib(plan.adapter), checkpointing_name(plan.checkpointing), mib((size_t)available));
}

void plan_print(struct strbuf *out, const struct plan *plan)
{
    const struct {
        const char *name;
        size_t bytes;
    } rows[] = {
        {"frozen weights", plan->model.weights}, {"saved activations", plan->model.saved},
        {"scratch", plan->model.scratch},        {"adapter and its optimizer", plan->adapter},
        {"a rank in all", plan->total},
    };
    strbuf_printf(out, "memory of a rank, gradient_checkpointing %s\n",
                  checkpointing_name(plan->checkpointing));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        strbuf_printf(out, "  %-26s %10.1f MiB\n", rows[i].name, mib(rows[i].bytes));
}
