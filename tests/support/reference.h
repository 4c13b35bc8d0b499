/*
 * reference.h: the operations of kernels/ops.h once more, in double, on dense arrays, as plainly as they can
 * be said.
 *
 * Nothing here is shared with the kernels. Shapes stand beside the parameters; every output is written, never
 * added to. unit/reference.c checks the backward functions against central differences of the forward ones.
 */
#ifndef LORAD_TESTS_SUPPORT_REFERENCE_H
#define LORAD_TESTS_SUPPORT_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

/* h [T, d] = w [d] * x [T, d] * rstd [T] */
void ref_rmsnorm(double *h, double *rstd, const double *x, const double *w, double eps, int64_t tokens,
                 int64_t d);
void ref_rmsnorm_backward(double *dx, const double *x, const double *w, const double *dh, double eps,
                          int64_t tokens, int64_t d);

/* out [T, heads * hd]; cos_sin [positions, hd] as in ops.h; w [hd] or NULL. sign -1: back. */
void ref_rope(double *out, const double *x, const double *w, double eps, const int32_t *positions,
              const double *cos_sin, int64_t tokens, int64_t heads, int64_t hd, double sign);
void ref_rope_norm_backward(double *dx, const double *x, const double *w, const double *dout, double eps,
                            const int32_t *positions, const double *cos_sin, int64_t tokens, int64_t heads,
                            int64_t hd);

struct ref_attention {
    int64_t tokens, q_heads, kv_heads, head_dim, window;
    double scale;
    const int32_t *start; /* [count + 1] */
    int32_t count;
    const double *q, *k, *v; /* [T, heads * head_dim] */
};
/* out [T, q_heads * hd], lse [q_heads, T] */
void ref_attention(double *out, double *lse, const struct ref_attention *a);
void ref_attention_backward(double *dq, double *dk, double *dv, const double *dout,
                            const struct ref_attention *a);

/* a [T, f] from gate_up [T, 2f] */
void ref_swiglu(double *a, const double *gate_up, int64_t tokens, int64_t f);
void ref_swiglu_backward(double *d_gate_up, const double *gate_up, const double *da, int64_t tokens,
                         int64_t f);

/* z [n, cols]; dz [n, cols] or NULL; returns sum of weight * loss; losses [n] or NULL. */
double ref_cross_entropy(double *dz, double *losses, const double *z, const int32_t *labels,
                         const double *weights, int64_t n, int64_t cols);

/* One AdamW step on p, m, v [n] with gradient g. */
void ref_adamw(double *p, double *m, double *v, const double *g, int64_t n, double lr, double wd,
               double beta1, double beta2, double eps, int64_t step);

#endif
