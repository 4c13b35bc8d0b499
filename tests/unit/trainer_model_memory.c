/*
 * How a model's memory differs from device to device: the rows of the head's chunks, and the pitch of rows
 * with spare columns. The GPU is the emulated one, whose memory is measured only.
 */
#include "kernels/device.h"
#include "support/test.h"
#include "support/test_device.h"
#include "trainer/model_memory.h"

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
};

static void measure(struct fixture *f, const char *kind, int32_t vocab)
{
    static const char *const all[] = {"all"};
    struct lora_options options = {.rank = 4, .alpha = 8, .targets = all, .n_targets = 1};
    *f = (struct fixture){.arch = arch_of(vocab)};
    assert_ok(partition_make(&f->part, &f->arch, 1, 1, 0));
    assert_ok(lora_create(&f->lora, &options, &f->arch, &f->part));
    f->model = (struct model){.arch = &f->arch,
                              .part = &f->part,
                              .lora = f->lora,
                              .options = {.dtype = DTYPE_BF16,
                                          .checkpointing = CHECKPOINTING_NONE,
                                          .max_tokens = TOKENS,
                                          .max_sequences = 8,
                                          .max_positions = 64,
                                          .training = true},
                              .layers = f->layers};
    assert_ok(device_backend_find(&f->model.backend, kind));
    struct arena weights, saved, scratch;
    arena_init(&weights, NULL, 0);
    arena_init(&saved, NULL, 0);
    arena_init(&scratch, NULL, 0);
    model_describe_panels(&f->model);
    assert_ok(model_take_memory(&f->model, &weights, &saved, &scratch));
}

static int32_t head_rows(const char *kind, int32_t vocab)
{
    struct fixture f;
    measure(&f, kind, vocab);
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
    measure(&f, "cuda", 1024);
    const struct matrix wide[] = {f.model.h,    f.model.a,        f.model.dres,
                                  f.model.dqkv, f.layers[0].attn, f.layers[1].gate_up};
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) assert_int_equal(wide[i].stride % 64, 0);
    assert_int_equal(model_attention_shape(&f.model, 0).dqkv_stride, f.model.dqkv.stride);
    assert_int_equal(f.model.dh.stride, f.model.dh.cols); /* all-reduced, so dense */
    lora_destroy(f.lora);
    measure(&f, "cpu", 1024);
    assert_int_equal(f.layers[1].gate_up.stride, 2 * 96 + 32);
    lora_destroy(f.lora);
}

int main(void)
{
    test_device_emulate();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_of_the_head_suit_the_device),
        cmocka_unit_test(rows_with_spare_columns_begin_at_borders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
