#include "support/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void ref_rmsnorm(double *h, double *rstd, const double *x, const double *w, double eps, int64_t tokens,
                 int64_t d)
{
    for (int64_t t = 0; t < tokens; t++) {
        double squares = 0;
        for (int64_t i = 0; i < d; i++) squares += x[t * d + i] * x[t * d + i];
        double r = 1 / sqrt(squares / (double)d + eps);
        if (rstd) rstd[t] = r;
        for (int64_t i = 0; i < d; i++) h[t * d + i] = w[i] * x[t * d + i] * r;
    }
}

void ref_rmsnorm_backward(double *dx, const double *x, const double *w, const double *dh, double eps,
                          int64_t tokens, int64_t d)
{
    for (int64_t t = 0; t < tokens; t++) {
        const double *row = x + t * d, *dy = dh + t * d;
        double squares = 0, dot = 0;
        for (int64_t i = 0; i < d; i++) squares += row[i] * row[i];
        double r = 1 / sqrt(squares / (double)d + eps);
        for (int64_t i = 0; i < d; i++) dot += w[i] * dy[i] * row[i] * r;
        for (int64_t i = 0; i < d; i++) dx[t * d + i] = r * (w[i] * dy[i] - row[i] * r * dot / (double)d);
    }
}

static void rotate(double *out, const double *in, const double *cos_sin, int64_t hd, double sign)
{
    int64_t half = hd / 2;
    for (int64_t j = 0; j < half; j++) {
        double a = in[j], b = in[j + half], c = cos_sin[j], s = sign * cos_sin[j + half];
        out[j] = a * c - b * s;
        out[j + half] = b * c + a * s;
    }
}

void ref_rope(double *out, const double *x, const double *w, double eps, const int32_t *positions,
              const double *cos_sin, int64_t tokens, int64_t heads, int64_t hd, double sign)
{
    double *normed = malloc((size_t)hd * sizeof *normed);
    for (int64_t i = 0; i < tokens * heads; i++) {
        const double *head = x + i * hd;
        if (w)
            ref_rmsnorm(normed, NULL, head, w, eps, 1, hd);
        else
            memcpy(normed, head, (size_t)hd * sizeof *normed);
        rotate(out + i * hd, normed, cos_sin + positions[i / heads] * hd, hd, sign);
    }
    free(normed);
}

void ref_rope_norm_backward(double *dx, const double *x, const double *w, const double *dout, double eps,
                            const int32_t *positions, const double *cos_sin, int64_t tokens, int64_t heads,
                            int64_t hd)
{
    double *back = malloc((size_t)hd * sizeof *back);
    for (int64_t i = 0; i < tokens * heads; i++) {
        rotate(back, dout + i * hd, cos_sin + positions[i / heads] * hd, hd, -1);
        ref_rmsnorm_backward(dx + i * hd, x + i * hd, w, back, eps, 1, hd);
    }
    free(back);
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Probabilities of query `t` of one head over keys [*from, t]; returns the log-sum-exp. */
static double probabilities(double *p, int64_t *from, const struct ref_attention *a, int64_t sequence_start,
                            int64_t t, int64_t head)
{
    int64_t hd = a->head_dim, kv_head = head / (a->q_heads / a->kv_heads);
    *from = sequence_start;
    if (a->window > 0 && t - a->window + 1 > *from) *from = t - a->window + 1;
    double most = -INFINITY, sum = 0;
    for (int64_t j = *from; j <= t; j++) {
        const double *q = a->q + (t * a->q_heads + head) * hd, *k = a->k + (j * a->kv_heads + kv_head) * hd;
        p[j - *from] = a->scale * dot(q, k, hd);
        if (p[j - *from] > most) most = p[j - *from];
    }
    for (int64_t j = *from; j <= t; j++) sum += exp(p[j - *from] - most);
    for (int64_t j = *from; j <= t; j++) p[j - *from] = exp(p[j - *from] - most) / sum;
    return most + log(sum);
}

void ref_attention(double *out, double *lse, const struct ref_attention *a)
{
    int64_t hd = a->head_dim, group = a->q_heads / a->kv_heads;
    double *p = malloc((size_t)a->tokens * sizeof *p);
    for (int32_t s = 0; s < a->count; s++) {
        for (int64_t t = a->start[s]; t < a->start[s + 1]; t++) {
            for (int64_t head = 0; head < a->q_heads; head++) {
                int64_t from;
                double *o = out + (t * a->q_heads + head) * hd;
                lse[head * a->tokens + t] = probabilities(p, &from, a, a->start[s], t, head);
                memset(o, 0, (size_t)hd * sizeof *o);
                for (int64_t j = from; j <= t; j++)
                    for (int64_t i = 0; i < hd; i++)
                        o[i] += p[j - from] * a->v[(j * a->kv_heads + head / group) * hd + i];
            }
        }
    }
    free(p);
}

void ref_attention_backward(double *dq, double *dk, double *dv, const double *dout,
                            const struct ref_attention *a)
{
    int64_t hd = a->head_dim, group = a->q_heads / a->kv_heads;
    double *p = malloc((size_t)a->tokens * sizeof *p), *dp = malloc((size_t)a->tokens * sizeof *dp);
    memset(dq, 0, (size_t)(a->tokens * a->q_heads * hd) * sizeof *dq);
    memset(dk, 0, (size_t)(a->tokens * a->kv_heads * hd) * sizeof *dk);
    memset(dv, 0, (size_t)(a->tokens * a->kv_heads * hd) * sizeof *dv);
    for (int32_t s = 0; s < a->count; s++) {
        for (int64_t t = a->start[s]; t < a->start[s + 1]; t++) {
            for (int64_t head = 0; head < a->q_heads; head++) {
                int64_t from, at = (t * a->q_heads + head) * hd;
                probabilities(p, &from, a, a->start[s], t, head);
                double mean = 0;
                for (int64_t j = from; j <= t; j++) {
                    dp[j - from] = dot(dout + at, a->v + (j * a->kv_heads + head / group) * hd, hd);
                    mean += p[j - from] * dp[j - from];
                }
                for (int64_t j = from; j <= t; j++) {
                    int64_t key = (j * a->kv_heads + head / group) * hd;
                    double ds = a->scale * p[j - from] * (dp[j - from] - mean);
                    for (int64_t i = 0; i < hd; i++) {
                        dq[at + i] += ds * a->k[key + i];
                        dk[key + i] += ds * a->q[at + i];
                        dv[key + i] += p[j - from] * dout[at + i];
                    }
                }
            }
        }
    }
    free(p);
    free(dp);
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

void ref_swiglu(double *a, const double *gate_up, int64_t tokens, int64_t f)
{
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t i = 0; i < f; i++) {
            double gate = gate_up[t * 2 * f + i], up = gate_up[t * 2 * f + f + i];
            a[t * f + i] = gate * sigmoid(gate) * up;
        }
    }
}

void ref_swiglu_backward(double *d_gate_up, const double *gate_up, const double *da, int64_t tokens,
                         int64_t f)
{
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t i = 0; i < f; i++) {
            double gate = gate_up[t * 2 * f + i], up = gate_up[t * 2 * f + f + i], d = da[t * f + i];
            double s = sigmoid(gate);
            d_gate_up[t * 2 * f + i] = d * up * (s + gate * s * (1 - s));
            d_gate_up[t * 2 * f + f + i] = d * gate * s;
        }
    }
}

double ref_cross_entropy(double *dz, double *losses, const double *z, const int32_t *labels,
                         const double *weights, int64_t n, int64_t cols)
{
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        const double *row = z + i * cols;
        double most = -INFINITY, sum = 0, weight = weights ? weights[i] : 1;
        for (int64_t c = 0; c < cols; c++) most = row[c] > most ? row[c] : most;
        for (int64_t c = 0; c < cols; c++) sum += exp(row[c] - most);
        double loss = most + log(sum) - row[labels[i]];
        if (losses) losses[i] = loss;
        total += weight * loss;
        for (int64_t c = 0; dz && c < cols; c++)
            dz[i * cols + c] = weight * (exp(row[c] - most) / sum - (c == labels[i]));
    }
    return total;
}

void ref_adamw(double *p, double *m, double *v, const double *g, int64_t n, double lr, double wd,
               double beta1, double beta2, double eps, int64_t step)
{
    for (int64_t i = 0; i < n; i++) {
        p[i] *= 1 - lr * wd;
        m[i] = beta1 * m[i] + (1 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
        double root = sqrt(v[i]) / sqrt(1 - pow(beta2, (double)step));
        p[i] -= lr / (1 - pow(beta1, (double)step)) * m[i] / (root + eps);
    }
}
