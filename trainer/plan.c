#include "trainer/plan.h"

#include <stdio.h>

#include "trainer/boundary.h"
#include "trainer/snapshot.h"

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
                      const struct lora *lora, const struct plan_request *request)
{
    struct model_options rung = request->model;
    enum checkpointing wanted = request->wanted;
    enum checkpointing first = wanted == CHECKPOINTING_AUTO ? CHECKPOINTING_NONE : wanted;
    enum checkpointing last = wanted == CHECKPOINTING_AUTO ? CHECKPOINTING_LAYER : wanted;
    struct plan plan = {.available = request->available};
    if (lora) plan.adapter = adapter_bytes(lora);
    if (lora && rung.training) {
        plan.adapter += request->elastic ? fixed_sums_bytes(lora) : 0;
        plan.saves = request->host ? SAVES_IN_FLIGHT * snapshot_bytes(lora, partition) : 0;
    }
    if (request->generates) plan.cache = decoder_bytes(arch, partition, &rung);
    rung.checkpointing = first;
    /* The host has less memory to spare, and gains little: there they are always made again. */
    rung.keep_inputs =
        first == CHECKPOINTING_NONE && rung.training && !device_backend_is_host(request->backend);
    while (rung.checkpointing <= last) {
        TRY(model_measure(&plan.model, arch, partition, lora, &rung, request->backend));
        plan.checkpointing = rung.checkpointing;
        plan.keep_inputs = rung.keep_inputs;
        plan.total = plan.model.weights + plan.model.saved + plan.model.scratch + plan.adapter + plan.cache +
                     plan.saves;
        if (plan.available <= 0 || plan.total <= (size_t)plan.available) {
            *out = plan;
            return LORAD_OK;
        }
        if (rung.keep_inputs)
            rung.keep_inputs = false;
        else
            rung.checkpointing++;
    }
    char cache[64] = "";
    if (plan.cache) snprintf(cache, sizeof cache, "cache of keys and values %.0f, ", mib(plan.cache));
    return FAIL(LORAD_NOMEM,
                "a rank needs %.0f MiB (weights %.0f, saved activations %.0f, scratch %.0f, adapter %.0f, "
                "%scheckpoints "
                "in the making %.0f) with "
                "gradient_checkpointing %s, but %.0f MiB are available; lower per_device_train_batch_size or "
                "cutoff_len, "
                "or raise tensor_parallel_size",
                mib(plan.total), mib(plan.model.weights), mib(plan.model.saved), mib(plan.model.scratch),
                mib(plan.adapter), cache, mib(plan.saves), checkpointing_name(plan.checkpointing),
                mib((size_t)plan.available));
}

void plan_print(struct strbuf *out, const struct plan *plan)
{
    const struct {
        const char *name;
        size_t bytes;
    } rows[] = {
        {"frozen weights", plan->model.weights},    {"saved activations", plan->model.saved},
        {"scratch", plan->model.scratch},           {"adapter and its optimizer", plan->adapter},
        {"checkpoints in the making", plan->saves}, {"a rank in all", plan->total},
    };
    strbuf_printf(out, "memory of a rank, gradient_checkpointing %s%s\n",
                  checkpointing_name(plan->checkpointing),
                  plan->keep_inputs ? ", inputs of adapters kept" : "");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        strbuf_printf(out, "  %-26s %10.1f MiB\n", rows[i].name, mib(rows[i].bytes));
}
