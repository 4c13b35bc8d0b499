/*
 * kernels_gemm.c: the packed products by themselves. Inputs are small whole numbers, so every sum is exact in
 * f32 whatever its order, and kernels are compared bit for bit; the tile kernel runs on emulated registers.
 */
#include "support/test.h"
#include "support/tiles_emulated.h"

#include "kernels/cpu/dropout_mask.h"
#include "kernels/cpu/gemm.h"

static const struct gemm_kernel *kernel_of(enum dtype dtype, const char *name)
{
    return strcmp(name, "amx emulated") == 0 ? tiles_emulated() : gemm_kernel_named(dtype, name);
}

static const struct {
    enum dtype dtype;
    const char *name;
} kernels[] = {
    {DTYPE_BF16, "amx emulated"}, {DTYPE_BF16, "amx"},  {DTYPE_BF16, "avx512_bf16"},
    {DTYPE_BF16, "avx512"},       {DTYPE_BF16, "avx2"}, {DTYPE_BF16, "generic"},
    {DTYPE_F32, "avx512"},        {DTYPE_F32, "avx2"},  {DTYPE_F32, "generic"},
};

/* Runs body for every kernel of this processor. */
static void for_each_kernel(void (*body)(const struct gemm_kernel *kernel))
{
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++) {
        const struct gemm_kernel *kernel = kernel_of(kernels[i].dtype, kernels[i].name);
        if (kernel)
            body(kernel);
        else
            print_message("%s is not for this processor\n", kernels[i].name);
    }
}

static int number(int64_t i, int64_t j)
{
    return (int)((i * 7 + j * 13 + i * j % 5) % 9) - 4;
}

static void *memory(size_t bytes)
{
    void *block = calloc(1, bytes + 64);
    assert_non_null(block);
    return block;
}

static void set(struct matrix m, int64_t i, int64_t j, float value)
{
    if (m.dtype == DTYPE_F32)
        ((float *)m.data)[i * m.stride + j] = value;
    else
        ((uint16_t *)m.data)[i * m.stride + j] = f32_to_bf16(value);
}

static struct matrix numbers(int64_t rows, int64_t cols, enum dtype dtype, int seed)
{
    struct matrix m = matrix_of(memory((size_t)(rows * (cols + 3)) * 4), dtype, rows, cols, cols + 3);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) set(m, i, j, (float)number(i + seed, j));
    return m;
}

/* b [k, n], loaded by columns or by rows. */
static struct gemm_weights weights_of(const struct gemm_kernel *kernel, int64_t k, int64_t n, bool by_rows)
{
    struct gemm_weights w = {
        .kernel = kernel, .data = memory(gemm_weights_bytes(kernel, k, n)), .k = k, .n = n};
    int64_t count = by_rows ? n : k;
    struct matrix run = numbers(1, count, kernel->dtype, 0);
    for (int64_t i = 0; i < (by_rows ? k : n); i++) {
        for (int64_t j = 0; j < count; j++)
            set(run, 0, j, (float)(by_rows ? number(i, j + 3) : number(j, i + 3)));
        if (by_rows)
            gemm_weights_put_rows(&w, i, 1, 0, count, run.data, 0);
        else
            gemm_weights_put_columns(&w, i, 1, 0, count, run.data, 0);
    }
    free(run.data);
    return w;
}

static void check_product(const struct gemm_kernel *kernel, int64_t rows, int64_t k, int64_t n,
                          int64_t n_first, bool by_rows, int threads)
{
    struct gemm_weights w = weights_of(kernel, k, n, by_rows);
    struct matrix source = numbers(rows, k, kernel->dtype, 0);
    struct gemm_operand a = gemm_operand_of(kernel, memory(gemm_operand_bytes(kernel, rows, k)), rows, k);
    int64_t first = k / 16 * 8; /* in two pieces, as x and then u */
    gemm_operand_pack(&a, 0, matrix_part(source, 0, rows, 0, first), threads);
    gemm_operand_pack(&a, first, matrix_part(source, 0, rows, first, k - first), threads);
    struct matrix c = numbers(rows, n - n_first, DTYPE_F32, 0);
    struct gemm_args args = {.b = &w,
                             .segment = {{.a = &a, .k = k}},
                             .n_segments = 1,
                             .n_first = n_first,
                             .scale = 0.5f,
                             .c = c,
                             .threads = threads};
    gemm_run(&args);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < c.cols; j++) {
            int sum = 0;
            for (int64_t kk = 0; kk < k; kk++) sum += number(i, kk) * number(kk, j + n_first + 3);
            float value = ((float *)c.data)[i * c.stride + j];
            if (value != 0.5f * (float)sum)
                fail_msg("%s %s: %lld x %lld x %lld: element %lld, %lld is %g, not %g",
                         dtype_name(kernel->dtype), kernel->name, (long long)rows, (long long)k, (long long)n,
                         (long long)i, (long long)j, (double)value, 0.5 * sum);
        }
    free(w.data);
    free(a.data);
    free(source.data);
    free(c.data);
}

static void product_of_any_size(const struct gemm_kernel *kernel)
{
    static const int64_t sizes[][3] = {{1, 16, 8},     {2, 40, 33},     {17, 8, 32},
                                       {31, 64, 72},   {33, 104, 40},   {64, 96, 96},
                                       {100, 56, 300}, {300, 2200, 40}, {540, 40, 64}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int by_rows = 0; by_rows < 2; by_rows++)
            check_product(kernel, sizes[i][0], sizes[i][1], sizes[i][2], by_rows ? sizes[i][2] / 3 : 0,
                          by_rows, 1 + (int)i % 3);
}

static void products_are_exact_on_whole_numbers(void **state)
{
    (void)state;
    for_each_kernel(product_of_any_size);
}

static void outer_of_any_size(const struct gemm_kernel *kernel)
{
    static const int64_t sizes[][3] = {{1, 3, 8}, {5, 16, 40}, {33, 33, 33}, {700, 20, 72}, {1050, 40, 16}};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        int64_t tokens = sizes[s][0], m = sizes[s][1], n = sizes[s][2];
        struct matrix p = numbers(tokens, m, kernel->dtype, 0), q = numbers(tokens, n, kernel->dtype, 5);
        struct gemm_operand a =
            gemm_operand_of(kernel, memory(gemm_operand_bytes(kernel, m, tokens)), m, tokens);
        gemm_operand_pack_transposed(&a, p, 2);
        float *d = memory((size_t)(m * n) * sizeof *d);
        float **row = memory((size_t)m * sizeof *row);
        for (int64_t i = 0; i < m * n; i++) d[i] = 1;
        for (int64_t i = 0; i < m; i++) row[i] = i == 2 ? NULL : d + i; /* D transposed: [n, m] */
        struct gemm_outer_args args = {.p = &a, .q = q, .row = row, .step = m, .scale = 2, .threads = 2};
        gemm_outer(&args);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                int sum = 0;
                for (int64_t t = 0; t < tokens; t++) sum += number(t, i) * number(t + 5, j);
                float expected = i == 2 ? 1 : 1 + 2 * (float)sum;
                if (d[j * m + i] != expected)
                    fail_msg("%s: %lld x %lld over %lld: %g, not %g", kernel->name, (long long)m,
                             (long long)n, (long long)tokens, (double)d[j * m + i], (double)expected);
            }
        free(p.data);
        free(q.data);
        free(a.data);
        free(d);
        free(row);
    }
}

static void sums_over_tokens_are_exact_on_whole_numbers(void **state)
{
    (void)state;
    for_each_kernel(outer_of_any_size);
}

/* Fractions, so that the order of the sums shows in the bits. */
static void same_bits_for_threads_and_rows(const struct gemm_kernel *kernel)
{
    enum { ROWS = 301, K = 1432, N = 200 };
    struct gemm_weights w = weights_of(kernel, K, N, false);
    struct matrix source = numbers(ROWS, K, kernel->dtype, 0);
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t j = 0; j < K; j++)
            set(source, i, j, (float)number(i, j) * 0.37f + (float)(j % 17) * 0.01f);
    struct gemm_operand a = gemm_operand_of(kernel, memory(gemm_operand_bytes(kernel, ROWS, K)), ROWS, K);
    struct matrix c[4];
    for (int i = 0; i < 4; i++) {
        int64_t rows = i == 3 ? 7 : ROWS;
        c[i] = numbers(rows, N, DTYPE_F32, 0);
        a.rows = rows;
        gemm_operand_pack(&a, 0, matrix_part(source, 0, rows, 0, K), 1);
        struct gemm_args args = {.b = &w,
                                 .segment = {{.a = &a, .k = K}},
                                 .n_segments = 1,
                                 .scale = 1,
                                 .c = c[i],
                                 .threads = i < 3 ? i + 1 : 1};
        gemm_run(&args);
        for (int64_t row = 0; row < rows; row++)
            assert_memory_equal((float *)c[i].data + row * c[i].stride,
                                (float *)c[0].data + row * c[0].stride, N * sizeof(float));
    }
    for (int i = 0; i < 4; i++) free(c[i].data);
    free(w.data);
    free(a.data);
    free(source.data);
}

static void bits_depend_on_neither_threads_nor_rows(void **state)
{
    (void)state;
    for_each_kernel(same_bits_for_threads_and_rows);
}

static void dropout_masks_are_the_header_s(void **state)
{
    (void)state;
    enum { ROWS = 5, COLS = 200 };
    int64_t token[ROWS] = {0, 1, 77, 1LL << 40, 3};
    const uint64_t key[] = {1, 2, 0x123456789abcdefu};
    uint32_t bits[ROWS * 7];
    for (int64_t col_first = 0; col_first < 16; col_first += 4 + (col_first == 4)) {
        struct panel_dropout dropout = {.p = 0.3f, .key = key, .token_index = token, .col_first = col_first};
        dropout_mask_fill(bits, ROWS, COLS, 2, &dropout, gemm_kernel(DTYPE_F32)->vector, 2);
        int64_t words = dropout_mask_words(COLS), kept = 0;
        assert_int_equal(words, 7);
        for (int64_t t = 0; t < ROWS; t++)
            for (int64_t c = 0; c < COLS; c++) {
                bool keep = bits[t * words + c / 32] >> (c % 32) & 1;
                assert_int_equal(keep, panel_dropout_keep(key[2], token[t], col_first + c, dropout.p));
                kept += keep;
            }
        assert_in_range(kept, ROWS * COLS * 6 / 10, ROWS * COLS * 8 / 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_exact_on_whole_numbers),
        cmocka_unit_test(sums_over_tokens_are_exact_on_whole_numbers),
        cmocka_unit_test(bits_depend_on_neither_threads_nor_rows),
        cmocka_unit_test(dropout_masks_are_the_header_s),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
