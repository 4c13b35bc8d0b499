/* The steps of cuDNN's plans, and that scratch planned for the largest call holds every smaller one. */
#include "kernels/cuda/sdpa_layout.h"
#include "support/test.h"

static void test_steps(void **state)
{
    (void)state;
    assert_int_equal(sdpa_batch_step(1), 4);
    assert_int_equal(sdpa_batch_step(4), 4);
    assert_int_equal(sdpa_batch_step(5), 8);
    assert_int_equal(sdpa_batch_step(512), 512);
    assert_int_equal(sdpa_batch_step(513), 0);
    assert_int_equal(sdpa_tokens_step(1), 512);
    assert_int_equal(sdpa_tokens_step(2048), 2048);
    assert_int_equal(sdpa_tokens_step(2049), 4096);
    assert_int_equal(sdpa_tokens_step(32768), 32768);
    assert_int_equal(sdpa_tokens_step(32769), 65536);
    assert_int_equal(sdpa_tokens_step(100000), 131072);
    assert_int_equal(sdpa_tokens_step(INT32_MAX), 0);
}

static void test_kinds(void **state)
{
    (void)state;
    assert_true(sdpa_kind_fits(DTYPE_BF16, 32, 8, 128));
    assert_true(sdpa_kind_fits(DTYPE_F16, 14, 2, 64));
    assert_true(sdpa_kind_fits(DTYPE_BF16, 4, 1, 80));
    assert_false(sdpa_kind_fits(DTYPE_F32, 32, 8, 128));
    assert_false(
        sdpa_kind_fits(DTYPE_BF16, 32, 8, 72)); /* a known error of cuDNN's with packed partial sums */
    assert_false(sdpa_kind_fits(DTYPE_BF16, 32, 8, 272));
}

static struct attention_shape llama(void)
{
    return (struct attention_shape){.dtype = DTYPE_BF16,
                                    .q_heads = 32,
                                    .kv_heads = 8,
                                    .head_dim = 128,
                                    .max_tokens = 8192,
                                    .max_sequences = 100,
                                    .qkv_stride = 6144,
                                    .dqkv_stride = 6208};
}

static void test_scratch_holds_every_smaller_call(void **state)
{
    (void)state;
    struct attention_shape shape = llama();
    for (int backward = 0; backward < 2; backward++) {
        if (!backward) shape.dqkv_stride = 0;
        size_t planned = cuda_sdpa_scratch(&shape);
        assert_true(planned > 0);
        for (int32_t sequences = 1; sequences <= shape.max_sequences; sequences += 9) {
            for (int64_t tokens = sequences; tokens <= shape.max_tokens; tokens += 501) {
                struct sdpa_key key = {.dtype = shape.dtype,
                                       .backward = backward,
                                       .q_heads = 32,
                                       .kv_heads = 8,
                                       .head_dim = 128,
                                       .batch = sdpa_batch_step(sequences)};
                key.stride[SDPA_DQ] = shape.dqkv_stride;
                assert_true(sdpa_layout(&key, tokens).bytes <= planned);
            }
        }
        shape = llama();
    }
}

/* Places of 256 bytes, one behind the other, in the order of the list. */
static void test_parts_lie_apart(void **state)
{
    (void)state;
    struct sdpa_key key = {
        .dtype = DTYPE_BF16, .backward = true, .q_heads = 6, .kv_heads = 2, .head_dim = 64, .batch = 8};
    key.stride[SDPA_DQ] = 648;
    int64_t tokens = 130, rows = 256;
    struct sdpa_layout layout = sdpa_layout(&key, tokens);
    struct {
        size_t at, bytes;
    } part[] = {
        {layout.at[SDPA_LENGTHS], 8 * 4},
        {layout.at[SDPA_OFFSET + SDPA_Q], 9 * 8},
        {layout.at[SDPA_OFFSET + SDPA_LSE], 9 * 8},
        {layout.workspace, sdpa_workspace_allowed(8)},
        {layout.at[SDPA_DOUT_OUT], (size_t)rows * 6 * 4},
        {layout.at[SDPA_DQ_SUM], (size_t)rows * 648 * 4},
        {layout.at[SDPA_DK_HEADS], (size_t)rows * 6 * 64 * 4},
        {layout.at[SDPA_DV_HEADS], (size_t)rows * 6 * 64 * 4},
        {layout.at[SDPA_DK], (size_t)tokens * 2 * 64 * 2},
        {layout.at[SDPA_DV], (size_t)tokens * 2 * 64 * 2},
        {layout.bytes, 0},
    };
    for (size_t i = 0; i + 1 < sizeof part / sizeof *part; i++) {
        assert_int_equal(part[i].at % 256, 0);
        assert_true(part[i].at + part[i].bytes <= part[i + 1].at);
    }
    key.kv_heads = 6; /* dk and dv are written where they belong */
    assert_true(sdpa_layout(&key, tokens).bytes < layout.at[SDPA_DK_HEADS] + 256);
}

static void test_nothing_is_planned_for_what_is_never_taken(void **state)
{
    (void)state;
    struct attention_shape shape = llama();
    shape.deterministic = true;
    assert_int_equal(cuda_sdpa_scratch(&shape), 0);
    shape = llama();
    shape.dtype = DTYPE_F32;
    assert_int_equal(cuda_sdpa_scratch(&shape), 0);
    shape = llama();
    shape.head_dim = 100;
    assert_int_equal(cuda_sdpa_scratch(&shape), 0);
    shape = llama();
    shape.max_sequences = 4096; /* more than is taken at once: what is taken still finds its place */
    assert_true(cuda_sdpa_scratch(&shape) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_scratch_holds_every_smaller_call),
        cmocka_unit_test(test_parts_lie_apart),
        cmocka_unit_test(test_nothing_is_planned_for_what_is_never_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
