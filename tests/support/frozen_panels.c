#include "support/frozen_panels.h"

#include "kernels/device_impl.h"
#include "kernels/panel_impl.h"

static const struct device_ops *real;
static struct device_ops frozen;
static struct panel_ops frozen_panels;

/* A panel without spare columns is one without an adapter. */
static struct panel without(struct panel *panel)
{
    struct panel kept = *panel;
    panel->spare = 0;
    panel->rank_sum = 0;
    return kept;
}

static void put_back(struct panel *panel, const struct panel *kept)
{
    panel->spare = kept->spare;
    panel->rank_sum = kept->rank_sum;
}

static enum status forward(struct panel *panel, const struct panel_forward *args)
{
    struct panel kept = without(panel);
    struct panel_forward plain = {.x = args->x, .y = args->y};
    enum status status = real->panel->forward(panel, &plain);
    put_back(panel, &kept);
    return status;
}

static enum status backward(struct panel *panel, const struct panel_backward *args)
{
    struct panel kept = without(panel);
    struct panel_backward plain = {.x = args->x, .dy = args->dy, .dx = args->dx};
    enum status status = real->panel->backward(panel, &plain);
    put_back(panel, &kept);
    return status;
}

void frozen_panels_begin(struct device *device)
{
    real = device->ops;
    frozen = *real;
    frozen_panels = *real->panel;
    frozen_panels.forward = forward;
    frozen_panels.backward = backward;
    frozen.panel = &frozen_panels;
    device->ops = &frozen;
}

void frozen_panels_end(struct device *device)
{
    device->ops = real;
}
