#include "support/op_timer.h"

#include <stdio.h>

#include "base/clock.h"
#include "kernels/device_impl.h"
#include "kernels/panel_impl.h"

enum timed {
#define OP(name) TIMED_##name,
#include "kernels/ops.def"
#undef OP
    TIMED_panel_forward,
    TIMED_panel_backward,
    TIMED_head_forward,
    TIMED_head_backward,
    TIMED_set_adapters,
    TIMED_COUNT
};

static const char *const names[TIMED_COUNT] = {
#define OP(name) #name,
#include "kernels/ops.def"
#undef OP
    "linear, forward", "linear, backward", "head, forward", "head, backward", "linear, set adapter",
};

static enum op_part part_of(enum timed which)
{
    switch (which) {
    case TIMED_panel_forward:
    case TIMED_panel_backward:
        return OP_PART_LINEAR;
    case TIMED_attention:
    case TIMED_attention_backward:
    case TIMED_attention_decode:
        return OP_PART_ATTENTION;
    case TIMED_gather_rows:
    case TIMED_scatter_rows:
    case TIMED_loss_stats:
    case TIMED_loss_grad:
    case TIMED_head_forward:
    case TIMED_head_backward:
        return OP_PART_HEAD;
    case TIMED_adamw:
    case TIMED_sum_squares:
    case TIMED_fixed_add:
    case TIMED_fixed_read:
    case TIMED_set_adapters:
        return OP_PART_OPTIMIZER;
    default:
        return OP_PART_ROWS;
    }
}

static const struct device_ops *real;
static struct device_ops timing;
static struct panel_ops panel_timing;
static double seconds[TIMED_COUNT];
static long calls[TIMED_COUNT];

/* The device has nothing left to do when the clock starts. */
static enum status begin(struct device *device, int64_t *start)
{
    TRY(real->sync(device));
    *start = clock_monotonic_ns();
    return LORAD_OK;
}

static enum status end(struct device *device, enum timed which, int64_t start)
{
    TRY(real->sync(device));
    seconds[which] += clock_seconds_since(start);
    calls[which]++;
    return LORAD_OK;
}

#define OP(name)                                                                                             \
    static enum status time_##name(struct device *device, const struct op_##name *args)                      \
    {                                                                                                        \
        int64_t start;                                                                                       \
        TRY(begin(device, &start));                                                                          \
        TRY(real->name(device, args));                                                                       \
        return end(device, TIMED_##name, start);                                                             \
    }
#include "kernels/ops.def"
#undef OP

static bool is_adapted(const struct panel *panel)
{
    return panel->rank_sum > 0;
}

static enum status time_panel_forward(struct panel *panel, const struct panel_forward *args)
{
    int64_t start;
    TRY(begin(panel->device, &start));
    TRY(real->panel->forward(panel, args));
    return end(panel->device, is_adapted(panel) ? TIMED_panel_forward : TIMED_head_forward, start);
}

static enum status time_panel_backward(struct panel *panel, const struct panel_backward *args)
{
    int64_t start;
    TRY(begin(panel->device, &start));
    TRY(real->panel->backward(panel, args));
    return end(panel->device, is_adapted(panel) ? TIMED_panel_backward : TIMED_head_backward, start);
}

static enum status time_set_adapters(const struct panel_adapter *adapters, int32_t n)
{
    struct device *device = adapters[0].panel->device;
    int64_t start;
    TRY(begin(device, &start));
    TRY(real->panel->set_adapters(adapters, n));
    return end(device, TIMED_set_adapters, start);
}

void op_timer_begin(struct device *device)
{
    real = device->ops;
    timing = *real;
#define OP(name) timing.name = time_##name;
#include "kernels/ops.def"
#undef OP
    panel_timing = *real->panel;
    panel_timing.forward = time_panel_forward;
    panel_timing.backward = time_panel_backward;
    panel_timing.set_adapters = time_set_adapters;
    timing.panel = &panel_timing;
    memset(seconds, 0, sizeof seconds);
    memset(calls, 0, sizeof calls);
    device->ops = &timing;
}

void op_timer_end(struct device *device, int passes, double milliseconds[OP_PARTS])
{
    device->ops = real;
    memset(milliseconds, 0, OP_PARTS * sizeof *milliseconds);
    for (int i = 0; i < TIMED_COUNT; i++) milliseconds[part_of((enum timed)i)] += 1e3 * seconds[i] / passes;
}

void op_timer_print(int passes)
{
    double all = 0;
    for (int i = 0; i < TIMED_COUNT; i++) all += seconds[i];
    printf("%-20s %8s %10s %7s   (every operation waited for)\n", "operation", "calls", "ms", "share");
    for (int i = 0; i < TIMED_COUNT; i++)
        if (calls[i])
            printf("%-20s %8.1f %10.3f %6.1f%%\n", names[i], (double)calls[i] / passes,
                   1e3 * seconds[i] / passes, 100 * seconds[i] / all);
    printf("%-20s %8s %10.3f\n", "in all", "", 1e3 * all / passes);
}
