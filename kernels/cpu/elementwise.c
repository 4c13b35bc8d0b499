/* elementwise.c: sums of two matrices, and copies that change dtype or stride. */
#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/vec.h"

INLINE void add_row(const char *x, char *y, int64_t cols, enum dtype x_dtype, enum dtype y_dtype)
{
    for (int64_t i = 0; i < cols; i += VEC) {
        int64_t n = cols - i;
        vf sum = act_load_n(y, i, n, y_dtype) + act_load_n(x, i, n, x_dtype);
        act_store_n(y, i, n, y_dtype, sum);
    }
}

INLINE void copy_row(const char *in, char *out, int64_t cols, enum dtype in_dtype, enum dtype out_dtype)
{
    if (in_dtype == out_dtype) {
        memcpy(out, in, (size_t)cols * dtype_bytes(in_dtype));
        return;
    }
    for (int64_t i = 0; i < cols; i += VEC) {
        int64_t n = cols - i;
        act_store_n(out, i, n, out_dtype, act_load_n(in, i, n, in_dtype));
    }
}

/* One loop body for every pair of dtypes, each with constants inside. */
#define FOR_DTYPES(call, a, b)                                                                               \
    do {                                                                                                     \
        if ((a) == DTYPE_F32 && (b) == DTYPE_F32) call(DTYPE_F32, DTYPE_F32);                                \
        if ((a) == DTYPE_F32 && (b) == DTYPE_BF16) call(DTYPE_F32, DTYPE_BF16);                              \
        if ((a) == DTYPE_BF16 && (b) == DTYPE_F32) call(DTYPE_BF16, DTYPE_F32);                              \
        if ((a) == DTYPE_BF16 && (b) == DTYPE_BF16) call(DTYPE_BF16, DTYPE_BF16);                            \
    } while (0)

enum status CPU_OP(add)(struct cpu_device *device, const struct op_add *args)
{
    const struct matrix *x = &args->x, *y = &args->y;
    size_t x_row = (size_t)x->stride * dtype_bytes(x->dtype),
           y_row = (size_t)y->stride * dtype_bytes(y->dtype);
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, y->rows * y->cols))
    for (int64_t t = 0; t < y->rows; t++) {
        const char *from = (const char *)x->data + (size_t)t * x_row;
        char *to = (char *)y->data + (size_t)t * y_row;
#define CALL(a, b) add_row(from, to, y->cols, a, b)
        FOR_DTYPES(CALL, x->dtype, y->dtype);
#undef CALL
    }
    return LORAD_OK;
}

enum status CPU_OP(copy)(struct cpu_device *device, const struct op_copy *args)
{
    const struct matrix *in = &args->in, *out = &args->out;
    size_t in_row = (size_t)in->stride * dtype_bytes(in->dtype);
    size_t out_row = (size_t)out->stride * dtype_bytes(out->dtype);
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, out->rows * out->cols))
    for (int64_t t = 0; t < out->rows; t++) {
        const char *from = (const char *)in->data + (size_t)t * in_row;
        char *to = (char *)out->data + (size_t)t * out_row;
#define CALL(a, b) copy_row(from, to, out->cols, a, b)
        FOR_DTYPES(CALL, in->dtype, out->dtype);
#undef CALL
    }
    return LORAD_OK;
}
