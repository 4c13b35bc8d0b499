/*
 * tensor.h: dtypes and the one shape that the trainer needs: a matrix with a row stride. Everything in a
 * training step is [tokens, columns] or [rows of a weight, columns]; a vector is a matrix of one row.
 */
#ifndef LORAD_KERNELS_TENSOR_H
#define LORAD_KERNELS_TENSOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_I32, DTYPE_I64, DTYPE_F64 };

static inline size_t dtype_bytes(enum dtype dtype)
{
    static const unsigned char bytes[] = {4, 2, 2, 4, 8, 8};
    return bytes[dtype];
}

static inline const char *dtype_name(enum dtype dtype)
{
    static const char *const names[] = {"f32", "bf16", "f16", "i32", "i64", "f64"};
    return names[dtype];
}

/* Borrows: data, which lives on the device that the matrix is used with. Element (i, j) is data[i * stride +
 * j]. */
struct matrix {
    void *data;
    enum dtype dtype;
    int64_t rows, cols;
    int64_t stride; /* elements from one row to the next, >= cols */
};

static inline struct matrix matrix_of(void *data, enum dtype dtype, int64_t rows, int64_t cols,
                                      int64_t stride)
{
    return (struct matrix){.data = data, .dtype = dtype, .rows = rows, .cols = cols, .stride = stride};
}

/* rows [row, row + rows) and columns [col, col + cols) of m. */
static inline struct matrix matrix_part(struct matrix m, int64_t row, int64_t rows, int64_t col, int64_t cols)
{
    char *start = (char *)m.data;
    if (start) start += (size_t)(row * m.stride + col) * dtype_bytes(m.dtype);
    return matrix_of(start, m.dtype, rows, cols, m.stride);
}

/* bf16 is the upper half of an f32; rounding to nearest even, NaN kept quiet. */
static inline float bf16_to_f32(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint16_t f32_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* IEEE half precision, subnormals included. */
static inline float f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ffu,
             bits;
    float value;
    if (exponent == 0) {
        value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To nearest, ties to even; what exceeds 65504 by half a step becomes infinity, NaN stays NaN. */
static inline uint16_t f32_to_f16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (bits < 0x38800000u) { /* subnormal: steps of 2^-24; adding 1/2 leaves them in the low bits, rounded */
        float shifted;
        memcpy(&shifted, &bits, sizeof shifted);
        shifted += 0.5f;
        memcpy(&bits, &shifted, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    return (uint16_t)(sign | (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1)) >> 13);
}

#endif
