/* gemm_emulated.c: the CUDA backend's matrix products (gemm.h) on the emulated GPU: plain loops, f32 sums. */
#include "kernels/cuda/gemm.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"

struct cuda_gemm {
    cudaStream_t stream;
};

static float get(struct matrix m, int64_t row, int64_t col)
{
    int64_t i = row * m.stride + col;
    if (m.dtype == DTYPE_F32) return ((const float *)m.data)[i];
    uint16_t half = ((const uint16_t *)m.data)[i];
    return m.dtype == DTYPE_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
}

static void put(struct matrix m, int64_t row, int64_t col, float value)
{
    int64_t i = row * m.stride + col;
    if (m.dtype == DTYPE_F32)
        ((float *)m.data)[i] = value;
    else
        ((uint16_t *)m.data)[i] = m.dtype == DTYPE_BF16 ? f32_to_bf16(value) : f32_to_f16(value);
}

/* m or its transpose as f32, [rows, cols] dense. */
static float *dense(struct matrix m, bool turn)
{
    int64_t rows = turn ? m.cols : m.rows, cols = turn ? m.rows : m.cols;
    float *values = memory_new((size_t)(rows * cols), sizeof *values);
    ASSERT(values);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) values[i * cols + j] = turn ? get(m, j, i) : get(m, i, j);
    return values;
}

static void multiply(void *data)
{
    const struct cuda_product *p = data;
    int64_t m = p->d.rows, n = p->d.cols, k = p->turn_a ? p->a.rows : p->a.cols;
    float *a = dense(p->a, p->turn_a), *b = dense(p->b, p->turn_b), *sum = memory_new((size_t)n, sizeof *sum);
    ASSERT(sum);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) sum[j] = 0;
        for (int64_t l = 0; l < k; l++) {
            float x = a[i * k + l];
            for (int64_t j = 0; j < n; j++) sum[j] += x * b[l * n + j];
        }
        for (int64_t j = 0; j < n; j++) {
            float value = p->alpha * sum[j];
            if (p->beta != 0) value += p->beta * get(p->d, i, j);
            if (p->bias) value += get(matrix_of((void *)(uintptr_t)p->bias, p->d.dtype, 1, n, n), 0, j);
            put(p->d, i, j, value);
        }
    }
    free(a);
    free(b);
    free(sum);
}

enum status cuda_gemm_create(struct cuda_gemm **out, struct cuda_device *device)
{
    struct cuda_gemm *gemm = memory_new(1, sizeof *gemm);
    if (!gemm) return LORAD_NOMEM;
    gemm->stream = device->stream[STREAM_COMPUTE];
    *out = gemm;
    return LORAD_OK;
}

void cuda_gemm_name(char *words, size_t bytes)
{
    snprintf(words, bytes, "emulated products");
}

void cuda_gemm_destroy(struct cuda_gemm *gemm)
{
    free(gemm);
}

/* There is one way to multiply here; what d holds is spoiled, as timing would. */
enum status cuda_gemm_choose(struct cuda_gemm *gemm, const struct cuda_product *product)
{
    struct matrix d = product->d;
    size_t size = dtype_bytes(d.dtype);
    CUDA_TRY(cudaMemset2DAsync(d.data, (size_t)d.stride * size, 0xff, (size_t)d.cols * size, (size_t)d.rows,
                               gemm->stream));
    return LORAD_OK;
}

enum status cuda_gemm_run(struct cuda_gemm *gemm, const struct cuda_product *product)
{
    struct cuda_product *copy = memory_new(1, sizeof *copy);
    if (!copy) return LORAD_NOMEM;
    *copy = *product;
    CUDA_TRY(emulator_enqueue(gemm->stream, multiply, copy));
    return LORAD_OK;
}
