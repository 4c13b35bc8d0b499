/*
 * How a model's memory differs from device to device: the rows of the head's chunks, the pitch of rows with
 * spare columns, and the inputs of panels that are kept where there is room; and what sharing the residual
 * stream saves. The GPU is the emulated one,
 * whose memory is measured only.
 */
#include "kernels/device.h"
#include "support/test.h"
#include "support/test_device.h"
#include "trainer/model_memory.h"
#include "trainer/plan.h"

enum { LAYERS = 2, TOKENS = 4096 };

static struct arch arch_of(int32_t vocab)
{
    return (struct arch){.family = "llama",
                         .hidden = 64,
                         .layers = LAYERS,
                         .heads = 4,
                         .kv_heads = 2,
                         .head_dim = 16,
                         .intermediate = 96,
                         .vocab = vocab,
                         .max_positions = 64,
                         .norm_eps = 1e-6f,
                         .rope = {.theta = 10000}};
}

struct fixture {
    struct arch arch;
    struct partition part;
    struct lora *lora;
    struct layer layers[LAYERS];
    struct model model;
    size_t saved, scratch;
};

static void measure_rank(struct fixture *f, const char *kind, int32_t vocab, bool keep_inputs, int32_t tp,
                         int32_t shares)
{
    static const char *const all[] = {"all"};
    struct lora_options options = {.rank = 4, .alpha = 8, .targets = all, .n_targets = 1};
    *f = (struct fixture){.arch = arch_of(vocab)};
    assert_ok(partition_make(&f->part, &f->arch, tp, tp, 0));
    assert_ok(lora_create(&f->lora, &options, &f->arch, &f->part));
    f->model = (struct model){.arch = &f->arch,
                              .part = &f->part,
                              .lora = f->lora,
                              .options = {.dtype = DTYPE_BF16,
                                          .checkpointing = CHECKPOINTING_NONE,
                                          .keep_inputs = keep_inputs,
                                          .max_tokens = TOKENS,
                                          .max_sequences = 8,
                                          .max_positions = 64,
                                          .training = true},
                              .shares = shares,
                              .layers = f->layers};
    assert_ok(device_backend_find(&f->model.backend, kind));
    struct arena weights, saved, scratch;
    arena_init(&weights, NULL, 0);
    arena_init(&saved, NULL, 0);
    arena_init(&scratch, NULL, 0);
    model_describe_panels(&f->model);
    assert_ok(model_take_memory(&f->model, &weights, &saved, &scratch));
    f->saved = saved.used_bytes;
    f->scratch = scratch.used_bytes;
}

static void measure(struct fixture *f, const char *kind, int32_t vocab, bool keep_inputs)
{
    measure_rank(f, kind, vocab, keep_inputs, 1, 1);
}

static int32_t head_rows(const char *kind, int32_t vocab)
{
    struct fixture f;
    measure(&f, kind, vocab, false);
    lora_destroy(f.lora);
    return f.model.chunk.rows;
}

static void chunks_of_the_head_suit_the_device(void **state)
{
    (void)state;
    assert_int_equal(head_rows("cpu", 128256), 256);
    assert_int_equal(head_rows("cpu", 16384), 512);
    assert_int_equal(head_rows("cpu", 1024), 1024);
    assert_int_equal(head_rows("cuda", 1024), 2048);
    assert_int_equal(head_rows("cuda", 128256), 2048);
    assert_int_equal(head_rows("cuda", 152064), 1024); /* 2048 would be more than a GiB */
}

static void rows_with_spare_columns_begin_at_borders(void **state)
{
    (void)state;
    struct fixture f;
    measure(&f, "cuda", 1024, false);
    const struct matrix wide[] = {f.model.h,
                                  f.model.a,
                                  f.model.dres,
                                  f.model.dqkv,
                                  f.layers[0].attn,
                                  f.layers[1].gate_up,
                                  f.layers[0].input[PANEL_DOWN]};
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) assert_int_equal(wide[i].stride % 64, 0);
    assert_int_equal(model_attention_shape(&f.model, 0).dqkv_stride, f.model.dqkv.stride);
    assert_int_equal(f.model.dh.stride, f.model.dh.cols); /* all-reduced, so dense */
    lora_destroy(f.lora);
    measure(&f, "cpu", 1024, false);
    assert_int_equal(f.layers[1].gate_up.stride, 2 * 96 + 32);
    lora_destroy(f.lora);
}

/* h twice, and a, of every layer: 64 + 32, 64 + 32 and 96 + 32 elements a token, in rows of whole 64, for
 * which the copies of u (three times 32 elements) fall away, also those that layers without a gradient share.
 */
static void kept_inputs_cost_what_they_hold(void **state)
{
    (void)state;
    struct fixture again, kept;
    measure(&again, "cuda", 1024, false);
    measure(&kept, "cuda", 1024, true);
    assert_int_equal(kept.saved - again.saved, (size_t)LAYERS * TOKENS * (128 + 128 + 128 - 3 * 32) * 2);
    assert_int_equal(again.scratch - kept.scratch, (size_t)TOKENS * 3 * 32 * 2);
    lora_destroy(again.lora);
    lora_destroy(kept.lora);
}

/* x1 and x2 [rows, 64] with a float a row: half of their rows, once more in what layers without a gradient
 * share. Buffers that hold the shares of all are no larger, since the rows divide by two. */
static void shares_of_the_residual_stream_cost_their_rows(void **state)
{
    (void)state;
    struct fixture whole, shared;
    size_t half = (size_t)TOKENS / 2 * 2 * (64 * 2 + 4);
    measure_rank(&whole, "cpu", 1024, false, 2, 1);
    measure_rank(&shared, "cpu", 1024, false, 2, 2);
    assert_int_equal(whole.saved - shared.saved, LAYERS * half);
    assert_int_equal(whole.scratch - shared.scratch, half);
    assert_int_equal(shared.layers[1].x2.rows, TOKENS / 2);
    assert_int_equal(shared.model.h.rows, TOKENS);
    assert_int_equal(model_share_rows(&shared.model, 7), 4);
    lora_destroy(whole.lora);
    lora_destroy(shared.lora);
}

static void inputs_are_kept_where_there_is_room(void **state)
{
    (void)state;
    struct fixture f;
    measure(&f, "cuda", 1024, false);
    struct plan roomy, tight, host;
    struct plan_request request = {
        .backend = f.model.backend, .model = f.model.options, .wanted = CHECKPOINTING_AUTO};
    assert_ok(plan_make(&roomy, &f.arch, &f.part, f.lora, &request));
    assert_true(roomy.keep_inputs);
    request.available = (int64_t)roomy.total - 1;
    assert_ok(plan_make(&tight, &f.arch, &f.part, f.lora, &request));
    assert_false(tight.keep_inputs);
    assert_int_equal(tight.checkpointing, CHECKPOINTING_NONE);
    assert_true(tight.total < roomy.total);
    request.available = (int64_t)tight.total - 1;
    assert_ok(plan_make(&tight, &f.arch, &f.part, f.lora, &request));
    assert_int_equal(tight.checkpointing, CHECKPOINTING_MLP);
    assert_false(tight.keep_inputs);
    request.available = 0;
    assert_ok(device_backend_find(&request.backend, "cpu"));
    assert_ok(plan_make(&host, &f.arch, &f.part, f.lora, &request));
    assert_false(host.keep_inputs);
    lora_destroy(f.lora);
}

int main(void)
{
    test_device_emulate();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_of_the_head_suit_the_device),
        cmocka_unit_test(rows_with_spare_columns_begin_at_borders),
        cmocka_unit_test(kept_inputs_cost_what_they_hold),
        cmocka_unit_test(shares_of_the_residual_stream_cost_their_rows),
        cmocka_unit_test(inputs_are_kept_where_there_is_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
