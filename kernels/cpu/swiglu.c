/* swiglu.c: silu(gate) * up (Shazeer 2020) and its backward, arithmetic in f32 with one rounding at the end.
 */
#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/vec.h"

INLINE vf sigmoid(vf x)
{
    return 1.0f / (1.0f + vec_exp(-x));
}

INLINE void forward_row(const char *gate_up, char *a, int64_t f, enum dtype dtype)
{
    for (int64_t i = 0; i < f; i += VEC) {
        int64_t n = f - i;
        vf gate = act_load_n(gate_up, i, n, dtype), up = act_load_n(gate_up, f + i, n, dtype);
        act_store_n(a, i, n, dtype, gate * sigmoid(gate) * up);
    }
}

enum status CPU_OP(swiglu)(struct cpu_device *device, const struct op_swiglu *args)
{
    const struct matrix *a = &args->a;
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, 4 * a->rows * a->cols))
    for (int64_t t = 0; t < a->rows; t++) {
        if (a->dtype == DTYPE_F32)
            forward_row(matrix_row(&args->gate_up, t), matrix_row(a, t), a->cols, DTYPE_F32);
        else
            forward_row(matrix_row(&args->gate_up, t), matrix_row(a, t), a->cols, DTYPE_BF16);
    }
    return LORAD_OK;
}

/* silu'(g) = s + g s (1 - s) with s = sigmoid(g). */
INLINE void backward_row(const char *gate_up, const char *da, char *d_gate_up, int64_t f, enum dtype dtype)
{
    for (int64_t i = 0; i < f; i += VEC) {
        int64_t n = f - i;
        vf gate = act_load_n(gate_up, i, n, dtype), up = act_load_n(gate_up, f + i, n, dtype);
        vf d = act_load_n(da, i, n, dtype), s = sigmoid(gate), silu = gate * s;
        act_store_n(d_gate_up, i, n, dtype, d * up * (s + silu * (1.0f - s)));
        act_store_n(d_gate_up, f + i, n, dtype, d * silu);
    }
}

enum status CPU_OP(swiglu_backward)(struct cpu_device *device, const struct op_swiglu_backward *args)
{
    const struct matrix *da = &args->da;
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, 4 * da->rows * da->cols))
    for (int64_t t = 0; t < da->rows; t++) {
        char *out = matrix_row(&args->d_gate_up, t);
        if (da->dtype == DTYPE_F32)
            backward_row(matrix_row(&args->gate_up, t), matrix_row(da, t), out, da->cols, DTYPE_F32);
        else
            backward_row(matrix_row(&args->gate_up, t), matrix_row(da, t), out, da->cols, DTYPE_BF16);
    }
    return LORAD_OK;
}
