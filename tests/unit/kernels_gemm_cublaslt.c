/*
 * kernels/cuda/gemm_cublaslt.c without a GPU: cuBLASLt's own descriptors, which need none, and in the place
 * of what does: a product that reads them as its documentation says (column-major), candidates of which some
 * do not run, and a clock.
 */
#include "support/test.h"

#if LORAD_TEST_CUBLASLT

#include <cublasLt.h>
#include <math.h>
#include <sys/stat.h>

#include "kernels/cuda/gemm.h"

/* ---- in the place of the GPU ---- */

enum { CANDIDATES = 4, BEST = 4 };
/* Milliseconds of candidate i + 1; 0: it does not run, though the library says so. */
static const float milliseconds[CANDIDATES] = {3, 0, 2, 1};

static struct {
    int asked, wanted, checked, multiplied, last; /* last: the algorithm */
    int found;
    bool refuses, capturing;
    uint32_t alignment[4]; /* promised of a, b, c, d */
    double clock;
} fake;

struct CUevent_st {
    double time;
};

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int number)
{
    (void)number;
    memset(out, 0, sizeof *out);
    strcpy(out->name, "a fake");
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    *out = calloc(1, sizeof **out);
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    (void)stream;
    event->time = fake.clock;
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    (void)event;
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *out, cudaEvent_t begin, cudaEvent_t end)
{
    *out = (float)(end->time - begin->time);
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *out)
{
    (void)stream;
    *out = fake.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
enum status cuda_check(cudaError_t error, const char *call)
{
    return error == cudaSuccess ? LORAD_OK : FAIL(LORAD_DEVICE, "%s", call);
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    *out = (cublasLtHandle_t)&fake;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    assert_ptr_equal(handle, &fake);
    return CUBLAS_STATUS_SUCCESS;
}

#define READ(kind, from, name, to)                                                                           \
    assert_int_equal(cublasLt##kind##GetAttribute(from, name, &(to), sizeof(to), &(size_t){0}),              \
                     CUBLAS_STATUS_SUCCESS)

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *out, int *found)
{
    (void)handle, (void)operation, (void)a, (void)b;
    assert_ptr_equal(c, d);
    uint64_t workspace;
    uint32_t schemes;
    READ(MatmulPreference, preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
    READ(MatmulPreference, preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
    assert_true(workspace >= 32 << 20);
    assert_int_equal(schemes & (CUBLASLT_REDUCTION_SCHEME_INPLACE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE),
                     0);
    for (int i = 0; i < 4; i++)
        READ(MatmulPreference, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i, fake.alignment[i]);
    fake.asked++;
    fake.wanted = wanted;
    *found = fake.found < wanted ? fake.found : wanted;
    memset(out, 0, (size_t)wanted * sizeof *out);
    for (int i = 0; i < *found; i++) {
        out[i].algo.data[0] = (uint64_t)i + 1;
        out[i].workspaceSize = 1 << 20;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algorithm,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)algorithm;
    memset(result, 0, sizeof *result);
    fake.checked++;
    return fake.refuses ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

/* A column-major matrix as its layout tells. */
struct side {
    const char *data;
    uint64_t rows, cols;
    int64_t ld;
    int32_t type, order;
};

static struct side side_of(const void *data, cublasLtMatrixLayout_t layout, uint32_t aligned)
{
    struct side s = {.data = data};
    READ(MatrixLayout, layout, CUBLASLT_MATRIX_LAYOUT_ROWS, s.rows);
    READ(MatrixLayout, layout, CUBLASLT_MATRIX_LAYOUT_COLS, s.cols);
    READ(MatrixLayout, layout, CUBLASLT_MATRIX_LAYOUT_LD, s.ld);
    READ(MatrixLayout, layout, CUBLASLT_MATRIX_LAYOUT_TYPE, s.type);
    READ(MatrixLayout, layout, CUBLASLT_MATRIX_LAYOUT_ORDER, s.order);
    assert_int_equal(s.order, CUBLASLT_ORDER_COL);
    assert_true((uint64_t)s.ld >= s.rows);
    assert_int_equal((uintptr_t)data % aligned, 0);
    return s;
}

static float value_at(const void *data, int32_t type, int64_t at)
{
    if (type == CUDA_R_32F) return ((const float *)data)[at];
    uint16_t half = ((const uint16_t *)data)[at];
    return type == CUDA_R_16BF ? bf16_to_f32(half) : f16_to_f32(half);
}

static void value_put(void *data, int32_t type, int64_t at, float value)
{
    if (type == CUDA_R_32F)
        ((float *)data)[at] = value;
    else
        ((uint16_t *)data)[at] = type == CUDA_R_16BF ? f32_to_bf16(value) : f32_to_f16(value);
}

static float element(const struct side *s, int32_t op, uint64_t row, uint64_t col)
{
    return value_at(s->data, s->type,
                    op == CUBLAS_OP_T ? (int64_t)col + (int64_t)row * s->ld
                                      : (int64_t)row + (int64_t)col * s->ld);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void *alpha,
                              const void *a_data, cublasLtMatrixLayout_t a_layout, const void *b_data,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c_data,
                              cublasLtMatrixLayout_t c_layout, void *d_data, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream)
{
    (void)handle, (void)stream;
    int id = (int)algorithm->data[0];
    fake.multiplied++;
    fake.last = id;
    if (milliseconds[id - 1] == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    fake.clock += (double)milliseconds[id - 1];
    struct side a = side_of(a_data, a_layout, fake.alignment[0]),
                b = side_of(b_data, b_layout, fake.alignment[1]),
                d = side_of(d_data, d_layout, fake.alignment[3]);
    int32_t turn_a, turn_b, compute, scale;
    uint32_t epilogue;
    const void *bias;
    READ(MatmulDesc, operation, CUBLASLT_MATMUL_DESC_TRANSA, turn_a);
    READ(MatmulDesc, operation, CUBLASLT_MATMUL_DESC_TRANSB, turn_b);
    READ(MatmulDesc, operation, CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, compute);
    READ(MatmulDesc, operation, CUBLASLT_MATMUL_DESC_SCALE_TYPE, scale);
    READ(MatmulDesc, operation, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    READ(MatmulDesc, operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    assert_int_equal(compute, CUBLAS_COMPUTE_32F);
    assert_int_equal(scale, CUDA_R_32F);
    assert_true(workspace_bytes <= CUDA_WORKSPACE_BYTES && (uintptr_t)workspace % 256 == 0);
    assert_true(c_data == d_data && c_layout == d_layout);
    uint64_t k = turn_a == CUBLAS_OP_T ? a.rows : a.cols;
    assert_true((turn_a == CUBLAS_OP_T ? a.cols : a.rows) == d.rows);
    assert_true((turn_b == CUBLAS_OP_T ? b.rows : b.cols) == d.cols);
    assert_true((turn_b == CUBLAS_OP_T ? b.cols : b.rows) == k);
    memset(workspace, 0xff, 1 << 16);
    for (uint64_t col = 0; col < d.cols; col++)
        for (uint64_t row = 0; row < d.rows; row++) {
            int64_t at = (int64_t)row + (int64_t)col * d.ld;
            double sum = 0;
            for (uint64_t i = 0; i < k; i++)
                sum += (double)element(&a, turn_a, row, i) * (double)element(&b, turn_b, i, col);
            sum *= (double)*(const float *)alpha;
            if (*(const float *)beta != 0)
                sum += (double)(*(const float *)beta * value_at(d_data, d.type, at));
            if (epilogue == CUBLASLT_EPILOGUE_BIAS) sum += (double)value_at(bias, d.type, (int64_t)row);
            value_put(d_data, d.type, at, (float)sum);
        }
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- the test's side ---- */

static struct cuda_device device;
static char cache[600];

static struct cuda_gemm *open_gemm(bool deterministic)
{
    struct cuda_gemm *gemm;
    memset(&fake, 0, sizeof fake);
    fake.found = CANDIDATES;
    for (int i = 0; i < 4; i++) fake.alignment[i] = 1;
    device.deterministic = deterministic;
    device.multiprocessors = 132;
    assert_ok(cuda_gemm_create(&gemm, &device));
    return gemm;
}

static int set_up(void **state)
{
    (void)state;
    device.workspace = aligned_alloc(256, CUDA_WORKSPACE_BYTES);
    snprintf(cache, sizeof cache, "%s/cache", test_tmpdir());
    return device.workspace && setenv("LORAD_CACHE_DIR", cache, 1) == 0 ? 0 : -1;
}

static int forget(void **state)
{
    (void)state;
    char command[700];
    snprintf(command, sizeof command, "rm -rf '%s'", cache);
    return system(command);
}

/* Small whole numbers, which all types and sums hold exactly. */
static struct matrix filled(enum dtype dtype, int64_t rows, int64_t cols, int64_t stride, int seed)
{
    struct matrix m = matrix_of(NULL, dtype, rows, cols, stride);
    m.data = aligned_alloc(256, ((size_t)(rows * stride) * dtype_bytes(dtype) + 255) / 256 * 256);
    assert_non_null(m.data);
    int32_t type = dtype == DTYPE_F32 ? CUDA_R_32F : dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
    for (int64_t i = 0; i < rows * stride; i++) value_put(m.data, type, i, (float)((i * 7 + seed) % 5 - 2));
    return m;
}

static float get(struct matrix m, int64_t row, int64_t col)
{
    int32_t type = m.dtype == DTYPE_F32 ? CUDA_R_32F : m.dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
    return value_at(m.data, type, row * m.stride + col);
}

/* One product of [m, k] and [k, 6] against its formula; spare columns of d stay as they are. */
static void check_product(struct cuda_gemm *gemm, int64_t m, int64_t k, enum dtype dtype, enum dtype d_dtype,
                          bool turn_a, bool turn_b, bool bias, float beta)
{
    enum { N = 6 };
    struct matrix a = turn_a ? filled(dtype, k, m, m + 8, 1) : filled(dtype, m, k, k + 8, 1);
    struct matrix b = turn_b ? filled(dtype, N, k, k + 16, 2) : filled(dtype, k, N, N + 2, 2);
    struct matrix d = filled(d_dtype, m, N, N + 4, 3), before = filled(d_dtype, m, N, N + 4, 3);
    struct matrix added = filled(d_dtype, 1, N, N, 4);
    struct cuda_product product = {.a = a,
                                   .b = b,
                                   .d = d,
                                   .turn_a = turn_a,
                                   .turn_b = turn_b,
                                   .bias = bias ? added.data : NULL,
                                   .alpha = 2,
                                   .beta = beta};
    assert_ok(cuda_gemm_run(gemm, &product));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < d.stride; j++) {
            float want = get(before, i, j), sum = 0;
            for (int64_t l = 0; l < k && j < N; l++)
                sum += (turn_a ? get(a, l, i) : get(a, i, l)) * (turn_b ? get(b, j, l) : get(b, l, j));
            if (j < N) want = 2 * sum + beta * want + (bias ? get(added, 0, j) : 0);
            if (get(d, i, j) != want)
                fail_msg("[%d, %d] is %g, not %g", (int)i, (int)j, (double)get(d, i, j), (double)want);
        }
    free(a.data);
    free(b.data);
    free(d.data);
    free(before.data);
    free(added.data);
}

static void plain(struct cuda_gemm *gemm, int64_t m, float beta)
{
    check_product(gemm, m, 16, DTYPE_F32, DTYPE_F32, false, true, false, beta);
}

static void rows_and_columns_are_where_they_belong(void **state)
{
    (void)state;
    for (int deterministic = 0; deterministic < 2; deterministic++) {
        struct cuda_gemm *gemm = open_gemm(deterministic);
        for (int i = 0; i < 16; i++)
            check_product(gemm, 5, 8, i & 8 ? DTYPE_BF16 : DTYPE_F32, DTYPE_F32, i & 1, i & 2, i & 4, 0);
        check_product(gemm, 5, 8, DTYPE_F16, DTYPE_F16, false, true, true, 0);
        check_product(gemm, 5, 8, DTYPE_BF16, DTYPE_BF16, true, false, false, 1);
        cuda_gemm_destroy(gemm);
    }
}

static void the_quickest_that_runs_is_chosen_once(void **state)
{
    (void)state;
    struct cuda_gemm *gemm = open_gemm(false);
    plain(gemm, 300, 1); /* timed on another d: the result is right */
    assert_int_equal(fake.last, BEST);
    assert_int_equal(fake.asked, 1);
    assert_true(fake.multiplied > CANDIDATES);
    int multiplied = fake.multiplied;
    plain(gemm, 300, 1);
    plain(gemm, 400, 1); /* of the same bucket */
    assert_int_equal(fake.asked, 1);
    assert_int_equal(fake.checked, 1);
    assert_int_equal(fake.multiplied, multiplied + 2);
    fake.refuses = true; /* then it has one of its own */
    plain(gemm, 500, 1);
    assert_int_equal(fake.asked, 2);
    fake.refuses = false;
    fake.capturing = true; /* the first that is offered */
    plain(gemm, 600, 1);
    assert_int_equal(fake.last, 1);
    cuda_gemm_destroy(gemm);

    gemm = open_gemm(false); /* what was timed stands in the file */
    plain(gemm, 310, 1);
    assert_int_equal(fake.asked, 0);
    assert_int_equal(fake.last, BEST);
    plain(gemm, 600, 1);
    assert_int_equal(fake.asked, 1);
    cuda_gemm_destroy(gemm);
}

static void deterministic_times_nothing(void **state)
{
    (void)state;
    struct cuda_gemm *gemm = open_gemm(true);
    plain(gemm, 300, 0);
    assert_int_equal(fake.wanted, 1);
    assert_int_equal(fake.multiplied, 1);
    plain(gemm, 301, 0);
    assert_int_equal(fake.asked, 2);
    fake.found = 0;
    struct matrix m = filled(DTYPE_F32, 8, 8, 8, 0);
    struct cuda_product product = {.a = m, .b = m, .d = m, .alpha = 1};
    assert_fails(cuda_gemm_run(gemm, &product), LORAD_DEVICE, "no algorithm for [8, 8] x [8, 8] of f32");
    free(m.data);
    cuda_gemm_destroy(gemm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(rows_and_columns_are_where_they_belong, forget),
        cmocka_unit_test_setup(the_quickest_that_runs_is_chosen_once, forget),
        cmocka_unit_test_setup(deterministic_times_nothing, forget),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}

#else

int main(void)
{
    printf("skipped: built without cuBLASLt\n");
    return 77;
}

#endif
