/*
 * panel_impl.h: what a backend of panel.h provides. Included by kernels/ only.
 *
 * panel.c checks the caller's contract once for all backends and calls the slot of the same name, so a slot
 * may rely on what panel.h promises: shapes, dtypes and strides fit, pointers that must be set are set, rows
 * >= 1, no dropout struct with p == 0, no dropout without an adapter. Every slot is filled.
 */
#ifndef LORAD_KERNELS_PANEL_IMPL_H
#define LORAD_KERNELS_PANEL_IMPL_H

#include <string.h>

#include "kernels/device_impl.h"
#include "kernels/panel.h"

/* The part of a panel that all backends share; a backend's own struct begins with it. panel.c fills it. */
struct panel {
    struct device *device;
    struct panel_spec spec;
    int64_t out;                     /* sum of the parts' out */
    int64_t spare;                   /* R */
    int64_t out_first[PANEL_PARTS];  /* first row of W of each part */
    int32_t rank_first[PANEL_PARTS]; /* first of each part's columns among the R */
    int32_t rank_sum;                /* columns of the R in use; the others are padding */
    bool sealed;
};

struct panel_ops {
    void (*bytes)(const struct panel_spec *spec, size_t *weights_bytes, size_t *scratch_bytes);
    /* The shared part of `shape` is filled; the backend copies it. */
    enum status (*create)(struct panel **out, const struct panel *shape, void *scratch);
    void (*destroy)(struct panel *panel);
    enum status (*load_rows)(struct panel *panel, int32_t part, int64_t row, struct matrix host);
    enum status (*load_bias)(struct panel *panel, int32_t part, int64_t row, int64_t n, const float *host);
    enum status (*seal)(struct panel *panel);
    enum status (*set_adapters)(const struct panel_adapter *adapters, int32_t n); /* n >= 1 */
    enum status (*forward)(struct panel *panel, const struct panel_forward *args);
    enum status (*backward)(struct panel *panel, const struct panel_backward *args);
};

/* Columns of the parts' ranks, padded: panel_spare. */
static inline int64_t panel_spare_columns(const struct panel_spec *spec)
{
    int64_t sum = 0;
    for (int32_t i = 0; i < spec->n_parts; i++) sum += spec->part[i].rank;
    return (sum + PANEL_ALIGN - 1) / PANEL_ALIGN * PANEL_ALIGN;
}

/* Fills everything of *shape from a spec that panel_create accepted. In this header, since a backend that is
 * opened at run time cannot count on what the program was linked with. */
static inline void panel_shape_init(struct panel *shape, struct device *device, const struct panel_spec *spec)
{
    memset(shape, 0, sizeof *shape);
    shape->device = device;
    shape->spec = *spec;
    shape->spare = panel_spare_columns(spec);
    for (int32_t i = 0; i < spec->n_parts; i++) {
        shape->out_first[i] = shape->out;
        shape->rank_first[i] = shape->rank_sum;
        shape->out += spec->part[i].out;
        shape->rank_sum += spec->part[i].rank;
    }
}

#endif
