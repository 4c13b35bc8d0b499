/*
 * attention_cudnn.c: attention by cuDNN against the double reference: on a GPU (LORAD_TEST_DEVICE=cuda) that
 * it is used on, or on the emulated one. Nothing else may take the calls.
 */
#include "support/op_run.h"
#include "support/test.h"
#include "support/test_device.h"

static struct device *device;

/* As sdpa_layout.h says; and rows have to start at 16-byte borders. */
static bool is_taken(const struct op_case *test)
{
    const struct op_shape *shape = &test->shape;
    return test->op != OP_ID_attention_decode && shape->head_dim % 16 == 0 && shape->head_dim <= 128 &&
           shape->spare % 8 == 0;
}

static void test_cases_agree(void **state)
{
    (void)state;
    static struct op_run run;
    int ran = 0;
    for (int i = 0; i < n_op_cases_attention; i++) {
        if (!is_taken(&op_cases_attention[i])) continue;
        op_case_run(&run, device, &op_cases_attention[i], DTYPE_BF16, false);
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
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device_close(device);
    return failed;
}
