/* kernels_device.c: opening devices, memory, and the contracts that ops.c refuses to have broken. */
#include <math.h>
#include <string.h>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "support/test.h"

static struct device *open_cpu(int threads)
{
    struct device *device;
    assert_ok(device_open(&device, &(struct device_options){.kind = "cpu", .threads = threads}));
    return device;
}

static void what_is_asked_for_is_opened_or_refused(void **state)
{
    (void)state;
    struct device *device = open_cpu(2);
    assert_string_equal(device_kind(device), "cpu");
    assert_non_null(strstr(device_describe(device), "2 threads"));
    assert_true(device_is_host(device) && device_memory_bytes(device) > 0);
    device_close(device);
    device_close(NULL);
    assert_fails(device_open(&device, &(struct device_options){.kind = "tpu"}), LORAD_CONFIG,
                 "not one of auto, cpu, cuda");
    if (device_open(&device, &(struct device_options){.kind = "cuda"}) == LORAD_OK) {
        assert_string_equal(device_kind(device), "cuda");
        device_close(device);
    } else {
        assert_non_null(strstr(status_message(), "device: cuda was asked for, but "));
    }
    assert_ok(device_open(&device, &(struct device_options){.kind = "auto"}));
    device_close(device);
    setenv("LORAD_CPU_PATH", "mmx", 1);
    assert_fails(device_open(&device, &(struct device_options){.kind = "cpu"}), LORAD_CONFIG,
                 "no path \"mmx\"");
    unsetenv("LORAD_CPU_PATH");
}

/* A resume compares the description: what chooses OpenBLAS's blocks is in it. */
static void settings_of_openblas_are_described(void **state)
{
    (void)state;
    unsetenv("OPENBLAS_L2_SIZE");
    unsetenv("OPENBLAS_BLOCK_FACTOR");
    struct device *device = open_cpu(1);
    bool used = strstr(device_describe(device), "OpenBLAS") != NULL;
    assert_null(strstr(device_describe(device), " with OPENBLAS"));
    device_close(device);
    setenv("OPENBLAS_L2_SIZE", "512", 1);
    setenv("OPENBLAS_BLOCK_FACTOR", "50", 1);
    device = open_cpu(1);
    const char *words = strstr(device_describe(device), " with OPENBLAS");
    if (used)
        assert_string_equal(words, " with OPENBLAS_L2_SIZE=512 and OPENBLAS_BLOCK_FACTOR=50");
    else
        assert_null(words);
    device_close(device);
    unsetenv("OPENBLAS_L2_SIZE");
    unsetenv("OPENBLAS_BLOCK_FACTOR");
}

static void memory_is_aligned_and_zero(void **state)
{
    (void)state;
    struct device *device = open_cpu(1);
    const size_t sizes[] = {0, 1, 255, 4096, 3u << 20};
    for (int i = 0; i < 5; i++) {
        char *block;
        assert_ok(device_alloc((void **)&block, device, sizes[i]));
        assert_int_equal((uintptr_t)block % 256, 0);
        for (size_t b = 0; b < sizes[i]; b++) assert_int_equal(block[b], 0);
        memset(block, 1, sizes[i]);
        device_free(device, block);
    }
    void *none;
    assert_fails(device_alloc(&none, device, SIZE_MAX - 100), LORAD_NOMEM, NULL);
    assert_fails(device_alloc(&none, device, SIZE_MAX / 4), LORAD_NOMEM, NULL);
    device_free(device, NULL);
    device_close(device);
}

static void copies_and_events(void **state)
{
    (void)state;
    struct device *device = open_cpu(1);
    char *a, *b, host[16] = "0123456789abcde";
    struct device_event *event;
    assert_ok(device_alloc((void **)&a, device, 16));
    assert_ok(device_alloc((void **)&b, device, 16));
    assert_ok(device_event_create(&event, device));
    assert_ok(device_copy_to(device, STREAM_COPY, a, host, 16));
    assert_ok(device_event_record(device, STREAM_COPY, event));
    assert_ok(device_stream_wait(device, STREAM_COMPUTE, event));
    assert_ok(device_copy(device, STREAM_COMPUTE, b, a, 16));
    assert_ok(device_zero(device, STREAM_COMPUTE, a, 16));
    assert_ok(device_copy_from(device, STREAM_COMPUTE, host, b, 8));
    assert_ok(device_event_sync(device, event));
    assert_ok(device_sync(device));
    assert_string_equal(b, "0123456789abcde");
    assert_int_equal(a[3], 0);
    assert_ok(device_copy(device, STREAM_COMPUTE, a, NULL, 0));
    assert_fails(device_copy(device, STREAM_COMPUTE, a, NULL, 1), LORAD_BUG, "NULL");
    assert_fails(device_copy(device, STREAM_COMPUTE, a, a + 4, 8), LORAD_BUG, "overlap");
    device_event_destroy(device, event);
    device_event_destroy(device, NULL);
    device_free(device, a);
    device_free(device, b);
    device_close(device);
}

static struct matrix f32(float *data, int64_t rows, int64_t cols)
{
    return matrix_of(data, DTYPE_F32, rows, cols, cols);
}

static void broken_contracts_are_named(void **state)
{
    (void)state;
    struct device *device = open_cpu(1);
    static float x[64], y[64], rstd[8];
    struct op_add add = {.x = f32(x, 4, 8), .y = f32(y, 4, 8)};
    assert_ok(op_add(device, &add));
    add.x.cols = 7;
    assert_fails(op_add(device, &add), LORAD_BUG, "add: x is [4, 7], expected [4, 8]");
    add.x = f32(NULL, 4, 8);
    assert_fails(op_add(device, &add), LORAD_BUG, "add: x is NULL");
    add.x = matrix_of(x, DTYPE_F32, 4, 8, 7);
    assert_fails(op_add(device, &add), LORAD_BUG, "8 columns but a stride of 7");
    add.x = matrix_of(x, DTYPE_F16, 4, 8, 8);
    assert_fails(op_add(device, &add), LORAD_BUG, "x is f16, which cpu does not compute with");
    add.x = f32((float *)(void *)((char *)x + 2), 4, 8);
    assert_fails(op_add(device, &add), LORAD_BUG, "not aligned");
    add.x = f32(y + 4, 4, 8);
    assert_fails(op_add(device, &add), LORAD_BUG, "y and x overlap");
    add.y.rows = 0;
    assert_ok(op_add(device, &add)); /* nothing to do */

    struct op_rmsnorm norm = {.x = f32(x, 4, 8), .weight = y, .eps = 1e-6f, .h = f32(y + 8, 4, 8)};
    assert_fails(op_rmsnorm(device, &norm), LORAD_BUG, "rmsnorm: rstd is NULL");
    norm.rstd = rstd;
    norm.eps = -1;
    assert_fails(op_rmsnorm(device, &norm), LORAD_BUG, "eps");
    norm.eps = 0;
    norm.h.dtype = DTYPE_BF16;
    assert_fails(op_rmsnorm(device, &norm), LORAD_BUG, "h is bf16, expected f32");
    device_close(device);
}

static void parts_of_one_matrix_do_not_overlap(void **state)
{
    (void)state;
    struct device *device = open_cpu(1);
    static float all[4 * 24];
    struct matrix whole = f32(all, 4, 24);
    struct op_swiglu op = {.gate_up = matrix_part(whole, 0, 4, 0, 16), .a = matrix_part(whole, 0, 4, 16, 8)};
    assert_ok(op_swiglu(device, &op));
    op.a = matrix_part(whole, 0, 4, 15, 8);
    assert_fails(op_swiglu(device, &op), LORAD_BUG, "overlap");
    op.gate_up = matrix_part(whole, 0, 4, 8, 16);
    op.a = matrix_part(whole, 0, 4, 0, 8);
    assert_ok(op_swiglu(device, &op));
    device_close(device);
}

static void attention_contracts(void **state)
{
    (void)state;
    struct device *device = open_cpu(1);
    static float q[6 * 32], k[6 * 16], v[6 * 16], out[6 * 32], lse[24];
    static const int32_t start[] = {0, 6};
    struct op_attention op = {.q = f32(q, 6, 32),
                              .k = f32(k, 6, 16),
                              .v = f32(v, 6, 16),
                              .head_dim = 8,
                              .scale = 1,
                              .sequences = {start, 1, 6},
                              .out = f32(out, 6, 32),
                              .lse = lse};
    assert_ok(op_attention(device, &op));
    op.head_dim = 12;
    assert_fails(op_attention(device, &op), LORAD_BUG, "head_dim is 12");
    op.head_dim = 8;
    op.window = -1;
    assert_fails(op_attention(device, &op), LORAD_BUG, "window");
    op.window = 0;
    op.sequences.longest = 7;
    assert_fails(op_attention(device, &op), LORAD_BUG, "7 tokens of 6");
    op.sequences.longest = 6;
    static const int32_t few[] = {0, 5}, empty[] = {0, 6, 6}, longer[] = {0, 4, 6};
    op.sequences.start = few;
    assert_fails(op_attention(device, &op), LORAD_BUG, "sequences span [0, 5)");
    op.sequences = (struct sequences){empty, 2, 6};
    assert_fails(op_attention(device, &op), LORAD_BUG, "sequence 1 has 0 tokens");
    op.sequences = (struct sequences){longer, 2, 3};
    assert_fails(op_attention(device, &op), LORAD_BUG, "sequence 0 has 4 tokens");
    op.sequences = (struct sequences){start, 1, 6};
    op.q.cols = op.out.cols = 24;
    assert_fails(op_attention(device, &op), LORAD_BUG, "3 query heads do not divide into 2");
    device_close(device);
}

static void rows_outside_a_matrix_are_refused(void **state)
{
    (void)state;
    struct device *device = open_cpu(1);
    static float in[16], out[16];
    static const int32_t index[] = {1, 4};
    assert_fails(
        op_gather_rows(device,
                       &(struct op_gather_rows){.in = f32(in, 4, 4), .index = index, .out = f32(out, 2, 4)}),
        LORAD_BUG, "index[1] is 4");
    assert_fails(
        op_scatter_rows(
            device, &(struct op_scatter_rows){.in = f32(in, 2, 4), .index = index, .out = f32(out, 4, 4)}),
        LORAD_BUG, "index[1] is 4");
    device_close(device);
}

/* A NaN or infinite logit must reach the loss, where the step is then skipped; it may not vanish in a
 * maximum. */
static void bad_logits_reach_the_loss(void **state)
{
    (void)state;
    struct device *device = open_cpu(1);
    static const float bad[] = {NAN, INFINITY};
    for (int i = 0; i < 2; i++) {
        for (int at = 0; at < 37; at += 9) {
            float z[37] = {0}, dz[37];
            int32_t label = 5;
            struct loss_stat stat;
            struct loss_sum sum = {0};
            int64_t correct = 0;
            z[at] = bad[i];
            assert_ok(op_loss_stats(
                device, &(struct op_loss_stats){
                            .logits = f32(z, 1, 37), .valid_cols = 37, .labels = &label, .stats = &stat}));
            assert_ok(op_loss_grad(device, &(struct op_loss_grad){.logits = f32(z, 1, 37),
                                                                  .valid_cols = 37,
                                                                  .labels = &label,
                                                                  .scale = 1,
                                                                  .all = &stat,
                                                                  .parts = 1,
                                                                  .dlogits = f32(dz, 1, 37),
                                                                  .loss_sum = &sum,
                                                                  .correct_sum = &correct}));
            assert_true(!isfinite(loss_sum_value(&sum)));
            assert_true(!isfinite(dz[20]));
        }
    }
    device_close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_asked_for_is_opened_or_refused),
        cmocka_unit_test(settings_of_openblas_are_described),
        cmocka_unit_test(memory_is_aligned_and_zero),
        cmocka_unit_test(copies_and_events),
        cmocka_unit_test(broken_contracts_are_named),
        cmocka_unit_test(parts_of_one_matrix_do_not_overlap),
        cmocka_unit_test(attention_contracts),
        cmocka_unit_test(rows_outside_a_matrix_are_refused),
        cmocka_unit_test(bad_logits_reach_the_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
