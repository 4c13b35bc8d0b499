/*
 * attention_cudnn.c: attention by cuDNN against the double reference: on a GPU (LORAD_TEST_DEVICE=cuda) that
 * it is used on, or on the emulated one. Nothing else may take the calls.
 */
#include <math.h>

#include "support/op_run.h"
#include "support/test.h"
#include "support/test_device.h"

static struct device *device;

/* As sdpa_layout.h says; and rows have to start at 16-byte borders. */
static bool is_taken(const struct op_case *test)
{
    const struct op_shape *shape = &test->shape;
    return test->op != OP_ID_attention_decode && shape->head_dim % 16 == 0 && shape->head_dim <= 128 &&
           shape->spare % 8 == 0 && !test->f32_only;
}

static void test_cases_agree(void **state)
{
    (void)state;
    static struct op_run run;
    int ran = 0;
    for (int i = 0; i < n_op_cases_attention; i++) {
        if (!is_taken(&op_cases_attention[i])) continue;
        op_case_run(&run, device, &op_cases_attention[i], DTYPE_BF16, false);
        op_case_run(&run, device, &op_cases_attention[i], DTYPE_F16, false);
        ran++;
    }
    assert_true(ran >= 8);
}

/* Other numbers and lengths of sequences are other plans; the second backward's is made beside the forward's.
 */
static void test_other_sequences_agree(void **state)
{
    (void)state;
    static struct op_run run;
    static const int64_t lengths[][OP_SEQUENCES] = {{150}, {30, 1, 29, 40, 50}, {2, 2, 2, 140, 1, 1, 1, 1}};
    int ran = 0;
    for (int l = 0; l < 3; l++) {
        for (int i = 0; i < n_op_cases_attention; i++) {
            struct op_case test = op_cases_attention[i];
            if (!is_taken(&test) || strcmp(test.name, "seven queries a kv head") != 0) continue;
            assert_int_equal(test.shape.tokens, 150);
            memcpy(test.shape.lengths, lengths[l], sizeof lengths[l]);
            op_case_run(&run, device, &test, DTYPE_BF16, false);
            ran++;
        }
    }
    assert_int_equal(ran, 6);
}

static void *upload(const void *from, size_t bytes)
{
    void *block;
    assert_ok(device_alloc(&block, device, bytes));
    assert_ok(device_copy_to(device, STREAM_COMPUTE, block, from, bytes));
    return block;
}

/* One sequence of n tokens, all scores near -100: exp(-lse) is beyond f32. Kernels for Hopper have given NaN
 * in dq where n is 64 more than a multiple of 128. */
static void check_low_scores(int32_t n)
{
    enum { HEADS = 2, DIM = 64, COLS = 3 * HEADS * DIM };
    size_t elements = (size_t)n * COLS, bytes = elements * sizeof(uint16_t);
    uint16_t *values = test_malloc(bytes);
    for (size_t i = 0; i < elements; i++) {
        size_t part = i % COLS / (HEADS * DIM);
        float wave = (float)(i * 2654435761u % 64) / 64 - 0.5f;
        values[i] = f32_to_bf16(wave + (part == 0 ? 3.5f : part == 1 ? -3.5f : 0));
    }
    int32_t start[] = {0, n};
    struct attention_shape shape = {.dtype = DTYPE_BF16,
                                    .q_heads = HEADS,
                                    .kv_heads = HEADS,
                                    .head_dim = DIM,
                                    .max_tokens = n,
                                    .max_sequences = 1,
                                    .qkv_stride = COLS,
                                    .dqkv_stride = COLS};
    struct matrix qkv = matrix_of(upload(values, bytes), DTYPE_BF16, n, COLS, COLS);
    struct matrix dqkv = matrix_of(upload(values, bytes), DTYPE_BF16, n, COLS, COLS);
    struct matrix out = matrix_of(upload(values, bytes), DTYPE_BF16, n, HEADS * DIM, HEADS * DIM);
    float *lse = upload(values, bytes);
    void *scratch;
    assert_ok(device_alloc(&scratch, device, attention_scratch_bytes(device_backend(device), &shape)));
    struct op_attention_backward args = {.q = matrix_part(qkv, 0, n, 0, HEADS * DIM),
                                         .k = matrix_part(qkv, 0, n, HEADS * DIM, HEADS * DIM),
                                         .v = matrix_part(qkv, 0, n, 2 * HEADS * DIM, HEADS * DIM),
                                         .out = out,
                                         .lse = lse,
                                         .dout = matrix_part(qkv, 0, n, 2 * HEADS * DIM, HEADS * DIM),
                                         .head_dim = DIM,
                                         .scale = 0.125f,
                                         .sequences = {upload(start, sizeof start), 1, n},
                                         .dq = matrix_part(dqkv, 0, n, 0, HEADS * DIM),
                                         .dk = matrix_part(dqkv, 0, n, HEADS * DIM, HEADS * DIM),
                                         .dv = matrix_part(dqkv, 0, n, 2 * HEADS * DIM, HEADS * DIM),
                                         .scratch = scratch};
    assert_ok(op_attention(device, &(struct op_attention){.q = args.q,
                                                          .k = args.k,
                                                          .v = args.v,
                                                          .head_dim = DIM,
                                                          .scale = args.scale,
                                                          .sequences = args.sequences,
                                                          .out = out,
                                                          .lse = lse,
                                                          .scratch = scratch}));
    assert_ok(op_attention_backward(device, &args));
    assert_ok(device_copy_from(device, STREAM_COMPUTE, values, dqkv.data, bytes));
    assert_ok(device_sync(device));
    for (size_t i = 0; i < elements; i++)
        if (!isfinite(bf16_to_f32(values[i]))) fail_msg("%d tokens: element %zu is not finite", n, i);
    device_free(device, qkv.data);
    device_free(device, dqkv.data);
    device_free(device, out.data);
    device_free(device, lse);
    device_free(device, scratch);
    device_free(device, (void *)(uintptr_t)args.sequences.start);
    test_free(values);
}

static void test_low_scores_give_finite_gradients(void **state)
{
    (void)state;
    check_low_scores(64);
    check_low_scores(192);
    check_low_scores(448);
}

int main(void)
{
    if (test_device_is_cpu()) {
        printf("skipped: LORAD_TEST_DEVICE is not cuda\n");
        return 77;
    }
    setenv("LORAD_TEST_FAST", "1", 1);
    setenv("LORAD_CUDA_ATTENTION", "cudnn", 1);
    device = test_device_open(0);
    const char *about = device_describe(device);
    if (!strstr(about, "compute 9.0") && !strstr(about, "compute 10.")) {
        printf("skipped: cuDNN's attention is not used on %s\n", about);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases_agree),
        cmocka_unit_test(test_other_sequences_agree),
        cmocka_unit_test(test_low_scores_give_finite_gradients),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device_close(device);
    return failed;
}
