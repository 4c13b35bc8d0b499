/*
 * products.h: what panels are made of on CUDA, piece by piece, for those who measure it (tests/bench/panel.c):
 * device_extension(device, "lorad_products") is a struct cuda_products. Needs nothing of CUDA.
 */
#ifndef LORAD_KERNELS_CUDA_PRODUCTS_H
#define LORAD_KERNELS_CUDA_PRODUCTS_H

#include "kernels/panel.h"

/* d = alpha op(a) op(b) + beta d + bias, row-major. a and b share a dtype (f32, bf16, f16), d has it too or
 * is f32. */
struct cuda_product {
    struct matrix a;     /* [m, k]; [k, m] with turn_a */
    struct matrix b;     /* [k, n]; [n, k] with turn_b */
    struct matrix d;     /* [m, n] */
    bool turn_a, turn_b; /* op is the transpose */
    const void *bias;    /* [n] of d's dtype; NULL: none */
    float alpha, beta;
};

/* The library's product and its choice (gemm.h), and the functions of skinny.h. */
struct cuda_products {
    enum status (*choose)(struct device *device, const struct cuda_product *product);
    enum status (*product)(struct device *device, const struct cuda_product *product);
    size_t (*mask_bytes)(int32_t parts, int64_t tokens, int64_t cols);
    enum status (*mask)(const struct panel *panel, const struct panel_dropout *dropout, int64_t tokens,
                        uint32_t *bits);
    enum status (*u)(const struct panel *panel, struct matrix x, struct matrix a, const uint32_t *bits,
                     float scale, struct matrix u);
    enum status (*g)(const struct panel *panel, struct matrix dy, struct matrix sb, struct matrix g);
    enum status (*da)(const struct panel *panel, struct matrix g, struct matrix x, const uint32_t *bits,
                      float scale, float *const da[PANEL_PARTS]);
    enum status (*db)(const struct panel *panel, struct matrix u, struct matrix dy,
                      const float scale[PANEL_PARTS], float *const db[PANEL_PARTS]);
    enum status (*dx)(const struct panel *panel, struct matrix g, struct matrix a, const uint32_t *bits,
                      float scale, struct matrix dx);
};

#endif
