/*
 * panel.c: the functions of panel.h: checks the caller's contract once for all backends, then calls the
 * backend's slot.
 *
 * Invariants: 1. A broken contract is LORAD_BUG with the numbers in the message; a backend sees only calls
 * that fit.
 * 2. struct panel (the shared part) is constant after panel_create except `sealed`.
 */
#include "kernels/panel.h"

#include "kernels/panel_impl.h"

int64_t panel_spare(const struct panel_spec *spec)
{
    return panel_spare_columns(spec);
}

static enum status spec_check(const struct panel_spec *spec)
{
    if (spec->n_parts < 1 || spec->n_parts > PANEL_PARTS)
        return FAIL(LORAD_BUG, "a panel of %d parts", (int)spec->n_parts);
    if (spec->in < 8 || spec->in % 8)
        return FAIL(LORAD_BUG, "a panel with %lld inputs, which is no multiple of 8", (long long)spec->in);
    int64_t out = 0;
    for (int32_t i = 0; i < spec->n_parts; i++) {
        if (spec->part[i].out < 1 || spec->part[i].rank < 0)
            return FAIL(LORAD_BUG, "a panel part with %lld outputs and rank %d", (long long)spec->part[i].out,
                        (int)spec->part[i].rank);
        out += spec->part[i].out;
    }
    if (out % 8)
        return FAIL(LORAD_BUG, "a panel with %lld outputs, which is no multiple of 8", (long long)out);
    if (spec->y_dtype != spec->dtype && spec->y_dtype != DTYPE_F32)
        return FAIL(LORAD_BUG, "a %s panel cannot write %s", dtype_name(spec->dtype),
                    dtype_name(spec->y_dtype));
    if (spec->max_tokens < 1) return FAIL(LORAD_BUG, "a panel for %lld tokens", (long long)spec->max_tokens);
    return LORAD_OK;
}

void panel_bytes(const struct device_backend *backend, const struct panel_spec *spec, size_t *weights_bytes,
                 size_t *scratch_bytes)
{
    device_backend_ops(backend)->panel->bytes(spec, weights_bytes, scratch_bytes);
}

enum status panel_create(struct panel **out, struct device *device, const struct panel_spec *spec,
                         void *scratch)
{
    TRY(spec_check(spec));
    struct panel shape;
    panel_shape_init(&shape, device, spec);
    return device->ops->panel->create(out, &shape, scratch);
}

void panel_destroy(struct panel *panel)
{
    if (panel) panel->device->ops->panel->destroy(panel);
}

static enum status rows_check(const struct panel *panel, int32_t part, int64_t row, int64_t n)
{
    if (panel->sealed) return FAIL(LORAD_BUG, "a sealed panel cannot be loaded");
    if (part < 0 || part >= panel->spec.n_parts || row < 0 || n < 0 || row + n > panel->spec.part[part].out)
        return FAIL(LORAD_BUG, "rows %lld to %lld of part %d are outside of the panel", (long long)row,
                    (long long)(row + n), (int)part);
    return LORAD_OK;
}

enum status panel_load_rows(struct panel *panel, int32_t part, int64_t row, struct matrix host)
{
    TRY(rows_check(panel, part, row, host.rows));
    if (host.cols != panel->spec.in || host.stride < host.cols)
        return FAIL(LORAD_BUG, "rows of %lld columns for a panel with %lld inputs", (long long)host.cols,
                    (long long)panel->spec.in);
    if (host.dtype != DTYPE_F32 && host.dtype != DTYPE_BF16 && host.dtype != DTYPE_F16)
        return FAIL(LORAD_BUG, "%s rows for a panel", dtype_name(host.dtype));
    if (host.rows == 0) return LORAD_OK;
    return panel->device->ops->panel->load_rows(panel, part, row, host);
}

enum status panel_load_bias(struct panel *panel, int32_t part, int64_t row, int64_t n, const float *host)
{
    TRY(rows_check(panel, part, row, n));
    if (!panel->spec.bias) return FAIL(LORAD_BUG, "a bias for a panel that has none");
    if (n == 0) return LORAD_OK;
    return panel->device->ops->panel->load_bias(panel, part, row, n, host);
}

enum status panel_seal(struct panel *panel)
{
    if (panel->sealed) return FAIL(LORAD_BUG, "a panel is sealed twice");
    TRY(panel->device->ops->panel->seal(panel));
    panel->sealed = true;
    return LORAD_OK;
}

enum status panel_set_adapters(const struct panel_adapter *adapters, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        const struct panel *panel = adapters[i].panel;
        int32_t part = adapters[i].part;
        if (part < 0 || part >= panel->spec.n_parts || panel->spec.part[part].rank == 0)
            return FAIL(LORAD_BUG, "part %d of the panel has no adapter", (int)part);
        if (panel->device != adapters[0].panel->device)
            return FAIL(LORAD_BUG, "adapters of panels of two devices at once");
    }
    return n > 0 ? adapters[0].panel->device->ops->panel->set_adapters(adapters, n) : LORAD_OK;
}

/* A [rows, cols] matrix with at least `stride` elements a row. */
static enum status matrix_check(struct matrix m, const char *name, enum dtype dtype, int64_t rows,
                                int64_t cols, int64_t stride)
{
    if (!m.data || m.dtype != dtype || m.rows != rows || m.cols != cols || m.stride < stride)
        return FAIL(LORAD_BUG,
                    "panel: %s is %s [%lld, %lld] with stride %lld, expected %s [%lld, %lld] and >= %lld",
                    name, dtype_name(m.dtype), (long long)m.rows, (long long)m.cols, (long long)m.stride,
                    dtype_name(dtype), (long long)rows, (long long)cols, (long long)stride);
    return LORAD_OK;
}

static enum status call_check(const struct panel *panel, int64_t rows, const struct panel_dropout *dropout)
{
    if (!panel->sealed) return FAIL(LORAD_BUG, "panel: used before panel_seal");
    if (rows > panel->spec.max_tokens)
        return FAIL(LORAD_BUG, "panel: %lld rows, sized for %lld", (long long)rows,
                    (long long)panel->spec.max_tokens);
    if (dropout && dropout->p > 0 && (!(dropout->p < 1) || !dropout->token_index || !dropout->key))
        return FAIL(LORAD_BUG, "panel: dropout of %g without tokens, without keys or out of range",
                    (double)dropout->p);
    return LORAD_OK;
}

static const struct panel_dropout *dropout_wanted(const struct panel *panel,
                                                  const struct panel_dropout *dropout)
{
    return dropout && dropout->p > 0 && panel->rank_sum > 0 ? dropout : NULL;
}

enum status panel_forward(struct panel *panel, const struct panel_forward *args)
{
    const struct panel_spec *spec = &panel->spec;
    int64_t rows = args->x.rows;
    TRY(call_check(panel, rows, args->dropout));
    TRY(matrix_check(args->x, "x", spec->dtype, rows, spec->in, spec->in + panel->spare));
    TRY(matrix_check(args->y, "y", spec->y_dtype, rows, panel->out, panel->out));
    if (rows == 0) return LORAD_OK;
    struct panel_forward call = *args;
    call.dropout = args->adapter ? dropout_wanted(panel, args->dropout) : NULL;
    return panel->device->ops->panel->forward(panel, &call);
}

enum status panel_backward(struct panel *panel, const struct panel_backward *args)
{
    const struct panel_spec *spec = &panel->spec;
    int64_t rows = args->dy.rows;
    TRY(call_check(panel, rows, args->dropout));
    TRY(matrix_check(args->dy, "dy", spec->dtype, rows, panel->out, panel->out + panel->spare));
    if (args->dx.data) {
        if (!spec->needs_dx) return FAIL(LORAD_BUG, "panel: dx of a panel that was made without needs_dx");
        TRY(matrix_check(args->dx, "dx", spec->dtype, rows, spec->in, spec->in));
    }
    if (panel->rank_sum > 0) {
        TRY(matrix_check(args->x, "x", spec->dtype, rows, spec->in, spec->in));
        TRY(matrix_check(args->u, "u", spec->dtype, rows, panel->spare, panel->spare));
        for (int32_t i = 0; i < spec->n_parts; i++)
            if (spec->part[i].rank > 0 && !args->da[i] != !args->db[i])
                return FAIL(LORAD_BUG, "panel: part %d has one of dA and dB", (int)i);
    }
    if (rows == 0) return LORAD_OK;
    struct panel_backward call = *args;
    call.dropout = dropout_wanted(panel, args->dropout);
    return panel->device->ops->panel->backward(panel, &call);
}
