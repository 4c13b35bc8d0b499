/* embed.c: rows copied by number: the embedding, and the gather and scatter of supervised rows. */
#include "kernels/cpu/cpu_impl.h"

static size_t row_bytes(const struct matrix *m)
{
    return (size_t)m->cols * dtype_bytes(m->dtype);
}

enum status CPU_OP(embed)(struct cpu_device *device, const struct op_embed *args)
{
    const struct matrix *table = &args->table, *out = &args->out;
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, out->rows * out->cols))
    for (int64_t t = 0; t < out->rows; t++) {
        int64_t row = args->ids[t] - args->first_row;
        if (row >= 0 && row < table->rows)
            memcpy(matrix_row(out, t), matrix_row(table, row), row_bytes(out));
        else
            memset(matrix_row(out, t), 0, row_bytes(out));
    }
    return LORAD_OK;
}

/* An index outside the matrix is met before anything is written; the loop is short against the copy. */
static enum status check_index(const char *op, const int32_t *index, int64_t n, int64_t rows)
{
    for (int64_t i = 0; i < n; i++) {
        if (index[i] < -1 || index[i] >= rows) {
            return FAIL(LORAD_BUG, "%s: index[%lld] is %d, the matrix has %lld rows", op, (long long)i,
                        index[i], (long long)rows);
        }
    }
    return LORAD_OK;
}

enum status CPU_OP(gather_rows)(struct cpu_device *device, const struct op_gather_rows *args)
{
    const struct matrix *in = &args->in, *out = &args->out;
    TRY(check_index("gather_rows", args->index, out->rows, in->rows));
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, out->rows * out->cols))
    for (int64_t i = 0; i < out->rows; i++) {
        if (args->index[i] >= 0)
            memcpy(matrix_row(out, i), matrix_row(in, args->index[i]), row_bytes(out));
        else
            memset(matrix_row(out, i), 0, row_bytes(out));
    }
    return LORAD_OK;
}

enum status CPU_OP(scatter_rows)(struct cpu_device *device, const struct op_scatter_rows *args)
{
    const struct matrix *in = &args->in, *out = &args->out;
    TRY(check_index("scatter_rows", args->index, in->rows, out->rows));
#pragma omp parallel num_threads(cpu_threads_for(device, out->rows * out->cols))
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < out->rows; t++) memset(matrix_row(out, t), 0, row_bytes(out));
#pragma omp for schedule(static)
        for (int64_t i = 0; i < in->rows; i++)
            if (args->index[i] >= 0)
                memcpy(matrix_row(out, args->index[i]), matrix_row(in, i), row_bytes(out));
    }
    return LORAD_OK;
}
